"""Edge vectors out of a file's tensors, and the tensors back out of edge vectors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kancompress.errors import KancompressError
from kancompress.formats.edges.axes import Claim, Sizes, from_edges, parse_axes, solve, to_edges
from kancompress.formats.edges.found import FoundLayer, Gain, Mask, Part
from kancompress.formats.safetensors import shown


def gather(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Edge vectors (edges, coefficients), row-major over `layer.shape`, scales folded in."""
    if layer.generator is not None:
        return _generate(layer, tensors)
    dtype = layer.parts[0].dtype
    for other in [part.dtype for part in layer.parts] + [gain.dtype for gain in layer.gains]:
        dtype = torch.promote_types(dtype, other)
    device = tensors[layer.parts[0].tensor].device
    vectors = torch.empty(layer.edges, layer.coefficients, dtype=dtype, device=device)
    for part in layer.parts:
        tensor = tensors[part.tensor].detach()
        if part.columns is not None:
            tensor = tensor[..., slice(*part.columns)]
        block = to_edges(tensor, parse_axes(part.axes), _sizes(layer, part))
        vectors[_rows(layer, part), part.first : part.last] = block.to(dtype)
    for gain in layer.gains:
        factor = to_edges(tensors[gain.tensor].detach(), parse_axes(gain.axes), _sizes(layer, gain))
        vectors[:, gain.first : gain.last] *= factor.to(dtype)
    return vectors


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
        block = vectors[_rows(layer, part), part.first : part.last]
        tensor = from_edges(block, parse_axes(part.axes), _sizes(layer, part)).to(part.dtype)
        if part.columns is None:
            result[part.tensor] = tensor.reshape(part.shape).contiguous()
            continue
        begin, end = part.columns
        if part.tensor not in result:
            result[part.tensor] = tensor.new_zeros(part.shape)
        whole = result[part.tensor]
        whole[..., begin:end] = tensor.reshape(*part.shape[:-1], end - begin)
    for gain in layer.gains:
        result[gain.tensor] = vectors.new_ones(gain.shape, dtype=gain.dtype)
    return result


def packable(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Which edges may be clustered, (edges,) of bool: not those masked or symbolic."""
    result = torch.ones(layer.edges, dtype=torch.bool)
    for mask in layer.masks:
        result &= (_mask_values(layer, mask, tensors) != 0) == mask.live
    return result


def gain_factors(layer: FoundLayer, gain: Gain, tensors: Mapping[str, Tensor]) -> Tensor:
    """The factor of every edge, (edges,)."""
    tensor = tensors[gain.tensor].detach()
    return to_edges(tensor, parse_axes(gain.axes), _sizes(layer, gain)).reshape(-1)


def mask_factors(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """The product of all masks of live edges, (edges,); ones where there are none."""
    result = torch.ones(layer.edges)
    for mask in layer.masks:
        if mask.live:
            result = result * _mask_values(layer, mask, tensors)
    return result


def hidden_edges(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> int:
    """How many edges have a function besides their coefficients (pykan's symbolic ones)."""
    return sum(
        int((_mask_values(layer, mask, tensors) != 0).sum())
        for mask in layer.masks
        if not mask.live
    )


def _mask_values(layer: FoundLayer, mask: Mask, tensors: Mapping[str, Tensor]) -> Tensor:
    tensor = tensors[mask.tensor].detach()
    sizes = _mask_sizes(layer, mask, tuple(tensor.shape))
    return to_edges(tensor, parse_axes(mask.axes), sizes).reshape(-1).cpu()


def _rows(layer: FoundLayer, part: Part) -> slice:
    if part.group is None:
        return slice(None)
    per_group = layer.edges // layer.groups
    return slice(part.group * per_group, (part.group + 1) * per_group)


def _known(layer: FoundLayer) -> Sizes:
    sizes = {"group": layer.groups, "out": layer.shape[0] // layer.groups, "in": layer.shape[1]}
    if len(layer.shape) > 2:
        sizes["kh"], sizes["kw"] = layer.shape[2:]
    return Sizes(sizes, dict.fromkeys(sizes, layer.name))


def _sizes(layer: FoundLayer, piece: Part | Gain) -> dict[str, int]:
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


def _mask_sizes(layer: FoundLayer, mask: Mask, shape: tuple[int, ...]) -> dict[str, int]:
    sizes = _known(layer)
    reason = solve([Claim(mask.tensor, shape, parse_axes(mask.axes))], sizes)
    if reason:
        raise KancompressError(f"The mask of {shown(layer.name)} does not fit: {reason}.")
    return sizes.known


def _generate(layer: FoundLayer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Run the generator over all embeddings: linear layers with ReLU between them.

    Equal rows run once: how a row is rounded may depend on its place.
    """
    assert layer.generator is not None
    embeddings = tensors[layer.generator.embeddings].detach().reshape(layer.edges, -1)
    rows, which = torch.unique(embeddings, dim=0, return_inverse=True)
    for number, (weight, bias) in enumerate(layer.generator.linears):
        if number:
            rows = rows.relu()
        rows = torch.nn.functional.linear(rows, tensors[weight].detach(), tensors[bias].detach())
    vectors: Tensor = rows[which]
    return vectors
