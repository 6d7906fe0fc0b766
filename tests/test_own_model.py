"""`--model`: files of other libraries run and tuned in the user's own module."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kancompress
from command import done, refused, spawn
from conftest import fresh
from kancompress.data.datasets import Dataset, Split
from kancompress.errors import KancompressError, UsageError
from kancompress.specs import DataOptions, DataSpec
from kancompress.training.user_module import tune_module

MODELS = """
import torch
from torch import nn
from torch.nn import functional

class KanLinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        knots = torch.arange(-3, 9) * 0.4 - 1
        self.register_buffer("grid", knots.repeat(inputs, 1))
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, 8) / inputs**0.5)

    def forward(self, x):
        far = (x[..., None] - self.grid[:, 2:-2]).abs() / 0.4
        base = functional.linear(functional.silu(x), self.base_weight)
        return base + torch.einsum("nis,ois->no", (1 - far).relu(), self.spline_weight)

class Net(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.kan = KanLinear(48, outputs)

    def forward(self, x):
        return self.kan(torch.tanh(self.norm(self.conv(x))).flatten(1))

class Flat(Net):
    def forward(self, x):
        return super().forward(x.reshape(-1, 2, 6, 6))

class Noisy(Net):
    def forward(self, x):
        print("a word on stdout")
        return super().forward(x)

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Three(Net):
    def forward(self, x):
        return super().forward(x)[:, :, None]

class Whole(Net):
    def forward(self, x):
        return super().forward(x).sum()

class Angry(Net):
    def forward(self, x):
        raise LookupError("no such thing.")

def doubled():
    return Net().double()

def regression():
    return Net(2)

def fewer():
    return Net(1)

def broken():
    raise ValueError("[red]not today")

def none():
    return None

ready = Net()
number = 3
"""
IMPORTED = ("models", "splines", "broken_import", "needs_more", "leaves")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with models.py, images.npz, model.pt and packed.st, where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "broken_import.py").write_text("1 / 0\n")
    (tmp_path / "needs_more.py").write_text("import no_such_library\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    model = make("Net")
    torch.save(model.state_dict(), "model.pt")
    kancompress.compress(model, clusters=6, seed=1).save("packed.st")
    x = np.random.default_rng(0).normal(size=(120, 2, 6, 6)).astype(np.float32)
    y = np.argmax(x.reshape(120, 3, 24).sum(2), axis=1)
    np.savez("images.npz", x=x, y=y)
    np.savez("flat.npz", x=x.reshape(120, 72), y=y)
    np.savez("targets.npz", x=x, y=x[:, 0, 0, :2])
    yield tmp_path
    for name in IMPORTED:
        sys.modules.pop(name, None)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return kancompress.build_module(f"models:{name}")


def held_rows() -> tuple[np.ndarray, np.ndarray]:
    """The rows that test: a fixed fifth of the file."""
    arrays = np.load("images.npz")
    held = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:24].numpy()
    return arrays["x"][held], arrays["y"][held]


@pytest.mark.parametrize("file", ["packed.st", "model.pt"])
def test_eval_scores_the_model_with_the_files_tensors(file: str) -> None:
    x, y = held_rows()
    model = make("Net")
    if file == "packed.st":
        model.load_state_dict(kancompress.load(file).state_dict())
    else:
        model.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        outputs = model.eval()(torch.from_numpy(x)).double().numpy()
    wanted = (outputs.argmax(1) == y).mean()
    result = done("eval", file, "--model", "models:Net", "--data", "images.npz", "--json",
                  "--predictions", "out.npz")  # fmt: skip
    assert json.loads(result.stdout)["accuracy"] == pytest.approx(wanted)
    assert np.allclose(np.load("out.npz")["outputs"], outputs, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "models:Flat", "--data", "flat.npz"),
        ("--model", "models:Net", "--data", "flat.npz", "--input-shape", "2,6,6"),
        ("--model", "models:Flat", "--data", "images.npz", "--input-shape", "72"),
        ("--model", "models:doubled", "--data", "images.npz"),
        ("--model", "models:ready", "--data", "images.npz"),
        ("--model", "models:Noisy", "--data", "images.npz"),
    ],
    ids=" ".join,
)
def test_shapes_types_and_factories(arguments: tuple[str, ...]) -> None:
    command = ("eval", "packed.st", "--json", "--model", "models:Net", "--data", "images.npz")
    wanted = json.loads(done(*command).stdout)
    found = json.loads(done("eval", "packed.st", "--json", *arguments).stdout)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert found["examples"] == 24


def test_regression() -> None:
    model = make("regression")
    kancompress.compress(model, clusters=4).save("two.st")
    result = done("eval", "two.st", "--model", "models:regression", "--data", "targets.npz")
    assert result.stdout.startswith("rmse ")


ERRORS = {
    "models": (2, "--model models names no callable; write package.module:factory"),
    "models:": (2, "names no callable"),
    ".models:Net": (2, "names no callable"),
    "modles:Net": (2, "there is no module modles, neither installed nor in"),
    "models.inner:Net": (2, "there is no module models.inner, neither installed nor in"),
    "models:Nut": (2, "models has no attribute Nut."),
    "models:Net.make": (2, "models.Net has no attribute make."),
    "models:number": (2, "number is int, which cannot be called"),
    "models:none": (2, "gave NoneType; a torch.nn.Module was expected."),
    "models:broken": (1, "broken() raised ValueError: [red]not today."),
    "broken_import:Net": (1, "Importing broken_import for --model broken_import:Net raised"
                             " ZeroDivisionError: division by zero."),
    "needs_more:Net": (1, "raised ModuleNotFoundError: No module named 'no_such_library'."),
    "leaves:Net": (1, "raised SystemExit: 0."),
    "models:regression": (2, "'kan.base_weight' has the shape [3, 48] and the model's [2, 48]"),
    "torch.nn:Identity": (2, "packed.st does not fit the model: 10 unexpected ('conv.weight',"
                             " 'conv.bias', 'norm.weight' and 7 more)."),
    "models:Angry": (1, "The model's forward, given rows of shape [2, 6, 6], raised LookupError:"
                        " no such thing."),
    "models:Pair": (2, "The model gives tuple; a tensor (rows, outputs) was expected."),
    "models:Three": (2, "gives outputs of shape [24, 3, 1] for 24 rows; (rows, outputs)"),
}  # fmt: skip


@pytest.mark.parametrize("target", ERRORS)
def test_errors_of_the_model(target: str) -> None:
    code, text = ERRORS[target]
    line = refused(code, "eval", "packed.st", "--model", target, "--data", "images.npz")
    assert text in line


def test_errors_of_options_and_files() -> None:
    kancompress.save(fresh("fastkan", (5, 4, 3)), "own.st")
    kancompress.compress(make("fewer"), clusters=4).save("fewer.st")
    model, data = ("--model", "models:Net"), ("--data", "images.npz")
    assert "leave --model out" in refused(2, "eval", "own.st", *model, *data)
    assert "tells 1 classes apart, but y has 3" in refused(
        2, "eval", "fewer.st", "--model", "models:fewer", *data
    )
    assert "The model has 3 outputs, but y has 2 targets" in refused(
        2, "eval", "packed.st", *model, "--data", "targets.npz"
    )
    assert "--input-shape 2,5,6 has 60 numbers, but the data has 72" in refused(
        2, "eval", "packed.st", *model, *data, "--input-shape", "2,5,6"
    )
    for text in ("2,-1", "", "2;3", "0,3"):
        assert "is no shape; write sizes as in 3,32,32" in refused(
            2, "eval", "packed.st", *model, *data, "--input-shape", text
        )
    assert "--input-shape is for --model" in refused(
        2, "eval", "packed.st", *data, "--input-shape", "72"
    )
    assert "leave out what tells kancompress's (--layout" in refused(
        2, "eval", "packed.st", *model, *data, "--grid-range", "-2,2"
    )
    assert "does not name its data set" in refused(2, "eval", "packed.st", *model)
    assert "--compile is for networks of kancompress's own" in refused(
        2, "finetune", "packed.st", *model, *data, "--compile", "-o", "out.st"
    )
    assert "given rows of shape [2, 3, 12], raised RuntimeError: " in refused(
        1, "eval", "packed.st", "--model", "models:Net", *data, "--input-shape", "2,3,12"
    )


@pytest.mark.exhaustive
def test_a_process_of_its_own_with_a_traceback_for_debug(place: Path) -> None:
    command = ("eval", "packed.st", "--model", "models:Angry", "--data", "images.npz")
    plain = spawn(*command, cwd=place)
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert len(plain.stderr.splitlines()) == 1
    debug = spawn(*command, "--debug", cwd=place)
    assert debug.returncode == 1
    assert 'raise LookupError("no such thing.")' in debug.stderr
    noisy = spawn("eval", "packed.st", "--model", "models:Noisy", "--data", "images.npz", "--json",
                  cwd=place)  # fmt: skip
    assert json.loads(noisy.stdout)["examples"] == 24
    assert "a word on stdout" in noisy.stderr


TUNE = ("finetune", "packed.st", "--model", "models:Net", "--data", "images.npz", "--json",
        "--lr", "0.02", "--epochs", "8", "--batch-size", "16")  # fmt: skip


def test_finetune_trains_the_codebooks_alone() -> None:
    result = done(*TUNE, "-o", "tuned.st")
    report = json.loads(result.stdout)
    assert report["best_epoch"] > 0
    assert report["validation"]["accuracy"] >= report["validation_before"]["accuracy"]
    before, after = (kancompress.load(name) for name in ("packed.st", "tuned.st"))
    assert isinstance(before, kancompress.PackedModel)
    assert isinstance(after, kancompress.PackedModel)
    assert before.restore == after.restore
    old, new = before.state_dict(), after.state_dict()
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed == ["kan.base_weight", "kan.spline_weight"]
    assert np.array_equal(before.layers[0].index, after.layers[0].index)  # type: ignore[arg-type]
    scored = done("eval", "tuned.st", "--model", "models:Net", "--data", "images.npz", "--json")
    assert json.loads(scored.stdout)["accuracy"] == report["test"]["accuracy"]
    assert json.loads(scored.stdout)["loss"] == pytest.approx(report["test"]["loss"])


def test_finetune_norms_writes_their_parameters_and_statistics() -> None:
    command = (*TUNE, "--also", "norms")
    report = json.loads(done(*command, "-o", "tuned.st").stdout)
    assert report["best_epoch"] > 0
    old, new = (kancompress.load(name).state_dict() for name in ("packed.st", "tuned.st"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    norm = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert changed == {"kan.base_weight", "kan.spline_weight", *(f"norm.{name}" for name in norm)}
    scored = done("eval", "tuned.st", "--model", "models:Net", "--data", "images.npz", "--json")
    assert json.loads(scored.stdout)["loss"] == pytest.approx(report["test"]["loss"])
    again = json.loads(done(*command, "-o", "again.st").stdout)
    assert again["history"] == report["history"]
    assert Path("again.st").read_bytes() == Path("tuned.st").read_bytes()


def test_nothing_worse_is_written() -> None:
    report = json.loads(
        done("finetune", "packed.st", "--model", "models:Net", "--data", "images.npz", "--lr",
             "500", "--epochs", "2", "--json", "--also", "norms", "-o", "tuned.st").stdout
    )  # fmt: skip
    if report["best_epoch"] == 0:
        assert Path("tuned.st").read_bytes() == Path("packed.st").read_bytes()
    assert report["validation"]["accuracy"] >= report["validation_before"]["accuracy"]


def rows(count: int = 64) -> Split:
    x = torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    return Split(x=x, y=(x.sum((1, 2, 3)) > 0).long())


def dataset() -> Dataset:
    part = rows()
    return Dataset(spec=DataSpec(name="file", classes=2), train=part, validation=part, test=part)


def test_tuning_leaves_the_module_with_the_result_and_its_settings() -> None:
    model = make("Net")
    model.train()
    model.get_submodule("conv").eval()
    model.get_parameter("conv.bias").requires_grad_(False)
    packed = kancompress.compress(model, clusters=6, codebook_dtype="float16").model
    config = kancompress.FinetuneConfig(lr=0.05, epochs=6)
    tuned = tune_module(model, packed, dataset(), config)
    assert tuned.validation.key() < tuned.validation_before.key()
    assert model.training
    assert not model.get_submodule("conv").training
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert flags == dict.fromkeys(flags, True) | {"conv.bias": False}
    state = tuned.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_a_model_keeps_between_passes_does_not_reach_the_file() -> None:
    class Counting(nn.Module):
        """A buffer that training changes and the outputs depend on."""

        seen: Tensor

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Any:
            if self.training:
                self.seen += 1
            return self.inner(x) + self.seen * torch.arange(3)

    model = Counting(make("Net"))
    packed = kancompress.compress(model, clusters=6).model
    tuned = tune_module(model, packed, dataset(), kancompress.FinetuneConfig(lr=0.05, epochs=3))
    assert float(model.seen) == 0
    assert float(tuned.model.state_dict()["seen"]) == 0
    score = kancompress.evaluate(
        tuned.model, DataOptions(file=images_again(), shape=()), model=model
    )
    assert score.score.loss == pytest.approx(tuned.test.loss)


def images_again() -> Path:
    part = rows()
    arrays = {"x": part.x.numpy(), "y": part.y.numpy()}
    np.savez("again.npz", **arrays, x_test=arrays["x"], y_test=arrays["y"])
    return Path("again.npz")


def test_the_library_takes_a_module() -> None:
    options = DataOptions(file=Path("images.npz"), shape=())
    config = kancompress.FinetuneConfig(lr=0.02, epochs=3)
    tuned = kancompress.finetune("packed.st", options, config, model=make("Net"))
    again = kancompress.evaluate(tuned.model, options, model=make("Net"))
    assert again.score == tuned.test
    with pytest.raises(UsageError, match="leave `model` out"):
        kancompress.evaluate(fresh("fastkan", (5, 4, 3)), options, model=make("Net"))
    with pytest.raises(KancompressError, match="raised LookupError") as caught:
        kancompress.evaluate("packed.st", options, model=make("Angry"))
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_torch_image_set_is_resized_to_the_shape(place: Path) -> None:
    from test_data_files import write_mnist

    write_mnist(place / "data")
    (place / "sized.py").write_text(
        "from models import Net, nn\n"
        "class Sized(Net):\n"
        "    def __init__(self):\n"
        "        super().__init__(10)\n"
        "    def forward(self, x):\n"
        "        assert x.shape[1:] == (1, 6, 6), x.shape\n"
        "        return super().forward(x.repeat(1, 2, 1, 1))\n"
    )
    try:
        model = kancompress.build_module("sized:Sized")
        kancompress.compress(model, clusters=5).save("ten.st")
        arguments = ("eval", "ten.st", "--model", "sized:Sized", "--dataset", "mnist")
        result = done(*arguments, "--input-shape", "1,6,6", "--json")
        assert json.loads(result.stdout)["examples"] == 8
    finally:
        sys.modules.pop("sized", None)


def test_codebooks_learn_from_the_dense_tensors_in_the_users_model() -> None:
    """No labels: nearer to the dense outputs on the rows; norms and biases learn, too."""
    images = np.random.default_rng(1).normal(size=(1500, 2, 6, 6)).astype(np.float32)
    np.savez("rows.npz", x=images)
    model = make("Net").train()
    for _ in range(60):  # running statistics that are those of the rows
        model(torch.from_numpy(images))
    torch.save(model.state_dict(), "model.pt")
    kancompress.compress(model, clusters=6, seed=1).save("packed.st", force=True)
    line = ["finetune", "packed.st", "--model", "models:Net", "--distill", "model.pt", "--json",
            "--lr", "5e-3", "--epochs", "12"]  # fmt: skip
    told = json.loads(done(*line, "--data", "rows.npz", "-o", "taught.st").stdout)
    assert told["test"] is None
    assert told["validation"]["loss"] < told["validation_before"]["loss"]
    outputs = {}
    model.eval()
    for file in ("model.pt", "packed.st", "taught.st"):
        kept = torch.load(file, weights_only=True) if file.endswith(".pt") else None
        state = kept or kancompress.load(file).state_dict()
        model.load_state_dict(state)
        with torch.no_grad():
            outputs[file] = model(torch.from_numpy(images))
    wanted = outputs.pop("model.pt")
    errors = [float((found - wanted).square().mean()) for found in outputs.values()]
    assert errors[1] < 0.95 * errors[0]
    before, after = (kancompress.load(file).state_dict() for file in ("packed.st", "taught.st"))
    for name in ("conv.bias", "norm.weight"):
        assert not torch.equal(before[name], after[name])
    assert torch.equal(before["conv.weight"], after["conv.weight"])
    told = json.loads(done(*line, "--data", "images.npz", "-o", "labelled.st").stdout)
    assert told["test"]["examples"] == 24


def test_a_teacher_leaves_the_modes_of_the_users_model() -> None:
    np.savez("rows.npz", x=np.load("images.npz")["x"])
    model = make("Net").train()
    model.kan.eval()
    modes = [module.training for module in model.modules()]
    config = kancompress.FinetuneConfig(epochs=1)
    data = DataOptions(file=Path("rows.npz"), shape=())
    kancompress.finetune("packed.st", data, config, model=model, teacher="model.pt")
    assert [module.training for module in model.modules()] == modes


def test_what_cannot_teach_is_refused() -> None:
    np.savez("rows.npz", x=np.load("images.npz")["x"])
    torch.save({"other": torch.zeros(3)}, "other.pt")
    line = ["finetune", "packed.st", "--data", "rows.npz", "-o", "x.st"]
    assert "missing" in refused(2, *line, "--model", "models:Net", "--distill", "other.pt")
    assert "tuple" in refused(2, *line, "--model", "models:Pair", "--distill", "model.pt")
    said = refused(2, *line, "--model", "models:Whole", "--distill", "model.pt")
    assert "outputs of shape []" in said
    state = make("Net").state_dict()
    state["kan.base_weight"][0, 0] = torch.nan
    torch.save(state, "nan.pt")
    said = refused(2, *line, "--model", "models:Net", "--distill", "nan.pt")
    assert "The dense model gives NaN or infinity" in said


def wrapped(kind: str) -> dict[str, Any]:
    """The state dict of the plain model as a wrapper of it saves it."""
    model = make("Net")
    if kind == "averaged":
        return torch.optim.swa_utils.AveragedModel(model).state_dict()
    state = model.state_dict()
    if kind == "lightning":
        return {"epoch": 1, "state_dict": {f"model.{name}": t for name, t in state.items()}}
    if kind == "fsdp of a part":
        return {name.replace("kan.", "kan._fsdp_wrapped_module."): t for name, t in state.items()}
    named = {f"{kind}{name}": tensor for name, tensor in state.items()}
    return {**named, "ema.num_updates": torch.tensor(7)} if kind.startswith("ema.") else named


@pytest.mark.parametrize(
    "kind",
    ["lightning", "averaged", "fsdp of a part", "_fsdp_wrapped_module.", "_forward_module.",
     "model._orig_mod.", "ema.module.", "net.0.backbone."],
)  # fmt: skip
def test_files_of_wrappers_fit_the_bare_model(kind: str) -> None:
    x, _ = held_rows()
    with torch.no_grad():
        wanted = make("Net").eval()(torch.from_numpy(x)).numpy()
    torch.save(wrapped(kind), "wrapped.pt")
    done("eval", "wrapped.pt", "--model", "models:Net", "--data", "images.npz", "--predictions",
         "out.npz")  # fmt: skip
    assert np.allclose(np.load("out.npz")["outputs"], wanted, atol=1e-5)


SPLINES = """
import torch
from torch import nn
from torch.nn import functional

class Layer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.register_buffer("grid", (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1))
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, 8) / inputs**0.5)

    def forward(self, x):
        far = (x[..., None] - self.grid[:, 2:-2]).abs() / 0.4
        near = 2 / 3 - far**2 + far**3 / 2
        splines = torch.where(far < 1, near, (2 - far).clamp(min=0) ** 3 / 6)
        base = functional.linear(functional.silu(x), self.base_weight)
        return base + torch.einsum("nis,ois->no", splines, self.spline_weight)

class Bare(Layer):
    def __init__(self):
        super().__init__(6, 4)

class Held(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Layer(6, 4)

    def forward(self, x):
        return self.net(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.skip = nn.Linear(6, 4)
        self.kan = Layer(6, 4)

    def forward(self, x):
        return self.kan(x) + self.skip(x)
"""


def test_all_commands_give_what_they_give_without_prefixes(place: Path) -> None:
    (place / "splines.py").write_text(SPLINES)
    torch.manual_seed(0)
    model = kancompress.build_module("splines:Net")
    state = model.state_dict()
    torch.save(state, "plain.pt")
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 1}, "light.pt")
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), "averaged.pt")
    np.savez("rows.npz", x=torch.randn(400, 6).numpy() / 2)
    own = ("--model", "splines:Net", "--json")
    told: dict[str, list[Any]] = {"cluster": [], "finetune": []}
    for file in ("plain.pt", "light.pt", "averaged.pt"):
        calibrated = done("cluster", file, *own, "--calibrate", "rows.npz", "-k", "4", "--method",
                          "centred", "-o", "calibrated.st", "--force")  # fmt: skip
        told["cluster"].append(json.loads(calibrated.stdout)["calibration"]["error"])
        tuned = done("finetune", "calibrated.st", *own, "--distill", file, "--data", "rows.npz",
                     "--epochs", "1", "-o", "tuned.st", "--force")  # fmt: skip
        told["finetune"].append(json.loads(tuned.stdout)["validation"])
    for found in told.values():
        assert found[1:] == [found[0]] * 2


@pytest.mark.parametrize(("prefix", "model"), [("model.", "Bare"), ("", "Held"), ("a.b.", "Held")])
def test_a_layer_that_is_the_whole_model(prefix: str, model: str, place: Path) -> None:
    """Its module is found, whichever of the two has a name for it."""
    (place / "splines.py").write_text(SPLINES)
    torch.manual_seed(0)
    layer = kancompress.build_module("splines:Bare")
    torch.save({f"{prefix}{name}": t for name, t in layer.state_dict().items()}, "one.pt")
    np.savez("rows.npz", x=torch.randn(400, 6).numpy() / 2)
    line = ("--calibrate", "rows.npz", "-k", "4", "--method", "centred", "-o", "one.st", "--json")
    if prefix == "a.b.":  # two prefixes, one on each side
        assert "does not fit" in refused(2, "cluster", "one.pt", *line, "--model", "splines:Held")
        return
    told = json.loads(done("cluster", "one.pt", *line, "--model", f"splines:{model}").stdout)
    assert not any("plain k-means;" in note for note in told["notes"])
    assert told["calibration"]["error"] < 0.5


def test_what_is_no_wrappers_name_still_does_not_fit() -> None:
    state = wrapped("model.")
    command = ("eval", "wrapped.pt", "--model", "models:Net", "--data", "images.npz")
    torch.save({**state, "loss.weight": torch.ones(3)}, "wrapped.pt")
    assert "1 unexpected ('loss.weight')" in refused(2, *command)
    torch.save({**state, "n_averaged": torch.ones(3)}, "wrapped.pt")
    assert "1 unexpected ('n_averaged')" in refused(2, *command)
    state["other.conv.bias"] = state.pop("model.conv.bias")
    torch.save(state, "wrapped.pt")
    said = refused(2, *command)
    assert "1 missing ('conv.bias'); 1 unexpected ('other.conv.bias')" in said


def test_a_plain_state_dict_fits_a_model_in_wrappers() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.net = inner

    plain = make("Net")
    torch.save(plain.state_dict(), "model.pt")
    packed = kancompress.cluster("model.pt", kancompress.ClusterConfig(clusters=6))
    model = Wrapper(kancompress.build_module("models:Net"))
    packed.apply_to(model)
    wanted = packed.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in model.net.state_dict().items())
