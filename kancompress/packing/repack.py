"""Packed models written anew: a shorter header, smaller indices, narrower types, the same edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kancompress.config import RepackConfig, StoredDtype
from kancompress.formats.arrays import Outline
from kancompress.formats.packed.encodings import PLAIN
from kancompress.layers.stored import dtype_of, encoding_of
from kancompress.models.records import PackedLayer, PackedModel, outlines_of, sizes
from kancompress.packing.encoded import encoded
from kancompress.packing.native import side_dtype_of, stored_side
from kancompress.packing.pack import rounded_codebook
from kancompress.packing.source import DTYPES, own_types_only, with_codebook


@dataclass(frozen=True, slots=True, kw_only=True)
class PartBytes:
    """Bytes of a packed file: its header, the indices and the codebooks of its layers, and all
    other tensors.

    >>> import kancompress
    >>> kancompress.repack("packed.safetensors").before
    PartBytes(header=904, indices=1184, codebooks=1152, others=768)
    """

    header: int
    indices: int
    codebooks: int
    others: int

    @property
    def file(self) -> int:
        """Bytes of the whole file."""
        return self.header + self.indices + self.codebooks + self.others


def parts(header: int, tensors: Mapping[str, Outline], model: PackedModel) -> PartBytes:
    """The parts of a file with such a header and these tensors, which holds `model`."""

    def bytes_of(role: str) -> int:
        names = (f"{layer.name}.{role}" for layer in model.layers)
        return sum(tensors[name].nbytes for name in names if name in tensors)

    indices, codebooks = bytes_of("index"), bytes_of("codebook")
    whole = sum(tensor.nbytes for tensor in tensors.values())
    return PartBytes(
        header=header,
        indices=indices,
        codebooks=codebooks,
        others=whole - indices - codebooks,
    )


def parts_of(model: PackedModel) -> PartBytes:
    """The parts of the file that a packed model is written to."""
    return parts(sizes(model)[0], outlines_of(model), model)


def repacked(model: PackedModel, config: RepackConfig, where: str) -> PackedModel:
    """The model as it is to be written; `where` is what messages call it.

    Raises UsageError for a type of sides where they are another library's, KancompressError for a
    type that is too narrow.
    """
    if config.side_dtype is not StoredDtype.SOURCE and model.restore is not None:
        raise own_types_only(config.side_dtype, where)
    layers = tuple(_narrowed(layer, config) for layer in model.layers)
    return encoded(replace(model, layers=layers, header=config.header), config.indices)


def _narrowed(layer: PackedLayer, config: RepackConfig) -> PackedLayer:
    """A layer with its numbers in the types that are asked for, where these are narrower."""
    codebook = layer.codebook
    if codebook is not None:
        dtype = DTYPES.get(config.codebook_dtype)
        if dtype is not None and _is_narrower(dtype, codebook, layer, "codebook"):
            centroids = codebook.double().numpy()
            codebook = rounded_codebook(centroids, dtype, layer.name, source=codebook.dtype)
            layer = with_codebook(layer, codebook, encoding_of(dtype))
    sides, numbers = dict(layer.sides), dict(layer.numbers)
    for role, tensor in layer.sides.items():
        dtype = side_dtype_of(tensor, role, config.side_dtype)
        if _is_narrower(dtype, tensor, layer, role):
            sides[role] = stored_side(tensor, f"{layer.name}.{role}", config.side_dtype)
            if encoding_of(dtype) != PLAIN.name:
                numbers[role] = encoding_of(dtype)
    return replace(layer, sides=sides, numbers=numbers)


def _is_narrower(dtype: torch.dtype, tensor: Tensor, layer: PackedLayer, role: str) -> bool:
    """Whether a stored type is narrower than the one that a tensor of a layer has."""
    return dtype.itemsize < dtype_of(tensor, layer.numbers.get(role, PLAIN.name)).itemsize
