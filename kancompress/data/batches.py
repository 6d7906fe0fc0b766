"""Training rows, batch by batch, on the device where they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kancompress.data.augmentation import Augmenter
from kancompress.data.datasets import Split
from kancompress.system import distributed

# Rows of at most so many bytes lie on the device as a whole.
_RESIDENT = 2 << 30


class Feed:
    """The rows of a split in batches, in any order.

    device  : where the batches lie
    batches : of an epoch
    sample  : x of one row
    soft    : as the split's
    """

    def __init__(
        self,
        train: Split,
        batch_size: int,
        device: torch.device,
        augmenter: Augmenter | None = None,
    ) -> None:
        """Put the rows where they are needed; `augmenter` gives their x where there is one."""
        self.device = device
        self.batches = -(-len(train) // batch_size)
        self.sample = train.x[:1].to(device)
        self.soft = train.soft
        self._batch_size = batch_size
        self._augmenter = augmenter
        self._x, self._y = train.x, train.y
        if augmenter is None and self._x.nbytes + self._y.nbytes <= _RESIDENT:
            self._x, self._y = self._x.to(device), self._y.to(device)

    def __len__(self) -> int:
        return len(self._y)

    def epoch(self, number: int, order: Tensor) -> Iterator[tuple[Tensor, Tensor, int, float]]:
        """x and y of each batch, the rows of the whole of it, and the share that x has in their
        mean: all, but where several processes divide a batch among them.

        number : of the epoch
        order  : (rows,) numbers of the rows in the order in which they are taken
        """
        batches = torch.split(order, self._batch_size)
        parts = [distributed.part(rows) for rows in batches]
        inputs = self._inputs(number, [rows for rows, _ in parts])
        for batch, (rows, share), x in zip(batches, parts, inputs, strict=True):
            y = self._y[rows.to(self._y.device)].to(self.device)
            yield x, y, len(batch), share

    def _inputs(self, number: int, parts: list[Tensor]) -> Iterator[Tensor]:
        if self._augmenter:
            yield from self._augmenter.epoch(number, parts, self.device)
            return
        for rows in parts:
            yield self._x[rows.to(self._x.device)].to(self.device)
