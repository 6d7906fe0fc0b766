"""Masks and gains of a layer, edge by edge: what they leave out, and what they multiply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.formats.arrays import Numbers
from kancompress.formats.edges.axes import parse_axes
from kancompress.formats.edges.found import FoundLayer, Gain, Mask
from kancompress.formats.edges.places import mask_sizes, sizes_of, to_edges

Bools = npt.NDArray[np.bool_]
Factors = npt.NDArray[np.floating[Any]]
# The numbers of a tensor by its name.
Read = Callable[[str], Numbers]

# What is said of a network that `is_silent`.
ALL_MASKED = (
    "every edge of the network is masked, so it puts out the same whatever its inputs; was it"
    " pruned too far?"
)


def is_silent(layers: Sequence[FoundLayer], read: Read) -> bool:
    """Whether every edge of these layers computes nothing."""
    return bool(layers) and all(layer.masks and silent(layer, read).all() for layer in layers)


def packable(layer: FoundLayer, read: Read) -> Bools:
    """Which edges may be clustered, (edges,): not those masked or symbolic."""
    result = np.ones(layer.edges, np.bool_)
    for mask in layer.masks:
        result &= (_values(layer, mask, read) != 0) == mask.live
    return result


def silent(layer: FoundLayer, read: Read) -> Bools:
    """Which edges compute nothing, whatever their coefficients are, (edges,): those behind a mask
    of 0 that are not symbolic."""
    result = np.zeros(layer.edges, np.bool_)
    for mask in layer.masks:
        if mask.live:
            result |= _values(layer, mask, read) == 0
    for mask in layer.masks:
        if not mask.live:
            result &= _values(layer, mask, read) == 0
    return result


def hidden_edges(layer: FoundLayer, read: Read) -> int:
    """How many edges have a function besides their coefficients (pykan's symbolic ones)."""
    return sum(
        int(np.count_nonzero(_values(layer, mask, read))) for mask in layer.masks if not mask.live
    )


def mask_factors(layer: FoundLayer, read: Read) -> Factors:
    """The product of all masks of live edges, (edges,), at least float32; ones where there are
    none."""
    result: Factors = np.ones(layer.edges, np.float32)
    for mask in layer.masks:
        if mask.live:
            values = _values(layer, mask, read)
            result = result * (values if values.dtype.kind == "f" else values.astype(np.float32))
    return result


def gain_factors(layer: FoundLayer, gain: Gain, read: Read) -> Numbers:
    """The factor of every edge, (edges,)."""
    values = read(gain.tensor)
    return to_edges(values, parse_axes(gain.axes), sizes_of(layer, gain)).reshape(-1)


def _values(layer: FoundLayer, mask: Mask, read: Read) -> Numbers:
    values = read(mask.tensor)
    sizes = mask_sizes(layer, mask, values.shape)
    return to_edges(values, parse_axes(mask.axes), sizes).reshape(-1)
