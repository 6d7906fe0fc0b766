"""Outputs of one command take their names together: all are there, or none."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

import kancompress
from command import call, done, only_line, refused
from conftest import fresh
from kancompress.reporting import plotting
from kancompress.system import files

CLUSTER = ("cluster", "dense.st", "-k", "4", "--calibrate", "digits", "--method", "metric",
           "--samples", "64")  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kancompress.save(fresh("kan", (64, 4, 10)), tmp_path / "dense.st")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


def stop(*_: object, **__: object) -> Any:
    raise KeyboardInterrupt


def failing(path: str, function: Any) -> Any:
    """`function` of a source and a target, but for one target."""

    def call_it(source: Any, target: Any) -> Any:
        if Path(target).name == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return function(source, target)

    return call_it


@pytest.mark.slow
def test_a_report_is_there_when_the_file_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = (*CLUSTER, "-o", "packed.st", "--report", "report.json")
    for module, name in (
        (kancompress, "encode"),
        (files, "_write_and_compare"),
        (files, "_placed"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            assert call(*run).exit_code == 130
        assert names(here) == {"dense.st"}  # so that nothing stands in the way of the next run
    done(*run)
    assert names(here) == {"dense.st", "packed.st", "report.json"}
    assert isinstance(kancompress.load("packed.st"), kancompress.PackedModel)
    assert json.loads(Path("report.json").read_text())["clusters"] == {"0": 4, "1": 4}


def test_a_report_that_gets_no_name_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing("report.json", Path.replace))
        run = (*CLUSTER, "-o", "packed.st", "--report", "report.json", "--force")
        result = call(*run)
    assert result.exit_code == 1
    told = only_line(result.stderr)
    assert told == (
        "report.json could not be written: Input/output error. packed.st is written, report.json"
        " is not."
    )
    assert names(here) == {"dense.st", "packed.st"}


def test_a_report_beside_standard_output(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = (*CLUSTER, "-o", "-", "--report", "report.json")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_and_compare", stop)
        result = call(*run)
        assert (result.exit_code, result.stdout_bytes) == (130, b"")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_placed", failing("report.json", None))
        result = call(*run)
        assert result.exit_code == 1
        assert "Standard output is written, report.json is not." in only_line(result.stderr)
    assert names(here) == {"dense.st"}
    raw = done(*run).stdout_bytes
    done(*CLUSTER, "-o", "packed.st")
    assert Path("packed.st").read_bytes() == raw
    assert "clusters" in json.loads(Path("report.json").read_text())


@pytest.mark.slow
def test_both_pictures_or_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    kancompress.save(fresh("kan", (5, 3, 2)), "dense.st", force=True)
    run = ("inspect", "dense.st", "--plot", "e.svg", "--plot-functions", "f.svg")
    with monkeypatch.context() as patch:
        patch.setattr(plotting, "draw_curves", stop)
        assert call(*run).exit_code == 130
    assert names(here) == {"dense.st"}
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", failing("f.svg", os.link))
        patch.setattr(Path, "replace", failing("f.svg", Path.replace))
        line = call(*run).stderr
    assert "f.svg could not be written: Input/output error. e.svg is written, f.svg is not." in line
    assert names(here) == {"dense.st", "e.svg"}
    assert "e.svg exists already" in refused(2, *run)
    alone = ("inspect", "dense.st", "--plot", "alone.svg")
    done(*alone)
    done(*run, "--force")
    assert Path("e.svg").read_bytes() == Path("alone.svg").read_bytes()
    assert names(here) == {"dense.st", "e.svg", "f.svg", "alone.svg"}
