"""Standard output when its reader goes away, and when its disk is full."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from kancompress.errors import KancompressError


class ClosedPipeError(Exception):
    """The reader of standard output has gone."""


def guarded(action: Callable[[], Any]) -> None:
    """Run a write to standard output; raises ClosedPipeError when nobody reads it any more."""
    try:
        action()
    except BrokenPipeError:
        raise ClosedPipeError from None
    except OSError as error:
        raise KancompressError(
            f"Standard output could not be written: {error.strerror or error}."
        ) from None


def silence() -> None:
    """Point standard output at nothing, so that the interpreter's last flush cannot complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
