"""Networks from other libraries' checkpoints, dense or packed.

The order of the layers is that of the file, and nothing lies between them: a tensor that no KAN
layer owns means that the forward is not known, and is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.config import RUN_FIELDS, RunOptions
from kancompress.errors import UsageError
from kancompress.formats.edges.axes import has_coefficients
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.packed import FormRecord
from kancompress.formats.safetensors import shown
from kancompress.layers.edges import Codebook, DenseEdges
from kancompress.layers.forms import Window
from kancompress.layers.layer import EdgeLayer, ScaledEdges
from kancompress.layers.network import ForeignNetwork
from kancompress.libraries import LAYOUTS, Recognition, recognise
from kancompress.libraries.catalogue import FORMS, MAP_FORMS, PATCH_FORMS, RIVALS, UNKNOWN
from kancompress.libraries.forms import OWN_CLASS, Array, Form, Setting, layout_written
from kancompress.libraries.matching import Scene, find_stem
from kancompress.models import told
from kancompress.models.convolutions import FindModule, step_of, window_of
from kancompress.models.native import packed_edges
from kancompress.models.records import ForeignCheckpoint, PackedModel, check_finite
from kancompress.models.told import Forms, Wishes
from kancompress.models.vectors import gain_factors, gather, hidden_edges, mask_factors

_LAYOUTS = {layout.name: layout for layout in LAYOUTS}
# Parameters of which reasons that the layers of a file give may speak.
_SPOKEN = ("model", *RUN_FIELDS)
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
    return _network(found, source.tensors, source.container, wishes, edges_of)


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
    names = _names(found)
    if found.layers:
        told.check_names(wishes.options, names)
    forms = _records(source, found, wishes, refused)
    if found.layers:
        told.check_kept(wishes.options, forms, refused, found, names)
    return forms


def _names(found: Recognition) -> dict[str, tuple[str, ...]]:
    """What the user may call each layer by."""
    return {layer.name: (layer.name or told.TOP, _stem(layer)) for layer in found.layers}


def _stem(layer: FoundLayer) -> str:
    """What stands before the names of a layer's tensors in its layout, as `layouts` takes it."""
    if layer.layout not in _LAYOUTS:  # written by hand
        return layer.name or told.TOP
    return _place(layer)[0].rstrip(".") or told.TOP


def _place(layer: FoundLayer) -> tuple[str, str]:
    """Stem and number of a layer of the catalogue."""
    generator = layer.generator
    anchor = generator.embeddings if generator is not None else layer.parts[0].tensor
    place = find_stem(_LAYOUTS[layer.layout], anchor)
    assert place is not None
    return place


def _records(
    source: ForeignCheckpoint, found: Recognition, wishes: Wishes, refused: dict[str, str]
) -> Forms:
    """What is known of each layer; why it is not known of others is added to `refused`."""
    dtype = _dtype(found)
    forms: dict[str, FormRecord] = {}
    for layer in found.layers:
        try:
            form = _form_of(layer)
            setting = _setting(layer, form, source.tensors, wishes, dtype)
            form.tell(setting)
        except UsageError as error:
            refused[layer.name] = error.finding
            continue
        record = setting.record()
        if record is not None:
            forms[layer.name] = record
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
    layers: dict[str, EdgeLayer] = {}
    refused: dict[str, str] = {}
    forms: dict[str, Form] = {}
    settings: list[Setting] = []
    names = _names(found)
    told.check_names(wishes.options, names)
    for layer in found.layers:
        conv = MAP_FORMS.get(layer.layout)
        module = find(layer.name) if conv else None
        try:
            if layer.generator is not None:
                raise UsageError(f"The layer {shown(layer.name)} is generated by a network.")
            form = PATCH_FORMS.get(layer.layout) or (conv if module else None) or _form_of(layer)
            setting = _setting(layer, form, source.tensors, wishes, dtype)
            window = window_of(setting, module) if module else None
            dense = DenseEdges(gather(layer, source.tensors).to(dtype).reshape(*layer.shape, -1))
            edges = _masked(layer, dense, source.tensors, dtype)
            seen = step_of(module, form.norm) if module and form.norm else None
            made = _layer(setting, form, edges, window, seen)
        except UsageError as error:
            refused[layer.name] = error.finding
            continue
        layers[layer.name], forms[layer.name] = made, form
        settings.append(setting)
    told.check_options(wishes.options, _used(settings), refused, found, names)
    return KnownLayers(
        layers=layers,
        modules={name: form.module for name, form in forms.items()},
        sums={name: form.sums for name, form in forms.items() if form.sums},
        refused=refused,
        notes=tuple(dict.fromkeys(note for setting in settings for note in setting.notes)),
        forms=_records(source, found, wishes, {}),
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
    names = _packed_names(found, model)
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
    return _network(found, tensors, model.restore.container, wishes, edges_of, codebooks)


def _masked(
    layer: FoundLayer, edges: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> nn.Module:
    """Masks of 0 and 1 multiply the whole edge."""
    factors = mask_factors(layer, tensors)
    if (factors == 1).all():
        return edges
    whole = factors.reshape(layer.shape).to(dtype)
    return ScaledEdges(edges, [(0, layer.coefficients, whole)])


def _packed_names(found: Recognition, model: PackedModel) -> dict[str, str]:
    """Name of each recognised layer to the packed layer that holds its edges.

    Raises UsageError where the file was packed by another layout than the one recognised.
    """
    assert model.restore is not None
    pieces = {name: owner.pieces for name, owner in model.restore.owners().items()}
    names: dict[str, str] = {}
    for layer in found.layers:
        homes = {piece.layer for part in layer.parts for piece in pieces[part.tensor]}
        fitting = {
            piece.layer
            for part in layer.parts
            for piece in pieces[part.tensor]
            if (piece.axes, piece.first, piece.last) == (part.axes, part.first, part.last)
        }
        if homes != fitting or len(homes) > 1:
            raise UsageError(
                f"The layer {shown(layer.name)} was packed by another layout than {layer.layout},"
                " as which it is recognised now; give with `layouts` the one it was packed by.",
                layer=layer.name,
                fields=("layouts",),
            )
        if homes:
            names[layer.name] = homes.pop()
    _check_claimed(found, model, names)
    return names


def _check_claimed(found: Recognition, model: PackedModel, names: Mapping[str, str]) -> None:
    """Refuse a packed layer that no recognised layer is made of."""
    rest = [layer.name for layer in model.layers if layer.name not in names.values()]
    if rest:
        raise UsageError(
            f"The packed layer {rest[0]!r} is of no layout whose forward is known."
            f"{_reasons(found)}",
            layer=rest[0],
            fields=_SPOKEN,
            hint=OWN_CLASS,
        )


# --- layers in order ------------------------------------------------------------------------


def _network(
    found: Recognition,
    tensors: Mapping[str, Tensor],
    container: str,
    wishes: Wishes,
    edges_of: EdgesOf,
    codebooks: Mapping[str, Codebook] | None = None,
) -> ForeignNetwork:
    """The layers in the order of the forward, and what was taken for granted."""
    if not found.layers:
        raise UsageError(
            f"No KAN layer was recognised, so the forward is not known.{_reasons(found)} Name their"
            " layout with `layouts`.",
            fields=_SPOKEN,
        )
    forms = {layer.name: _form_of(layer) for layer in found.layers}
    _check_others(found)
    ordered = _ordered(found.layers, container)
    _check_chain(ordered)
    names = _names(found)
    told.check_names(wishes.options, names)
    dtype = _dtype(found)
    settings = [_setting(layer, forms[layer.name], tensors, wishes, dtype) for layer in ordered]
    layers = [
        _layer(setting, forms[setting.found.name], edges_of(setting.found, dtype))
        for setting in settings
    ]
    told.check_options(wishes.options, _used(settings), {}, found, names)
    records = {setting.found.name: setting.record() for setting in settings}
    for name, record in records.items():
        told.check_record(name, wishes.forms.get(name), record)
    return ForeignNetwork(
        layers,
        codebooks,
        notes=tuple(dict.fromkeys(note for setting in settings for note in setting.notes)),
        forms={name: record for name, record in records.items() if record is not None},
    )


def _used(settings: Iterable[Setting]) -> dict[str, set[str]]:
    """Names of the options that each layer has a use for."""
    return {setting.found.name: setting.used for setting in settings}


def _form_of(layer: FoundLayer) -> Form:
    if layer.layout in FORMS:
        return FORMS[layer.layout]
    reason = UNKNOWN.get(layer.layout)
    if reason is None:
        convolution = len(layer.shape) > 2 or "conv" in layer.layout
        reason = (
            "convolutions are not run natively, their stride and padding are not in the tensors"
            if convolution
            else "what such a layer computes is not known here"
        )
    rivals = " or ".join(f"`layouts={name}`" for name in RIVALS.get(layer.layout, ()))
    if rivals:
        reason += f"; say it with {rivals}"
    raise UsageError(
        f"The layer {shown(layer.name)} (layout {layer.layout}) cannot be run: {reason}.",
        layer=layer.name,
        fields=_SPOKEN,
        hint="" if rivals else OWN_CLASS,
    )


def _check_others(found: Recognition) -> None:
    if not found.others:
        return
    shown = ", ".join(found.others[:3]) + (", ..." if len(found.others) > 3 else "")
    raise UsageError(
        f"{len(found.others)} tensors belong to no KAN layer ({shown}), so the forward between the"
        f" layers is not known.{_reasons(found)}",
        tensor=found.others[0],
        fields=_SPOKEN,
        hint=OWN_CLASS,
    )


def _reasons(found: Recognition) -> str:
    return "".join(f" {problem}" for problem in found.problems)


_NUMBER = re.compile(r"\d+")


def _ordered(layers: tuple[FoundLayer, ...], container: str) -> list[FoundLayer]:
    """The layers as they follow each other; safetensors files sort names, so numbers decide."""
    if container != "safetensors":
        return list(layers)
    stems = {_NUMBER.sub("#", layer.name) for layer in layers}
    if len(stems) > 1:
        names = ", ".join(layer.name for layer in layers)
        raise UsageError(
            f"The order of the layers is not known ({names}): safetensors files keep names sorted.",
            fields=_SPOKEN,
            hint=OWN_CLASS,
        )
    return sorted(layers, key=lambda layer: [int(n) for n in _NUMBER.findall(layer.name)])


def _check_chain(layers: list[FoundLayer]) -> None:
    for one, two in pairwise(layers):
        if one.shape[0] != two.shape[1]:
            hint = " (multiplication nodes?)" if "pykan" in one.layout else ""
            raise UsageError(
                f"The layer {shown(one.name)} gives {one.shape[0]} outputs{hint} where"
                f" {shown(two.name)} takes {two.shape[1]} inputs, so the forward is not a"
                " chain.",
                layer=two.name,
                fields=_SPOKEN,
                hint=OWN_CLASS,
            )


def _dtype(found: Recognition) -> torch.dtype:
    """float64 where coefficients are stored in it, else float32."""
    wide = any(part.dtype == "F64" for layer in found.layers for part in layer.parts)
    return torch.float64 if wide else torch.float32


def _has_base(layer: FoundLayer) -> bool:
    if layer.generator is not None:
        return True
    return any(not has_coefficients(part.axes) for part in layer.parts)


def _setting(
    layer: FoundLayer,
    form: Form,
    tensors: Mapping[str, Tensor],
    wishes: Wishes,
    dtype: torch.dtype,
) -> Setting:
    has_base = _has_base(layer)
    said = wishes.of(layer.name, _stem(layer))
    hidden = hidden_edges(layer, tensors)
    setting = Setting(
        found=layer,
        full=Scene(*_place(layer), tensors).full,
        read=lambda name: _array(tensors.get(name), dtype),
        options=said.options,
        activation=said.options.base_activation or form.activation,
        dtype=np.float64 if dtype == torch.float64 else np.float32,
        size=layer.coefficients - has_base,
        has_base=has_base,
        symbolic=False if hidden else None,
        said=said.by_file,
        assumed=said.by_nobody,
    )
    if has_base:
        chosen = setting.shared_activation()
        if "base_activation" not in said.by_file:
            source = "its config" if said.by_config else "`base_activation`"
            where = f" in {shown(layer.name or told.TOP)}" if wishes.options.layers else ""
            setting.notes.append(f"{layer.layout}: base activation {chosen}{where} ({source})")
    if hidden and not said.without_symbolic:
        setting.refuse("some of its edges are symbolic, whose functions are not in the tensors")
    return setting


def _array(tensor: Tensor | None, dtype: torch.dtype) -> Array | None:
    """A copy in the type of the computation."""
    if tensor is None:
        return None
    array: Array = tensor.detach().to("cpu", dtype, copy=True).numpy()
    return array


def _layer(
    setting: Setting,
    form: Form,
    edges: nn.Module,
    window: Window | None = None,
    seen: nn.Module | None = None,
) -> EdgeLayer:
    """The layer of a form; parameters are shared where the form names a tensor twice."""
    layer = setting.found
    told_form = replace(form.tell(setting), window=window)
    tensors: dict[str, Tensor] = {
        role: torch.from_numpy(np.ascontiguousarray(array))
        for role, array in setting.arrays.items()
    }
    bias = tensors.pop("bias", None)
    return EdgeLayer(
        told_form,
        edges,
        tensors,
        bias=bias,
        learnt=tuple(setting.learnt),
        name=layer.name,
        shape=layer.shape[:2],
        dtype=torch.float64 if setting.dtype is np.float64 else torch.float32,
        seen=seen,
        names=setting.learnt,
    )
