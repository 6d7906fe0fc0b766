"""The command line: within this process, and as a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import kancompress
from conftest import fresh
from kancompress.cli.main import app

try:
    RUNNER = CliRunner(mix_stderr=False)  # click before 8.2
except TypeError:
    RUNNER = CliRunner()
KANCOMPRESS = [sys.executable, "-m", "kancompress"]
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING")
} | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "xterm-256color"}


def call(*arguments: str | Path, stdin: bytes = b"") -> Any:
    """Run a command in this process; the result has exit_code, stdout, stdout_bytes, stderr."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        return RUNNER.invoke(app, [*map(str, arguments)], input=stdin, catch_exceptions=False)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def spawn(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; stdout and stderr are text unless given."""
    standard = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.run(
        [*KANCOMPRESS, *map(str, arguments)],
        **(standard | {"env": ENVIRONMENT, "text": True, "check": False} | options),
    )


def done(*arguments: str | Path, stdin: bytes = b"") -> Any:
    """Run a command that should end well."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    return result


@contextlib.contextmanager
def running(command: list[str], cue: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A process, the first of its group, that has just said `cue` on stderr; it heeds SIGINT even
    where a shell that put the tests into the background has it ignored."""
    with subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), start_new_session=True,
    ) as process:  # fmt: skip
        try:
            stderr: IO[str] = process.stderr  # type: ignore[assignment]
            for line in stderr:
                if cue in line:
                    break
            yield process
        finally:
            process.kill()


def only_line(stderr: str) -> str:
    """The one line of an error, without the program's name."""
    assert "Traceback" not in stderr
    assert "Internal error" not in stderr
    lines = stderr.splitlines()
    told = [line for line in lines if line.startswith("kancompress: ")]
    assert len(told) == 1, stderr
    assert lines[-1] == told[0], stderr
    return told[0].removeprefix("kancompress: ")


def refused(code: int, *arguments: str | Path, stdin: bytes = b"") -> str:
    """Run a command that should end with `code`, one line and no data; returns the line."""
    result = call(*arguments, stdin=stdin)
    assert result.exit_code == code, (result.exit_code, result.stderr)
    assert result.stdout_bytes == b""
    return only_line(result.stderr)


def write_material(place: Path) -> Path:
    """One file of each kind, from freshly drawn networks for digits and for arrays of one's own."""
    meta = fresh("metafastkan", (64, 8, 10))
    packed = kancompress.cluster(meta, kancompress.ClusterConfig(clusters=4)).model
    kancompress.save(meta, place / "meta.st")
    kancompress.save(packed, place / "packed.st")
    kancompress.save(kancompress.expand(packed), place / "dense.st")
    save_file({"[red]a\x1b[31m\n": torch.zeros(3), "b\u202e": torch.zeros(2)}, place / "foreign.st")
    (place / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (place / "text.txt").write_text("x,y\n1,2\n" * 9)
    (place / "page.html").write_text("<!DOCTYPE html><title>404</title>")
    (place / "pointer.st").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (place / "empty.st").touch()
    (place / "directory").mkdir()
    torch.save({"a": torch.zeros(3)}, place / "model.pt")
    torch.save({"a": torch.zeros(3)}, place / "old.pt", _use_new_zipfile_serialization=False)
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.savez(place / "classes.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    np.savez(place / "targets.npz", x=x, y=x[:, :2])
    return place
