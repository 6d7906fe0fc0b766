"""Inputs and outputs of commands: paths, or `-` for the standard streams."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import kancompress
from kancompress.cli import _streams
from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.frozen import dataclass
from kancompress.system import files
from kancompress.system import inputs as reading
from kancompress.system import torchrun as launch

DASH = "-"
_STDIN = Path("/dev/stdin")


@dataclass(frozen=True, slots=True)
class Given:
    """An input: what the library takes, and what messages call it."""

    source: Path | bytes
    name: str


def inputs(*arguments: str | Path | None) -> list[Path]:
    """The paths that must not be written over; standard input may be a file, too."""
    return [
        _STDIN if str(argument) == DASH else files.located(Path(argument))
        for argument in arguments
        if argument is not None and not files.hub_name(argument)
    ]


def given(argument: str) -> Given:
    """The bytes of standard input for `-` and of a named pipe, else the path itself, of the hub's
    files that of their copy here.

    Raises UsageError for a terminal, InvalidFileError for what is not there or not to be read.
    """
    if argument != DASH:
        path, called = reading.found(argument)
        reading.check(path)
        name = argument if path == Path(argument) else called
        if path.is_fifo():  # which can be read but once, and some commands look twice
            return Given(bytes(reading.read(path)[:]), name)
        return Given(path, name)
    if launch.processes() > 1:
        raise UsageError("Several processes cannot share standard input; name a file.")
    if sys.stdin.isatty():
        raise UsageError("Standard input is a terminal; pipe a file into it or name one.")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise InvalidFileError(
            Flaw.UNREADABLE, f"Standard input cannot be read: {error.strerror or error}."
        ) from None
    if not data:
        raise InvalidFileError(
            Flaw.EMPTY, "Standard input is empty; did the command before the pipe fail?"
        )
    return Given(data, "standard input")


def check_there(*paths: Path | None) -> None:
    """Refuse, before any work, further inputs that are not there."""
    for path in paths:
        if path is not None:
            reading.check(reading.found(path)[0])


def check_output(
    output: str, *, force: bool, inputs: Iterable[Path] = (), text: bool = False
) -> None:
    """Refuse, before any work, an output that cannot be written; text may go to a terminal."""
    if output != DASH:
        files.check_target(Path(output), force=force, inputs=inputs)
        return
    if sys.stdout.isatty() and not text:
        raise UsageError("Binary data is not written to a terminal; use -o FILE or a pipe.")
    for path in inputs:
        if _is_stdout(path):
            raise UsageError("Standard output is the input itself; write to another file.")


def _is_stdout(path: Path) -> bool:
    try:
        found = os.fstat(sys.stdout.fileno())
        return stat.S_ISREG(found.st_mode) and os.path.samestat(found, path.stat())
    except OSError:
        return False


def write_record(
    record: kancompress.Checkpoint | kancompress.PackedModel,
    output: str,
    *,
    force: bool,
    inputs: Iterable[Path] = (),
) -> int:
    """Write a record to a path or to standard output; returns its bytes.

    Of several processes the first one writes, others return 0.
    """
    if not launch.is_first():
        return 0
    if output != DASH:
        return kancompress.save(record, output, force=force, inputs=inputs)
    return write_bytes(kancompress.encode(record), output, force=force)


def write_with(
    record: kancompress.Checkpoint | kancompress.PackedModel,
    output: str,
    more: Sequence[tuple[Path, bytes]],
    *,
    force: bool,
    inputs: Iterable[Path] = (),
) -> int:
    """Write a record as `write_record` does, and further files together with it."""
    if not more or not launch.is_first():
        return write_record(record, output, force=force, inputs=inputs)
    if output != DASH:
        files.check_target(Path(output), force=force, inputs=inputs)
    return write_bytes_with(kancompress.encode(record), output, more, force=force)


def write_bytes_with(
    raw: bytes, output: str, more: Sequence[tuple[Path, bytes]], *, force: bool
) -> int:
    """Write a whole file as `write_bytes` does, and further files together with it."""
    return write_pieces_with([raw], output, more, force=force)


def write_pieces_with(
    raw: Sequence[bytes | memoryview],
    output: str,
    more: Sequence[tuple[Path, bytes]],
    *,
    force: bool,
) -> int:
    """The same of a file in pieces that follow one another."""
    if output != DASH:
        whole: list[tuple[Path, Sequence[bytes | memoryview]]] = [(Path(output), raw)]
        whole += [(path, [data]) for path, data in more]
        return files.write_together(whole, force=force)[0]
    with contextlib.ExitStack() as stack:
        places = [
            (str(path), stack.enter_context(files.aside(path, [data], force=force)))
            for path, data in more
        ]
        return files.in_turn([("Standard output", lambda: _to_stdout(*raw)), *places])[0]


def write_bytes(data: bytes, output: str, *, force: bool) -> int:
    """Write a whole file to a path, atomically and verified, or to standard output.

    Of several processes the first one writes, others return 0.
    """
    if not launch.is_first():
        return 0
    if output != DASH:
        return files.write(Path(output), [data], force=force)
    return _to_stdout(data)


def _to_stdout(*pieces: bytes | memoryview) -> int:
    for data in pieces:
        write_stdout(data)
    return sum(map(len, pieces))


def write_stdout(data: bytes | memoryview) -> None:
    """Write bytes to standard output and flush them."""

    def action() -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    _streams.guarded(action)
