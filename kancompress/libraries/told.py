"""What the user, a config and a packed file tell of other libraries' layers, held together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats.arrays import Described
from kancompress.formats.packed.forms import OWN_CLASS, TOLD, WORDS, FormRecord, as_text
from kancompress.formats.safetensors import shown
from kancompress.forward import RUN_FIELDS, Activation, RunOptions
from kancompress.frozen import dataclass
from kancompress.libraries.catalogue import LAYOUTS
from kancompress.libraries.forms import OWN_CLASS as IN_ITS_CLASS
from kancompress.libraries.recognition import recognise
from kancompress.libraries.records import Recognition

if TYPE_CHECKING:
    from kancompress.formats.foreign import Settings

# Form records by the names of the source's layers.
Forms = Mapping[str, FormRecord]
# By those names, what the user may call each layer by: its name and its stem, `TOP` for none.
Names = Mapping[str, Collection[str]]
TOP = "."
_MOST_NAMES = 5

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

    def of(self, name: str, *others: str) -> Said:
        """What is told of one layer, which the user may call by other names as well.

        Raises UsageError where the user contradicts the file.
        """
        form = self.forms.get(name)
        options = self.options.of(name or TOP, *others)
        own = self.settings.base_fun if self.settings else None
        by_config = own in list(Activation) and options.base_activation is None
        values: dict[str, Any] = {"base_activation": Activation(str(own))} if by_config else {}
        by_file: set[str] = set()
        by_nobody: set[str] = set()
        for option in TOLD:
            wish, value = getattr(options, option), form and form.told.get(option)
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
            options=replace(options, **values),
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
    tensors: Mapping[str, Described], layouts: Mapping[str, str], forms: Forms
) -> Recognition:
    """The layers as the packed file says that they are to be read.

    layouts : as the user chooses them
    Raises UsageError where the user contradicts the file or the file's layout is not known here,
    InvalidFileError where it fits no layer of that name.
    """
    for name, form in forms.items():
        if form.layout == OWN_CLASS:
            raise UsageError(
                f"The layer {shown(name)} cannot be run: when the file was packed, its own module"
                " was seen to compute something else than the form of its layout.",
                layer=name,
                fields=("model",),
                hint=IN_ITS_CLASS,
            )
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
        found = recognise(tensors, {**layouts, **{name or TOP: x for name, x in other.items()}})
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


def check_names(options: RunOptions, names: Names) -> None:
    """Refuse what is told of a layer that is not there, or twice of its layout.

    names : of each layer, what the user may call it by
    """
    known = set().union(*names.values())
    for key, own in options.layers.items():
        if own.layouts or own.layers:
            raise UsageError(
                f"The layout of {shown(key)} goes into `layouts` of all options.",
                layer=key,
                fields=("layouts",),
            )
        for option in own.given if key not in known else ():
            first = [shown(name or TOP) for name in names][:_MOST_NAMES]
            rest = len(names) - len(first)
            raise UsageError(
                f"There is no layer {shown(key)} of which `{option}` could tell; the layers are"
                f" {', '.join(first)}{f' and {rest:,} more' if rest else ''}.",
                layer=key,
                fields=(option,),
            )


def check_options(
    options: RunOptions,
    used: Mapping[str, Collection[str]],
    refused: Mapping[str, str],
    found: Recognition,
    names: Names,
) -> None:
    """Refuse options that no layer of the file has a use for, or not the one they are told of.

    used    : names of the options that each layer has a use for
    refused : of other layers, why it is not known what they compute
    """
    for name in options.given:
        if not any(name in own for own in used.values()):
            kinds = ", ".join(dict.fromkeys(layer.layout for layer in found.layers))
            raise UsageError(
                f"`{name}` has no meaning for this file, whose layers are of the layout {kinds}.",
                fields=(name,),
            )
    layouts = _layouts_of(found)
    for key, own in options.layers.items():
        meant = [layer for layer, called in names.items() if key in called]
        for name in own.given:
            if any(name in used.get(layer, ()) for layer in meant):
                continue
            reasons = [refused[layer] for layer in meant if layer in refused]
            raise UsageError(
                f"`{name}` tells what layer {shown(key)} computes, and that is not known."
                f" {reasons[0]}"
                if reasons
                else f"`{name}` has no meaning for layer {shown(key)}, which is of the layout"
                f" {layouts[meant[0]]}.",
                layer=key,
                fields=(name, *RUN_FIELDS),
            )


def check_kept(
    options: RunOptions,
    forms: Forms,
    refused: Mapping[str, str],
    found: Recognition,
    names: Names,
) -> None:
    """Refuse options that the packed file would forget.

    refused : of other layers, why their forms are not known
    """
    kept = {layer: set(form.told) for layer, form in forms.items()}
    for name in options.given:
        if not any(name in own for own in kept.values()) and refused:
            raise UsageError(
                f"`{name}` tells what layers compute, and of those that it may mean that is not"
                f" known. {next(iter(refused.values()))}",
                fields=RUN_FIELDS,
            )
    check_options(options, kept, refused, found, names)


def refuse_options(options: RunOptions) -> None:
    """Refuse what only other libraries' files need. Raises UsageError."""
    layouts = ("layouts",) if options.layouts else ()
    single = (name for one in options.layers.values() for name in one.given)
    for name in (*layouts, *options.given, *single):
        raise UsageError(
            f"`{name}` belongs to other libraries' files; this one says itself what it computes.",
            fields=(name,),
        )
