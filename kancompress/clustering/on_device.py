"""The steps of plain k-means on a device, block by block, the same bits every time there.

Every block is compared with all centroids in one matrix product. The sums of its clusters are a
product, too, of the block and of its labels as columns of zeros and ones, so no sum depends on
which thread comes first; blocks are added in their order. What a block is depends on the number of
centroids alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering.nearest import Labels, label_type
from kancompress.clustering.vectors import F32, F64, Integers, Points

# Rows times centroids of a block: 128 MB of zeros and ones in float64.
_CELLS = 1 << 24
# Rows of a block, however few centroids there are.
_MOST_ROWS = 1 << 18


class OnDevice:
    """Vectors and their labels on a device, and count (k,) and sum (k, d) of every cluster.

    Vectors that take more than `memory` bytes are not held there. They are read anew, and moved
    there, whenever they are compared.
    """

    def __init__(self, points: Points, clusters: int, device: torch.device, memory: int) -> None:
        count, d = points.shape
        self._points = points
        self._clusters = clusters
        self._device = device
        self._rows = max(1, min(_MOST_ROWS, _CELLS // clusters))
        self._held: list[Tensor] | None = None
        if 4 * count * d <= memory:
            self._held = [self._moved(part) for part in self._parts()]
        self._labels = torch.zeros(count, dtype=torch.int32, device=device)
        self.counts = np.zeros(clusters, np.int64)
        self.totals = np.zeros((clusters, d))

    def assign(self, centroids: F64) -> int:
        """Give every vector its nearest centroid of (k, d), ties to the lowest index; how many have
        another one than before."""
        narrow = torch.from_numpy(centroids.astype(np.float32)).to(self._device)
        ends, turned = -narrow.square().sum(1), 2 * narrow.T
        numbers = torch.arange(self._clusters, device=self._device)
        totals = torch.zeros(centroids.shape, dtype=torch.float64, device=self._device)
        counts = torch.zeros(self._clusters, dtype=torch.float64, device=self._device)
        changed = torch.zeros((), dtype=torch.int64, device=self._device)
        for part, x in self._blocks():
            labels = torch.addmm(ends, x, turned).argmax(1)
            members = (labels[:, None] == numbers).double()
            totals += members.T @ x.double()
            counts += members.sum(0)
            narrowed = labels.int()
            changed += (narrowed != self._labels[part]).sum()
            self._labels[part] = narrowed
        self.totals = totals.cpu().numpy()
        self.counts = counts.cpu().numpy().astype(np.int64)
        return int(changed)

    def farthest(self, centroids: F64, count: int) -> tuple[F64, Labels]:
        """As of `kancompress.clustering.nearest.Rows`."""
        distances = torch.cat([found.cpu() for found in self._distances(centroids)]).numpy()
        most = np.argsort(-distances, kind="stable")[:count]
        return distances[most], most

    def point(self, row: int) -> F32:
        """A vector, (d,)."""
        found: F32 = self._points.block(row, row + 1)[0]
        return found

    def inertia(self, centroids: F64) -> float:
        """Sum of the squared distances of all vectors to their centroids."""
        return sum(float(found.sum()) for found in self._distances(centroids))

    def labels(self) -> Integers:
        """The label of every vector, (n,), in the smallest type."""
        found: Integers = self._labels.cpu().numpy().astype(label_type(self._clusters))
        return found

    def _distances(self, centroids: F64) -> Iterator[Tensor]:
        """Squared distances of the vectors of each block to their centroids, in float64."""
        wide = torch.from_numpy(centroids).to(self._device)
        for part, x in self._blocks():
            yield (x.double() - wide[self._labels[part].long()]).square().sum(1)

    def _parts(self) -> Iterator[slice]:
        count = self._points.shape[0]
        for start in range(0, count, self._rows):
            yield slice(start, min(start + self._rows, count))

    def _moved(self, part: slice) -> Tensor:
        return torch.from_numpy(self._points.block(part.start, part.stop)).to(self._device)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Where each block lies, and its vectors, (rows, d)."""
        for number, part in enumerate(self._parts()):
            yield part, self._moved(part) if self._held is None else self._held[number]
