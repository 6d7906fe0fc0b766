"""Files of many layers: no line of the package runs more than twice as often for twice as many.

Without a clock: the lines that a command runs are counted, on files whose layers are all the same.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import kancompress
from command import done
from kancompress.models.records import Checkpoint
from kancompress.specs import Family, default_basis
from kancompress.system import inputs

PACKAGE = str(Path(kancompress.__file__).parent)
FEW = 6
# Lines that run a few times more often than that do not grow with the layers.
SLACK = 30

Make = Callable[[int, Path], Path]
Lines = Counter[tuple[str, int]]


def lines_of(*arguments: str | Path) -> Lines:
    """How often each line of the package runs in a command."""
    counts: Lines = Counter()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            counts[frame.f_code.co_filename, frame.f_lineno] += 1
        return local

    def started(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(started)
    try:
        done(*arguments)
    finally:
        sys.settrace(before)
    return counts


def state(layers: int, *, masked: bool = False) -> dict[str, torch.Tensor]:
    """Layers of efficient-kan's, or of pykan's with masks, all with the same numbers."""
    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    if masked:
        one = {
            "grid": torch.linspace(-2, 2, 12).expand(4, -1),
            "coef": torch.randn(4, 6, 8),
            "mask": torch.ones(4, 6).index_fill(0, torch.tensor([1]), 0),
            "scale_base": torch.randn(4, 6),
            "scale_sp": torch.ones(4, 6),
        }
        symbolic = {"mask": torch.zeros(6, 4), "affine": torch.ones(6, 4, 4)}
    else:
        one = {
            "grid": torch.linspace(-2, 2, 12).expand(4, -1),
            "base_weight": torch.randn(6, 4),
            "spline_weight": torch.randn(6, 4, 8),
        }
        symbolic = {}
    for number in range(layers):
        stem = "act_fun" if masked else "layers"
        tensors |= {f"{stem}.{number}.{name}": value.clone() for name, value in one.items()}
        tensors |= {f"symbolic_fun.{number}.{n}": value.clone() for n, value in symbolic.items()}
    return tensors


def safetensors(layers: int, path: Path) -> Path:
    save_file(state(layers), path)
    return path


def masked(layers: int, path: Path) -> Path:
    save_file(state(layers, masked=True), path)
    return path


def torch_file(layers: int, path: Path) -> Path:
    torch.save(state(layers), path)
    return path


def shards(layers: int, path: Path) -> Path:
    """As many shards as layers."""
    where: dict[str, str] = {}
    for number in range(layers):
        names = [name for name in state(layers) if name.startswith(f"layers.{number}.")]
        file = f"{path.name}-{number}.safetensors"
        save_file({name: state(layers)[name] for name in names}, path.with_name(file))
        where |= dict.fromkeys(names, file)
    index = path.with_name(f"{path.name}.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def native(layers: int, path: Path) -> Path:
    torch.manual_seed(0)
    one = torch.randn(6, 6, 9)
    model = Checkpoint(
        kind="dense",
        basis=default_basis(Family.GRAMKAN),
        shapes=((6, 6),) * layers,
        data=None,
        tensors={},
    )
    size, degree = model.basis.coefficients, model.basis.degree
    assert degree is not None
    for number in range(layers):
        model.tensors[f"{number}.coefficients"] = one[..., :size].clone()  # type: ignore[index]
        model.tensors[f"{number}.norm"] = torch.ones(2, 6)  # type: ignore[index]
        model.tensors[f"{number}.beta"] = torch.ones(degree + 1)  # type: ignore[index]
    path.write_bytes(model.encode())
    return path


slow = [
    pytest.param(masked, marks=pytest.mark.slow),
    pytest.param(torch_file, marks=pytest.mark.exhaustive),
    pytest.param(native, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize("make", [safetensors, shards, *slow])
def test_twice_the_lines_for_twice_the_layers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_TICK", 0)  # a file just written is not waited for
    packed = tmp_path / "packed.safetensors"
    commands: dict[str, list[str | Path]] = {
        "inspect": ["inspect"],
        "cluster": ["cluster", "-k", "4", "-o", packed, "--force", "--force-pack"],
        "inspect packed": ["inspect", packed],
        "expand": ["expand", packed, "-o", tmp_path / "back.safetensors", "--force"],
    }
    if make is safetensors:
        commands["cluster"] += ["--indices", "rans", "--header", "plain"]
    if make is shards:  # from then on all is as of one file
        commands = {"inspect": ["inspect"]}
    found: dict[str, list[Lines]] = {name: [] for name in commands}
    for layers in (2, FEW, 2 * FEW):  # the first one is for what is made once
        file = make(layers, tmp_path / f"model-{layers}")
        for name, words in commands.items():
            given = [] if packed in words[1:2] else [file]
            found[name].append(lines_of(*words, *given))
    for name, (_, few, many) in found.items():
        more = {at: (few[at], n) for at, n in many.items() if n > 2.2 * few[at] + SLACK}
        assert not more, name
        assert sum(many.values()) < 2.2 * sum(few.values()), name
