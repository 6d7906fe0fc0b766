"""Records from and to files: what is in a file decides how it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from kancompress.errors import Flaw, InvalidFileError, KancompressError
from kancompress.formats import checkpoint as checkpoints
from kancompress.formats import document as documents
from kancompress.formats import packed
from kancompress.formats import safetensors as containers
from kancompress.formats.checkpoint import Checkpoint
from kancompress.formats.packed import PackedModel
from kancompress.formats.safetensors import Container
from kancompress.system import files, inputs

Source = str | os.PathLike[str] | bytes
Record = Checkpoint | PackedModel
Input = Source | Record
Opened = TypeVar("Opened", bound=Input)


def open_container(source: Source, name: str | None = None) -> Container:
    """Open a path, or wrap bytes, and check the safetensors header. Raises InvalidFileError."""
    _, where, data = inputs.opened(source, name, "the input")
    return containers.parse(data, where)


def once(source: Opened, name: str | None) -> tuple[Opened | bytes, str | None]:
    """A source that is opened more than once, and what messages call it.

    A pipe can be read but once: its path becomes its bytes. Raises InvalidFileError.
    """
    if not isinstance(source, str | os.PathLike):
        return source, name
    path = files.located(Path(source))
    try:
        is_stream = path.exists() and not path.is_file() and not path.is_dir()
    except (OSError, ValueError):  # a name that cannot be one is told when it is opened
        is_stream = False
    return (bytes(inputs.read(path)[:]), name or str(path)) if is_stream else (source, name)


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
    return read_record(open_container(source, name), any_size=any_size)


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
    """The record in a file that is open already.

    stored   : read a checkpoint's tensors only when they are asked for
    any_size : as for `load`
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


def called(source: Input, name: str | None) -> str:
    """What messages call a source: `name`, its path, or "The input"."""
    if name is None and isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return name or "The input"


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


def check(source: Source, name: str | None = None) -> str:
    """Verify structure and checksum of any safetensors file; returns its kind.

    Raises InvalidFileError for a damaged file. Nothing is counted or measured: files that
    kancompress did not write are of kind `safetensors`, and their header alone is checked.
    """
    container = open_container(source, name)
    if documents.KEY not in container.metadata:
        return "safetensors"
    record = read_record(container)
    return record.kind if isinstance(record, Checkpoint) else "packed"


def encode(record: Record) -> bytes:
    """The bytes of a record's file, checked by reading them back.

    Raises KancompressError for a record that cannot be stored, such as one with NaN.
    """
    raw = packed.encode(record) if isinstance(record, PackedModel) else record.encode()
    try:
        again = load(raw, "the new file", any_size=True)
    except InvalidFileError as error:
        raise KancompressError(f"Nothing was written: {error}") from None
    twin = packed.encode(again) if isinstance(again, PackedModel) else again.encode()
    if twin != raw:
        raise KancompressError("The new file does not read back the same; nothing was written.")
    return raw


def save(
    record: Record,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    inputs: Iterable[Path] = (),
) -> int:
    """Write a record to `path`, atomically and verified; returns the file's bytes.

    record : a `Checkpoint` or a `PackedModel`
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
    return files.write(target, [encode(record)], force=force)
