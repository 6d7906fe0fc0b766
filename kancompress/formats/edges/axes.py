"""Axis patterns in einops' notation: which axis of an edge each dimension of a tensor holds.

`group out (coef in) kh kw` reads: five dimensions, the third holds the inputs of every
coefficient in turn. A pattern is parsed once; sizes are then solved from the shapes of all
tensors of a layer together, so that tensors which disagree are told apart from those that fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import lru_cache

from kancompress.errors import UsageError
from kancompress.frozen import dataclass

# Row-major order of an edge matrix: the first six number the edge, the last two its coefficient.
# `half` splits the coefficients in blocks (the cosines and sines of a Fourier layer).
EDGE = ("group", "out", "in", "kd", "kh", "kw")
KERNEL = ("kd", "kh", "kw")
COEFFICIENT = ("half", "coef")
NAMES = EDGE + COEFFICIENT

_TOKEN = re.compile(r"\s*(\(|\)|[a-z_]+|1(?!\d)|.)")


@dataclass(frozen=True, slots=True)
class Axes:
    """A parsed pattern; each dimension is the tuple of axes that it runs through."""

    text: str
    dims: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All axes in the order of memory."""
        return tuple(name for dim in self.dims for name in dim)

    @property
    def is_flat(self) -> bool:
        """One pair of parentheses around all: the order in memory, whatever the tensor's rank."""
        return len(self.dims) == 1 and len(self.dims[0]) > 1


@lru_cache(maxsize=1024)
def parse_axes(text: str, *, only: tuple[str, ...] | None = None) -> Axes:
    """Parse a pattern; raises UsageError that quotes it where it is malformed.

    `only` are the names that may occur (None: any).
    """
    dims: list[tuple[str, ...]] = []
    group: list[str] | None = None
    for token in _TOKEN.findall(text.strip()):
        if token == "(" and group is None:
            group = []
        elif token == ")" and group is not None:
            dims.append(tuple(group))
            group = None
        elif token == "1" and group is None:
            dims.append(())
        elif not re.fullmatch("[a-z_]+", token):
            raise UsageError(f"The axes {text!r} cannot be read at {token!r}.")
        elif only is not None and token not in only:
            raise UsageError(
                f"The axes {text!r} name the unknown axis {token!r}; known are {', '.join(only)}"
                " and 1."
            )
        elif group is not None:
            group.append(token)
        else:
            dims.append((token,))
    names = [name for dim in dims for name in dim]
    if group is not None or not dims:
        raise UsageError(f"The axes {text!r} end too early.")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"The axes {text!r} name {name!r} twice.")
    return Axes(text, tuple(dims))


def kernel_axes(shape: Sequence[int]) -> dict[str, int]:
    """Sizes of the kernel's axes in the shape of a layer: none, of a plane, or of a volume."""
    kernel = shape[2:]
    names = KERNEL[-len(kernel) :] if kernel else ()
    return dict(zip(names, kernel, strict=True))


def has_coefficients(axes: str) -> bool:
    """Whether a pattern runs through the coefficients of an edge."""
    return bool(coefficient_runs(parse_axes(axes)))


def coefficient_runs(axes: Axes) -> list[list[str]]:
    """Axes of an edge's coefficients, those that follow one another in memory together."""
    runs: list[list[str]] = []
    before = ""
    for name in axes.names:
        if name not in EDGE:
            if not before or before in EDGE:
                runs.append([])
            runs[-1].append(name)
        before = name
    return runs


def completed(text: str, missing: Sequence[str] = ()) -> str:
    """The pattern in the names of this module alone, over all axes that the edges have.

    Axes of other names (`coef_h`) are coefficients: those that follow one another in memory become
    `coef`, of two such places the first `half`. `missing` are axes of length 1; they join others.
    """
    axes = parse_axes(text)
    runs = coefficient_runs(axes)
    new: dict[str, tuple[str, ...]] = {name: () for run in runs for name in run}
    if not new.keys() <= {*COEFFICIENT}:
        new |= {run[0]: (name,) for run, name in zip(runs, COEFFICIENT[-len(runs) :], strict=True)}
    else:
        new = {}
    last = max((name for name in axes.names if name in KERNEL), key=EDGE.index, default="")
    if "in" in missing:
        new["out"] = ("out", "in")
    if lost := [name for name in KERNEL if name in missing]:
        new[last] = tuple(name for name in KERNEL if name == last or name in lost)
    if not new:
        return text
    dims = [tuple(part for name in dim for part in new.get(name, (name,))) for dim in axes.dims]
    kept = [dim for dim, old in zip(dims, axes.dims, strict=True) if dim or not old]
    if axes.is_flat:
        return f"({' '.join(kept[0])})"
    return " ".join(
        dim[0] if len(dim) == 1 else f"({' '.join(dim)})" if dim else "1" for dim in kept
    )


@dataclass(slots=True)
class Sizes:
    """Sizes of axes as they become known, each with the tensor that gave it."""

    known: dict[str, int] = field(default_factory=dict)
    given_by: dict[str, str] = field(default_factory=dict)

    def bind(self, name: str, size: int, label: str) -> str:
        """Note the size of one axis; the reason as a clause where it contradicts."""
        if name in self.known and self.known[name] != size:
            return (
                f"{label} gives {name} = {size} where"
                f" {self.given_by[name]} gives {name} = {self.known[name]}"
            )
        self.known.setdefault(name, size)
        self.given_by.setdefault(name, label)
        return ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A tensor's shape and the axes that it should have."""

    label: str
    shape: tuple[int, ...]
    axes: Axes

    @property
    def has_rank(self) -> bool:
        """Whether the tensor has as many axes as the pattern."""
        return self.axes.is_flat or len(self.shape) == len(self.axes.dims)

    @property
    def text(self) -> str:
        """The tensor as messages name it."""
        return f"{self.label} of shape {self.shape} ({self.axes.text})"


def solve(claims: Sequence[Claim], sizes: Sizes) -> str:
    """Bind every axis from all claims together; returns "" or why they do not agree."""
    open_dims: list[tuple[Claim, tuple[str, ...], int]] = []
    for claim in claims:
        if not claim.has_rank:
            count = len(claim.axes.dims)
            return f"{claim.text} should have {count} {'axis' if count == 1 else 'axes'}"
        shape = (math.prod(claim.shape),) if claim.axes.is_flat else claim.shape
        open_dims += [
            (claim, dim, length) for dim, length in zip(claim.axes.dims, shape, strict=True)
        ]
    while open_dims:
        later: list[tuple[Claim, tuple[str, ...], int]] = []
        for claim, dim, length in open_dims:
            unknown = [name for name in dim if name not in sizes.known]
            if len(unknown) > 1:
                later.append((claim, dim, length))
                continue
            reason = _settle(claim, dim, length, unknown, sizes)
            if reason:
                return reason
        if len(later) == len(open_dims):
            claim, dim, _ = later[0]
            return f"no tensor tells how {claim.text} divides into {' and '.join(dim)}"
        open_dims = later
    return ""


def _settle(
    claim: Claim, dim: tuple[str, ...], length: int, unknown: list[str], sizes: Sizes
) -> str:
    product = math.prod(sizes.known[name] for name in dim if name not in unknown)
    if length < 1:
        return f"{claim.text} is empty"
    if not unknown:
        if len(dim) == 1:
            return sizes.bind(dim[0], length, claim.text)
        if product != length:
            found = " x ".join(f"{name} {sizes.known[name]}" for name in dim) or "1"
            return f"{claim.text} has {length} where {found} = {product} was expected"
        return ""
    if length % product:
        found = " x ".join(f"{name} {sizes.known[name]}" for name in dim if name in sizes.known)
        return f"{claim.text} has {length}, no multiple of {found}"
    return sizes.bind(unknown[0], length // product, claim.text)


def memory_shape(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with one dimension for each axis of a pattern, in the order of memory."""
    return tuple(sizes[name] for name in axes.names)


def edge_shape(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The same in the order of a matrix (edges, coefficients)."""
    return tuple(sizes[name] for name in NAMES if name in axes.names)


def to_edge_order(axes: Axes) -> list[int]:
    """Which of memory's dimensions each of a matrix's is; a permutation."""
    return [axes.names.index(name) for name in NAMES if name in axes.names]


def to_memory_order(axes: Axes) -> list[int]:
    """The inverse of `to_edge_order`."""
    canonical = [name for name in NAMES if name in axes.names]
    return [canonical.index(name) for name in axes.names]


def per_edge(axes: Axes, sizes: Mapping[str, int]) -> int:
    """Coefficients that a tensor of this pattern has of each edge."""
    return math.prod(sizes[name] for name in axes.names if name in COEFFICIENT)
