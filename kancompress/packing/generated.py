"""Layers whose edge vectors a meta-network generates, written out as the tensors of plain ones.

MetaKAN's files hold embeddings and a network; the vectors that it makes of them are packed, and
come back under the names of efficient-kan's or fast-kan's layers, which compute the same function.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kancompress.clustering.nearest import one_thread
from kancompress.formats import safetensors as containers
from kancompress.formats.edges.found import FoundLayer, Part
from kancompress.libraries import Recognition
from kancompress.models.records import ForeignCheckpoint
from kancompress.models.tensors import NAMES, StoredTensors, outline, outlines
from kancompress.models.vectors import gather


def write_out(
    source: ForeignCheckpoint, found: Recognition
) -> tuple[ForeignCheckpoint, Recognition]:
    """The source with generated layers as tensors, and the layers found in it.

    Both are given back as they are where no layer is generated. The meta-network is left out,
    unless embeddings that were not recognised may need it.
    """
    others = sorted(found.others)
    generated = [layer for layer in found.layers if layer.generator is not None]
    if not generated:
        return source, found
    layers: dict[str, FoundLayer] = {}
    made: dict[str, dict[str, Tensor]] = {}  # by the name of the tensor before which they stand
    dropped: set[str] = set()
    for layer in generated:
        assert layer.generator is not None
        plain, tensors = _plain(layer, source)
        layers[layer.name] = plain
        made[layer.generator.before] = tensors
        dropped |= set(_no_more(layer, others))
    known = outline(source.tensors)
    order: dict[str, Tensor] = {}
    for name, tensor in known.items():
        order |= made.get(name, {})
        if name not in dropped:
            order[name] = tensor
    written_out = {name: tensor for tensors in made.values() for name, tensor in tensors.items()}
    state = StoredTensors(
        order,
        lambda name: written_out[name] if name in written_out else source.tensors[name],
    )
    ties = {
        name: first
        for name, first in source.ties.items()
        if name in state and name not in written_out and first not in dropped
    }
    written = replace(source, tensors=state, ties=ties)
    return written, replace(
        found, layers=tuple(layers.get(layer.name, layer) for layer in found.layers)
    )


def twin_sizes(written: ForeignCheckpoint) -> tuple[int, int]:
    """Bytes of the tensors and of the safetensors file of a source that was written out."""
    declared = {
        name: one for name, one in outlines(written.tensors).items() if name not in written.ties
    }
    tensors = sum(one.nbytes for one in declared.values())
    return tensors, len(containers.encode_header(declared, written.metadata)) + tensors


def _plain(layer: FoundLayer, source: ForeignCheckpoint) -> tuple[FoundLayer, dict[str, Tensor]]:
    """The layer with parts of its own, and the tensors that they lie in."""
    assert layer.generator is not None
    with one_thread(), torch.no_grad():
        vectors = gather(layer, source.tensors).cpu().reshape(*layer.shape, -1)
    last = layer.coefficients - 1
    (spline_name, spline_axes), (base_name, base_axes) = layer.generator.pieces
    spline = vectors[..., :last]
    if "(" in spline_axes:  # out (in coef)
        spline = spline.reshape(layer.shape[0], -1)
    tensors = {
        base_name: vectors[..., last].contiguous(),
        spline_name: spline.contiguous(),
    }
    parts = tuple(
        Part(
            tensor=name,
            axes=axes,
            first=first,
            last=end,
            shape=tuple(tensors[name].shape),
            dtype=NAMES[vectors.dtype],
        )
        for name, axes, first, end in (
            (spline_name, spline_axes, 0, last),
            (base_name, base_axes, last, last + 1),
        )
    )
    plain = replace(layer, parts=parts, generator=None, untouched=layer.generator.beside)
    return plain, tensors


def _no_more(layer: FoundLayer, others: list[str]) -> Iterator[str]:
    """Tensors that are not needed once the layer's vectors are written out.

    others : sorted names of tensors that belong to no layer
    """
    assert layer.generator is not None
    embeddings = layer.generator.embeddings
    yield embeddings
    yield from layer.generator.dead
    siblings = embeddings[: embeddings.rindex(".") + 1]
    after = bisect_left(others, siblings)
    if not others[after : after + 1] or not others[after].startswith(siblings):
        for pair in layer.generator.linears:
            yield from pair
