"""Indices as a stream of rANS, with a table of frequencies for each class of inputs.

docs/packed-format.md, section 4.1, is what this follows. Integers alone; numpy works on all lanes
at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.formats.arrays import Array, from_numpy
from kancompress.formats.packed.encodings import frequencies as tables
from kancompress.formats.packed.encodings.bits import entropy, packed_size, width_of
from kancompress.formats.packed.encodings.classes import (
    BIT,
    MOST_CLASSES,
    Classes,
    Found,
    Symbols,
    ladder,
)
from kancompress.formats.packed.encodings.frequencies import TOTAL, TOTAL_BITS
from kancompress.formats.packed.encodings.protocol import Indices, Size, index_type
from kancompress.formats.safetensors import Entry, shown
from kancompress.frozen import dataclass

MOST_CLUSTERS = 1024
# States lie from LEAST to 2^32 - 1; every lane begins, and a reader's ends, at LEAST.
LEAST = 1 << 16
_MOST_LANES_BITS = 16
# A layer has at most so many edges for each lane, whose state takes four bytes: a bound for what a
# reader does step by step, and for what a few bytes may stand for.
_MOST_STEPS = 1 << 13
_MOST_EDGES = _MOST_STEPS << _MOST_LANES_BITS
_PRECISIONS = (0, 1, 2, 3, 4, 6, tables.MOST_PRECISION)
_FIXED = 2  # bytes before the tables
# What all of a file's layers in this encoding may stand for: edges for each byte of their tensors,
# as many as indices of one bit have, and beside that.
EACH, FREE = 8, 1 << 23

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
Any_ = npt.NDArray[np.integer[Any]]


# --- the order of symbols -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """Edges of a layer by inputs: group, input, row, column, and then its outputs.

    packed : which edges have an index, in the file's order of edges; None: all of them
    """

    groups: int
    outputs: int
    inputs: int
    packed: npt.NDArray[np.bool_] | None

    @classmethod
    def of(cls, claim: Indices) -> _Order:
        groups, outputs, inputs = _counts(claim)
        packed = None
        if claim.kept_at is not None and len(claim.kept_at):
            packed = np.ones(groups * outputs * inputs, np.bool_)
            packed[claim.kept_at] = False
        return cls(groups, outputs, inputs, packed)

    def _by_input(self, edges: npt.NDArray[Any]) -> npt.NDArray[Any]:
        cube = edges.reshape(self.groups, self.outputs, self.inputs)
        return np.ascontiguousarray(cube.transpose(0, 2, 1)).reshape(-1)

    def symbols(self, indices: Any_) -> Symbols:
        """Indices in the order in which they are coded."""
        number = self.groups * self.inputs
        if self.packed is None:
            return Symbols(self._by_input(indices), number)
        edges = np.zeros(len(self.packed), indices.dtype)
        edges[self.packed] = indices
        mask = self._by_input(self.packed)
        return Symbols(self._by_input(edges)[mask], number, self.lengths)

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """How many indices each input has, None where that is all of its outputs."""
        if self.packed is None:
            return None
        mask = self._by_input(self.packed).reshape(-1, self.outputs)
        lengths: npt.NDArray[np.int64] = np.count_nonzero(mask, axis=1).astype(np.int64)
        return lengths

    def indices(self, values: Any_) -> Any_:
        """Inverse of `symbols`."""
        edges = values
        if self.packed is not None:
            edges = np.zeros(len(self.packed), values.dtype)
            edges[self._by_input(self.packed)] = values
        cube = edges.reshape(self.groups, self.inputs, self.outputs)
        found = np.ascontiguousarray(cube.transpose(0, 2, 1)).reshape(-1)
        return found if self.packed is None else found[self.packed]


def _counts(claim: Indices) -> tuple[int, int, int]:
    """Groups, and outputs and inputs of each; without a shape all edges have one input."""
    if not claim.shape:
        return 1, claim.count, 1
    out, *inputs = claim.shape
    return claim.groups, out // claim.groups, math.prod(inputs)


def inputs_of(claim: Indices) -> tuple[npt.NDArray[np.int64], int]:
    """Number of the input of each index, (count,), and how many inputs the layer has."""
    order = _Order.of(claim)
    number = order.groups * order.inputs
    each = order.outputs if order.lengths is None else order.lengths
    found = order.indices(np.repeat(np.arange(number, dtype=np.int64), each))
    return found.astype(np.int64, copy=False), number


# --- lanes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Symbols that lanes code in turn: number t in lane t mod L, by the table rows[t]."""

    values: Any_
    rows: Any_

    def steps(self, lanes: int) -> range:
        """Where the symbols of each step begin."""
        return range(0, len(self.values), lanes)


def _encoded(runs: Sequence[_Run], table: U16, lanes: int) -> tuple[U32, U16]:
    """The states of all lanes and the words of a stream; the last symbol comes first.

    table : (tables, symbols) of frequencies
    """
    first = np.cumsum(table, axis=1, dtype=np.uint32) - table
    width = table.shape[1]
    flat, begins = table.reshape(-1).astype(np.uint32), first.reshape(-1).astype(np.uint32)
    states = np.full(lanes, LEAST, np.uint32)
    words: list[U16] = []
    for run in reversed(runs):
        for start in reversed(run.steps(lanes)):
            places = run.rows[start : start + lanes].astype(np.int64)
            places *= width
            places += run.values[start : start + lanes]
            own = flat[places]
            active = states[: len(places)]
            # A frequency of 4096 has no limit: 4096 << 20 is 0 here, and 0 - 1 the largest number.
            full = np.flatnonzero(active > (own << (32 - TOTAL_BITS)) - np.uint32(1))
            if len(full):
                words.append(active[full].astype(np.uint16))
                active[full] >>= 16
            quotient = active // own
            active[:] = (quotient << TOTAL_BITS) + (active - quotient * own) + begins[places]
    words.reverse()
    return states, np.concatenate(words) if words else np.empty(0, np.uint16)


class _Decoder:
    """Symbols from states and words."""

    def __init__(self, states: U32, words: U16, table: U16) -> None:
        self.states, self.words, self.place = states, words, 0
        count, width = table.shape
        symbols = np.tile(np.arange(width, dtype=np.uint16), count)
        each = table.reshape(-1)
        self.symbols = np.repeat(symbols, each)
        self.frequencies = np.repeat(each.astype(np.uint32), each)
        first = (np.cumsum(table, axis=1, dtype=np.uint32) - table).reshape(-1)
        slots = np.tile(np.arange(TOTAL, dtype=np.uint32), count)
        self.behind = slots - np.repeat(first, each)

    def run(self, out: Any_, rows: Iterator[Any_]) -> bool:
        """Fill `out` with the next symbols; False where the words end before that.

        rows : of each step the tables of its symbols
        """
        lanes = len(self.states)
        for start, own in zip(range(0, len(out), lanes), rows, strict=True):
            active = self.states[: len(own)]
            slots = own.astype(np.uint32)
            slots <<= TOTAL_BITS
            slots |= active & (TOTAL - 1)
            out[start : start + lanes] = self.symbols[slots]
            active >>= TOTAL_BITS
            active *= self.frequencies[slots]
            active += self.behind[slots]
            low = np.flatnonzero(active < LEAST)
            if len(low):
                words = self.words[self.place : self.place + len(low)]
                if len(words) < len(low):
                    return False
                self.place += len(low)
                active[low] = (active[low] << 16) | words
        return True


# --- choosing -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Classes and their tables as they will be written.

    tables : of the classes themselves, where there are two or more, then of each class
    stream, header : what symbols and tables cost, in 1 / BIT of a bit
    """

    classes: Classes
    precision: int
    tables: tuple[tuple[U16, int], ...]
    stream: int
    header: int

    @classmethod
    def of(cls, classes: Classes, precision: int) -> _Plan:
        counts = ([classes.sizes] if len(classes.counts) > 1 else []) + list(classes.counts)
        return cls._of(
            classes, precision, counts, tuple(tables.chosen(own, precision) for own in counts)
        )

    @classmethod
    def even(cls, symbols: Symbols, clusters: int) -> _Plan:
        """The plan that never takes more than indices of one width, but for its table."""
        one = np.zeros(symbols.inputs, np.uint8)
        classes = Classes(one, symbols.counts_of(one, 1, clusters))
        made = (tables.even(clusters),)
        return cls._of(classes, tables.MOST_PRECISION, list(classes.counts), made)

    @classmethod
    def _of(
        cls,
        classes: Classes,
        precision: int,
        counts: Sequence[Any_],
        made: tuple[tuple[U16, int], ...],
    ) -> _Plan:
        stream = sum(tables.cost(own, table) for own, (table, _) in zip(counts, made, strict=True))
        header = sum(tables.length_of(table, precision, rest) for table, rest in made)
        return cls(classes, precision, made, stream, BIT * header)

    def estimate(self, share: float = 1) -> float:
        """What all takes where there are so many times as many symbols."""
        return self.stream * share + self.header


def _planned(symbols: Symbols, clusters: int) -> _Plan:
    """The cheapest plan, of equals the one with fewer classes and a lower precision. More classes
    are tried as long as they pay; a sample of the inputs tells."""
    best: Found | None = None
    least = 0.0
    for found in ladder(symbols, clusters):
        classes = found.sampled()
        share = len(symbols.values) / max(int(classes.counts.sum()), 1)
        cost = min(_Plan.of(classes, precision).estimate(share) for precision in _PRECISIONS)
        if best is not None and cost >= least:
            break
        best, least = found, cost
    assert best is not None
    classes = best.whole(symbols)
    plans = [_Plan.of(classes, precision) for precision in _PRECISIONS]
    plans.append(_Plan.even(symbols, clusters))
    return min(plans, key=lambda plan: plan.estimate())


def _lanes(edges: int) -> int:
    """The fewest lanes for so many edges."""
    return 1 << (-(-edges // _MOST_STEPS) - 1).bit_length()


def _record(symbols: Symbols, edges: int, clusters: int) -> bytes:
    plan = _planned(symbols, clusters)
    classes = plan.classes
    lanes = _lanes(edges)
    bits = tables.BitWriter()
    for table, rest in plan.tables:
        tables.write(table, plan.precision, rest, bits)
    runs = []
    wide = max(len(table) for table, _ in plan.tables)
    stacked = np.zeros((len(plan.tables), wide), np.uint16)
    for row, (table, _) in zip(stacked, plan.tables, strict=True):
        row[: len(table)] = table
    number = len(classes.counts)
    if number > 1:
        runs.append(_Run(classes.of_input, np.zeros(symbols.inputs, np.uint8)))
    runs.append(_Run(symbols.values, _rows(classes.of_input, symbols) + (number > 1)))
    states, words = _encoded(runs, stacked, lanes)
    first = bytes([number - 1 | plan.precision << 4, lanes.bit_length() - 1])
    return b"".join(
        (first, bits.data(), states.astype("<u4").tobytes(), words.astype("<u2").tobytes())
    )


def _rows(of_input: U8, symbols: Symbols) -> U8:
    """Of each symbol the class of its input."""
    return np.repeat(of_input, np.diff(symbols.starts))


# --- reading ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A record taken apart.

    table  : (tables, symbols) frequencies; of the classes first, where there are two or more
    states : of the lanes; words : behind them
    """

    classes: int
    table: U16
    states: U32
    words: U16

    @property
    def nbytes(self) -> int:
        """Bytes of states, words and the table as they lie in memory."""
        return self.states.nbytes + self.words.nbytes + self.table.nbytes

    @classmethod
    def of(cls, data: U8, claim: Indices, where: str) -> Stream:
        """Raises InvalidFileError for what cannot be a record."""
        classes, precision, lanes_bits = (int(data[0]) & 15) + 1, int(data[0]) >> 4, int(data[1])
        if precision > tables.MOST_PRECISION or lanes_bits > _MOST_LANES_BITS:
            raise _fail(
                Flaw.BAD_VALUE,
                where,
                claim,
                f"says {precision} bits of precision and 2^{lanes_bits} lanes; at most"
                f" {tables.MOST_PRECISION} and 2^{_MOST_LANES_BITS} were expected.",
            )
        lanes = 1 << lanes_bits
        if _edges(claim) > lanes * _MOST_STEPS:
            raise _too_large(where, claim, lanes)
        bits = tables.BitReader(data[_FIXED : _FIXED + _MOST_TABLE_BYTES].tobytes())
        widths = [classes] * (classes > 1) + [claim.clusters] * classes
        table = np.zeros((len(widths), max(widths)), np.uint16)
        try:
            for row, width in zip(table, widths, strict=True):
                row[:width] = tables.read(bits, width, precision)
        except tables.BadTableError as error:
            raise _fail(Flaw.INDEX_RANGE, where, claim, f"{error}.") from None
        begin = _FIXED + -(-bits.place // 8)
        if int(data[begin - 1]) >> ((bits.place - 1) % 8 + 1):
            raise _fail(Flaw.INDEX_PADDING, where, claim, "has bits set after its last table.")
        stream = data[begin:].tobytes()
        if len(stream) < 4 * lanes or len(stream) % 2:
            raise _fail(
                Flaw.INDEX_LENGTH,
                where,
                claim,
                f"has {len(stream)} bytes behind its tables; 4 for each of {lanes} lanes and an"
                " even number more were expected.",
            )
        states = np.frombuffer(stream, "<u4", lanes).astype(np.uint32)
        words = np.frombuffer(stream, "<u2", offset=4 * lanes).astype(np.uint16)
        if bool((states < LEAST).any()):
            raise _fail(Flaw.INDEX_RANGE, where, claim, f"has a lane whose state is below {LEAST}.")
        return cls(classes, table, states, words)

    def indices(self, claim: Indices, where: str) -> Any_:
        """The indices in the order of the edges. Raises InvalidFileError."""
        order = _Order.of(claim)
        return order.indices(self.symbols(order, claim, where)[1])

    def symbols(self, order: _Order, claim: Indices, where: str) -> tuple[U8, Any_]:
        """The table of each input, and the indices in the order in which they are coded.

        Raises InvalidFileError.
        """
        inputs = order.groups * order.inputs
        lanes, several = len(self.states), self.classes > 1
        decoder = _Decoder(self.states, self.words, self.table)
        of_input = np.zeros(inputs, np.uint8)
        found = np.empty(claim.count, index_type(claim.clusters))
        done = True
        if several:
            done = decoder.run(of_input, _steps(np.zeros(inputs, np.uint8), lanes))
            of_input += np.uint8(1)
        if done:
            each = order.outputs if order.lengths is None else order.lengths
            done = decoder.run(found, _steps(np.repeat(of_input, each), lanes))
        if not done or decoder.place < len(self.words):
            raise _fail(
                Flaw.INDEX_LENGTH,
                where,
                claim,
                f"{'goes on behind' if done else 'ends before'} the last of {claim.count} indices.",
            )
        if bool((decoder.states != LEAST).any()):
            raise _fail(
                Flaw.INDEX_PADDING,
                where,
                claim,
                f"has a lane that does not end at {LEAST}: its stream is damaged.",
            )
        return of_input, found


def _steps(rows: U8, lanes: int) -> Iterator[U8]:
    return (rows[start : start + lanes] for start in range(0, len(rows), lanes))


def _edges(claim: Indices) -> int:
    """All edges of the layer, whether they have an index or not."""
    return math.prod(claim.shape) if claim.shape else claim.count


def _table_bits(symbols: int) -> int:
    """Most bits of a table."""
    return width_of(symbols) + (symbols - 1) * (4 + tables.MOST_PRECISION)


_MOST_TABLE_BYTES = -(-(_table_bits(MOST_CLASSES) + MOST_CLASSES * _table_bits(MOST_CLUSTERS)) // 8)


def _fail(flaw: Flaw, where: str, claim: Indices, what: str) -> InvalidFileError:
    return InvalidFileError(flaw, f"{where}: tensor {shown(claim.name)} {what}")


def _too_large(where: str, claim: Indices, lanes: int) -> InvalidFileError:
    return _fail(
        Flaw.TOO_LARGE,
        where,
        claim,
        f"stands for {_edges(claim)} edges; {lanes} lanes may have {lanes * _MOST_STEPS}.",
    )


# --- the encoding -------------------------------------------------------------------------------


class Rans:
    """Indices in as few bits as their distribution needs, by classes of inputs."""

    name = "rans"

    def fits(self, claim: Indices) -> bool:
        """Codebooks of up to 1,024 centroids do."""
        return claim.clusters <= MOST_CLUSTERS and _edges(claim) <= _MOST_EDGES

    def size(self, claim: Indices) -> Size:
        """Bytes that indices of any distribution take at the most.

        A state grows by no more than a sixteenth beyond what an index of one width is worth.
        """
        if claim.clusters == 1:
            return Size(0)
        stream = packed_size(claim.count, width_of(claim.clusters)) + claim.count // 64
        table = -(-_table_bits(claim.clusters) // 8)
        return Size(_FIXED + table + 4 * _lanes(_edges(claim)) + stream + 2, exact=False)

    def check(self, entry: Entry | None, claim: Indices, where: str) -> None:
        """Refuse a tensor that cannot be these indices. Raises InvalidFileError."""
        if entry is None:
            if claim.clusters > 1:
                raise _fail(Flaw.MISSING_TENSOR, where, claim, "is missing.")
            return
        if entry.dtype != "U8":
            raise _fail(Flaw.WRONG_DTYPE, where, claim, f"has the dtype {entry.dtype}, not U8.")
        if claim.clusters > MOST_CLUSTERS:
            raise _fail(
                Flaw.TOO_MANY_CENTROIDS,
                where,
                claim,
                f"has the encoding {self.name!r}, which is for at most {MOST_CLUSTERS} centroids,"
                f" not {claim.clusters}.",
            )
        most = _FIXED + _MOST_TABLE_BYTES + (4 << _MOST_LANES_BITS) + 4 * _edges(claim)
        least = _FIXED + 1 + 4
        if len(entry.shape) != 1 or not least <= entry.shape[0] <= most or claim.clusters == 1:
            raise _fail(
                Flaw.INDEX_LENGTH,
                where,
                claim,
                f"has the shape {shown(list(entry.shape))}; {claim.count} indices below"
                f" {claim.clusters} take "
                + (f"[{least}] to [{most}]." if claim.clusters > 1 else "no tensor."),
            )
        if _edges(claim) > (entry.shape[0] // 4) * _MOST_STEPS:
            raise _too_large(where, claim, entry.shape[0] // 4)

    def encode(self, indices: npt.NDArray[np.integer[Any]], claim: Indices) -> Array | None:
        """The bytes of indices; None where there is but one centroid.

        What is written is read before it is handed out. Raises UsageError for indices that do not
        fit, KancompressError where they do not come back.
        """
        if claim.clusters == 1:
            return None
        if not self.fits(claim):
            raise UsageError(
                f"The indices {shown(claim.name)} cannot have the encoding {self.name!r}, which is"
                f" for at most {MOST_CLUSTERS:,} centroids and {_MOST_EDGES:,} edges."
            )
        return from_numpy(np.frombuffer(_remembered(indices, claim), np.uint8))

    def decode(
        self, array: Array | None, claim: Indices, where: str
    ) -> npt.NDArray[np.integer[Any]] | None:
        """The indices of bytes that `check` has let pass. Raises InvalidFileError."""
        if array is None:
            return None
        return Stream.of(array.data, claim, where).indices(claim, where)

    def beyond(self, claim: Indices, nbytes: int) -> int:
        """Edges of a layer that its tensor's bytes do not stand for; those of a file's layers are
        together at most `FREE`."""
        return _edges(claim) - EACH * nbytes

    def parts(self, array: Array, claim: Indices, where: str) -> dict[str, int | float]:
        """What a tensor that `decode` takes consists of: classes, lanes, precision of its tables,
        the bytes of tables and stream, and the bytes that the classes of inputs and the indices in
        the stream have by their entropy, of the indices by classes."""
        found = Stream.of(array.data, claim, where)
        stream = found.states.nbytes + found.words.nbytes
        order = _Order.of(claim)
        each = order.outputs if order.lengths is None else order.lengths
        of_input, values = found.symbols(order, claim, where)
        rows = np.repeat(of_input.astype(np.int64), each) * claim.clusters + values
        shape = (len(found.table), claim.clusters)
        counts = np.bincount(rows, minlength=math.prod(shape)).reshape(shape)
        return {
            "classes": found.classes,
            "lanes": len(found.states),
            "precision": int(array.data[0]) >> 4,
            "table_bytes": array.nbytes - stream - _FIXED,
            "stream_bytes": stream,
            "class_entropy_bytes": _entropy_bytes(np.bincount(of_input)),
            "index_entropy_bytes": sum(map(_entropy_bytes, counts)),
        }


def _entropy_bytes(counts: Any_) -> float:
    """Bytes of symbols that occur so often, by their entropy."""
    return float(entropy(counts) * counts.sum() / 8) if counts.any() else 0.0


# Records that were written last, by what they were written from: sizes are asked for, and then the
# bytes. Few bytes in all.
_KEPT: dict[bytes, bytes] = {}
_MOST_KEPT = 1 << 24


def _remembered(indices: Any_, claim: Indices) -> bytes:
    """The record of indices; of those that were written last it is known."""
    small = np.ascontiguousarray(indices, index_type(claim.clusters))
    key = hashlib.sha256(repr((claim.count, claim.clusters, claim.shape, claim.groups)).encode())
    key.update(small.data)
    if claim.kept_at is not None:
        key.update(np.ascontiguousarray(claim.kept_at, np.int64).data)
    found = _KEPT.get(key.digest())
    if found is None:
        found = _record(_Order.of(claim).symbols(small), _edges(claim), claim.clusters)
        data = np.frombuffer(found, np.uint8)
        again = Stream.of(data, claim, "The index").indices(claim, "The index")
        if not np.array_equal(small, again):
            raise KancompressError(
                f"The indices {shown(claim.name)} do not come back from what was written of them;"
                " nothing was saved. Try again, and test this machine's memory."
            )
        _KEPT[key.digest()] = found
        while sum(map(len, _KEPT.values())) > _MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
    return found
