"""The pipeline from end to end, as the command line runs it."""

import contextlib
import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from command import ENVIRONMENT, KANCOMPRESS, done
from kancompress.formats import safetensors as container


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where train, cluster and finetune have run."""
    place = tmp_path_factory.mktemp("pipeline")
    with contextlib.chdir(place):
        for arguments in (
            ["train", "--epochs", "8", "-o", "digits.safetensors"],
            ["cluster", "digits.safetensors", "-o", "packed.safetensors"],
            ["finetune", "packed.safetensors", "--epochs", "2", "-o", "tuned.safetensors"],
        ):
            assert done(*arguments).stdout == ""
    return place


def test_packed_keeps_the_accuracy(made: Path) -> None:
    scores = {}
    for name in ("digits", "packed", "tuned"):
        result = done("eval", made / f"{name}.safetensors", "--json")
        assert result.stderr == ""
        scores[name] = json.loads(result.stdout)
    assert scores["digits"]["examples"] == 360
    assert scores["digits"]["accuracy"] > 0.85
    assert scores["packed"]["accuracy"] > scores["digits"]["accuracy"] - 0.03
    assert scores["tuned"]["accuracy"] > scores["digits"]["accuracy"] - 0.03


def test_report_adds_up_to_the_file(made: Path) -> None:
    report = json.loads(done("inspect", made / "packed.safetensors", "--json").stdout)
    totals = report["totals"]
    size = (made / "packed.safetensors").stat().st_size
    assert report["file_bytes"] == size
    parts = totals["index_bytes"] + totals["codebook_bytes"] + totals["other_bytes"]
    assert report["header_bytes"] + parts == size
    assert totals["index_bytes"] == (64 * 32 + 32 * 10) * 4 // 8
    assert totals["codebook_bytes"] == 2 * 16 * 9 * 4
    assert report["ratios"]["dense_file"] > 20


@pytest.mark.parametrize(
    "dtype",
    [torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz],
)
def test_inspect_reads_8_bits_that_the_library_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "file.st"
    save_file({"a": torch.arange(6, dtype=torch.uint8).view(2, 3).view(dtype)}, file)
    shown = json.loads(done("inspect", file, "--json").stdout)
    assert (shown["kind"], shown["payload_bytes"]) == ("safetensors", 6)
    found = container.parse(memoryview(file.read_bytes()), "file")
    assert found.array("a").data.tolist() == [0, 1, 2, 3, 4, 5]


def test_any_safetensors_reader_opens_it(made: Path) -> None:
    with safe_open(made / "tuned.safetensors", "np") as file:
        assert set(file.keys()) == {
            "0.codebook", "0.index", "0.norm", "1.codebook", "1.index", "1.norm",
        }  # fmt: skip
        assert file.get_tensor("0.codebook").shape == (16, 9)
        assert file.get_tensor("0.index").shape == (1024,)


@pytest.mark.slow
def test_it_all_pipes(tmp_path: Path) -> None:
    stages = [
        "train --epochs 4 -o -", "cluster - -o -", "finetune - --epochs 1 -o -", "eval - --json",
    ]  # fmt: skip
    command = " | ".join(f"{' '.join(KANCOMPRESS)} {stage}" for stage in stages)
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(result.stdout)["accuracy"] > 0.7
