"""The command line: options, exit codes, sentences and JSON documents."""

import json
import re
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

import kancompress
from command import call, done, only_line, refused, write_material
from conftest import fresh
from kancompress.cli import _output
from kancompress.reporting import inspection

COMMANDS = (
    "train",
    "cluster",
    "sweep",
    "finetune",
    "eval",
    "compare",
    "predict",
    "inspect",
    "expand",
    "repack",
    "export",
)
TINY = ("--hidden", "4", "--epochs", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`place` as the working directory, which must come out with no file more."""
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# --- help ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_has_examples(command: tuple[str, ...], option: str) -> None:
    text = done(*command, option).stdout
    assert "Examples:" in text
    assert f"kancompress {command[0] if command else 'train'} " in text.split("Examples:")[1]


def test_version() -> None:
    assert done("--version").stdout == f"{kancompress.__version__}\n"


def test_no_arguments_give_a_friendly_line() -> None:
    line = refused(2)
    assert all(name in line for name in COMMANDS)
    assert "kancompress --help" in line


# --- usage: exit code 2 --------------------------------------------------------------------

USAGE = {
    "evl packed.st": "No such command 'evl'",
    "nonsense": "No such command",
    "inspect packed.st --chek": "--check",
    "train": "--output",
    "cluster dense.st": "name it with --output OUT",
    "eval": "IN",
    "inspect packed.st dense.st": "dense.st",
    "train --model resnet -o out": "metafastkan",
    "train --dataset imagenet -o out": "fashion-mnist",
    "train --epochs -1 -o out": "--epochs",
    "train --epochs many -o out": "--epochs",
    "train --batch-size 0 -o out": "--batch-size",
    "train --lr nan -o out": "--lr",
    "train --lr inf -o out": "--lr",
    "train --lr -1 -o out": "--lr",
    "train --lr-embedding inf -o out": "--lr-embedding",
    "train --weight-decay inf -o out": "--weight-decay",
    "train --seed -1 -o out": "--seed",
    "train --seed 99999999999999999999 -o out": "--seed",
    "train --hidden 0 -o out": "--hidden 0",
    "train --hidden 8, -o out": "64,32",
    "train --hidden 99999999999 -o out": "--hidden",
    "train --grid-low 2 --grid-high 1 -o out": "from 2.0 to 1.0 is empty",
    "train --grid-low nan -o out": "--grid-low is nan",
    "train --grid-high inf -o out": "--grid-high is inf",
    "train --grid-size 65537 -o out": "--grid-size",
    "train --grid-size 1 -o out": "at least 2",
    "train --embedding 99999999999999999999 -o out": "--embedding",
    "train --model kan --embedding 2 -o out": "kan has no meta-learner",
    "train --model gramkanconv --lr-rest 0.1 -o out": "gramkanconv has no meta-learner",
    "train --dropout 0.1 -o out": "metafastkan has no dropout",
    "train --model kanconv --dropout 1 -o out": "--dropout 1 would drop everything",
    "train --model kanconv --head-dropout 2 -o out": "--head-dropout 2",
    "train --model kanconv --dropout nan -o out": "--dropout",
    "train --meta-hidden 99999999999999999999 -o out": "--meta-hidden",
    "train --batch-size 99999999999999999999 -o out": "--batch-size",
    "train --model gramkan --grid-low 0 -o out": "has no grid",
    "train --model fastkan --degree 2 -o out": "has no degree",
    "train --model kan --degree 17 -o out": "--degree",
    "train --data classes.npz --test-split 2 -o out": "--test-split",
    "train --data classes.npz --test-split nan -o out": "test",
    "train --data classes.npz --test-split 0 -o out": "60 rows",
    "train --data classes.npz --test-split 1 -o out": "60 rows",
    "train --test-split 0.5 -o out": "--data FILE",
    "train --dataset digits --data classes.npz -o out": "name one",
    "train --data - -o out": "--data reads no standard input",
    "eval packed.st --data -": "--data reads no standard input",
    "finetune packed.st --data - -o out": "--data reads no standard input",
    "eval - --data -": "--data reads no standard input",
    "eval packed.st --predictions -": "--predictions names a file",
    "eval packed.st --predictions out.csv": ".npz",
    "eval packed.st --test-split 0.5": "--data FILE",
    "cluster dense.st -k 0 -o out": "1 to 65536",
    "cluster dense.st -k 65537 -o out": "1 to 65536",
    "cluster dense.st -k 1=65537 -o out": "1 to 65536",
    "cluster dense.st --clusters 0=x -o out": "--clusters 0=x",
    "cluster dense.st -k -3 -o out": "--clusters -3",
    "cluster dense.st -k 1.5 -o out": "--clusters 1.5",
    "cluster dense.st -k ٣ -o out": "no number",
    "cluster dense.st -k 7=3 -o out": "the layers are 0, 1",
    "cluster dense.st -k 3 -k 4 -o out": "twice",
    "cluster dense.st -k 0=3 -k 0=4 -o out": "twice",
    f"cluster dense.st -k {'9' * 5000} -o out": "no number",
    "cluster dense.st --max-iterations 0 -o out": "--max-iterations",
    "cluster dense.st --codebook-dtype int4 -o out": "bfloat16",
    "finetune packed.st --also slopes -o out": "norms",
    "finetune packed.st --lr inf -o out": "--lr",
    "finetune packed.st --epochs -1 -o out": "--epochs",
    # the wrong kind of file
    "cluster packed.st -o out": "packed.st is packed already",
    "finetune dense.st -o out": "dense.st is a dense checkpoint",
    "finetune meta.st -o out": "kancompress cluster",
    "expand dense.st -o out": "dense.st is a dense checkpoint",
    "repack meta.st -o out": "kancompress cluster FILE",
    "repack packed.st -o out --header long": "--header",
    # data that does not fit the network
    "eval packed.st --data classes.npz": "64 inputs",
    "finetune packed.st --data classes.npz -o out": "5 features",
    # outputs
    "expand packed.st -o packed.st": "input itself",
    "repack packed.st -o packed.st --force": "input itself",
    "expand packed.st -o dense.st": "--force",
    "expand packed.st -o directory": "is a directory",
    "expand packed.st -o no/such/out": "is not a directory",
    "expand packed.st -o dense.st/out": "is not a directory",
}


@pytest.mark.parametrize("arguments", USAGE)
def test_usage(arguments: str, here: Path, offline: None) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.iterdir()}
    assert USAGE[arguments] in refused(2, *arguments.split())
    assert {path: path.stat().st_mtime_ns for path in here.iterdir()} == before


def test_piped_input_is_named(here: Path) -> None:
    raw = (here / "packed.st").read_bytes()
    assert "standard input is packed already" in refused(2, "cluster", "-", "-o", "x", stdin=raw)
    assert "standard input" in refused(3, "inspect", "-", stdin=raw[:-1])


# --- input: exit code 3 --------------------------------------------------------------------

UNREADABLE = {
    "missing.st": "does not exist",
    "directory": "is a directory",
    "dense.st/inside": "Not a directory",
    "empty.st": "is empty",
    "picture.png": "not a safetensors file",
    "text.txt": "not a safetensors file",
    "page.html": "HTML page",
    "pointer.st": "git lfs pull",
    "model.pt": "torch.save",
    "old.pt": "torch.save",
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("command", ["inspect --check", "expand -o out"])
def test_unreadable(command: str, name: str, here: Path) -> None:
    line = refused(3, *command.split(), name)
    assert name in line
    assert UNREADABLE[name] in line
    assert not (here / "out").exists()


# What other libraries write is read by these.
@pytest.mark.parametrize("name", [name for name in UNREADABLE if not name.endswith(".pt")])
@pytest.mark.parametrize("command", ["inspect", "cluster -o out", "eval"])
def test_unreadable_for_those_who_read_other_libraries(command: str, name: str, here: Path) -> None:
    assert name in refused(3, *command.split(), name)
    assert not (here / "out").exists()


def test_a_file_without_kan_layers_says_what_to_try(here: Path) -> None:
    assert "--layout" in refused(2, "cluster", "foreign.st", "-o", "out")
    assert "--layout" in refused(2, "cluster", "model.pt", "-o", "out")
    assert "--layout" in refused(2, "eval", "foreign.st")
    assert "--layout" in refused(2, "eval", "old.pt")
    assert not (here / "out").exists()


@pytest.mark.parametrize("command", ["finetune -o out", "expand -o out"])
def test_foreign_safetensors(command: str, here: Path) -> None:
    assert "kancompress did not write it" in refused(3, *command.split(), "foreign.st")


def test_damage_is_found(place: Path) -> None:
    raw = bytearray((place / "packed.st").read_bytes())
    raw[-1] ^= 1
    for command in (["eval", "-"], ["inspect", "--check", "-"], ["expand", "-", "-o", "-"]):
        assert "checksum" in refused(3, *command, stdin=bytes(raw))


def test_empty_pipe() -> None:
    assert "before the pipe" in refused(3, "eval", "-")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_missing_data_set_is_not_fetched(name: str, tmp_path: Path, offline: None) -> None:
    line = refused(3, "train", "--dataset", name, "--data-dir", tmp_path, "-o", tmp_path / "out")
    assert name in line
    assert "--data-dir" in line
    assert "--download" in line
    assert list(tmp_path.iterdir()) == []


# --- failures: exit code 1 -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), "Not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), "The device has not enough"),
    ],
)
def test_memory(error: Exception, words: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(kancompress, "inspect", fail)
    assert words in refused(1, "inspect", "packed.st")


def test_a_bug_shows_no_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(kancompress, "inspect", fail)
    result = call("inspect", "packed.st")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "ZeroDivisionError: one. Run it again" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" in call("inspect", "packed.st", "--debug").stderr


def test_debug_shows_the_traceback(here: Path) -> None:
    result = call("inspect", "missing.st", "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("kancompress: missing.st")


def test_interrupt(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kancompress, "inspect", interrupt)
    assert "Interrupted" in refused(130, "inspect", "packed.st")


def test_divergence_is_told(here: Path) -> None:
    result = call(
        "train", "--data", "targets.npz", "--lr", "1e30", "--batch-size", "8", *TINY, "-o", "out"
    )
    assert result.exit_code == 1
    assert "--lr" in only_line(result.stderr)
    assert not (here / "out").exists()


# --- --json --------------------------------------------------------------------------------

JSON_KEYS: dict[str, set[str]] = {
    "train --data classes.npz --hidden 4 --epochs 1": {
        "model", "output", "file_bytes", "best_epoch", "validation", "test", "history",
    },
    "cluster dense.st": {"output", "file_bytes", "source", "layers"},
    "finetune packed.st --epochs 1": {
        "output", "file_bytes", "best_epoch", "history", "validation", "validation_before", "test",
        "test_before",
    },
    "expand packed.st": {"output", "file_bytes"},
    "eval packed.st": {"accuracy", "loss", "examples", "seconds"},
    "inspect packed.st": {
        "kind", "file_bytes", "header_bytes", "payload_bytes", "layers", "other", "totals",
        "ratios",
    },
    "inspect --check packed.st": {"kind", "sound"},
}  # fmt: skip
WRITERS = ("train", "cluster", "finetune", "expand")


def strict(text: str) -> Any:
    """One JSON document without NaN or Infinity, and nothing beside it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("arguments", JSON_KEYS)
def test_json_on_stdout(arguments: str, here: Path, tmp_path: Path) -> None:
    command = arguments.split()
    target = tmp_path / "out.st"
    if command[0] in WRITERS:
        command += ["-o", str(target)]
    result = done(*command, "--json")
    assert result.stderr == ""
    document = strict(result.stdout)
    assert JSON_KEYS[arguments] <= document.keys()
    if command[0] in WRITERS:
        assert document["output"] == str(target)
        assert document["file_bytes"] == target.stat().st_size


@pytest.mark.parametrize("arguments", [key for key in JSON_KEYS if key.split()[0] in WRITERS])
def test_json_on_stderr_beside_the_data(arguments: str, here: Path) -> None:
    result = done(*arguments.split(), "-o", "-", "--json")
    document = strict(result.stderr)
    assert JSON_KEYS[arguments] <= document.keys()
    assert document["output"] == "-"
    assert document["file_bytes"] == len(result.stdout_bytes)
    kancompress.load(result.stdout_bytes)


def test_json_of_layers(here: Path) -> None:
    done("cluster", "dense.st", "-k", "4", "-k", "1=300", "-o", "mixed.st", "--force")
    report = strict(done("inspect", "mixed.st", "--json").stdout)
    assert report["kind"] == "packed"
    keys = {
        "name", "edges", "coefficients", "clusters", "index_bytes", "codebook_bytes", "dense_bytes",
    }  # fmt: skip
    assert all(keys <= layer.keys() for layer in report["layers"])
    assert {"formula", "tensors", "file"} <= report["ratios"].keys()
    assert report["header_bytes"] + report["payload_bytes"] == report["file_bytes"]
    (here / "mixed.st").unlink()
    dense = strict(done("inspect", "dense.st", "--json").stdout)
    assert [layer["clusters"] for layer in dense["layers"]] == [None, None]
    foreign = strict(done("inspect", "foreign.st", "--json").stdout)
    assert (foreign["kind"], foreign["layers"]) == ("safetensors", [])
    assert [row["name"] for row in foreign["other"]] == ["[red]a\x1b[31m\n", "b\u202e"]


def test_json_of_regression(here: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.st"
    done("train", "--data", "targets.npz", *TINY, "-o", target)
    report = strict(done("eval", target, "--data", "targets.npz", "--json").stdout)
    named = {"file", "file_bytes", "ratio", "clusters"}
    assert report.keys() == {"rmse", "loss", "examples", "seconds", "notes"} | named
    assert report["file_bytes"] == target.stat().st_size
    assert report["rmse"] == pytest.approx(report["loss"] ** 0.5)
    assert report["examples"] == 12


def test_json_has_no_nan(tmp_path: Path) -> None:
    network = fresh("kan", (64, 8, 10))
    for name in network.tensors:
        network.tensors[name].fill_(3e38)
    kancompress.save(network, tmp_path / "huge.st")
    assert strict(done("eval", tmp_path / "huge.st", "--json").stdout)["loss"] is None


def test_check_does_not_build_the_report(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "describe", None)
    for name, kind in (
        ("packed.st", "packed"), ("dense.st", "dense"), ("meta.st", "meta"),
        ("foreign.st", "safetensors"),
    ):  # fmt: skip
        assert strict(done("inspect", "--check", name, "--json").stdout)["kind"] == kind
        result = done("inspect", "--check", name)
        assert (result.stdout, result.stderr) == ("", f"{name}: sound ({kind})\n")


# --- what is printed -----------------------------------------------------------------------


def test_plain_lines_away_from_a_terminal(here: Path, tmp_path: Path) -> None:
    result = done("train", "--data", "classes.npz", *TINY, "-o", tmp_path / "out.st")
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert [line[:9] for line in lines[:2]] == ["epoch 0/1", "epoch 1/1"]
    assert len(lines) == 6  # what was written, why it stopped, and which epoch was the best
    assert "\x1b" not in result.stderr
    assert re.fullmatch(
        r"accuracy \d+\.\d\d %, loss \d\.\d{4}, 360 examples, \d+\.\d\d s\n",
        done("eval", "packed.st").stdout,
    )


def test_names_do_no_harm(here: Path) -> None:
    text = done("inspect", "foreign.st").stdout
    assert "[red]a\\x1b[31m\\x0a " in text
    assert "b\\u202e " in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain [red] 🙂 é", "plain [red] 🙂 é"),
        ("a\x1b[31mb\r\n\t", "a\\x1b[31mb\\x0d\\x0a\\x09"),
        ("\x7f\x9b\x00", "\\x7f\\x9b\\x00"),
        ("\u202e\u2028\udcff", "\\u202e\\u2028\\udcff"),
    ],
)
def test_printable(raw: str, shown: str) -> None:
    assert _output.printable(raw) == shown


def test_odd_paths(here: Path, tmp_path: Path) -> None:
    for name in ("with space.st", "two\nlines 🙂.st", "[red]\x1b[31m.st", "-dash.st"):
        target = tmp_path / name
        result = done("expand", "packed.st", "-o", target)
        assert result.stderr.count("\n") == 1
        shown = _output.printable(str(target))
        assert done("inspect", target).stdout.startswith(f"{shown}: dense")
        assert shown in refused(2, "expand", "packed.st", "-o", target)
        assert shown in refused(3, "inspect", f"{target}.missing")


def test_json_silences_everything_else(here: Path, tmp_path: Path) -> None:
    assert done("cluster", "dense.st", "-o", tmp_path / "a.st").stderr.count("\n") == 11
    assert done("cluster", "dense.st", "-o", tmp_path / "b.st", "--json").stderr == ""
    # a later command in the same process is not silenced
    assert done("cluster", "dense.st", "-o", tmp_path / "c.st").stderr.count("\n") == 11


def test_predictions(here: Path, tmp_path: Path) -> None:
    for name in ("out.npz", "out.safetensors"):
        done("eval", "packed.st", "--predictions", tmp_path / name)
        assert "--force" in refused(2, "eval", "packed.st", "--predictions", tmp_path / name)
        done("eval", "packed.st", "--predictions", tmp_path / name, "--force")
    from safetensors.torch import load_file

    arrays = load_file(tmp_path / "out.safetensors")
    assert arrays["outputs"].shape == (360, 10)
    assert torch.equal(arrays["outputs"].argmax(1), arrays["classes"])
