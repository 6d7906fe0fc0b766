"""What a file holds. Only where the size of a packed file is asked for, torch is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from kancompress.config import ClusterConfig
from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats import foreign, storage
from kancompress.formats.storage import Source, is_native, once, open_container
from kancompress.libraries import format_layouts, parse_layouts, recognise
from kancompress.reporting import inspection
from kancompress.system import inputs

# What computes the size of a packed file before it exists; it needs torch.
_SIZES = "kancompress.api.predicted_sizes"


def inspect(
    source: Source,
    name: str | None = None,
    *,
    check: bool = False,
    clusters: int | None = None,
    layouts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a file holds, byte by byte; the keys are listed in docs/json.md.

    check    : only verify structure and checksum; the report is then `kind` and `sound`
    clusters : also the size of the packed file at this k, where the file is not packed yet
    layouts  : as for `cluster`
    Raises InvalidFileError for a damaged file.
    """
    if check:
        return {"kind": storage.check(source, name), "sound": True}
    config = None if clusters is None else ClusterConfig(clusters=clusters)
    source, name = once(source, name)
    if is_native(source):
        if layouts:
            raise UsageError("Layouts belong to other libraries' files; this one is ours.")
        container = open_container(source, name)
        sizes = None if config is None else import_module(_SIZES).of_native(container, config)
        return inspection.describe(container, sizes)
    record = foreign.read_record(source, name)
    found = recognise(record.tensors, layouts)
    sizes = None if config is None else import_module(_SIZES).of_foreign(record, found, config)
    return inspection.describe_foreign(record, found, sizes)


def print_layouts(
    source: Source, *, layouts: Mapping[str, str] | None = None, name: str | None = None
) -> str:
    """The layouts of another library's layers as a TOML document that `read_layouts` reads.

    layouts : as for `cluster`
    Raises UsageError for a file of ours, or for layouts that fit nothing.
    """
    source, name = once(source, name)
    if is_native(source):
        raise UsageError("Layouts belong to other libraries' files; this one is ours.")
    record = foreign.read_record(source, name)
    return format_layouts(recognise(record.tensors, layouts), record.where)


def read_layouts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Layouts as `cluster` and `inspect` take them, from a TOML file (docs/layouts.md).

    Raises InvalidFileError when it cannot be read or holds something else.
    """
    try:
        text = bytes(inputs.read(Path(path))[:]).decode()
    except UnicodeDecodeError:
        raise InvalidFileError(
            Flaw.BAD_LAYOUTS,
            f"{os.fspath(path)} is not UTF-8; a TOML file of layouts was expected.",
        ) from None
    return parse_layouts(text, os.fspath(path))
