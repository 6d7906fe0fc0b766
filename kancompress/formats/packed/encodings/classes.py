"""Classes of inputs whose indices are distributed alike, found by alternation as in k-means.

Integers decide, or sums of whole numbers that float64 holds exactly: equal indices have equal
classes on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.frozen import dataclass

MOST_CLASSES = 16
# A bit, in the whole numbers that prices are counted in.
BIT = 1 << 16
# Most counts (inputs, symbols) that are held while classes are found; of more inputs a sample.
_MOST_COUNTS = 1 << 20
_ROUNDS = 12
_BLOCK = 1 << 17  # symbols that are priced at a time

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

    def every(self, step: int) -> Symbols:
        """The same of each input whose number is a multiple of `step`."""
        if step == 1:
            return self
        starts = self.starts
        first, last = starts[:-1:step], starts[1::step][: len(starts[:-1:step])]
        values = np.concatenate(
            [self.values[begin:end] for begin, end in zip(first, last, strict=True)]
        )
        lengths = None if self.lengths is None else self.lengths[::step]
        return Symbols(values, len(first), lengths)

    def counts(self, clusters: int) -> npt.NDArray[np.float64]:
        """How often each input has each index, (inputs, clusters)."""
        found = np.empty((self.inputs, clusters))
        for first, last, starts in self.blocks():
            found[first:last] = self.block_counts(starts, clusters)
        return found

    def block_counts(self, starts: Ints, clusters: int) -> npt.NDArray[np.float64]:
        """How often each input of a block has each index."""
        inputs = len(starts) - 1
        rows = np.repeat(np.arange(inputs) * clusters, np.diff(starts))
        rows += self.values[starts[0] : starts[-1]]
        counts = np.bincount(rows, minlength=inputs * clusters)
        return counts.reshape(inputs, clusters).astype(np.float64)

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
    return last.whole(symbols)


def ladder(symbols: Symbols, clusters: int, *, most: int = MOST_CLASSES) -> Iterator[Found]:
    """Classes of inputs, one for all, then at most 2, 4, ... of them; found on a sample where there
    are very many inputs."""
    step = -(-symbols.inputs // max(_MOST_COUNTS // clusters, 1))
    sample = symbols.every(step)
    counts = sample.counts(clusters)
    of_input = np.zeros(sample.inputs, np.int64)
    number = 1
    while True:
        yield Found(counts, of_input, number, step == 1)
        if 2 * number > min(most, sample.inputs):
            return
        of_input = _split(counts, of_input, number)
        number *= 2
        for _ in range(_ROUNDS):
            before = of_input
            prices, entry = Found(counts, of_input, number, step == 1).prices()
            of_input = np.argmin(counts @ prices.T.astype(np.float64) + entry, axis=1)
            if np.array_equal(before, of_input):
                break


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Classes of the inputs of a sample, some of which may have none.

    counts : (inputs, clusters); of_input : (inputs,); is_whole : whether these are all inputs
    """

    counts: npt.NDArray[np.float64]
    of_input: npt.NDArray[np.int64]
    number: int
    is_whole: bool

    def totals(self) -> Ints:
        """How often each index is in each class, (number, clusters)."""
        return (np.eye(self.number)[self.of_input].T @ self.counts).astype(np.int64)

    def prices(self) -> tuple[Ints, Ints]:
        """Prices of indices (number, clusters) and of the classes themselves (number,)."""
        sizes = np.bincount(self.of_input, minlength=self.number)
        return _prices(self.totals()), _prices(sizes)

    def sampled(self) -> Classes:
        """The classes of the sample, without those that no input has."""
        used, of_input = np.unique(self.of_input, return_inverse=True)
        return Classes(of_input.astype(np.uint8), self.totals()[used])

    def whole(self, symbols: Symbols) -> Classes:
        """The classes of all inputs, without those that no input has."""
        if self.is_whole:
            return self.sampled()
        used, of_input = np.unique(_cheapest(symbols, *self.prices()), return_inverse=True)
        small = of_input.astype(np.uint8)
        return Classes(small, symbols.counts_of(small, len(used), self.counts.shape[1]))


def _split(
    counts: npt.NDArray[np.float64], of_input: npt.NDArray[np.int64], number: int
) -> npt.NDArray[np.int64]:
    """Twice as many classes: of each the inputs that cost more an index than its median leave."""
    prices, _ = Found(counts, of_input, number, True).prices()
    own = np.empty(len(counts))
    for one in range(number):
        members = of_input == one
        own[members] = counts[members] @ prices[one].astype(np.float64)
    order = np.lexsort((own / np.maximum(counts.sum(axis=1), 1), of_input))
    found = of_input.copy()
    sizes = np.bincount(of_input, minlength=number)
    ends = np.cumsum(sizes)
    for first, last in zip(ends - sizes, ends, strict=True):
        found[order[(first + last + 1) // 2 : last]] += number
    return found


def _prices(counts: npt.NDArray[np.integer[Any]]) -> Ints:
    """Prices of indices by class in whole numbers; a sixteenth of an index is added to each."""
    parts = 16 * counts + 1
    return log2(parts.sum(axis=-1, keepdims=True)) - log2(parts)


def _cheapest(symbols: Symbols, prices: Ints, entry: Ints) -> Ints:
    """The class that codes each input cheapest, the first of equals."""
    found = np.empty(symbols.inputs, np.int64)
    by_index = np.ascontiguousarray(prices.T)
    clusters = len(by_index)
    for first, last, starts in symbols.blocks():
        if (last - first) * clusters <= 8 * (starts[-1] - starts[0]):
            counts = symbols.block_counts(starts, clusters)
            found[first:last] = np.argmin(counts @ by_index.astype(np.float64) + entry, axis=1)
            continue
        each = np.take(by_index, symbols.values[starts[0] : starts[-1]], axis=0)
        costs = np.repeat(entry[None], last - first, axis=0)
        has = np.diff(starts) > 0
        if has.any():
            costs[has] += np.add.reduceat(each, (starts[:-1] - starts[0])[has], axis=0)
        found[first:last] = costs.argmin(axis=1)
    return found
