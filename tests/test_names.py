"""Names in other people's files: no command lets them reach the terminal as they are."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_repacking import efficient_kan
from torch import Tensor

from command import call, done
from kancompress.errors import (
    ClosedPipeError,
    Flaw,
    InvalidFileError,
    KancompressError,
    UsageError,
    together,
)

# what moves the cursor, colours, rings, or turns the direction of writing
HARMFUL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ODD = ["\x1b[2J\x1b]0;title\x07", "\x9b31m", "a\rb", "two\nlines", "[bold red]x[/]", "\u202egnp",
       "{0}%s", "-k"]  # fmt: skip
LONG = "very_long." * 1_000


def state(stem: str, *, broken: bool = False, misfit: bool = False) -> dict[str, Tensor]:
    """A layer of efficient-kan and another tensor, all below `stem`."""
    tensors = {
        f"{stem}.{name.removeprefix('layers.0.')}": tensor.clone()
        for name, tensor in efficient_kan().items()
        if name.startswith("layers.0.")
    }
    if broken:
        tensors[f"{stem}.base_weight"][0, 0] = float("nan")
    if misfit:
        tensors[f"{stem}.grid"] = torch.ones(2, 12)
    return tensors | {f"{stem}.other": torch.randn(3)}


def safe(result: object, code: int, place: str) -> str:
    """The output of a command, which ended with `code`; its lines have at most 500 characters
    beside the paths, which begin with `place`."""
    text = str(result.stdout) + str(result.stderr)  # type: ignore[attr-defined]
    assert result.exit_code == code, text  # type: ignore[attr-defined]
    assert not HARMFUL.search(text), ascii(text)
    for line in text.splitlines():
        assert len(line.removeprefix("kancompress: ").replace(place, "")) <= 500, line
    assert "Internal error" not in text
    return text


@pytest.mark.parametrize("stem", [*ODD, LONG.rstrip(".")])
def test_names_are_printed_without_harm(stem: str, tmp_path: Path) -> None:
    model, packed = tmp_path / "model.pt", tmp_path / "packed.st"
    torch.save({"model": state(stem), stem: 3, "opt": {stem: torch.ones(2)}}, model)
    safe(call("inspect", model), 0, str(tmp_path))
    safe(call("inspect", model, "-k", "8"), 0, str(tmp_path))
    printed = call("inspect", model, "--print-layout")
    assert printed.exit_code == 0
    assert not HARMFUL.search(printed.stdout)
    text = safe(call("cluster", model, "-k", "8", "--keep-extra", "-o", packed), 0, str(tmp_path))
    assert "recognised 1 x efficient-kan" in text
    safe(call("inspect", packed), 0, str(tmp_path))
    safe(call("inspect", "--check", packed), 0, str(tmp_path))
    safe(call("expand", packed, "-o", tmp_path / "back.pt"), 0, str(tmp_path))
    again = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(again["model"]) == list(state(stem))
    assert again[stem] == 3
    report = json.loads(done("inspect", model, "--json").stdout)
    assert max(map(len, report["problems"])) <= 500
    assert [layer["name"] for layer in report["layers"]] == [stem]  # JSON has the whole name


@pytest.mark.parametrize("stem", [*ODD, LONG.rstrip(".")])
def test_names_in_errors_are_printed_without_harm(stem: str, tmp_path: Path) -> None:
    model, out = tmp_path / "model.pt", tmp_path / "packed.st"
    torch.save(state(stem, broken=True), model)
    safe(call("cluster", model, "-o", out), 3, str(tmp_path))
    safe(
        call("cluster", model, "-k", f"{stem}!=3", "--layout", f"{stem}!=pykan", "-o", out),
        3,
        str(tmp_path),
    )
    torch.save(state(stem), model)
    safe(call("cluster", model, "-k", f"{stem}!=3", "-o", out), 2, str(tmp_path))
    safe(call("inspect", model, "--layout", f"{stem}=pykan"), 2, str(tmp_path))
    torch.save(state(stem, misfit=True), model)
    safe(call("inspect", model), 0, str(tmp_path))
    safe(call("cluster", model, "-o", out), 2, str(tmp_path))
    torch.save({stem: torch.ones(2).to_sparse()}, model)
    safe(call("inspect", model), 3, str(tmp_path))
    torch.save({stem: {stem: torch.ones(2, dtype=torch.complex64)}}, model)
    safe(call("inspect", model), 3, str(tmp_path))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": stem}}))
    safe(call("inspect", index), 3, str(tmp_path))


def test_long_names_in_the_other_commands(tmp_path: Path) -> None:
    stem = LONG.rstrip(".")
    model, packed, out = (tmp_path / name for name in ("model.pt", "packed.st", "out.st"))
    torch.save(state(stem), model)
    done("cluster", model, "-k", "8", "-o", packed)
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.ones((40, 30), np.float32), y=np.arange(40) % 3)
    for name in ("eval", "inspect"):
        options = ["--data", rows] if name == "eval" else ["--plot-functions", tmp_path / "f.png"]
        safe(call(name, model, *options), 2, str(tmp_path))
    safe(call("finetune", packed, "--data", rows, "-o", out), 2, str(tmp_path))
    safe(call("inspect", packed, "--plot", tmp_path / "p.png"), 0, str(tmp_path))
    safe(call("cluster", model, "--metric", "grid", "-o", out), 0, str(tmp_path))
    safe(call("cluster", model, "--calibrate", rows, "-o", out, "--force"), 2, str(tmp_path))
    safe(call("cluster", model, "--target-bytes", "9", "-o", out, "--force"), 1, str(tmp_path))
    report = json.loads(done("cluster", model, "-k", "8", "-o", out, "--force", "--json").stdout)
    assert max(map(len, report["notes"])) <= 500
    huge = {name: tensor * 1e10 for name, tensor in state(stem).items()}
    torch.save(huge, model)
    half = ("--codebook-dtype", "float16", "-o", out, "--force")
    text = safe(call("cluster", model, *half), 1, str(tmp_path))
    assert "too large for float16" in text


def test_sentences_have_at_most_500_characters() -> None:
    path = "models/" * 12 + "model.pt"
    error = UsageError(f"{path}: tensor {LONG!r} has no place; leave it out.")
    assert len(str(error)) <= 500
    assert str(error).startswith(f"{path}: tensor 'very_long.")
    assert str(error).endswith(" has no place; leave it out.")
    assert str(KancompressError(500 * "a")) == 500 * "a"
    assert str(ClosedPipeError()) == ""
    broken = InvalidFileError(Flaw.BAD_VALUE, f"{LONG} is wrong.")
    both = together([error, broken, UsageError("Short.")])
    assert isinstance(both, InvalidFileError)
    assert both.flaw == Flaw.BAD_VALUE
    assert both.sentences == (str(error), str(broken), "Short.")
    assert str(both) == "\n".join(both.sentences)
