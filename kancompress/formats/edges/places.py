"""Where the pieces of a layer lie in its tensors, and the tensors given back from edge vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kancompress.errors import KancompressError
from kancompress.formats.arrays import Array, Numbers, array_of, converted, element_count
from kancompress.formats.edges.axes import (
    Axes,
    Claim,
    Sizes,
    kernel_axes,
    memory_shape,
    parse_axes,
    per_edge,
    solve,
    to_edge_order,
)
from kancompress.formats.edges.found import FoundLayer, Gain, Mask, Part
from kancompress.formats.safetensors import shown


def rows_of(layer: FoundLayer, part: Part) -> slice:
    """The edges whose coefficients a tensor holds."""
    if part.group is None:
        return slice(None)
    per_group = layer.edges // layer.groups
    return slice(part.group * per_group, (part.group + 1) * per_group)


def sizes_of(layer: FoundLayer, piece: Part | Gain) -> dict[str, int]:
    """Size of every axis of a tensor's pattern."""
    sizes = _known(layer)
    axes = parse_axes(piece.axes)
    if "half" not in axes.names:
        sizes.bind("coef", piece.last - piece.first, layer.name)
    elif len(axes.dims) == len(piece.shape):
        shape, columns = piece.shape, piece.columns if isinstance(piece, Part) else None
        if columns is not None:
            shape = (*shape[:-1], columns[1] - columns[0])
        solve([Claim(piece.tensor, shape, axes)], sizes)
    return sizes.known


def mask_sizes(layer: FoundLayer, mask: Mask, shape: tuple[int, ...]) -> dict[str, int]:
    """Size of every axis of a mask's pattern. Raises KancompressError where it has others."""
    sizes = _known(layer)
    reason = solve([Claim(mask.tensor, shape, parse_axes(mask.axes))], sizes)
    if reason:
        raise KancompressError(f"The mask of {shown(layer.name)} does not fit: {reason}.")
    return sizes.known


def _known(layer: FoundLayer) -> Sizes:
    sizes = {"group": layer.groups, "out": layer.shape[0] // layer.groups, "in": layer.shape[1]}
    sizes |= kernel_axes(layer.shape)
    return Sizes(sizes, dict.fromkeys(sizes, layer.name))


def to_edges(values: Numbers, axes: Axes, sizes: Mapping[str, int]) -> Numbers:
    """A tensor's numbers as a matrix (edges, coefficients); its rank is of no matter, its memory
    is."""
    split = values.reshape(memory_shape(axes, sizes))
    return split.transpose(to_edge_order(axes)).reshape(-1, per_edge(axes, sizes))


# From the first edge and the one behind the last, and the first coefficient and the one behind the
# last, to these numbers (edges, coefficients).
Gathered = Callable[[int, int, int, int], Numbers]
_BLOCK = 1 << 16  # edges that are gathered at a time, or those of one output


def scatter(layer: FoundLayer, vectors: Array, into: dict[str, Array]) -> None:
    """Write the tensors of a layer's parts, which have no factors, from its edge vectors.

    vectors : (edges, coefficients), in whatever shape
    into    : as of `scatter_gathered`
    """
    rows = vectors.flat.reshape(layer.edges, layer.coefficients)
    scatter_gathered(layer, lambda a, b, first, last: rows[a:b, first:last], vectors.dtype, into)


def scatter_gathered(
    layer: FoundLayer, gathered: Gathered, dtype: str, into: dict[str, Array]
) -> None:
    """The same from edge vectors that are made when they are written.

    dtype : of their numbers
    into  : other layers' tensors, which get these, too; columns of a tensor that is there are
            written into it
    """
    for part in layer.parts:
        flat = _from_edges(layer, part, gathered, dtype)
        if part.columns is None:
            into[part.tensor] = array_of(flat, part.dtype, part.shape)
            continue
        begin, end = part.columns
        if part.tensor not in into:
            blank = np.zeros(element_count(part.shape), flat.dtype)
            into[part.tensor] = array_of(blank, part.dtype, part.shape)
        whole = into[part.tensor].flat.reshape(-1, part.shape[-1])
        whole[:, begin:end] = flat.reshape(-1, end - begin)


def _from_edges(layer: FoundLayer, part: Part, gathered: Gathered, dtype: str) -> Numbers:
    """The elements that a part has of its tensor, in their order there."""
    axes, sizes = parse_axes(part.axes), sizes_of(layer, part)
    begin, end, _ = rows_of(layer, part).indices(layer.edges)
    empty = gathered(begin, begin + 1, part.first, part.last)[:0]
    shape = memory_shape(axes, sizes)
    flat: Numbers = np.empty(element_count(shape), converted(empty, dtype, part.dtype).dtype)
    places = flat.reshape(shape).transpose(to_edge_order(axes))
    each = (end - begin) // len(places)
    step = max(1, _BLOCK // each)
    for at in range(0, len(places), step):
        target = places[at : at + step]
        start = begin + at * each
        block = gathered(start, start + len(target) * each, part.first, part.last)
        target[...] = converted(block, dtype, part.dtype).reshape(target.shape)
    return flat
