"""Bases of the edges' functions, as planes: (rows, function, in), one plane for each function.

Every operation then runs over contiguous inputs, whatever the number of functions is. The formulas
are those of docs/packed-format.md, section 5, and of `kancompress.layers.forms`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kancompress.forward import Activation
from kancompress.layers import forms, knots
from kancompress.layers.forms import Basis, Series
from kancompress.runtime.activations import ACTIVATIONS, Numbers

# Takes z (rows, 1, in), and writes planes (rows, functions, in).
Fill = Callable[[Numbers, Numbers], None]
# Takes the planes to write, the number of the plane, and z (rows, in).
_Step = Callable[[int, Numbers, Numbers, Numbers], Numbers]


def fill_of(basis: Basis, arrays: Mapping[str, Numbers], dtype: np.dtype[Any]) -> Fill:
    """How the planes of a basis are written.

    arrays : of the layer, by their roles
    dtype  : of the computation
    """
    match basis:
        case forms.NoBasis():
            return lambda z, planes: None
        case forms.UniformSplines((low, high, size), degree):
            if degree == 0:  # half-open steps have no distance form
                return _general(low + np.arange(size + 1)[None] * ((high - low) / size), 0, dtype)
            return _splines(low, size / (high - low), size, degree, dtype)
        case forms.Splines(degree, role):
            return _splines_on(arrays[role], degree, dtype)
        case forms.UniformGaussians((low, high, size)):
            return _gaussians(low, (high - low) / (size - 1), np.arange(size), dtype)
        case forms.Gaussians(width, _, role):
            return _gaussians(0.0, width, arrays[role] / width, dtype)
        case forms.Switches(_, role, width):
            return _switches(arrays[role], width, dtype)
        case forms.Sum(one, other):
            return _sum(fill_of(one, arrays, dtype), fill_of(other, arrays, dtype))
        case forms.Polynomials(series, _, role, act):
            return _polynomials(series, arrays[role] if role else None, act)
        case forms.Waves(count):
            return _waves(count, dtype)
        case forms.Bumps(factor, low_role, high_role):
            return _bumps(factor, arrays[low_role].T, arrays[high_role].T)


def _column(values: Any, dtype: np.dtype[Any]) -> Numbers:
    """Numbers of functions, to stand beside inputs."""
    column: Numbers = np.asarray(values, dtype)[:, None]
    return column


# --- B-splines ------------------------------------------------------------------------------


def _splines(low: Any, rate: Any, size: int, degree: int, dtype: np.dtype[Any]) -> Fill:
    """B-splines on uniform knots: shifts of one function of the distance v from their centres,

        M_p(v) = 1/p! sum_j (-1)^j C(p+1, j) max(0, (p+1)/2 - v - j)^p,     0 <= v

    of which only j <= (p+1)/2 contribute. In intervals over the p-th root of p!, which saves the
    division of the powers.

    low, rate : lower end of the grid and intervals of a unit of z, for all inputs or (in,)
    """
    unit = math.factorial(degree) ** (-1 / degree)
    centres = _column((np.arange(size + degree) + (1 - degree) / 2) * unit, dtype)
    reach = (degree + 1) / 2 * unit
    weights = [(-1) ** j * math.comb(degree + 1, j) for j in range(1, degree // 2 + 1)]
    rate = rate * unit

    def fill(z: Numbers, planes: Numbers) -> None:
        scaled = z - low
        scaled *= rate
        np.subtract(scaled, centres, out=planes)
        np.abs(planes, out=planes)
        np.subtract(reach, planes, out=planes)
        np.maximum(planes, 0, out=planes)
        nearer = [np.maximum(planes - j * unit, 0) for j in range(1, len(weights) + 1)]
        _raise(planes, degree)
        for weight, part in zip(weights, nearer, strict=True):
            _raise(part, degree)
            part *= weight
            planes += part

    return fill


def _raise(x: Numbers, degree: int) -> None:
    """x to a power, in its place; a product is faster than numpy's power."""
    first = x.copy() if degree > 2 else x
    for _ in range(degree - 1):
        x *= first


def _splines_on(grid: Numbers, degree: int, dtype: np.dtype[Any]) -> Fill:
    """B-splines on the knots of each input, (in, t)."""
    size = grid.shape[1] - 2 * degree - 1
    even = knots.uniform(grid, degree) if degree and size > 0 else None
    if even is None:
        return _general(grid, degree, dtype)
    low, step = even
    return _splines(low, 1 / step, size, degree, dtype)


def _general(grid: Numbers, degree: int, dtype: np.dtype[Any]) -> Fill:
    """B-splines on any knots (in, t) or (1, t), ascending, by the Cox-de Boor recursion.

    The intervals are half-open: the last knot belongs to none.
    """
    ends: Numbers = grid.T.astype(dtype)  # (t, in)
    widths = [_inverse(ends[p:] - ends[:-p]) for p in range(1, degree + 1)]

    def fill(z: Numbers, planes: Numbers) -> None:
        basis = ((z >= ends[:-1]) & (z < ends[1:])).astype(z.dtype)
        for p, width in enumerate(widths, start=1):
            left = (z - ends[: -(p + 1)]) * width[:-1]
            right = (ends[p + 1 :] - z) * width[1:]
            basis = left * basis[:, :-1] + right * basis[:, 1:]
        planes[...] = basis

    return fill


def _inverse(width: Numbers) -> Numbers:
    """1 / width, and 0 where knots coincide (de Boor's convention 0/0 = 0)."""
    return np.where(width == 0, 0, 1 / np.where(width == 0, 1, width)).astype(width.dtype)


# --- bumps ----------------------------------------------------------------------------------


def _gaussians(low: float, width: float, centres: Any, dtype: np.dtype[Any]) -> Fill:
    """exp(-(v - c)^2) with v = (z - low) / width."""
    places = _column(centres, dtype)

    def fill(z: Numbers, planes: Numbers) -> None:
        scaled = z - low if low else z.copy()
        scaled /= width
        np.subtract(scaled, places, out=planes)
        np.square(planes, out=planes)
        np.negative(planes, out=planes)
        np.exp(planes, out=planes)

    return fill


def _switches(centres: Numbers, width: float, dtype: np.dtype[Any]) -> Fill:
    places = _column(centres, dtype)

    def fill(z: Numbers, planes: Numbers) -> None:
        np.subtract(z, places, out=planes)
        planes /= width
        np.tanh(planes, out=planes)
        np.square(planes, out=planes)
        np.subtract(1, planes, out=planes)

    return fill


def _bumps(factor: float, low: Numbers, high: Numbers) -> Fill:
    """low, high : (functions, in)"""

    def fill(z: Numbers, planes: Numbers) -> None:
        np.subtract(z, low, out=planes)
        np.maximum(planes, 0, out=planes)
        falling = high - z
        planes *= np.maximum(falling, 0, out=falling)
        planes *= factor
        np.square(planes, out=planes)

    return fill


def _sum(one: Fill, other: Fill) -> Fill:
    def fill(z: Numbers, planes: Numbers) -> None:
        one(z, planes)
        more = np.empty_like(planes)
        other(z, more)
        planes += more

    return fill


# --- waves and polynomials ------------------------------------------------------------------


def _waves(count: int, dtype: np.dtype[Any]) -> Fill:
    steps = _column(np.arange(1, count + 1), dtype)

    def fill(z: Numbers, planes: Numbers) -> None:
        phase = z * steps
        np.cos(phase, out=planes[:, :count])
        np.sin(phase, out=planes[:, count:])

    return fill


def _polynomials(series: Series, learnt: Numbers | None, act: Activation) -> Fill:
    first, step = _recurrence(series, learnt)
    activation = ACTIVATIONS[act]

    def fill(z: Numbers, planes: Numbers) -> None:
        plain, count = z[:, 0], planes.shape[1]
        if series is Series.BERNSTEIN:  # torch-conv-kan's, which are all 1
            planes[...] = 1
        else:
            planes[:, 0] = 1
            if count > 1:
                planes[:, 1] = first(plain)
            for n in range(2, count):
                planes[:, n] = step(n, plain, planes[:, n - 1], planes[:, n - 2])
        if act is not Activation.IDENTITY:
            planes[...] = activation(planes)

    return fill


def _recurrence(
    series: Series, learnt: Numbers | None
) -> tuple[Callable[[Numbers], Numbers], _Step]:
    """P_1 of z, and P_n of n, z, P_{n-1} and P_{n-2}."""
    match series:
        case Series.CHEBYSHEV:
            return lambda z: z, lambda n, z, p, q: 2 * z * p - q
        case Series.CHEBYSHEV2:
            return lambda z: 2 * z, lambda n, z, p, q: 2 * z * p - q
        case Series.LEGENDRE:
            return lambda z: z, lambda n, z, p, q: ((2 * n - 1) * z * p - (n - 1) * q) / n
        case Series.HERMITE:
            return lambda z: 2 * z, lambda n, z, p, q: 2 * z * p - 2 * (n - 1) * q
        case Series.BESSEL:
            return lambda z: z + 1, lambda n, z, p, q: (2 * n - 1) * z * p + q
        case Series.JACOBI:
            return lambda z: 2 * z, _jacobi
        case Series.GRAM:
            assert learnt is not None
            beta = learnt
            return lambda z: z, lambda n, z, p, q: z * p - _gram_factor(n) * beta[n - 1] * q
        case Series.GOTTLIEB:
            assert learnt is not None
            alpha = learnt
            return (
                lambda z: 2 * alpha * z,
                lambda n, z, p, q: 2 * (alpha + (n - 1)) * z * p - (alpha + (2 * n - 2)) * q,
            )
        case Series.BERNSTEIN:
            return lambda z: z, lambda n, z, p, q: p


def _jacobi(n: int, z: Numbers, p: Numbers, q: Numbers) -> Numbers:
    """P_n^(1, 1), torch-conv-kan's."""
    c = 2 * n + 2
    scale = 2 * n * (n + 2) * (c - 2)
    return (c - 1) * c * (c - 2) / scale * z * p - 2 * n * n * c / scale * q


def _gram_factor(m: int) -> float:
    """The fixed factor before the learnt weight m - 1 of the Gram polynomials (section 5)."""
    n = m - 1
    return (m + n) * (m - n) * n**2 / (m**2 / (4.0 * n**2 - 1.0))
