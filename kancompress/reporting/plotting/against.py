"""The dense vectors of a packed file's edges, from the checkpoint that it was packed from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import numpy as np
import torch

from kancompress.clustering.nearest import Labels
from kancompress.errors import UsageError
from kancompress.formats.safetensors import shown
from kancompress.libraries import recognise
from kancompress.libraries.chain import packed_names
from kancompress.models.records import Checkpoint, ForeignCheckpoint, PackedLayer, PackedModel
from kancompress.models.runnable import Runnable
from kancompress.models.vectors import gather
from kancompress.packing.native import dense_coefficients

Vectors = Mapping[str, torch.Tensor]


def dense_vectors(
    packed: Runnable, dense: Runnable, layouts: Mapping[str, str] | None = None
) -> Vectors:
    """Vectors (edges, d) of the layers of a packed file, by their names there.

    Raises UsageError where the one is not packed, the other is, or their layers differ.
    """
    if not isinstance(packed, PackedModel):
        raise UsageError(
            "A dense file stands behind the centroids of a packed one; this one is not packed.",
            fields=("against",),
        )
    if isinstance(dense, PackedModel):
        _refuse("is packed, too")
    if isinstance(dense, Checkpoint) != (packed.restore is None):
        _refuse("is of another library than the packed one")
    found = dict(_native(dense) if isinstance(dense, Checkpoint) else _of(packed, dense, layouts))
    for layer in packed.layers:
        vectors = found.get(layer.name)
        size = (layer.edges, packed.vector_size_of(layer))
        if vectors is None or tuple(vectors.shape) != size:
            _refuse(f"has no layer {shown(layer.name)} of {size[0]:,} edges of {size[1]} numbers")
    return found


def labels_of(model: PackedModel, layer: PackedLayer) -> Labels:
    """Centroid of each part of each edge of a packed layer, (edges, parts); -1 of kept ones."""
    labels = np.full((layer.edges, layer.parts), -1)
    packed = np.ones(layer.edges, np.bool_)
    if layer.kept_at is not None:
        packed[layer.kept_at.numpy()] = False
    labels[packed] = model.indices_of(layer).reshape(-1, layer.parts)
    return labels


def _native(dense: Checkpoint) -> dict[str, torch.Tensor]:
    return {
        str(number): coefficients.flatten(0, -2)
        for number, coefficients in enumerate(dense_coefficients(dense))
    }


def _of(
    packed: PackedModel, dense: ForeignCheckpoint, layouts: Mapping[str, str] | None
) -> dict[str, torch.Tensor]:
    found = recognise(dense.tensors, layouts)
    assert packed.restore is not None
    known = {tensor.name for tensor in packed.restore.tensors}
    if not all(part.tensor in known for layer in found.layers for part in layer.parts):
        _refuse("has tensors that the packed file does not know")
    names = packed_names(found, packed)
    with torch.no_grad():
        return {
            names[layer.name]: gather(layer, dense.tensors)
            for layer in found.layers
            if layer.name in names
        }


def _refuse(why: str) -> NoReturn:
    raise UsageError(
        f"The file to compare with {why}; give the checkpoint that was packed.",
        fields=("against",),
    )
