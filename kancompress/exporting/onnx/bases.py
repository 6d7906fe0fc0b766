"""Bases as ONNX nodes, in the closed forms and recurrences of `kancompress.layers.bases`.

An input (batch, in), or (batch, in, rows, columns) of a convolution, becomes features with the
functions on axis 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from kancompress.config import Activation
from kancompress.exporting.onnx.graph import FLOAT, Graph
from kancompress.frozen import dataclass
from kancompress.layers import forms
from kancompress.layers.forms import Basis, Polynomials, Series
from kancompress.layers.knots import uniform
from kancompress.runtime.program import Numbers

_AXIS = 2
_END = 1 << 62


def activated(graph: Graph, name: Activation, x: str) -> str:
    """An activation of all numbers of x."""
    match name:
        case Activation.SILU:
            return graph.node("Mul", x, graph.node("Sigmoid", x))
        case Activation.ZERO:
            return graph.node("ConstantOfShape", graph.once("Shape", x))
        case Activation.IDENTITY:
            return x
    return graph.node(_ACTIVATIONS[name], x)


_ACTIVATIONS = {
    Activation.GELU: "Gelu",
    Activation.RELU: "Relu",
    Activation.ELU: "Elu",
    Activation.TANH: "Tanh",
    Activation.SIGMOID: "Sigmoid",
}


@dataclass(frozen=True, slots=True)
class Features:
    """The features of one layer.

    arrays : that its form names, by role
    map    : whether inputs are maps
    """

    graph: Graph
    arrays: Mapping[str, Numbers]
    map: bool

    def of(self, basis: Basis, z: str, x: str, base: Activation | None) -> str:
        """Planes of z, and the base branch of x as the last one: (batch, in, coefficient, ...)."""
        planes = [] if isinstance(basis, forms.NoBasis) else [self.planes(basis, z)]
        if base is not None:
            planes.append(self._deep(activated(self.graph, base, x)))
        return planes[0] if len(planes) == 1 else self._joined(planes)

    def planes(self, basis: Basis, z: str) -> str:
        """The basis functions of z."""
        node, number = self.graph.node, self.graph.number
        match basis:
            case forms.UniformSplines((low, high, size), degree):
                if not degree:
                    knots = low + np.arange(size + 1) * ((high - low) / size)
                    return self._steps(self._deep(z), self._along(knots))
                scale = _root(degree) * size / (high - low)
                scaled = node("Mul", self._minus(z, low), number(scale))
                return self._shifts(self._deep(scaled), size, degree)
            case forms.Splines(degree, knots_role):
                return self._splines(z, self.arrays[knots_role], degree)
            case forms.UniformGaussians((low, high, size)):
                scaled = node("Mul", self._minus(z, low), number((size - 1) / (high - low)))
                return self._bells(node("Sub", self._deep(scaled), self._along(np.arange(size))))
            case forms.Gaussians(width, _, centres):
                away = self._away(z, centres)
                return self._bells(away if width == 1 else node("Div", away, number(width)))
            case forms.Switches(_, centres, width):
                away = self._away(z, centres)
                away = away if width == 1 else node("Div", away, number(width))
                return node("Sub", number(1), self._square(node("Tanh", away)))
            case forms.Sum(one, other):
                return node("Add", self.planes(one, z), self.planes(other, z))
            case forms.Polynomials():
                return activated(self.graph, basis.act, self._polynomials(basis, z))
            case forms.Waves(count, _):
                phase = node("Mul", self._deep(z), self._along(np.arange(1, count + 1)))
                return self._joined([node("Cos", phase), node("Sin", phase)])
            case forms.Bumps(factor, low_role, high_role, _):
                return self._bumps(z, low_role, high_role, factor)
            case _:
                raise TypeError(f"no planes: {basis}")

    # --- shapes ------------------------------------------------------------------------------

    def _deep(self, x: str) -> str:
        """With an axis for the functions."""
        return self.graph.once("Unsqueeze", x, self.graph.ints(_AXIS))

    def _joined(self, planes: list[str]) -> str:
        return self.graph.node("Concat", *planes, axis=_AXIS)

    def _fitted(self, values: Numbers, axes: int) -> Numbers:
        """Values (in,) or (in, functions) as they stand beside an input with so many axes; a single
        row where all inputs have the same."""
        first = values[:1]
        values = first if np.array_equal(np.broadcast_to(first, values.shape), values) else values
        more = axes - 1 - values.ndim + (2 if self.map else 0)
        return values.reshape(1, *values.shape, *(1,) * more).astype(np.float32)

    def _along(self, values: npt.ArrayLike) -> str:
        """Values (functions,), the same for all inputs."""
        return self.graph.numbers(self._fitted(np.asarray(values, np.float64)[None], 3))

    def _by_input(self, values: Numbers) -> str:
        """Values (in,) or (in, functions)."""
        return self.graph.numbers(self._fitted(values, 1 + values.ndim))

    def _minus(self, x: str, value: float) -> str:
        return self.graph.node("Sub", x, self.graph.number(value)) if value else x

    def _square(self, x: str) -> str:
        return self.graph.node("Mul", x, x)

    def _cut(self, x: str, first: int, last: int) -> str:
        """Functions from `first` to below `last`, which may count from the end."""
        ints = self.graph.ints
        return self.graph.once("Slice", x, ints(first), ints(last or _END), ints(_AXIS))

    # --- B-splines ---------------------------------------------------------------------------

    def _shifts(self, scaled: str, size: int, degree: int) -> str:
        """B-splines on equal intervals: shifts of one function of the distance from its centre.

        scaled : in intervals over the root of degree!, which saves the division of the powers
        """
        node, number, root = self.graph.node, self.graph.number, _root(degree)
        centres = (np.arange(size + degree) + (1 - degree) / 2) * root
        away = node("Abs", node("Sub", scaled, self._along(centres)))
        near = node("Relu", node("Sub", number((degree + 1) / 2 * root), away))
        total = node("Pow", near, number(degree)) if degree > 1 else near
        for j in range(1, (degree + 2) // 2):
            nearer = node("Relu", node("Sub", near, number(j * root)))
            power = node("Pow", nearer, number(degree)) if degree > 1 else nearer
            weight = math.comb(degree + 1, j)
            total = node("Sub" if j % 2 else "Add", total, node("Mul", power, number(weight)))
        return total

    def _splines(self, z: str, knots: Numbers, degree: int) -> str:
        """B-splines on the knots of each input, (in, t): the closed form where they are even."""
        size = knots.shape[1] - 2 * degree - 1
        even = uniform(knots, degree) if degree and size > 0 else None
        if even is None:
            return self._recursion(self._deep(z), self._by_input(knots), knots, degree)
        low, step = even
        from_low = self.graph.node("Sub", z, self._by_input(low))
        scaled = self.graph.node(
            "Div", from_low, self._by_input(step.astype(np.float64) / _root(degree))
        )
        return self._shifts(self._deep(scaled), size, degree)

    def _steps(self, z: str, knots: str) -> str:
        """1 between a knot and the next one, half-open, else 0."""
        behind = self.graph.node("Cast", self.graph.node("GreaterOrEqual", z, knots), to=FLOAT)
        return self.graph.node("Sub", self._cut(behind, 0, -1), self._cut(behind, 1, 0))

    def _recursion(self, z: str, knots: str, values: Numbers, degree: int) -> str:
        """Cox and de Boor: B_p = (z - t_i) B / (t_i+p - t_i) + (t_i+p+1 - z) B' / (...)."""
        node = self.graph.node
        basis = self._steps(z, knots)
        for p in range(1, degree + 1):
            widths = node("Sub", self._cut(knots, p, 0), self._cut(knots, 0, -p))
            if not (values[:, p:] - values[:, :-p]).all():  # where B is zero, too
                zero = node("Equal", widths, self.graph.number(0))
                widths = node("Add", widths, node("Cast", zero, to=FLOAT))
            shares = node("Div", basis, widths)
            left = node("Sub", z, self._cut(knots, 0, -p - 1))
            right = node("Sub", self._cut(knots, p + 1, 0), z)
            basis = node(
                "Add",
                node("Mul", left, self._cut(shares, 0, -1)),
                node("Mul", right, self._cut(shares, 1, 0)),
            )
        return basis

    # --- bumps -------------------------------------------------------------------------------

    def _away(self, z: str, centres: str) -> str:
        return self.graph.node("Sub", self._deep(z), self._along(self.arrays[centres]))

    def _bells(self, away: str) -> str:
        return self.graph.node("Exp", self.graph.node("Neg", self._square(away)))

    def _bumps(self, z: str, low: str, high: str, factor: float) -> str:
        node, deep = self.graph.node, self._deep(z)
        rising = node("Relu", node("Sub", deep, self._by_input(self.arrays[low])))
        falling = node("Relu", node("Sub", self._by_input(self.arrays[high]), deep))
        return self._square(node("Mul", node("Mul", rising, falling), self.graph.number(factor)))

    # --- polynomials -------------------------------------------------------------------------

    def _polynomials(self, basis: Polynomials, z: str) -> str:
        deep = self._deep(z)
        shape = self.graph.once("Shape", deep)
        ones = self.graph.node("Exp", self.graph.node("ConstantOfShape", shape))  # of zeros
        if basis.series is Series.BERNSTEIN:
            return self._joined([ones] * (basis.degree + 1))
        learnt = self.arrays[basis.learnt].astype(np.float64) if basis.learnt else np.zeros(1)
        recurrence = _RECURRENCES[basis.series]
        found = [ones]
        for n in range(1, basis.degree + 1):
            slope, shift, weight = recurrence(n, learnt)
            factor = self._line(deep, slope, shift)
            if n == 1:
                found.append(factor)
                continue
            value = self.graph.node("Mul", factor, found[-1])
            if weight:
                size = abs(weight)
                behind = found[-2]
                if size != 1:
                    behind = self.graph.node("Mul", behind, self.graph.number(size))
                value = self.graph.node("Sub" if weight > 0 else "Add", value, behind)
            found.append(value)
        return self._joined(found)

    def _line(self, z: str, slope: float, shift: float) -> str:
        """slope z + shift."""
        number = self.graph.number
        z = z if slope == 1 else self.graph.once("Mul", z, number(slope))
        return z if not shift else self.graph.once("Add", z, number(shift))


def _root(degree: int) -> float:
    return float(math.factorial(degree) ** (-1 / degree))


# P_n = (slope z + shift) P_{n-1} - weight P_{n-2}, from n = 1 on, with what is learnt.
_Recurrence = Callable[[int, Numbers], tuple[float, float, float]]


def _jacobi(n: int, _: Numbers) -> tuple[float, float, float]:
    """With a = b = 1."""
    if n == 1:
        return 2.0, 0.0, 0.0
    c = 2 * n + 2
    scale = 2 * n * (n + 2) * (c - 2)
    return (c - 1) * c * (c - 2) / scale, 0.0, 2 * n * n * c / scale


def _gram(n: int, beta: Numbers) -> tuple[float, float, float]:
    if n == 1:
        return 1.0, 0.0, 0.0
    m = n - 1
    return 1.0, 0.0, (n + m) * (n - m) * m**2 / (n**2 / (4.0 * m**2 - 1.0)) * float(beta[m])


def _gottlieb(n: int, alpha: Numbers) -> tuple[float, float, float]:
    a = float(alpha.flat[0])
    return 2 * (a + n - 1), 0.0, a + 2 * n - 2


_RECURRENCES: dict[Series, _Recurrence] = {
    Series.CHEBYSHEV: lambda n, _: (2.0 if n > 1 else 1.0, 0.0, 1.0),
    Series.CHEBYSHEV2: lambda n, _: (2.0, 0.0, 1.0),
    Series.LEGENDRE: lambda n, _: ((2 * n - 1) / n, 0.0, (n - 1) / n),
    Series.HERMITE: lambda n, _: (2.0, 0.0, 2.0 * (n - 1)),
    Series.BESSEL: lambda n, _: (2.0 * n - 1, 0.0 if n > 1 else 1.0, -1.0),
    Series.JACOBI: _jacobi,
    Series.GOTTLIEB: _gottlieb,
    Series.GRAM: _gram,
}
