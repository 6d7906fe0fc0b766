"""Steps before the basis and after the sum as C.

A step is a statement on `v`, number `i` of a vector. Those that need the whole vector first (a
mean, an extreme) get it from loops over the steps before them, so that no second vector is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kancompress.exporting.c.bases import activation
from kancompress.exporting.c.unit import Lines, Unit, loop, unwritten
from kancompress.layers import forms
from kancompress.layers.forms import Step
from kancompress.runtime.program import Layer, Numbers

EPSILON = 1e-5


class Chain:
    """Steps that are applied to a vector one after another.

    name  : tells the constants of one chain from another's
    count : numbers of the vector; of a map, its channels
    read  : statements that put number `i` into `v`

    It has `variables` to declare, a `prelude` to run first, and `statements` for each number.
    """

    def __init__(
        self, unit: Unit, layer: Layer, steps: Sequence[Step], name: str, count: int, read: Lines
    ) -> None:
        self.variables: list[str] = []
        self.prelude: Lines = []
        self.statements: Lines = []
        self._unit, self._layer, self._name = unit, layer, name
        self._count, self._read = count, read
        for step in steps:
            self._add(step)

    def _add(self, step: Step) -> None:
        unit, arrays = self._unit, self._layer.arrays
        match step:
            case forms.Dropout():
                return
            case forms.Act(act):
                self._then(f"v = {activation(unit, act, 'v')};")
            case forms.Slope(weight):
                slope = self._constant("slope", arrays[weight])
                self._then(f"v = v > {unit.literal(0)} ? v : v * {slope};")
            case forms.Affine(scale, shift):
                if scale in arrays:
                    self._then(f"v *= {self._constant('scale', arrays[scale])};")
                if shift in arrays:
                    self._then(f"v += {self._constant('shift', arrays[shift])};")
            case forms.Norm(rows, running):
                if running in arrays:
                    self._running(arrays[rows], arrays[running])
                else:
                    self._normal(arrays[rows][0], arrays[rows][1])
            case forms.LayerNorm(weight, bias):
                self._normal(arrays[weight], arrays.get(bias) if bias else None)
            case forms.MinMax():
                self._extremes()
            case _:
                what = f"has the step {type(step).__name__}"
                raise unwritten(self._layer.name, what, "export it otherwise")

    def _then(self, statement: str) -> None:
        self.statements.append(statement)

    def _constant(self, name: str, values: Numbers) -> str:
        """A number of each input, or one for all of them."""
        flat = values.reshape(-1)
        if len(flat) == 1 or (flat == flat[0]).all():
            return self._unit.literal(float(flat[0]))
        number = len(self.statements)
        return self._unit.flash.add(f"{self._name}_{name}{number}", flat) + "[i]"

    def _scaled(self, scale: Numbers, shift: Numbers | None) -> None:
        factor = self._constant("scale", scale)
        plus = "" if shift is None else f" + {self._constant('shift', shift)}"
        self._then(f"v = v * {factor}{plus};")

    def _running(self, rows: Numbers, statistics: Numbers) -> None:
        wide = rows.astype(np.float64), statistics.astype(np.float64)
        scale = wide[0][0] / np.sqrt(wide[1][1] + EPSILON)
        shift = wide[0][1] - wide[1][0] * scale
        dtype = self._unit.real.dtype
        self._scaled(scale.astype(dtype), shift.astype(dtype))

    def _whole(self, what: str) -> int:
        if self._layer.form.window is not None:
            raise unwritten(
                self._layer.name, f"is a convolution with {what} of all", "export it otherwise"
            )
        return len(self.prelude)

    def _pass(self, body: Sequence[str]) -> None:
        real = self._unit.real.name
        inner = [f"{real} v;", *self._read, *self.statements, *body]
        self.prelude += loop("i", f"{self._count}u", inner)

    def _normal(self, scale: Numbers, shift: Numbers | None) -> None:
        number, unit = self._whole("a normalisation"), self._unit
        mean, spread = f"mean{number}", f"spread{number}"
        self.variables += [mean, spread]
        count = unit.literal(self._count)
        self.prelude += [f"{mean} = {spread} = {unit.literal(0)};"]
        self._pass([f"{mean} += v;"])
        self.prelude += [f"{mean} /= {count};"]
        self._pass([f"v -= {mean};", f"{spread} += v * v;"])
        root = f"{unit.math('sqrt')}({spread} / {count} + {unit.literal(EPSILON)})"
        self.prelude += [f"{spread} = {unit.literal(1)} / {root};"]
        self._then(f"v = (v - {mean}) * {spread};")
        self._scaled(scale, shift)

    def _extremes(self) -> None:
        number, unit = self._whole("extremes"), self._unit
        least, most = f"least{number}", f"most{number}"
        self.variables += [least, most]
        self.prelude += [
            f"{least} = {unit.literal(float(np.finfo(unit.real.dtype).max))};",
            f"{most} = -{least};",
        ]
        self._pass([f"{least} = v < {least} ? v : {least};", f"{most} = v > {most} ? v : {most};"])
        two, one = unit.literal(2), unit.literal(1)
        self._then(f"v = {two} * (v - {least}) / ({most} - {least}) - {one};")


def after(
    unit: Unit, layer: Layer, number: int, places: int, output: str
) -> tuple[list[str], Lines]:
    """What a layer does to its sums, in place; variables to declare, and statements.

    places : of a map, whose channels lie together at each place; 1 of a vector
    output : the vector
    """
    declared: list[str] = []
    lines: Lines = []
    count, real = layer.outputs, unit.real.name
    for step_number, step in enumerate(layer.form.after):
        place = f"{output}[i]" if places == 1 else f"{output}[r * {count}u + i]"
        name = f"after{number}_{step_number}"
        chain = Chain(unit, layer, (step,), name, count, [f"v = {output}[i];"])
        if not chain.statements:
            continue
        body = [f"{real} v = {place};", *chain.statements, f"{place} = v;"]
        inner = loop("i", f"{count}u", body)
        lines += chain.prelude
        lines += inner if places == 1 else loop("r", f"{places}u", inner)
        declared += chain.variables
    return sorted(set(declared)), lines
