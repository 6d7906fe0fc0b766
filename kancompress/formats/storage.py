"""Records from and to files: what is in a file decides how it is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.formats import checkpoint as checkpoints
from kancompress.formats import document as documents
from kancompress.formats import packed
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import Array
from kancompress.formats.checkpoint import CheckpointRecord
from kancompress.formats.packed import PackedRecord
from kancompress.formats.safetensors import Container
from kancompress.system import files, inputs

Source = str | os.PathLike[str] | bytes
Record = CheckpointRecord[Array] | PackedRecord[Array]
Opened = TypeVar("Opened")

_PART = 1 << 20  # bytes that are compared at a time


class Recorded(Protocol):
    """A `PackedModel` or a `Checkpoint`, which are not imported where there is no torch."""

    def record(self) -> Record:
        """What its file holds."""
        ...


def file_of(source: Source | Recorded) -> Source:
    """A path or bytes as they are, and the bytes of the file of a record.

    Raises UsageError for anything else.
    """
    if isinstance(source, str | os.PathLike | bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if not callable(getattr(source, "record", None)):
        raise UsageError(
            f"A network cannot be had from {type(source).__name__}; a path, the bytes of a file, a"
            " Checkpoint or a PackedModel was expected."
        )
    return write(source.record())


def open_container(source: Source, name: str | None = None) -> Container:
    """Open a path, or wrap bytes, and check the safetensors header. Raises InvalidFileError."""
    _, where, data = inputs.opened(source, name, "the input")
    return containers.parse(data, where)


def once(source: Opened, name: str | None) -> tuple[Opened | Path | bytes, str | None]:
    """A source that is opened more than once, and what messages call it.

    A pipe can be read but once: its path becomes its bytes. What lies on the Hugging Face hub
    becomes the path of its copy here. Raises InvalidFileError.
    """
    if not isinstance(source, str | os.PathLike):
        return source, name
    path, called = inputs.found(source)
    if files.hub_name(source):
        return path, name or called
    try:
        is_stream = path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):  # a name that cannot be one is told when it is opened
        is_stream = False
    return (bytes(inputs.read(path)[:]), name or str(path)) if is_stream else (source, name)


def is_native(source: Source) -> bool:
    """Whether kancompress wrote this file: a safetensors file with its key in the metadata."""
    _, _, data = inputs.opened(source, None, "the input")
    try:
        return documents.KEY in containers.parse(data, "").metadata
    except InvalidFileError:
        length = int.from_bytes(data[:8], "little")
        start = bytes(data[8 : 8 + min(length, 256)])
        return start.startswith(b'{"__metadata__":{"kancompress"')


def read_record(container: Container, *, stored: bool = False, any_size: bool = False) -> Record:
    """The record in a dense, meta or packed file of kancompress's own.

    stored   : read a checkpoint's tensors only when they are asked for
    any_size : read a packed file that stands for more than 10,000 times its bytes and a gigabyte
    Raises InvalidFileError when it is none of these, or damaged.
    """
    document = documents.read(container)
    kind = document.get("kind")
    if kind == "packed":
        return packed.decode(container, document, any_size=any_size)
    if kind in ("dense", "meta"):
        return checkpoints.decode(container, document, stored=stored)
    raise InvalidFileError(
        Flaw.WRONG_KIND,
        f"{container.where} is of kind {containers.shown(kind)}; dense, meta or packed was"
        " expected.",
    )


def called(source: object, name: str | None) -> str:
    """What messages call a source: `name`, its path, or "The input"."""
    if name is None and isinstance(source, str | os.PathLike):
        return files.hub_name(source) or os.fspath(source)
    return name or "The input"


def check(source: Source, name: str | None = None) -> str:
    """Verify structure and checksum of any safetensors file; returns its kind.

    Raises InvalidFileError for a damaged file. Nothing is counted or measured: files that
    kancompress did not write are of kind `safetensors`, and their header alone is checked.
    """
    container = open_container(source, name)
    if documents.KEY not in container.metadata:
        return "safetensors"
    record = read_record(container)
    return record.kind if isinstance(record, CheckpointRecord) else "packed"


def write(record: Record) -> bytes:
    """The bytes of a record's file, checked as `pieces` checks them."""
    return b"".join(pieces(record))


def pieces(record: Record) -> list[bytes | memoryview]:
    """The file of a record, its tensors where they lie, checked by reading it back.

    Raises KancompressError for a record that cannot be stored, such as one with NaN.
    """
    written = _written(record)
    try:
        container = containers.parse(inputs.Pieces(written), "the new file")
        again = read_record(container, any_size=True)
    except InvalidFileError as error:
        raise KancompressError(
            f"Nothing was written: {error}",
            layer=error.layer,
            tensor=error.tensor,
            fields=error.fields,
        ) from None
    if not _same(_written(again), written):
        raise KancompressError("The new file does not read back the same; nothing was written.")
    return written


def _same(one: Sequence[bytes | memoryview], other: Sequence[bytes | memoryview]) -> bool:
    """Whether two files are the same, compared a part at a time."""
    left, right = inputs.Pieces(one), inputs.Pieces(other)
    places = (slice(at, at + _PART) for at in range(0, len(left), _PART))
    return len(left) == len(right) and all(
        bytes(left[place]) == bytes(right[place]) for place in places
    )


def _written(record: Record) -> list[bytes | memoryview]:
    if isinstance(record, PackedRecord):
        return packed.pieces(record)
    return checkpoints.pieces(record)
