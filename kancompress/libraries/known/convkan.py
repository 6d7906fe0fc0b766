"""convkan: an efficient-kan layer on unfolded patches, with a leading axis of groups.

Source: StarostinV/convkan, convkan/convkan_layer.py and kanlinear.py. The inputs of a group run
through channels, then positions of the kernel; the shapes do not tell where the one ends, so the
layer is reported as (out, channels * kh * kw).
"""

from __future__ import annotations

from kancompress.layers.forms import Basis, Splines
from kancompress.libraries.checks import extended_grid
from kancompress.libraries.forms import Form, Forms, Setting
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


def _patch_splines(setting: Setting) -> Basis:
    """A KAN layer that is called with the patches of each group."""
    if setting.found.groups > 1:
        setting.refuse("the groups of a convolution see different inputs")
    name = "kan_layer.grid"
    knots = setting.array(name)
    knots = knots.reshape(-1, knots.shape[-1])
    return Splines(knots.shape[1] - setting.size - 1, setting.hold(name, knots))


_PATCHES = Form(basis=_patch_splines, module="kan_layer")

FORMS = Forms(patches={"convkan": _PATCHES, "convkan-ungrouped": _PATCHES})
