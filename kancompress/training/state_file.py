"""Where a training run keeps its state, and whether a file is one; `state` reads and writes it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kancompress.errors import KancompressError, UsageError
from kancompress.training.history import Epoch
from kancompress.values import maybe, settle
from kancompress.values import path as a_path

SUFFIX = ".state"
# Key of the metadata that makes a safetensors file a state; it stands first in the file.
KEY = "kancompress.state"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """Where a run keeps its state, and where it goes on from.

    path       : replaced after every epoch; it stays when the run has ended. While a run has it,
                 no other process may (`locks`). What is there and is no state is never replaced
    resume     : state of the same run to go on from, None to start
    on_resume  : told the epochs that are done
    on_change  : told, in a sentence, what may make the result differ in rounding from that of a
                 run that was not stopped
    """

    path: Path
    resume: Path | None = None
    on_resume: Callable[[list[Epoch]], None] | None = None
    on_change: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        settle(self, path=a_path, resume=maybe(a_path))

    def check(self) -> None:
        """Refuse a `path` that holds anything but a state. Raises UsageError."""
        try:
            if is_state(self.path):
                return
        except FileNotFoundError:
            return
        except OSError as error:
            raise KancompressError(
                f"{self.path} could not be written: {error.strerror or error}."
            ) from None
        what = "a symbolic link, not" if self.path.is_symlink() else "not"
        raise UsageError(
            f"{self.path} is {what} the state of a run, so it stays as it is. Move it away, or give"
            " this run another `path`.",
            where=str(self.path),
            fields=("path",),
        )

    def remove(self) -> None:
        """Take the state away; what is none stays."""
        with contextlib.suppress(OSError):
            if is_state(self.path):
                self.path.unlink()

    @staticmethod
    def beside(output: Path) -> Path:
        """Where a command that writes `output` keeps its state."""
        return output.with_name(output.name + SUFFIX)


def is_state(path: Path) -> bool:
    """Whether a regular file, and no link to one, begins as `state.save` lets states begin.

    Raises OSError where it cannot be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | careful)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        start = b'{"__metadata__":{"%s":"' % KEY.encode()
        return os.read(handle, 8 + len(start))[8:] == start
    finally:
        os.close(handle)
