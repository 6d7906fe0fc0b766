"""k-means over edge vectors (eqs. 7 to 9 of the MetaCluster paper), the same for any thread count.

Greedy k-means++ (Arthur and Vassilvitskii 2007, with the local trials scikit-learn uses) on a
seeded sample, then Lloyd's iterations on all vectors. The assignment is one matrix product for
each block of rows, of a size that does not depend on the number of threads and whose result
stays in cache; sums are taken in float64 in a fixed order; ties go to the lowest index.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

MAX_CLUSTERS = 65_536
# Rows of a block times centroids: 1 MB of float32 distances.
_BLOCK_CELLS = 1 << 18


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Clustering:
    """Result of `fit`.

    centroids  : (k, d) float64, ordered by number of vectors descending, then lexicographically
    labels     : (n,) index of each vector's centroid
    inertia    : sum of squared distances of the vectors to their centroids
    iterations : Lloyd iterations that ran, 0 when the codebook is exact
    exact      : whether every distinct vector has a centroid of its own
    repaired   : empty clusters that were moved to far vectors
    """

    centroids: F64
    labels: Labels
    inertia: float
    iterations: int
    exact: bool
    repaired: int


@dataclass(frozen=True, slots=True, eq=False)
class LloydResult:
    """Result of `lloyd`: centroids (k, d), labels (n,), inertia, iterations, repaired clusters."""

    centroids: F64
    labels: Labels
    inertia: float
    iterations: int
    repaired: int


def fit(
    vectors: npt.NDArray[np.floating], clusters: int, *, seed: int = 0, max_iterations: int = 100
) -> Clustering:
    """Cluster `vectors`, shape (n, d), n >= 1, all finite, into at most `clusters` groups.

    With at most `clusters` distinct vectors the result is exact and has that many centroids.
    """
    exact = _exact(vectors, clusters)
    if exact is not None:
        return _canonical(vectors, *exact, inertia=0.0, iterations=0, exact=True, repaired=0)
    points, _, scale = _normalised(vectors)
    rng = np.random.Generator(np.random.PCG64(seed))
    with threadpool_limits(1):
        start = plus_plus(points, clusters, rng)
        result = lloyd(points, start, max_iterations=max_iterations)
    means, labels = _compact(vectors, result.labels, clusters)
    return _canonical(
        vectors,
        means,
        labels,
        inertia=result.inertia * scale**2,
        iterations=result.iterations,
        exact=False,
        repaired=result.repaired,
    )


def assign(vectors: npt.NDArray[np.floating], centroids: npt.NDArray[np.floating]) -> Labels:
    """Nearest centroid of each vector, ties to the lowest index (eq. 9). (n, d), (k, d) -> (n,)."""
    points, shift, scale = _normalised(vectors)
    moved = ((centroids.astype(np.float64) - shift) / scale).astype(np.float32)
    with threadpool_limits(1):
        return _Assignment(points)(moved)[0]


def lloyd(points: F32, start: npt.NDArray[np.floating], *, max_iterations: int) -> LloydResult:
    """Lloyd's iterations from the centroids `start`, until no label changes.

    points : (n, d) float32; start : (k, d). Empty clusters move to the vectors that are farthest
    from their centroids.
    """
    planes = np.ascontiguousarray(points.T, dtype=np.float64)  # (d, n) for bincount
    step = _Assignment(points)
    centroids = start.astype(np.float64)
    labels, distances = step(centroids.astype(np.float32))
    repaired = iterations = 0
    while iterations < max_iterations:
        iterations += 1
        previous = labels
        centroids, moved = _means(planes, labels, distances, centroids)
        repaired += moved
        labels, distances = step(centroids.astype(np.float32))
        if not moved and np.array_equal(labels, previous):
            break
    inertia = float(np.maximum(distances, 0).sum(dtype=np.float64))
    return LloydResult(centroids, labels, inertia, iterations, repaired)


def _means(planes: F64, labels: Labels, distances: F32, centroids: F64) -> tuple[F64, int]:
    """Mean of each cluster (eq. 8); empty ones are placed on the farthest distinct vectors."""
    k = len(centroids)
    counts = np.bincount(labels, minlength=k)
    sums = np.stack([np.bincount(labels, weights=plane, minlength=k) for plane in planes], axis=1)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return means, 0
    taken: list[F64] = []
    for row in np.argsort(-distances, kind="stable")[: 8 * len(empty)]:
        if distances[row] <= 0 or len(taken) == len(empty):
            break
        vector = planes[:, row]
        if not any(np.array_equal(vector, other) for other in taken):
            taken.append(vector)
    means[empty[: len(taken)]] = np.array(taken).reshape(-1, len(planes))
    return means, len(taken)


class _Assignment:
    """Labels and squared distances of fixed points, block by block on a few threads.

    |x - c|^2 = |x|^2 + (x, 1) . (-2c, |c|^2): the second term is one matrix product.
    """

    def __init__(self, points: F32) -> None:
        self.extended = np.concatenate(
            [points, np.ones((len(points), 1), np.float32)], axis=1, dtype=np.float32
        )
        self.norms = np.einsum("nd,nd->n", points, points)

    def __call__(self, centroids: F32) -> tuple[Labels, F32]:
        n, k = len(self.extended), len(centroids)
        squared = np.einsum("kd,kd->k", centroids, centroids)
        table = np.ascontiguousarray(np.concatenate([-2 * centroids, squared[:, None]], axis=1).T)
        labels = np.empty(n, np.int64)
        nearest = np.empty(n, np.float32)
        rows = max(16, _BLOCK_CELLS // k)
        starts = range(0, n, rows)

        def work(share: range) -> None:
            scratch = np.empty((rows, k), np.float32)
            for start in share:
                stop = min(n, start + rows)
                cells = np.matmul(self.extended[start:stop], table, out=scratch[: stop - start])
                cells.argmin(axis=1, out=labels[start:stop])
                nearest[start:stop] = np.take_along_axis(
                    cells, labels[start:stop, None], axis=1
                ).reshape(-1)

        _in_threads(work, starts)
        return labels, nearest + self.norms


def _in_threads(work: Callable[[range], None], items: range) -> None:
    """Run `work` on interleaved shares of `items`, one a thread; who does what changes nothing."""
    threads = min(_thread_count(), len(items))
    if threads <= 1:
        return work(items)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [items[offset::threads] for offset in range(threads)]))
    return None


def _thread_count() -> int:
    limit = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(int(limit), 64)) if limit.isdigit() else max(1, min(available or 1, 16))


def plus_plus(points: F32, clusters: int, rng: np.random.Generator) -> F32:
    """Greedy k-means++ start on a seeded sample of `points`. Returns (clusters, d).

    Above 4,096 clusters a seeded choice of rows takes its place: its quadratic cost buys little
    where clusters hold a handful of vectors.
    """
    n = len(points)
    if clusters > 4096:
        return points[np.sort(rng.choice(n, clusters, replace=False))]
    size = min(n, max(16_384, 64 * clusters))
    sample = points[np.sort(rng.choice(n, size, replace=False))] if size < n else points
    trials = 2 + int(np.log(clusters))
    squared = np.einsum("nd,nd->n", sample, sample)
    chosen = np.empty((clusters, sample.shape[1]), np.float32)
    first = int(rng.integers(size))
    chosen[0] = sample[first]
    closest = _squared_to(sample, squared, chosen[:1])[0]
    for position in range(1, clusters):
        cumulative = np.cumsum(closest, dtype=np.float64)
        draws = rng.random(trials) * cumulative[-1]
        candidates = np.minimum(np.searchsorted(cumulative, draws, side="right"), size - 1)
        reduced = np.minimum(_squared_to(sample, squared, sample[candidates]), closest)
        best = int(np.argmin(reduced.sum(axis=1, dtype=np.float64)))
        closest = reduced[best]
        chosen[position] = sample[candidates[best]]
    return chosen


def _squared_to(sample: F32, squared: F32, centres: F32) -> F32:
    """Squared distances (centre, sample)."""
    norms = np.einsum("cd,cd->c", centres, centres)
    result: F32 = np.maximum(norms[:, None] - 2 * (centres @ sample.T) + squared, 0)
    return result


def _normalised(vectors: npt.NDArray[np.floating]) -> tuple[F32, F64, float]:
    """Vectors moved to their mean and scaled to at most 1, so that squares neither cancel nor
    overflow: (points, shift, scale)."""
    wide = vectors.astype(np.float64)
    shift = wide.mean(axis=0)
    wide -= shift
    scale = float(np.abs(wide).max()) or 1.0
    return (wide / scale).astype(np.float32), shift, scale


def _exact(vectors: npt.NDArray[np.floating], clusters: int) -> tuple[F64, Labels] | None:
    """The distinct vectors and their labels when there are at most `clusters`, else None."""
    probe = vectors[: 4 * clusters + 64]
    if len(np.unique(probe, axis=0)) > clusters:
        return None
    distinct, labels = np.unique(vectors, axis=0, return_inverse=True)
    if len(distinct) > clusters:
        return None
    return distinct.astype(np.float64), labels.reshape(-1).astype(np.int64)


def _compact(
    vectors: npt.NDArray[np.floating], labels: Labels, clusters: int
) -> tuple[F64, Labels]:
    """Means in float64 of the clusters that are used, labels renumbered."""
    counts = np.bincount(labels, minlength=clusters)
    used = np.flatnonzero(counts)
    number = np.full(clusters, -1, np.int64)
    number[used] = np.arange(len(used))
    labels = number[labels]
    planes = [np.ascontiguousarray(plane, dtype=np.float64) for plane in vectors.T]
    sums = [np.bincount(labels, weights=plane, minlength=len(used)) for plane in planes]
    return np.stack(sums, axis=1) / counts[used, None], labels


def _canonical(
    vectors: npt.NDArray[np.floating],
    centroids: F64,
    labels: Labels,
    *,
    inertia: float,
    iterations: int,
    exact: bool,
    repaired: int,
) -> Clustering:
    """Order centroids by use, descending, then by their coefficients, ascending."""
    counts = np.bincount(labels, minlength=len(centroids))
    order = np.lexsort((*centroids.T[::-1], -counts))
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return Clustering(
        centroids=centroids[order],
        labels=number[labels],
        inertia=inertia,
        iterations=iterations,
        exact=exact,
        repaired=repaired,
    )
