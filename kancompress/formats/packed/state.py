"""The tensors that a packed record stands for, by name.

docs/packed-format.md, section 8, for checkpoints of other libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.formats.arrays import (
    Array,
    Numbers,
    Outline,
    array_of,
    converted,
    element_count,
    filled,
    promoted,
    repeated,
    steps,
)
from kancompress.formats.edges.found import FoundLayer, Part
from kancompress.formats.edges.places import Gathered, scatter, scatter_gathered
from kancompress.formats.packed.record import LayerRecord, PackedRecord
from kancompress.formats.packed.restore import Arange, Fill, PerEdge, Repeat, SourceTensor, Tie

_BLOCK = 1 << 16  # vectors that are gathered at a time


def rows_of(layer: LayerRecord[Array], clusters: int) -> npt.NDArray[np.int32]:
    """Of each edge of a packed layer its row in the codebook followed by the kept vectors.

    Of a layer whose edges have several parts the row of each, (edges * parts,), where the kept
    vectors are cut into parts, too.
    """
    index = layer.indices()
    if layer.kept_at is None:
        return index.astype(np.int32)
    kept_at, parts = layer.kept_at.numpy(), layer.parts
    rows = np.empty((layer.edges, parts), np.int32)
    packed = np.ones(layer.edges, np.bool_)
    packed[kept_at] = False
    rows[packed] = index.reshape(-1, parts)
    last = clusters + len(kept_at) * parts
    rows[kept_at] = np.arange(clusters, last, dtype=np.int32).reshape(-1, parts)
    return rows.reshape(-1)


def coefficients_of(layer: LayerRecord[Array], codebook: Array | None) -> Array:
    """Dense coefficients of a layer, (*shape, d), in a type that holds all of them exactly.

    codebook : that it uses, its own or another layer's
    """
    if codebook is None:
        assert layer.coefficients is not None
        return layer.coefficients
    width = codebook.shape[1]
    dtype, table, rows = _table(layer, codebook)
    result = np.empty((layer.edges * layer.parts, width), table.dtype)
    for start in range(0, len(result), _BLOCK):
        block = slice(start, start + _BLOCK)
        np.take(table, rows[block], axis=0, out=result[block], mode="clip")
    return array_of(result, dtype, (*layer.shape, width * layer.parts))


def _table(
    layer: LayerRecord[Array], codebook: Array
) -> tuple[str, Numbers, npt.NDArray[np.integer[Any]]]:
    """Vectors that a packed layer's edges, or their parts, are made of: type and elements; and the
    row that each is."""
    width, dtype = codebook.shape[1], codebook.dtype
    if layer.kept is None:
        return dtype, codebook.flat.reshape(-1, width), layer.indices()
    dtype = promoted(dtype, layer.kept.dtype)
    tables = [
        converted(one.flat.reshape(-1, width), one.dtype, dtype) for one in (codebook, layer.kept)
    ]
    return dtype, np.concatenate(tables), rows_of(layer, len(codebook))


def _gathered(layer: LayerRecord[Array], codebook: Array | None) -> tuple[str, Gathered]:
    """The type of a layer's coefficients, and what gives some of them, as of `coefficients_of`."""
    if codebook is None:
        assert layer.coefficients is not None
        whole = layer.coefficients.flat.reshape(layer.edges, -1)
        return layer.coefficients.dtype, lambda start, stop, a, b: whole[start:stop, a:b]
    dtype, table, rows = _table(layer, codebook)
    parts = layer.parts

    def gathered(start: int, stop: int, first: int, last: int) -> Numbers:
        found = np.take(table, rows[start * parts : stop * parts], axis=0, mode="clip")
        return found.reshape(stop - start, -1)[:, first:last]

    return dtype, gathered


def native_tensors(record: PackedRecord[Array]) -> dict[str, Array]:
    """Coefficients of a native network, at least float32, and what its layers have beside them."""
    tensors: dict[str, Array] = {}
    for layer in record.layers:
        values = coefficients_of(layer, record.codebook_of(layer))
        tensors[f"{layer.name}.coefficients"] = (
            values if values.dtype == "F64" else values.to("F32")
        )
        tensors |= {f"{layer.name}.{role}": array for role, array in layer.sides.items()}
    return tensors | dict(record.tensors)


def source_tensors(record: PackedRecord[Array]) -> dict[str, Array]:
    """Another library's state dict: names in the source's order, ties one tensor."""
    edges: dict[str, Array] = {}
    for layer in found_layers(record):
        packed = record.layer(layer.name)
        dtype, gathered = _gathered(packed, record.codebook_of(packed))
        scatter_gathered(layer, gathered, dtype, into=edges)
    return _tied(record, edges)


def outline(record: PackedRecord[Array]) -> dict[str, Array | Outline]:
    """Another library's state dict with outlines in place of the tensors that hold packed edges.

    Names, shapes and types are all there, so layers can be recognised; nothing is gathered.
    """
    assert record.restore is not None
    edges = {
        tensor.name: Outline(tensor.dtype, tensor.shape)
        for tensor in record.restore.tensors
        if tensor.pieces
    }
    return _tied(record, edges)


def _tied(record: PackedRecord[Array], edges: Mapping[str, Any]) -> dict[str, Any]:
    """All tensors of the source, those that are tied as one.

    edges : the tensors that hold edges
    """
    assert record.restore is not None
    result: dict[str, Any] = {}
    for tensor in record.restore.tensors:
        if tensor.pieces:
            result[tensor.name] = edges[tensor.name]
        elif not isinstance(tensor.origin, Tie):
            result[tensor.name] = given_back(tensor, record)
    return {tensor.name: result[tensor.owner] for tensor in record.restore.tensors}


def given_back(tensor: SourceTensor, record: PackedRecord[Array]) -> Array:
    """A tensor of the source that holds no edges, with storage of its own."""
    stored = record.tensors
    match tensor.origin:
        case Fill(number):
            return filled(number, tensor.dtype, tensor.shape)
        case Repeat(name):
            return repeated(stored[name].flat, tensor.dtype, tensor.shape)
        case PerEdge() as numbers:
            return _by_edge(tensor, numbers, record)
        case Arange() as arange:
            return repeated(arange_row(arange, tensor.dtype), tensor.dtype, tensor.shape)
    assert tensor.stored is not None
    return stored[tensor.stored]


def _by_edge(tensor: SourceTensor, numbers: PerEdge, record: PackedRecord[Array]) -> Array:
    """A tensor of numbers that follow from what becomes of a layer's edges."""
    layer = record.layer(numbers.layer)
    width = element_count(tensor.shape) // layer.edges

    def block(number: float, rows: int) -> Numbers:
        return filled(number, tensor.dtype, (rows, width)).flat.reshape(rows, width)

    rows = np.array(block(numbers.live, layer.edges))
    packed = np.ones(layer.edges, np.bool_)
    if layer.kept_at is not None and numbers.kept is not None:
        packed[layer.kept_at.numpy()] = False
        kept = numbers.kept
        rows[~packed] = (
            record.tensors[kept].flat.reshape(-1, width)
            if isinstance(kept, str)
            else block(kept, 1)
        )
    if numbers.silent is not None:
        silent = packed.copy()
        silent[packed] = (layer.indices().reshape(-1, layer.parts) == 0).all(axis=1)
        rows[silent] = block(numbers.silent, 1)
    part = Part(
        tensor=tensor.name,
        axes=numbers.axes,
        first=0,
        last=width,
        shape=tensor.shape,
        dtype=tensor.dtype,
    )
    found = FoundLayer(
        name=layer.name,
        layout="",
        shape=layer.shape,
        coefficients=width,
        parts=(part,),
        groups=layer.groups,
    )
    made: dict[str, Array] = {}
    scatter(found, array_of(rows.reshape(-1), tensor.dtype, (layer.edges, width)), made)
    return made[tensor.name]


def arange_row(arange: Arange, dtype: str) -> Numbers:
    """The row that an origin stands for, each operation rounded to a type; its elements."""
    return steps(arange.base, arange.step, arange.first, arange.count, dtype)


def found_layers(record: PackedRecord[Any]) -> list[FoundLayer]:
    """The layers of another library's checkpoint, with the parts of tensors that hold them."""
    assert record.restore is not None
    parts: dict[str, list[Part]] = {}
    for tensor in record.restore.tensors:
        for piece in tensor.pieces:
            parts.setdefault(piece.layer, []).append(
                Part(
                    tensor=tensor.name,
                    axes=piece.axes,
                    first=piece.first,
                    last=piece.last,
                    shape=tensor.shape,
                    dtype=tensor.dtype,
                    group=piece.group,
                    columns=piece.columns,
                )
            )
    found = []
    for name, pieces in parts.items():
        layer = record.layer(name)
        found.append(
            FoundLayer(
                name=name,
                layout="",
                shape=layer.shape,
                coefficients=record.vector_size_of(layer),
                parts=tuple(pieces),
                groups=layer.groups,
            )
        )
    return found
