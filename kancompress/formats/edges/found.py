"""A KAN layer of a file: which tensors hold its edge vectors, and how."""

from __future__ import annotations

import math

from kancompress.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Coefficients `first ... last - 1` of every edge vector lie in this tensor.

    axes:     einops pattern; one in parentheses as a whole tells the order in memory whatever
              the rank, so `rearrange(edges, "... -> axes").reshape(shape)` restores the tensor
    group:    the tensor holds only this group of the outputs (None: all of them)
    columns:  begin and end in the tensor's last dimension (None: all of it)
    """

    tensor: str
    axes: str
    first: int
    last: int
    shape: tuple[int, ...]
    dtype: str
    group: int | None = None
    columns: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Multiplies coefficients `first ... last - 1` of each edge; folded in, restored as ones."""

    tensor: str
    axes: str
    first: int
    last: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """An edge can be packed where the tensor is non-zero (`live`), or where it is zero."""

    tensor: str
    axes: str
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """Vectors are `linear(... relu(linear(row)))` of the rows of `embeddings`, (edges, length).

    linears: names of weight and bias of each layer of the generator
    relu:    whether a ReLU lies between them
    layout:  of the tensors in which the vectors come back, the last number of each apart
    pieces:  names and axes of those tensors, of all numbers but the last, then of the last
    before:  the tensor before which they stand in the file
    beside:  tensors of the layer that stay beside them
    dead:    tensors of the file that the forward does not read, and that are left out
    """

    embeddings: str
    linears: tuple[tuple[str, str], ...]
    pieces: tuple[tuple[str, str], ...]
    before: str
    beside: tuple[str, ...]
    relu: bool = True
    layout: str = "efficient-kan"
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLayer:
    """A KAN layer in a file.

    name:            prefix by which the user knows it ("layers.0", "act_fun.1")
    layout:          name of the layout
    shape:           (out, in), (out, in, kh, kw) or (out, in, kd, kh, kw): out counts all groups,
                     in those of one group
    groups:          groups of a convolution; edges are numbered group by group
    coefficients:    length of an edge vector
    mask:            tensor whose zeros leave edges out of clustering (`masks` has all of them)
    untouched:       tensors of the layer that no edge owns, masks among them
    codebook_group:  layers with the same group share one codebook (None: its own)
    notes:           what the user should be told
    generator:       where vectors are generated rather than stored; such a layer has no parts
    entries:         the layout in the notation of a line, none where a function found it
    """

    name: str
    layout: str
    shape: tuple[int, ...]
    coefficients: int
    parts: tuple[Part, ...]
    gains: tuple[Gain, ...] = ()
    mask: str | None = None
    untouched: tuple[str, ...] = ()
    codebook_group: str | None = None
    notes: tuple[str, ...] = ()
    groups: int = 1
    masks: tuple[Mask, ...] = ()
    generator: Generator | None = None
    entries: tuple[str, ...] = ()

    @property
    def edges(self) -> int:
        """Number of edges."""
        return math.prod(self.shape)

    @property
    def tensors(self) -> tuple[str, ...]:
        """All tensors of the layer, each once."""
        generated = (self.generator.embeddings,) if self.generator else ()
        names = (
            *(part.tensor for part in self.parts),
            *(gain.tensor for gain in self.gains),
            *generated,
            *self.untouched,
        )
        return tuple(dict.fromkeys(names))
