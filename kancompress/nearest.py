"""The nearest centroid of every vector, the same bits for any number of threads.

The work is cut into batches of a size that does not depend on the number of threads, each done
by one thread with single-threaded BLAS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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

# Rows times centroids of a batch: 4 MB of float32 products, near enough to the cache and large
# enough that the calls do not count.
_BATCH_CELLS = 1 << 20
# Rows of a span, and of a block of sums.
SPAN = 512
NEAR_SPAN = 512
SUM_BLOCK = 1 << 16


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


class Rows:
    """Fixed vectors, cut into spans of equal length and compared with centroids batch by batch.

    -|x - c|^2 = (x, 1, -|x|^2) . (2c, -|c|^2, 1) is a batched matrix product, (span, centroid,
    row). Its largest number for each row is found by a max-pooling over all centroids, the one
    reduction of torch that is vectorised and tells the position; ties go to the first.

    With `near`, rows are in an order in which neighbours are about equally far from the same
    centroid. Then each span keeps a lower bound of its rows' distance to every centroid, the
    distance when it was last measured less what the centroid has moved since, and is compared only
    with those that could be nearest to one of its rows (Elkan 2003, with spans for rows).
    """

    def __init__(self, points: F32, clusters: int, *, near: bool = False) -> None:
        self.points = points
        n = len(points)
        longest = NEAR_SPAN if near else SPAN
        self.length = min(longest, n, max(16, _BATCH_CELLS // clusters))
        count = -(-n // self.length)
        self.spans = torch.from_numpy(_cut(points, count, self.length))
        self.labels = torch.zeros(count, self.length, dtype=torch.int64)
        self._least: Tensor | None = torch.zeros(count, clusters) if near else None
        self._far = torch.full((count, self.length), torch.inf) if near else torch.empty(0)
        # What rounding may do to a squared distance, by span: bounds give way by as much.
        self._slack = -2e-6 * self.spans[:, -1].amin(1, keepdim=True)
        self._last: Tensor | None = None

    def assign(self, centroids: F64) -> Labels:
        """Nearest centroid of every vector, (n,)."""
        narrow = torch.from_numpy(centroids.astype(np.float32))
        ends = torch.stack([-(narrow**2).sum(1), torch.ones(len(narrow))], dim=1)
        table = torch.cat([2 * narrow, ends], dim=1)
        self._follow(torch.from_numpy(centroids))
        candidates, counts = self._candidates(len(narrow))

        def work(batch: _Batch) -> None:
            first, last, width = batch
            chosen = candidates[first:last, :width]
            cells = torch.bmm(functional.embedding(chosen, table), self.spans[first:last])
            image = cells[:, :, None].permute(0, 3, 1, 2)  # (span, row, centroid, 1), rows last
            best, found = functional.max_pool2d(image, (width, 1), return_indices=True)
            torch.gather(chosen, 1, found.view(-1, self.length), out=self.labels[first:last])
            if self._least is not None:
                slack = self._slack[first:last]
                self._least[first:last].scatter_(1, chosen, _root(cells.amax(2), -slack))
                self._far[first:last] = _root(best.view(-1, self.length), slack)

        _in_threads(work, list(self._batches(counts.tolist())))
        return self.labels.view(-1)[: len(self.points)].numpy().copy()

    def _follow(self, centroids: Tensor) -> None:
        """Move the bounds by as much as the centroids have moved."""
        if self._least is not None:
            if self._last is not None:
                moved = (centroids - self._last).norm(dim=1).float()
                self._least -= moved
                self._far += moved[self.labels]
            self._last = centroids.clone()

    def _candidates(self, clusters: int) -> tuple[Tensor, Tensor]:
        """Centroids that each span is compared with, (span, widest), and how many they are.

        Rows with fewer than the widest repeat their last one, which changes no result.
        """
        count = len(self.spans)
        if self._least is None:
            return torch.arange(clusters).expand(count, -1), torch.full((count,), clusters)
        # The slack covers the rounding of the float32 comparison.
        reach = self._far.amax(1, keepdim=True) * (1 + 1e-4) + 1e-6
        of_span, found = (self._least <= reach).nonzero(as_tuple=True)
        counts = torch.bincount(of_span, minlength=count)
        firsts = counts.cumsum(0) - counts
        places = torch.arange(int(counts.max())).minimum(counts[:, None] - 1)
        return found[firsts[:, None] + places], counts

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
        for start in range(0, len(labels), SUM_BLOCK):
            block = slice(start, start + SUM_BLOCK)
            offsets = self.points[block] - centroids[labels[block]]
            result[block] = np.einsum("nd,nd->n", offsets, offsets)
        return result


def near_order(labels: Labels, distances: F64) -> Labels:
    """Order of rows in which neighbours are about equally far from the same centroid, and spans
    that reach equally far stand together."""
    order: Labels = np.argsort(labels + distances / (2 * distances.max() + 1e-30))
    whole = len(order) // NEAR_SPAN * NEAR_SPAN
    spans = order[:whole].reshape(-1, NEAR_SPAN)
    farthest = distances[spans].max(axis=1)
    spans = spans[np.argsort(farthest, kind="stable")]
    return np.concatenate([spans.reshape(-1), order[whole:]])


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
