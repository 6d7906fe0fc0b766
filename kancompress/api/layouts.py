"""Layouts of other libraries' layers, written as TOML and read."""

from __future__ import annotations

import codecs
import os
from collections.abc import Mapping
from pathlib import Path

from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats.foreign import read_record
from kancompress.formats.storage import Source, called, is_native, once
from kancompress.libraries import format_layouts, parse_layouts, recognise
from kancompress.system import inputs


def print_layouts(
    source: Source,
    *,
    layouts: Mapping[str, str] | None = None,
    state: str | None = None,
    name: str | None = None,
) -> str:
    """The layouts of another library's layers as a TOML document that `read_layouts` reads.

    source  : a checkpoint that another KAN library saved, or its bytes
    layouts : layer name or stem ("" for all) to the name of a layout, or to one written as
              `ROLE=NAME:AXES; ...`, where names and shapes do not tell
    state   : of a torch file with several state dicts, the one that is meant, as for `inspect`
    name    : what messages call the source, its path when None
    Raises UsageError for a file of ours, or for layouts that fit nothing; InvalidFileError for a
    file that cannot be read.
    """
    source, name = once(source, name)
    if is_native(source):
        raise UsageError(
            "Layouts belong to other libraries' files; this one is ours.",
            where=called(source, name),
            fields=("layouts",),
        )
    record = read_record(source, name, state=state)
    found = recognise(record.tensors, layouts)
    return format_layouts(found, record.where, record.tensors)


def read_layouts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Layouts as `cluster` and `inspect` take them, from a TOML file.

    Returns layer names to layouts. Raises InvalidFileError when the file cannot be read or holds
    something else.
    """
    try:
        text = _decoded(bytes(inputs.read(Path(path))[:]))
    except UnicodeDecodeError:
        raise InvalidFileError(
            Flaw.BAD_LAYOUTS,
            f"{os.fspath(path)} is not UTF-8; a TOML file of layouts was expected.",
        ) from None
    return parse_layouts(text, os.fspath(path))


def _decoded(raw: bytes) -> str:
    """Text as editors and shells write it; `>` of Windows PowerShell gives UTF-16."""
    is_wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return raw.decode("utf-16" if is_wide else "utf-8-sig")
