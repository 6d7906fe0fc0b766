"""What the user, a config and a packed file tell of other libraries' layers, held together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

from kancompress.config import RUN_FIELDS, Activation, RunOptions
from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats.foreign import Settings
from kancompress.formats.packed.forms import TOLD, WORDS, FormRecord, as_text
from kancompress.formats.safetensors import shown
from kancompress.libraries import LAYOUTS, Recognition, recognise

# Form records by the names of the source's layers.
Forms = Mapping[str, FormRecord]

_NAMES = {layout.name for layout in LAYOUTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is told of one layer.

    options          : from the user, else from a config, else from the packed file
    by_file          : names of the options whose value the file says; by_nobody : those without
                       anyone who told their value, even where the file has one
    by_config        : whether a config tells the base activation
    without_symbolic : whether symbolic edges take no part
    """

    options: RunOptions
    by_file: frozenset[str]
    by_nobody: frozenset[str]
    by_config: bool
    without_symbolic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is told of all layers.

    options  : by the user; settings : by pykan's config beside the tensors
    forms    : by the packed file
    """

    options: RunOptions
    settings: Settings | None = None
    forms: Forms = field(default_factory=dict)

    def of(self, name: str) -> Said:
        """What is told of one layer. Raises UsageError where the user contradicts the file."""
        form = self.forms.get(name)
        own = self.settings.base_fun if self.settings else None
        by_config = own in list(Activation) and self.options.base_activation is None
        values: dict[str, Any] = {"base_activation": Activation(str(own))} if by_config else {}
        by_file: set[str] = set()
        by_nobody: set[str] = set()
        for option in TOLD:
            wish, value = getattr(self.options, option), form and form.told.get(option)
            is_told = form is not None and value is not None and option not in form.assumed
            if is_told and wish is not None and wish != value:
                raise UsageError(
                    f"The file says that the {WORDS[option]} of layer {shown(name)} is"
                    f" {as_text(value)}, and `{option}` says {as_text(wish)}."
                    " Leave the option out.",
                    layer=name,
                    fields=(option,),
                )
            if wish is None and option not in values:
                values[option] = value
                (by_file if is_told else by_nobody).add(option)
            elif is_told and wish is not None:
                by_file.add(option)
        symbolic = self.settings is not None and self.settings.symbolic is False
        return Said(
            options=replace(self.options, **values),
            by_file=frozenset(by_file),
            by_nobody=frozenset(by_nobody),
            by_config=by_config,
            without_symbolic=symbolic or (form is not None and form.symbolic is False),
        )


def with_layouts(options: RunOptions | None, layouts: Mapping[str, str] | None) -> RunOptions:
    """Options with these layouts in the place of their own, where there are any."""
    options = options or RunOptions()
    return options if layouts is None else replace(options, layouts=layouts)


def recognised(
    tensors: Mapping[str, Tensor], layouts: Mapping[str, str], forms: Forms
) -> Recognition:
    """The layers as the packed file says that they are to be read.

    layouts : as the user chooses them
    Raises UsageError where the user contradicts the file or the file's layout is not known here,
    InvalidFileError where it fits no layer of that name.
    """
    found = recognise(tensors, layouts)
    other = _differing(found, forms)
    if not other:
        return found
    if layouts:
        now, plain = _layouts_of(found), _layouts_of(recognise(tensors))
        for name, layout in other.items():
            if now.get(name) != plain.get(name):
                raise UsageError(
                    f"The file says that layer {shown(name)} is of the layout {layout}, and"
                    f" `layouts` that it is {now.get(name, 'none')}. Leave the option out.",
                    layer=name,
                    fields=("layouts",),
                )
    for name, layout in other.items():
        if layout not in _NAMES:
            raise UsageError(
                f"The file says that layer {shown(name)} is of the layout {layout}, which this"
                " kancompress does not know. Upgrade with: pip install --upgrade kancompress",
                layer=name,
            )
    try:
        found = recognise(tensors, {**layouts, **{name or ".": x for name, x in other.items()}})
    except UsageError as error:
        raise _misfit(*next(iter(other.items())), error.clause) from None
    for name, layout in _differing(found, forms).items():
        raise _misfit(name, layout, "there is no such layer")
    return found


def _layouts_of(found: Recognition) -> dict[str, str]:
    return {layer.name: layer.layout for layer in found.layers}


def _differing(found: Recognition, forms: Forms) -> dict[str, str]:
    """Layouts of the layers that were recognised otherwise than the file says."""
    now = {
        layer.name: "efficient-kan" if layer.generator else layer.layout for layer in found.layers
    }
    return {name: form.layout for name, form in forms.items() if now.get(name) != form.layout}


def _misfit(name: str, layout: str, reason: str) -> InvalidFileError:
    return InvalidFileError(
        Flaw.BAD_VALUE,
        f"The file says that layer {shown(name)} is of the layout {layout}, which its tensors are"
        f" not: {reason}.",
        layer=name,
    )


def check_record(name: str, form: FormRecord | None, found: FormRecord | None) -> None:
    """Refuse a form that says more or less than its layout has a use for."""
    if form is None or found is None:
        return
    wrong = sorted(form.told.keys() ^ found.told.keys())
    if not wrong and form.symbolic != found.symbolic:
        wrong = ["symbolic"]
    if wrong:
        has = getattr(form, wrong[0]) is not None
        raise InvalidFileError(
            Flaw.BAD_VALUE,
            f"The file's form of layer {shown(name)} {'has' if has else 'lacks'} {wrong[0]}, which"
            f" a layer of the layout {form.layout} {'has no use for' if has else 'needs'}.",
            layer=name,
        )


def check_options(options: RunOptions, used: set[str], found: Recognition) -> None:
    """Refuse options that no layer of the file has a use for."""
    for name in _given(options):
        if name not in used:
            kinds = ", ".join(dict.fromkeys(layer.layout for layer in found.layers))
            raise UsageError(
                f"`{name}` has no meaning for this file, whose layers are of the layout {kinds}.",
                fields=(name,),
            )


def check_kept(
    options: RunOptions, forms: Forms, refused: Sequence[str], found: Recognition
) -> None:
    """Refuse options that the packed file would forget.

    refused : why the forms of other layers are not known
    """
    kept = {name for form in forms.values() for name in form.told}
    for name in _given(options):
        if name not in kept and refused:
            raise UsageError(
                f"`{name}` tells what layers compute, and of those that it may mean that is not"
                f" known. {refused[0]}",
                fields=RUN_FIELDS,
            )
    check_options(options, kept, found)


def _given(options: RunOptions) -> list[str]:
    """Names of the options that tell what layers compute, and are given."""
    names = [option.name for option in fields(options) if option.name != "layouts"]
    return [name for name in names if getattr(options, name) is not None]
