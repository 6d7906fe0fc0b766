"""flashkan 0.2 and inkan from PyPI, and the older FlashKAN: uniform grids told by their starts.

flashkan has efficient-kan's names with `grid_starts` (K) in place of `grid`. inkan keeps all
numbers in one `weight` (out, in * K + in): the splines `out (in coef)`, then the base weights; only
a function can say that. FlashKAN's `w` (G + k, in, out) has the base weights as its last row, and
`t` the G + 2k - 1 clamped knots of its splines of order k.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kancompress.formats.arrays import Described, dtype_name
from kancompress.formats.edges.found import FoundLayer, Part
from kancompress.layers.forms import Basis, Splines
from kancompress.libraries.checks import clamped_grid, real_type
from kancompress.libraries.forms import Form, Forms, Setting
from kancompress.libraries.records import Beside, Layout, Misfit, Piece


def _find_inkan(
    layout: Layout, stem: str, number: str, tensors: Mapping[str, Described]
) -> FoundLayer | Misfit:
    weight, starts = tensors[f"{stem}weight"], tensors.get(f"{stem}grid_starts")
    if starts is None or f"{stem}spline_weight" in tensors:
        return Misfit(reason=f"{stem}grid_starts is missing", rank=0)
    if reason := real_type(f"{stem}weight", weight.dtype):
        return Misfit(reason=reason, rank=2)
    if len(weight.shape) != 2 or len(starts.shape) != 1:
        return Misfit(
            reason=f"{stem}weight should have 2 axes and {stem}grid_starts 1, not the shapes"
            f" {tuple(weight.shape)} and {tuple(starts.shape)}",
            rank=2,
        )
    outputs, columns = weight.shape
    coef = starts.shape[0]
    inputs = columns // (coef + 1)
    if inputs * (coef + 1) != columns or not outputs * inputs:
        return Misfit(
            reason=f"{stem}weight has {columns} columns, no multiple of the {coef} splines of"
            f" {stem}grid_starts and a base weight",
            rank=2,
        )
    cut = inputs * coef
    spline, base = (
        Part(
            tensor=f"{stem}weight",
            axes=axes,
            first=first,
            last=last,
            shape=(outputs, columns),
            dtype=dtype_name(weight.dtype),
            columns=where,
        )
        for axes, first, last, where in (
            ("out (in coef)", 0, coef, (0, cut)),
            ("out in", coef, coef + 1, (cut, columns)),
        )
    )
    return FoundLayer(
        name=stem.rstrip("."),
        layout=layout.name,
        shape=(outputs, inputs),
        coefficients=coef + 1,
        parts=(spline, base),
        untouched=(f"{stem}grid_starts",),
    )


LAYOUTS = (
    Layout(
        name="flashkan",
        pieces=(
            Piece(name="spline_weight", axes="out in coef"),
            Piece(name="base_weight", axes="out in"),
        ),
        beside=(Beside(name="grid_starts", axes="coef", required=True),),
        forbidden=("grid", "spline_scaler"),
    ),
    Layout(
        name="inkan",
        pieces=(Piece(name="weight", axes="out (in coef)"),),
        finder=_find_inkan,
    ),
    Layout(
        name="flashkan-w",
        pieces=(Piece(name="w", axes="coef in out"),),
        beside=(Beside(name="t", axes="knots", required=True),),
        checks=(clamped_grid,),
    ),
)


def _starts(setting: Setting) -> Basis:
    """Cubic splines, told by where their supports begin."""
    starts = setting.array("grid_starts")
    if len(starts) < 4:
        setting.refuse(f"{len(starts)} splines are too few for cubic ones")
    step = (starts[-1] - starts[0]) / starts.dtype.type(len(starts) - 1)
    knots = starts[0] + step * np.arange(len(starts) + 4, dtype=starts.dtype)
    rows = np.tile(knots.astype(starts.dtype), (setting.found.shape[1], 1))
    return Splines(3, setting.hold("grid_starts", rows))


FORMS = Forms(chains={"flashkan": Form(basis=_starts), "inkan": Form(basis=_starts)})
