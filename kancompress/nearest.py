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

# Rows times centroids of a batch: 2 MB of float32 products, near enough to the cache.
_BATCH_CELLS = 1 << 19
# Rows of a span, and of a block of sums.
SPAN = 512
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
        self.length = min(SPAN, n, max(16, _BATCH_CELLS // clusters))
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
        for start in range(0, len(labels), SUM_BLOCK):
            block = slice(start, start + SUM_BLOCK)
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
