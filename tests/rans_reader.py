"""Reads indices in the encoding `rans`, from section 4.1 of docs/packed-format.md alone.

Plain Python and whole numbers: slow, and without any of kancompress's code.
"""

from typing import NamedTuple


class RansError(Exception):
    """A rule of the page that the bytes break; the text begins with its number."""


class Record(NamedTuple):
    """What a tensor holds: `tables` of all classes, each a list of frequencies."""

    class_table: list[int] | None
    tables: list[list[int]]
    states: list[int]
    words: list[int]


def need(holds: bool, rule: str, text: str) -> None:
    if not holds:
        raise RansError(f"{rule}: {text}")


class Bits:
    """A stream of bits, the least significant of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, width: int) -> int:
        need(self.at + width <= 8 * len(self.data), "4.1.2", "the tables end early")
        value = 0
        for place in range(width):
            byte, bit = divmod(self.at + place, 8)
            value |= (self.data[byte] >> bit & 1) << place
        self.at += width
        return value


def read_table(bits: Bits, symbols: int, precision: int) -> list[int]:
    rest = bits.take((symbols - 1).bit_length())
    need(rest < symbols, "4.1.3", "the rest is no symbol")
    others: list[int] = []
    while len(others) < symbols - 1:
        code = bits.take(4)
        need(code < 15, "4.1.3", "a code is 15")
        if code == 14:
            others += [0] * (10 + bits.take(10))
        elif code == 13:
            others += [0] * (2 + bits.take(3))
        elif code == 0:
            others.append(0)
        else:
            width = min(code - 1, precision)
            others.append((2**width + bits.take(width)) * 2 ** (code - 1 - width))
    need(len(others) == symbols - 1, "4.1.3", "a run goes beyond the last symbol")
    need(sum(others) <= 4095, "4.1.3", "frequencies sum to more than 4095")
    return [*others[:rest], 4096 - sum(others), *others[rest:]]


def read_record(data: bytes, clusters: int) -> Record:
    need(2 <= clusters <= 1024, "4.1.5", "k is not from 2 to 1,024")
    need(len(data) >= 2, "4.1.2", "the tensor has no first bytes")
    classes, precision = data[0] % 16 + 1, data[0] // 16
    need(precision <= 11 and data[1] <= 16, "4.1.2", "precision or lanes are out of range")
    lanes = 2 ** data[1]
    bits = Bits(data[2:])
    class_table = read_table(bits, classes, precision) if classes > 1 else None
    tables = [read_table(bits, clusters, precision) for _ in range(classes)]
    need(bits.take(-bits.at % 8) == 0, "4.1.2", "unused bits of the tables are not zero")
    stream = data[2 + bits.at // 8 :]
    need(len(stream) >= 4 * lanes and len(stream) % 2 == 0, "4.1.2", "the stream's length")
    cut = 4 * lanes
    states = [int.from_bytes(stream[at : at + 4], "little") for at in range(0, cut, 4)]
    words = [int.from_bytes(stream[at : at + 2], "little") for at in range(cut, len(stream), 2)]
    need(min(states) >= 2**16, "4.1.2", "a state is below 2^16")
    return Record(class_table, tables, states, words)


class Decoder:
    def __init__(self, record: Record) -> None:
        self.states, self.words, self.at = [*record.states], record.words, 0

    def symbol(self, number: int, table: list[int]) -> int:
        """Symbol `number` of a run."""
        lane = number % len(self.states)
        x = self.states[lane]
        slot, start, symbol = x % 4096, 0, 0
        while slot >= start + table[symbol]:
            start += table[symbol]
            symbol += 1
        x = table[symbol] * (x // 4096) + slot - start
        if x < 2**16:
            need(self.at < len(self.words), "4.1.4", "the words end early")
            x = 2**16 * x + self.words[self.at]
            self.at += 1
        self.states[lane] = x
        return symbol


def places(shape: list[int], groups: int, kept: set[int]) -> list[list[int]]:
    """Of each input the numbers of its packed edges, ascending in their outputs."""
    out, taps = shape[0], 1
    for length in shape[1:]:
        taps *= length
    each = out // groups
    return [
        [
            edge
            for output in range(each)
            if (edge := (group * each + output) * taps + tap) not in kept
        ]
        for group in range(groups)
        for tap in range(taps)
    ]


def read(
    data: bytes, clusters: int, shape: list[int], groups: int = 1, kept: tuple[int, ...] = ()
) -> list[int]:
    """The indices of the packed edges, in the order of the edges. Raises RansError."""
    record = read_record(data, clusters)
    edges = 1
    for length in shape:
        edges *= length
    need(edges <= 8192 * len(record.states), "4.1.5", "there are too few lanes")
    inputs = places(shape, groups, set(kept))
    decoder = Decoder(record)
    classes = [0] * len(inputs)
    if record.class_table is not None:
        classes = [decoder.symbol(at, record.class_table) for at in range(len(inputs))]
    found: dict[int, int] = {}
    for own, of_input in zip(classes, inputs, strict=True):
        for edge in of_input:
            found[edge] = decoder.symbol(len(found), record.tables[own])
    need(decoder.at == len(record.words), "4.1.4", "words are left")
    need(set(decoder.states) == {2**16}, "4.1.4", "a state is not 2^16 at the end")
    return [found[edge] for edge in sorted(found)]
