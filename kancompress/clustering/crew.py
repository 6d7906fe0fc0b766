"""Several processes that cluster one layer: who does which part of it, and what they tell each
other.

Every part is what it is in a single process, and sums are put together in the order of the parts,
so that the result has the same bits.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from kancompress.errors import KancompressError
from kancompress.formats.safetensors import shown
from kancompress.system import distributed

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """This process, `number`, among `count` that share a layer; alone it tells nobody anything."""

    number: int = 0
    count: int = 1
    layer: str = ""

    @classmethod
    def of_run(cls, layer: str) -> Crew:
        """All processes of this run, on a layer of this name."""
        return cls(number=distributed.number(), count=distributed.count(), layer=layer)

    def cuts(self, costs: npt.NDArray[Any]) -> list[int]:
        """Where to cut tasks (n,) that follow each other, so that each process has a run of about
        equal cost: where each run begins, and n."""
        done = np.cumsum(costs, dtype=np.float64)
        shares = done[-1] * np.arange(1, self.count) / self.count
        return [0, *np.searchsorted(done, shares).tolist(), len(costs)]

    def own(self, cuts: list[int]) -> tuple[int, int]:
        """The first task of this process, and the one behind its last."""
        return cuts[self.number], cuts[self.number + 1]

    def mine(self, tasks: int) -> range:
        """Tasks that this process does where processes take turns."""
        return range(self.number, tasks, self.count)

    def rounds(self, tasks: Iterable[_T]) -> Iterator[list[_T]]:
        """Tasks as they come, one for each process at a time."""
        waiting = iter(tasks)
        while found := list(islice(waiting, self.count)):
            yield found

    def told(self, values: npt.NDArray[Any], cuts: list[int]) -> None:
        """Rows (n, ...) of an array, in place, as those processes have them whose they are."""
        if self.count == 1:
            return
        for number, (start, stop) in enumerate(pairwise(cuts)):
            if start < stop:
                part = np.ascontiguousarray(values[start:stop])
                flat = torch.from_numpy(part.reshape(-1).view(np.uint8))
                distributed.from_owner(flat, number)
                values[start:stop] = part

    def summed(self, values: npt.NDArray[np.float64]) -> None:
        """Arrays of which all processes but one have zeros at each place, in place, as the one has
        them."""
        if self.count > 1:
            distributed.summed(torch.from_numpy(values))

    def agreed(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The first process's numbers."""
        if self.count == 1:
            return values
        own = np.array(values, np.float64)
        distributed.from_owner(torch.from_numpy(own), 0)
        return own

    def check(self, *values: npt.NDArray[Any] | None) -> None:
        """Raises KancompressError where this process has other numbers than the first one: of
        another file, or as a processor of another kind computes them."""
        if self.count == 1:
            return
        found = 0
        for value in values:
            if value is not None:
                found = zlib.crc32(np.ascontiguousarray(value).view(np.uint8).data, found)
        if distributed.from_first([float(found)]) != [float(found)]:
            raise KancompressError(
                f"This process finds other numbers in layer {shown(self.layer)} than the first one,"
                " so they cannot share it. Give all of them the same file, on machines of one kind"
                " with the same torch."
            )


ALONE = Crew()
