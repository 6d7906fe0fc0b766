"""Inputs and outputs of commands: paths, or `-` for the standard streams."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import kancompress
from kancompress import files
from kancompress.cli import _streams
from kancompress.errors import Flaw, InvalidFileError, UsageError

DASH = "-"


@dataclass(frozen=True, slots=True)
class Given:
    """An input: what the library takes, and what messages call it."""

    source: Path | bytes
    name: str

    @property
    def paths(self) -> list[Path]:
        """The path that must not be written over, if there is one."""
        return [self.source] if isinstance(self.source, Path) else []


def given(argument: str) -> Given:
    """Spool standard input for `-`, else the path itself. Raises UsageError for a terminal."""
    if argument != DASH:
        return Given(Path(argument), argument)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("Standard input is a terminal; pipe a file into it or name one.")
    data = sys.stdin.buffer.read()
    if not data:
        raise InvalidFileError(
            Flaw.EMPTY, "Standard input is empty; did the command before the pipe fail?"
        )
    return Given(data, "standard input")


def check_output(output: str, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse, before any work, an output that cannot be written."""
    if output == DASH:
        if sys.stdout.isatty():
            raise UsageError("Binary data is not written to a terminal; use -o FILE or a pipe.")
        return
    files.check_target(Path(output), force=force, inputs=inputs)


def write_record(
    record: kancompress.Checkpoint | kancompress.PackedModel,
    output: str,
    *,
    force: bool,
    inputs: Iterable[Path] = (),
) -> int:
    """Write a record to a path or to standard output; returns its bytes."""
    if output != DASH:
        return kancompress.save(record, output, force=force, inputs=inputs)
    write_stdout(data := kancompress.encode(record))
    return len(data)


def write_stdout(data: bytes) -> None:
    """Write bytes to standard output and flush them."""

    def action() -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    _streams.guarded(action)
