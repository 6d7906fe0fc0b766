"""Layers of another library's file as they follow each other, and what each computes.

The order of the layers is that of the file, and nothing lies between them: a tensor that no KAN
layer owns means that the forward is not known, and is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from kancompress.errors import UsageError
from kancompress.formats.edges import masks
from kancompress.formats.edges.axes import has_coefficients
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.packed import FormRecord, PackedRecord
from kancompress.formats.safetensors import shown
from kancompress.forward import RUN_FIELDS
from kancompress.frozen import dataclass
from kancompress.layers.forms import LayerForm
from kancompress.libraries import told
from kancompress.libraries.catalogue import FORMS, LAYOUTS, RIVALS, UNKNOWN
from kancompress.libraries.forms import OWN_CLASS, Array, Form, Setting
from kancompress.libraries.matching import Scene, find_stem
from kancompress.libraries.records import Recognition
from kancompress.libraries.told import Forms, Wishes

_LAYOUTS = {layout.name: layout for layout in LAYOUTS}
# Parameters of which reasons that the layers of a file give may speak.
SPOKEN = ("model", "drop", *RUN_FIELDS)
# From the name of a tensor to a copy of its numbers in the type of the computation, or None.
Read = Callable[[str], Array | None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ToldLayer:
    """A layer, what it computes, and the arrays that its form names, by role.

    learnt : tensors that learn beside the edges: role to the name in the file
    notes  : what was taken for granted
    """

    found: FoundLayer
    form: LayerForm
    arrays: Mapping[str, Array]
    learnt: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Chain:
    """Layers in the order of the forward.

    notes : what was taken for granted
    forms : what the layers compute beyond their tensors, by their names, as packed files say it
    """

    layers: tuple[ToldLayer, ...]
    notes: tuple[str, ...]
    forms: Forms


def chain_of(
    found: Recognition, container: str, wishes: Wishes, read: Read, where: str = ""
) -> Chain:
    """The layers in the order of the forward, and what was taken for granted.

    container : of the file that the library wrote; safetensors files sort names
    where     : the file in messages, where there is one
    Raises UsageError where the forward is not known, or an option means nothing for the file;
    InvalidFileError where a form fits no layer.
    """
    if not found.layers:
        raise UsageError(
            f"{f'{where}: no' if where else 'No'} KAN layer was recognised, so the forward is not"
            f" known.{_reasons(found)}",
            fields=SPOKEN,
            hint=" ".join(found.hints) or "Name their layout with `layouts`.",
        )
    forms = {layer.name: form_of(layer) for layer in found.layers}
    _check_others(found)
    ordered = _ordered(found.layers, container)
    _check_chain(ordered)
    names = names_of(found)
    told.check_names(wishes.options, names)
    dtype = dtype_of(found)
    settings = [setting_of(layer, forms[layer.name], wishes, read, dtype) for layer in ordered]
    layers = tuple(told_layer(setting, forms[setting.found.name]) for setting in settings)
    told.check_options(wishes.options, used(settings), {}, found, names)
    records = {setting.found.name: setting.record() for setting in settings}
    for name, record in records.items():
        told.check_record(name, wishes.forms.get(name), record)
    return Chain(
        layers=layers,
        notes=tuple(dict.fromkeys(note for layer in layers for note in layer.notes)),
        forms={name: record for name, record in records.items() if record is not None},
    )


def told_layer(setting: Setting, form: Form) -> ToldLayer:
    """One layer, whatever is before and behind it."""
    found = form.tell(setting)
    return ToldLayer(
        found=setting.found,
        form=found,
        arrays={role: np.ascontiguousarray(array) for role, array in setting.arrays.items()},
        learnt=setting.learnt,
        notes=tuple(setting.notes),
    )


# --- names ----------------------------------------------------------------------------------


def names_of(found: Recognition) -> dict[str, tuple[str, ...]]:
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


def packed_names(found: Recognition, record: PackedRecord[Any]) -> dict[str, str]:
    """Name of each recognised layer to the packed layer that holds its edges.

    Raises UsageError where the file was packed by another layout than the one recognised.
    """
    assert record.restore is not None
    pieces = {name: owner.pieces for name, owner in record.restore.owners().items()}
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
    _check_claimed(found, record, names)
    return names


def _check_claimed(found: Recognition, record: PackedRecord[Any], names: Mapping[str, str]) -> None:
    """Refuse a packed layer that no recognised layer is made of."""
    rest = [layer.name for layer in record.layers if layer.name not in names.values()]
    if rest:
        raise UsageError(
            f"The packed layer {rest[0]!r} is of no layout whose forward is known."
            f"{_reasons(found)}",
            layer=rest[0],
            fields=SPOKEN,
            hint=OWN_CLASS,
        )


# --- what a layer computes ------------------------------------------------------------------


def form_of(layer: FoundLayer) -> Form:
    """What layers of its layout compute. Raises UsageError where that is not known."""
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
        fields=SPOKEN,
        hint="" if rivals else OWN_CLASS,
    )


def setting_of(
    layer: FoundLayer, form: Form, wishes: Wishes, read: Read, dtype: type[np.floating]
) -> Setting:
    """What is told of a layer, and its tensors, before its form is told of them.

    dtype : of the computation
    Raises UsageError where some edges are symbolic, or the user contradicts the file.
    """
    has_base = _has_base(layer)
    said = wishes.of(layer.name, _stem(layer))
    hidden = masks.hidden_edges(layer, required(read))
    setting = Setting(
        found=layer,
        full=Scene(*_place(layer), {}).full,
        read=read,
        options=said.options,
        activation=said.options.base_activation or form.activation,
        dtype=dtype,
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


def required(read: Read) -> Callable[[str], Array]:
    """The same of tensors that are there."""

    def there(name: str) -> Array:
        found = read(name)
        assert found is not None
        return found

    return there


def _has_base(layer: FoundLayer) -> bool:
    if layer.generator is not None:
        return True
    return any(not has_coefficients(part.axes) for part in layer.parts)


def records_of(
    found: Recognition, wishes: Wishes, read: Read, refused: dict[str, str]
) -> dict[str, FormRecord]:
    """What is known of each layer by itself, as packed files say it; why it is not known of others
    is added to `refused`."""
    dtype = dtype_of(found)
    records: dict[str, FormRecord] = {}
    for layer in found.layers:
        try:
            form = form_of(layer)
            setting = setting_of(layer, form, wishes, read, dtype)
            form.tell(setting)
        except UsageError as error:
            refused[layer.name] = error.finding
            continue
        record = setting.record()
        if record is not None:
            records[layer.name] = record
    return records


def used(settings: Iterable[Setting]) -> dict[str, set[str]]:
    """Names of the options that each layer has a use for."""
    return {setting.found.name: setting.used for setting in settings}


def dtype_of(found: Recognition) -> type[np.floating]:
    """float64 where coefficients are stored in it, else float32."""
    wide = any(part.dtype == "F64" for layer in found.layers for part in layer.parts)
    return np.float64 if wide else np.float32


# --- the order ------------------------------------------------------------------------------


def _check_others(found: Recognition) -> None:
    if not found.others:
        return
    first = ", ".join(found.others[:3]) + (", ..." if len(found.others) > 3 else "")
    raise UsageError(
        f"{len(found.others)} tensors belong to no KAN layer ({first}), so the forward between the"
        f" layers is not known.{_reasons(found)}",
        tensor=found.others[0],
        fields=SPOKEN,
        hint=" ".join(found.hints) or OWN_CLASS,
    )


def _reasons(found: Recognition) -> str:
    return "".join(f" {problem}" for problem in found.problems)


_NUMBER = re.compile(r"\d+")


def _ordered(layers: Sequence[FoundLayer], container: str) -> list[FoundLayer]:
    """The layers as they follow each other; safetensors files sort names, so numbers decide."""
    if container != "safetensors":
        return list(layers)
    stems = {_NUMBER.sub("#", layer.name) for layer in layers}
    if len(stems) > 1:
        names = ", ".join(layer.name for layer in layers)
        raise UsageError(
            f"The order of the layers is not known ({names}): safetensors files keep names sorted.",
            fields=SPOKEN,
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
                fields=SPOKEN,
                hint=OWN_CLASS,
            )
