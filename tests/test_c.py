"""Networks as C headers: compiled, and run beside torch."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kancompress
from conftest import fresh
from kancompress import ClusterConfig, COptions, IndexCoding, UsageError
from kancompress.config import Activation
from kancompress.exporting.c.header import encode, prefix_of
from kancompress.layers import forms
from kancompress.layers.edges import DenseEdges
from kancompress.layers.forms import LayerForm, Series
from kancompress.layers.layer import EdgeLayer
from kancompress.models.native import build
from kancompress.runtime.program import Edges, Gain, Layer, Program, read

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
ROWS = 12

pytestmark = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler")


@dataclass(frozen=True)
class Case:
    """A network, and the module that torch runs of it."""

    name: str
    program: Program
    module: nn.Module
    row: tuple[int, ...]
    options: COptions = COptions()

    @property
    def header(self) -> Any:
        return encode(self.program, replace(self.options, prefix=self.name))

    @property
    def rows(self) -> Tensor:
        """Random rows, and some at the ends of grids and beyond them."""
        x = torch.from_numpy(np.random.default_rng(3).normal(0, 0.9, (ROWS, *self.row)))
        for number, value in enumerate((-1.0, 1.0, 0.0, 2.5, -9.0)):
            x[number] = value
        return x.float()


# --- networks of our own --------------------------------------------------------------------------


def own(
    name: str, model: str, widths: tuple[int, ...], row: tuple[int, ...], **config: Any
) -> Case:
    """A network of random coefficients, packed."""
    checkpoint = fresh(model, widths)
    packed = kancompress.cluster(checkpoint, ClusterConfig(force_pack=True, **config)).model
    return of_packed(name, packed, row)


def of_packed(name: str, packed: kancompress.PackedModel, row: tuple[int, ...]) -> Case:
    return Case(name, read(kancompress.encode(packed)), build(packed).eval(), row)


def natives() -> list[Case]:
    vector, image = (12,), (2, 6, 5)
    widths, channels = (12, 9, 4), (2, 5, 6, 3)
    found = []
    for coding in (IndexCoding.BITS, IndexCoding.RANS):
        for model in ("kan", "fastkan", "gramkan", "mlp"):
            config = {"clusters": 5, "indices": coding}
            found.append(own(f"{model}_{coding}", model, widths, vector, **config))
        for model in ("kanconv", "fastkanconv", "gramkanconv"):
            config = {"clusters": 6, "indices": coding}
            case = own(f"{model}_{coding}", model, channels, image, **config)
            found.append(replace(case, options=COptions(image=image[1:])))
        config = {"clusters": 4, "parts": 3, "indices": coding}
        found.append(own(f"parts_{coding}", "kan", widths, vector, **config))
    found += [
        own("one", "kan", widths, vector, clusters=1),
        own("nibbles", "kan", (12, 10, 4), vector, clusters=16),
        own("bytes", "kan", (12, 30, 4), vector, clusters=200),
        own("wide", "mlp", (30, 40, 40), (30,), clusters=700),
        own("lanes", "mlp", (100, 200, 4), (100,), clusters=3, indices=IndexCoding.RANS),
        *rearranged(),
    ]
    dense = fresh("kan", widths)
    found.append(Case("dense", read(kancompress.encode(dense)), build(dense).eval(), vector))
    dense = fresh("gramkanconv", channels)
    case = Case("dense_conv", read(kancompress.encode(dense)), build(dense).eval(), image)
    return [*found, replace(case, options=COptions(image=image[1:]))]


def rearranged() -> list[Case]:
    """Edges with vectors of their own, codebooks of two layers, dense layers beside packed ones."""
    found = []
    generator = np.random.default_rng(5)
    for coding in (IndexCoding.BITS, IndexCoding.RANS):
        for name, model, widths, row, parts in (
            ("kept", "kan", (12, 9, 4), (12,), 1),
            ("kept_parts", "kan", (12, 9, 4), (12,), 3),
            ("kept_conv", "gramkanconv", (2, 5, 6, 3), (2, 6, 5), 1),
            ("kept_conv_parts", "gramkanconv", (2, 5, 6, 3), (2, 6, 5), 5),
        ):
            config = {"clusters": 5, "indices": coding, "parts": parts}
            case = own("", model, widths, row, **config)
            assert isinstance(case.module, nn.Module)
            checkpoint = fresh(model, widths)
            packed = kancompress.cluster(checkpoint, ClusterConfig(force_pack=True, **config)).model
            layers = [with_kept(layer, generator) for layer in packed.layers]
            packed = replace(packed, layers=tuple(layers))
            options = COptions(image=row[1:] if len(row) > 1 else None)
            found.append(
                replace(of_packed(f"{name}_{coding}", packed, row), options=options)
            )
    checkpoint = fresh("kan", (12, 9, 4))
    packed = kancompress.cluster(checkpoint, ClusterConfig(clusters=5, force_pack=True)).model
    first, second = packed.layers
    shared = replace(packed, layers=(replace(first, codebook=None, shares="1"), second))
    return [*found, of_packed("shared", shared, (12,))]


def with_kept(layer: Any, generator: np.random.Generator) -> Any:
    """A packed layer with every seventh edge or so kept."""
    at = np.flatnonzero(generator.random(layer.edges) < 0.15)
    rest = np.ones(layer.edges, bool)
    rest[at] = False
    index = layer.indices().reshape(layer.edges, -1)[rest].reshape(-1)
    size = layer.codebook.shape[1] * layer.parts
    kept = torch.from_numpy(generator.normal(0, 0.1, (len(at), size)).astype(np.float32))
    return replace(layer, index=index, kept_at=torch.from_numpy(at), kept=kept)


# --- any form -------------------------------------------------------------------------------------


def formed(
    name: str,
    form: LayerForm,
    size: int,
    arrays: Mapping[str, np.ndarray] | None = None,
    *,
    dtype: type = np.float32,
    gains: tuple[Gain, ...] = (),
    parts: int = 1,
) -> Case:
    """Two layers of a form, of random coefficients; `size` counts the basis."""
    generator = np.random.default_rng(7)
    d = size + (form.base is not None)
    layers, modules = [], []
    for number, (inputs, outputs) in enumerate(((6, 6), (6, 6))):
        table = generator.normal(0, 0.3, (5, d // parts)).astype(dtype)
        rows = generator.integers(0, 5, inputs * outputs * parts).astype(np.uint8)
        edges = Edges(
            shape=(outputs, inputs), size=d, table=table, rows=rows, clusters=5, parts=parts,
            encoding="bits", gains=gains,
        )  # fmt: skip
        own = {role: np.asarray(array, dtype) for role, array in (arrays or {}).items()}
        bias = generator.normal(0, 0.1, outputs).astype(dtype)
        layers.append(Layer(name=str(number), form=form, edges=edges, arrays=own, bias=bias))
        tensors = {role: torch.from_numpy(array) for role, array in own.items()}
        learns = getattr(form.basis, "learnt", "")
        module = EdgeLayer(
            form, DenseEdges(torch.from_numpy(edges.coefficients())), tensors,
            bias=torch.from_numpy(bias), learnt=(learns,) if learns else (),
            dtype=torch.from_numpy(table).dtype,
        )  # fmt: skip
        modules.append(module)
    return Case(name, Program(layers=tuple(layers)), nn.Sequential(*modules).eval(), (6,))


def any_forms() -> list[Case]:
    generator = np.random.default_rng(11)
    tanh = (forms.Act(Activation.TANH),)
    norm = (forms.LayerNorm("weight", "shift"),)
    vector = {role: generator.normal(1, 0.2, 6) for role in ("weight", "shift", "scale", "slope")}
    uneven = np.sort(generator.normal(0, 1.5, (6, 10)), axis=1)
    even = np.linspace(-2, 2, 10) * np.linspace(0.7, 1.3, 6)[:, None]
    centres = np.linspace(-2, 2, 5)
    low = generator.uniform(-2, 0, (6, 4))
    found = [
        formed("steps", LayerForm(basis=forms.UniformSplines((-1, 1, 4), 0)), 4),
        formed("quadratic", LayerForm(basis=forms.UniformSplines((-1, 1, 4), 2)), 6),
        formed("knots", LayerForm(basis=forms.Splines(3)), 6, {"knots": uneven}),
        formed("even", LayerForm(basis=forms.Splines(3), before=norm), 6,
               {"knots": even, **vector}),
        formed("alike", LayerForm(basis=forms.Splines(2), inner=True, before=tanh), 7,
               {"knots": np.tile(np.linspace(-2, 2, 10), (6, 1))}),
        formed("double_", LayerForm(basis=forms.Splines(3)), 6, {"knots": even},
               dtype=np.float64),
        formed("switches", LayerForm(basis=forms.Switches((-2, 2), width=1.5)), 5,
               {"centres": centres}),
        formed("both", LayerForm(basis=forms.Sum(forms.Splines(3), forms.Gaussians(0.7, (-2, 2)))),
               5, {"knots": np.tile(np.linspace(-2, 2, 9), (6, 1)), "centres": centres}),
        formed("waves", LayerForm(basis=forms.Waves(3, (-3, 3)), base=None,
                                  before=(forms.Affine("scale", "none"),)), 6, vector),
        formed("bumps", LayerForm(basis=forms.Bumps(0.8), base=Activation.GELU,
                                  after=(forms.Slope("slope"),)), 4,
               {"low": low, "high": low + 2, **vector}),
        formed("limits", LayerForm(basis=forms.Gaussians(0.5, (-2, 2)), before=norm,
                                   base=Activation.ELU, after=norm), 5,
               {"centres": centres, **vector}),
    ]  # fmt: skip
    for series in Series:
        learnt = {Series.GRAM: 4, Series.GOTTLIEB: 1}.get(series, 0)
        basis = forms.Polynomials(series, 3, learnt="beta" if learnt else "")
        form = LayerForm(basis=basis, before=tanh, base=Activation.SIGMOID)
        arrays = {"beta": generator.normal(0.5, 0.1, learnt)} if learnt else {}
        found.append(formed(str(series), form, 4, arrays))
    gains = (
        Gain(first=0, last=6, factors=generator.normal(1, 0.5, (6, 6)).astype(np.float32)),
        Gain(first=0, last=7, factors=(generator.random((6, 6)) < 0.5).astype(np.float32)),
    )
    form = LayerForm(basis=forms.UniformSplines((-1, 1, 3), 3))
    return [*found, formed("gains", form, 6, gains=gains)]


# --- compiled -------------------------------------------------------------------------------------

_DRIVER = """
    for (i = 0; i < {rows}; ++i) {{
        static {name}_scratch scratch;
        memset(&scratch, 255, sizeof scratch);
        if (fread(x, sizeof *x, {upper}_INPUTS, stdin) != {upper}_INPUTS)
            return 1;
        largest = {name}_run(x, y, &scratch);
        printf("%lu %d", (unsigned long)sizeof scratch, largest);
        for (j = 0; j < {upper}_OUTPUTS; ++j)
            printf(" %.9g", (double)y[j]);
        printf("\\n");
    }}"""


def program_of(cases: list[Case], folder: Path) -> str:
    """One C program that includes all headers, each of them twice, and runs all rows."""
    lines = ["#include <stdio.h>", "#include <string.h>"]
    body = []
    for case in cases:
        (folder / f"{case.name}.h").write_bytes(case.header.data)
        lines += 2 * [f'#include "{case.name}.h"']
        body.append(_DRIVER.format(name=case.name, upper=case.name.upper(), rows=ROWS))
    return "\n".join(
        [*lines, "int main(void) {", "static float x[4096], y[4096]; int i, j, largest;", *body,
         "return 0; }\n"]
    )  # fmt: skip


def run(cases: list[Case], folder: Path, compiler: str, *flags: str) -> None:
    """Compile all cases in one program, run it, and compare with torch."""
    (folder / "all.c").write_text(program_of(cases, folder))
    command = [compiler, *WARNINGS, *flags, "all.c", "-o", "all", "-lm"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[:4000]
    given = b"".join(case.rows.numpy().astype("<f4").tobytes() for case in cases)
    done = subprocess.run([folder / "all"], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    lines = iter(done.stdout.decode().splitlines())
    for case in cases:
        found = np.array([[float(word) for word in next(lines).split()] for _ in range(ROWS)])
        with torch.no_grad():
            wanted = case.module(case.rows).float().numpy()
        assert (found[:, 0] == case.header.details["scratch_bytes"]).all(), case.name
        outputs = found[:, 2:]
        bound = 1e-5 * np.abs(wanted).max()
        assert np.abs(outputs - wanted).max() <= bound, case.name
        assert (found[:, 1] == outputs.argmax(axis=1)).all(), case.name
    assert next(lines, None) is None


def test_outputs_and_scratch_are_as_said(tmp_path: Path) -> None:
    run([*natives(), *any_forms()], tmp_path, COMPILERS[0], "-O0")
