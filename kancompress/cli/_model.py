"""The user's own model on the command line."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import kancompress
from kancompress.errors import UsageError
from kancompress.models import factory

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def own_model(target: str | None) -> Iterator[nn.Module | None]:
    """The module that --model names, if it is given; what its code prints goes to stderr."""
    if target is None:
        yield None
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield kancompress.build_module(target)


def row_shape(target: str | None, text: str | None) -> tuple[int, ...] | None:
    """Shape of a row for `DataOptions`: the file's own for --model, unless --input-shape tells.

    Raises UsageError where --model names nothing that could be called.
    """
    if target is not None:
        factory.split(target)
    if text is None:
        return None if target is None else ()
    if target is None:
        raise UsageError("--input-shape is for --model; other files tell what rows they take.")
    parts = text.split(",")
    if not all(re.fullmatch("[1-9][0-9]{0,9}", part) for part in parts):
        raise UsageError(f"--input-shape {text} is no shape; write sizes as in 3,32,32.")
    return tuple(int(part) for part in parts)
