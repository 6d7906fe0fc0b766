"""The standard streams when they are closed, when nobody reads them, and when a disk is full."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from kancompress.errors import ClosedPipeError, KancompressError


def prepare() -> None:
    """Put something under descriptors 0 to 2 that the caller closed, and let any name be printed.

    No file that is opened later takes their place then, and using them fails as it should.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def guarded(action: Callable[[], Any]) -> None:
    """Run a write to standard output; raises ClosedPipeError when nobody reads it any more."""
    try:
        action()
    except OSError as error:
        silence(sys.stdout)
        if is_closed_pipe(error):
            raise ClosedPipeError("Whoever read standard output has closed it.") from None
        raise KancompressError(
            f"Standard output could not be written: {error.strerror or error}."
        ) from None


def is_closed_pipe(error: OSError) -> bool:
    """Whether nobody reads a pipe any more; Windows calls that an invalid argument."""
    is_invalid = os.name == "nt" and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or is_invalid


def silence(stream: TextIO) -> None:
    """Point a stream at nothing, so that the interpreter's last flush cannot complain."""
    with contextlib.suppress(OSError):
        number = stream.fileno()
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
