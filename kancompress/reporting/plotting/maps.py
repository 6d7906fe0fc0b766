"""What the inputs of a network of images have: the centroids of their edges, and their bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from kancompress.clustering.nearest import Labels
from kancompress.clustering.vectors import F64
from kancompress.errors import UsageError
from kancompress.formats.packed.encodings import bits
from kancompress.models.records import PackedModel
from kancompress.models.runnable import Runnable
from kancompress.reporting.plotting.against import labels_of

# Sides of images from which on they are taken for such.
_LEAST_SIDE = 5


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InputMap:
    """The edges of each input of the first layer, as an image.

    most     : (channels, side, side) the centroid that most edges of an input use; -1 of none
    bits     : (channels, side, side) the entropy of their indices, of all parts of an edge together
    clusters : k of the layer; outputs : edges of an input
    """

    name: str
    most: Labels
    bits: F64
    clusters: int
    outputs: int


def input_map(record: Runnable, where: str) -> InputMap:
    """The map of a packed network whose first layer sees the pixels of square images.

    Raises UsageError for other networks.
    """
    if not isinstance(record, PackedModel):
        _refuse(f"{where} is not packed, so its inputs have no centroids. Pack it first.")
    layer = record.layers[0]
    clusters = record.clusters_of(layer)
    if clusters is None:
        _refuse(f"The first layer of {where} stays dense, so its inputs have no centroids.")
    if len(layer.shape) != 2:
        _refuse(f"The first layer of {where} is a convolution, which has no edges for a pixel.")
    outputs, inputs = layer.shape
    name = record.data.name if record.data else ""
    channels = next((each for each in _channels(name) if _side(inputs, each)), 0)
    if not channels:
        _refuse(f"The {inputs:,} inputs of {where} are not the pixels of a square image.")
    labels = labels_of(record, layer).reshape(outputs, inputs, layer.parts)
    shape = (channels, *[_side(inputs, channels)] * 2)
    counts = np.zeros((inputs, layer.parts, clusters), np.int64)
    at = np.broadcast_to(np.arange(inputs)[:, None], (inputs, layer.parts))
    part = np.broadcast_to(np.arange(layer.parts), (inputs, layer.parts))
    for own in labels:
        kept = own >= 0
        np.add.at(counts, (at[kept], part[kept], own[kept]), 1)
    used = counts.sum(axis=1)
    most = np.where(used.any(axis=1), used.argmax(axis=1), -1)
    entropy = np.array([sum(bits.entropy(one) for one in own if one.any()) for own in counts])
    return InputMap(
        name=layer.name,
        most=most.reshape(shape),
        bits=entropy.reshape(shape),
        clusters=clusters,
        outputs=outputs,
    )


def _channels(name: str) -> tuple[int, ...]:
    return (3, 1) if name.startswith("cifar") else (1, 3)


def _side(inputs: int, channels: int) -> int:
    """Side of square images of so many numbers, 0 where there is none."""
    side = math.isqrt(inputs // channels)
    return side if side * side * channels == inputs and side >= _LEAST_SIDE else 0


def _refuse(text: str) -> NoReturn:
    raise UsageError(text, fields=("plot_map",))
