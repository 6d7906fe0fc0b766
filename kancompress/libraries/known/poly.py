"""Polynomial layers with one tensor (in, out, degree + 1): ChebyKAN and its relatives.

Sources: SynodicMonth/ChebyKAN, Boris-73-TA/OrthogPolyKANs, SpaceLearner/JacobiKAN,
Khochawongwat/GRAMKAN, and the fully connected layers of IvanDrokin/torch-conv-kan
(kans/layers.py), which add `base_weights` (out, in) and a norm.
"""

from __future__ import annotations

from kancompress.forward import Activation
from kancompress.layers.forms import Basis, Polynomials, Series
from kancompress.libraries.forms import (
    TANH,
    Fixed,
    Form,
    Forms,
    LayerNorm,
    Setting,
    Shared,
    polynomials,
)
from kancompress.libraries.records import Beside, Layout, Piece

_BASE = Piece(name="base_weights", axes="out in")
_NORM = (
    Beside(name="norm.weight", axes="out"),
    Beside(name="norm.bias", axes="out"),
)
_BETA = Beside(name="beta_weights", axes="coef", required=True)
_ARANGE = Beside(name="arange", axes="coef")
_HIDDEN = {
    "jacobi": ("The tensors do not tell alpha and beta of the Jacobi polynomials.",),
    "gegenbauer": ("The tensors do not tell alpha of the Gegenbauer polynomials.",),
    "laguerre": ("The tensors do not tell alpha of the Laguerre polynomials.",),
}
_NAMES = (
    "bessel",
    "cheby2",
    "fib",
    "gegenbauer",
    "hermite",
    "jacobi",
    "laguerre",
    "legendre",
    "lucas",
)


def _coefficients(name: str) -> Piece:
    return Piece(name=name, axes="in out coef")


def _with_base(name: str) -> Layout:
    return Layout(
        name=f"torch-conv-kan-{name}",
        pieces=(_coefficients(f"{name}_coeffs"), _BASE),
        beside=_NORM,
        notes=_HIDDEN.get(name, ()),
    )


def _without_base(name: str) -> Layout:
    return Layout(
        name=f"orthogpoly-{name}",
        pieces=(_coefficients(f"{name}_coeffs"),),
        beside=(_ARANGE,),
        forbidden=("base_weights",),
        notes=_HIDDEN.get(name, ()),
    )


LAYOUTS = (
    _with_base("jacobi"),
    _with_base("bernstein"),
    Layout(
        name="torch-conv-kan-gram-bottleneck",
        pieces=(_coefficients("grams_basis_weights"),),
        beside=(
            _BETA,
            Beside(name="inner_proj.weight", axes="in inputs", required=True),
            Beside(name="inner_proj.bias", axes="in"),
            Beside(name="outer_proj.weight", axes="outputs out", required=True),
            Beside(name="outer_proj.bias", axes="outputs"),
            Beside(name="base_weights", axes="outputs inputs", required=True),
            Beside(name="norm.weight", axes="outputs"),
            Beside(name="norm.bias", axes="outputs"),
        ),
    ),
    Layout(
        name="torch-conv-kan-gram",
        pieces=(_coefficients("grams_basis_weights"), _BASE),
        beside=(_BETA, *_NORM),
        forbidden=("inner_proj.weight",),
    ),
    Layout(
        name="gramkan",
        pieces=(_coefficients("basis_weights"),),
        beside=(_BETA,),
        forbidden=("base_weights",),
    ),
    Layout(
        name="gottlieb-kan",
        pieces=(_coefficients("gottlieb_coeffs"),),
        beside=(Beside(name="alpha"),),
        forbidden=("base_weights",),
    ),
    Layout(
        name="cheby-kan",
        pieces=(_coefficients("cheby_coeffs"),),
        beside=(_ARANGE,),
        forbidden=("base_weights",),
    ),
    *(_without_base(name) for name in _NAMES),
)


def _activated_gram(setting: Setting) -> Basis:
    """torch-conv-kan passes the polynomials through the layer's activation."""
    act = setting.shared_activation()
    return polynomials(Series.GRAM, learnt="beta_weights", act=act)(setting)


def _jacobi(setting: Setting) -> Basis:
    setting.notes.append(f"{setting.found.layout}: alpha and beta of the polynomials are 1")
    return Polynomials(Series.JACOBI, setting.size - 1)


def _orthogonal(series: Series) -> Form:
    return Form(basis=polynomials(series), before=TANH)


_OUT = (LayerNorm("norm"), Shared())
_VERSIONS = "versions of its class normalise the polynomials differently"

FORMS = Forms(
    chains={
        "cheby-kan": _orthogonal(Series.CHEBYSHEV),
        "orthogpoly-cheby2": _orthogonal(Series.CHEBYSHEV2),
        "orthogpoly-legendre": _orthogonal(Series.LEGENDRE),
        "orthogpoly-hermite": _orthogonal(Series.HERMITE),
        "orthogpoly-bessel": _orthogonal(Series.BESSEL),
        "gottlieb-kan": Form(
            basis=polynomials(Series.GOTTLIEB, learnt="alpha", span=(0.0, 1.0)),
            before=Fixed(Activation.SIGMOID),
        ),
        "gramkan": Form(basis=polynomials(Series.GRAM, learnt="beta_weights"), before=TANH),
        "torch-conv-kan-gram": Form(basis=_activated_gram, before=TANH, after=_OUT),
        "torch-conv-kan-jacobi": Form(basis=_jacobi, before=TANH, after=_OUT),
        "torch-conv-kan-bernstein": Form(basis=polynomials(Series.BERNSTEIN), after=_OUT),
    },
    # torch-conv-kan's convolutions of the same polynomials
    maps={"kagn-conv": Form(basis=_activated_gram, before=TANH, sums="layer_norm.0")},
    unknown={
        "torch-conv-kan-gram-bottleneck": "its edges lie between two projections",
        "orthogpoly-jacobi": "its tensors do not tell alpha and beta of the polynomials",
        "orthogpoly-gegenbauer": "its tensors do not tell alpha of the polynomials",
        "orthogpoly-laguerre": "its tensors do not tell alpha of the polynomials",
        "orthogpoly-fib": _VERSIONS,
        "orthogpoly-lucas": _VERSIONS,
    },
)
