"""What Windows and macOS have not, or do otherwise, played on Linux."""

import ast
import errno
import importlib.util
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_augmentation import split

import kancompress
from command import ENVIRONMENT, done, refused
from conftest import fresh
from kancompress.cli import _run, _streams
from kancompress.data.augmentation import Augmenter
from kancompress.errors import ClosedPipeError, KancompressError
from kancompress.system import files, parts
from other_system import guarded

PACKAGE = Path(kancompress.__file__).parent

# Every command that writes, and then every module.
PLAYED = """
import json, pkgutil, sys
from importlib import import_module
import other_system
other_system.play()
import kancompress
from kancompress.cli.main import main
from kancompress.system import parts
assert not parts.CAN_LOCK
for line in json.loads(sys.argv[1]):
    sys.argv = ["kancompress", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
for module in pkgutil.walk_packages(kancompress.__path__, "kancompress."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
"""
LINES = [
    "train --hidden 8 --epochs 1 --keep-state always --log log.jsonl -o d.st",
    "train --hidden 8 --epochs 2 --keep-state always --log log.jsonl --resume d.st -o d2.st",
    "cluster d.st -k 4 -o p.st",
    "cluster d.st -k 4 -o p.st --force",
    "finetune p.st --epochs 1 --keep-state always -o t.st",
    "finetune p.st --epochs 2 --keep-state always --resume auto -o t.st --force",
    "eval t.st --json",
    "predict t.st --data x.npz -o out.csv",
    "inspect t.st --html t.html --markdown t.md",
    "expand t.st -o e.pt",
    "cluster e.pt -k 4 -o f.st",
    "export t.st -o t.h",
    "export t.st -o t.page.html --card README.md",
    "sweep d.st -k 2,4 -o sweep",
    "sweep d.st -k 2,4,5 -o sweep",
]


@pytest.mark.slow
def test_every_command_and_module_does_without(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 64), np.float32))
    paths = [str(Path(__file__).parent), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    made = subprocess.run(
        [sys.executable, "-c", PLAYED, json.dumps(LINES)],
        cwd=tmp_path, env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    left = {path.name for path in tmp_path.iterdir()}
    asked = {line.split(" -o ")[1].split()[0] for line in LINES if " -o " in line}
    states = {"d.st.state", "d2.st.state", "t.st.state"}
    assert left == {*asked, *states, "x.npz", "log.jsonl", "t.html", "t.md", "README.md"}
    done("cluster", tmp_path / "d.st", "-k", "4", "-o", tmp_path / "here.st")
    assert (tmp_path / "here.st").read_bytes() == (tmp_path / "p.st").read_bytes()
    lines = (tmp_path / "log.jsonl").read_bytes()
    assert lines.count(b"\n") == 3
    written = [tmp_path / name for name in ("log.jsonl", "out.csv", "t.h", "t.html", "README.md")]
    assert not any(b"\r" in path.read_bytes() for path in written)


def test_text_has_its_encoding() -> None:
    """What the system's own would be differs between systems; the standard streams have it."""
    guesses = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)) if re.search(r"\bopen\(|_text\(", text) else ():
            if isinstance(node, ast.Call) and _guesses_encoding(node):
                guesses.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert [name for name in guesses if not name.startswith(str(Path("cli", "_streams.py")))] == []
    assert len(guesses) == 3


def _guesses_encoding(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    is_builtin = isinstance(call.func, ast.Name) and name == "open"
    return is_builtin and not any("b" in str(mode) for mode in modes)


# --- files ---------------------------------------------------------------------------------


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open files are neither renamed nor removed, and nothing can be locked."""
    monkeypatch.setattr(parts, "CAN_LOCK", False)
    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("force", [True, False])
def test_files_are_written_where_open_ones_cannot_be_renamed(force: bool, tmp_path: Path) -> None:
    for content in (b"first", b"second") if force else (b"first",):
        assert files.write(tmp_path / "out", [content], force=force) == len(content)
        assert (tmp_path / "out").read_bytes() == content
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("strict")
def test_a_writer_that_fails_leaves_nothing_where_open_files_cannot_be_removed(
    tmp_path: Path,
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        assert len(names(tmp_path)) == 2
        raise KeyboardInterrupt

    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "out", chunks(), force=True)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def refusing(monkeypatch: pytest.MonkeyPatch, times: int, winerror: int | None) -> list[str]:
    """Renames fail so many times; the list gets the name of every file that was to be renamed."""
    asked: list[str] = []
    real = os.replace

    def replace(aside: Any, target: Any) -> None:
        asked.append(Path(aside).name)
        if len(asked) <= times:
            error = PermissionError(errno.EACCES, "Access is denied")
            if winerror is not None:
                error.winerror = winerror  # type: ignore[attr-defined]
            raise error
        real(aside, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(files, "_PAUSES", (0.0,) * 4)
    return asked


@pytest.mark.parametrize("winerror", [5, 32])
def test_a_target_that_is_in_use_for_a_moment_is_waited_for(
    winerror: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_bytes(b"old")
    asked = refusing(monkeypatch, 1, winerror)
    assert files.write(tmp_path / "out", [b"new"], force=True) == 3
    assert len(asked) == 2
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("times", "winerror", "hint"),
    [
        (1, None, ""),
        (99, 32, " If another program has it open, close it there and run this again."),
    ],
)
def test_a_target_that_cannot_be_replaced_stays(
    times: int, winerror: int | None, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kancompress.save(fresh("gramkan", (3, 2)), tmp_path / "in.st")
    (tmp_path / "out.st").write_bytes(b"old")
    monkeypatch.chdir(tmp_path)
    asked = refusing(monkeypatch, times, winerror)
    line = refused(1, "cluster", "in.st", "-k", "2", "-o", "out.st", "--force")
    assert line == f"out.st could not be written: Access is denied.{hint}"
    assert len(asked) == (5 if winerror else 1)
    assert names(tmp_path) == ["in.st", "out.st"]
    assert (tmp_path / "out.st").read_bytes() == b"old"


@pytest.mark.parametrize("force", [True, False])
def test_files_are_written_without_hard_links(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "link")
    files.write(tmp_path / "out", [b"abc"], force=force)
    with pytest.raises(KancompressError, match="exists already"):
        files.write(tmp_path / "out", [b"xyz"], force=False)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"abc"


# --- names ---------------------------------------------------------------------------------


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system does not tell small letters from capital ones, as macOS's and Windows's."""

    def samefile(one: Path, other: Path) -> bool:
        return str(one.resolve()).casefold() == str(other.resolve()).casefold()

    monkeypatch.setattr(Path, "samefile", samefile)


def test_names_that_differ_in_case_are_two(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert files.is_same(tmp_path / "a.st", tmp_path / "link" / ".." / tmp_path.name / "a.st")
    assert not files.is_same(tmp_path / "a.st", tmp_path / "A.st")
    assert not files.is_same(Path("/a"), Path("/A"))


@pytest.mark.usefixtures("blind")
def test_names_that_differ_in_case_are_one_where_case_is_not_told(tmp_path: Path) -> None:
    assert files.is_same(tmp_path / "a.st", tmp_path / "A.ST")
    assert not files.is_same(tmp_path / "a.st", tmp_path / "b.st")
    kancompress.save(fresh("gramkan", (3, 2)), tmp_path / "in.st")
    (tmp_path / "IN.st").hardlink_to(tmp_path / "in.st")
    out = tmp_path / "in.st"
    assert "is the input itself" in refused(2, "cluster", out, "-k", "2", "-o", tmp_path / "IN.st")
    line = refused(2, "inspect", out, "--html", tmp_path / "page", "--markdown", tmp_path / "PAGE")
    assert "give them two names" in line
    line = refused(2, "train", "-o", tmp_path / "new.st", "--log", tmp_path / "New.st")
    assert "another output of the same run" in line


# --- streams, signals, processes, text -----------------------------------------------------


def test_a_closed_pipe_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(_streams, "silence", lambda _: None)
    with pytest.raises(KancompressError, match="could not be written: Invalid argument"):
        _streams.guarded(write)
    monkeypatch.setattr(os, "name", "nt")
    with pytest.raises(ClosedPipeError):
        _streams.guarded(write)


def test_the_signals_that_stop_a_run_are_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(signal, "SIGHUP")
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR2, raising=False)
    assert _run._stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2]


def test_what_prepares_images_can_be_sent_to_a_new_process() -> None:
    """Windows and macOS begin one anew, and so does Linux from Python 3.14 on."""
    rows = split("mnist")
    loader = Augmenter(rows, 0, 0)._loader
    sent, begin = pickle.loads(pickle.dumps((loader.dataset, loader.worker_init_fn)))
    assert begin is loader.worker_init_fn
    assert rows.images is not None
    assert torch.equal(sent._images.pixels, rows.images.pixels)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_layouts_are_read_as_the_shells_of_windows_write_them(
    encoding: str, tmp_path: Path
) -> None:
    text = 'layers = [{layers = ["größe"], layout = "none"}]\n'.replace("\n", "\r\n")
    (tmp_path / "layouts.toml").write_bytes(text.encode(encoding))
    assert kancompress.read_layouts(tmp_path / "layouts.toml") == {"größe": "none"}


def test_a_processor_of_the_other_byte_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    spec = importlib.util.find_spec("kancompress.models.tensors")
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(KancompressError, match="this one is big-endian"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
