"""Pictures and predictions that are to be written: what cannot be is refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from kancompress.config import RowFormat
from kancompress.errors import KancompressError, UsageError
from kancompress.system import files

# Suffixes of pictures, and what their files shall not tell.
PICTURES: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def check_picture_target(
    path: str | os.PathLike[str], *, force: bool = False, inputs: Iterable[Path] = ()
) -> Path:
    """Refuse, before any work, a picture that cannot be drawn or written; returns its path.

    path   : ends in .png, .svg or .pdf
    force  : whether it may replace a file
    inputs : files that it must not replace even then
    Raises UsageError for another suffix, for an existing file without `force`, for one of `inputs`
    and for a directory that is not there; KancompressError for a directory that cannot be written
    to, and without matplotlib.
    """
    target = Path(path)
    if target.suffix.lower() not in PICTURES:
        raise UsageError(f"{target} is no picture; end its name in .png, .svg or .pdf.")
    files.check_target(target, force=force, inputs=inputs)
    if find_spec("matplotlib") is None:
        raise KancompressError(
            "Pictures need matplotlib, which is not installed; get it with:"
            " pip install 'kancompress[plot]'"
        )
    return target


def check_predictions_target(
    path: str | os.PathLike[str], *, force: bool, inputs: Iterable[Path] = ()
) -> None:
    """Refuse, before any work, a file that `save_predictions` could not write.

    path   : ends in .safetensors or .npz, which names the format
    force  : whether it may replace a file
    inputs : files that it must not replace even then
    Raises UsageError for another suffix, for an existing file without `force`, for one of `inputs`
    and for a directory that is not there; KancompressError for a directory that cannot be written
    to.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise UsageError(f"{path} should end in .safetensors or .npz, which names the format.")
    files.check_target(path, force=force, inputs=inputs)


_ROWS = {f".{form}": form for form in RowFormat}


def row_format(path: Path, asked: RowFormat | None = None) -> RowFormat:
    """The format of arrays of rows that was asked for, or that a suffix names.

    Raises UsageError where neither does, and where the suffix names another one.
    """
    form = _ROWS.get(path.suffix.lower())
    if form is None and asked is None:
        *others, last = _ROWS
        raise UsageError(
            f"{path} should end in {', '.join(others)} or {last}, which names the format.",
            where=str(path),
        )
    if asked is not None and form not in (None, asked):
        raise UsageError(
            f"{path} says another format than {asked}, which was asked for; name it .{asked}.",
            where=str(path),
        )
    return asked or form or RowFormat.NPZ
