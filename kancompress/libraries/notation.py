"""A layout in one line, for libraries that no record describes.

    coef=spline_weight:out in coef; base=base_weight:out in; scale=spline_scaler:out in

Each entry is ROLE=NAME:AXES with a name relative to the layer's stem and axes in einops'
notation; axes in one pair of parentheses give the order in memory whatever the shape. Roles:

    coef, base   coefficients, in the order of the edge vector; base has one an edge. Where
                 tensors have different numbers of them, or several axes, these axes have names
                 that begin with coef_: `coef=W1:in out coef_h coef_f; coef=B1:in out coef_h`
    scale        multiplies the coefficients
    mask         edges with 0 compute nothing; their coefficients come back as zeros
    skip         edges with another number are left alone
    with         a tensor beside; its axes, if given, help to tell sizes: `with=rbf.grid:coef`
    pool         no tensor, but a name: layers below it (`pool=convs`) share one codebook

A `?` after the role (`base?=...`) says that the tensor may be absent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kancompress.errors import UsageError
from kancompress.formats.edges.axes import (
    COEFFICIENT,
    EDGE,
    coefficient_runs,
    has_coefficients,
    parse_axes,
)
from kancompress.libraries.records import Beside, Layout, Piece, Scale, Veil

BY_HAND = "by-hand"

_ENTRY = re.compile(r"(?P<role>[a-z]+)(?P<optional>\??)=(?P<name>[^:\s]+)(?::(?P<axes>.*))?")
_ROLES = ("coef", "base", "scale", "mask", "skip", "with", "pool")
_OWN = re.compile(r"\bcoef_[a-z_]+")  # axes of one piece's coefficients
_EXAMPLE = "'coef=spline_weight:out in coef'"


def parse_layout(text: str) -> Layout:
    """Parse a layout written by hand; raises UsageError that quotes what cannot be read."""
    pieces: list[Piece] = []
    scales: list[Scale] = []
    veils: list[Veil] = []
    beside: list[Beside] = []
    pool = ""
    for entry in filter(None, map(str.strip, text.split(";"))):
        role, name, axes, required = _parse_entry(entry)
        if role in ("coef", "base"):
            pieces.append(Piece(name=name, axes=axes, optional=not required))
        elif role == "scale":
            scales.append(Scale(name=name, axes=axes, required=required))
        elif role == "pool":
            pool = name
        elif role == "with":
            beside.append(Beside(name=name, axes=axes, required=required))
        else:
            veils.append(Veil(name=name, axes=axes, live=role == "mask", required=required))
    if not pieces or pieces[0].optional:
        raise UsageError(
            f"The layout {text!r} should begin with coef=NAME:AXES or base=NAME:AXES, as in"
            f" {_EXAMPLE}."
        )
    _check_scales(text, pieces, scales)
    anchor = pieces[0].name
    return Layout(
        name=BY_HAND,
        pieces=tuple(pieces),
        scales=tuple(scales),
        veils=tuple(veils),
        beside=tuple(beside),
        # The number tells layers of one stem apart.
        label=anchor[: anchor.rindex("*") + 1] if "*" in anchor else "",
        pool=pool,
    )


def _parse_entry(entry: str) -> tuple[str, str, str, bool]:
    """Role, name, axes and whether the tensor is required."""
    found = _ENTRY.fullmatch(entry)
    role = found["role"] if found else ""
    needs_axes = role not in ("with", "pool")
    if found is None or role not in _ROLES or (found["axes"] is None and needs_axes):
        raise UsageError(
            f"The layout entry {entry!r} cannot be read; expected is ROLE=NAME:AXES with a"
            f" role of {', '.join(_ROLES)}, as in {_EXAMPLE}."
        )
    axes = (found["axes"] or "").strip()
    if role == "pool" and found["axes"] is not None:
        raise UsageError(f"The layout entry {entry!r} should have no axes.")
    if axes or needs_axes:
        own = tuple(_OWN.findall(axes)) if role == "coef" else ()
        parse_axes(axes, only=(*EDGE, *COEFFICIENT, *own) if needs_axes else None)
    if needs_axes:
        _check_axes(entry, role, axes)
    return role, found["name"], axes, not found["optional"]


def _check_axes(entry: str, role: str, axes: str) -> None:
    parsed = parse_axes(axes)
    if "out" not in parsed.names or "in" not in parsed.names:
        raise UsageError(f"The axes of {entry!r} should have the axes out and in.")
    runs = coefficient_runs(parsed)
    if role != "coef" and runs:
        raise UsageError(f"The axes of {entry!r} should not have the axis {runs[0][0]}.")
    if role != "coef":
        return
    own = [name for run in runs for name in run]
    if not own or own == ["half"]:
        raise UsageError(f"The axes of {entry!r} should have the axis coef.")
    if {*own} <= {*COEFFICIENT}:
        return
    if "half" in own:
        raise UsageError(f"The axes of {entry!r} should have half beside coef alone.")
    apart = [name for run in runs for name in run[1:]]
    if len(runs) > 2 or (len(runs) == 2 and apart):
        raise UsageError(
            f"The axes {', '.join(own)} of {entry!r} should follow one another, or be two."
        )


def _check_scales(text: str, pieces: Sequence[Piece], scales: Sequence[Scale]) -> None:
    """A scale multiplies the coefficients from the first to the last of coef."""
    are_coef = [has_coefficients(piece.axes) for piece in pieces]
    if scales and are_coef != sorted(are_coef, reverse=True):
        raise UsageError(
            f"The layout {text!r} has a scale, which multiplies coef; put base after coef."
        )
    if scales and not any(are_coef):
        raise UsageError(f"The layout {text!r} has a scale and no coef that it multiplies.")


def describe(layout: Layout) -> str:
    """A layout in the notation of this module, which leaves out checks and notes."""
    return "; ".join(entries(layout)) or f"{layout.name} (found by a function)"


def entries(layout: Layout) -> tuple[str, ...]:
    """The entries of a layout in the notation of this module; none where a function finds it."""
    if layout.finder is not None:
        return ()
    found = [
        _entry(
            "coef" if has_coefficients(piece.axes) else "base",
            piece.name,
            piece.memory or piece.axes,
            required=not piece.optional,
        )
        for piece in layout.pieces
    ]
    found += [_entry("scale", one.name, one.axes, required=one.required) for one in layout.scales]
    found += [
        _entry("mask" if veil.live else "skip", veil.name, veil.axes, required=veil.required)
        for veil in layout.veils
    ]
    found += [_entry("with", one.name, one.axes, required=one.required) for one in layout.beside]
    if layout.pool:
        found.append(f"pool={layout.pool}")
    return tuple(found)


def _entry(role: str, name: str, axes: str, *, required: bool) -> str:
    return f"{role}{'' if required else '?'}={name}{':' if axes else ''}{axes}"
