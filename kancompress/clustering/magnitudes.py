"""Numbers near the ends of float64's range, whose sums or squares would leave it.

A power of two changes nothing but the exponent, so clusters are the same after it and centroids
come back exactly. Numbers of float32 and narrower types are never near these ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kancompress.clustering.vectors import (
    F64,
    SUM_BLOCK,
    Given,
    Integers,
    Scaled,
    Vectors,
    blocks,
    vectors_of,
)

# Outside these powers of two vectors are scaled: a sum of 2^100 numbers stays finite inside them,
# and what is lost of the smallest numbers beside large ones is nothing to those.
_HIGH, _LOW = 900, -900
_DOWN, _UP = -100, 600
_LARGEST = float(np.finfo(np.float64).max)


def moderate(vectors: Vectors) -> tuple[Vectors, int]:
    """The vectors times a power of two with which they can be summed up, and its exponent; as they
    are, and 0, where they can already."""
    count, d = vectors.shape
    if vectors.dtype != np.float64 or not count * d:
        return vectors, 0
    largest = 0.0
    for start in range(0, count, SUM_BLOCK):
        block = vectors.block(start, min(start + SUM_BLOCK, count))
        largest = max(largest, float(block.max()), -float(block.min()))
    exponent = math.frexp(largest)[1] if largest else 0
    by = _DOWN if exponent > _HIGH else _UP if exponent < _LOW else 0
    return (Scaled(vectors, by), by) if by else (vectors, 0)


def means(vectors: Vectors, labels: Integers, sizes: Integers) -> F64:
    """Mean of the vectors (n, d) of each label, (k, d), of which `sizes` tells how many there
    are."""
    with np.errstate(over="ignore", invalid="ignore"):
        found: F64 = _sums(vectors, labels, len(sizes)) / sizes[:, None]
    finite = np.isfinite(found)
    if finite.all():
        return found
    smaller = _sums(Scaled(vectors, _DOWN), labels, len(sizes)) / sizes[:, None]
    # the mean of the largest numbers may be rounded beyond them
    largest = np.ldexp(_LARGEST, _DOWN)
    return np.where(finite, found, np.ldexp(np.clip(smaller, -largest, largest), -_DOWN))


def _sums(vectors: Vectors, labels: Integers, clusters: int) -> F64:
    """Sum of the vectors of each label, (clusters, d), row after row whatever the block."""
    totals = np.zeros((vectors.shape[1], clusters))
    first = np.arange(clusters)
    for part, block in blocks(vectors):
        own = np.concatenate([first, labels[part]])
        for column, total in zip(block.T, totals, strict=True):
            total[:] = np.bincount(own, weights=np.concatenate([total, column]))
    return totals.T.copy()


def times_square(value: float, scale: float, exponent: int) -> float:
    """value * (scale * 2^exponent)^2, infinity where that is no float64."""
    mantissa, own = math.frexp(scale)
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value * mantissa**2, 2 * (own + exponent)))


def relative_distortion(vectors: Given, centroids: F64, labels: Integers) -> float:
    """Squared distance of vectors (n, d) to their centroids (k, d) relative to that to their mean;
    0 where they are all the same."""
    vectors, exponent = moderate(vectors_of(vectors))
    centroids = np.ldexp(centroids, exponent) if exponent else centroids
    total = np.zeros(vectors.shape[1])
    for block, _ in _blocks(vectors, labels):
        total += block.sum(axis=0)
    mean = total / vectors.shape[0]
    with np.errstate(over="ignore", under="ignore"):
        error, spread = _squares(vectors, centroids, labels, mean, 0)
        if not (_SAFE[0] < spread < _SAFE[1] and error < _SAFE[1]):
            largest = max(
                float(np.abs(block - other).max())
                for block, own in _blocks(vectors, labels)
                for other in (mean, centroids[own])
            )
            by = -math.frexp(largest)[1]
            error, spread = _squares(vectors, centroids, labels, mean, by)
    return error / spread if spread > 0 else 0.0


# Sums of squares outside these may have left float64's range.
_SAFE = 1e-250, 1e300


def _squares(
    vectors: Vectors, centroids: F64, labels: Integers, mean: F64, by: int
) -> tuple[float, float]:
    """Sums of squares of the vectors less their centroids, and less the mean, both differences
    times 2^by."""
    error = spread = 0.0
    for block, own in _blocks(vectors, labels):
        from_own, from_mean = block - centroids[own], block - mean
        if by:
            from_own, from_mean = np.ldexp(from_own, by), np.ldexp(from_mean, by)
        error += float((from_own**2).sum())
        spread += float((from_mean**2).sum())
    return error, spread


def _blocks(vectors: Vectors, labels: Integers) -> Iterator[tuple[F64, Integers]]:
    """Vectors in float64 and their labels, a block at a time."""
    for part, block in blocks(vectors):
        yield block, labels[part]
