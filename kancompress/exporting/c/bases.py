"""Basis functions as C: statements that fill the features of one input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kancompress.config import Activation
from kancompress.exporting.c.helpers import splines
from kancompress.exporting.c.unit import Lines, Unit, indented, loop, unwritten
from kancompress.frozen import dataclass
from kancompress.layers import forms
from kancompress.layers.forms import Basis, Series
from kancompress.layers.knots import uniform
from kancompress.runtime.program import Layer, Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Statements with `z`, what the basis sees of input `i`, that write `f[0 ... size - 1]`.

    windowed : `f` begins with function number `first`, and has `live` of them; others are zero
    live     : functions that `f` has
    room     : elements of `f` that the statements write
    """

    lines: Lines
    size: int
    live: int
    windowed: bool = False
    room: int = 0


def activation(unit: Unit, name: Activation, value: str) -> str:
    """An activation of an expression."""
    match name:
        case Activation.IDENTITY:
            return value
        case Activation.ZERO:
            return unit.literal(0)
        case Activation.TANH:
            return f"{unit.math('tanh')}({value})"
    return f"{unit.helper(name.value)}({value})"


def features(unit: Unit, layer: Layer, number: int) -> Features:
    """The basis of a layer, `number` of the network."""
    return _features(unit, layer, layer.form.basis, number)


def _features(unit: Unit, layer: Layer, basis: Basis, number: int) -> Features:
    arrays = layer.arrays
    match basis:
        case forms.NoBasis():
            return Features(lines=[], size=0, live=0)
        case forms.UniformSplines(grid, degree):
            return _uniform(unit, grid, degree, number)
        case forms.Splines(degree, knots):
            return _splines(unit, arrays[knots], degree, number)
        case forms.UniformGaussians(grid):
            return _gaussians(unit, grid)
        case forms.Gaussians(width, _, centres):
            return _centred(unit, arrays[centres], width, number, switches=False)
        case forms.Switches(_, centres, width):
            return _centred(unit, arrays[centres], width, number, switches=True)
        case forms.Sum(one, other):
            return _sum(unit, layer, one, other, number)
        case forms.Polynomials():
            return _polynomials(unit, basis, arrays, number)
        case forms.Waves(count, _):
            return _waves(unit, count)
        case forms.Bumps(factor, low, high, _):
            return _bumps(unit, arrays[low], arrays[high], factor, number)
    raise unwritten(layer.name, f"has the basis {type(basis).__name__}", "export it otherwise")


# --- splines --------------------------------------------------------------------------------------


def _uniform(unit: Unit, grid: tuple[float, float, int], degree: int, number: int) -> Features:
    low, high, size = grid
    if degree == 0:  # half-open steps: equal comparisons need the knots themselves
        knots = low + np.arange(size + 1) * ((high - low) / size)
        return _recursive(unit, knots[None], 0, number)
    scaled = f"(z + {unit.literal(-low)}) * {unit.literal(size / (high - low))}"
    return _windowed(unit, scaled, size, degree)


def _windowed(unit: Unit, scaled: str, size: int, degree: int) -> Features:
    name = unit.helper(f"splines{degree}", splines(degree))
    return Features(
        lines=[f"first = {name}({scaled}, {size}u, f);"],
        size=size + degree,
        live=degree + 1,
        windowed=True,
        room=degree + 1,
    )


def _splines(unit: Unit, knots: Numbers, degree: int, number: int) -> Features:
    rows = knots.reshape(-1, knots.shape[-1])
    size = rows.shape[1] - 2 * degree - 1
    even = uniform(rows, degree) if degree and size > 0 else None
    if even is None:
        return _recursive(unit, rows, degree, number)
    low, step = (_each(unit, name, values, number) for name, values in zip("ls", even, strict=True))
    return _windowed(unit, f"(z - {low}) / {step}", size, degree)


def _each(unit: Unit, name: str, values: Numbers, number: int) -> str:
    """A number of each input, or one where all are equal."""
    if (values == values[0]).all():
        return unit.literal(float(values[0]))
    return unit.flash.add(f"{name}{number}", values) + "[i]"


def _recursive(unit: Unit, knots: Numbers, degree: int, number: int) -> Features:
    count = knots.shape[1]
    alike = (knots == knots[:1]).all()
    name = unit.flash.add(f"knots{number}", (knots[:1] if alike else knots).astype(unit.real.dtype))
    own = name if alike else f"{name} + i * {count}u"
    call = f"{unit.helper('knots')}(z, {degree}u, {count}u, {own}, f);"
    size = count - degree - 1
    return Features(lines=[call], size=size, live=size, room=count - 1)


def _sum(
    unit: Unit, layer: Layer, one: forms.Splines, other: forms.Gaussians, number: int
) -> Features:
    first = _features(unit, layer, one, number)
    centres = unit.flash.add(f"centres{number}", layer.arrays[other.centres])
    each = [f"const {unit.real.name} d = {_over('z - ' + centres + '[b]', unit, other.width)};"]
    size = first.size
    inside = "f[b]"
    if first.windowed:
        inside = f"(b >= first && b - first < {first.live}u ? f[b - first] : {unit.literal(0)})"
    each.append(f"f[b] = {inside} + {unit.math('exp')}(-d * d);")
    # From the last one on: a window at the beginning of `f` is read before it is written over.
    lines = [*first.lines, f"for (b = {size}u; b-- > 0;) {{", *indented(each), "}"]
    return Features(lines=lines, size=size, live=size, room=max(first.room, size))


# --- functions of a distance ----------------------------------------------------------------------


def _over(value: str, unit: Unit, width: float) -> str:
    return value if width == 1 else f"({value}) / {unit.literal(width)}"


def _gaussians(unit: Unit, grid: tuple[float, float, int]) -> Features:
    low, high, size = grid
    spacing = (high - low) / (size - 1)
    real = unit.real.name
    lines = [
        f"z = (z + {unit.literal(-low)}) / {unit.literal(spacing)};",
        *loop(
            "b",
            f"{size}u",
            [f"const {real} d = z - ({real})b;", f"f[b] = {unit.math('exp')}(-d * d);"],
        ),
    ]
    return Features(lines=lines, size=size, live=size, room=size)


def _centred(
    unit: Unit, centres: Numbers, width: float, number: int, *, switches: bool
) -> Features:
    name, real = unit.flash.add(f"centres{number}", centres), unit.real.name
    value = _over(f"z - {name}[b]", unit, width)
    if switches:
        value = f"{unit.math('tanh')}({value})"
    square = f"{unit.literal(1)} - d * d" if switches else f"{unit.math('exp')}(-d * d)"
    size = centres.size
    body = [f"const {real} d = {value};", f"f[b] = {square};"]
    return Features(lines=loop("b", f"{size}u", body), size=size, live=size, room=size)


def _bumps(unit: Unit, low: Numbers, high: Numbers, factor: float, number: int) -> Features:
    size, zero = low.shape[1], unit.literal(0)
    alike = bool((low == low[:1]).all() and (high == high[:1]).all())
    below, above = (
        unit.flash.add(f"{name}{number}", values[:1] if alike else values)
        for name, values in (("low", low), ("high", high))
    )
    place = "b" if alike else f"i * {size}u + b"
    real = unit.real.name
    body = [
        f"const {real} over = z - {below}[{place}], under = {above}[{place}] - z;",
        f"const {real} d = over > {zero} && under > {zero}"
        f" ? over * under * {unit.literal(factor)} : {zero};",
        "f[b] = d * d;",
    ]
    return Features(lines=loop("b", f"{size}u", body), size=size, live=size, room=size)


def _waves(unit: Unit, count: int) -> Features:
    real = unit.real.name
    body = [
        f"const {real} d = z * ({real})(b + 1u);",
        f"f[b] = {unit.math('cos')}(d);",
        f"f[b + {count}u] = {unit.math('sin')}(d);",
    ]
    return Features(
        lines=loop("b", f"{count}u", body), size=2 * count, live=2 * count, room=2 * count
    )


# --- polynomials ----------------------------------------------------------------------------------


def _polynomials(
    unit: Unit, basis: forms.Polynomials, arrays: Mapping[str, Numbers], number: int
) -> Features:
    degree, size = basis.degree, basis.degree + 1
    learnt = arrays[basis.learnt].astype(np.float64).reshape(-1) if basis.learnt else None
    lines = [f"f[0] = {unit.literal(1)};"]
    if degree:
        rows = np.array([_recurrence(basis.series, n, learnt) for n in range(1, size)])
        name = unit.flash.add(f"recurrence{number}", rows.astype(unit.real.dtype))
        lines = [f"{unit.helper('series')}(z, {degree}u, {name}, f);"]
    if basis.act is not Activation.IDENTITY:
        act = activation(unit, basis.act, "f[b]")
        lines += loop("b", f"{size}u", [f"f[b] = {act};"])
    return Features(lines=lines, size=size, live=size, room=size)


def _recurrence(series: Series, n: int, learnt: Numbers | None) -> tuple[float, float, float]:
    """a, b and c of P_n = (a z + b) P_{n-1} + c P_{n-2}; c of P_1 is not used."""
    match series:
        case Series.CHEBYSHEV:
            return (1 if n == 1 else 2), 0, -1
        case Series.CHEBYSHEV2:
            return 2, 0, -1
        case Series.LEGENDRE:
            return (2 * n - 1) / n, 0, -(n - 1) / n
        case Series.HERMITE:
            return 2, 0, -2 * (n - 1)
        case Series.BESSEL:
            return 2 * n - 1, (1 if n == 1 else 0), 1
        case Series.JACOBI:
            return _jacobi(n)
        case Series.BERNSTEIN:  # torch-conv-kan's, all of them 1
            return 0, 1, 0
        case Series.GOTTLIEB:
            assert learnt is not None
            alpha = float(learnt[0])
            return 2 * (alpha + n - 1), 0, -(alpha + 2 * n - 2)
        case Series.GRAM:
            assert learnt is not None
            return 1, 0, -_gram(n) * float(learnt[n - 1])


def _jacobi(n: int) -> tuple[float, float, float]:
    """With both parameters 1, as torch-conv-kan has them: without a shift."""
    if n == 1:
        return 2, 0, 0
    c = 2 * n + 2
    scale = 2 * n * (n + 2) * (c - 2)
    return (c - 1) * c * (c - 2) / scale, 0, -2 * n * n * c / scale


def _gram(m: int) -> float:
    """The fixed factor before beta[m - 1]."""
    n = m - 1
    return (m + n) * (m - n) * n**2 / (m**2 / (4.0 * n**2 - 1.0)) if n else 0.0
