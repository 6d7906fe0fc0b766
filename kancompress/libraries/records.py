"""Records of layouts: what a library's layer looks like, and what was found in a file.

A `Layout` is data: names relative to a stem, each with an axis pattern. In names, `*` is the
number of the layer (the same in all names of a layout), `#` numbers the groups of a convolution
from 0 on, and `**` at the end stands for anything. Axes: `out in kd kh kw group` of an edge (`in`
is missing where nothing tells it from `out`), `coef` (and `half`, outside `coef`) or several
`coef_...` of its vector; tensors beside may have axes of other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from kancompress.errors import UsageError
from kancompress.formats.arrays import Described
from kancompress.formats.edges.found import FoundLayer
from kancompress.frozen import dataclass

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

    name:       what the user writes in `RunOptions.layouts`
    pieces:     in the order of the edge vector
    forbidden:  names that another layout has and this one has not
    checks:     conditions between sizes; each returns "" or a clause that says what is wrong
    rivals:     layouts with the same names and shapes but another meaning: the user must choose
    foreign_stems: a pattern of stems at which other layouts alone are looked for
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
    foreign_stems: str = ""
    label: str = ""
    pool: str = ""
    notes: tuple[str, ...] = ()
    finder: Finder | None = None


# --- what was found -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Why a layout does not fit a stem; `rank` says how near it came.

    0: too far to mention; below 1: the share of names that are there; 1: all names, but the
    anchor has another number of axes; 2: sizes do not agree. `claims` is the stem, with
    its dot, below which no other layout may look for layers, "" where there is none.
    """

    reason: str
    rank: float
    claims: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """What a file holds.

    problems:  full sentences: what looked like a KAN layer and was not taken, and why; they may
               speak of `layouts`
    ambiguous: those of them that only the user can settle, by choosing a layout, as errors
    undecided: names of the layers that these speak of
    others:    tensors that belong to no KAN layer
    hints:     full sentences on these: what they are, and what to do; they may speak of `drop`
    """

    layers: tuple[FoundLayer, ...]
    problems: tuple[str, ...]
    others: tuple[str, ...]
    ambiguous: tuple[UsageError, ...] = field(default=(), compare=False)
    undecided: tuple[str, ...] = field(default=(), compare=False)
    hints: tuple[str, ...] = field(default=(), compare=False)


# Arguments: the layout, the stem (with its dot, or empty), the layer's number, all tensors.
Finder = Callable[[Layout, str, str, Mapping[str, Described]], "FoundLayer | Misfit"]
