"""Options in bundles: a command takes a record of options, and typer sees each of them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args, get_type_hints

from typer.core import TyperCommand
from typer.models import ParameterInfo

from kancompress.frozen import dataclass

_PANEL, _WITHOUT = "__panel__", "__without__"
Kind = TypeVar("Kind", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def bundle(panel: str, without: Sequence[str] = ()) -> Callable[[Kind], Kind]:
    """A class of options that several commands may share.

    panel   : heading of these options in the help
    without : fields that are no options, of a class that has them from another; they keep their
              defaults
    """

    def decorate(kind: Kind) -> Kind:
        setattr(kind, _PANEL, panel)
        setattr(kind, _WITHOUT, tuple(without))
        return cast(Kind, dataclass(frozen=True, kw_only=True)(kind))

    return decorate


class Flat:
    """A command whose bundles are spread out into single options."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._bundles: dict[str, type] = {}
        self.parameters: list[inspect.Parameter] = []
        hints = get_type_hints(function, include_extras=True)
        for name, parameter in inspect.signature(function).parameters.items():
            if hasattr(hints[name], _PANEL):
                self._bundles[name] = hints[name]
                self.parameters += _fields(hints[name])
            else:
                self.parameters.append(parameter.replace(annotation=hints[name]))
        # Typer gives all by their names, and those that must be given come first in the help.
        self.parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in self.parameters
        ]

    def __call__(self, **options: Any) -> None:
        """Run the command with options that are given one by one."""
        for bundle_name, kind in self._bundles.items():
            own = {name: options.pop(name) for name in _names(kind)}
            options[bundle_name] = kind(**own)
        self._function(**options)

    def sign(self, wrapper: Callable[..., Any]) -> None:
        """Let a wrapper of the command show single options to typer."""
        functools.update_wrapper(wrapper, self._function)
        del wrapper.__wrapped__  # type: ignore[attr-defined]
        wrapper.__signature__ = inspect.Signature(self.parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {
            parameter.name: parameter.annotation for parameter in self.parameters
        }


def _names(kind: type) -> list[str]:
    without = getattr(kind, _WITHOUT)
    return [field.name for field in dataclasses.fields(kind) if field.name not in without]


def _fields(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    names = _names(kind)
    parameters = []
    for field in dataclasses.fields(kind):
        if field.name not in names:
            continue
        base, *told = get_args(hints[field.name])
        info = copy.copy(next(one for one in told if isinstance(one, ParameterInfo)))
        info.rich_help_panel = getattr(kind, _PANEL)
        missing = field.default is dataclasses.MISSING
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if missing else field.default,
                annotation=Annotated[base, info],
            )
        )
    return parameters


class Command(TyperCommand):
    """A command whose help has a section for each bundle."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, the options of no bundle, and those of each bundle."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                sections.setdefault("Arguments" if argument else panel, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
