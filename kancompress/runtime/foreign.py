"""Packed files of other libraries' networks as `Program`s, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.formats.arrays import Array, Outline
from kancompress.formats.edges import masks
from kancompress.formats.edges.axes import parse_axes
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.edges.places import rows_of, sizes_of, to_edges
from kancompress.formats.packed import PackedRecord, state
from kancompress.forward import RunOptions
from kancompress.libraries import chain, told
from kancompress.libraries.chain import ToldLayer
from kancompress.libraries.told import Wishes
from kancompress.runtime.program import Edges, Gain, Layer, Numbers, Program, packed_edges


def program_of(
    record: PackedRecord[Array], where: str, file_bytes: int, options: RunOptions
) -> Program:
    """The network of another library's packed file.

    options : what the file does not tell of it
    Raises UsageError where the layers or what they compute are not known, and where an option
    contradicts the file or means nothing for it; InvalidFileError where its forms fit no layer.
    """
    assert record.restore is not None
    tensors = state.outline(record)
    found = told.recognised(tensors, options.layouts, record.forms)
    names = chain.packed_names(found, record)
    dtype = chain.dtype_of(found)
    read = _reader(tensors, dtype)
    wishes = Wishes(options=options, forms=record.forms)
    whole = chain.chain_of(found, record.restore.container, wishes, read)
    return Program(
        layers=tuple(_layer(record, layer, names, read, dtype) for layer in whole.layers),
        data=record.data,
        notes=whole.notes,
        where=where,
        file_bytes=file_bytes,
    )


def _reader(tensors: Mapping[str, Array | Outline], dtype: type[np.floating[Any]]) -> chain.Read:
    """Copies of tensors in the type of the computation; packed ones are not gathered."""

    def read(name: str) -> Numbers | None:
        found = tensors.get(name)
        return found.values().astype(dtype) if isinstance(found, Array) else None

    return read


def _layer(
    record: PackedRecord[Array],
    layer: ToldLayer,
    names: Mapping[str, str],
    read: chain.Read,
    dtype: type[np.floating[Any]],
) -> Layer:
    found, arrays = layer.found, dict(layer.arrays)
    bias = arrays.pop("bias", None)
    if found.name in names:
        edges = packed_edges(record, record.layer(names[found.name]), dtype)
    else:
        table = _gathered(found, read, dtype)
        edges = Edges(shape=found.shape, size=found.coefficients, table=table)
    edges = replace(edges, gains=tuple(_gains(found, edges, read)))
    return Layer(name=found.name, form=layer.form, edges=edges, arrays=arrays, bias=bias)


def _gains(layer: FoundLayer, edges: Edges, read: chain.Read) -> Iterator[Gain]:
    """Factors of splines, and masks of 0 and 1, which multiply the whole edge; not those that
    change nothing."""
    numbers, dtype = chain.required(read), edges.table.dtype
    for gain in layer.gains:
        factors = masks.gain_factors(layer, gain, numbers).astype(dtype)
        if not (factors == 1).all():
            yield Gain(first=gain.first, last=gain.last, factors=factors.reshape(layer.shape))
    factors = masks.mask_factors(layer, numbers).astype(dtype)
    if not ((factors == 1) | ((factors == 0) & _are_zero(edges))).all():
        yield Gain(first=0, last=layer.coefficients, factors=factors.reshape(layer.shape))


def _are_zero(edges: Edges) -> npt.NDArray[np.bool_]:
    """Which edges have no coefficient but 0, (edges,), as masked ones mostly are packed."""
    zero = np.logical_not(np.any(edges.table, axis=1, keepdims=True))
    rows = zero if edges.rows is None else zero[edges.rows]
    found: npt.NDArray[np.bool_] = rows.reshape(-1, edges.parts).all(axis=1)
    return found


def _gathered(layer: FoundLayer, read: chain.Read, dtype: type[np.floating[Any]]) -> Numbers:
    """Edge vectors (edges, coefficients) of a layer that the file has as it was."""
    vectors = np.empty((layer.edges, layer.coefficients), dtype)
    for part in layer.parts:
        values = chain.required(read)(part.tensor)
        values = values if part.columns is None else values[..., slice(*part.columns)]
        block = to_edges(values, parse_axes(part.axes), sizes_of(layer, part))
        vectors[rows_of(layer, part), part.first : part.last] = block
    return vectors
