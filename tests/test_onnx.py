"""ONNX models: onnxruntime puts out what torch does, and the file is what was promised."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_forms import OPTIONS, OWN, SHARED, SUPPORTED, needs_cases
from test_forms import packed as lossless

import kancompress
from command import call, done, refused
from conftest import fresh
from kancompress import ClusterConfig, DataSpec, OnnxOptions, RunOptions, StoredDtype, Weights
from kancompress.api import export as api
from kancompress.config import Activation
from kancompress.exporting.onnx import graph as graphs
from kancompress.exporting.onnx import model as models
from kancompress.exporting.record import Exported
from kancompress.layers import forms
from kancompress.layers.edges import DenseEdges
from kancompress.layers.forms import LayerForm, Series, Window
from kancompress.layers.layer import EdgeLayer
from kancompress.models.foreign import packed_network
from kancompress.models.native import build
from kancompress.runtime.program import Edges, Gain, Layer, Program
from kancompress.specs import ModelName

onnx: Any = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")
onnxruntime: Any = pytest.importorskip("onnxruntime")

NATIVE = [name for name in ModelName if not name.is_meta]
INPUTS, OUTPUTS = 5, 4


def outputs(data: bytes, x: torch.Tensor) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": x.numpy()})
    return found


def same(got: np.ndarray, want: torch.Tensor, within: float = 1e-5) -> None:
    wanted = want.detach().numpy()
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= within * np.abs(wanted).max()


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5


def native(name: ModelName, clusters: int | None = None) -> bytes:
    record: Any = fresh(name.value, (1, 3, 10) if name.is_conv else (64, 6, 10))
    if clusters is not None:
        record = kancompress.cluster(record, ClusterConfig(clusters=clusters)).model
    return kancompress.encode(record)


# --- networks of kancompress's own ----------------------------------------------------------------


@pytest.mark.parametrize("clusters", [None, 3, 16])
@pytest.mark.parametrize("name", NATIVE)
def test_every_family(name: ModelName, clusters: int | None) -> None:
    raw = native(name, clusters)
    made = kancompress.export(raw, format="onnx")
    network = build(kancompress.load(raw)).eval()
    for batch in (1, 7):
        x = rows(batch, 1, 9, 8) if name.is_conv else rows(batch, 64)
        same(outputs(made.data, x), network(x))
    assert sum(made.parts.values()) == len(made.data)
    assert made.grown == len(made.data) - len(raw) < 2048


@pytest.mark.parametrize("dtype", [StoredDtype.FLOAT16, StoredDtype.BFLOAT16, StoredDtype.INT8])
def test_codebooks_keep_their_narrow_types(dtype: StoredDtype) -> None:
    config = ClusterConfig(clusters=16, codebook_dtype=dtype, side_dtype=dtype)
    raw = kancompress.encode(kancompress.cluster(fresh("kan", (64, 6, 10)), config).model)
    made = kancompress.export(raw, format="onnx")
    x = rows(7, 64)
    same(outputs(made.data, x), build(kancompress.load(raw))(x))
    plain = 2 * 16 * 9 * 4
    scales = 2 * 9 * 2
    assert made.parts["codebooks"] == (
        plain // 4 + scales if dtype is StoredDtype.INT8 else plain // 2
    )


@pytest.mark.parametrize("name", [ModelName.KAN, ModelName.GRAMKAN])
def test_weights_as_a_table(name: ModelName) -> None:
    raw = native(name, 16)
    made = kancompress.export(raw, options=OnnxOptions(weights=Weights.TABLE))
    for batch in (1, 7):
        x = rows(batch, 64)
        same(outputs(made.data, x), build(kancompress.load(raw))(x))
    operators = [node.op_type for node in onnx.load_from_string(made.data).graph.node]
    assert "Gemm" not in operators


def test_layers_that_have_no_table_are_named() -> None:
    conv = kancompress.export(
        native(ModelName.KANCONV, 3), options={"weights": Weights.TABLE}, format="onnx"
    )
    assert "layer 0: dense weights" in " ".join(conv.notes)


# --- any layer ------------------------------------------------------------------------------------


def program(*layers: Layer, data: DataSpec | None = None) -> Program:
    return Program(layers=layers, data=data)


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer(
    form: LayerForm, size: int, arrays: dict[str, np.ndarray] | None = None, biased: bool = True
) -> Layer:
    """With all its edges' coefficients."""
    shape = (OUTPUTS, INPUTS, *(form.window.kernel if form.window else ()))
    table = numbers(int(np.prod(shape)), size)
    return Layer(
        name="first", form=form, edges=Edges(shape=shape, size=size, table=table),
        arrays=arrays or {}, bias=numbers(OUTPUTS) if biased else None,
    )  # fmt: skip


def torch_layer(one: Layer) -> EdgeLayer:
    tensors = {role: torch.from_numpy(array) for role, array in one.arrays.items()}
    edges = DenseEdges(torch.from_numpy(np.ascontiguousarray(one.edges.coefficients())))
    bias = None if one.bias is None else torch.from_numpy(one.bias)
    made = EdgeLayer(one.form, edges, tensors, bias=bias)
    return made.eval()


def summed(one: Layer, x: torch.Tensor) -> torch.Tensor:
    """In float64: torch's own float32 sums over thousands of edges err by more than 1e-5."""
    return torch_layer(one).double()(x.double())


def exported(*layers: Layer, weights: Weights = Weights.DENSE) -> bytes:
    return models.encode(program(*layers), OnnxOptions(weights=weights)).data


EVEN = np.linspace(-1.3, 1.7, 12, dtype=np.float32)[None] * np.arange(1, INPUTS + 1)[:, None]
UNEVEN = np.sort(numbers(INPUTS, 9), axis=1)
TWICE = np.repeat(np.array([[-2, -1, -0.5, 1, 2.5]], np.float32), 2, axis=1)
CENTRES = np.array([-1.5, -0.25, 0.5, 2], np.float32)
WIDE = (-2.0, 2.0)
BASES: dict[str, tuple[forms.Basis, int, dict[str, np.ndarray]]] = {
    "none": (forms.NoBasis(), 0, {}),
    **{
        f"splines of degree {p}": (forms.UniformSplines((-1.0, 1.0, 4), p), 4 + p, {})
        for p in (0, 1, 2, 3, 4, 6)
    },
    "even knots": (forms.Splines(3), 8, {"knots": EVEN.astype(np.float32)}),
    "uneven knots": (forms.Splines(2), 6, {"knots": UNEVEN}),
    "knots that coincide": (forms.Splines(3), 6, {"knots": np.repeat(TWICE, INPUTS, axis=0)}),
    "knots of degree 0": (forms.Splines(0), 8, {"knots": UNEVEN}),
    "uniform gaussians": (forms.UniformGaussians((-2.0, 2.0, 6)), 6, {}),
    "gaussians": (forms.Gaussians(0.7, WIDE), 4, {"centres": CENTRES}),
    "switches": (forms.Switches(WIDE), 4, {"centres": CENTRES}),
    "wide switches": (forms.Switches(WIDE, width=1.7), 4, {"centres": CENTRES}),
    "sum": (
        forms.Sum(forms.Splines(2), forms.Gaussians(0.5, WIDE)), 6,
        {"knots": UNEVEN, "centres": numbers(6)},
    ),
    "waves": (forms.Waves(3, WIDE), 6, {}),
    "bumps": (
        forms.Bumps(2.5), 3, {"low": numbers(INPUTS, 3) - 1, "high": numbers(INPUTS, 3, seed=2) + 1}
    ),
    **{
        f"{series} of degree {degree}": (
            forms.Polynomials(series, degree, learnt, act), degree + 1,
            {learnt: numbers(degree + 1 if series is Series.GRAM else 1)} if learnt else {},
        )
        for series, learnt, act in (
            *((series, "", Activation.IDENTITY) for series in Series if series.name[:2] != "GO"),
            (Series.GRAM, "beta", Activation.SILU),
            (Series.GOTTLIEB, "alpha", Activation.TANH),
        )
        for degree in (0, 1, 5)
        if series is not Series.GRAM or learnt
    },
}  # fmt: skip


@pytest.mark.parametrize("window", [None, Window(kernel=(2, 3), stride=2, padding=1)])
@pytest.mark.parametrize("name", BASES)
def test_every_basis(name: str, window: Window | None) -> None:
    basis, size, arrays = BASES[name]
    base = Activation.ELU if window else Activation.SILU
    one = layer(LayerForm(basis=basis, base=base, window=window), size + 1, arrays)
    x = rows(6, INPUTS, 4, 5) if window else rows(60, INPUTS)
    x.view(-1)[:8] = torch.tensor([-1, 1, 0.5, -2, 2, 1.7, -1.3, 9])  # ends of grids, and beyond
    same(outputs(exported(one), x), torch_layer(one)(x))


@pytest.mark.parametrize("base", [*Activation, None])
@pytest.mark.parametrize("inner", [False, True])
def test_every_base_branch(base: Activation | None, inner: bool) -> None:
    before = (forms.Act(Activation.TANH),)
    form = LayerForm(
        basis=forms.Waves(1, WIDE), before=before, base=base, inner=inner, points=forms.Points.ENDS
    )
    one = layer(form, 2 + (base is not None), biased=False)
    x = rows(7, INPUTS)
    same(outputs(exported(one), x), torch_layer(one)(x))


NORM = {"norm": numbers(2, INPUTS), "statistics": np.abs(numbers(2, INPUTS, seed=3))}
STEPS: dict[str, tuple[forms.Step, dict[str, np.ndarray]]] = {
    "norm": (forms.Norm(), {"norm": NORM["norm"]}),
    "layer norm": (forms.LayerNorm("w", "b"), {"w": numbers(INPUTS), "b": numbers(INPUTS, seed=2)}),
    "layer norm without shift": (forms.LayerNorm("w", ""), {"w": np.ones(INPUTS, np.float32)}),
    "running norm": (forms.Norm(), NORM),
    "slope": (forms.Slope(), {"slope": numbers(1)}),
    "slopes": (forms.Slope(), {"slope": numbers(INPUTS)}),
    "affine": (forms.Affine("w", "b"), {"w": numbers(INPUTS), "b": numbers(INPUTS, seed=2)}),
    "shift": (forms.Affine("w", "b"), {"b": numbers(INPUTS)}),
    "scaled": (forms.MinMax(), {}),
    "dropped": (forms.Dropout(0.5), {}),
}
OF_MAPS = ("running norm", "slope", "slopes", "dropped")


@pytest.mark.parametrize(
    ("name", "conv"), [*((name, False) for name in STEPS), *((name, True) for name in OF_MAPS)]
)
def test_every_step(name: str, conv: bool) -> None:
    step, arrays = STEPS[name]
    window = Window(kernel=(1, 2), stride=1, padding=0) if conv else None
    arrays = {role: array.copy() for role, array in arrays.items()}
    before = layer(LayerForm(basis=forms.Waves(1, WIDE), before=(step,), window=window), 3, arrays)
    square = (INPUTS, *before.edges.shape[1:])
    edges = replace(before.edges, shape=square, table=numbers(int(np.prod(square)), 3))
    form = LayerForm(basis=forms.Waves(1, WIDE), after=(step,), window=window)
    after = Layer(name="second", form=form, edges=edges, arrays=arrays)
    x = rows(7, INPUTS, 3, 5) if conv else rows(7, INPUTS)
    for one in (before, after):
        same(outputs(exported(one), x), torch_layer(one)(x))


# --- edges ----------------------------------------------------------------------------------------


def packed_layer(
    clusters: int, kept: int = 0, parts: int = 1, gains: tuple[Gain, ...] = (), inputs: int = 40,
    owner: str | None = None, table: np.ndarray | None = None, name: str = "first",
) -> Layer:  # fmt: skip
    """With indices into a codebook, and edges that are kept."""
    draw = np.random.default_rng(clusters + kept)
    size, count = 6, OUTPUTS * inputs
    codebook = numbers(clusters, size // parts) if table is None else table
    whole = draw.integers(0, clusters, (count, parts))
    places = np.sort(draw.choice(count, kept, replace=False))
    whole[places] = np.arange(clusters, clusters + kept * parts).reshape(kept, parts)
    table = np.concatenate([codebook, numbers(kept * parts, size // parts, seed=4)])
    edges = Edges(
        shape=(OUTPUTS, inputs), size=size, table=table,
        rows=whole.reshape(-1).astype(np.min_scalar_type(len(table) - 1)), parts=parts,
        clusters=clusters, owner=owner, gains=gains,
    )  # fmt: skip
    form = LayerForm(basis=forms.UniformGaussians((-2.0, 2.0, 5)))
    return Layer(name=name, form=form, edges=edges, bias=numbers(OUTPUTS))


GAINS = (
    Gain(first=0, last=5, factors=numbers(OUTPUTS, 40)),
    Gain(first=0, last=6, factors=(numbers(OUTPUTS, 40, seed=7) > 0).astype(np.float32)),
)
EDGES = {
    "one": {"clusters": 1},
    "two": {"clusters": 2, "inputs": 41},
    "two of many": {"clusters": 2, "inputs": 1001},
    "three bits": {"clusters": 7, "inputs": 2003},
    "four bits, odd": {"clusters": 16, "inputs": 41},
    "a byte": {"clusters": 200},
    "nine bits": {"clusters": 300, "inputs": 999},
    "two bytes": {"clusters": 300},
    "few kept": {"clusters": 16, "kept": 3, "inputs": 301},
    "many kept": {"clusters": 16, "kept": 30},
    "parts": {"clusters": 5, "parts": 3},
    "parts and kept": {"clusters": 16, "parts": 3, "kept": 2, "inputs": 301},
    "gains": {"clusters": 16, "gains": GAINS},
    "gains of parts": {"clusters": 16, "parts": 2, "gains": GAINS},
    "round numbers": {"clusters": 16, "table": np.arange(96, dtype=np.float32).reshape(16, 6)},
}


@pytest.mark.parametrize("name", EDGES)
def test_every_kind_of_edges(name: str) -> None:
    one = packed_layer(**EDGES[name])
    x = rows(7, one.inputs)
    want = summed(one, x)
    for weights in Weights:
        same(outputs(exported(one, weights=weights), x), want)


def test_indices_take_the_bits_that_they_need() -> None:
    count = OUTPUTS * 2003
    for clusters, size in ((1, 0), (2, count / 8), (7, 3 * count / 8), (16, count / 2)):
        made = models.encode(program(packed_layer(clusters, inputs=2003)), OnnxOptions())
        assert made.parts.get("indices", 0) == np.ceil(size)


def test_a_shared_codebook_is_there_once() -> None:
    first = packed_layer(16, inputs=OUTPUTS, name="a")
    codebook = first.edges.table
    others = [
        packed_layer(16, kept, inputs=OUTPUTS, name=name, owner="a", table=codebook)
        for name, kept in (("b", 0), ("c", 2))
    ]
    made = models.encode(program(first, *others), OnnxOptions())
    assert made.parts["codebooks"] == codebook.nbytes
    x = rows(7, OUTPUTS)
    want = x
    for one in (first, *others):
        want = torch_layer(one)(want)
    same(outputs(made.data, x), want)


# --- other libraries' networks --------------------------------------------------------------------


def check_foreign(model: kancompress.PackedModel, options: RunOptions | None = None) -> None:
    network = packed_network(model, options)
    for weights in Weights:
        config = OnnxOptions(weights=weights)
        made = kancompress.export(kancompress.encode(model), options=config, told=options)
        assert made.assumed == network.notes
        for count in (1, 40):
            x = rows(count, network.widths[0])
            same(outputs(made.data, x), network(x))


@needs_cases
@pytest.mark.parametrize("case", SUPPORTED)
def test_golden_cases(case: str) -> None:
    check_foreign(lossless(SHARED / case / "distinct8.pt", 8), OPTIONS.get(case))


@pytest.mark.parametrize("case", sorted(path.parent.name for path in OWN.glob("*/io.safetensors")))
def test_golden_cases_of_our_own(case: str) -> None:
    io = load_file(OWN / case / "io.safetensors")
    raw = kancompress.encode(lossless(OWN / case / "state.safetensors"))
    got = outputs(kancompress.export(raw, format="onnx").data, io["x"])
    assert np.allclose(got, io["y"].numpy(), atol=1e-4)


@needs_cases
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("pykan_multkan", "multiplication nodes"),
        ("pykan_symbolic_masked", "symbolic"),
        ("convkan_g1", "stride and padding"),
    ],
)
def test_layers_that_cannot_run_are_refused(case: str, words: str) -> None:
    raw = kancompress.encode(lossless(SHARED / case / "state.pt"))
    with pytest.raises(kancompress.UsageError, match=words) as told:
        kancompress.export(raw, format="onnx")
    assert told.value.layer in str(told.value)


# --- what the model takes and puts out ------------------------------------------------------------


def data_of(**fields: Any) -> DataSpec:
    return DataSpec(name="pictures", classes=OUTPUTS, **fields)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("conv", [False, True])
def test_rows_as_the_data_set_has_them(channels: int, conv: bool) -> None:
    mean, std = [0.1, 0.5, 0.25][:channels], [0.5, 0.25, 2.0][:channels]
    window = Window(kernel=(2, 2), stride=1, padding=0) if conv else None
    form = LayerForm(basis=forms.NoBasis(), window=window)
    inputs = channels if conv else channels * 6
    shape = (OUTPUTS, inputs, *((2, 2) if conv else ()))
    edges = Edges(shape=shape, size=1, table=numbers(int(np.prod(shape)), 1))
    one = Layer(name="0", form=form, edges=edges)
    data = data_of(mean=tuple(mean), std=tuple(std))
    x = torch.rand(5, channels, 2, 3)
    normal = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    options = OnnxOptions(with_normalisation=True, with_softmax=not conv)
    made = models.encode(program(one, data=data), options)
    x, normal = (x, normal) if conv else (x.flatten(1), normal.flatten(1))
    want = torch_layer(one)(normal)
    same(outputs(made.data, x), want if conv else want.softmax(1))
    assert models.size(program(one, data=data), options) == len(made.data)


def test_what_cannot_be_asked_for() -> None:
    one = layer(LayerForm(basis=forms.NoBasis()), 1)
    wanted = {"normalisation": OnnxOptions(with_normalisation=True)}
    with pytest.raises(kancompress.UsageError, match="how its data were normalised"):
        models.encode(program(one), wanted["normalisation"])
    with pytest.raises(kancompress.UsageError, match="5 inputs, and its data 3 channels"):
        models.encode(
            program(one, data=data_of(mean=(0.5,) * 3, std=(1.0,) * 3)), wanted["normalisation"]
        )
    with pytest.raises(kancompress.UsageError, match="no deviation for each mean"):
        models.encode(program(one, data=data_of(mean=(0.5,), std=(0.0,))), wanted["normalisation"])
    regression = DataSpec(name="numbers", targets=OUTPUTS)
    with pytest.raises(kancompress.UsageError, match="predicts numbers") as told:
        models.encode(program(one, data=regression), OnnxOptions(with_softmax=True))
    assert told.value.fields == ("with_softmax",)


def test_the_model_says_what_it_is() -> None:
    raw = native(ModelName.KAN, 16)
    made = kancompress.export(raw, format="onnx")
    model = onnx.load_from_string(made.data)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "y"]
    batch, width = model.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_param, width.dim_value) == ("batch", 64)
    facts = json.loads({one.key: one.value for one in model.metadata_props}["kancompress"])
    assert facts["data"]["name"] == "digits"
    assert facts["layers"][1] == {"name": "1", "shape": [10, 6], "size": 9, "clusters": 16}
    assert facts["source_bytes"] == len(raw)
    nibbles = [one for one in model.graph.initializer if one.data_type == graphs.UINT4]
    assert [len(one.raw_data) for one in nibbles] == [64 * 6 // 2, 10 * 6 // 2]


def test_entropy_coded_indices_become_larger() -> None:
    packed = kancompress.load(native(ModelName.KAN, 16))
    skewed = np.zeros(64 * 6, np.uint8)
    skewed[::50] = 9
    layers = (replace(packed.layers[0], index=skewed), packed.layers[1])
    plain = kancompress.encode(replace(packed, layers=layers))
    coded = kancompress.repack(plain).data
    made = kancompress.export(coded, format="onnx")
    assert "bytes more than in the source" in made.notes[-1]
    assert "source" not in " ".join(kancompress.export(plain, format="onnx").notes)


def test_onnxs_own_evaluator_agrees() -> None:
    raw = native(ModelName.KAN, 16)
    data = kancompress.export(raw, format="onnx").data
    x = rows(3, 64)
    (found,) = onnx.reference.ReferenceEvaluator(data).run(["y"], {"x": x.numpy()})
    same(found, build(kancompress.load(raw))(x))


def test_equal_networks_give_equal_bytes() -> None:
    raw = native(ModelName.GRAMKAN, 16)
    assert (
        kancompress.export(raw, format="onnx").data == kancompress.export(raw, format="onnx").data
    )


# --- the function and the command -----------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("p.st").write_bytes(native(ModelName.KAN, 16))
    return tmp_path


def test_the_function_is_no_package() -> None:
    assert callable(kancompress.export)
    assert kancompress.export is api.export


def test_the_command(here: Path) -> None:
    said = done("export", "p.st", "-o", "m.onnx").stderr
    size, source = Path("m.onnx").stat().st_size, Path("p.st").stat().st_size
    assert said.startswith(f"{size:,} bytes, {size - source:,} more than the {source:,} of the")
    assert "opset 21, IR 10" in said
    x = rows(3, 64)
    same(outputs(Path("m.onnx").read_bytes(), x), build(kancompress.load("p.st"))(x))
    again = done("export", "p.st", "-o", "m.onnx", "--force", "--json", "--with-softmax")
    document = json.loads(again.stdout)
    assert document["file_bytes"] == Path("m.onnx").stat().st_size
    assert document["file_bytes"] == sum(document["parts"].values())
    assert (document["output"], document["softmax"]) == ("m.onnx", True)
    assert again.stderr == ""
    dry = json.loads(done("export", "p.st", "-o", "n.onnx", "--dry-run", "--json").stdout)
    assert (dry["output"], dry["file_bytes"]) == (None, size)
    assert not Path("n.onnx").exists()


def test_pipes(here: Path) -> None:
    raw = Path("p.st").read_bytes()
    piped = done("export", "-", "-o", "-", "--format", "onnx", stdin=raw)
    assert piped.stdout_bytes == kancompress.export(raw, format="onnx").data
    assert "--format" in refused(2, "export", "-", "-o", "-", stdin=raw)


REFUSED = {
    "p.st -o m.bin": "an ONNX model (.onnx)",
    "p.st -o m": "--format",
    "p.st -o m.onnx --format tflite": "onnx",
    "p.st -o p.st --force": "input itself",
    "p.st -o there.onnx": "--force",
    "meta.st -o m.onnx": "meta-learner",
    "p.st -o m.onnx --spline-order 2": "--spline-order",
    "p.st -o m.onnx --state ema": "--state",
    "p.st -o m.other --weights table --with-softmax": "--with-softmax, --weights mean nothing",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_the_command_refuses(line: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("there.onnx").write_bytes(b"there")
    kancompress.save(fresh("metakan", (64, 3, 10)), "meta.st")
    other = api.Format(suffix=".other", what="another", options=Nothing, encode=nothing)
    monkeypatch.setitem(api.FORMATS, "other", other)
    assert REFUSED[line] in refused(2, "export", *line.split())
    assert {path.name for path in here.iterdir()} == {"p.st", "there.onnx", "meta.st"}
    assert Path("there.onnx").read_bytes() == b"there"


@dataclass
class Nothing:
    """No options."""


def nothing(program: Program, options: Any, data: bytes) -> Exported:
    raise AssertionError


def test_a_file_that_is_none(here: Path) -> None:
    Path("text.st").write_text("no network" * 9)
    assert refused(3, "export", "text.st", "-o", "m.onnx")
    assert refused(3, "export", "missing.st", "-o", "m.onnx")


def test_without_the_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert "pip install 'kancompress[onnx]'" in refused(1, "export", "p.st", "-o", "m.onnx")
    assert not Path("m.onnx").exists()


def test_what_the_function_takes() -> None:
    model = kancompress.cluster(fresh("kan", (64, 6, 10)), ClusterConfig(clusters=16)).model
    raw = kancompress.encode(model)
    options = OnnxOptions(weights=Weights.TABLE)
    made = kancompress.export(model, options=options)
    assert made.data == kancompress.export(raw, options=options).data
    words = kancompress.export(raw, options={"weights": "table"}, format="onnx")
    assert words.data == made.data
    with pytest.raises(kancompress.UsageError, match="`weights=sparse` is none of dense, table"):
        kancompress.export(raw, options={"weights": "sparse"}, format="onnx")


def test_options_of_another_format() -> None:
    with pytest.raises(kancompress.UsageError, match="OnnxOptions"):
        kancompress.export(native(ModelName.MLP), options=ClusterConfig(), format="onnx")  # type: ignore[arg-type]
    assert call("export", "--help").exit_code == 0


def test_a_suffix_of_another_format_is_refused(tmp_path: Path) -> None:
    dense = kancompress.encode(fresh("kan", (4, 3, 2)))
    for name, format_, options in (("o.onnx", "c", None), ("o.h", None, kancompress.OnnxOptions())):
        with pytest.raises(kancompress.UsageError, match="says another format than"):
            kancompress.export(dense, tmp_path / name, options, format=format_)
    assert not list(tmp_path.iterdir())
