"""Networks from other libraries' checkpoints, dense or packed, run by torch.

What their layers are and compute says `kancompress.libraries.chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.config import RunOptions
from kancompress.errors import UsageError
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.safetensors import shown
from kancompress.layers.edges import Codebook, DenseEdges
from kancompress.layers.forms import Window
from kancompress.layers.layer import EdgeLayer, ScaledEdges
from kancompress.layers.network import ForeignNetwork
from kancompress.libraries import Recognition, chain, recognise, told
from kancompress.libraries.catalogue import FORMS, MAP_FORMS, PATCH_FORMS
from kancompress.libraries.chain import ToldLayer
from kancompress.libraries.forms import Array, Form, Setting, layout_written
from kancompress.libraries.told import Forms, Wishes
from kancompress.models.convolutions import FindModule, step_of, window_of
from kancompress.models.native import packed_edges
from kancompress.models.records import ForeignCheckpoint, PackedModel, check_finite
from kancompress.models.vectors import gain_factors, gather, is_silent, mask_factors

# From a found layer and the type of the computation to the source of its coefficients.
EdgesOf = Callable[[FoundLayer, torch.dtype], nn.Module]


def dense_network(
    source: ForeignCheckpoint,
    options: RunOptions | None = None,
    forms: Forms | None = None,
) -> ForeignNetwork:
    """The network in a checkpoint that another library saved.

    forms : what the packed file of this very checkpoint says of its layers
    Raises UsageError where the tensors do not determine the forward, or an option means nothing.
    """
    options = options or RunOptions()
    forms = _of_the_same(forms or {}, source.tensors)
    found = told.recognised(source.tensors, options.layouts, forms)
    for layer in found.layers:
        for name in layer.tensors:
            check_finite(source.tensors[name], name, source.where)

    def edges_of(layer: FoundLayer, dtype: torch.dtype) -> nn.Module:
        vectors = gather(layer, source.tensors).to(dtype)
        return _masked(layer, DenseEdges(vectors.reshape(*layer.shape, -1)), source.tensors, dtype)

    wishes = Wishes(options=options, settings=source.settings, forms=forms)
    return _network(found, source.container, wishes, source.tensors, edges_of, where=source.where)


def _of_the_same(forms: Forms, tensors: Mapping[str, Tensor]) -> Forms:
    """Those of a packed file's forms that speak of layers that a dense checkpoint has, too."""
    if not forms:
        return forms
    layouts = {layer.name: layout_written(layer) for layer in recognise(tensors).layers}
    return {
        name: form
        for name, form in forms.items()
        if name in layouts and (layouts[name] == form.layout or layouts[name] not in FORMS)
    }


def known_forms(
    source: ForeignCheckpoint, found: Recognition, options: RunOptions | None = None
) -> Forms:
    """What the layers of a checkpoint compute, for its packed file; nothing of layers of which it
    is not known.

    Raises UsageError where an option means nothing for all that is known.
    """
    wishes = Wishes(options=options or RunOptions(), settings=source.settings)
    refused: dict[str, str] = {}
    names = chain.names_of(found)
    if found.layers:
        told.check_names(wishes.options, names)
    forms = chain.records_of(found, wishes, _reader(source.tensors, _dtype(found)), refused)
    if found.layers:
        told.check_kept(wishes.options, forms, refused, found, names)
    return forms


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class KnownLayers:
    """Layers of a checkpoint whose forms are known, whatever lies between them.

    layers  : by name; refused : layer name to why its form is not known
    modules : layer name to the name, below the layer's, of the module that computes the form
    sums    : layer name to the name, below the layer's, of the module that is called with the sums
              over its edges, where the layer's own does not put them out
    notes   : what was taken for granted
    forms   : of layers that are no convolutions, as packed files say them
    """

    layers: Mapping[str, EdgeLayer]
    modules: Mapping[str, str]
    sums: Mapping[str, str]
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    forms: Forms


def known_layers(
    source: ForeignCheckpoint,
    found: Recognition,
    options: RunOptions | None = None,
    find: FindModule = lambda name: None,
) -> KnownLayers:
    """The forms of a checkpoint's layers, each by itself; for models whose forward is their own.

    find : the layers' modules in the model, which tell stride and padding of convolutions
    Raises UsageError where an option means nothing for all of them.
    """
    wishes = Wishes(options=options or RunOptions(), settings=source.settings)
    dtype = _dtype(found)
    read = _reader(source.tensors, dtype)
    layers: dict[str, EdgeLayer] = {}
    refused: dict[str, str] = {}
    forms: dict[str, Form] = {}
    settings: list[Setting] = []
    names = chain.names_of(found)
    told.check_names(wishes.options, names)
    for layer in found.layers:
        conv = MAP_FORMS.get(layer.layout)
        module = find(layer.name) if conv else None
        try:
            if layer.generator is not None:
                raise UsageError(f"The layer {shown(layer.name)} is generated by a network.")
            form = PATCH_FORMS.get(layer.layout) or (conv if module else None)
            form = form or chain.form_of(layer)
            setting = chain.setting_of(layer, form, wishes, read, chain.dtype_of(found))
            window = window_of(setting, module) if module else None
            dense = DenseEdges(gather(layer, source.tensors).to(dtype).reshape(*layer.shape, -1))
            edges = _masked(layer, dense, source.tensors, dtype)
            seen = step_of(module, form.norm) if module and form.norm else None
            made = _layer(chain.told_layer(setting, form), edges, dtype, window, seen)
        except UsageError as error:
            refused[layer.name] = error.finding
            continue
        layers[layer.name], forms[layer.name] = made, form
        settings.append(setting)
    told.check_options(wishes.options, chain.used(settings), refused, found, names)
    return KnownLayers(
        layers=layers,
        modules={name: form.module for name, form in forms.items()},
        sums={name: form.sums for name, form in forms.items() if form.sums},
        refused=refused,
        notes=tuple(dict.fromkeys(note for setting in settings for note in setting.notes)),
        forms=chain.records_of(found, wishes, read, {}),
    )


def packed_network(model: PackedModel, options: RunOptions | None = None) -> ForeignNetwork:
    """The network in a packed checkpoint of another library, run from codebooks and indices.

    Raises UsageError where the layers or what they compute are not known, and where an option
    contradicts the file or means nothing for it; InvalidFileError where its forms fit no layer.
    """
    assert model.restore is not None
    options = options or RunOptions()
    tensors = model.outline()
    found = told.recognised(tensors, options.layouts, model.forms)
    names = chain.packed_names(found, model)
    packed, codebooks = packed_edges(model, _dtype(found))

    def edges_of(layer: FoundLayer, dtype: torch.dtype) -> nn.Module:
        if layer.name not in names:
            vectors = gather(layer, tensors).to(dtype)
            edges: nn.Module = DenseEdges(vectors.reshape(*layer.shape, -1))
        else:
            edges = packed[names[layer.name]]
            gains = [
                (gain.first, gain.last, gain_factors(layer, gain, tensors).reshape(layer.shape))
                for gain in layer.gains
            ]
            gains = [(a, b, f.to(dtype)) for a, b, f in gains if not (f == 1).all()]
            edges = ScaledEdges(edges, gains) if gains else edges
        return _masked(layer, edges, tensors, dtype)

    wishes = Wishes(options=options, forms=model.forms)
    return _network(found, model.restore.container, wishes, tensors, edges_of, codebooks)


def _masked(
    layer: FoundLayer, edges: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> nn.Module:
    """Masks of 0 and 1 multiply the whole edge."""
    factors = mask_factors(layer, tensors)
    if (factors == 1).all():
        return edges
    whole = factors.reshape(layer.shape).to(dtype)
    return ScaledEdges(edges, [(0, layer.coefficients, whole)])


def _network(
    found: Recognition,
    container: str,
    wishes: Wishes,
    tensors: Mapping[str, Tensor],
    edges_of: EdgesOf,
    codebooks: Mapping[str, Codebook] | None = None,
    where: str = "",
) -> ForeignNetwork:
    """The layers in the order of the forward, and what was taken for granted."""
    dtype = _dtype(found)
    whole = chain.chain_of(found, container, wishes, _reader(tensors, dtype), where)
    layers = [_layer(layer, edges_of(layer.found, dtype), dtype) for layer in whole.layers]
    network = ForeignNetwork(layers, codebooks, notes=whole.notes, forms=whole.forms)
    network.silent = is_silent(found.layers, tensors)
    return network


def _dtype(found: Recognition) -> torch.dtype:
    """float64 where coefficients are stored in it, else float32."""
    return torch.float64 if chain.dtype_of(found) is np.float64 else torch.float32


def _reader(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> chain.Read:
    """Copies of tensors in the type of the computation."""

    def read(name: str) -> Array | None:
        tensor = tensors.get(name)
        if tensor is None:
            return None
        array: Array = tensor.detach().to("cpu", dtype, copy=True).numpy()
        return array

    return read


def _layer(
    told_layer: ToldLayer,
    edges: nn.Module,
    dtype: torch.dtype,
    window: Window | None = None,
    seen: nn.Module | None = None,
) -> EdgeLayer:
    """The layer of a form; parameters are shared where the form names a tensor twice."""
    tensors: dict[str, Tensor] = {
        role: torch.from_numpy(array) for role, array in told_layer.arrays.items()
    }
    bias = tensors.pop("bias", None)
    return EdgeLayer(
        replace(told_layer.form, window=window),
        edges,
        tensors,
        bias=bias,
        learnt=tuple(told_layer.learnt),
        name=told_layer.found.name,
        shape=told_layer.found.shape[:2],
        dtype=dtype,
        seen=seen,
        names=told_layer.learnt,
    )
