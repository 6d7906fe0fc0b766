"""What is told of another library's layers beside their bytes, packed or not."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Any

from kancompress.errors import KancompressError
from kancompress.formats.arrays import Array, Numbers, Outline
from kancompress.formats.edges import masks
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.packed import PackedRecord
from kancompress.formats.packed.restore import (
    Arange,
    Fill,
    PerEdge,
    Repeat,
    SourceTensor,
    Stored,
)
from kancompress.formats.packed.state import given_back
from kancompress.frozen import dataclass
from kancompress.libraries import recognise
from kancompress.libraries.catalogue import basis_word

Told = dict[str, Any]
# Origins of tensors that come back bit for bit from what is stored.
_WHOLE = (Stored, Fill, Repeat, Arange)


def edge_tensors(layer: FoundLayer) -> list[str]:
    """Tensors that hold the edges of a layer, or what generates them."""
    generated = [layer.generator.embeddings] if layer.generator is not None else []
    return list(dict.fromkeys([*generated, *(part.tensor for part in layer.parts)]))


def left_out(layer: FoundLayer, read: masks.Read) -> dict[str, int]:
    """How many edges have a formula beside their coefficients, and how many compute nothing, where
    there are any."""
    if not layer.masks:
        return {}
    found = {
        "symbolic_edges": masks.hidden_edges(layer, read),
        "masked_edges": int(masks.silent(layer, read).sum()),
    }
    return {key: count for key, count in found.items() if count}


def of_packed(model: PackedRecord[Array]) -> dict[str, Told]:
    """Of each packed layer of another library's file: the tensors of the source that it holds,
    and, as far as it is known, their layout, basis and symbolic edges."""
    assert model.restore is not None
    tensors: dict[str, list[str]] = {layer.name: [] for layer in model.layers}
    for tensor in model.restore.tensors:
        for name in dict.fromkeys(piece.layer for piece in tensor.pieces):
            tensors[name].append(tensor.name)
    found = _recognised(model)
    source = {one.name: one for one in model.restore.tensors}
    told: dict[str, Told] = {}
    for name, held in tensors.items():
        layers = list({found[one].name: found[one] for one in held if one in found}.values())
        told[name] = {"tensors": held} | _layout(layers, model)
        symbolic = sum(_symbolic(layer, model, source) for layer in layers)
        if symbolic:
            told[name]["symbolic_edges"] = symbolic
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayer:
    """A layer of another library's file that stays dense in the packed one.

    tensors : of the source, that hold its edges; stored : as the packed file names them
    before  : how many packed layers have a tensor earlier in the source
    told    : what is told of it beside shape and bytes
    """

    layer: FoundLayer
    tensors: list[str]
    stored: list[str]
    itemsize: int
    before: int
    told: Told


def dense_layers(model: PackedRecord[Array]) -> list[DenseLayer]:
    """The layers of the source that stay as their tensors are, in its order."""
    assert model.restore is not None
    origins = {one.name: one for one in model.restore.tensors}
    place = {name: number for number, name in enumerate(origins)}
    packed = {
        piece.layer: place[one.name]
        for one in reversed(model.restore.tensors)
        for piece in one.pieces
    }
    starts = sorted(packed.values())
    found: list[DenseLayer] = []
    for layer in {layer.name: layer for layer in _recognised(model).values()}.values():
        tensors = edge_tensors(layer)
        own = [origins[name] for name in tensors]
        if not all(isinstance(one.origin, _WHOLE) for one in own):
            continue
        symbolic = _symbolic(layer, model, origins)
        first = min(place[name] for name in tensors)
        found.append(
            DenseLayer(
                layer=layer,
                tensors=tensors,
                stored=[one.stored for one in own if one.stored is not None],
                itemsize=max(Outline(one.dtype, one.shape).itemsize for one in own),
                before=bisect.bisect_left(starts, first),
                told={"tensors": tensors}
                | _layout([layer], model)
                | ({"symbolic_edges": symbolic} if symbolic else {}),
            )
        )
    return sorted(found, key=lambda one: min(place[name] for name in one.tensors))


def _layout(layers: list[FoundLayer], model: PackedRecord[Array]) -> Told:
    """The layout of layers that share a codebook, as the file says it, else as they look."""
    forms = model.forms
    layouts = {
        forms[layer.name].layout if layer.name in forms else layer.layout for layer in layers
    }
    if len(layouts) != 1:
        return {}
    (layout,) = layouts
    return {"layout": layout, "basis": basis_word(layout)}


def _recognised(model: PackedRecord[Array]) -> dict[str, FoundLayer]:
    """Layers of the source by the tensors that hold their edges; shapes and names tell them."""
    assert model.restore is not None
    outline = {one.name: Outline(one.dtype, one.shape) for one in model.restore.tensors}
    try:
        layers = recognise(outline).layers
    except KancompressError:
        return {}
    return {name: layer for layer in layers for name in edge_tensors(layer)}


def _symbolic(
    layer: FoundLayer, model: PackedRecord[Array], source: Mapping[str, SourceTensor]
) -> int:
    """Edges with a formula; a mask that is the same for all edges has none."""
    wanted = {mask.tensor for mask in layer.masks if not mask.live}
    origins = {name: source[name] for name in wanted if name in source}
    if not all(isinstance(one.origin, PerEdge | Stored) for one in origins.values()):
        return 0

    def read(name: str) -> Numbers:
        return given_back(origins[name], model).values()

    return masks.hidden_edges(layer, read) if origins else 0
