"""Options that are told of all layers of another library's file, or of one: VALUE, STEM=VALUE."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import kancompress
from kancompress.config import MAX_SPLINE_ORDER, Activation, RunOptions
from kancompress.errors import UsageError
from kancompress.system import inputs as reading

Value = TypeVar("Value")


def run_options(
    layout: Sequence[str],
    base_activation: Sequence[str],
    rbf_denominator: Sequence[str],
    grid_range: Sequence[str],
    spline_order: Sequence[str],
) -> RunOptions:
    """The library's record of these options. Raises UsageError for values that mean nothing."""
    told: dict[str, Mapping[str, Any]] = {
        "base_activation": _by_stem("--base-activation", base_activation, _activation),
        "rbf_denominator": _by_stem("--rbf-denominator", rbf_denominator, _width),
        "grid_range": _by_stem("--grid-range", grid_range, _range),
        "spline_order": _by_stem("--spline-order", spline_order, _order),
    }
    common = {name: found.get("") for name, found in told.items()}
    stems = dict.fromkeys(stem for found in told.values() for stem in found if stem)
    layers = {stem: _of({name: found.get(stem) for name, found in told.items()}) for stem in stems}
    return replace(_of(common), layouts=layouts(layout), layers=layers)


def _of(values: dict[str, Any]) -> RunOptions:
    return RunOptions(**values)


# Where a line begins with `base=NAME:AXES`; `base` alone may be a stem.
_BASE = re.compile(r"\s*base=[^=:;]+:[^=;]*(?:;|$)")


def layouts(values: Sequence[str]) -> dict[str, str]:
    """Stem to layout from `NAME`, `STEM=NAME`, `coef=...`, `STEM=coef=...` and `@FILE`.

    A line may begin with `base=NAME:AXES` as well.
    """
    chosen: dict[str, str] = {}
    for value in values:
        if value.startswith("@"):
            reading.check(Path(value[1:]))
            found = kancompress.read_layouts(value[1:])
        else:
            stem, mark, layout = value.partition("=")
            named = mark and stem.strip() != "coef" and not _BASE.match(value)
            found = {stem: layout} if named else {"": value}
        for stem in found.keys() & chosen.keys():
            raise UsageError(f"--layout is given twice for {stem or 'all layers'}.")
        chosen |= found
    return chosen


def _by_stem(
    option: str, values: Sequence[str], read: Callable[[str, str], Value]
) -> dict[str, Value]:
    """Stem ("" for all layers) to value."""
    found: dict[str, Value] = {}
    for text in values:
        stem, _, value = text.rpartition("=")
        if stem in found:
            raise UsageError(f"{option} is given twice for {stem or 'all layers'}.")
        found[stem] = read(option, value)
    return found


def _activation(option: str, text: str) -> Activation:
    if text not in list(Activation):
        raise UsageError(f"{option} is {text}; one of {', '.join(Activation)} was expected.")
    return Activation(text)


def _width(option: str, text: str) -> float:
    width = _number(text)
    if not 0 < width < math.inf:
        raise UsageError(f"{option} is {text}; a finite number above 0 was expected.")
    return width


def _range(option: str, text: str) -> tuple[float, float]:
    """LOW,HIGH as two finite numbers, the first below the second."""
    low, high = map(_number, text.split(",")) if text.count(",") == 1 else (math.nan, math.nan)
    if not low < high or math.isinf(low) or math.isinf(high):
        raise UsageError(f"{option} {text} is no range; write two numbers, as in -2,2.")
    return low, high


def _order(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) <= MAX_SPLINE_ORDER):
        raise UsageError(
            f"{option} is {text}; a whole number from 0 to {MAX_SPLINE_ORDER} was expected."
        )
    return int(text)


def _number(text: str) -> float:
    """The number, NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
