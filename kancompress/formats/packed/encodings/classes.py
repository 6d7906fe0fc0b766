"""Classes of inputs whose indices are distributed alike, found by alternation as in k-means.

Integers decide, or sums of whole numbers that float64 holds exactly: equal indices have equal
classes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_CLASSES = 16
# A bit, in the whole numbers that prices are counted in.
BIT = 1 << 16
# Most counts (inputs, symbols) that are held while classes are found; of more inputs a sample.
_MOST_COUNTS = 1 << 22
_ROUNDS = 12
_BLOCK = 1 << 18  # symbols that are priced at a time

Ints = npt.NDArray[np.int64]


def log2(numbers: npt.NDArray[np.integer[Any]]) -> Ints:
    """Logarithms of whole numbers from 1 to 2^53, as multiples of 1 / BIT, rounded down.

    Mantissas are squared as integers: libraries' logarithms differ in their last bits.
    """
    mantissa, exponent = np.frexp(np.asarray(numbers, np.float64))
    found = (exponent.astype(np.int64) - 1) * BIT
    square = (mantissa * 2.0**32).astype(np.uint64)
    for place in range(BIT.bit_length() - 2, -1, -1):
        square = (square * square) >> np.uint64(31)
        above = square >= 1 << 32
        found += above.astype(np.int64) << place
        square >>= above.astype(np.uint64)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """Indices in the order in which they are coded: those of input 0, then those of input 1, ...

    values : (n,); lengths : (inputs,) how many of them each input has, None: all equally many
    """

    values: npt.NDArray[np.integer[Any]]
    inputs: int
    lengths: Ints | None = None

    @property
    def starts(self) -> Ints:
        """Of each input the number of its first symbol; n behind the last, (inputs + 1,)."""
        if self.lengths is None:
            each = len(self.values) // self.inputs
            return np.arange(self.inputs + 1, dtype=np.int64) * each
        return np.concatenate(([0], np.cumsum(self.lengths)))

    def blocks(self) -> Iterator[tuple[int, int, Ints]]:
        """Inputs in blocks: the first, the one behind the last, and their `starts`."""
        starts = self.starts
        first = 0
        while first < self.inputs:
            last = int(np.searchsorted(starts, starts[first] + _BLOCK, side="right")) - 1
            last = min(max(last, first + 1), self.inputs)
            yield first, last, starts[first : last + 1]
            first = last

    def counts(self, clusters: int, chosen: Ints) -> npt.NDArray[np.float64]:
        """How often each of the chosen inputs has each index, (chosen, clusters)."""
        starts = self.starts
        lengths = (starts[1:] - starts[:-1])[chosen]
        if len(chosen) == self.inputs:
            values = self.values
        else:
            values = np.concatenate([self.values[starts[i] : starts[i + 1]] for i in chosen])
        rows = np.repeat(np.arange(len(chosen)) * clusters, lengths)
        found = np.bincount(rows + values, minlength=len(chosen) * clusters)
        return found.reshape(len(chosen), clusters).astype(np.float64)

    def counts_of(self, of_input: npt.NDArray[np.uint8], classes: int, clusters: int) -> Ints:
        """How often each index is in each class, (classes, clusters)."""
        found = np.zeros(classes * clusters, np.int64)
        for first, last, starts in self.blocks():
            rows = np.repeat(of_input[first:last].astype(np.int64) * clusters, np.diff(starts))
            values = self.values[starts[0] : starts[-1]]
            found += np.bincount(rows + values, minlength=len(found))
        return found.reshape(classes, clusters)


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The class of each input (inputs,), and how often each class has each index, (C, k)."""

    of_input: npt.NDArray[np.uint8]
    counts: Ints

    @property
    def sizes(self) -> Ints:
        """How many inputs each class has."""
        return np.bincount(self.of_input, minlength=len(self.counts)).astype(np.int64)

    def prices(self) -> npt.NDArray[np.float64]:
        """What an index costs in each class, -log2 of its share in bits, (C, k); none is free of a
        small count, so that every index has a price."""
        return _prices(self.counts) / BIT


def classes_of(
    labels: npt.NDArray[np.integer[Any]], clusters: int, *, most: int = MOST_CLASSES
) -> Classes:
    """Classes of the inputs of a layer, as the encoding `rans` would find them.

    labels   : (inputs, outputs), each below `clusters`
    clusters : k of the codebook
    most     : classes, a power of two; there may be fewer

    Of all numbers of classes the largest is taken: what tables cost is not asked.
    """
    symbols = Symbols(np.ascontiguousarray(labels).reshape(-1), len(labels))
    *_, last = ladder(symbols, clusters, most=most)
    return last


def ladder(symbols: Symbols, clusters: int, *, most: int = MOST_CLASSES) -> Iterator[Classes]:
    """Classes of inputs: one for all, then at most 2, 4, ... of them."""
    search = _Search.of(symbols, clusters)
    yield search.classes()
    while 2 * search.number <= min(most, symbols.inputs):
        search.split()
        yield search.classes()


def _prices(counts: npt.NDArray[np.integer[Any]]) -> Ints:
    """Prices of indices by class in whole numbers; a sixteenth of an index is added to each."""
    parts = 16 * counts + 1
    return log2(parts.sum(axis=-1, keepdims=True)) - log2(parts)


@dataclass(slots=True, eq=False)
class _Search:
    """Alternation: each input to the class that codes it cheapest, its own number included, and
    each class's distribution that of its members."""

    symbols: Symbols
    clusters: int
    chosen: Ints
    counts: npt.NDArray[np.float64]
    of_chosen: npt.NDArray[np.int64]
    number: int = 1

    @classmethod
    def of(cls, symbols: Symbols, clusters: int) -> _Search:
        most = max(_MOST_COUNTS // clusters, 1)
        step = -(-symbols.inputs // most)
        chosen = np.arange(0, symbols.inputs, step)
        counts = symbols.counts(clusters, chosen)
        return cls(symbols, clusters, chosen, counts, np.zeros(len(chosen), np.int64))

    def split(self) -> None:
        """Twice as many classes: of each the inputs that cost less an index than its median."""
        prices, _ = self._current()
        own = (self.counts * prices[self.of_chosen]).sum(axis=1)
        each = own / np.maximum(self.counts.sum(axis=1), 1)
        order = np.lexsort((each, self.of_chosen))
        sizes = np.bincount(self.of_chosen, minlength=self.number)
        ends = np.cumsum(sizes)
        for first, last in zip(ends - sizes, ends, strict=True):
            self.of_chosen[order[(first + last + 1) // 2 : last]] += self.number
        self.number *= 2
        for _ in range(_ROUNDS):
            before = self.of_chosen
            prices, entry = self._current()
            self.of_chosen = np.argmin(self.counts @ prices.T.astype(np.float64) + entry, axis=1)
            if np.array_equal(before, self.of_chosen):
                break

    def _current(self) -> tuple[Ints, Ints]:
        """Prices of indices (number, clusters) and of the classes themselves (number,)."""
        sizes = np.bincount(self.of_chosen, minlength=self.number)
        return _prices(self._totals()), _prices(sizes)

    def _totals(self) -> Ints:
        """How often each index is in each class, (number, clusters)."""
        found = np.empty((self.number, self.clusters), np.int64)
        for one in range(self.number):
            found[one] = self.counts[self.of_chosen == one].sum(axis=0)
        return found

    def classes(self) -> Classes:
        """The classes of all inputs, without those that no input has."""
        if len(self.chosen) == self.symbols.inputs:
            used, of_input = np.unique(self.of_chosen, return_inverse=True)
            return Classes(of_input.astype(np.uint8), self._totals()[used])
        used, of_input = np.unique(_cheapest(self.symbols, *self._current()), return_inverse=True)
        small = of_input.astype(np.uint8)
        return Classes(small, self.symbols.counts_of(small, len(used), self.clusters))


def _cheapest(symbols: Symbols, prices: Ints, entry: Ints) -> Ints:
    """The class that codes each input cheapest, the first of equals."""
    found = np.empty(symbols.inputs, np.int64)
    by_index = np.ascontiguousarray(prices.T)
    for first, last, starts in symbols.blocks():
        each = np.take(by_index, symbols.values[starts[0] : starts[-1]], axis=0)
        costs = np.repeat(entry[None], last - first, axis=0)
        has = np.diff(starts) > 0
        if has.any():
            costs[has] += np.add.reduceat(each, (starts[:-1] - starts[0])[has], axis=0)
        found[first:last] = costs.argmin(axis=1)
    return found
