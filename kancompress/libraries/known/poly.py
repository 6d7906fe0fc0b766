"""Polynomial layers with one tensor (in, out, degree + 1): ChebyKAN and its relatives.

Sources: SynodicMonth/ChebyKAN, Boris-73-TA/OrthogPolyKANs, SpaceLearner/JacobiKAN,
Khochawongwat/GRAMKAN, and the fully connected layers of IvanDrokin/torch-conv-kan
(kans/layers.py), which add `base_weights` (out, in) and a norm.
"""

from __future__ import annotations

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
        name="torch-conv-kan-gram",
        pieces=(_coefficients("grams_basis_weights"), _BASE),
        beside=(_BETA, *_NORM),
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
