"""efficient-kan and the many copies of its `KANLinear`; KANELÉ's has a selector of edges.

Source: Blealtan/efficient-kan, src/efficient_kan/kan.py. `spline_weight` (out, in, G + k),
optional `spline_scaler` and `base_weight` (out, in), buffer `grid` (in, G + 2k + 1).
"""

from __future__ import annotations

from kancompress.libraries.checks import extended_grid
from kancompress.libraries.forms import Form, Forms, splines
from kancompress.libraries.records import Beside, Layout, Piece, Scale, Veil

_PIECES = (
    Piece(name="spline_weight", axes="out in coef"),
    Piece(name="base_weight", axes="out in"),
)
_SCALES = (Scale(name="spline_scaler", axes="out in"),)
_GRID = Beside(name="grid", axes="in knots", required=True)

LAYOUTS = (
    Layout(
        name="efficient-kan",
        pieces=_PIECES,
        scales=_SCALES,
        beside=(_GRID,),
        forbidden=("grid_starts", "spline_selector"),
        checks=(extended_grid,),
    ),
    Layout(
        name="kanele",
        pieces=_PIECES,
        scales=_SCALES,
        veils=(Veil(name="spline_selector", axes="out in", required=True),),
        beside=(_GRID,),
        checks=(extended_grid,),
    ),
)

FORMS = Forms(
    chains={
        "efficient-kan": Form(basis=splines("grid")),
        "kanele": Form(basis=splines("grid")),
    }
)
