"""The edges of a layer in a graph: indices in few bits, and weights gathered from a codebook."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from kancompress.exporting.onnx.graph import INT32, UINT4, UINT8, UINT16, UINT32, Graph
from kancompress.frozen import dataclass
from kancompress.runtime.program import Edges, Layer, Rows

_AXIS = 2
# What the nodes that take bits apart weigh in the file, and those that put kept rows in their
# places; or more.
_UNPACKING, _PLACING = 400, 200


@dataclass(frozen=True, slots=True)
class Codebooks:
    """The codebooks of a network, each in the graph once, whichever layers have it."""

    graph: Graph
    known: dict[str, str]

    def of(self, layer: Layer) -> str:
        """The table (rows, size / parts) of a layer: its codebook, and the rows that are kept."""
        edges, owner = layer.edges, layer.edges.owner or layer.name
        if owner not in self.known:
            self.known[owner] = self.graph.table(edges.table[: edges.clusters])
        if len(edges.table) == edges.clusters:
            return self.known[owner]
        kept = self.graph.numbers(edges.table[edges.clusters :], "kept")
        return self.graph.once("Concat", self.known[owner], kept, axis=0)


def weights(graph: Graph, layer: Layer, table: str | None) -> str:
    """The coefficients (edges, size) of a layer, factors included; None is no table: all dense."""
    edges, size = layer.edges, layer.edges.size
    if table is None:
        found = graph.numbers(edges.table.reshape(-1, size), "weights")
    else:
        found = graph.node("Gather", table, indices(graph, edges))
        if edges.parts > 1:
            found = graph.node("Reshape", found, graph.ints(-1, size))
    for gain in edges.gains:
        factors = graph.numbers(gain.factors.reshape(-1, 1), "factors")
        if gain.first == 0 and gain.last == size:
            found = graph.node("Mul", found, factors)
            continue
        bounds = sorted({0, gain.first, gain.last, size})
        pieces = [
            graph.node("Slice", found, graph.ints(first), graph.ints(last), graph.ints(1))
            for first, last in pairwise(bounds)
        ]
        place = bounds.index(gain.first)
        pieces[place] = graph.node("Mul", pieces[place], factors)
        found = graph.node("Concat", *pieces, axis=1)
    return found


def picked(graph: Graph, layer: Layer, table: str, features: str) -> str:
    """Sums over the edges (batch, out) from products of features and rows of the table.

    features : (batch, in, size)
    """
    edges, rows = layer.edges, len(layer.edges.table)
    vectors = layer.inputs * edges.parts
    places = graph.node("Reshape", indices(graph, edges), graph.ints(layer.outputs, vectors))
    bounds = (graph.constant(np.array(value, np.int32)) for value in (0, vectors * rows, rows))
    places = graph.node("Add", places, graph.node("Range", *bounds))
    cuts = sorted({0, edges.size, *(at for gain in edges.gains for at in (gain.first, gain.last))})
    total = ""
    for first, last in pairwise(cuts):
        own, piece = features, table
        if len(cuts) > 2:
            ends = graph.ints(first), graph.ints(last)
            own = graph.node("Slice", features, *ends, graph.ints(_AXIS))
            piece = graph.node("Slice", table, *ends, graph.ints(1))
        if edges.parts > 1:
            own = graph.node("Reshape", own, graph.ints(0, vectors, edges.size // edges.parts))
        products = graph.node("MatMul", own, graph.node("Transpose", piece))
        chosen = graph.node("Gather", graph.node("Flatten", products), places, axis=1)
        for gain in edges.gains:
            if gain.first <= first and last <= gain.last:
                chosen = graph.node("Mul", chosen, graph.numbers(gain.factors, "factors"))
        total = graph.node("Add", total, chosen) if total else chosen
    return graph.node("ReduceSum", total, graph.ints(_AXIS), keepdims=0)


def can_pick(edges: Edges) -> bool:
    """Whether `picked` has a graph for these edges of a layer that is fully connected."""
    return edges.rows is not None and not (edges.gains and edges.parts > 1)


# --- indices --------------------------------------------------------------------------------------


def indices(graph: Graph, edges: Edges) -> str:
    """The row of the table of each part of each edge, int32 (edges * parts,)."""
    assert edges.rows is not None
    rows, clusters = edges.rows, edges.clusters
    kept = np.flatnonzero(rows >= clusters).astype(_fewest(len(rows)))
    narrow, wide = (_weight(len(rows), count) for count in (clusters, len(edges.table)))
    in_order = np.array_equal(rows[kept], np.arange(clusters, len(edges.table)))
    if not len(kept) or not in_order or narrow + kept.nbytes + _PLACING >= wide:
        return _packed(graph, rows, len(edges.table))
    found = _packed(graph, np.where(rows < clusters, rows, 0), clusters)
    places = graph.node("Cast", graph.constant(kept, "indices"), to=INT32)
    ends = (graph.constant(np.array(end, np.int32)) for end in (clusters, len(edges.table), 1))
    return graph.node("ScatterElements", found, places, graph.node("Range", *ends), axis=0)


def _fewest(count: int) -> np.dtype[Any]:
    """The type of places among so many."""
    return np.min_scalar_type(max(count - 1, 0))


def _bits(rows: int) -> int:
    return max(rows - 1, 0).bit_length()


def _plain(bits: int) -> int:
    """The width that ONNX has for so many bits."""
    return next(width for width in (4, 8, 16, 32) if bits <= width)


def _weight(count: int, rows: int) -> int:
    """Bytes of indices that point to so many rows."""
    bits = _bits(rows)
    plain = -(-count * _plain(bits) // 8)
    return min(plain, -(-count * bits // 8) + _UNPACKING) if bits else 0


def _packed(graph: Graph, rows: Rows, count: int) -> str:
    """Numbers of rows of a table with `count` rows, as int32, from the fewest bytes."""
    bits = _bits(count)
    if not bits:
        zeros = graph.node("ConstantOfShape", graph.ints(len(rows)))
        return graph.node("Cast", zeros, to=INT32)
    plain = _plain(bits)
    if _weight(len(rows), count) < -(-len(rows) * plain // 8):
        return _taken_apart(graph, rows, bits)
    if plain == 4:
        even = np.zeros(len(rows) + len(rows) % 2, np.uint8)
        even[: len(rows)] = rows
        data, kind = (even[::2] | even[1::2] << 4).tobytes(), UINT4
    else:
        data = rows.astype(f"<u{plain // 8}").tobytes()
        kind = {8: UINT8, 16: UINT16, 32: UINT32}[plain]
    return graph.node("Cast", graph.raw(data, kind, (len(rows),), "indices"), to=INT32)


def _taken_apart(graph: Graph, rows: Rows, width: int) -> str:
    """Numbers of any width, one behind another, the lowest bit first."""
    steps = np.arange(width)
    bits = (rows.astype(np.uint32)[:, None] >> steps).astype(np.uint8) & 1
    data = np.packbits(bits.reshape(-1), bitorder="little")
    node, constant = graph.node, graph.constant
    whole = node("Unsqueeze", constant(data, "indices"), graph.ints(1))
    shifted = node("BitShift", whole, constant(np.arange(8, dtype=np.uint8)), direction="RIGHT")
    single = node("BitwiseAnd", shifted, constant(np.array(1, np.uint8)))
    flat = node("Reshape", single, graph.ints(-1))
    if len(data) * 8 != bits.size:
        flat = node("Slice", flat, graph.ints(0), graph.ints(bits.size))
    each = node("Cast", node("Reshape", flat, graph.ints(-1, width)), to=INT32)
    weighed = node("Mul", each, constant((1 << steps).astype(np.int32)))
    return node("ReduceSum", weighed, graph.ints(1), keepdims=0)
