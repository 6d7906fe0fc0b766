"""Where runs compute: devices, threads, number formats.

`device` is each of: a device that is not there (`elsewhere`), which refuses to mix its tensors with
those of the CPU; the same without float64; and a CUDA device, where there is one.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import elsewhere
import kancompress
from command import call, done, refused
from conftest import fresh
from kancompress import UsageError
from kancompress.cli._calibration import record
from kancompress.config import Device
from kancompress.models import user_module as modules
from kancompress.models.native import build
from kancompress.specs import ModelName
from kancompress.system import devices
from kancompress.training import loop as fitting

GPU = torch.cuda.is_available()
CASES = Path(__file__).parent / "cases"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slow(*values: Any) -> Any:
    """Parameters of a test that only `-m slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="no CUDA device here"))


@pytest.fixture(params=["without float64", CUDA])
def device(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[torch.device]:
    """Where `--device cuda` computes."""
    if request.param == "cuda":
        yield torch.device("cuda", 0)
        return
    float64 = request.param == "with float64"
    find = devices.find
    monkeypatch.setattr(
        devices,
        "find",
        lambda wanted, **auto: elsewhere.DEVICE if wanted == "cuda" else find(wanted, **auto),
    )
    monkeypatch.setattr(devices, "has_float64", lambda where: where.type == "cpu" or float64)
    with elsewhere.there(float64=float64):
        yield elsewhere.DEVICE


WIDE = pytest.param("with float64", marks=pytest.mark.exhaustive)
every_device = pytest.mark.parametrize("device", [WIDE, "without float64", CUDA], indirect=True)


def test_a_device_that_is_not_there_refuses_what_a_gpu_refuses() -> None:
    there = torch.ones(3).to(elsewhere.DEVICE)
    assert there.device.type == "elsewhere"
    assert torch.equal((2 * there + torch.tensor(1.0)).cpu(), torch.full((3,), 3.0))
    here, number = torch.ones(3), torch.tensor([1])
    for mixed in (
        lambda: there + here,
        lambda: here.add_(there),
        lambda: torch.cat([here, there]),
        lambda: there[number],
        lambda: here[number.to(elsewhere.DEVICE)],
        lambda: there.numpy(),
    ):
        with pytest.raises(RuntimeError):
            mixed()
    with elsewhere.there(float64=False):
        for wide in (
            lambda: there.double(),
            lambda: there.sum(dtype=torch.float64),
            lambda: torch.zeros(3, dtype=torch.float64, device=elsewhere.DEVICE),
        ):
            with pytest.raises(TypeError):
                wide()


@pytest.mark.parametrize("name", list(ModelName))
def test_every_model_learns_where_it_is(name: ModelName, device: torch.device) -> None:
    widths, row = ((1, 4, 4, 10), (1, 8, 8)) if name.is_conv else ((64, 8, 10), (64,))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, *row, generator=generator)
    y = torch.randint(10, (5,), generator=generator)
    found = []
    for where in (torch.device("cpu"), device):
        network = build(fresh(name.value, widths)).to(where).eval()
        output = network(x.to(where))
        fitting.loss_of(output, y.to(where)).backward()
        slopes = [p.grad for p in network.parameters() if p.grad is not None]
        assert devices.of(network).type == where.type
        assert {tensor.device.type for tensor in (output, *slopes)} == {where.type}
        found.append([tensor.detach().cpu() for tensor in (output, *slopes)])
    most = max(float(tensor.abs().max()) for tensor in found[0])
    for here, there in zip(*found, strict=True):
        assert torch.allclose(here, there, rtol=1e-4, atol=1e-5 * most)


def write_rows(name: str) -> tuple[int, ...]:
    """Rows of two classes for a model, small, as rows.npz; the widths of a network for them."""
    rng = np.random.default_rng(0)
    conv = "conv" in name
    x = rng.normal(size=(240, 1, 6, 6) if conv else (240, 12)).astype(np.float32)
    y = (x.reshape(240, -1)[:, :3].sum(1) > 0).astype(np.int64)
    np.savez("rows.npz", x=np.tanh(x), y=y)
    return (1, 3, 3, 2) if conv else (12, 6, 2)


@pytest.mark.parametrize("model", ["metakan", "fastkan", "gramkanconv"])
def test_training_and_fine_tuning_give_the_scores_of_the_cpu(
    model: str, here: Path, device: torch.device
) -> None:
    hidden = ",".join(map(str, write_rows(model)[1:-1]))
    losses = []
    for where in ("cpu", "cuda"):
        data = ["--data", "rows.npz", "--device", where]
        train = [*data, "--model", model, "--hidden", hidden, "--lr", "1e-3", "--batch-size", "64"]
        done("train", *train, "--epochs", "1", "-o", "one.st", "--keep-state", "always", "--force")
        done("train", *train, "--epochs", "2", "-o", "two.st", "--resume", "one.st", "--force")
        done("cluster", "two.st", "-k", "8", "--force-pack", "-o", "packed.st", "--force")
        tune = [*data, "--epochs", "1", "--lr", "1e-2", "--also", "norms", "--force"]
        done("finetune", "packed.st", *tune, "-o", "tuned.st")
        done("finetune", "packed.st", *tune, "--distill", "two.st", "-o", "taught.st")
        losses.append(
            [
                json.loads(done("eval", file, *data, "--json").stdout)["loss"]
                for file in ("two.st", "tuned.st", "taught.st")
            ]
        )
    # dropout draws otherwise on another device
    assert losses[1] == pytest.approx(losses[0], rel=0.05 if "conv" in model else 1e-3)


def calibrated(where: str, source: str, output: str, *options: str) -> dict[str, Any]:
    """Cluster by outputs on a device; what was measured."""
    report = f"{output}.json"
    done("cluster", source, *options, "--device", where, "-o", output, "--report", report)
    found: dict[str, Any] = json.loads(Path(report).read_text())
    return found


@every_device
@pytest.mark.parametrize(
    ("model", "options"),
    [
        slow("kan", "-k 4"),
        slow("metafastkan", "-k 4 --codebook-dtype float16 --rounds 1 --sweeps 1"),
        slow("gramkan", "-k auto --target-bytes 2400 --side-dtype float16"),
        ("kan", "-k 4 --method metric"),
        slow("fastkanconv", "-k 4 --rounds 1 --sweeps 1"),
        slow("gramkanconv", "-k 4 --method centred --side-dtype float16"),
    ],
)
def test_calibration_gives_the_errors_of_the_cpu(
    model: str, options: str, here: Path, device: torch.device
) -> None:
    kancompress.save(fresh(model, write_rows(model)), "dense.st")
    wishes = ["--calibrate", "rows.npz", "--force-pack", *options.split()]
    cpu = calibrated("cpu", "dense.st", "cpu.st", *wishes)
    there = calibrated("cuda", "dense.st", "there.st", *wishes)
    check_same(cpu, there)
    if device.type == "cuda":
        calibrated("cuda", "dense.st", "again.st", *wishes)
        assert Path("again.st").read_bytes() == Path("there.st").read_bytes()


def check_same(cpu: dict[str, Any], there: dict[str, Any]) -> None:
    """The same choice, and errors that are equal to what rounding can do to a few indices."""
    assert there["clusters"] == cpu["clusters"]
    assert there["held_out_error"] == pytest.approx(cpu["held_out_error"], rel=0.02)
    for name, layer in cpu["layers"].items():
        assert there["layers"][name]["method"] == layer["method"]
        assert there["layers"][name]["error"] == pytest.approx(layer["error"], rel=0.02)


class Small(nn.Module):
    """efficient-kan's layers with a normalisation between them, in a model of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = KanLinear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.last = KanLinear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.tanh(self.norm(self.first(x))))
        return result


class KanLinear(nn.Module):
    """A layer as efficient-kan has it, with splines of degree 0, which are steps."""

    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(inputs)
        self.register_buffer("grid", torch.linspace(-1, 1, 6).repeat(inputs, 1))
        self.base_weight = nn.Parameter(torch.randn(out, inputs, generator=generator))
        self.spline_weight = nn.Parameter(torch.randn(out, inputs, 5, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        steps = (x[..., None] >= self.grid[:, :-1]) & (x[..., None] < self.grid[:, 1:])
        base = nn.functional.linear(nn.functional.silu(x), self.base_weight)
        splines = torch.einsum("nib,oib->no", steps.to(x.dtype), self.spline_weight)
        return base + splines


@pytest.mark.slow
@every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_of_one_s_own_runs_there(
    dtype: torch.dtype, here: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)).tanh()
    np.savez("rows.npz", x=x.numpy())
    Path("small_model.py").write_text("from test_devices import Small\n")
    torch.save(Small().to(dtype).state_dict(), "model.pt")
    options = ["--calibrate", "rows.npz", "-k", "4", "--force-pack", "--method", "feedback"]
    options += ["--model", "small_model:Small", "--rounds", "1"]
    if dtype == torch.float64 and not devices.has_float64(device):
        wish = ("--device", "cuda", "-o", "none.st")
        assert "computes in float64" in refused(2, "cluster", "model.pt", *options, *wish)
        return
    cpu = calibrated("cpu", "model.pt", "cpu.st", *options)
    check_same(cpu, calibrated("cuda", "model.pt", "there.st", *options))
    if device == elsewhere.DEVICE:  # its tensors are of a class of their own
        monkeypatch.setattr(modules, "_check_tensor", lambda name, value, where: None)
    live = Small().to(device)
    config = kancompress.ClusterConfig(clusters=4, force_pack=True)
    few = kancompress.CalibrationConfig(method=kancompress.Method.FEEDBACK, rounds=1)
    found = kancompress.compress_by_outputs(live, x.to(device), config, few)
    assert devices.of(live).type == device.type
    if dtype == torch.float32:
        check_same(cpu, record(found.calibrated))


# One of them at each run; the others by hand.
LIBRARIES = [
    pytest.param(
        case,
        marks=pytest.mark.slow if case == "efficient_kan_default" else pytest.mark.exhaustive,
    )
    for case in sorted(path.parent.name for path in CASES.glob("*/io.safetensors"))
]


@pytest.mark.parametrize("case", LIBRARIES)
def test_networks_of_other_libraries_run_there(case: str, here: Path, device: torch.device) -> None:
    source = str(CASES / case / "state.safetensors")
    tensors = load_file(CASES / case / "io.safetensors")
    x, y = tensors["x"].flatten(1), tensors["y"].flatten(1)
    np.savez("rows.npz", x=x.repeat(8, 1).numpy(), y=y.repeat(8, 1).numpy())
    data = ["--data", "rows.npz", "--device", "cuda", "--json"]
    assert json.loads(done("eval", source, *data).stdout)["loss"] < 1e-6
    options = ["--calibrate", "rows.npz", "-k", "8", "--force-pack"]
    cpu = calibrated("cpu", source, "cpu.st", *options)
    check_same(cpu, calibrated("cuda", source, "there.st", *options))
    for where in ("cpu", "cuda"):
        tune = ["--data", "rows.npz", "--epochs", "2", "--lr", "1e-3", "--device", where]
        done("finetune", "there.st", *tune, "-o", f"{where}-tuned.st")
    losses = [
        json.loads(done("eval", f"{where}-tuned.st", *data).stdout)["loss"]
        for where in ("cpu", "cuda")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_float64_is_refused_where_there_is_none(here: Path) -> None:
    with pytest.raises(UsageError, match="float64, which `device=mps` does not have"):
        devices.put(Small().double(), torch.device("mps"))


def test_a_device_that_is_not_there_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kancompress.save(fresh("kan"), "kan.st")
    for command in (("train", "-o", "out.st"), ("eval", "kan.st")):
        assert "--device cuda was asked for" in refused(2, *command, "--device", "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "--device mps was asked for" in refused(2, "eval", "kan.st", "--device", "mps")
    calibrate = ("cluster", "kan.st", "-o", "out.st", "--calibrate", "digits", "--device", "cuda")
    assert "--device cuda was asked for" in refused(2, *calibrate)
    auto = done("eval", "kan.st", "--json")
    cpu = done("eval", "kan.st", "--json", "--device", "cpu")
    assert json.loads(auto.stdout)["loss"] == json.loads(cpu.stdout)["loss"]


def test_plain_k_means_has_cuda_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kancompress.save(fresh("kan"), "kan.st")
    told = refused(2, "cluster", "kan.st", "-o", "out.st", "--device", "mps")
    assert "k-means runs on the CPU and on cuda; --device mps goes with --calibrate." in told
    told = refused(2, "cluster", "kan.st", "-o", "out.st", "--device", "cuda")
    assert "--device cuda was asked for" in told
    done("cluster", "kan.st", "-o", "out.st", "--device", "cpu")


def test_which_device_is_taken_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {Device.CUDA, Device.MPS, Device.CPU}
    monkeypatch.setattr(devices, "_is_there", lambda device: device in there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    only_cuda = {"auto": (Device.CUDA,)}
    assert devices.find(Device.AUTO).type == devices.find(Device.AUTO, **only_cuda).type == "cuda"
    there.remove(Device.CUDA)
    assert devices.find(Device.AUTO).type == "mps"
    assert devices.find(Device.AUTO, **only_cuda).type == "cpu"
    assert devices.find(Device.MPS, **only_cuda).type == "mps"


def test_on_cuda_torch_is_told_to_repeat_itself() -> None:
    def told() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            cudnn.deterministic,
            cudnn.allow_tf32,
        )

    before = told()
    with devices.repeatable(torch.device("cpu")):
        assert told() == before
    with devices.repeatable(torch.device("cuda")):
        assert told() == (True, True, True, False)
    assert told() == before


def test_threads_are_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kancompress.save(fresh("kan"), "kan.st")
    try:
        done("eval", "kan.st", "--threads", "3")
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    finally:
        kancompress.use_threads(before)
    assert "--threads" in call("eval", "kan.st", "--threads", "0").stderr


@pytest.mark.parametrize("model", ["kan", "metafastkan", "gramkan"])
def test_bfloat16_trains_float32_parameters(model: str) -> None:
    config = kancompress.TrainConfig(lr=1e-2, lr_embedding=1e-2, epochs=3, batch_size=32)
    full = kancompress.train(model, config=config)
    half = kancompress.train(model, config=replace(config, precision="bfloat16"))
    assert all(t.dtype == torch.float32 for t in half.checkpoint.tensors.values())
    assert full.test.accuracy is not None
    assert half.test.accuracy is not None
    assert full.test.accuracy != half.test.accuracy or full.test.loss != half.test.loss
    assert half.test.accuracy > full.test.accuracy - 0.1


@pytest.mark.parametrize("model", ["kanconv", "metafastkanconv", "gramkanconv"])
def test_bfloat16_trains_convolutions(model: str) -> None:
    config = kancompress.TrainConfig(lr=1e-2, lr_embedding=1e-2, epochs=1, batch_size=128)
    full = kancompress.train(model, config=config, hidden=(4, 4))
    half = kancompress.train(model, config=replace(config, precision="bfloat16"), hidden=(4, 4))
    assert all(t.dtype == torch.float32 for t in half.checkpoint.tensors.values())
    assert half.history[-1].train_loss == pytest.approx(full.history[-1].train_loss, rel=0.05)
    assert half.history[-1].train_loss != full.history[-1].train_loss
