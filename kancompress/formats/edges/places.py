"""Where the pieces of a layer lie: rows of its edge vectors, and sizes of its tensors' axes."""

from __future__ import annotations

from kancompress.errors import KancompressError
from kancompress.formats.edges.axes import Claim, Sizes, parse_axes, solve
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
    if len(layer.shape) > 2:
        sizes["kh"], sizes["kw"] = layer.shape[2:]
    return Sizes(sizes, dict.fromkeys(sizes, layer.name))
