"""In which encoding the indices of a packed model's layers are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kancompress.config import IndexCoding
from kancompress.formats.packed.encodings import (
    RANS,
    USUAL,
    Indices,
    measured,
    smallest,
)
from kancompress.formats.packed.encodings.rans import FREE
from kancompress.formats.packed.writer import claim_of
from kancompress.models.records import PackedLayer, PackedModel, sizes

Choice = Callable[[np.ndarray, Indices], str]


def encoded(model: PackedModel, coding: IndexCoding) -> PackedModel:
    """The model with the encodings that are asked for: indices that do not fit one have the usual.

    Where the smallest is wanted, each layer has its own smallest, or all have the same if the file
    is smaller then: a layer that differs from the others is named in the header.
    """
    if coding is not IndexCoding.AUTO:
        return _chosen(model, _CHOICES[coding])
    models = [_chosen(model, choice) for choice in (_usual, smallest, _rans)]
    return min(models, key=lambda one: sum(sizes(one)))


def index_bytes(labels: np.ndarray, claims: Sequence[Indices], coding: IndexCoding) -> int:
    """Bytes of the indices of layers that share a codebook, one behind the other in `labels`."""
    total = first = 0
    for claim in claims:
        own = labels[first : first + claim.count]
        total += measured(_CHOICES[coding](own, claim), own, claim)
        first += claim.count
    return total


def bounding(coding: IndexCoding) -> str:
    """Name of the encoding of which indices that are not known yet take no more bytes."""
    return RANS.name if coding is IndexCoding.RANS else USUAL.name


def _chosen(model: PackedModel, choice: Choice) -> PackedModel:
    layers: list[PackedLayer] = []
    record = model.record()
    beyond: dict[int, int] = {}  # by the place of the layer
    for layer, own in zip(model.layers, record.layers, strict=True):
        claim = claim_of(record, own)
        if claim is not None and (index := layer.index) is not None:
            layer = replace(layer, encoding=choice(index, claim))
            if layer.encoding == RANS.name:
                size = measured(RANS.name, index, claim)
                beyond[len(layers)] = RANS.beyond(claim, size)
        layers.append(layer)
    while sum(beyond.values()) > FREE:  # more than a reader takes
        worst = max(beyond, key=beyond.__getitem__)
        layers[worst] = replace(layers[worst], encoding=USUAL.name)
        del beyond[worst]
    return replace(model, layers=tuple(layers))


def _usual(indices: np.ndarray, claim: Indices) -> str:
    return USUAL.name


def _rans(indices: np.ndarray, claim: Indices) -> str:
    return RANS.name if RANS.fits(claim) else USUAL.name


_CHOICES: Mapping[IndexCoding, Choice] = {
    IndexCoding.BITS: _usual,
    IndexCoding.RANS: _rans,
    IndexCoding.AUTO: smallest,
}
