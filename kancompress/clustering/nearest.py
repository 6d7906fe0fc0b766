"""The nearest centroid of every vector, the same bits for any number of threads.

The work is cut into batches of a size that does not depend on the number of threads, each done
by one thread with single-threaded BLAS.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional

from kancompress.clustering.crew import ALONE, Crew
from kancompress.clustering.vectors import F32, F64, SUM_BLOCK, Integers, Points, points_of

Labels = npt.NDArray[np.int64]
_T = TypeVar("_T")

# Rows times centroids of a batch: 4 MB of float32 products, near enough to the cache and large
# enough that the calls do not count.
_BATCH_CELLS = 1 << 20
# Rows of a span.
SPAN = 512
# Bytes of spans that are cut once; more of them are cut whenever they are compared.
_CUT_ONCE = 1 << 26


@contextmanager
def one_thread() -> Iterator[None]:
    """Run BLAS and torch on one thread, so that results do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries(len(sys.modules)).limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """Those of this process that compute in threads. They are looked for anew where the number of
    imported modules is another one, as looking takes longer than clustering a small layer."""
    return ThreadpoolController()


class Rows:
    """Fixed vectors, cut into spans of equal length and compared with centroids batch by batch.

    -|x - c|^2 = (x, 1, -|x|^2) . (2c, -|c|^2, 1) is a batched matrix product, (span, centroid,
    row). Its largest number for each row is found by a max-pooling over all centroids, the one
    reduction of torch that is vectorised and tells the position; ties go to the first.

    `near` rows stand in an order in which neighbours are about equally far from the same centroid.
    Then each span keeps a lower bound of its rows' distance to every centroid, the distance when it
    was last measured less what the centroid has moved since, and is compared only with those that
    could be nearest to one of its rows (Elkan 2003, with spans for rows).

    Several processes (`crew`) each compare a run of spans, in the batches of a single process, and
    tell the others the labels. Bounds are right for a process's own spans alone.
    """

    def __init__(self, points: F32 | Points, clusters: int, crew: Crew = ALONE) -> None:
        self._source = points_of(points)
        self._crew = crew
        n, d = self._source.shape
        self.length = span_length(n, clusters)
        count = -(-n // self.length)
        self.count = count
        self._cuts = crew.cuts(np.ones(count))
        self._spans: Tensor | None = None
        if 4 * count * (d + 2) * self.length <= _CUT_ONCE:
            self._spans = self._cut(0, count)
        self.labels = np.zeros((count, self.length), label_type(clusters))
        self._least: Tensor | None = None
        self._far = self._slack = self._last = torch.empty(0)

    @classmethod
    def near(
        cls,
        points: F32 | Points,
        centroids: F64,
        labels: Integers,
        squared: F64,
        crew: Crew = ALONE,
    ) -> tuple[Rows, Integers]:
        """The rows in such an order, and the order.

        centroids : (k, d) to which `labels` and squared distances of the rows are known, (n,) each
        squared   : becomes something else
        """
        distances = np.sqrt(squared, out=squared)
        order = _by_label(labels, distances)
        source = points_of(points)
        n = len(order)
        length = span_length(n, len(centroids))
        least, far = _first_bounds(centroids, labels[order], distances[order], length)
        del distances, squared
        # Spans that are compared with equally many stand together; one that is not full stays last.
        compared = np.concatenate(
            [
                (least[part] <= far[part].max(1, keepdims=True)).sum(1)
                for part in _slices(len(least), SUM_BLOCK // length + 1)
            ]
        )
        turn = np.argsort(compared[: n // length], kind="stable")
        turn = np.append(turn, np.arange(len(turn), len(compared)))
        whole = n // length * length
        front = order[:whole].reshape(-1, length)[turn[: whole // length]]
        order[:whole] = front.reshape(-1)
        del front
        least, far = least[turn], far[turn]
        rows = cls(source.ordered(order), len(centroids), crew)
        rows._cuts = crew.cuts(compared[turn])
        crew.check(order, np.array(rows._cuts))
        rows._least, rows._far = torch.from_numpy(least), torch.from_numpy(far)
        flat = rows.labels.reshape(-1)
        flat[:n] = labels[order]
        flat[n:] = labels[order[-1]]
        rows._slack = rows._slacks()
        rows._last = torch.from_numpy(centroids)
        return rows, order

    @property
    def points(self) -> F32:
        """The rows, (n, d), in memory."""
        return self._source.block(0, len(self))

    @property
    def source(self) -> Points:
        """The rows, wherever they lie."""
        return self._source

    def __len__(self) -> int:
        return self._source.shape[0]

    def assign(self, centroids: F64) -> Integers:
        """Nearest centroid of every vector, (n,) of `label_type`."""
        narrow = torch.from_numpy(centroids.astype(np.float32))
        ends = torch.stack([-(narrow**2).sum(1), torch.ones(len(narrow))], dim=1)
        table = torch.cat([2 * narrow, ends], dim=1)
        self._follow(torch.from_numpy(centroids))
        candidates = self._candidates(len(narrow))

        def work(batch: _Batch) -> None:
            first, last, width = batch
            chosen = candidates.of(first, last, width)
            cells = torch.bmm(functional.embedding(chosen, table), self._cut_at(first, last))
            image = cells[:, :, None].permute(0, 3, 1, 2)  # (span, row, centroid, 1), rows last
            best, found = functional.max_pool2d(image, (width, 1), return_indices=True)
            labels = torch.gather(chosen, 1, found.view(-1, self.length))
            self.labels[first:last] = labels.numpy()
            if self._least is not None:
                slack = self._slack[first:last]
                self._least[first:last].scatter_(1, chosen, _root(cells.amax(2), -slack))
                self._far[first:last] = _root(best.view(-1, self.length), slack)

        batches = _batches(candidates.counts, _BATCH_CELLS // self.length)
        start, stop = self._crew.own(self._cuts)
        # one that belongs to two processes is compared by both
        in_threads(work, [one for one in batches if one.first < stop and one.last > start])
        self._crew.told(self.labels, self._cuts)
        return self.labels.reshape(-1)[: len(self)].copy()

    def _cut_at(self, first: int, last: int) -> Tensor:
        """Spans `first ... last - 1`, (span, d + 2, length)."""
        return self._cut(first, last) if self._spans is None else self._spans[first:last]

    def _cut(self, first: int, last: int) -> Tensor:
        part = self._source.block(first * self.length, min(last * self.length, len(self)))
        return torch.from_numpy(_cut(part, last - first, self.length))

    def _slacks(self) -> Tensor:
        """What rounding may do to a squared distance, by span, (span, 1): bounds give way by as
        much."""
        parts = _slices(self.count, max(1, SUM_BLOCK // self.length))
        least = [self._cut_at(part.start, part.stop)[:, -1].amin(1, keepdim=True) for part in parts]
        return -2e-6 * torch.cat(least)

    def _follow(self, centroids: Tensor) -> None:
        """Move the bounds by as much as the centroids have moved."""
        if self._least is not None:
            moved = (centroids - self._last).norm(dim=1).float()
            self._least -= moved
            far, labels, by = self._far.view(-1), self.labels.reshape(-1), moved.numpy()
            for part in _slices(len(labels), SUM_BLOCK):
                far[part] += torch.from_numpy(by[labels[part]])
            self._last = centroids.clone()

    def _candidates(self, clusters: int) -> _Candidates | _All:
        """Centroids that each span is compared with."""
        if self._least is None:
            return _All(self.count, clusters)
        # The slack covers the rounding of the float32 comparison.
        own = slice(*self._crew.own(self._cuts))
        reach = self._far[own].amax(1, keepdim=True) * (1 + 1e-4) + 1e-6
        table = (self._least[own] <= reach).numpy()
        if self._crew.count == 1:
            return _Candidates(table)
        whole = np.zeros((self.count, clusters), np.bool_)
        whole[:, 0] = True  # of others' spans, whose labels are theirs to tell
        whole[own] = table
        counts = whole.sum(1)
        self._crew.told(counts, self._cuts)
        return _Candidates(whole, counts.tolist())

    def distances(self, centroids: F64, labels: Integers) -> F64:
        """Squared distance of every vector to its centroid, (n,)."""
        result = np.empty(len(labels))

        def work(start: int) -> None:
            stop = min(start + SUM_BLOCK, len(labels))
            result[start:stop] = self.distances_of(start, stop, centroids, labels)

        in_threads(work, range(0, len(labels), SUM_BLOCK))
        return result

    def distances_of(self, start: int, stop: int, centroids: F64, labels: Integers) -> F64:
        """The same of vectors `start ... stop - 1`."""
        offsets = self._source.block(start, stop) - np.take(centroids, labels[start:stop], axis=0)
        result: F64 = np.einsum("nd,nd->n", offsets, offsets)
        return result

    def farthest(self, centroids: F64, labels: Integers, count: int) -> tuple[F64, Labels]:
        """The largest squared distances of vectors to their centroids, descending, and whose they
        are; of equal ones the first."""
        distances, rows = np.empty(0), np.empty(0, np.int64)
        for part in _slices(len(labels), SUM_BLOCK):
            own = self.distances_of(part.start, part.stop, centroids, labels)
            distances = np.concatenate([distances, own])
            rows = np.concatenate([rows, np.arange(part.start, part.stop)])
            most = np.argsort(-distances, kind="stable")[:count]
            distances, rows = distances[most], rows[most]
        return distances, rows


def label_type(clusters: int) -> np.dtype[np.integer[Any]]:
    """The smallest type of labels below `clusters`."""
    return np.min_scalar_type(max(clusters, 1) - 1)


def _by_label(labels: Integers, distances: F64) -> Integers:
    """The order of rows by their labels and, of one label, by their distances, in a type that is as
    small as their number allows."""
    key = distances / (2 * distances.max() + 1e-30)
    key += labels
    order = np.argsort(key)
    return order.astype(np.int32) if len(order) < 1 << 31 else order


def _slices(count: int, step: int) -> Iterator[slice]:
    """`count` places, so many at a time."""
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def span_length(rows: int, clusters: int) -> int:
    """Rows of a span."""
    return min(SPAN, rows, max(16, _BATCH_CELLS // clusters))


def _first_bounds(centroids: F64, labels: Integers, distances: F64, length: int) -> tuple[F32, F32]:
    """Lower bounds (span, centroid) of the distances between rows and centroids, and the rows'
    distances to their own, (span, length).

    A row is at least as far from a centroid as that is from the row's own one, less the row's
    distance to its own. Rows are ordered by their labels, so a span has few of them.
    """
    clusters, count = len(centroids), -(-len(labels) // length)
    begins = np.empty(len(labels), np.bool_)  # a span or a label
    begins[1:] = labels[1:] != labels[:-1]
    begins[::length] = True
    starts = np.flatnonzero(begins)
    spans, own, radii = starts // length, labels[starts], np.maximum.reduceat(distances, starts)
    least = np.empty((count, clusters), np.float32)
    step = max(1, _BATCH_CELLS // (clusters * int(np.bincount(spans).max())))
    for first in range(0, count, step):
        part = slice(*np.searchsorted(spans, (first, first + step)))
        apart = _distances(centroids[own[part]], centroids) - radii[part, None]
        edges = np.flatnonzero(np.diff(spans[part], prepend=-1))
        least[first : first + step] = np.minimum.reduceat(apart, edges, axis=0) - 1e-6
    far = np.full(count * length, distances[-1], np.float32)
    far[: len(distances)] = distances
    far *= np.float32(1 + 1e-6)
    return least, far.reshape(count, length)


def _distances(points: F64, others: F64) -> F64:
    """Euclidean distances, (n, d), (m, d) -> (n, m)."""
    squares = np.einsum("nd,nd->n", points, points)[:, None] + np.einsum("md,md->m", others, others)
    result: F64 = np.sqrt(np.maximum(squares - 2 * points @ others.T, 0))
    return result


def _root(negative: Tensor, slack: Tensor) -> Tensor:
    """Distances from the negative squares that the product gives, which slack is added to."""
    return negative.neg_().add_(slack).clamp_min_(0).sqrt_()


def _cut(points: F32, count: int, length: int) -> F32:
    """(x, 1, -|x|^2) of every row, (count, d + 2, length); the last row fills the last span."""
    d = points.shape[1]
    spans = np.empty((count, d + 2, length), np.float32)
    step = max(1, SUM_BLOCK // length)
    for first in range(0, count, step):
        part = points[first * length : (first + step) * length]
        cut = spans[first : first + step]
        padded = np.empty((len(cut) * length, d + 2), np.float32)
        padded[: len(part), :d], padded[len(part) :, :d], padded[:, d] = part, points[-1], 1
        padded[:, d + 1] = -np.einsum("nd,nd->n", padded[:, :d], padded[:, :d])
        cut[:] = padded.reshape(len(cut), length, d + 2).transpose(0, 2, 1)
    return spans


class _All:
    """All centroids, for each of so many spans."""

    def __init__(self, spans: int, clusters: int) -> None:
        self._numbers = torch.arange(clusters)
        self.counts = [clusters] * spans

    def of(self, first: int, last: int, width: int) -> Tensor:
        """As of `_Candidates`."""
        return self._numbers.expand(last - first, width)


class _Candidates:
    """Centroids that could be nearest to a row of each span, from a table (span, centroid).

    told : how many there are, where the table does not know that of all spans
    """

    def __init__(self, table: npt.NDArray[np.bool_], told: list[int] | None = None) -> None:
        counts = table.sum(1)
        self._found = torch.from_numpy(np.flatnonzero(table) % table.shape[1])
        self._firsts = torch.from_numpy(counts.cumsum() - counts)[:, None]
        self._lasts = torch.from_numpy(counts - 1)[:, None]
        self.counts: list[int] = counts.tolist() if told is None else told

    def of(self, first: int, last: int, width: int) -> Tensor:
        """Those of spans `first ... last - 1`, (span, width); a span with fewer repeats its last
        one, which changes no result."""
        places = torch.arange(width).minimum(self._lasts[first:last])
        return self._found[self._firsts[first:last] + places]


class _Batch(NamedTuple):
    """Spans `first ... last - 1`, compared with `width` centroids each."""

    first: int
    last: int
    width: int


def _batches(counts: list[int], most: int) -> Iterator[_Batch]:
    """Runs of spans of which `most` pairs with centroids are compared at a time, or one span."""
    start, widest = 0, 0
    for number, count in enumerate(counts):
        wider = count if count > widest else widest
        if (number + 1 - start) * wider > most and number > start:
            yield _Batch(start, number, widest)
            start, wider = number, count
        widest = wider
    yield _Batch(start, len(counts), widest)


def in_threads(work: Callable[[_T], None], batches: Sequence[_T]) -> None:
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
