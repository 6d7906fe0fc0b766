"""Vectors that are read a block at a time, wherever they lie, and as k-means compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

# Rows of a block of sums.
SUM_BLOCK = 1 << 16
# Bytes of points that are held at once even where they are soon put in another order.
_SMALL = 1 << 26


class Vectors(Protocol):
    """Vectors (n, d), read a block at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """Type of the numbers."""

    def block(self, start: int, stop: int) -> Numbers:
        """Vectors `start ... stop - 1`, or up to the last one; not to be written to."""


# Vectors that lie in memory, or are read.
Given = Numbers | Vectors


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Vectors that lie in memory, as an array (n, d)."""

    array: Numbers

    @property
    def shape(self) -> tuple[int, int]:
        """As of `Vectors`."""
        return len(self.array), self.array.shape[1]

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """As of `Vectors`."""
        return self.array.dtype

    def block(self, start: int, stop: int) -> Numbers:
        """As of `Vectors`: a view."""
        return self.array[start:stop]


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Vectors of float64 times 2^exponent."""

    vectors: Vectors
    exponent: int

    @property
    def shape(self) -> tuple[int, int]:
        """As of `Vectors`."""
        return self.vectors.shape

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """As of `Vectors`."""
        return self.vectors.dtype

    def block(self, start: int, stop: int) -> Numbers:
        """As of `Vectors`."""
        found: Numbers = np.ldexp(self.vectors.block(start, stop), self.exponent)
        return found


def vectors_of(given: Given) -> Vectors:
    """What is read a block at a time, of an array as well."""
    return Held(given) if isinstance(given, np.ndarray) else given


def blocks(vectors: Vectors) -> Iterator[tuple[slice, F64]]:
    """The vectors in float64, a block at a time, and where each lies."""
    count = vectors.shape[0]
    for start in range(0, count, SUM_BLOCK):
        part = slice(start, min(start + SUM_BLOCK, count))
        yield part, vectors.block(part.start, part.stop).astype(np.float64)


# --- of a layer ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EdgeVectors:
    """The vectors of a layer's edges, or of the parts of edges, read a block at a time.

    edges : how many; coefficients : of an edge; source : type of its numbers
    read  : from the first edge and the one behind the last to their vectors (m, coefficients)
    parts : into which the coefficients of an edge are cut
    """

    edges: int
    coefficients: int
    source: torch.dtype
    read: Callable[[int, int], Tensor]
    parts: int = 1

    @classmethod
    def of(cls, vectors: Tensor) -> EdgeVectors:
        """Those of a tensor (edges, coefficients)."""
        return cls(
            edges=len(vectors),
            coefficients=vectors.shape[1],
            source=vectors.dtype,
            read=lambda start, stop: vectors[start:stop],
        )

    @property
    def shape(self) -> tuple[int, int]:
        """As of `Vectors`."""
        return self.edges * self.parts, self.coefficients // self.parts

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """As of `Vectors`: one that numpy has and that holds the numbers exactly."""
        return np.dtype(np.float64 if self.source == torch.float64 else np.float32)

    def cut(self, parts: int) -> EdgeVectors:
        """The same with edges in so many parts."""
        return replace(self, parts=parts)

    def block(self, start: int, stop: int) -> Numbers:
        """As of `Vectors`."""
        stop = min(stop, self.shape[0])
        first = start // self.parts
        edges = self.read(first, -(-stop // self.parts))
        found: Numbers = points(edges).reshape(-1, self.shape[1])
        return found[start - first * self.parts : stop - first * self.parts]

    def whole(self) -> Numbers:
        """All vectors, (n, d)."""
        return self.block(0, self.shape[0])


def points(vectors: Tensor) -> np.ndarray:
    """Vectors in a type that NumPy has, none of them changed."""
    half = vectors.dtype in (torch.float16, torch.bfloat16)
    return (vectors.float() if half else vectors).numpy()


# --- as k-means compares them ----------------------------------------------------------------


class Points(Protocol):
    """Vectors (n, d) of float32 that k-means compares."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""

    def block(self, start: int, stop: int) -> F32:
        """Points `start ... stop - 1`, or up to the last one; not to be written to."""

    def take(self, rows: Integers) -> F32:
        """Some of them, by their numbers, ascending."""

    def held(self) -> HeldPoints:
        """The same in memory."""

    def ordered(self, order: Integers) -> HeldPoints:
        """The same in memory and in another order, (n,) of their numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldPoints:
    """Points that lie in memory, as an array (n, d)."""

    array: F32

    @property
    def shape(self) -> tuple[int, int]:
        """As of `Points`."""
        return len(self.array), self.array.shape[1]

    def block(self, start: int, stop: int) -> F32:
        """As of `Points`: a view."""
        return self.array[start:stop]

    def take(self, rows: Integers) -> F32:
        """As of `Points`, in any order."""
        return np.take(self.array, rows, axis=0)

    def held(self) -> HeldPoints:
        """As of `Points`: they are."""
        return self

    def ordered(self, order: Integers) -> HeldPoints:
        """As of `Points`."""
        return HeldPoints(np.take(self.array, order, axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class Normalised:
    """Vectors moved by a shift and divided by a scale, made anew whenever they are asked for."""

    vectors: Vectors
    shift: F64
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        """As of `Points`."""
        return self.vectors.shape

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """As of `Vectors`."""
        return np.dtype(np.float32)

    @property
    def is_small(self) -> bool:
        """Whether a copy more of them is of no matter."""
        count, d = self.shape
        return 4 * count * d <= _SMALL

    def block(self, start: int, stop: int) -> F32:
        """As of `Points`."""
        count, d = self.shape
        stop = min(stop, count)
        found: F32 = np.empty((stop - start, d), np.float32)
        for first in range(start, stop, SUM_BLOCK):
            last = min(first + SUM_BLOCK, stop)
            wide = self.vectors.block(first, last).astype(np.float64)
            wide -= self.shift
            wide /= self.scale
            found[first - start : last - start] = wide
        return found

    def take(self, rows: Integers) -> F32:
        """As of `Points`."""
        found = np.empty((len(rows), self.shape[1]), np.float32)
        done = 0
        while done < len(rows):
            start = int(rows[done])
            last = int(np.searchsorted(rows, start + SUM_BLOCK))
            own = rows[done:last]
            found[done:last] = self.block(start, int(own[-1]) + 1)[own - start]
            done = last
        return found

    def held(self) -> HeldPoints:
        """As of `Points`."""
        return HeldPoints(self.block(0, self.shape[0]))

    def ordered(self, order: Integers) -> HeldPoints:
        """As of `Points`: each is written to its place when it is made."""
        places = np.empty_like(order)
        places[order] = np.arange(len(order), dtype=order.dtype)
        found = np.empty(self.shape, np.float32)
        for start in range(0, len(order), SUM_BLOCK):
            found[places[start : start + SUM_BLOCK]] = self.block(start, start + SUM_BLOCK)
        return HeldPoints(found)


def points_of(given: F32 | Points) -> Points:
    """Points of an array, or as they are."""
    return HeldPoints(given) if isinstance(given, np.ndarray) else given
