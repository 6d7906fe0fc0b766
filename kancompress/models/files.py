"""Records with torch's tensors from and to files: what is in a file decides how it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kancompress.errors import UsageError
from kancompress.formats import recorded, storage
from kancompress.formats.foreign import read_record as read_foreign_record
from kancompress.formats.packed import PackedRecord
from kancompress.formats.safetensors import Container
from kancompress.formats.storage import Source, open_container
from kancompress.models.records import (
    Checkpoint,
    ForeignCheckpoint,
    PackedModel,
    checkpoint_of,
    foreign_of,
    packed_of,
)
from kancompress.models.restoration import Restored
from kancompress.system import files

Record = Checkpoint | PackedModel
Input = Source | Record


def load(source: Source, name: str | None = None, *, any_size: bool = False) -> Record:
    """Read a dense, meta or packed file that kancompress wrote.

    source   : a path, or the bytes of the file; `name` is what messages call it
    any_size : read a packed file that stands for more than 10,000 times its bytes and a gigabyte
    Raises InvalidFileError when it is none of these, or damaged.

    >>> import kancompress
    >>> model = kancompress.load("packed.safetensors")
    >>> [(layer.name, layer.shape) for layer in model.layers]  # (outputs, inputs)
    [('0', (32, 64)), ('1', (10, 32))]
    """
    return read_record(open_container(recorded.path(source, "load"), name), any_size=any_size)


def read_record(container: Container, *, stored: bool = False, any_size: bool = False) -> Record:
    """The record in a file that is open already.

    stored   : read a checkpoint's tensors only when they are asked for
    any_size : as for `load`
    """
    record = storage.read_record(container, stored=stored, any_size=any_size)
    if isinstance(record, PackedRecord):
        return packed_of(record)
    return checkpoint_of(record)


def sized(
    source: Input, name: str | None, *, stored: bool = False, any_size: bool = False
) -> tuple[int, Record]:
    """A record and the bytes of its file, 0 for a packed model in memory."""
    if isinstance(source, PackedModel):
        return 0, source
    if isinstance(source, Checkpoint):
        return len(source.encode()), source
    container = open_container(source, name)
    return container.file_size, read_record(container, stored=stored, any_size=any_size)


def read_foreign(
    source: str | os.PathLike[str] | bytes,
    name: str | None = None,
    *,
    state: str | None = None,
    drop: Sequence[str] = (),
) -> ForeignCheckpoint:
    """Read a checkpoint that another program saved; `name` is what messages call it.

    state : which of several state dicts of a torch file is meant
    drop  : patterns of the names of tensors that are left out
    Raises InvalidFileError for what cannot be read, holds no tensors by name, or asks to run a
    command; UsageError where `state` names nothing. Nothing that a file names is ever run or
    imported.
    """
    return foreign_of(read_foreign_record(source, name, state=state, drop=drop))


def encode(record: Record | Restored) -> bytes:
    """The bytes of a record's file, checked by reading them back.

    record : a `Checkpoint` or a `PackedModel`, a result that has one, or a `Restored`
    Raises KancompressError for a record that cannot be stored, such as one with NaN; UsageError for
    what is no record.

    >>> import kancompress
    >>> packed = kancompress.cluster("digits.safetensors", clusters=4)
    >>> kancompress.encode(packed) == kancompress.encode(packed.model)
    True
    """
    return b"".join(pieces(record))


def save(
    record: Record | Restored,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> int:
    """Write a record to `path`, atomically and verified; returns the file's bytes.

    record : a `Checkpoint` or a `PackedModel`, a result that has one, such as that of `cluster`, or
             the `Restored` that `expand` gives
    force  : whether it may replace a file
    inputs : files that it must not replace even then
    Raises UsageError when the file exists and `force` is not given, or when it is one of `inputs`;
    KancompressError for a record that cannot be stored, or where the file cannot be written.

    >>> import kancompress
    >>> model = kancompress.load("packed.safetensors")
    >>> kancompress.save(model, "copy.safetensors") == len(kancompress.encode(model))
    True
    """
    target = Path(path)
    files.check_target(target, force=force, inputs=inputs)
    return files.write(target, pieces(record), force=force)


def pieces(record: Record | Restored) -> Sequence[bytes | memoryview]:
    """What `encode` gives, its tensors where they lie."""
    if isinstance(record, Restored):
        return record.pieces()
    found = recorded.record(record)
    if found is None:
        raise UsageError(
            f"A {type(record).__name__} has no file of kancompress's own; a Checkpoint or a"
            " PackedModel was expected, as `kancompress.load` and `kancompress.cluster` give them."
        )
    return storage.pieces(found.record())
