"""Mistakes that people make, each told in one sentence on every way there is: what, where, what to
try. The commands run in this process, the library beside them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from test_masked import pruned
from torch import nn
from torch.nn.utils import prune

import kancompress
from command import call, done, refused
from kancompress import KancompressError, UsageError

SCRIPT = """
import torch
from torch import nn
from torch.nn.utils import prune

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.spline_weight = nn.Parameter(torch.ones(3, 4, 8))
        self.base_weight = nn.Parameter(torch.ones(3, 4))
        self.register_buffer("grid", (torch.arange(-3, 9) * 0.4 - 1).repeat(4, 1))

    def forward(self, x):
        return x @ self.base_weight.T

def make_net():
    return nn.ModuleDict({"layers": nn.ModuleList([Layer()])}).layers[0]
"""


def layer(prefix: str = "") -> dict[str, torch.Tensor]:
    """A layer as efficient-kan names and shapes it."""
    return {
        f"{prefix}spline_weight": torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)),
        f"{prefix}base_weight": torch.ones(3, 4),
        f"{prefix}grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(4, 1),
    }


def with_counts() -> dict[str, torch.Tensor]:
    """The same with what thop's `profile` leaves."""
    counts = {"total_ops": torch.zeros(1).double(), "total_params": torch.zeros(1).double()}
    return layer("layers.0.") | {f"layers.0.{name}": one for name, one in counts.items()} | counts


def weight_normed(how: str) -> dict[str, torch.Tensor]:
    """A layer's state dict as torch itself writes it, its coefficients parametrised."""
    module = nn.Module()
    for name, tensor in layer().items():
        module.register_parameter(name, nn.Parameter(tensor))
    if how == "new":
        nn.utils.parametrizations.weight_norm(module, "spline_weight")
    elif how == "old":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has a newer one
            nn.utils.weight_norm(module, "spline_weight")
    else:
        prune.l1_unstructured(module, "spline_weight", amount=0.5)
    return module.state_dict()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files of these tests."""
    place = tmp_path_factory.mktemp("messages")
    rng = np.random.default_rng(0)
    torch.save(layer("layers.0."), place / "kan.pt")
    torch.save(with_counts(), place / "profiled.pt")
    mlp = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    torch.save(mlp.state_dict(), place / "mlp.pt")
    cnn = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    torch.save(cnn.state_dict(), place / "cnn.pt")
    torch.save(nn.TransformerEncoderLayer(4, 2, 8).state_dict(), place / "transformer.pt")
    torch.save(nn.LSTM(4, 3).state_dict(), place / "lstm.pt")
    for how in ("new", "old", "pruned"):
        torch.save(weight_normed(how), place / f"{how}.pt")
    whole = (place / "kan.pt").read_bytes()
    (place / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (place / "zeros.pt").write_bytes(bytes(500))
    (place / "net.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x032.1:" + bytes(90))
    rows = rng.normal(size=(30, 4)).astype(np.float32)
    np.savez(place / "features.npz", features=rows, labels=np.arange(30) % 3)
    np.savez(place / "rows.npz", x=rows, y=np.arange(30) % 3)
    np.save(place / "rows.npy", rows)
    torch.save(pruned(0, widths=(5, 4, 3)), place / "dead.pt")
    np.savez(place / "five.npz", x=np.zeros((20, 5), np.float32), y=np.arange(20) % 3)
    (place / "own_models.py").write_text(SCRIPT)
    packed = kancompress.cluster(layer("layers.0."), clusters=2, force_pack=True)
    kancompress.save(packed, place / "packed.st")
    return place


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


# Ways that read other libraries' files, and those that read kancompress's own alone.
FOREIGN_WAYS = (
    ("cluster", "{}", "-o", "out.st"),
    ("cluster", "{}", "--calibrate", "rows.npz", "-o", "out.st"),
    ("eval", "{}", "--data", "rows.npz"),
    ("predict", "{}", "--data", "rows.npz", "-o", "out.npz"),
)
OWN_WAYS = (
    ("expand", "{}", "-o", "out.pt"),
    ("export", "{}", "-o", "out.h"),
    ("finetune", "{}", "-o", "out.st"),
    ("repack", "{}", "-o", "out.st"),
)
INSPECT = ("inspect", "{}")


def said(way: tuple[str, ...], file: str, code: int) -> str:
    return refused(code, *(part.format(file) for part in way))


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*FOREIGN_WAYS, *OWN_WAYS, INSPECT], ids=" ".join)
def test_the_nearest_name_is_told_for_a_file_that_is_not_there(way: tuple[str, ...]) -> None:
    assert said(way, "kna.pt", 3) == "kna.pt does not exist. Did you mean kan.pt?"
    assert said(way, "kan.pth", 3) == "kan.pth does not exist. Did you mean kan.pt?"
    assert said(way, "nowhere/kan.pt", 3).endswith("There is no directory nowhere.")
    assert said(way, "something else", 3) == "something else does not exist."


def test_the_nearest_name_is_told_of_other_inputs() -> None:
    calls = {
        ("eval", "kan.pt", "--data", "row.npz"): "row.npz does not exist. Did you mean rows.npz?",
        ("predict", "kan.pt", "--data", "row.npz", "-o", "out.npz"): "Did you mean rows.npz?",
        ("cluster", "kan.pt", "--layout", "@rows.np", "-o", "o.st"): "Did you mean rows.np",
    }
    for command, text in calls.items():
        assert text in refused(3, *command)
    line = refused(2, "cluster", "kan.pt", "--calibrate", "row.npz", "-o", "out.st")
    assert line.startswith("--calibrate row.npz is neither a file nor a data set; data sets are")
    assert line.endswith("Did you mean rows.npz?")
    line = refused(2, "cluster", "kan.pt", "--calibrate", "minst", "-o", "out.st")
    assert line.endswith("Did you mean mnist?")


@pytest.mark.parametrize("way", [*FOREIGN_WAYS, INSPECT], ids=" ".join)
@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("features.npz", "holds NumPy arrays (features, labels), which are data and no network"),
        ("rows.npy", "this is a NumPy array, which is data and no network"),
        ("net.onnx", "is an ONNX model, a graph for runtimes; give the checkpoint that it was"),
        ("cut.pt", "was not copied whole, or torch.save was interrupted; copy or save it again."),
        ("zeros.pt", "this is bytes of zero, as an interrupted copy leaves them; copy it again."),
    ],
)
def test_other_files_are_called_what_they_are(way: tuple[str, ...], file: str, says: str) -> None:
    line = said(way, file, 3)
    assert line.startswith(file)
    assert says in line


@pytest.mark.parametrize("way", OWN_WAYS, ids=" ".join)
def test_other_files_are_called_so_where_only_own_ones_are_read(way: tuple[str, ...]) -> None:
    assert "holds NumPy arrays, which are data and no network" in said(way, "features.npz", 3)
    assert "is an ONNX model" in said(way, "net.onnx", 3)
    with pytest.raises(KancompressError, match="is an ONNX model"):
        kancompress.load("net.onnx")


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "kan.pt", "--data", "features.npz"),
        ("cluster", "kan.pt", "--calibrate", "features.npz", "-o", "out.st"),
        ("predict", "kan.pt", "--data", "features.npz", "-o", "out.npz"),
        ("finetune", "packed.st", "--data", "features.npz", "-o", "out.st"),
        ("train", "--data", "features.npz", "-o", "out.st"),
    ],
    ids=" ".join,
)
def test_the_arrays_of_a_file_without_x_are_named(command: tuple[str, ...]) -> None:
    line = refused(3, *command)
    assert line.startswith("features.npz has no array 'x' among 'features', 'labels'; ")
    assert "(rename one with numpy.savez(NEW, x=...))" in line


# --- networks that are no KAN ---------------------------------------------------------------


ORDINARY = {
    "mlp.pt": "It has 2 linear layers, no KAN layer, and kancompress packs KAN layers alone.",
    "cnn.pt": "It has 1 convolution and 1 linear layer, no KAN layer",
    "transformer.pt": "It has 1 attention layer and 3 linear layers, no KAN layer",
    "lstm.pt": "It has 1 recurrent cell, no KAN layer",
}
PARAMETRISED = {
    "old.pt": "spline_weight_g comes of weight_norm, which keeps a tensor as others: undo it with"
    " torch.nn.utils.remove_weight_norm(layer, 'spline_weight')",
    "new.pt": "come of torch.nn.utils.parametrize, which keeps a tensor as others: undo it with"
    " torch.nn.utils.parametrize.remove_parametrizations(layer, 'spline_weight')",
    "pruned.pt": "torch.nn.utils.prune.remove(layer, 'spline_weight')",
}


@pytest.mark.parametrize("way", FOREIGN_WAYS, ids=" ".join)
@pytest.mark.parametrize("file", [*ORDINARY, *PARAMETRISED])
def test_a_network_without_kan_layers_is_called_what_it_is(way: tuple[str, ...], file: str) -> None:
    line = said(way, file, 2)
    assert (ORDINARY | PARAMETRISED)[file] in line
    assert "--layout" not in line


@pytest.mark.parametrize("file", [*ORDINARY, *PARAMETRISED])
def test_inspect_and_python_call_it_so(file: str) -> None:
    text = (ORDINARY | PARAMETRISED)[file]
    assert any(text in problem for problem in kancompress.inspect(file)["problems"])
    assert text in " ".join(done("inspect", file).stdout.split())
    with pytest.raises(UsageError) as caught:
        kancompress.cluster(torch.load(file, weights_only=True))
    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["spline_linear", "kan", "rbf", "poly"])
def test_layers_that_may_be_a_kans_are_not_called_ordinary(name: str) -> None:
    with pytest.raises(UsageError, match="Describe the layers with `layouts`"):
        kancompress.cluster({f"0.{name}.weight": torch.ones(4, 3)})


# --- tensors to leave out -------------------------------------------------------------------


def test_counts_of_a_profiler_get_a_hint_and_are_left_out() -> None:
    hint = "are counts that a profiler left; leave them out with --drop 'total_*'."
    assert hint in refused(2, "eval", "profiled.pt", "--data", "rows.npz")
    assert hint in done("cluster", "profiled.pt", "--force-pack", "--force", "-o", "o.st").stderr
    assert hint in " ".join(done("inspect", "profiled.pt").stdout.split())
    wanted = done("eval", "kan.pt", "--data", "rows.npz").stdout.split(",")[:2]
    for drop in (("--drop", "total_*"), ("--drop", "total_ops", "--drop", "total_params")):
        command = ("eval", "profiled.pt", "--data", "rows.npz", *drop)
        assert done(*command).stdout.split(",")[:2] == wanted
    own = ("--data", "rows.npz", "--model", "own_models.py:make_net")
    torch.save({name.removeprefix("layers.0."): t for name, t in with_counts().items()}, "own.pt")
    done("eval", "own.pt", *own)  # a module that was not profiled has no place for them


def test_dropped_tensors_are_in_no_packed_file() -> None:
    done("cluster", "profiled.pt", "--force-pack", "--drop", "total_*", "--force", "-o", "less.st")
    done("cluster", "kan.pt", "--force-pack", "--force", "-o", "kan.st")
    restored = kancompress.expand("less.st")
    assert isinstance(restored, kancompress.Restored)
    assert list(restored.tensors) == list(layer("layers.0."))
    other = kancompress.expand("kan.st")
    assert isinstance(other, kancompress.Restored)
    for name, tensor in restored.tensors.items():
        assert torch.equal(tensor, other.tensors[name])
    of_state = kancompress.cluster(with_counts(), drop="total_*", force_pack=True)  # type: ignore
    assert list(of_state.state_dict()) == list(layer("layers.0."))
    told = kancompress.inspect("profiled.pt", drop=["total_*"])
    assert told["payload_bytes"] == kancompress.inspect("kan.pt")["payload_bytes"]
    outputs = kancompress.predict("profiled.pt", np.zeros((2, 4)), drop=("total_*",)).outputs
    assert outputs.shape == (2, 3)


def test_a_teacher_a_sweep_and_a_comparison_leave_tensors_out() -> None:
    done("cluster", "profiled.pt", "--force-pack", "--drop", "total_*", "--force", "-o", "less.st")
    rows, drop = ("--data", "rows.npz"), ("--drop", "total_*")
    told = json.loads(done("compare", "profiled.pt", "less.st", *rows, *drop, "--json").stdout)
    assert told["largest_deviation"] < 1e-5
    hint = "leave them out with --drop 'total_*'"
    assert hint in refused(2, "compare", "profiled.pt", "less.st", *rows)
    done("sweep", "profiled.pt", "-k", "4", *rows, *drop)
    assert hint in refused(2, "sweep", "profiled.pt", "-k", "4", *rows)
    tune = ("finetune", "less.st", "--epochs", "0", *rows, "--distill", "profiled.pt", "-o", "t.st")
    done(*tune, *drop)
    assert hint in refused(2, *tune, "--force")
    line = refused(2, "finetune", "less.st", *rows, *drop, "-o", "u.st")
    assert line == "--drop goes with a teacher."
    own = kancompress.compare("profiled.pt", "less.st", "rows.npz", drop=["total_*"])
    assert own.largest == told["largest_deviation"]
    many = kancompress.sweep("profiled.pt", [4], data="rows.npz", drop=["total_*"])
    assert many.dense == own.dense.score


def test_tied_tensors_stay_whichever_of_them_is_dropped() -> None:
    state = layer("a.")
    state["copy.spline_weight"] = state["a.spline_weight"]
    torch.save(state, "tied.pt")
    packed = kancompress.cluster("tied.pt", drop=["copy.*"], force_pack=True)
    assert list(packed.state_dict()) == list(layer("a."))
    again = {"0.first": state["a.spline_weight"], **layer("a.")}
    again["a.spline_weight"] = again["0.first"]
    torch.save(again, "tied.pt")
    packed = kancompress.cluster("tied.pt", drop=["first"], clusters=64, force_pack=True)
    assert torch.equal(packed.state_dict()["a.spline_weight"], state["a.spline_weight"])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("cluster", "profiled.pt", "--drop", "totl_ops"), "fits no tensor of profiled.pt. Did you"
         " mean total_ops?"),
        (("cluster", "profiled.pt", "--drop", "*"), "--drop leaves no tensor of profiled.pt"),
        (("cluster", "packed.st", "--drop", "a"), "--drop is for other libraries' files, and"),
    ],
)  # fmt: skip
def test_patterns_that_mean_nothing_are_refused(command: tuple[str, ...], says: str) -> None:
    assert says in refused(2, *command, "-o", "out.st")


# --- options --------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--data", "--dataset"])
def test_rows_of_cluster_are_found_under_their_name(option: str) -> None:
    line = refused(2, "cluster", "kan.pt", option, "mnist", "-o", "out.st")
    assert line.startswith(f"cluster has no {option}; rows to cluster by outputs are given with")
    assert "--calibrate DATA" in line
    with pytest.raises(UsageError, match=r"Did you mean rows\?"):
        kancompress.cluster("kan.pt", data="mnist")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("own_models.py:make_nt", "own_models.py has no attribute make_nt. Did you mean make_net?"),
        ("own_models.py", "names a file and nothing in it; write own_models.py:FACTORY"),
        ("own_model.py:make_net", "there is no file own_model.py. Did you mean own_models.py?"),
        ("own_model:make_net", "Did you mean own_models.py?"),
        ("own_models", "write package.module:factory, as in models:make_net, or file.py:factory."),
    ],
)
def test_a_model_in_a_file_is_understood_or_corrected(target: str, says: str) -> None:
    line = refused(2, "eval", "kan.pt", "--data", "rows.npz", "--model", target)
    assert says in line


def test_a_model_in_a_file_runs(place: Path) -> None:
    torch.save(layer(), "bare.pt")
    for target in ("own_models.py:make_net", f"{place}/own_models.py:make_net"):
        done("eval", "bare.pt", "--data", "rows.npz", "--model", target)
    (place / "random.py").write_text(SCRIPT)  # as a module of Python itself is called
    assert isinstance(kancompress.build_module("random.py:make_net"), nn.Module)


def test_a_network_of_masked_edges_is_called_that() -> None:
    text = "every edge of the network is masked, so it puts out the same whatever its inputs"
    assert text in done("cluster", "dead.pt", "--force", "-o", "dead.st").stderr
    assert any(text in note for note in kancompress.cluster("dead.pt").notes)
    assert any(note.startswith(text) for note in kancompress.inspect("dead.pt")["problems"])
    for dead in ("dead.pt", "dead.st"):
        rows = ("--data", "five.npz", "--test-split", "0.5")
        assert f"Warning: {text}" in done("eval", dead, *rows).stderr
    swept = done("sweep", "dead.pt", "--data", "five.npz", "-k", "2,3").stderr
    assert swept.count(text) == 1
    line = refused(2, "cluster", "dead.pt", "--target-bytes", "3000", "-o", "out.st")
    assert line.startswith("Every edge of the network is masked")
    line = refused(1, "cluster", "dead.pt", "--keep-masked", "-o", "out.st")
    assert "all edges of its KAN layers are masked" in line


def test_the_help_of_cluster_is_in_panels() -> None:
    text = call("cluster", "--help").stdout
    panels = ("Options:", "Clusters:", "Packed file:", "Clustering by outputs:",
              "Where to compute:", "Other libraries' files:")  # fmt: skip
    places = [text.index(f"\n{panel}\n") for panel in panels]
    assert places == sorted(places)
    first = text[places[0] : places[1]]
    assert first.count("\n  -") == 6  # output, force, json, quiet, debug, help
