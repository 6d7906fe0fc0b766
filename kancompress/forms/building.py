"""Networks from other libraries' checkpoints, dense or packed.

The order of the layers is that of the file, and nothing lies between them: a tensor that no KAN
layer owns means that the forward is not known, and is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import pairwise

import torch
from torch import Tensor, nn

from kancompress.checkpoint import check_finite
from kancompress.errors import UsageError
from kancompress.foreign import ForeignCheckpoint, Settings
from kancompress.forms.catalogue import FORMS, UNDETERMINED
from kancompress.forms.layers import FormLayer, FormNetwork, ScaledEdges
from kancompress.forms.records import OWN_CLASS, Form, Setting
from kancompress.layouts import LAYOUTS, FoundLayer, Recognition, gather, recognise
from kancompress.layouts.axes import has_coefficients
from kancompress.layouts.edges import gain_factors, hidden_edges, mask_factors
from kancompress.layouts.matching import Scene, find_stem
from kancompress.nn.edges import DenseEdges
from kancompress.nn.network import packed_edges
from kancompress.packed import PackedModel
from kancompress.packed.restore import pieces_of
from kancompress.packed.state import outline
from kancompress.recipes import Activation, RunOptions

_LAYOUTS = {layout.name: layout for layout in LAYOUTS}
# From a found layer and the type of the computation to the source of its coefficients.
EdgesOf = Callable[[FoundLayer, torch.dtype], nn.Module]


def dense_network(source: ForeignCheckpoint, options: RunOptions | None = None) -> FormNetwork:
    """The network in a checkpoint that another library saved.

    Raises UsageError where the tensors do not determine the forward, or an option means nothing.
    """
    options = options or RunOptions()
    found = recognise(source.tensors, options.layouts)
    for layer in found.layers:
        for name in layer.tensors:
            check_finite(source.tensors[name], name, source.where)

    def edges_of(layer: FoundLayer, dtype: torch.dtype) -> nn.Module:
        vectors = gather(layer, source.tensors).to(dtype)
        return _masked(layer, DenseEdges(vectors.reshape(*layer.shape, -1)), source.tensors, dtype)

    told = source.settings
    layers, notes = _network(found, source.tensors, source.container, options, edges_of, told)
    return FormNetwork(layers, notes=notes)


def packed_network(model: PackedModel, options: RunOptions | None = None) -> FormNetwork:
    """The network in a packed checkpoint of another library, run from codebooks and indices.

    Raises UsageError as `dense_network` does.
    """
    assert model.restore is not None
    options = options or RunOptions()
    tensors = outline(model)
    found = recognise(tensors, options.layouts)
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

    layers, notes = _network(found, tensors, model.restore["container"], options, edges_of)
    return FormNetwork(layers, codebooks, notes)


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
    origins = {name: origin for name, _, _, origin in model.restore["tensors"]}
    pieces = {
        name: pieces_of(origins[origin["tie"]] if origin and "tie" in origin else origin)
        for name, origin in origins.items()
    }
    names: dict[str, str] = {}
    for layer in found.layers:
        homes = {piece["layer"] for part in layer.parts for piece in pieces[part.tensor]}
        fitting = {
            piece["layer"]
            for part in layer.parts
            for piece in pieces[part.tensor]
            if (piece["axes"], piece["from"], piece["to"]) == (part.axes, part.first, part.last)
        }
        if homes != fitting or len(homes) > 1:
            raise UsageError(
                f"The layer {layer.name!r} was packed by another layout than {layer.layout}, as"
                " which it is recognised now; give with --layout the one it was packed by."
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
            f"The packed layer {rest[0]!r} is of no layout whose forward is known.{_reasons(found)}"
            f" {OWN_CLASS}"
        )


# --- layers in order ------------------------------------------------------------------------


def _network(
    found: Recognition,
    tensors: Mapping[str, Tensor],
    container: str,
    options: RunOptions,
    edges_of: EdgesOf,
    told: Settings | None = None,
) -> tuple[list[FormLayer], list[str]]:
    """The layers in the order of the forward, and what was taken for granted.

    told : what pykan's config beside the tensors says
    """
    if not found.layers:
        raise UsageError(
            f"No KAN layer was recognised, so the forward is not known.{_reasons(found)} Name their"
            " layout with --layout."
        )
    forms = {layer.name: _form_of(layer) for layer in found.layers}
    _check_others(found)
    ordered = _ordered(found.layers, container)
    _check_chain(ordered)
    dtype = _dtype(found)
    settings = [
        _setting(layer, forms[layer.name], tensors, options, dtype, told) for layer in ordered
    ]
    layers = [
        _layer(setting, forms[setting.found.name], edges_of(setting.found, dtype))
        for setting in settings
    ]
    _check_options(options, set().union(*(setting.used for setting in settings)), found)
    notes = list(dict.fromkeys(note for setting in settings for note in setting.notes))
    return layers, notes


def _form_of(layer: FoundLayer) -> Form:
    if layer.layout in FORMS:
        return FORMS[layer.layout]
    reason = UNDETERMINED.get(layer.layout)
    if reason is None:
        convolution = len(layer.shape) > 2 or "conv" in layer.layout
        reason = (
            "convolutions are not run natively, their stride and padding are not in the tensors"
            if convolution
            else "what such a layer computes is not known here"
        )
    hint = "" if "--layout torch" in reason else f" {OWN_CLASS}"
    raise UsageError(
        f"The layer {layer.name!r} (layout {layer.layout}) cannot be run: {reason}.{hint}"
    )


def _check_others(found: Recognition) -> None:
    if not found.others:
        return
    shown = ", ".join(found.others[:3]) + (", ..." if len(found.others) > 3 else "")
    raise UsageError(
        f"{len(found.others)} tensors belong to no KAN layer ({shown}), so the forward between the"
        f" layers is not known.{_reasons(found)} {OWN_CLASS}"
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
            f"The order of the layers is not known ({names}): safetensors files keep names"
            f" sorted. {OWN_CLASS}"
        )
    return sorted(layers, key=lambda layer: [int(n) for n in _NUMBER.findall(layer.name)])


def _check_chain(layers: list[FoundLayer]) -> None:
    for one, two in pairwise(layers):
        if one.shape[0] != two.shape[1]:
            hint = " (multiplication nodes?)" if "pykan" in one.layout else ""
            raise UsageError(
                f"The layer {one.name!r} gives {one.shape[0]} outputs{hint} where {two.name!r}"
                f" takes {two.shape[1]} inputs, so the forward is not a chain. {OWN_CLASS}"
            )


def _dtype(found: Recognition) -> torch.dtype:
    """float64 where coefficients are stored in it, else float32."""
    wide = any(part.dtype == torch.float64 for layer in found.layers for part in layer.parts)
    return torch.float64 if wide else torch.float32


def _has_base(layer: FoundLayer) -> bool:
    if layer.generator is not None:
        return True
    return any(not has_coefficients(part.axes) for part in layer.parts)


def _setting(
    layer: FoundLayer,
    form: Form,
    tensors: Mapping[str, Tensor],
    options: RunOptions,
    dtype: torch.dtype,
    told: Settings | None,
) -> Setting:
    generator = layer.generator
    anchor = generator.embeddings if generator is not None else layer.parts[0].tensor
    place = find_stem(_LAYOUTS[layer.layout], anchor)
    assert place is not None
    has_base = _has_base(layer)
    own = told.base_fun if told and told.base_fun in list(Activation) else None
    chosen = options.base_activation or Activation(own or form.activation)
    setting = Setting(
        found=layer,
        scene=Scene(*place, tensors),
        options=options,
        dtype=dtype,
        activation=chosen,
        size=layer.coefficients - has_base,
    )
    if has_base:
        setting.used.add("base_activation")
        source = "its config" if own and not options.base_activation else "--base-activation"
        setting.notes.append(f"{layer.layout}: base activation {chosen} ({source})")
    if hidden_edges(layer, tensors) and not (told and told.symbolic is False):
        setting.refuse("some of its edges are symbolic, whose functions are not in the tensors")
    return setting


def _layer(setting: Setting, form: Form, edges: nn.Module) -> FormLayer:
    layer = setting.found
    after = [step.make(setting) for step in form.after]
    bias = setting.parameter(form.bias) if form.bias else None
    if bias is not None and bias.shape != (layer.shape[0],):
        bias = setting.sides[setting.scene.full(form.bias)] = nn.Parameter(bias.detach().flatten())
    return FormLayer(
        edges,
        name=layer.name,
        shape=(layer.shape[0], layer.shape[1]),
        dtype=setting.dtype,
        expansion=form.expansion(setting),
        before=form.before.make(setting) if form.before else None,
        base=setting.activation if _has_base(layer) else None,
        inner=form.inner,
        after=[step for step in after if step is not None],
        bias=bias,
        side_names=setting.sides,
    )


def _check_options(options: RunOptions, used: set[str], found: Recognition) -> None:
    """Refuse options that no layer of the file has a use for."""
    for option in fields(options):
        name = option.name
        if name == "layouts" or getattr(options, name) is None or name in used:
            continue
        kinds = ", ".join(dict.fromkeys(layer.layout for layer in found.layers))
        raise UsageError(
            f"--{name.replace('_', '-')} has no meaning for this file, whose layers are of the"
            f" layout {kinds}."
        )
