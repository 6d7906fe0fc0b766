"""Fourier layers: cosines and sines lie in two halves along the first axis.

Sources: GistNoesis/FourierKAN, `fouriercoeffs` (2, out, in, G); Indoxer/LKAN, whose `coeff` has the
splines (out, in, K), or the halves of a Fourier series (2, out, in, G). LKAN scales both parts of
an edge by numbers of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace

from kancompress.layers.forms import Basis, Waves
from kancompress.libraries.checks import extended_grid, two_halves
from kancompress.libraries.forms import Form, Forms, Setting, splines
from kancompress.libraries.records import Beside, Check, Layout, Piece, Scale

_UNSCALED = Beside(name="scale_spline", axes="1")
_GRID = Beside(name="grid", axes="in knots", required=True)
_BIAS = Beside(name="bias", axes="out")


def _lkan(name: str, coef: str, edge: str, beside: Beside, check: Check) -> tuple[Layout, ...]:
    """With a scale for each edge, and with one number for all, which stays as it is."""
    scaled = Layout(
        name=name,
        pieces=(Piece(name="coeff", axes=coef), Piece(name="scale_base", axes=edge)),
        scales=(Scale(name="scale_spline", axes=edge),),
        beside=(beside, _BIAS),
        checks=(check,),
    )
    plain = replace(scaled, name=f"{name}-unscaled", scales=(), beside=(beside, _UNSCALED, _BIAS))
    return scaled, plain


_LKAN = _lkan("lkan", "out in coef", "out in", _GRID, extended_grid)

LAYOUTS = (
    Layout(
        name="fourier-kan",
        pieces=(Piece(name="fouriercoeffs", axes="half out in coef"),),
        beside=(Beside(name="bias", axes="1 out"),),
        checks=(two_halves,),
    ),
    *_LKAN,
    # the first of its classes, KANLinear0
    replace(_LKAN[0], name="lkan-0", beside=(_GRID, Beside(name="bias", axes="1 out"))),
    *_lkan("lkan-fft", "half out in coef", "out in", Beside(name="k"), two_halves),
    *_lkan("lkan-fft-conv", "half out in kh kw coef", "out in kh kw", Beside(name="k"), two_halves),
)


def _waves(setting: Setting) -> Basis:
    return Waves(setting.size // 2, (-math.pi, math.pi))


def _unscaled(setting: Setting) -> Basis:
    """LKAN's layers without scales of their own multiply all splines by one number, 1."""
    if not (setting.array("scale_spline") == 1).all():
        setting.refuse(f"{setting.full('scale_spline')} is not 1")
    return splines("grid")(setting)


_FFT = "versions of its class read the axes of coeff in different orders"

FORMS = Forms(
    chains={
        "fourier-kan": Form(basis=_waves, bias="bias"),
        "lkan": Form(basis=splines("grid"), bias="bias"),
        "lkan-0": Form(basis=splines("grid"), bias="bias"),
        "lkan-unscaled": Form(basis=_unscaled, bias="bias"),
    },
    unknown={"lkan-fft": _FFT, "lkan-fft-unscaled": _FFT},
)
