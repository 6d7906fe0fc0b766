"""Indices of a layer's edges as a header has them: input by input, so that a row runs in one pass.

The positions of a layer are its inputs, of a convolution each with its taps, and where edges have
parts each with its part; a position has one index for each output, but for edges that are kept.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kancompress.config import IndexCoding
from kancompress.exporting.c.unit import Lines, Unit, loop, unwritten
from kancompress.formats.packed.encodings import RANS, bits, rans
from kancompress.formats.packed.encodings.protocol import Indices
from kancompress.frozen import dataclass
from kancompress.runtime.program import Layer

# Bits of an index that never lie in two bytes.
_WITHIN = (1, 2, 4)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Edges:
    """Which row of the table each part of each edge is, by positions.

    rows    : (in * taps, parts, out); those from `clusters` are kept edges
    kept_at : numbers of the kept edges in the order (in, taps, out), ascending
    order   : which of the kept vectors of the table each of them is
    """

    rows: npt.NDArray[np.int64]
    clusters: int
    kept_at: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, layer: Layer) -> Edges:
        """Of a packed layer."""
        edges = layer.edges
        assert edges.rows is not None
        out, *inputs = edges.shape
        cube = edges.rows.astype(np.int64).reshape(out, math.prod(inputs), edges.parts)
        rows = np.ascontiguousarray(cube.transpose(1, 2, 0))
        first = rows[:, 0].reshape(-1)
        kept_at = np.flatnonzero(first >= edges.clusters)
        order = (first[kept_at] - edges.clusters) // edges.parts
        return cls(rows=rows, clusters=edges.clusters, kept_at=kept_at, order=order)

    @property
    def symbols(self) -> npt.NDArray[np.int64]:
        """All indices in the order of the positions."""
        flat = self.rows.reshape(-1)
        return flat[flat < self.clusters]

    def most_kept(self, inputs: int) -> int:
        """The most kept edges of an input."""
        each = self.rows.shape[0] * self.rows.shape[2] // inputs
        counts = np.bincount(self.kept_at // each, minlength=1)
        return int(counts.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Statements that read indices in the order of the positions.

    begin    : before the first one
    position : before those of a position; `@Q` stands for the part
    next     : puts the next one into `row`
    byte     : bits of an index where those of a position are whole bytes of `bytes`, else 0
    """

    begin: Lines
    position: Lines
    next: Lines
    byte: int = 0
    bytes: str = ""


def reading(unit: Unit, layer: Layer, edges: Edges, number: int, encoding: str, at: str) -> Reading:
    """How the indices of a layer are read, in an encoding.

    at : expression for the number of the position, with `@Q` for the part
    """
    clusters = edges.clusters
    if clusters == 1 or not len(edges.symbols):
        return Reading(begin=[], position=[], next=["row = 0;"])
    if len(edges.symbols) * bits.width_of(clusters) >= 1 << 32:
        raise unwritten(layer.name, "has 2^32 bits of indices", "give it fewer centroids")
    claim = _claim(layer, edges)
    if encoding == IndexCoding.BITS or not RANS.fits(claim):
        return _bits(unit, edges, number)
    stream = _stream(layer, claim)
    width = bits.packed_size(len(edges.symbols), bits.width_of(clusters))
    if encoding == IndexCoding.AUTO and width <= stream.nbytes:
        return _bits(unit, edges, number)
    return _entropy_coded(unit, stream, claim, number, at)


def _bits(unit: Unit, edges: Edges, number: int) -> Reading:
    symbols, width = edges.symbols, bits.width_of(edges.clusters)
    if width in (8, 16):
        kind = np.uint8 if width == 8 else np.uint16
        name = unit.flash.add(f"index{number}", symbols.astype(kind))
        return Reading(begin=["t = 0;"], position=[], next=[f"row = {name}[t++];"])
    packed = bits.pack(symbols.astype(np.uint16), width)
    mask = (1 << width) - 1
    if width in _WITHIN:
        name = unit.flash.add(f"index{number}", packed)
        each = 8 // width
        shift = f"(t % {each}u * {width}u)"
        if edges.rows.shape[2] % each == 0 and not len(edges.kept_at):
            return Reading(begin=["t = 0;"], position=[], next=[], byte=width, bytes=f"{name}[t++]")
        return Reading(
            begin=["t = 0;"],
            position=[],
            next=[f"row = (uint32_t)({name}[t / {each}u] >> {shift}) & {mask}u;", "++t;"],
        )
    # An index lies in two bytes or three; one is read at most beyond the last of them.
    reach = 2 if width <= 9 else 3
    needed = (len(symbols) - 1) * width // 8 + reach
    packed = np.concatenate([packed, np.zeros(max(needed - len(packed), 0), np.uint8)])
    name = unit.flash.add(f"index{number}", packed)
    parts = [f"(uint32_t){name}[(t >> 3) + {n}u] << {8 * n}" for n in range(1, reach)]
    word = " | ".join([f"{name}[t >> 3]", *(f"({part})" for part in parts)])
    return Reading(
        begin=["t = 0;"],
        position=[],
        next=[f"row = (({word}) >> (t & 7u)) & {mask}u;", f"t += {width}u;"],
    )


def _claim(layer: Layer, edges: Edges) -> Indices:
    """What the header of a packed file would say of the indices."""
    shape, parts = layer.edges.shape, layer.edges.parts
    out, taps = edges.rows.shape[2], edges.rows.shape[0]
    position, output = edges.kept_at // out, edges.kept_at % out
    claim = Indices(
        name=f"{layer.name}.index",
        count=math.prod(shape) - len(edges.kept_at),
        clusters=edges.clusters,
        shape=shape,
        kept_at=np.sort(output * taps + position) if len(edges.kept_at) else None,
    )
    return claim.cut(parts)


def _stream(layer: Layer, claim: Indices) -> rans.Stream:
    assert layer.edges.rows is not None
    rows = layer.edges.rows
    array = RANS.encode(rows[rows < layer.edges.clusters], claim)
    assert array is not None
    return rans.Stream.of(array.data, claim, layer.name)


def _entropy_coded(
    unit: Unit, stream: rans.Stream, claim: Indices, number: int, at: str
) -> Reading:
    several, lanes = stream.classes > 1, len(stream.states)
    positions = math.prod(claim.shape[1:])
    clusters = claim.clusters
    symbol = unit.helper("stream")[: -len("stream")] + "symbol"
    states = unit.flash.add(f"states{number}", stream.states)
    words = stream.words if len(stream.words) else np.zeros(1, np.uint16)
    begins = [_begins(row[: stream.classes]) for row in stream.table[:1] if several]
    begins += [_begins(row[:clusters]) for row in stream.table[several:]]
    table = unit.flash.add(f"begins{number}", np.concatenate(begins))
    lines = [
        f"stream.states = {unit.scratch.want('states', 'uint32_t', lanes)};",
        f"stream.words = {unit.flash.add(f'words{number}', words)};",
        f"stream.lanes = {lanes}u;",
        "stream.turn = 0;",
        *loop("b", f"{lanes}u", [f"stream.states[b] = {states}[b];"]),
    ]
    position: Lines = []
    begin = table
    if several:
        classes = unit.scratch.want("classes", "uint8_t", positions)
        body = [f"{classes}[b] = (uint8_t){symbol}(&stream, {table}, {stream.classes}u);"]
        lines += [*loop("b", f"{positions}u", body), "stream.turn = 0;"]
        skipped = stream.classes + 1
        begin = "begins"
        position = [f"begins = {table} + {skipped}u + {classes}[{at}] * {clusters + 1}u;"]
    return Reading(
        begin=lines, position=position, next=[f"row = {symbol}(&stream, {begin}, {clusters}u);"]
    )


def _begins(frequencies: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Where each symbol's share begins, and the end of the last."""
    return np.concatenate([[0], np.cumsum(frequencies, dtype=np.uint32)]).astype(np.uint16)
