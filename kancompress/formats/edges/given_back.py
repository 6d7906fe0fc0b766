"""Tensors given back from edge vectors."""

from __future__ import annotations

import numpy as np

from kancompress.formats.arrays import Array, array_of, converted
from kancompress.formats.edges.axes import edge_shape, parse_axes, to_memory_order
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.edges.places import rows_of, sizes_of
from kancompress.formats.shapes import element_count


def scatter(layer: FoundLayer, vectors: Array, into: dict[str, Array]) -> None:
    """Write the tensors of a layer's parts, which have no factors, from its edge vectors.

    vectors : (edges, coefficients), in whatever shape
    into    : other layers' tensors, which get these, too; columns of a tensor that is there are
              written into it
    """
    rows = vectors.flat.reshape(layer.edges, layer.coefficients)
    for part in layer.parts:
        axes, sizes = parse_axes(part.axes), sizes_of(layer, part)
        block = rows[rows_of(layer, part), part.first : part.last]
        split = block.reshape(edge_shape(axes, sizes)).transpose(to_memory_order(axes))
        flat = converted(np.ascontiguousarray(split).reshape(-1), vectors.dtype, part.dtype)
        if part.columns is None:
            into[part.tensor] = array_of(flat, part.dtype, part.shape)
            continue
        begin, end = part.columns
        if part.tensor not in into:
            blank = np.zeros(element_count(part.shape), flat.dtype)
            into[part.tensor] = array_of(blank, part.dtype, part.shape)
        whole = into[part.tensor].flat.reshape(-1, part.shape[-1])
        whole[:, begin:end] = flat.reshape(-1, end - begin)
