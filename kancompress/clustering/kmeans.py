"""k-means over edge vectors (eqs. 7 to 9 of the MetaCluster paper), the same for any thread count.

Greedy k-means++ (Arthur and Vassilvitskii 2007, with the local trials scikit-learn uses) on a
seeded sample, then Lloyd's iterations on all vectors, with the assignment of
`kancompress.clustering.nearest`, and with momentum where there are many centroids. Sums are taken
in float64 in a fixed order; ties go to the lowest index.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from kancompress.clustering.crew import ALONE, Crew
from kancompress.clustering.magnitudes import means, moderate, times_square
from kancompress.clustering.nearest import (
    SPAN,
    Labels,
    Rows,
    in_threads,
    label_type,
    one_thread,
    span_length,
)
from kancompress.clustering.on_device import OnDevice
from kancompress.clustering.progress import NOBODY, Progress
from kancompress.clustering.vectors import (
    F32,
    F64,
    SUM_BLOCK,
    Given,
    Integers,
    Normalised,
    Points,
    Vectors,
    blocks,
    points_of,
    vectors_of,
)
from kancompress.config import MEMORY, KMeans
from kancompress.system import devices

# From this many centroids on, spans of neighbouring vectors are compared with few of them, and
# they move with momentum. With fewer it gains little, and results are those of scikit-learn.
_MANY = 64
_MOMENTUM = 0.9
# Blocks whose sums are taken before they are added up, so that threads share them.
_AT_ONCE = 8
# Bounds are kept for every span and centroid; above so many, 256 MB, none are.
_MOST_BOUNDS = 1 << 26


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Clustering:
    """Result of `fit`.

    centroids  : (k, d) float64, ordered by number of vectors descending, then lexicographically
    labels     : (n,) index of each vector's centroid
    inertia    : sum of squared distances of the vectors to their centroids, infinite beyond float64
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
    labels: Integers
    inertia: float
    iterations: int
    repaired: int


def fit(
    vectors: Given,
    clusters: int,
    *,
    seed: int = 0,
    max_iterations: int = 100,
    by: KMeans = KMeans.OWN,
    memory: int = MEMORY,
    progress: Progress = NOBODY,
    device: torch.device | None = None,
    crew: Crew = ALONE,
) -> Clustering:
    """Cluster `vectors`, shape (n, d), n >= 1, all finite, into at most `clusters` groups.

    With at most `clusters` distinct vectors the result is exact and has that many centroids.
    Vectors that are read are read again and again; of them memory holds one copy in float32.

    memory   : bytes that the copy may take; of more there is none, as of `ClusterConfig`
    device   : where our k-means compares vectors and adds them up, and where the copy is then; in
               blocks on the CPU when None, to other bits. Start and final means are the CPU's
    progress : told of every iteration, but of scikit-learn's
    crew     : processes that share our k-means on the CPU, each called with the same
    """
    vectors = vectors_of(vectors)
    exact = _exact(vectors, clusters)
    if exact is not None:
        return canonical(*exact, inertia=0.0, iterations=0, exact=True, repaired=0)
    ranged, exponent = moderate(vectors)
    points = _normalised(ranged)
    rng = np.random.Generator(np.random.PCG64(seed))
    start = plus_plus(points, clusters, rng)
    crew.check(points.shift, np.array([points.scale]), start)
    if by is KMeans.OWN:
        with devices.repeatable(device or torch.device("cpu")):
            result = lloyd(
                points,
                start,
                max_iterations=max_iterations,
                memory=memory,
                device=device,
                crew=crew,
                progress=progress,
            )
    else:
        result = scikit_learn(points, start, max_iterations=max_iterations)
    centroids, labels = _compact(vectors, result.labels, clusters)
    return canonical(
        centroids,
        labels,
        inertia=times_square(result.inertia, points.scale, -exponent),
        iterations=result.iterations,
        exact=False,
        repaired=result.repaired,
    )


def comparable(vectors: Given, memory: int = MEMORY) -> Points:
    """The vectors (n, d) moved to their mean and scaled to at most 1, as they are compared.

    memory : bytes that they may take to be held, as of `fit`
    """
    points = _normalised(moderate(vectors_of(vectors))[0])
    return points.held() if 4 * math.prod(points.shape) <= memory else points


def regrouped(vectors: Given, labels: Labels, start: Clustering, iterations: int) -> Clustering:
    """The vectors (n, d) with other labels (n,) than in `start`, each centroid their mean.

    iterations : that led there, beyond those of the start
    """
    centroids, compact = _compact(vectors_of(vectors), labels, len(start.centroids))
    return canonical(
        centroids,
        compact,
        inertia=start.inertia,
        iterations=start.iterations + iterations,
        exact=False,
        repaired=start.repaired,
    )


def column_means(points: F32 | Points, labels: Labels, centroids: F64) -> F64:
    """Mean of each label's points, (k, d); centroids without points stay where they are."""
    sums = _Sums(points_of(points), labels, len(centroids))
    counts = sums.counts[:, None]
    return np.where(counts > 0, sums.totals / np.maximum(counts, 1), centroids)


def assign(vectors: Given, centroids: npt.NDArray[np.floating]) -> Labels:
    """Nearest centroid of each vector, ties to the lowest index (eq. 9). (n, d), (k, d) -> (n,)."""
    ranged, exponent = moderate(vectors_of(vectors))
    points = _normalised(ranged)
    moved = (np.ldexp(centroids.astype(np.float64), exponent) - points.shift) / points.scale
    with one_thread():
        return Rows(points, len(moved)).assign(moved).astype(np.int64)


@one_thread()
def lloyd(
    points: F32 | Points,
    start: npt.NDArray[np.floating],
    *,
    max_iterations: int,
    memory: int = MEMORY,
    progress: Progress = NOBODY,
    device: torch.device | None = None,
    crew: Crew = ALONE,
) -> LloydResult:
    """Lloyd's iterations from the centroids `start`, until no label changes any more.

    points : (n, d) float32; start : (k, d); the rest is as of `fit`. Empty clusters move to the
    vectors that are farthest from their centroids. With many centroids the vectors are put in order
    of their first clusters once, so that later assignments compare each span of neighbours with the
    few centroids that can be nearest to any of them; the labels are those of the full comparison,
    which is what a device does. Many centroids also move with momentum, beyond their means, in all
    iterations but the last one allowed. Where it stops by itself every centroid is its cluster's
    mean, so that a plain iteration changes nothing.
    """
    centroids = crew.agreed(start.astype(np.float64))
    side = _side(points_of(points), centroids, memory, device, crew)
    momentum = _Momentum(_MOMENTUM if len(start) >= _MANY else 0.0)
    repaired = iterations = 0
    while iterations < max_iterations:
        iterations += 1
        progress.at(
            iterations / max_iterations, f"iteration {iterations} of at most {max_iterations}"
        )
        means, moved = _means(side, centroids)
        means, moved = crew.agreed(means), int(crew.agreed(np.array([moved], np.float64))[0])
        repaired += moved
        if moved:
            momentum.forget()
        if iterations < max_iterations:
            centroids = crew.agreed(momentum.beyond(means, centroids, side.counts))
        else:
            centroids = means
        changed = side.assign(centroids)
        if not moved and not changed and np.array_equal(centroids, means):
            break
    return LloydResult(centroids, side.labels(), side.inertia(centroids), iterations, repaired)


class _Side(Protocol):
    """Vectors with their labels, wherever they are compared.

    counts, totals : count (k,) of every cluster's members, and their sum (k, d) in float64
    """

    counts: Labels
    totals: F64

    def assign(self, centroids: F64) -> int:
        """Give every vector its nearest centroid; how many have another one than before."""

    def farthest(self, centroids: F64, count: int) -> tuple[F64, Labels]:
        """As of `Rows`."""

    def point(self, row: int) -> F32:
        """A vector, (d,), by the number that `farthest` gives."""

    def inertia(self, centroids: F64) -> float:
        """Sum of the squared distances of all vectors to their centroids."""

    def labels(self) -> Integers:
        """Labels of the vectors, (n,), in their own order."""


def _side(
    points: Points, centroids: F64, memory: int, device: torch.device | None, crew: Crew
) -> _Side:
    """Where to compare vectors, after the first assignment."""
    if device is None:
        return _OnCpu(points, centroids, memory, crew)
    there = OnDevice(points, len(centroids), device, memory)
    there.assign(centroids)
    return there


class _OnCpu:
    """Vectors that this process compares, alone or with others."""

    def __init__(self, points: Points, centroids: F64, memory: int, crew: Crew) -> None:
        self._rows, self._labels, self._order = _first(points, centroids, memory, crew)
        self._sums = _Sums(self._rows.source, self._labels, len(centroids), crew)
        self.counts, self.totals = self._sums.counts, self._sums.totals

    def assign(self, centroids: F64) -> int:
        """As of `_Side`."""
        previous, self._labels = self._labels, self._rows.assign(centroids)
        return self._sums.move(self._rows.source, previous, self._labels)

    def farthest(self, centroids: F64, count: int) -> tuple[F64, Labels]:
        """As of `_Side`."""
        return self._rows.farthest(centroids, self._labels, count)

    def point(self, row: int) -> F32:
        """As of `_Side`."""
        found: F32 = self._rows.source.block(row, row + 1)[0]
        return found

    def inertia(self, centroids: F64) -> float:
        """As of `_Side`."""
        rows, labels = self._rows, self._labels
        return pairwise(
            lambda start, stop: rows.distances_of(start, stop, centroids, labels), 0, len(labels)
        )

    def labels(self) -> Integers:
        """As of `_Side`."""
        return self._labels if self._order is None else _undo(self._order, self._labels)


def _first(
    points: Points, centroids: F64, memory: int, crew: Crew
) -> tuple[Rows, Integers, Integers | None]:
    """The rows that iterations go through, the labels of the first assignment, and the order in
    which the rows stand; None where it is their own."""
    n, d = points.shape
    k = len(centroids)
    fits = 4 * n * d <= memory
    spans = -(-n // span_length(n, k))
    in_order = fits and k >= _MANY and n >= 16 * SPAN and spans * k <= _MOST_BOUNDS
    if fits and (not in_order or (isinstance(points, Normalised) and points.is_small)):
        points = points.held()
    rows = Rows(points, k, crew)
    labels = rows.assign(centroids)
    if not in_order:
        return rows, labels, None
    # distances under a name of their own would add to the peak of memory
    rows, order = Rows.near(points, centroids, labels, rows.distances(centroids, labels), crew)
    return rows, labels[order], order


def pairwise(read: Callable[[int, int], F64], start: int, stop: int) -> float:
    """The sum of numbers `start ... stop - 1` that are read in parts, added up by halves as numpy
    adds up those that it has in one piece."""
    count = stop - start
    if count <= SUM_BLOCK:
        return float(read(start, stop).sum())
    middle = start + count // 2 - count // 2 % 8
    return pairwise(read, start, middle) + pairwise(read, middle, stop)


@one_thread()
def scikit_learn(
    points: F32 | Points, start: npt.NDArray[np.floating], *, max_iterations: int
) -> LloydResult:
    """The same by scikit-learn's KMeans, which moves empty clusters to far vectors by itself."""
    from sklearn.cluster import KMeans as Estimator
    from sklearn.exceptions import ConvergenceWarning

    estimator = Estimator(
        len(start),
        init=start.astype(np.float32),
        n_init=1,
        max_iter=max_iterations,
        tol=0,
        algorithm="lloyd",
    )
    with warnings.catch_warnings():
        # vectors that differ may be equal once scaled; their cluster is left out later
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(points if isinstance(points, np.ndarray) else points.held().array)
    centroids: F64 = estimator.cluster_centers_.astype(np.float64)
    labels: Labels = estimator.labels_.astype(np.int64)
    return LloydResult(centroids, labels, float(estimator.inertia_), int(estimator.n_iter_), 0)


def _undo(order: Integers, values: Integers) -> Integers:
    result = np.empty_like(values)
    result[order] = values
    return result


class _Momentum:
    """Where centroids move to: beyond their means, by a share of the means' last move.

    An iteration of Lloyd's is a step of gradient descent whose length each cluster chooses by its
    size, so what speeds up gradient descent speeds it up (Nesterov 1983). Where the last move leads
    uphill the means themselves are taken (O'Donoghue and Candes 2015, the gradient scheme).
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._last: F64 | None = None

    def forget(self) -> None:
        """Start anew, after empty clusters were moved."""
        self._last = None

    def beyond(self, means: F64, centroids: F64, counts: Labels) -> F64:
        """The next centroids (k, d), from the means (k, d) and sizes (k,) of the clusters that
        `centroids` made."""
        last, self._last = self._last, means
        if last is None or not self._share:
            return means
        moves = means - last
        # inertia has the gradient 2 * count * (centroid - mean)
        if np.einsum("k,kd,kd->", counts, centroids - means, moves) > 0:
            return means
        return means + self._share * moves


class _Sums:
    """Count and sum (k, d) in float64 of the members of every cluster, kept up to date."""

    def __init__(self, points: Points, labels: Integers, clusters: int, crew: Crew = ALONE) -> None:
        count, d = points.shape
        self._crew = crew
        self.counts = _counts(labels, clusters)
        self.totals = np.zeros((clusters, d))
        blocks = range(0, count, SUM_BLOCK)
        at_once = _AT_ONCE * crew.count
        for first in range(0, len(blocks), at_once):
            starts = blocks[first : first + at_once]
            parts = np.zeros((len(starts), *self.totals.shape))

            def work(number: int, starts: range = starts, parts: F64 = parts) -> None:
                start, stop = starts[number], min(starts[number] + SUM_BLOCK, count)
                parts[number] = _totals(points.block(start, stop), labels[start:stop], clusters)

            in_threads(work, crew.mine(len(starts)))
            crew.summed(parts)
            for part in parts:
                self.totals += part

    def move(self, points: Points, previous: Integers, labels: Integers) -> int:
        """Move the vectors whose label changed; returns how many did."""
        clusters, changed = len(self.counts), 0
        for parts in self._crew.rounds(_changed(previous, labels)):
            moves = np.zeros((len(parts), *self.totals.shape))
            for number in self._crew.mine(len(parts)):
                part = parts[number]
                members, old, new = points.take(part), previous[part], labels[part]
                moves[number] = _totals(members, new, clusters) - _totals(members, old, clusters)
            self._crew.summed(moves)
            for part, move in zip(parts, moves, strict=True):
                changed += len(part)
                old, new = previous[part], labels[part]
                self.totals += move
                self.counts += np.bincount(new, minlength=clusters) - np.bincount(
                    old, minlength=clusters
                )
        return changed


def _changed(previous: Integers, labels: Integers) -> Iterator[Labels]:
    """Rows whose label changed, SUM_BLOCK of them at a time."""
    waiting = np.empty(0, np.int64)
    for start in range(0, len(labels), SUM_BLOCK):
        part = slice(start, start + SUM_BLOCK)
        own = start + np.flatnonzero(previous[part] != labels[part])
        waiting = np.concatenate([waiting, own])
        if len(waiting) >= SUM_BLOCK:
            yield waiting[:SUM_BLOCK]
            waiting = waiting[SUM_BLOCK:]
    if len(waiting):
        yield waiting


def _counts(labels: Integers, clusters: int) -> Labels:
    """How many rows have each label, (clusters,)."""
    counts = np.zeros(clusters, np.int64)
    for start in range(0, len(labels), SUM_BLOCK):
        counts += np.bincount(labels[start : start + SUM_BLOCK], minlength=clusters)
    return counts


def _totals(points: F32, labels: Integers, clusters: int) -> F64:
    """Sum of the vectors of each label, (clusters, d)."""
    totals = torch.zeros(clusters, points.shape[1], dtype=torch.float64)
    wide = torch.from_numpy(points.astype(np.float64))
    totals.index_add_(0, torch.from_numpy(labels.astype(np.int64)), wide)  # row after row
    return totals.numpy()


def _means(side: _Side, centroids: F64) -> tuple[F64, int]:
    """Mean of each cluster (eq. 8); empty ones are placed on the farthest distinct vectors."""
    counts = side.counts[:, None]
    means = np.where(counts > 0, side.totals / np.maximum(counts, 1), centroids)
    empty = np.flatnonzero(side.counts == 0)
    if not len(empty):
        return means, 0
    taken: list[F32] = []
    for distance, row in zip(*side.farthest(centroids, 8 * len(empty)), strict=True):
        if distance <= 0 or len(taken) == len(empty):
            break
        point = side.point(int(row))
        if not any(np.array_equal(point, other) for other in taken):
            taken.append(point)
    means[empty[: len(taken)]] = np.array(taken, dtype=np.float64).reshape(-1, means.shape[1])
    return means, len(taken)


@one_thread()
def plus_plus(points: F32 | Points, clusters: int, rng: np.random.Generator) -> F32:
    """Greedy k-means++ start on a seeded sample of `points`. Returns (clusters, d).

    Above 4,096 clusters a seeded choice of rows takes its place: its quadratic cost buys little
    where clusters hold a handful of vectors.
    """
    points = points_of(points)
    n, _ = points.shape
    if clusters > 4096:
        return points.take(np.sort(rng.choice(n, clusters, replace=False)))
    size = min(n, max(16_384, 64 * clusters))
    whole = size == n
    sample = points.block(0, n) if whole else points.take(np.sort(rng.choice(n, size, False)))
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
        reduced = _squared_to(sample, squared, sample[candidates])
        np.minimum(reduced, closest, out=reduced)
        best = int(np.argmin(reduced.sum(axis=1, dtype=np.float64)))
        closest = reduced[best]
        chosen[position] = sample[candidates[best]]
    return chosen


def _squared_to(sample: F32, squared: F32, centres: F32) -> F32:
    """Squared distances (centre, sample)."""
    result: F32 = (-2 * centres) @ sample.T
    result += np.einsum("cd,cd->c", centres, centres)[:, None]
    result += squared
    return np.maximum(result, 0, out=result)


def _normalised(vectors: Vectors) -> Normalised:
    """Vectors moved to their mean and scaled to at most 1, so that squares neither cancel nor
    overflow."""
    shift = _column_sums(vectors) / vectors.shape[0]
    scale = 0.0
    for _, block in blocks(vectors):
        block -= shift
        scale = max(scale, float(np.abs(block, out=block).max()))
    return Normalised(vectors, shift, scale or 1.0)


def _column_sums(vectors: Vectors) -> F64:
    """Sums of the columns in float64, row after row whatever the block: (n, d) -> (d,)."""
    count, d = vectors.shape
    if d == 1:  # numpy sums a single column by halves

        def column(start: int, stop: int) -> F64:
            return vectors.block(start, stop).astype(np.float64)[:, 0]

        return np.array([pairwise(column, 0, count)])
    total = np.zeros((1, d))
    for _, block in blocks(vectors):
        total = np.concatenate([total, block]).sum(axis=0, keepdims=True)
    result: F64 = total[0]
    return result


def count_distinct(vectors: Given, limit: int) -> int:
    """Number of distinct vectors, (n, d), and `limit` + 1 where there are more."""
    vectors = vectors_of(vectors)
    count, d = vectors.shape
    whole = np.dtype((np.void, vectors.dtype.itemsize * d))
    found = np.empty(0, whole)
    for start in range(0, count, SUM_BLOCK):
        part = vectors.block(start, min(start + SUM_BLOCK, count))
        block = np.ascontiguousarray(part + vectors.dtype.type(0))
        found = np.unique(np.concatenate([found, np.unique(block.view(whole).reshape(-1))]))
        if len(found) > limit:
            return limit + 1
    return len(found)


def count_separate(vectors: Given, limit: int) -> int:
    """Number of vectors that `fit` tells apart: it compares them moved, scaled and in float32."""
    vectors = vectors_of(vectors)
    if not vectors.shape[0]:
        return 0
    return count_distinct(_normalised(moderate(vectors)[0]), limit)


def _exact(vectors: Vectors, clusters: int) -> tuple[F64, Labels] | None:
    """The distinct vectors and their labels when there are at most `clusters`, else None."""
    probe = vectors.block(0, 4 * clusters + 64)
    if len(np.unique(probe, axis=0)) > clusters or count_distinct(vectors, clusters) > clusters:
        return None
    whole = vectors.block(0, vectors.shape[0])
    distinct, labels = np.unique(whole, axis=0, return_inverse=True)
    if len(distinct) > clusters:
        return None
    return distinct.astype(np.float64), labels.reshape(-1).astype(np.int64)


def _compact(vectors: Vectors, labels: Integers, clusters: int) -> tuple[F64, Integers]:
    """Means in float64 of the clusters that are used, labels renumbered."""
    counts = _counts(labels, clusters)
    used = np.flatnonzero(counts)
    number = np.zeros(clusters, label_type(len(used)))
    number[used] = np.arange(len(used))
    labels = number[labels]
    return means(vectors, labels, counts[used]), labels


def canonical(
    centroids: F64,
    labels: Integers,
    *,
    inertia: float,
    iterations: int,
    exact: bool,
    repaired: int,
) -> Clustering:
    """Order centroids by use, descending, then by their coefficients, ascending."""
    counts = _counts(labels, len(centroids))
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
