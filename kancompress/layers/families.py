"""Layers of kancompress's own networks: their forms, from what a family says of itself."""

from __future__ import annotations

from collections.abc import Callable

from kancompress.forward import Activation
from kancompress.layers.forms import (
    Act,
    Basis,
    Dropout,
    LayerForm,
    NoBasis,
    Norm,
    Points,
    Polynomials,
    Series,
    Slope,
    Step,
    UniformGaussians,
    UniformSplines,
    Window,
)
from kancompress.specs import FAMILIES, BasisSpec, ModelSpec


def _splines(spec: BasisSpec) -> tuple[Basis, Points]:
    assert spec.grid is not None
    assert spec.degree is not None
    return UniformSplines(spec.grid, spec.degree), Points.ENDS


def _gaussians(spec: BasisSpec) -> tuple[Basis, Points]:
    assert spec.grid is not None
    return UniformGaussians(spec.grid), Points.ENDS


def _polynomials(spec: BasisSpec) -> tuple[Basis, Points]:
    assert spec.degree is not None
    family = FAMILIES[spec.family]
    basis = Polynomials(
        Series(family.basis),
        spec.degree,
        learnt="beta" if family.learns else "",
        act=Activation(family.act),
    )
    # tanh does not reach the ends of its range.
    return basis, Points.INSIDE if "tanh" in family.before else Points.ENDS


def _linear(spec: BasisSpec) -> tuple[Basis, Points]:
    return NoBasis(), Points.ENDS


# By the kind that `FamilySpec.basis` names.
BASES: dict[str, Callable[[BasisSpec], tuple[Basis, Points]]] = {
    "bspline": _splines,
    "gaussian": _gaussians,
    "linear": _linear,
    # Gottlieb's weight is no recurrence weight for each degree, as `FamilySpec.learns` has them.
    **{series.value: _polynomials for series in Series if series is not Series.GOTTLIEB},
}


def form_of(
    spec: BasisSpec, *, window: Window | None = None, last: bool = False, dropout: float = 0.0
) -> LayerForm:
    """What a layer of one of our own networks computes (docs/packed-format.md, section 5).

    last    : whether it is the last one, behind which an MLP has no activation
    dropout : share of channels of a convolution that are dropped in training
    """
    family = FAMILIES[spec.family]
    basis, points = BASES[family.basis](spec)
    after = family.steps_after(conv=window is not None) + (() if last else family.between)
    return LayerForm(
        basis=basis,
        before=tuple(_step(name, dropout) for name in family.before),
        base=Activation(family.base),
        after=tuple(_step(name, dropout) for name in after),
        window=window,
        points=points,
    )


def _step(name: str, dropout: float) -> Step:
    match name:
        case "norm":
            return Norm()
        case "slope":
            return Slope()
        case "dropout":
            return Dropout(dropout)
    return Act(Activation(name))


def place_of(
    model: ModelSpec, shape: tuple[int, ...], number: int, count: int
) -> tuple[Window | None, bool, float]:
    """Window, whether it is the last one, and dropout of layer `number` of `count`, as `form_of`
    takes them."""
    last = number == count - 1
    if model.conv is None:
        return None, last, 0.0
    window = Window(
        kernel=(shape[2], shape[3]),
        stride=model.conv.strides[number],
        padding=model.conv.padding,
    )
    return window, last, model.conv.dropout[0] if number else 0.0
