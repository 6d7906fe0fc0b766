"""k-means over edge vectors (eqs. 7 to 9 of the MetaCluster paper), the same for any thread count.

Greedy k-means++ (Arthur and Vassilvitskii 2007, with the local trials scikit-learn uses) on a
seeded sample, then Lloyd's iterations on all vectors. The assignment is one matrix product for
each block of rows, of a size that does not depend on the number of threads and whose result
stays in cache; sums are taken in float64 in a fixed order; ties go to the lowest index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

MAX_CLUSTERS = 65_536
# Rows times centroids of a batch: 2 MB of float32 products, near enough to the cache.
_BATCH_CELLS = 1 << 19
_SPAN = 512
# From this many centroids on, spans of neighbouring vectors are compared with few of them.
_MANY = 64
_SUM_BLOCK = 1 << 16


@contextmanager
def one_thread() -> Iterator[None]:
    """Run BLAS and torch on one thread, so that results do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


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
    moved = (centroids.astype(np.float64) - shift) / scale
    with one_thread():
        return _Rows(points, len(moved)).assign(moved)


@one_thread()
def lloyd(points: F32, start: npt.NDArray[np.floating], *, max_iterations: int) -> LloydResult:
    """Lloyd's iterations from the centroids `start`, until no label changes.

    points : (n, d) float32; start : (k, d). Empty clusters move to the vectors that are farthest
    from their centroids. With many centroids the vectors are put in order of their first
    clusters once, so that later assignments compare each span of neighbours with the few
    centroids that can be nearest to any of them; the labels are those of the full comparison.
    """
    centroids = start.astype(np.float64)
    rows = _Rows(points, len(start))
    labels = rows.assign(centroids)
    order = None
    if len(start) >= _MANY and len(points) >= 16 * _SPAN:
        away = rows.distances(centroids, labels)
        order = np.argsort(labels + away / (2 * away.max() + 1e-30))
        rows = _Rows(points[order], len(start), near=True)
        order = order[rows.sort_by_candidates(centroids)]
        labels = labels[order]
    sums = _Sums(rows.points, labels, len(start))
    repaired = iterations = 0
    while iterations < max_iterations:
        iterations += 1
        centroids, moved = _means(rows, sums, labels, centroids)
        repaired += moved
        previous = labels
        labels = rows.assign(centroids)
        changed = sums.move(rows.points, previous, labels)
        if not moved and not changed:
            break
    inertia = float(rows.distances(centroids, labels).sum())
    if order is not None:
        labels = _undo(order, labels)
    return LloydResult(centroids, labels, inertia, iterations, repaired)


def _undo(order: Labels, values: Labels) -> Labels:
    result = np.empty_like(values)
    result[order] = values
    return result


class _Sums:
    """Count and sum (k, d) in float64 of the members of every cluster, kept up to date."""

    def __init__(self, points: F32, labels: Labels, clusters: int) -> None:
        self.counts = np.bincount(labels, minlength=clusters)
        self.totals = np.zeros((clusters, points.shape[1]))
        for start in range(0, len(points), _SUM_BLOCK):
            block = slice(start, start + _SUM_BLOCK)
            self.totals += _totals(points[block], labels[block], clusters)

    def move(self, points: F32, previous: Labels, labels: Labels) -> int:
        """Move the vectors whose label changed; returns how many did."""
        rows = np.flatnonzero(previous != labels)
        clusters = len(self.counts)
        for start in range(0, len(rows), _SUM_BLOCK):
            part = rows[start : start + _SUM_BLOCK]
            members, old, new = points[part], previous[part], labels[part]
            self.totals += _totals(members, new, clusters) - _totals(members, old, clusters)
            self.counts += np.bincount(new, minlength=clusters) - np.bincount(
                old, minlength=clusters
            )
        return len(rows)


def _totals(points: F32, labels: Labels, clusters: int) -> F64:
    """Sum of the vectors of each label, (clusters, d)."""
    columns = [np.bincount(labels, weights=column, minlength=clusters) for column in points.T]
    return np.stack(columns, axis=1)


def _means(rows: _Rows, sums: _Sums, labels: Labels, centroids: F64) -> tuple[F64, int]:
    """Mean of each cluster (eq. 8); empty ones are placed on the farthest distinct vectors."""
    counts = sums.counts[:, None]
    means = np.where(counts > 0, sums.totals / np.maximum(counts, 1), centroids)
    empty = np.flatnonzero(sums.counts == 0)
    if not len(empty):
        return means, 0
    distances = rows.distances(centroids, labels)
    taken: list[F32] = []
    for row in np.argsort(-distances, kind="stable")[: 8 * len(empty)]:
        if distances[row] <= 0 or len(taken) == len(empty):
            break
        if not any(np.array_equal(rows.points[row], other) for other in taken):
            taken.append(rows.points[row])
    means[empty[: len(taken)]] = np.array(taken, dtype=np.float64).reshape(len(taken), -1)
    return means, len(taken)


class _Rows:
    """Fixed vectors, cut into spans of equal length and compared with centroids batch by batch.

    |x - c|^2 = |x|^2 - (x, 1) . (2c, -|c|^2): the second term, the larger the nearer, is a batched
    matrix product, (span, centroid, row). Its largest number for each row is found by a
    max-pooling over all centroids, the one reduction of torch that is vectorised and tells the
    position; ties go to the first.

    With `near`, rows are in an order in which neighbours are near each other. A centroid can be
    nearest to a row of a span with mean p and radius R only if its distance from p is at most 2R
    more than that of the centroid nearest to p (triangle inequality); the others are left out.
    """

    def __init__(self, points: F32, clusters: int, *, near: bool = False) -> None:
        self.points = points
        n, d = points.shape
        self.length = min(_SPAN, n, max(16, _BATCH_CELLS // clusters))
        spans = -(-n // self.length)
        padded = np.empty((spans * self.length, d + 1), np.float32)
        padded[:n, :d], padded[n:, :d], padded[:, d] = points, points[-1], 1
        cut = padded.reshape(spans, self.length, d + 1)
        self.spans = torch.from_numpy(np.ascontiguousarray(cut.transpose(0, 2, 1)))
        self.near = near
        if near:
            members = cut[:, :, :d].astype(np.float64)
            self.pivots = members.mean(axis=1)
            offsets = members - self.pivots[:, None]
            self.radii = np.sqrt(np.einsum("srd,srd->sr", offsets, offsets).max(axis=1))

    def assign(self, centroids: F64) -> Labels:
        """Nearest centroid of every vector, (n,)."""
        narrow = centroids.astype(np.float32)
        squared = np.einsum("kd,kd->k", narrow, narrow)
        table = torch.from_numpy(np.concatenate([2 * narrow, -squared[:, None]], axis=1))
        labels = torch.empty(len(self.spans), self.length, dtype=torch.int64)
        candidates, counts = self._candidates(centroids)

        def work(batch: _Batch) -> None:
            first, last, width = batch
            chosen = candidates[first:last, :width]
            cells = torch.bmm(table[chosen], self.spans[first:last])
            image = cells[:, :, None].permute(0, 3, 1, 2)  # (span, row, centroid, 1), rows last
            found = functional.max_pool2d(image, (width, 1), return_indices=True)[1]
            torch.gather(chosen, 1, found.view(-1, self.length), out=labels[first:last])

        _in_threads(work, list(self._batches(counts)))
        return labels.view(-1)[: len(self.points)].numpy()

    def _candidates(self, centroids: F64) -> tuple[Tensor, list[int]]:
        """Centroids that each span is compared with, (span, widest), and how many they are.

        Rows with fewer than the widest repeat their last one, which changes no result.
        """
        if not self.near:
            every = torch.arange(len(centroids)).expand(len(self.spans), -1)
            return every, [len(centroids)] * len(self.spans)
        of_span, found = torch.from_numpy(self._reachable(centroids)).nonzero(as_tuple=True)
        counts = torch.bincount(of_span, minlength=len(self.spans))
        firsts = counts.cumsum(0) - counts
        places = torch.arange(int(counts.max())).minimum(counts[:, None] - 1)
        return found[firsts[:, None] + places], counts.tolist()

    def _reachable(self, centroids: F64) -> npt.NDArray[np.bool_]:
        """Whether a centroid can be nearest to a row of a span, (span, k)."""
        squared = (centroids**2).sum(1) - 2 * self.pivots @ centroids.T
        squared += (self.pivots**2).sum(1)[:, None]
        away = np.sqrt(np.maximum(squared, 0))
        # The slack covers the rounding of the float32 comparison.
        reach = (away.min(axis=1) + 2 * self.radii) * (1 + 1e-4) + 1e-6
        reachable: npt.NDArray[np.bool_] = away <= reach[:, None]
        return reachable

    def sort_by_candidates(self, centroids: F64) -> Labels:
        """Bring spans with like numbers of candidates together; returns the rows' new order."""
        counts = self._reachable(centroids).sum(axis=1)
        whole = len(self.points) // self.length
        spans = np.append(np.argsort(counts[:whole], kind="stable"), np.arange(whole, len(counts)))
        rows = (spans[:, None] * self.length + np.arange(self.length)).reshape(-1)
        rows = rows[: len(self.points)]  # only the last span is short, and it stays last
        self.points, self.spans = self.points[rows], self.spans[torch.from_numpy(spans)]
        self.pivots, self.radii = self.pivots[spans], self.radii[spans]
        result: Labels = rows
        return result

    def _batches(self, counts: list[int]) -> Iterator[_Batch]:
        """Runs of spans whose products with their candidates fit into the cache."""
        start, widest = 0, 0
        for number, count in enumerate(counts):
            wider = max(widest, count)
            if number > start and (number + 1 - start) * wider * self.length > _BATCH_CELLS:
                yield _Batch(start, number, widest)
                start, wider = number, count
            widest = wider
        yield _Batch(start, len(counts), widest)

    def distances(self, centroids: F64, labels: Labels) -> F64:
        """Squared distance of every vector to its centroid, (n,)."""
        result = np.empty(len(labels))
        for start in range(0, len(labels), _SUM_BLOCK):
            block = slice(start, start + _SUM_BLOCK)
            offsets = self.points[block] - centroids[labels[block]]
            result[block] = np.einsum("nd,nd->n", offsets, offsets)
        return result


class _Batch(NamedTuple):
    """Spans `first ... last - 1`, compared with `width` centroids each."""

    first: int
    last: int
    width: int


def _in_threads(work: Callable[[_Batch], None], batches: list[_Batch]) -> None:
    """Run `work` on each batch, shared among threads; who does what changes nothing."""
    threads = max(1, min(_thread_count(), len(batches)))
    queue = iter(batches)

    def share(_: int) -> None:
        for batch in queue:
            work(batch)

    if threads == 1:
        share(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))


def _thread_count() -> int:
    limit = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(int(limit), 64)) if limit.isdigit() else max(1, min(available or 1, 16))


@one_thread()
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
