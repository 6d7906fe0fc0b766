"""Numbers of a byte: rounded as docs/packed-format.md, section 4.2, has it, and never silently."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_packed_forms import EfficientKAN, efficient_kan
from torch import Tensor, nn

import kancompress
from command import done, refused
from conftest import fresh
from hostile import INT8, made
from kancompress.config import ClusterConfig, FinetuneConfig, StoredDtype
from kancompress.data.datasets import Dataset, Split
from kancompress.formats.packed.encodings import INT8 as ENCODING
from kancompress.layers.stored import rounded, straight_through
from kancompress.models.native import build
from kancompress.models.records import sizes
from kancompress.models.tensors import to_array
from kancompress.packing.by_outputs import _Scales, native_runs
from kancompress.packing.native import NativeSource
from kancompress.specs import DataSpec
from kancompress.training.finetune import _Running as Tuned
from kancompress.training.finetune import tune
from packed_checker import checker, int8_rows

BYTES = ClusterConfig(
    clusters=5,
    force_pack=True,
    codebook_dtype=StoredDtype.INT8,
    side_dtype=StoredDtype.INT8,
)


def written(numbers: Tensor, role: str = "codebook") -> bytes:
    return bytes(ENCODING.encode(to_array(numbers), f"0.{role}").data)


def test_the_example_of_the_page() -> None:
    numbers = torch.tensor([[0.5, -1e-6], [-0.25, 0.0], [0.1, 3e-7]])
    found = rounded(numbers, torch.int8)
    assert written(found) == bytes.fromhex("091c7fc119 0100ef0005")
    expected = [[0.5004539489746094, -17 / 2**24], [-0.24825668334960938, 0.0],
                [0.09851455688476562, 5 / 2**24]]  # fmt: skip
    assert found.tolist() == expected
    raw = made(INT8)
    assert checker(raw) is None
    model = kancompress.load(raw)
    assert isinstance(model, kancompress.PackedModel)
    layer = model.layers[0]
    assert layer.codebook is not None
    assert torch.equal(layer.codebook[:, :2], found)
    assert layer.sides["norm"].tolist() == [[127, -127], [-63.5, 63.5]]
    assert kancompress.encode(model) == raw


@pytest.mark.parametrize("role", ["codebook", "norm"])
def test_numbers_of_any_magnitude_are_rounded_to_the_one_form(role: str) -> None:
    generator = torch.Generator().manual_seed(0)
    exponents = [*range(-36, 22), *np.linspace(-27, -14, 60)]
    for exponent in exponents:
        numbers = torch.randn(2, 9, generator=generator, dtype=torch.float64) * 2.0**exponent
        found = rounded(numbers, torch.int8, role)
        rows = numbers.T if role == "codebook" else numbers
        oracle = int8_rows(written(found, role), len(rows))  # refuses any other form
        assert np.array_equal(oracle, found.T if role == "codebook" else found)
        largest = rows.abs().amax(1, keepdim=True)
        # Half of a step, which is a float16 at least, where all is within 127 of them.
        step = torch.maximum(largest / 127 * (1 + 2**-10), torch.tensor(2.0**-24))
        assert bool(((torch.from_numpy(oracle) - rows).abs() <= step * 0.5001 + 2**-25).all())
        assert torch.equal(rounded(found, torch.int8, role), found)


def test_gradients_go_straight_through() -> None:
    master = torch.randn(6, 4, requires_grad=True)
    stored = straight_through(master, torch.int8)
    assert torch.equal(stored, rounded(master.detach(), torch.int8))
    (stored * torch.arange(4.0)).sum().backward()
    assert master.grad is not None
    assert torch.equal(master.grad, torch.arange(4.0).expand(6, 4))


@pytest.mark.parametrize("family", ["kan", "fastkan", "gramkan", "mlp", "kanconv"])
def test_files_of_bytes(family: str) -> None:
    widths = (1, 4, 3, 3) if family == "kanconv" else (8, 6, 4, 3)
    source = fresh(family, widths)
    packed = kancompress.cluster(source, BYTES).model
    raw = kancompress.encode(packed)
    assert checker(raw) is None
    assert sum(sizes(packed)) == len(raw)
    again = kancompress.load(raw)
    assert isinstance(again, kancompress.PackedModel)
    assert kancompress.encode(again) == raw
    named = packed.named_tensors()
    for layer, other in zip(packed.layers, again.layers, strict=True):
        assert layer.numbers == other.numbers
        assert "codebook" in layer.numbers
        for role, side in layer.sides.items():
            narrow = role == "bias" or (role == "norm" and family != "kanconv")
            assert (role in layer.numbers) == narrow
            assert side.dtype == (torch.float32 if narrow else torch.float16)
            assert torch.equal(side, other.sides[role])
        assert layer.codebook is not None
        assert other.codebook is not None
        assert torch.equal(layer.codebook, other.codebook)
        k, d = layer.codebook.shape
        assert named[f"{layer.name}.codebook"].shape == (d, k + 2)
        # Each edge has the centroid that is nearest as it is stored.
        vectors = source.tensors[f"{layer.name}.coefficients"].reshape(-1, d)
        distances = torch.cdist(vectors.double(), layer.codebook.double())
        chosen = distances.gather(1, torch.from_numpy(layer.indices().astype(int))[:, None])
        assert bool((chosen[:, 0] <= distances.amin(1) * (1 + 1e-5)).all())


def test_what_is_not_rounded_is_not_written() -> None:
    packed = kancompress.cluster(fresh("kan", (4, 3, 2)), BYTES).model
    layer = packed.layers[1]
    assert layer.codebook is not None
    other = replace(layer, codebook=layer.codebook * 1.001)
    with pytest.raises(kancompress.UsageError, match=r"'1\.codebook' has numbers that int8 cannot"):
        kancompress.encode(replace(packed, layers=(packed.layers[0], other)))


@pytest.mark.parametrize(("number", "advice"), [(1e7, "float32"), (1e-9, "float32")])
def test_a_codebook_beyond_bytes_is_refused(number: float, advice: str) -> None:
    source = fresh("kan", (4, 3, 2))
    wide = {**source.tensors, "0.coefficients": torch.full_like(
        source.tensors["0.coefficients"], number)}  # fmt: skip
    with pytest.raises(
        kancompress.KancompressError, match=f'int8; use `codebook_dtype="{advice}"`'
    ):
        kancompress.cluster(replace(source, tensors=wide), BYTES)


def rows(inputs: int, outputs: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(48, inputs, generator=generator) * 2 - 1
    part = Split(x=x, y=(x[:, 0] > 0).long())
    spec = DataSpec(name="file", classes=outputs)
    return Dataset(spec=spec, train=part, validation=part, test=part)


def test_fine_tuning_keeps_bytes() -> None:
    packed = kancompress.cluster(fresh("fastkan", (3, 4, 2)), BYTES).model
    layers = [replace(p, sides={**p.sides, "bias": torch.zeros(p.shape[0])}) for p in packed.layers]
    layers = [replace(p, numbers={**p.numbers, "bias": "int8"}) for p in layers]
    packed = replace(packed, layers=tuple(layers))
    config = FinetuneConfig(epochs=3, lr=0.05, also=("norms", "biases"))
    tuned = tune(packed, rows(3, 2), config)
    assert tuned.validation.key() < tuned.validation_before.key()
    raw = kancompress.encode(tuned.model)
    assert checker(raw) is None
    assert sum(sizes(packed)) == len(raw)
    for one, other in zip(packed.layers, tuned.model.layers, strict=True):
        assert one.numbers == other.numbers
        for role, tensor in other.tensors().items():
            assert torch.equal(rounded(tensor, other.stored(role), role), tensor)
            assert not torch.equal(tensor, one.tensors()[role])


def test_learning_sees_what_will_be_stored() -> None:
    """Loss and gradients are those of the rounded network, not of what learns."""
    packed = kancompress.cluster(fresh("fastkan", (3, 4, 2)), BYTES).model
    config = FinetuneConfig(epochs=1, lr=0.05, also=("norms",))
    network = build(packed)
    tunable = Tuned(packed, network, config.also, None)
    with torch.no_grad():
        for parameter in tunable.parameters:
            parameter += torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter)
    x = rows(3, 2).train.x
    stored = build(tunable.stored())
    for module in (network, stored):
        module(x).square().sum().backward()
    assert torch.equal(network(x), stored(x))
    for one, other in zip(tunable.parameters, [*(b.centroids for b in stored.codebooks.values()),
                                               *stored.norms()], strict=True):  # fmt: skip
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_what_would_leave_the_sources_type_is_refused() -> None:
    """127 times the scale is a little more than the largest float16."""
    state = {name: tensor.half() for name, tensor in efficient_kan().items()}
    state["layers.0.spline_weight"][0, 0, 0] = 65504
    config = ClusterConfig(clusters=40, force_pack=True, codebook_dtype=StoredDtype.INT8)
    with pytest.raises(kancompress.KancompressError, match=r"6\.55e\+04, too large for int8"):
        kancompress.cluster(state, config)


class Net(nn.Module):
    """A module of the user's own with efficient-kan's tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Module(), nn.Module()])
        for name, tensor in efficient_kan().items():
            _, number, role = name.split(".")
            kind = nn.Parameter(tensor) if "weight" in role else nn.Buffer(tensor)
            setattr(self.layers[int(number)], role, kind)

    def forward(self, x: Tensor) -> Tensor:
        state = {
            f"layers.{number}.{role}": getattr(layer, role)
            for number, layer in enumerate(self.layers)
            for role in ("base_weight", "spline_weight", "grid")
        }
        outputs: Tensor = EfficientKAN(state, nn.functional.silu)(x)
        return outputs


def test_another_librarys_codebooks_may_be_bytes(tmp_path: Path) -> None:
    """All that is no edge comes back bit for bit; the codebook learns in the user's module."""
    model = Net()
    source = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed = kancompress.compress(model, clusters=4, codebook_dtype="int8").model
    raw = kancompress.encode(packed)
    assert checker(raw) is None
    again = kancompress.load(raw)
    assert isinstance(again, kancompress.PackedModel)
    assert kancompress.encode(again) == raw
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, source[name]) == ("weight" not in name)
    with kancompress.parametrize(model, again) as place:
        for codebook in place.parameters():
            codebook.data += torch.linspace(-0.1, 0.1, codebook.numel()).view_as(codebook)
        outputs = model(torch.zeros(1, 3))
        tuned = place.to_packed()
    assert torch.equal(model(torch.zeros(1, 3)), outputs)
    assert checker(kancompress.encode(tuned)) is None
    path = tmp_path / "kan.st"
    save_file(source, path)
    said = refused(2, "cluster", path, "--side-dtype", "int8", "-o", tmp_path / "out.st")
    assert "--side-dtype int8 is for networks of kancompress's own" in said


def test_calibration_rounds_before_it_solves(tmp_path: Path) -> None:
    """What is told is the error of the file; bytes cost a little of it, and bytes are what inspect
    tells."""
    dense, x = tmp_path / "dense.st", tmp_path / "x.npz"
    size = kancompress.save(fresh("fastkan", (6, 9, 5)), dense)
    np.savez(x, x=np.random.default_rng(0).uniform(-1, 1, (300, 6)).astype(np.float32))
    common = ("--calibrate", x, "-k", 4, "--samples", 200, "--rounds", 1, "--sweeps", 1, "--json")
    said = {}
    for dtype in ("float16", "int8"):
        out = tmp_path / f"{dtype}.st"
        stored = ("--codebook-dtype", dtype, "--side-dtype", dtype)
        result = json.loads(done("cluster", dense, *common, *stored, "-o", out).stdout)
        said[dtype] = result["calibration"]["held_out_error"]
        assert checker(out.read_bytes()) is None
    assert said["int8"] == pytest.approx(said["float16"], rel=0.1)
    report = json.loads(done("inspect", out, "--json").stdout)
    for layer in report["layers"]:
        assert layer["codebook_dtype"] == "int8"
        assert layer["codebook_bytes"] == (layer["clusters"] + 2) * layer["coefficients"]
    config = replace(BYTES, clusters=4)
    source = NativeSource(
        checkpoint=fresh("fastkan", (6, 9, 5)), file_bytes=size, side_dtype=StoredDtype.INT8
    )
    runs = native_runs(source, config, torch.device("cpu"))
    clusters = {layer["name"]: layer["clusters"] for layer in report["layers"]}
    assert _Scales(runs).weigh(clusters) == out.stat().st_size
