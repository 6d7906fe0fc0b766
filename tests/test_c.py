"""Networks as C headers: compiled, and run beside torch."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_forms import OPTIONS, OWN, SHARED, SUPPORTED, efficient_kan, encoded, needs_cases
from test_forms import packed as lossless
from torch import Tensor, nn

import kancompress
from command import done
from conftest import fresh
from kancompress import ClusterConfig, COptions, IndexCoding, UsageError
from kancompress.config import Activation
from kancompress.exporting.c.header import encode, prefix_of
from kancompress.layers import forms
from kancompress.layers.edges import DenseEdges
from kancompress.layers.forms import LayerForm, Series
from kancompress.layers.layer import EdgeLayer
from kancompress.models.foreign import packed_network
from kancompress.models.native import build, initialise, to_checkpoint
from kancompress.runtime.program import Edges, Gain, Layer, Program, read
from kancompress.specs import Family, default_basis

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
ROWS = 12
PLAIN = COptions()
CASES = [path.parent for path in OWN.glob("*/io.safetensors")]

pytestmark = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler")


@dataclass(frozen=True)
class Case:
    """A network, and the module that torch runs of it."""

    name: str
    program: Program
    module: nn.Module
    row: tuple[int, ...]
    options: COptions = PLAIN

    @cached_property
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


VECTOR, IMAGE = (12,), (2, 6, 5)
WIDTHS, CHANNELS = (12, 9, 4), (2, 5, 6, 3)
IMAGES = COptions(image=IMAGE[1:])
BITS, RANS = IndexCoding.BITS, IndexCoding.RANS


def natives() -> list[Case]:
    """Every family, and every way to write indices."""
    found = []
    for model, coding in (("kan", BITS), ("fastkan", RANS), ("gramkan", BITS), ("mlp", RANS)):
        found.append(own(f"{model}_", model, WIDTHS, VECTOR, clusters=5, indices=coding))
    for model, coding in (("kanconv", RANS), ("fastkanconv", BITS), ("gramkanconv", BITS)):
        case = own(model, model, CHANNELS, IMAGE, clusters=6, indices=coding)
        found.append(replace(case, options=IMAGES))
    found += [
        own("nibbles", "kan", (12, 10, 4), VECTOR, clusters=16),
        own("nibbles_conv", "kanconv", (2, 4, 6, 3), IMAGE, clusters=16),
        own("parts_bits", "kan", WIDTHS, VECTOR, clusters=4, parts=3),
        own("parts", "kan", WIDTHS, VECTOR, clusters=4, parts=3, indices=RANS),
        own("one", "kan", WIDTHS, VECTOR, clusters=1),
        own("bytes", "kan", (12, 30, 4), VECTOR, clusters=200),
        own("wide", "mlp", (30, 20, 4), (30,), clusters=520),
        own("lanes", "mlp", (90, 100, 2), (90,), clusters=3, indices=RANS),
    ]
    found[8] = replace(found[8], options=IMAGES)
    dense = fresh("kan", WIDTHS)
    found.append(Case("dense", read(kancompress.encode(dense)), build(dense).eval(), VECTOR))
    dense = fresh("gramkanconv", CHANNELS)
    data = kancompress.encode(dense)
    found.append(Case("dense_conv", read(data), build(dense).eval(), IMAGE, IMAGES))
    return found


def rearranged() -> list[Case]:
    """Edges with vectors of their own, and a codebook of two layers."""
    found = []
    generator = np.random.default_rng(5)
    for name, model, coding, parts in (
        ("kept", "kan", BITS, 1),
        ("kept_rans", "kan", RANS, 1),
        ("kept_parts", "kan", RANS, 3),
        ("kept_conv", "gramkanconv", RANS, 1),
        ("kept_conv_parts", "gramkanconv", BITS, 5),
    ):
        config = ClusterConfig(clusters=5, parts=parts, indices=coding, force_pack=True)
        conv = model.endswith("conv")
        packed = kancompress.cluster(fresh(model, CHANNELS if conv else WIDTHS), config).model
        layers = tuple(with_kept(layer, generator) for layer in packed.layers)
        case = of_packed(name, replace(packed, layers=layers), IMAGE if conv else VECTOR)
        found.append(replace(case, options=IMAGES) if conv else case)
    config = ClusterConfig(clusters=5, force_pack=True)
    packed = kancompress.cluster(fresh("kan", WIDTHS), config).model
    first, second = packed.layers
    shared = replace(packed, layers=(replace(first, codebook=None, shares="1"), second))
    return [*found, of_packed("shared", shared, VECTOR)]


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


# --- other libraries ------------------------------------------------------------------------------


def foreign(name: str, source: Path | bytes, options: Any = None, **config: Any) -> Case:
    """A packed file of another library."""
    packed = lossless(source, **config)
    module = packed_network(packed, options)
    return Case(name, read(kancompress.encode(packed), options=options), module, module.widths[:1])


def others() -> list[Case]:
    batch = {
        "poly_weights.0": torch.randn(3, 20), "base_weights.0": torch.randn(3, 4),
        "layer_norms.0.weight": torch.rand(3), "layer_norms.0.bias": torch.rand(3),
    }  # fmt: skip
    extremes = kancompress.RunOptions(layouts={"": "torchkan-chebyshev"})
    return [
        *(foreign(f"own_{path.name}", path / "state.safetensors") for path in sorted(CASES)),
        foreign("scaled", encoded(efficient_kan((11, 9, 4))), clusters=6, keep_scaler=True),
        foreign("extremes", encoded(batch), extremes),
    ]


def golden() -> list[Case]:
    return [
        foreign(f"g_{case}"[:40], SHARED / case / "distinct8.pt", OPTIONS.get(case), clusters=8)
        for case in SUPPORTED
    ]


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
    ran = subprocess.run([folder / "all"], input=given, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr[:4000]
    lines = iter(ran.stdout.decode().splitlines())
    for case in cases:
        found = np.array([[float(word) for word in next(lines).split()] for _ in range(ROWS)])
        with torch.no_grad():  # row by row: some layers see the whole batch
            wanted = torch.cat([case.module(row[None]) for row in case.rows]).float().numpy()
        assert (found[:, 0] == case.header.details["scratch_bytes"]).all(), case.name
        outputs = found[:, 2:]
        bound = 1e-5 * np.nanmax(np.abs(wanted))
        np.testing.assert_allclose(outputs, wanted, rtol=0, atol=bound, err_msg=case.name)
        assert (found[:, 1] == outputs.argmax(axis=1)).all(), case.name
    assert next(lines, None) is None


def test_our_own_networks(tmp_path: Path) -> None:
    run(natives(), tmp_path, COMPILERS[0], "-O0")


def test_kept_edges_and_shared_codebooks(tmp_path: Path) -> None:
    run(rearranged(), tmp_path, COMPILERS[0], "-O0")


def test_every_form(tmp_path: Path) -> None:
    run(any_forms(), tmp_path, COMPILERS[0], "-O0")


def test_other_libraries(tmp_path: Path) -> None:
    run(others(), tmp_path, COMPILERS[0], "-O0")


@needs_cases
@pytest.mark.slow
def test_golden_cases(tmp_path: Path) -> None:
    run(golden(), tmp_path, COMPILERS[0], "-O0")


SANITIZERS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    run([*natives()[:12], *rearranged()[1:5]], tmp_path, COMPILERS[0], *SANITIZERS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("flags", [("-O2",), SANITIZERS])
def test_all_cases(compiler: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    run([*natives(), *rearranged(), *any_forms(), *others()], tmp_path, compiler, *flags)


# --- a program, and what it weighs ----------------------------------------------------------------


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, compiled from model.h, of digits, with normalisation and softmax."""
    tmp_path = tmp_path_factory.mktemp("program")
    checkpoint = fresh("fastkan", (64, 8, 10))
    data = kancompress.specs.DataSpec(name="digits", classes=10, mean=(0.25,), std=(0.5,))
    packed = kancompress.cluster(replace(checkpoint, data=data)).model
    kancompress.save(packed, tmp_path / "packed.kan")
    done(
        "export", tmp_path / "packed.kan", "-o", tmp_path / "model.h", "--with-main",
        "--with-normalisation", "--with-softmax",
    )  # fmt: skip
    command = [COMPILERS[0], *WARNINGS, "-O0", "-x", "c", "model.h", "-o", "model", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def piped(folder: Path, text: str) -> Any:
    return subprocess.run(
        [folder / "model"], input=text, capture_output=True, text=True, check=False
    )


def test_functions_that_do_not_see_their_input_compile(tmp_path: Path) -> None:
    """Gram polynomials of degree 0."""
    basis = replace(default_basis(Family.GRAMKAN), degree=0)
    network = initialise(basis, (4, 3, 2), None, 0)
    checkpoint = to_checkpoint(network, basis, None)
    header = kancompress.export(kancompress.encode(checkpoint), format="c").data
    (tmp_path / "kan.h").write_bytes(header)
    command = [COMPILERS[0], *WARNINGS, "-fsyntax-only", "-x", "c", "kan.h"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_size_of_images_is_for_convolutions() -> None:
    with pytest.raises(kancompress.UsageError, match="`image` is the size of what convolutions"):
        kancompress.export(
            kancompress.encode(fresh("kan", (4, 3, 2))), options={"image": (2, 2)}, format="c"
        )


def test_a_header_is_a_program(program: Path) -> None:
    x = np.random.default_rng(0).random((3, 64), np.float32)
    text = "\n".join(",".join(f"{value:.9g}" for value in row) for row in x)
    found = piped(program, text)
    assert (found.returncode, found.stderr) == (0, "")
    rows = np.array([line.split(",") for line in found.stdout.splitlines()], np.float64)
    loaded = kancompress.load(program / "packed.kan")
    assert isinstance(loaded, kancompress.PackedModel)
    with torch.no_grad():
        wanted = build(loaded).eval()(torch.from_numpy((x - 0.25) / 0.5)).softmax(1)
    np.testing.assert_allclose(rows, wanted.numpy(), rtol=0, atol=1e-5)
    assert piped(program, text.replace(",", " ;\t")).stdout == found.stdout

    assert piped(program, f"\n{text}\r\n\n").stdout == found.stdout

    for rows_, sentence in {
        "1 2 3": "has 3 numbers; 64 were expected",
        "\n".join(["0," * 62 + "0"] * 64): "has 63 numbers; 64 were expected",
        "0," * 64 + "0": "has more than 64 numbers",
        "0,,0": "has an empty field after 1 numbers",
        "0.5,pixel": ": pixel is no finite number",
        "0.5,nan": ": nan is no finite number",
        "1e300": ": 1e300 is no finite number",
    }.items():
        wrong = piped(program, rows_)
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert wrong.stderr in (f"Row 1 {sentence}.\n", f"Row 1{sentence}.\n")
    late = piped(program, text + "\n0.5,pixel")
    assert (late.returncode, late.stdout) == (1, found.stdout)
    assert late.stderr == "Row 4: pixel is no finite number.\n"


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_flash_is_what_the_compiler_has(program: Path) -> None:
    text = (program / "model.h").read_text()
    listed = subprocess.run(
        ["nm", "-S", program / "model"], capture_output=True, text=True, check=True
    )
    symbols = [line.split() for line in listed.stdout.splitlines()]
    constants = [
        int(found[1], 16)
        for found in symbols
        if len(found) == 4 and found[2] == "r" and found[3].startswith("model_")
    ]
    assert f"flash     {sum(constants)} bytes of constant data" in text
    assert f"#define MODEL_FLASH_BYTES {sum(constants)}\n" in text
    # No other data: what is in .data or .bss is the program's own scratch and rows.
    changing = {found[-1].split(".")[0] for found in symbols if found[-2] in "dDbB"}
    assert not {name for name in changing if name.startswith("model_")}


# --- names and refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "prefix"),
    [
        ("model", "model"),
        ("mnist-kan k16", "mnist_kan_k16"),
        ("16", "kan_16"),
        ("_x", "kan_x"),
        ("größe", "gr__e"),
        ("", "kan_"),
    ],
)
def test_a_file_name_gives_the_prefix(stem: str, prefix: str) -> None:
    assert prefix_of(stem) == prefix


def tiny(model: str = "kan", widths: tuple[int, ...] = (2, 2)) -> Program:
    return read(kancompress.encode(fresh(model, widths)))


@pytest.mark.parametrize("prefix", ["", "1a", "a-b", "_a", "ä", "a" * 41, "a b", "a\n"])
def test_a_prefix_is_an_identifier(prefix: str) -> None:
    with pytest.raises(UsageError, match="no C identifier") as error:
        encode(tiny(), COptions(prefix=prefix))
    assert error.value.fields == ("prefix",)


def test_the_size_of_images_must_be_known() -> None:
    program = tiny("kanconv", (1, 2, 2))
    assert encode(program, COptions()).details["inputs"] == 64
    unknown = replace(program, data=None)
    with pytest.raises(UsageError, match="nothing tells the size of the images") as error:
        encode(unknown, COptions())
    assert error.value.fields == ("image",)
    assert encode(unknown, COptions(image=(5, 4))).details["inputs"] == 20
    with pytest.raises(UsageError, match="no pixels"):
        encode(program, COptions(image=(0, 4)))


def test_normalisation_must_be_known() -> None:
    with pytest.raises(UsageError, match="says nothing of how") as error:
        encode(replace(tiny(), data=None), COptions(with_normalisation=True))
    assert error.value.fields == ("with_normalisation",)


def test_a_layer_without_c_is_named() -> None:
    layer = tiny("kanconv", (1, 2, 2)).layers[0]
    norm = forms.LayerNorm("weight", "")
    form = replace(layer.form, before=(norm,))
    arrays = {**layer.arrays, "weight": np.ones(1, np.float32)}
    strange = replace(layer, name="stem.0", form=form, arrays=arrays)
    with pytest.raises(UsageError, match=r"Layer 'stem\.0' is a convolution with a normalisation"):
        encode(Program(layers=(strange,)), COptions(image=(4, 4)))


def test_the_name_of_the_header_is_its_prefix(tmp_path: Path) -> None:
    kancompress.save(fresh("kan", (2, 2)), tmp_path / "dense.st")
    done("export", tmp_path / "dense.st", "-o", tmp_path / "my-net.h")
    assert "static inline int my_net_run(" in (tmp_path / "my-net.h").read_text()
    done("export", tmp_path / "dense.st", "-o", tmp_path / "my-net.h", "--prefix", "x", "--force")
    assert "static inline int x_run(" in (tmp_path / "my-net.h").read_text()


def test_equal_work_gives_equal_bytes_and_auto_the_smaller_indices() -> None:
    case = own("", "mlp", (20, 20, 4), (20,), clusters=5, indices=RANS)
    sizes = {
        coding: encode(case.program, COptions(indices=coding)).details["flash_bytes"]
        for coding in IndexCoding
    }
    assert sizes[IndexCoding.AUTO] <= min(sizes[BITS], sizes[RANS])
    assert encode(case.program, COptions()).details["flash_bytes"] == sizes[RANS]
    assert encode(case.program, COptions()).data == encode(case.program, COptions()).data
