"""The program for a GPU: how it shares its time, what it keeps, and all of it, tiny, on the CPU."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kancompress
from conftest import fresh
from kancompress.clustering.on_device import OnDevice
from tests.benchmarks import cells as kept
from tests.benchmarks import gpu, on_device
from tests.benchmarks.cells import Recipe

SIX = list(gpu.MODELS)


class Pretended:
    """Training and clustering that only take time: seconds of an epoch, and of clustering once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, epoch: float, packing: float) -> None:
        self.time, self.epoch, self.packing = 0.0, epoch, packing
        self.packed: list[str] = []
        monkeypatch.setattr(gpu, "train_on", self.train)
        monkeypatch.setattr(gpu, "pack", self.pack)
        monkeypatch.setattr(gpu.Setting, "is_there", lambda *_: True)
        own = gpu.Clock
        monkeypatch.setattr(gpu, "Clock", lambda seconds: own(seconds, lambda: self.time))
        monkeypatch.setattr(gpu, "machine", lambda _: {"device": "a GPU"})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)

    def train(self, run: gpu.Progress, minutes: float) -> None:
        self.time += 5
        epochs = run.epochs
        while epochs < run.most:
            self.time += self.epoch
            epochs += 1
            if epochs * self.epoch >= 60 * minutes:
                break
        told = {"epochs": epochs, "train_seconds": epochs * self.epoch}
        told |= {} if epochs == run.most else {"complete": False}
        run.path.with_suffix(".json").write_text(json.dumps(told))

    def pack(self, run: gpu.Progress) -> dict[str, Any]:
        self.time += self.packing
        self.packed.append(run.recipe.model)
        told = json.loads(run.path.with_suffix(".json").read_text())
        scores = {"accuracy": [0.5, 0.4, 0.45], "bytes": [90, 30, 30]}
        where = {"torch": "2.14", "threads": 1, "machine": "a machine", "device": "a GPU"}
        return run.recipe.key | told | scores | where


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "published")
    return tmp_path


def epochs(work: Path, dataset: str = "cifar10") -> dict[str, int]:
    files = {model: work / f"{dataset}_{model}_0.json" for model in SIX}
    told = {model: json.loads(file.read_text()) for model, file in files.items() if file.exists()}
    return {model: facts["epochs"] for model, facts in told.items()}


def kept_cells(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "results" / "table2.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def start(work: Path, *arguments: str) -> int:
    return gpu.main(["--work", str(work), "--parts", "table2", *arguments])


def test_calls_of_a_few_minutes_bring_all_networks_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended = Pretended(monkeypatch, epoch=4, packing=12)
    counts = []
    for call in range(1, 4):
        assert start(folder, "--minutes", "8") == 0
        assert pretended.time <= call * 480 + 20  # an epoch that has begun, and loading, at most
        pretended.time = call * 480.0
        counts.append(epochs(folder))
        assert list(counts[-1]) == SIX
        spread = max(counts[-1].values()) - min(counts[-1].values())
        assert spread <= (10 if call == 1 else 3)  # nothing was measured before the first call
        assert all(counts[-1][model] > counts[-2][model] for model in SIX if call > 1)
    # clustered when there is something for the first time, and when it has doubled
    assert sorted(pretended.packed[:6]) == sorted(SIX)
    assert len(pretended.packed) <= 12
    records = kept_cells(folder)
    assert {record["model"] for record in records} == set(SIX)
    count, trained = len(pretended.packed), epochs(folder)
    assert start(folder, "--dataset", "cifar10", "--score") == 0
    assert epochs(folder) == trained
    assert sum(pretended.packed[count:].count(model) for model in SIX) >= 3
    newest = {record["model"]: record["epochs"] for record in kept_cells(folder)}
    assert newest == trained
    told = capsys.readouterr().out
    assert f"| kanconv, cifar10 | {counts[-1]['kanconv']} of 150 epochs |" in told
    assert "| metagramkanconv, cifar100 | not run |" in told
    assert "goes on from here" in told


def test_the_next_data_set_comes_when_the_first_is_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended = Pretended(monkeypatch, epoch=1, packing=1)
    assert start(folder, "--models", "kanconv", "--minutes", "1") == 0
    assert epochs(folder, "cifar100") == {}
    pretended.time = 60
    assert start(folder, "--models", "kanconv", "--minutes", "60") == 0
    assert epochs(folder) == epochs(folder, "cifar100") == {"kanconv": 150}
    assert "There was time for everything." in capsys.readouterr().out
    count = len(pretended.packed)
    assert start(folder, "--models", "kanconv") == 0
    assert len(pretended.packed) == count


def test_a_cell_with_more_epochs_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended = Pretended(monkeypatch, epoch=20, packing=1)
    recipe = Recipe(model="kanconv", dataset="cifar10")
    cell = recipe.key | {"accuracy": [0.6, 0.5, 0.5], "bytes": [90, 30, 30], "epochs": 30}
    cell |= {"complete": False, "train_seconds": 9999}
    cell |= {"torch": "2.14", "threads": 1, "machine": "a machine"}
    kept.keep("table2", cell)
    wish = ("--models", "kanconv", "--dataset", "cifar10", "--publish")
    assert start(folder, *wish, "--minutes", "5") == 0
    assert [found["epochs"] for found in kept.finished("table2")] == [30]
    assert "Not kept" in capsys.readouterr().err
    pretended.time = 300
    assert start(folder, *wish, "--minutes", "60") == 0
    assert [found["epochs"] for found in kept.finished("table2")][-1] == 150


def test_a_part_that_fails_leaves_the_others_their_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended = Pretended(monkeypatch, epoch=4, packing=4)
    train = pretended.train

    def fail(run: gpu.Progress, minutes: float) -> None:
        if run.recipe.model == "kanconv":
            raise torch.OutOfMemoryError("a lot")
        train(run, minutes)

    monkeypatch.setattr(gpu, "train_on", fail)
    assert start(folder, "--dataset", "cifar10") == 1
    assert sorted(epochs(folder)) == sorted(set(SIX) - {"kanconv"})
    told = capsys.readouterr().out
    assert "Failed: kanconv, cifar10: the device has too little memory for batches of 128" in told


def test_without_time_everything_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Pretended(monkeypatch, epoch=4, packing=4)
    assert gpu.main(["--work", str(folder), "--minutes", "0"]) == 0
    told = re.findall(r"^\| (.+?) \| not run \| \d+ \|$", capsys.readouterr().out, re.MULTILINE)
    names = [f"{model}, {dataset}" for dataset in ("cifar10", "cifar100") for model in SIX]
    assert told == [*on_device.NAMES.values(), *names]


def test_the_estimate_tells_batches_epochs_and_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--estimate", "--dataset", "cifar10", "--minutes", "10"]) == 0
    told = capsys.readouterr().out
    assert "Batches have 128 rows. That is the paper's own number" in told
    # 6 operations a product, at 10 TFLOP/s, and 352 steps of 3 ms; state: four times the paper's KB
    epoch = 6 * 262.8e6 * 45_000 / 1e13 + 352 * 0.003
    (row,) = [line for line in told.splitlines() if line.startswith("| kanconv")]
    _, _, _, seconds, most, minutes, _, megabytes, _ = (part.strip() for part in row.split("|"))
    assert float(seconds) == pytest.approx(epoch, abs=0.06)
    assert (most, megabytes) == ("155", f"{4 * 13654.27 * 1024 / 1e6:.0f}")
    assert float(minutes) == pytest.approx(epoch * 155 / 60, abs=1)


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ((), "this torch finds no CUDA device"),
        (("--tiny", "--publish", "--device", "cpu"), "are not for the published results"),
    ],
)
def test_what_cannot_be_is_refused(
    wish: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(wish)
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_edges_move_where_their_centroid_is_another_one() -> None:
    packed = kancompress.cluster(fresh("kan", (16, 8, 4)), clusters=4, force_pack=True).model
    first = packed.layers[0]
    assert first.codebook is not None
    assert first.index is not None
    # the same network, its centroids in another order
    order = np.array([2, 0, 3, 1])
    index = np.argsort(order)[first.index].astype(first.index.dtype)
    turned = replace(first, codebook=first.codebook[torch.from_numpy(order)], index=index)
    same = replace(packed, layers=(turned, *packed.layers[1:]))
    assert on_device.moved(packed, same) == on_device.moved(packed, packed) == 0
    index = np.concatenate([(index[:3] + 1) % 4, index[3:]])
    other = replace(packed, layers=(replace(turned, index=index), *packed.layers[1:]))
    assert on_device.moved(packed, other) == 3


@pytest.mark.slow
def test_all_of_it_runs_in_tiny_on_the_cpu(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = []
    assign = OnDevice.assign
    monkeypatch.setattr(
        OnDevice, "assign", lambda self, found: stepped.append(len(found)) or assign(self, found)
    )
    two = ["kanconv", "metagramkanconv"]
    wish = ["--tiny", "--device", "cpu", "--work", str(folder), "--models", *two]
    assert gpu.main(wish) == 0
    told = capsys.readouterr().out
    assert "There was time for everything." in told
    found = {
        cell["what"]: cell
        for line in (folder / "results" / "gpu.jsonl").read_text().splitlines()
        for cell in [json.loads(line)]
    }
    assert list(found) == list(on_device.PARTS)
    for cell in found.values():
        # both are the CPU here
        assert cell["error"][0] == pytest.approx(cell["error"][1], rel=1e-5)
        assert cell.get("moved", 0) == 0
        assert cell.get("repeats", True)
    assert found["processes"]["calls"]["cpu"] > 20
    assert stepped == [4] * 6  # twice, the first assignment and two iterations
    assert [cell["model"] for cell in kept_cells(folder)] == two
    assert not (folder / "published").exists()
    assert gpu.main(wish) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
