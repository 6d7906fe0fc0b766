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
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn import functional

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
_T = TypeVar("_T")

# Rows times centroids of a batch: 4 MB of float32 products, near enough to the cache and large
# enough that the calls do not count.
_BATCH_CELLS = 1 << 20
# Rows of a span, and of a block of sums.
SPAN = 512
SUM_BLOCK = 1 << 16


@contextmanager
def one_thread() -> Iterator[None]:
    """Run BLAS and torch on one thread, so that results do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _pools().limit(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


def _pools() -> ThreadpoolController:
    """The thread pools of the libraries that are loaded.

    To find them takes milliseconds, more than a small layer. Libraries come with modules.
    """
    return _found_pools(len(sys.modules))


@lru_cache(maxsize=1)
def _found_pools(modules: int) -> ThreadpoolController:
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
    """

    def __init__(self, points: F32, clusters: int) -> None:
        self.points = points
        n = len(points)
        self.length = span_length(n, clusters)
        count = -(-n // self.length)
        self.spans = torch.from_numpy(_cut(points, count, self.length))
        self.labels = torch.zeros(count, self.length, dtype=torch.int64)
        self._least: Tensor | None = None
        self._far = torch.empty(0)
        # What rounding may do to a squared distance, by span: bounds give way by as much.
        self._slack = -2e-6 * self.spans[:, -1].amin(1, keepdim=True)
        self._last = torch.empty(0)

    @classmethod
    def near(cls, points: F32, centroids: F64, labels: Labels, squared: F64) -> tuple[Rows, Labels]:
        """The rows in such an order, and the order.

        centroids : (k, d) to which `labels` and squared distances of the rows are known, (n,) each
        """
        distances = np.sqrt(squared)
        order = np.argsort(labels + distances / (2 * distances.max() + 1e-30))
        length = span_length(len(points), len(centroids))
        least, far = _first_bounds(centroids, labels[order], distances[order], length)
        del distances
        # Spans that are compared with equally many stand together; one that is not full stays last.
        compared = (least <= far.max(1, keepdims=True)).sum(1)
        turn = np.argsort(compared[: len(points) // length], kind="stable")
        turn = np.append(turn, np.arange(len(turn), len(compared)))
        whole = len(points) // length * length
        front = order[:whole].reshape(-1, length)[turn[: whole // length]]
        order = np.append(front, order[whole:])
        rows = cls(np.take(points, order, axis=0), len(centroids))
        rows._least, rows._far = torch.from_numpy(least[turn]), torch.from_numpy(far[turn])
        rows.labels.view(-1)[: len(order)] = torch.from_numpy(labels[order])
        rows.labels.view(-1)[len(order) :] = int(labels[order[-1]])
        rows._last = torch.from_numpy(centroids)
        return rows, order

    def assign(self, centroids: F64) -> Labels:
        """Nearest centroid of every vector, (n,)."""
        narrow = torch.from_numpy(centroids.astype(np.float32))
        ends = torch.stack([-(narrow**2).sum(1), torch.ones(len(narrow))], dim=1)
        table = torch.cat([2 * narrow, ends], dim=1)
        self._follow(torch.from_numpy(centroids))
        candidates = self._candidates(len(narrow))

        def work(batch: _Batch) -> None:
            first, last, width = batch
            chosen = candidates.of(first, last, width)
            cells = torch.bmm(functional.embedding(chosen, table), self.spans[first:last])
            image = cells[:, :, None].permute(0, 3, 1, 2)  # (span, row, centroid, 1), rows last
            best, found = functional.max_pool2d(image, (width, 1), return_indices=True)
            torch.gather(chosen, 1, found.view(-1, self.length), out=self.labels[first:last])
            if self._least is not None:
                slack = self._slack[first:last]
                self._least[first:last].scatter_(1, chosen, _root(cells.amax(2), -slack))
                self._far[first:last] = _root(best.view(-1, self.length), slack)

        in_threads(work, list(_batches(candidates.counts, _BATCH_CELLS // self.length)))
        return self.labels.view(-1)[: len(self.points)].numpy().copy()

    def _follow(self, centroids: Tensor) -> None:
        """Move the bounds by as much as the centroids have moved."""
        if self._least is not None:
            moved = (centroids - self._last).norm(dim=1).float()
            self._least -= moved
            flat = self._far.view(-1)
            flat += moved.index_select(0, self.labels.view(-1))
            self._last = centroids.clone()

    def _candidates(self, clusters: int) -> _Candidates:
        """Centroids that each span is compared with."""
        if self._least is None:
            return _Candidates(np.ones((len(self.spans), clusters), np.bool_))
        # The slack covers the rounding of the float32 comparison.
        reach = self._far.amax(1, keepdim=True) * (1 + 1e-4) + 1e-6
        return _Candidates((self._least <= reach).numpy())

    def distances(self, centroids: F64, labels: Labels) -> F64:
        """Squared distance of every vector to its centroid, (n,)."""
        result = np.empty(len(labels))

        def work(start: int) -> None:
            block = slice(start, start + SUM_BLOCK)
            offsets = self.points[block] - np.take(centroids, labels[block], axis=0)
            result[block] = np.einsum("nd,nd->n", offsets, offsets)

        in_threads(work, range(0, len(labels), SUM_BLOCK))
        return result


def span_length(rows: int, clusters: int) -> int:
    """Rows of a span."""
    return min(SPAN, rows, max(16, _BATCH_CELLS // clusters))


def _first_bounds(centroids: F64, labels: Labels, distances: F64, length: int) -> tuple[F32, F32]:
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


class _Candidates:
    """Centroids that could be nearest to a row of each span, from a table (span, centroid)."""

    def __init__(self, table: npt.NDArray[np.bool_]) -> None:
        counts = table.sum(1)
        self._found = torch.from_numpy(np.flatnonzero(table) % table.shape[1])
        self._firsts = torch.from_numpy(counts.cumsum() - counts)[:, None]
        self._lasts = torch.from_numpy(counts - 1)[:, None]
        self.counts: list[int] = counts.tolist()

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
