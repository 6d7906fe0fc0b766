"""Tensors whose numbers follow from what becomes of a layer's edges, such as its masks.

Where edges are clustered, masked or kept as they are, a mask has one number for each of the three,
and needs no bytes of its own (docs/packed-format.md, section 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kancompress.formats.edges.axes import Axes, kernel_axes, parse_axes
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.packed.restore import PerEdge, Stored
from kancompress.models.remainder import is_number, rebuilt
from kancompress.models.vectors import to_edges

# The orders of edges that tensors have beside those of the masks.
_ORDERS = ("out in", "in out", "(out in)", "(in out)")
# What a tensor of its own takes in the header.
_TENSOR = 100


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Fates:
    """What becomes of a layer's edges, each (edges,) of bool, one of them for every edge.

    name : of the layer in the packed file
    """

    name: str
    layer: FoundLayer
    live: Tensor
    silent: Tensor
    kept: Tensor

    def origin(self, tensor: Tensor) -> tuple[PerEdge, Tensor | None] | None:
        """How a tensor follows from that, bit for bit, with the numbers of kept edges where they
        are to be stored; None where it does not, or takes no fewer bytes so."""
        width, rest = divmod(tensor.numel(), self.layer.edges)
        if rest or not width or not is_number(tensor.dtype):
            return None
        if not isinstance(rebuilt("", tensor, {}, set()), Stored):
            return None
        for axes, sizes in self._patterns(width, tuple(tensor.shape)):
            found = self._with(axes.text, to_edges(tensor, axes, sizes))
            if found is not None:
                return found
        return None

    def factors(self, tensor: Tensor, axes: str) -> tuple[PerEdge, Tensor | None] | None:
        """The origin of factors that are folded into all edges that are not kept; None where their
        order of edges is not one that origins have."""
        if set(parse_axes(axes).names) != self._needed(1):
            return None
        values = to_edges(tensor, parse_axes(axes), self._sizes(1)).clone()
        values[~self.kept] = 1
        return self._with(axes, values, always=True)

    def _with(
        self, axes: str, values: Tensor, *, always: bool = False
    ) -> tuple[PerEdge, Tensor | None] | None:
        """The origin of a tensor with these numbers (edges, width) of edges."""
        silent = _one(values[self.silent])
        live = _one(values[self.live]) if self.live.any() else silent
        if live is None or silent is None:
            return None
        if not self.kept.any():
            return PerEdge(layer=self.name, axes=axes, live=live, silent=silent), None
        own = values[self.kept]
        kept = _one(own)
        if kept is None and not always and own.nbytes + _TENSOR >= values.nbytes:
            return None
        origin = PerEdge(layer=self.name, axes=axes, live=live, silent=silent, kept=kept)
        return origin, own if kept is None else None

    def _sizes(self, width: int) -> dict[str, int]:
        layer = self.layer
        sizes = {"group": layer.groups, "out": layer.shape[0] // layer.groups}
        return sizes | {"in": layer.shape[1], **kernel_axes(layer.shape), "coef": width}

    def _needed(self, width: int) -> set[str]:
        """Axes that a tensor of so many numbers for each edge has."""
        needed = {"out", "in", *kernel_axes(self.layer.shape)}
        return (
            needed
            | ({"coef"} if width > 1 else set())
            | ({"group"} if self.layer.groups > 1 else set())
        )

    def _patterns(
        self, width: int, shape: tuple[int, ...]
    ) -> Iterator[tuple[Axes, dict[str, int]]]:
        """Orders in which a tensor of this shape may have so many numbers for each edge."""
        sizes, needed = self._sizes(width), self._needed(width)
        for text in dict.fromkeys((*(mask.axes for mask in self.layer.masks), *_ORDERS)):
            axes = parse_axes(text if width == 1 else f"{text} coef")
            lengths = tuple(math.prod(sizes.get(name, 0) for name in dim) for dim in axes.dims)
            if set(axes.names) == needed and lengths == shape:
                yield axes, sizes


def _one(values: Tensor) -> int | float | None:
    """The number that all of these are, bit for bit; None where they differ, or it is none."""
    flat = values.contiguous().reshape(-1)
    same = torch.equal(
        flat.view(torch.uint8), flat[:1].expand_as(flat).contiguous().view(torch.uint8)
    )
    return flat[0].item() if same and bool(flat[0].isfinite()) else None


__all__ = ["Fates"]
