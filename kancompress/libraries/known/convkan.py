"""convkan: an efficient-kan layer on unfolded patches, with a leading axis of groups.

Source: StarostinV/convkan, convkan/convkan_layer.py and kanlinear.py. The inputs of a group run
through channels, then positions of the kernel; the shapes do not tell where the one ends, so the
layer is reported as (out, channels * kh * kw).
"""

from __future__ import annotations

from kancompress.libraries.checks import extended_grid
from kancompress.libraries.records import Beside, Layout, Piece, Scale

_NOTES = ("The tensors do not tell channels from kernel positions: in counts both.",)

LAYOUTS = (
    Layout(
        name="convkan",
        pieces=(
            Piece(name="kan_layer.spline_weight", axes="group out in coef"),
            Piece(name="kan_layer.base_weight", axes="group out in"),
        ),
        scales=(Scale(name="kan_layer.spline_scaler", axes="group out in"),),
        beside=(Beside(name="kan_layer.grid", axes="group in knots", required=True),),
        checks=(extended_grid,),
        notes=_NOTES,
    ),
    Layout(
        name="convkan-ungrouped",
        pieces=(
            Piece(name="kan_layer.spline_weight", axes="out in coef"),
            Piece(name="kan_layer.base_weight", axes="out in"),
        ),
        scales=(Scale(name="kan_layer.spline_scaler", axes="out in"),),
        beside=(Beside(name="kan_layer.grid", axes="in knots", required=True),),
        checks=(extended_grid,),
        notes=_NOTES,
    ),
)
