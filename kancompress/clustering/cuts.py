"""How many centroids a layer has, and of what: of whole edges, or of the parts of edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    Labels = npt.NDArray[np.int64]


class Cut(NamedTuple):
    """So many centroids of vectors that each stand for one of so many parts of an edge.

    >>> import kancompress
    >>> kancompress.Cut(clusters=16, parts=3)
    Cut(clusters=16, parts=3)
    """

    clusters: int
    parts: int


# Centroids of whole edges, or of parts of them.
Number = int | Cut


def number_of(clusters: int, parts: int) -> Number:
    """The number of centroids of edges in so many parts."""
    return clusters if parts == 1 else Cut(clusters, parts)


def split(number: Number) -> Cut:
    """The centroids and the parts of an edge, one where it is whole."""
    return number if isinstance(number, Cut) else Cut(number, 1)


def times_as_many(number: Number | None, times: float) -> Number | None:
    """About so many times as many centroids of the same vectors; a dense layer stays dense."""
    if number is None:
        return None
    clusters, parts = split(number)
    return number_of(round(times * clusters), parts)


def cut(vectors: Tensor, parts: int) -> Tensor:
    """Edge vectors (n, d) as the vectors of their parts, (n * parts, d / parts)."""
    return vectors.reshape(-1, vectors.shape[1] // parts)


def cut_edges(edges: Tensor, parts: int) -> Tensor:
    """Coefficients (out, m, d) as those of so many times as many inputs, (out, m * parts, c)."""
    return edges.reshape(len(edges), -1, edges.shape[2] // parts)


def cut_features(features: Tensor, parts: int) -> Tensor:
    """Features (rows, d, m) as they go with edges in parts, (rows, c, m * parts)."""
    if parts == 1:
        return features
    return cut_edges(features.transpose(1, 2), parts).transpose(1, 2)


def cut_inputs(inputs: Labels, parts: int) -> Labels:
    """Numbers (n,) of the inputs of edges as those of their parts, (n * parts,): each part of an
    input is an input of its own."""
    return (inputs[:, None] * parts + np.arange(parts)).reshape(-1)


def divisors(number: int) -> list[int]:
    """All divisors of a number, ascending."""
    return [part for part in range(1, number + 1) if number % part == 0]
