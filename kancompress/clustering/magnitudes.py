"""Numbers near the ends of float64's range, whose sums or squares would leave it.

A power of two changes nothing but the exponent, so clusters are the same after it and centroids
come back exactly. Numbers of float32 and narrower types are never near these ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kancompress.clustering.nearest import F64, SUM_BLOCK, Labels

# Outside these powers of two vectors are scaled: a sum of 2^100 numbers stays finite inside them,
# and what is lost of the smallest numbers beside large ones is nothing to those.
_HIGH, _LOW = 900, -900
_DOWN, _UP = -100, 600
_LARGEST = float(np.finfo(np.float64).max)


def moderate(vectors: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.floating], int]:
    """The vectors times a power of two with which they can be summed up, and its exponent; as they
    are, and 0, where they can already."""
    if vectors.dtype != np.float64 or not vectors.size:
        return vectors, 0
    largest = max(float(vectors.max()), -float(vectors.min()))
    exponent = math.frexp(largest)[1] if largest else 0
    by = _DOWN if exponent > _HIGH else _UP if exponent < _LOW else 0
    return (np.ldexp(vectors, by), by) if by else (vectors, 0)


def means(numbers: npt.NDArray[np.floating], labels: Labels, sizes: Labels) -> F64:
    """Mean of the numbers (n,) of each label, (k,), of which `sizes` tells how many there are."""
    wide = numbers.astype(np.float64)
    found: F64 = np.bincount(labels, weights=wide, minlength=len(sizes)) / sizes
    finite = np.isfinite(found)
    if finite.all():
        return found
    smaller = np.bincount(labels, weights=np.ldexp(wide, _DOWN), minlength=len(sizes)) / sizes
    # the mean of the largest numbers may be rounded beyond them
    largest = np.ldexp(_LARGEST, _DOWN)
    return np.where(finite, found, np.ldexp(np.clip(smaller, -largest, largest), -_DOWN))


def times_square(value: float, scale: float, exponent: int) -> float:
    """value * (scale * 2^exponent)^2, infinity where that is no float64."""
    mantissa, own = math.frexp(scale)
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value * mantissa**2, 2 * (own + exponent)))


def relative_distortion(vectors: npt.NDArray[np.floating], centroids: F64, labels: Labels) -> float:
    """Squared distance of vectors (n, d) to their centroids (k, d) relative to that to their mean;
    0 where they are all the same."""
    vectors, exponent = moderate(vectors)
    centroids = np.ldexp(centroids, exponent) if exponent else centroids
    total = np.zeros(vectors.shape[1])
    for block, _ in _blocks(vectors, labels):
        total += block.sum(axis=0)
    mean = total / len(vectors)
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
    vectors: npt.NDArray[np.floating], centroids: F64, labels: Labels, mean: F64, by: int
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


def _blocks(vectors: npt.NDArray[np.floating], labels: Labels) -> Iterator[tuple[F64, Labels]]:
    """Vectors in float64 and their labels, a block at a time."""
    for start in range(0, len(vectors), SUM_BLOCK):
        part = slice(start, start + SUM_BLOCK)
        yield vectors[part].astype(np.float64), labels[part]
