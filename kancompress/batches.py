"""Training rows, batch by batch, on the device where they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kancompress import distributed
from kancompress.datasets import Split

# Rows of at most so many bytes lie on the device as a whole.
_RESIDENT = 2 << 30


class Feed:
    """The rows of a split in batches, in any order.

    device : where the batches lie
    """

    def __init__(self, train: Split, batch_size: int, device: torch.device) -> None:
        self.device = device
        self.batches = -(-len(train) // batch_size)
        self._batch_size = batch_size
        resident = train.x.nbytes + train.y.nbytes <= _RESIDENT
        self._x = train.x.to(device) if resident else train.x
        self._y = train.y.to(device) if resident else train.y

    def __len__(self) -> int:
        return len(self._x)

    def epoch(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor, int, float]]:
        """x and y of each batch, the rows of the whole of it, and the share that x has in their
        mean: all, but where several processes divide a batch among them.

        order : (rows,) numbers of the rows in the order in which they are taken
        """
        for rows in torch.split(order.to(self._x.device), self._batch_size):
            own, share = distributed.part(rows)
            yield self._x[own].to(self.device), self._y[own].to(self.device), len(rows), share
