"""The `forms` of a packed file: what another library's layers compute beyond their tensors.

docs/packed-format.md, section 9.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.document import check_keys
from kancompress.formats.safetensors import shown
from kancompress.forward import MAX_SPLINE_ORDER, Activation
from kancompress.frozen import dataclass

# What a user may tell of a layer, and what is else taken as the library's default.
TOLD = ("base_activation", "grid_range", "rbf_denominator", "spline_order")
# What messages call it.
WORDS = {
    "base_activation": "base activation",
    "grid_range": "grid range",
    "rbf_denominator": "width of radial functions",
    "spline_order": "spline order",
}
_LONGEST_LAYOUT = 100
# In place of a layout's name: the layer's module was seen to compute something else than its form.
OWN_CLASS = "own-class"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormRecord:
    """What one layer computes, as far as its layout leaves it open; None where it does not.

    layout          : name of the layout by which its tensors are read, or `OWN_CLASS`
    base_activation : of the base branch
    rbf_denominator : width of radial functions
    grid_range      : ends of a grid that is not stored; spline_order : degree of the splines on it
    symbolic        : False where the layer has symbolic edges that take no part
    assumed         : names of the fields above that nobody told: the library's defaults
    """

    layout: str
    base_activation: Activation | None = None
    rbf_denominator: float | None = None
    grid_range: tuple[float, float] | None = None
    spline_order: int | None = None
    symbolic: bool | None = None
    assumed: tuple[str, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """The values of what a user may tell, by name, where the layout leaves them open."""
        values = {name: getattr(self, name) for name in TOLD}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def text(self) -> str:
        """What somebody told, in words, as in "base activation gelu"; else empty."""
        told = [
            f"{WORDS[name]} {as_text(value)}"
            for name, value in self.told.items()
            if name not in self.assumed
        ]
        return ", ".join([*told, *(["symbolic edges off"] if self.symbolic is False else [])])

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        record: dict[str, Any] = {"layout": self.layout, **self.told}
        if self.base_activation is not None:
            record["base_activation"] = self.base_activation.value
        if self.grid_range is not None:
            record["grid_range"] = list(self.grid_range)
        if self.symbolic is not None:
            record["symbolic"] = self.symbolic
        if self.assumed:
            record["assumed"] = list(self.assumed)
        return record


def as_text(value: object) -> str:
    """A value as options take it."""
    if isinstance(value, tuple):
        return ",".join(f"{number:g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_forms(record: object, tensors: Iterable[str], where: str) -> dict[str, FormRecord]:
    """Check a document's `forms` and read it.

    tensors : names of the source's tensors
    Raises InvalidFileError.
    """
    if not isinstance(record, dict) or not record:
        _bad(where, "forms should be a non-empty object")
    names = sorted(tensors)
    forms = {}
    for layer, form in record.items():
        if layer and not _begins_a_name(layer, names):
            raise InvalidFileError(
                Flaw.UNKNOWN_LAYER,
                f"{where}: forms speaks of the layer {shown(layer)}, which has no tensor in"
                " restore.tensors.",
            )
        forms[layer] = _read(form, f"the form of layer {shown(layer)}", where)
    return forms


def _begins_a_name(layer: str, names: list[str]) -> bool:
    """Whether the layer's name is a tensor's, or begins one with a dot behind it."""
    for wanted, is_whole in ((layer, True), (f"{layer}.", False)):
        at = bisect_left(names, wanted)
        if at < len(names) and (names[at] == wanted if is_whole else names[at].startswith(wanted)):
            return True
    return False


def _read(record: object, what: str, where: str) -> FormRecord:
    if not isinstance(record, dict):
        _bad(where, f"{what} should be an object")
    check_keys(record, {"layout"}, {*TOLD, "symbolic", "assumed"}, where, what)
    layout = record["layout"]
    if (
        not isinstance(layout, str)
        or not 0 < len(layout) <= _LONGEST_LAYOUT
        or not all("!" <= character <= "~" for character in layout)
    ):
        _bad(where, f"{what} has the layout {shown(layout)}; the name of one was expected")
    if "symbolic" in record and record["symbolic"] is not False:
        _bad(where, f"{what} has symbolic {shown(record['symbolic'])}; false was expected")
    return FormRecord(
        layout=layout,
        base_activation=_activation(record, what, where),
        rbf_denominator=_width(record, what, where),
        grid_range=_range(record, what, where),
        spline_order=_order(record, what, where),
        symbolic=record.get("symbolic"),
        assumed=_assumed(record, what, where),
    )


def _activation(record: Mapping[str, Any], what: str, where: str) -> Activation | None:
    if "base_activation" not in record:
        return None
    value = record["base_activation"]
    if not isinstance(value, str) or value not in list(Activation):
        _bad(
            where,
            f"{what} has the base_activation {shown(value)}; one of {', '.join(Activation)} was"
            " expected",
        )
    return Activation(value)


def _width(record: Mapping[str, Any], what: str, where: str) -> float | None:
    if "rbf_denominator" not in record:
        return None
    value = record["rbf_denominator"]
    if not _is_real(value) or value <= 0:
        _bad(
            where,
            f"{what} has the rbf_denominator {shown(value)}; a finite number above 0 was expected",
        )
    return float(value)


def _range(record: Mapping[str, Any], what: str, where: str) -> tuple[float, float] | None:
    if "grid_range" not in record:
        return None
    value = record["grid_range"]
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(map(_is_real, value))
        or not value[0] < value[1]
    ):
        _bad(
            where,
            f"{what} has the grid_range {shown(value)}; [low, high] with low < high was expected",
        )
    return float(value[0]), float(value[1])


def _order(record: Mapping[str, Any], what: str, where: str) -> int | None:
    if "spline_order" not in record:
        return None
    value = record["spline_order"]
    if type(value) is not int or not 0 <= value <= MAX_SPLINE_ORDER:
        _bad(
            where,
            f"{what} has the spline_order {shown(value)}; a whole number from 0 to"
            f" {MAX_SPLINE_ORDER} was expected",
        )
    return value


def _assumed(record: Mapping[str, Any], what: str, where: str) -> tuple[str, ...]:
    if "assumed" not in record:
        return ()
    value = record["assumed"]
    known = [name for name in TOLD if name in record]
    if (
        not isinstance(value, list)
        or not value
        or not all(name in known for name in value)
        or value != sorted(set(value))
    ):
        _bad(
            where,
            f"{what} has assumed {shown(value)}; some of its own keys ({', '.join(known)}) in"
            " ascending order were expected",
        )
    return tuple(value)


def _is_real(value: object) -> bool:
    """Whether it is a finite number that float64 holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 1 << 53 if isinstance(value, int) else math.isfinite(value)


def _bad(where: str, message: str) -> NoReturn:
    raise InvalidFileError(Flaw.BAD_VALUE, f"{where}: {message}.")
