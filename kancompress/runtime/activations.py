"""Activations of numpy's arrays, number by number; they make new arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.forward import Activation

Numbers = npt.NDArray[np.floating[Any]]

# erf(x) = x P(x^2) / Q(x^2) in float32, up to the x from which it is 1: Eigen's coefficients, of
# the highest power first.
_LAST = 3.832506856900711
_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_BELOW = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_ERF = np.frompyfunc(math.erf, 1, 1)


def erf(x: Numbers) -> Numbers:
    """The error function: to 1.2e-7 in float32, to rounding in float64, which few networks have."""
    if x.dtype != np.float32:
        return np.asarray(_ERF(x), x.dtype)
    wide = np.clip(x.astype(np.float64), -_LAST, _LAST)  # whose rounding does not add up
    square = wide * wide
    wide *= _polynomial(_ABOVE, square)
    wide /= _polynomial(_BELOW, square)
    return wide.astype(np.float32)


def _polynomial(coefficients: tuple[float, ...], x: Numbers) -> Numbers:
    result = x * coefficients[0]
    for number in coefficients[1:-1]:
        result += number
        result *= x
    result += coefficients[-1]
    return result


def _sigmoid(x: Numbers) -> Numbers:
    result = np.exp(-x)
    result += 1
    return np.divide(1, result, out=result)


def _silu(x: Numbers) -> Numbers:
    result = np.exp(-x)
    result += 1
    return np.divide(x, result, out=result)


def _gelu(x: Numbers) -> Numbers:
    result = erf(x * math.sqrt(0.5))
    result += 1
    result *= x
    result *= 0.5
    return result


def _relu(x: Numbers) -> Numbers:
    return np.maximum(x, 0)


def _elu(x: Numbers) -> Numbers:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


ACTIVATIONS: dict[Activation, Callable[[Numbers], Numbers]] = {
    Activation.SILU: _silu,
    Activation.GELU: _gelu,
    Activation.RELU: _relu,
    Activation.ELU: _elu,
    Activation.TANH: np.tanh,
    Activation.SIGMOID: _sigmoid,
    Activation.IDENTITY: np.copy,
    Activation.ZERO: np.zeros_like,
}
