"""Names in other people's files: no command lets them reach the terminal as they are."""

import json
import re
from pathlib import Path

import pytest
import torch
from test_repacking import efficient_kan
from torch import Tensor

from command import call, done

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


def safe(result: object, code: int) -> str:
    text = str(result.stdout) + str(result.stderr)  # type: ignore[attr-defined]
    assert result.exit_code == code, text  # type: ignore[attr-defined]
    assert not HARMFUL.search(text), ascii(text)
    assert max(map(len, text.splitlines())) < 5_000
    assert "Internal error" not in text
    return text


@pytest.mark.parametrize("stem", [*ODD, LONG.rstrip(".")])
def test_names_are_printed_without_harm(stem: str, tmp_path: Path) -> None:
    model, packed = tmp_path / "model.pt", tmp_path / "packed.st"
    torch.save({"model": state(stem), stem: 3, "opt": {stem: torch.ones(2)}}, model)
    safe(call("inspect", model), 0)
    safe(call("inspect", model, "-k", "8"), 0)
    printed = call("inspect", model, "--print-layout")
    assert printed.exit_code == 0
    assert not HARMFUL.search(printed.stdout)
    text = safe(call("cluster", model, "-k", "8", "--keep-extra", "-o", packed), 0)
    assert "recognised 1 x efficient-kan" in text
    safe(call("inspect", packed), 0)
    safe(call("inspect", "--check", packed), 0)
    safe(call("expand", packed, "-o", tmp_path / "back.pt"), 0)
    again = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(again["model"]) == list(state(stem))
    assert again[stem] == 3
    report = json.loads(done("inspect", model, "--json").stdout)
    assert [layer["name"] for layer in report["layers"]] == [stem]  # JSON has the whole name


@pytest.mark.parametrize("stem", [*ODD, LONG.rstrip(".")])
def test_names_in_errors_are_printed_without_harm(stem: str, tmp_path: Path) -> None:
    model, out = tmp_path / "model.pt", tmp_path / "packed.st"
    torch.save(state(stem, broken=True), model)
    safe(call("cluster", model, "-o", out), 3)
    safe(call("cluster", model, "-k", f"{stem}!=3", "--layout", f"{stem}!=pykan", "-o", out), 3)
    torch.save(state(stem), model)
    safe(call("cluster", model, "-k", f"{stem}!=3", "-o", out), 2)
    safe(call("inspect", model, "--layout", f"{stem}=pykan"), 2)
    torch.save(state(stem, misfit=True), model)
    safe(call("inspect", model), 0)
    safe(call("cluster", model, "-o", out), 2)
    torch.save({stem: torch.ones(2).to_sparse()}, model)
    safe(call("inspect", model), 3)
    torch.save({stem: {stem: torch.ones(2, dtype=torch.complex64)}}, model)
    safe(call("inspect", model), 3)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": stem}}))
    safe(call("inspect", index), 3)
