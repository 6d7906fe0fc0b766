"""KANLib and kanditioned, two libraries with names of their own.

Sources: KANLib (`coefficients`, `weight_spline`, `weight_residual`, `basis.grid`); kanditioned
(`kan_weight` (in, K, out): the coefficients run in the middle axis).
"""

from __future__ import annotations

from dataclasses import replace

from kancompress.libraries.forms import Forms
from kancompress.libraries.records import Beside, Layout, Piece, Scale


def _kanlib(name: str, kernel: str) -> Layout:
    return Layout(
        name=name,
        pieces=(
            Piece(name="coefficients", axes=f"out in{kernel} coef"),
            Piece(name="weight_residual", axes=f"out in{kernel}", optional=True),
        ),
        scales=(Scale(name="weight_spline", axes=f"out in{kernel}"),),
        beside=(
            Beside(name="basis.grid", axes="in knots", required=True),
            Beside(name="basis.epsilon"),
            Beside(name="bias_output", axes="out"),
        ),
    )


def _grouped(layout: Layout) -> Layout:
    """The same with groups, which the grid of all inputs tells."""

    def grouped(axes: str) -> str:
        return axes.replace("out", "(group out)", 1)

    return replace(
        layout,
        name=f"{layout.name}-grouped",
        pieces=tuple(replace(piece, axes=grouped(piece.axes)) for piece in layout.pieces),
        scales=tuple(replace(scale, axes=grouped(scale.axes)) for scale in layout.scales),
        beside=(
            Beside(name="basis.grid", axes="(group in) knots", required=True),
            Beside(name="basis.epsilon"),
            Beside(name="bias_output", axes="(group out)"),
        ),
    )


_CONVOLUTIONS = (_kanlib("kanlib-conv", " kh kw"), _kanlib("kanlib-conv1d", " kh"))

LAYOUTS = (
    _kanlib("kanlib", ""),
    *_CONVOLUTIONS,
    *map(_grouped, _CONVOLUTIONS),
    Layout(
        name="kanditioned",
        pieces=(Piece(name="kan_weight", axes="in coef out"),),
        beside=(
            Beside(name="local_bias", axes="1 coef 1", required=True),
            Beside(name="feature_offset", axes="1 in", required=True),
        ),
    ),
)

FORMS = Forms()
