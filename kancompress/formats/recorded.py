"""What a command reads: a path, bytes, or a record, also one that a result of a command holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from kancompress.errors import UsageError
from kancompress.formats.checkpoint import CheckpointRecord
from kancompress.formats.packed import PackedRecord
from kancompress.values import article

# Commands that run a file in the user's own module.
_WITH_A_MODEL = ("compare", "evaluate", "finetune", "predict")


def source(value: Any, command: str) -> Any:
    """A path, the bytes of a file, or a record: of what a command gives, the model in it.

    command : the function that it was given to
    Raises UsageError for anything else.
    """
    found = record(value)
    if found is not None:
        return found
    if isinstance(value, str | os.PathLike | bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    expected = f"{command} takes a path, the bytes of a file, or what `kancompress.load` gives"
    if hasattr(value, "state_dict"):
        runs = ", and the module itself as `model`" if command in _WITH_A_MODEL else ""
        raise UsageError(
            f"{expected}, no live {type(value).__name__}. Pack that with kancompress.compress, or"
            f" give the file of its state dict{runs}.",
            fields=("model",) if runs else (),
        )
    if isinstance(value, Mapping):
        raise UsageError(
            f"{expected}, no {type(value).__name__} of tensors. Pack that with kancompress.cluster,"
            " or write it to a file with torch.save."
        )
    raise UsageError(f"{expected}; it was given {article(value)}.")


def path(value: Any, command: str) -> str | os.PathLike[str] | bytes:
    """A path or the bytes of a file. Raises UsageError for anything else."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike | bytes):
        return value
    raise UsageError(
        f"{command} takes a path or the bytes of a file; it was given {article(value)}."
    )


def record(value: Any) -> Any:
    """The record that a value is, or that a result of a command has; None for other values."""
    for found in (value, getattr(value, "model", None), getattr(value, "checkpoint", None)):
        if isinstance(found, CheckpointRecord | PackedRecord):
            return found
    return None
