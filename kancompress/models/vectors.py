"""Edge vectors out of a file's tensors, and the tensors back out of edge vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kancompress.errors import KancompressError
from kancompress.formats.arrays import Numbers
from kancompress.formats.edges import masks
from kancompress.formats.edges.axes import (
    Axes,
    edge_shape,
    memory_shape,
    parse_axes,
    per_edge,
    to_edge_order,
    to_memory_order,
)
from kancompress.formats.edges.found import FoundLayer, Gain, Part
from kancompress.formats.edges.places import rows_of, sizes_of
from kancompress.formats.safetensors import shown
from kancompress.models.tensors import DTYPES, part_of, to_array


def to_edges(tensor: Tensor, axes: Axes, sizes: Mapping[str, int]) -> Tensor:
    """The tensor as a matrix (edges, coefficients); its rank is of no matter, its memory is."""
    split = tensor.reshape(memory_shape(axes, sizes))
    return split.permute(to_edge_order(axes)).reshape(-1, per_edge(axes, sizes))


def from_edges(edges: Tensor, axes: Axes, sizes: Mapping[str, int]) -> Tensor:
    """The inverse of `to_edges`, with one dimension for each axis of the pattern."""
    return edges.reshape(edge_shape(axes, sizes)).permute(to_memory_order(axes))


def gather(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Edge vectors (edges, coefficients), row-major over `layer.shape`, scales folded in."""
    if layer.generator is not None:
        return _generate(layer, tensors)
    dtype = DTYPES[layer.parts[0].dtype]
    for other in [part.dtype for part in layer.parts] + [gain.dtype for gain in layer.gains]:
        dtype = torch.promote_types(dtype, DTYPES[other])
    device = tensors[layer.parts[0].tensor].device
    vectors = torch.empty(layer.edges, layer.coefficients, dtype=dtype, device=device)
    for part in layer.parts:
        tensor = tensors[part.tensor].detach()
        if part.columns is not None:
            tensor = tensor[..., slice(*part.columns)]
        block = to_edges(tensor, parse_axes(part.axes), sizes_of(layer, part))
        vectors[rows_of(layer, part), part.first : part.last] = block.to(dtype)
    for gain in layer.gains:
        factor = to_edges(
            tensors[gain.tensor].detach(), parse_axes(gain.axes), sizes_of(layer, gain)
        )
        vectors[:, gain.first : gain.last] *= factor.to(dtype)
    return vectors


def edges_in_parts(
    layer: FoundLayer, tensors: Mapping[str, Tensor]
) -> Callable[[int, int], Tensor] | None:
    """What gives the vectors of edges from a first to the one behind a last, as `gather` does, and
    reads no more; None where the edges do not lie one after another in the layer's tensors."""
    pieces: list[Part | Gain] = [*layer.parts, *layer.gains]
    if layer.generator is not None or not all(_in_edge_order(layer, piece) for piece in pieces):
        return None
    if any(part_of(tensors, piece.tensor, 0, 1) is None for piece in pieces):
        return None
    dtype = DTYPES[pieces[0].dtype]
    for piece in pieces[1:]:
        dtype = torch.promote_types(dtype, DTYPES[piece.dtype])

    def numbers(piece: Part | Gain, start: int, stop: int) -> Tensor:
        each = per_edge(parse_axes(piece.axes), sizes_of(layer, piece))
        found = part_of(tensors, piece.tensor, start * each, stop * each)
        assert found is not None
        return found.reshape(-1, each).to(dtype)

    def read(start: int, stop: int) -> Tensor:
        found = [numbers(part, start, stop) for part in layer.parts]
        vectors = found[0].new_empty(stop - start, layer.coefficients)
        for part, own in zip(layer.parts, found, strict=True):
            vectors[:, part.first : part.last] = own
        for gain in layer.gains:
            vectors[:, gain.first : gain.last] *= numbers(gain, start, stop)
        return vectors

    return read


def _in_edge_order(layer: FoundLayer, piece: Part | Gain) -> bool:
    """Whether a tensor holds all edges of a layer one after another."""
    if isinstance(piece, Part) and (piece.group is not None or piece.columns is not None):
        return False
    axes, sizes = parse_axes(piece.axes), sizes_of(layer, piece)
    each = per_edge(axes, sizes)
    in_order = to_edge_order(axes) == list(range(len(axes.names)))
    return in_order and math.prod(piece.shape) == layer.edges * each


def scatter(
    layer: FoundLayer, vectors: Tensor, into: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The tensors of the layer's parts and gains, rebuilt from (edges, coefficients).

    into : other layers' tensors, which get these, too; columns of a tensor that is there are
           written into it
    Gains come back as ones; masks and all other tensors are not touched.
    """
    if layer.generator is not None:
        raise KancompressError(
            f"The layer {shown(layer.name)} generates its vectors; they cannot be written back."
        )
    if vectors.shape != (layer.edges, layer.coefficients):
        raise KancompressError(
            f"The layer {shown(layer.name)} has {layer.edges} edges of {layer.coefficients}"
            f" coefficients; vectors of shape {tuple(vectors.shape)} were given."
        )
    result: dict[str, Tensor] = {} if into is None else into
    for part in layer.parts:
        block = vectors[rows_of(layer, part), part.first : part.last]
        tensor = from_edges(block, parse_axes(part.axes), sizes_of(layer, part)).to(
            DTYPES[part.dtype]
        )
        if part.columns is None:
            result[part.tensor] = tensor.reshape(part.shape).contiguous()
            continue
        begin, end = part.columns
        if part.tensor not in result:
            result[part.tensor] = tensor.new_zeros(part.shape)
        whole = result[part.tensor]
        whole[..., begin:end] = tensor.reshape(*part.shape[:-1], end - begin)
    for gain in layer.gains:
        result[gain.tensor] = vectors.new_ones(gain.shape, dtype=DTYPES[gain.dtype])
    return result


def packable(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Which edges may be clustered, (edges,) of bool: not those masked or symbolic."""
    return torch.from_numpy(masks.packable(layer, _reader(tensors)))


def silent(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Which edges compute nothing, whatever their coefficients are, (edges,) of bool: those behind
    a mask of 0 that are not symbolic."""
    return torch.from_numpy(masks.silent(layer, _reader(tensors)))


def is_silent(layers: Sequence[FoundLayer], tensors: Mapping[str, Tensor]) -> bool:
    """Whether every edge of these layers computes nothing."""
    return masks.is_silent(layers, _reader(tensors))


def gain_factors(layer: FoundLayer, gain: Gain, tensors: Mapping[str, Tensor]) -> Tensor:
    """The factor of every edge, (edges,)."""
    tensor = tensors[gain.tensor].detach()
    return to_edges(tensor, parse_axes(gain.axes), sizes_of(layer, gain)).reshape(-1)


def mask_factors(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """The product of all masks of live edges, (edges,); ones where there are none."""
    return torch.from_numpy(masks.mask_factors(layer, _reader(tensors)))


def _reader(tensors: Mapping[str, Tensor]) -> Callable[[str], Numbers]:
    return lambda name: to_array(tensors[name]).values()


def join(tensors: dict[str, Tensor], layer: FoundLayer, values: Mapping[str, Tensor]) -> None:
    """Add what `layer` gives; a tensor may have columns from several layers."""
    for name, value in values.items():
        if name not in tensors:
            tensors[name] = value
            continue
        for part in layer.parts:
            if part.tensor == name and part.columns is not None:
                columns = slice(*part.columns)
                tensors[name][..., columns] = value[..., columns]


def _generate(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Run the generator over all embeddings: linear layers, with ReLU between them or without.

    Equal rows run once: how a row is rounded may depend on its place.
    """
    assert layer.generator is not None
    embeddings = tensors[layer.generator.embeddings].detach().reshape(layer.edges, -1)
    rows, which = torch.unique(embeddings, dim=0, return_inverse=True)
    for number, (weight, bias) in enumerate(layer.generator.linears):
        if number and layer.generator.relu:
            rows = rows.relu()
        rows = torch.nn.functional.linear(rows, tensors[weight].detach(), tensors[bias].detach())
    vectors: Tensor = rows[which]
    return vectors
