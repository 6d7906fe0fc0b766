"""Layers that add radial functions: RBF-KAN, BSRBF_KAN, FC_KAN and the KA-Conv convolutions.

Sources: sidhu2690/RBF-KAN (its weight is transposed); hoangthangta/BSRBF_KAN and FC_KAN
(B-splines and radial functions share coefficients); XiangboGaoBarry/KA-Conv (channels of the basis
run through coefficients first).
"""

from __future__ import annotations

from kancompress.layers.forms import Basis, Splines, Sum
from kancompress.libraries.checks import extended_grid
from kancompress.libraries.forms import (
    Form,
    Forms,
    LayerNorm,
    Setting,
    gaussians,
    gaussians_at,
    splines,
)
from kancompress.libraries.records import Beside, Layout, Piece

_BSRBF = (
    Piece(name="spline_weight", axes="out (in coef)"),
    Piece(name="base_weight", axes="out in"),
)
_BSRBF_BESIDE = (
    Beside(name="rbf.grid", axes="coef", required=True),
    Beside(name="grid", axes="in knots", required=True),
    Beside(name="layernorm.weight", axes="in"),
    Beside(name="layernorm.bias", axes="in"),
)
_KA_SPLINE = Piece(name="spline_conv.weight", axes="out (coef in) kh kw")
_KA_BASE = Piece(name="base_conv.weight", axes="out in kh kw")
_KA_BESIDE = (
    Beside(name="spline_conv.bias", axes="out"),
    Beside(name="base_conv.bias", axes="out"),
    Beside(name="layernorm.**"),
)
_KA_NOTE = "One group is assumed."

LAYOUTS = (
    Layout(
        name="rbf-kan",
        pieces=(
            Piece(name="rbf_linear.spline_weight", axes="(in coef) out"),
            Piece(name="base_linear.weight", axes="out in", optional=True),
        ),
        beside=(
            Beside(name="rbf_linear.grid", axes="coef", required=True),
            Beside(name="base_linear.bias", axes="out"),
        ),
    ),
    Layout(
        name="bsrbf-kan",
        pieces=_BSRBF,
        beside=_BSRBF_BESIDE,
        forbidden=("translation",),
        checks=(extended_grid,),
    ),
    Layout(
        name="fc-kan",
        pieces=_BSRBF,
        beside=(
            *_BSRBF_BESIDE,
            Beside(name="translation", axes="out in", required=True),
            Beside(name="scale", axes="out in"),
        ),
        checks=(extended_grid,),
    ),
    Layout(
        name="ka-conv-rbf",
        pieces=(_KA_SPLINE, _KA_BASE),
        beside=(Beside(name="rbf.grid", axes="coef", required=True), *_KA_BESIDE),
        notes=(_KA_NOTE,),
    ),
    Layout(
        name="ka-conv-fourier",
        pieces=(_KA_SPLINE, _KA_BASE),
        beside=(Beside(name="rbf.period", required=True), *_KA_BESIDE),
        notes=(_KA_NOTE,),
    ),
    Layout(
        name="ka-conv",
        pieces=(_KA_SPLINE, _KA_BASE),
        beside=_KA_BESIDE,
        forbidden=("rbf.grid", "rbf.period"),
        notes=(_KA_NOTE, "The tensors do not tell polynomials, Chebyshev and B-splines apart."),
    ),
)


def _splines_and_gaussians(setting: Setting) -> Basis:
    one = splines("grid")(setting)
    assert isinstance(one, Splines)
    return Sum(one, gaussians_at("rbf.grid", setting))


FORMS = Forms(
    chains={
        "rbf-kan": Form(basis=gaussians("rbf_linear.grid"), bias="base_linear.bias"),
        "bsrbf-kan": Form(basis=_splines_and_gaussians, before=LayerNorm("layernorm"), inner=True),
    },
    unknown={
        "fc-kan": "it multiplies branches that share coefficients, which is no sum over edges"
    },
)
