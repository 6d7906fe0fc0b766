"""Records of layouts: what a library's layer looks like, and what was found in a file.

A `Layout` is data: names relative to a stem, each with an axis pattern. In names, `*` is the
number of the layer (the same in all names of a layout), `#` numbers the groups of a convolution
from 0 on, and `**` at the end stands for anything. Axes: `out in kh kw group` of an edge, `coef`
(and `half`, outside `coef`) of its vector; tensors beside may have axes of other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# --- what a layout looks like ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A tensor with coefficients of edges; without `coef` in its axes it holds one an edge.

    `memory` is a second pattern, for a tensor whose own axes say nothing of the order in which
    the library's forward reads its numbers (relu_kan): `axes` check the shape, `memory` is used.
    """

    name: str
    axes: str
    memory: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A factor for all pieces of an edge with a `coef` axis; folded into them if present."""

    name: str
    axes: str
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Veil:
    """A 0/1 tensor: an edge takes part where it is non-zero (`live`), or where it is zero."""

    name: str
    axes: str
    live: bool = True
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A tensor of the layer that no edge owns; `axes` (if any) must agree with the others."""

    name: str
    axes: str = ""
    required: bool = False


Check = Callable[[Mapping[str, int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one library stores a layer. The first piece is the anchor by which stems are found.

    name:       what the user writes after `--layout`
    pieces:     in the order of the edge vector
    forbidden:  names that another layout has and this one has not
    checks:     conditions between sizes; each returns "" or a clause that says what is wrong
    rivals:     layouts with the same names and shapes but another meaning: the user must choose
    label:      what follows the stem in the layer's name ("act_fun.*")
    pool:       name after the stem under which all its layers share one codebook
    notes:      what the user should be told
    finder:     a function in place of the records, for what they cannot say
    """

    name: str
    pieces: tuple[Piece, ...]
    scales: tuple[Scale, ...] = ()
    veils: tuple[Veil, ...] = ()
    beside: tuple[Beside, ...] = ()
    forbidden: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    rivals: tuple[str, ...] = ()
    label: str = ""
    pool: str = ""
    notes: tuple[str, ...] = ()
    finder: Finder | None = None


# --- what was found -------------------------------------------------------------------------


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
    dtype: torch.dtype
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
    dtype: torch.dtype


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
    into:    what precedes the names of efficient-kan's tensors in which the vectors come back
    """

    embeddings: str
    linears: tuple[tuple[str, str], ...]
    into: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLayer:
    """A KAN layer in a file.

    name:            prefix by which the user knows it ("layers.0", "act_fun.1")
    layout:          name of the layout
    shape:           (out, in) or (out, in, kh, kw): out counts all groups, in those of one group
    groups:          groups of a convolution; edges are numbered group by group
    coefficients:    length of an edge vector
    mask:            tensor whose zeros leave edges out of clustering (`masks` has all of them)
    untouched:       tensors of the layer that no edge owns, masks among them
    codebook_group:  layers with the same group share one codebook (None: its own)
    notes:           what the user should be told
    generator:       where vectors are generated rather than stored; such a layer has no parts
    entries:         the layout in the notation of docs/layouts.md, none where a function found it
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
        return int(torch.Size(self.shape).numel())

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a layout does not fit a stem; `rank` says how near it came.

    0: too far to mention; below 1: the share of names that are there; 1: all names, but the
    anchor has another number of axes; 2: sizes do not agree.
    """

    reason: str
    rank: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What a file holds.

    problems:  full sentences: what looked like a KAN layer and was not taken, and why
    ambiguous: those of them that only the user can settle, by choosing a layout
    others:    tensors that belong to no KAN layer
    """

    layers: tuple[FoundLayer, ...]
    problems: tuple[str, ...]
    others: tuple[str, ...]
    ambiguous: tuple[str, ...] = ()


# Arguments: the layout, the stem (with its dot, or empty), the layer's number, all tensors.
Finder = Callable[[Layout, str, str, Mapping[str, Tensor]], "FoundLayer | Misfit"]
