"""Tables of frequencies: chosen for counts, and written as few bits (docs/packed-format.md, 4.1).

The frequencies of a table sum to 4096. One of them, the rest, is not written; each of the others is
an exponent of 4 bits and the `precision` bits behind its leading one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.formats.packed.encodings.bits import width_of
from kancompress.formats.packed.encodings.classes import BIT, log2

TOTAL_BITS = 12
TOTAL = 1 << TOTAL_BITS
MOST_PRECISION = TOTAL_BITS - 1

U16 = npt.NDArray[np.uint16]

# Codes of 4 bits: 0 unused, 1 to 12 an exponent, and two for runs of unused symbols, each with
# its bits behind the code, and the shortest run.
_SHORT, _SHORT_BITS, _SHORT_LEAST = 13, 3, 2
_LONG, _LONG_BITS, _LONG_LEAST = 14, 10, 10


class BadTableError(Exception):
    """Bits that are no table; the text says why."""


class BitReader:
    """Whole numbers from a stream of bits, the least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def take(self, width: int) -> int:
        """The next number of at most 16 bits. Raises BadTableError behind the end."""
        if self.place + width > 8 * len(self._data):
            raise BadTableError("ends within its tables")
        byte, bit = divmod(self.place, 8)
        self.place += width
        found = int.from_bytes(self._data[byte : byte + 3], "little")
        return (found >> bit) & ((1 << width) - 1)


class BitWriter:
    """The inverse of `BitReader`."""

    def __init__(self) -> None:
        self._whole = bytearray()
        self._bits = 0
        self._width = 0

    def put(self, number: int, width: int) -> None:
        """A number of so many bits."""
        self._bits |= number << self._width
        self._width += width
        while self._width >= 8:
            self._whole.append(self._bits & 255)
            self._bits >>= 8
            self._width -= 8

    def data(self) -> bytes:
        """All of them, to the end of the last byte."""
        return bytes(self._whole) + bytes([self._bits] if self._width else [])


# --- bits of a table ----------------------------------------------------------------------------


def write(frequencies: U16, precision: int, rest: int, bits: BitWriter) -> None:
    """Append a table to a stream."""
    bits.put(rest, width_of(len(frequencies)))
    others = [int(one) for one in np.delete(frequencies, rest)]
    for code, more, width in _codes(others, precision):
        bits.put(code, 4)
        bits.put(more, width)


def length_of(frequencies: U16, precision: int, rest: int) -> int:
    """Bits that `write` appends."""
    others = [int(one) for one in np.delete(frequencies, rest)]
    return width_of(len(frequencies)) + sum(4 + width for _, _, width in _codes(others, precision))


def _codes(others: list[int], precision: int) -> Iterator[tuple[int, int, int]]:
    """Codes of frequencies, each with what stands behind it, in so many bits."""
    place = 0
    while place < len(others):
        number = others[place]
        if number:
            exponent = number.bit_length() - 1
            width = min(exponent, precision)
            yield exponent + 1, (number >> (exponent - width)) - (1 << width), width
            place += 1
            continue
        run = 1
        most = min(len(others) - place, _LONG_LEAST + (1 << _LONG_BITS) - 1)
        while run < most and not others[place + run]:
            run += 1
        place += run
        if run >= _LONG_LEAST:
            yield _LONG, run - _LONG_LEAST, _LONG_BITS
        elif run >= _SHORT_LEAST:
            yield _SHORT, run - _SHORT_LEAST, _SHORT_BITS
        else:
            yield 0, 0, 0


def read(bits: BitReader, symbols: int, precision: int) -> U16:
    """The next table of a stream. Raises BadTableError."""
    rest = bits.take(width_of(symbols))
    if rest >= symbols:
        raise BadTableError(f"has a table whose rest is the symbol {rest} of {symbols}")
    others: list[int] = []
    while len(others) < symbols - 1:
        code = bits.take(4)
        if code == 0:
            others.append(0)
        elif code <= TOTAL_BITS:
            width = min(code - 1, precision)
            others.append(((1 << width) + bits.take(width)) << (code - 1 - width))
        elif code == _SHORT:
            others += [0] * (_SHORT_LEAST + bits.take(_SHORT_BITS))
        elif code == _LONG:
            others += [0] * (_LONG_LEAST + bits.take(_LONG_BITS))
        else:
            raise BadTableError(f"has a table with the code {code}")
    if len(others) >= symbols:
        raise BadTableError(f"has a table of more than {symbols} symbols")
    if sum(others) >= TOTAL:
        raise BadTableError(f"has a table whose frequencies sum to {sum(others)} and a rest")
    found = np.zeros(symbols, np.uint16)
    found[np.arange(symbols) != rest] = others
    found[rest] = TOTAL - sum(others)
    return found


# --- frequencies for counts ---------------------------------------------------------------------


def chosen(counts: npt.NDArray[np.integer[Any]], precision: int) -> tuple[U16, int]:
    """Frequencies for counts, each of so many bits but the largest, and its place.

    Of the two writable neighbours of its share a frequency is the one that keeps the sum nearest
    to the shares' sum; small ones come first, so that large ones make up for them.
    """
    found = np.zeros(len(counts), np.uint16)
    rest = int(np.argmax(counts))
    if not counts[rest]:  # a class of inputs all of whose edges are kept
        found[rest] = TOTAL
        return found, rest
    order = [int(one) for one in np.argsort(counts, kind="stable") if counts[one] and one != rest]
    shares = _shares(counts)
    behind = 0  # shares that were not given yet, in the unit of `_shares`
    for place in order:
        share = shares[place]
        low = _floored(max(share // BIT, 1), precision)
        high = _above(low, precision)
        wanted = share + behind
        number = low if 2 * wanted < (low + high) * BIT else high
        found[place] = number
        behind = wanted - number * BIT
    while (left := TOTAL - int(found.sum())) < 1:
        # More than there is: the largest gives way, and is one again at the least.
        widest = int(np.argmax(found))
        found[widest] = _below(int(found[widest]), precision)
    found[rest] = left
    return found, rest


def even(symbols: int) -> tuple[U16, int]:
    """The frequencies of symbols of which nothing is known, to be written without loss."""
    found = np.full(symbols, TOTAL // symbols, np.uint16)
    found[0] += TOTAL % symbols
    return found, 0


def _shares(counts: npt.NDArray[np.integer[Any]]) -> list[int]:
    """What each of the counts has of TOTAL, in 1 / BIT, at least 1 where it is not zero."""
    numbers = np.asarray(counts, np.int64)
    small = np.zeros(len(numbers), np.bool_)
    while True:
        budget = (TOTAL - int(small.sum())) * BIT
        shares = np.where(small, BIT, budget * numbers // int(numbers[~small].sum()))
        new = (numbers > 0) & (shares < BIT)
        if not new.any():
            return [int(one) for one in shares]
        small |= new


def _floored(number: int, precision: int) -> int:
    """The largest writable frequency up to a number."""
    cut = max(number.bit_length() - 1 - precision, 0)
    return number >> cut << cut


def _above(number: int, precision: int) -> int:
    """The next writable frequency."""
    return number + (1 << max(number.bit_length() - 1 - precision, 0))


def _below(number: int, precision: int) -> int:
    """The writable frequency before."""
    return _floored(number - 1, precision)


def cost(counts: npt.NDArray[np.integer[Any]], frequencies: npt.NDArray[np.integer[Any]]) -> int:
    """What symbols cost that occur `counts` times, in 1 / BIT of a bit."""
    used = counts > 0
    prices = TOTAL_BITS * BIT - log2(frequencies[used])
    return int((counts[used].astype(np.int64) * prices).sum())
