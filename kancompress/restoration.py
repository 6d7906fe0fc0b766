"""Packed checkpoints of other libraries, given back tensor by tensor.

docs/packed-format.md, section 8.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kancompress import container as containers
from kancompress.container import DTYPES
from kancompress.errors import UsageError
from kancompress.layouts import FoundLayer, Part, scatter
from kancompress.packed import PackedModel
from kancompress.packed.restore import pieces_of


def rebuild_arange(arange: list[Any], dtype: torch.dtype) -> Tensor:
    """The row that [base, step, first, count] stands for, each operation rounded to `dtype`."""
    base, step, first, count = arange
    times = torch.arange(first, first + count).to(dtype)
    return times * torch.tensor(step, dtype=dtype) + torch.tensor(base, dtype=dtype)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Restored:
    """Another library's state dict given back: names in the source's order, ties one tensor.

    container : `safetensors`, `torch-zip`, `torch-legacy` or `torch-module`, as the source was
    path      : dictionary keys under which the state dict lay
    metadata  : a safetensors source's own
    """

    tensors: dict[str, Tensor]
    container: str
    path: tuple[str, ...]
    metadata: dict[str, str]

    def encode(self, *, torch_file: bool | None = None) -> bytes:
        """The file in the source's own kind of container, or in the one that is asked for.

        A torch file nests the state dict as the source did; a whole pickled module comes back
        as a state dict.
        """
        if torch_file is None:
            torch_file = self.container != "safetensors"
        if not torch_file:
            return containers.encode(self.tensors, self.metadata)
        content: Any = dict(self.tensors)
        for key in reversed(self.path if self.container != "torch-module" else ()):
            content = {key: content}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()


def restore(model: PackedModel) -> Restored:
    """Give a packed checkpoint of another library back (docs/packed-format.md, section 8)."""
    if model.restore is None:
        raise UsageError("This packed file holds a native network, no other library's tensors.")
    return Restored(
        tensors=_state(model),
        container=model.restore["container"],
        path=tuple(model.restore["path"]),
        metadata=dict(model.restore.get("metadata", {})),
    )


def _state(model: PackedModel) -> dict[str, Tensor]:
    assert model.restore is not None
    edges: dict[str, Tensor] = {}
    result: dict[str, Tensor] = {}
    entries = {
        name: (dtype, shape, origin) for name, dtype, shape, origin in model.restore["tensors"]
    }
    by_layer = _parts_by_layer(entries)
    for name, parts in by_layer.items():
        layer = model.layer(name)
        vectors = model.coefficients_of(layer).reshape(layer.edges, -1)
        found = FoundLayer(
            name=name,
            layout="",
            shape=layer.shape,
            coefficients=vectors.shape[1],
            parts=tuple(parts),
            groups=layer.groups,
        )
        for tensor, values in scatter(found, vectors).items():
            edges[tensor] = values
    for name, (dtype, shape, origin) in entries.items():
        if not (origin and "tie" in origin):
            result[name] = _given_back(name, DTYPES[dtype][0], shape, origin, model, edges)
    return {
        name: result[origin["tie"] if origin and "tie" in origin else name]
        for name, (_, _, origin) in entries.items()
    }


def _parts_by_layer(entries: Mapping[str, tuple[Any, ...]]) -> dict[str, list[Part]]:
    parts: dict[str, list[Part]] = {}
    for name, (dtype, shape, origin) in entries.items():
        for piece in pieces_of(origin):
            parts.setdefault(piece["layer"], []).append(
                Part(
                    tensor=name,
                    axes=piece["axes"],
                    first=piece["from"],
                    last=piece["to"],
                    shape=tuple(shape),
                    dtype=DTYPES[dtype][0],
                    group=piece.get("group"),
                    columns=tuple(piece["columns"]) if "columns" in piece else None,
                )
            )
    return parts


def _given_back(
    name: str,
    dtype: torch.dtype,
    shape: list[int],
    origin: Any,
    model: PackedModel,
    edges: Mapping[str, Tensor],
) -> Tensor:
    match origin:
        case None:
            return model.tensors[name]
        case {"as": target}:
            return model.tensors[target]
        case {"fill": number}:
            return torch.full(shape, number, dtype=dtype)
        case {"repeat": target}:
            return model.tensors[target].expand(shape).contiguous()
        case {"arange": arange}:
            return rebuild_arange(arange, dtype).expand(shape).contiguous()
    return edges[name]
