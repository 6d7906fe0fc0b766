"""torchkan: names are ordered by role, then layer (`spline_weights.0`).

Source: 1ssb/torchkan, torchkan.py and KALnet.py. KAL_Net and KAC_Net (Legendre and Chebyshev) have
the same names and the same order of coefficients.
"""

from __future__ import annotations

from dataclasses import replace

from kancompress.forward import Activation
from kancompress.layers.forms import Series
from kancompress.libraries.checks import extended_grid
from kancompress.libraries.forms import (
    Form,
    Forms,
    LayerNorm,
    MinMax,
    PReLU,
    Shared,
    polynomials,
    splines,
)
from kancompress.libraries.records import Beside, Layout, Piece

_BASE = Piece(name="base_weights.*", axes="out in")
_NORM = (
    Beside(name="layer_norms.*.weight", axes="out"),
    Beside(name="layer_norms.*.bias", axes="out"),
)

_POLY = Layout(
    name="torchkan-poly",
    pieces=(Piece(name="poly_weights.*", axes="out (in coef)"), _BASE),
    beside=_NORM,
    label="poly_weights.*",
    notes=("The tensors do not tell Legendre (KAL_Net) from Chebyshev (KAC_Net).",),
)

LAYOUTS = (
    Layout(
        name="torchkan",
        pieces=(Piece(name="spline_weights.*", axes="out in coef"), _BASE),
        beside=(
            Beside(name="grid_*", axes="in knots", required=True),
            *_NORM,
            Beside(name="prelus.*.weight"),
        ),
        checks=(extended_grid,),
        label="spline_weights.*",
    ),
    _POLY,
    # Never found by themselves; `RunOptions.layouts` names them where the forward matters.
    replace(_POLY, name="torchkan-legendre", notes=()),
    replace(_POLY, name="torchkan-chebyshev", notes=()),
)


def _scaled(series: Series) -> Form:
    return Form(
        basis=polynomials(series),
        before=MinMax(),
        after=(LayerNorm("layer_norms.*"), Shared()),
    )


FORMS = Forms(
    chains={
        "torchkan": Form(
            basis=splines("grid_*"),
            activation=Activation.GELU,
            after=(LayerNorm("layer_norms.*"), PReLU("prelus.*.weight")),
        ),
        "torchkan-legendre": _scaled(Series.LEGENDRE),
        "torchkan-chebyshev": _scaled(Series.CHEBYSHEV),
    },
    unknown={"torchkan-poly": "its tensors do not tell KAL_Net from KAC_Net"},
    rivals={"torchkan-poly": ("torchkan-legendre", "torchkan-chebyshev")},
)
