"""Gates of `eval`, quiet commands, `--force` for a whole pipeline, and targets out of reach."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kancompress
from command import call, done, only_line, refused, write_material
from conftest import fresh
from kancompress import CalibrationConfig, ClusterConfig, DataSpec, Method, Target


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("gates"))


def test_a_gate_that_is_missed_ends_with_4_once_all_is_told(place: Path) -> None:
    result = call("eval", place / "packed.st", "--json", "--min-accuracy", "1", "--max-bytes", "10")
    assert result.exit_code == 4
    told = json.loads(result.stdout)
    assert told["accuracy"] < 1
    line = only_line(result.stderr)
    share = f"{100 * told['accuracy']:.2f} %"
    assert f"accuracy {share} is below --min-accuracy 1, which is 100.00 %; " in line
    wrong = refused(2, "eval", place / "packed.st", "--min-accuracy", "93")
    assert wrong == (
        "--min-accuracy 93 is not possible; a share from 0 to 1 was expected; for 93 % write 0.93."
    )
    assert f"{told['file_bytes']:,} bytes are above --max-bytes 10" in line


def test_gates_let_pass_what_is_on_the_bound(place: Path) -> None:
    told = json.loads(done("eval", place / "packed.st", "--json").stdout)
    bounds = ("--min-accuracy", repr(told["accuracy"]), "--max-bytes", str(told["file_bytes"]))
    assert "accuracy" in done("eval", place / "packed.st", *bounds).stdout
    less = ("--max-bytes", str(told["file_bytes"] - 1))
    assert call("eval", place / "packed.st", *less).exit_code == 4


def test_an_error_of_targets_is_a_gate(place: Path) -> None:
    network = replace(fresh("fastkan", (5, 4, 2)), data=DataSpec(name="targets", targets=2))
    kancompress.save(network, place / "regression.st", force=True)
    scored = ("eval", place / "regression.st", "--data", place / "targets.npz")
    rmse = json.loads(done(*scored, "--json").stdout)["rmse"]
    done(*scored, "--max-rmse", str(rmse + 1e-6))
    result = call(*scored, "--max-rmse", str(rmse - 1e-6))
    assert result.exit_code == 4
    assert result.stdout.startswith("rmse ")
    assert "above --max-rmse" in only_line(result.stderr)
    assert "use --max-rmse" in refused(2, *scored, "--min-accuracy", "0.5")
    assert "use --min-accuracy" in refused(2, "eval", place / "packed.st", "--max-rmse", "1")


def test_what_is_scored_is_named(place: Path) -> None:
    told = json.loads(done("eval", place / "packed.st", "--json").stdout)
    dense = (place / "dense.st").stat().st_size
    assert told["file"] == str(place / "packed.st")
    assert told["file_bytes"] == (place / "packed.st").stat().st_size
    assert told["ratio"] == pytest.approx(dense / told["file_bytes"], rel=0.01)
    assert told["clusters"] == {"0": 4, "1": 4}
    told = json.loads(done("eval", place / "dense.st", "--json").stdout)
    assert (told["file_bytes"], told["ratio"], told["clusters"]) == (dense, None, None)


def test_a_quiet_command_prints_results_and_errors_alone(place: Path, tmp_path: Path) -> None:
    told = done("cluster", place / "dense.st", "-o", tmp_path / "out.st", "--quiet")
    assert told.stdout == told.stderr == ""
    told = done("eval", tmp_path / "out.st", "-q")
    assert told.stdout.startswith("accuracy")
    assert told.stderr == ""
    assert "exists" in refused(2, "cluster", place / "dense.st", "-o", tmp_path / "out.st", "-q")


def test_a_whole_pipeline_may_replace_its_files(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = ("cluster", place / "dense.st", "-k", "2", "-o", tmp_path / "out.st")
    done(*again)
    assert "exists" in refused(2, *again)
    monkeypatch.setenv("KANCOMPRESS_FORCE", "0")
    assert "exists" in refused(2, *again)
    monkeypatch.setenv("KANCOMPRESS_FORCE", "1")
    done(*again)
    assert "KANCOMPRESS_FORCE" in done("expand", "--help").stdout


def test_a_target_out_of_reach_is_told_the_same_smallest_file_however_it_is_asked() -> None:
    source = fresh("fastkan", (6, 4, 3))
    quick = CalibrationConfig(method=Method.METRIC, starts=1)
    free = ClusterConfig(price=0.0)  # of which no search is needed
    with_rows = {"rows": torch.randn(64, 6), "calibration": quick, "config": free}
    ways = [
        {"config": ClusterConfig(target_bytes=1)},
        {"target": Target(bytes=1)},
        {"target": Target(ratio=1e6)},
        {"target": Target(bytes=1), **with_rows},
        {"target": Target(ratio=1e6), **with_rows},
    ]
    smallest = set()
    for way in ways:
        with pytest.raises(kancompress.KancompressError) as error:
            kancompress.cluster(source, **way)  # type: ignore[arg-type]
        assert error.value.exit_code == 1
        found = re.search(r"the smallest, at k = 1, has ([\d,]+)", str(error.value))
        assert found is not None, error.value
        smallest.add(int(found[1].replace(",", "")))
    (size,) = smallest
    made = kancompress.cluster(source, target=Target(bytes=size), **with_rows)  # type: ignore[arg-type]
    assert len(kancompress.encode(made.model)) == size
    assert any("clustered without rows" in note for note in made.notes)
    assert made.calibrated is not None
    assert set(made.calibrated.clusters.values()) == {1}
