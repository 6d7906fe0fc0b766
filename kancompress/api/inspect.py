"""`inspect`: what a file holds, byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kancompress.config import ClusterConfig
from kancompress.errors import UsageError
from kancompress.formats import storage
from kancompress.formats.foreign import read_foreign
from kancompress.formats.packed import PackedModel
from kancompress.formats.safetensors import Container
from kancompress.formats.storage import Source, called, is_native, once, open_container, read_record
from kancompress.libraries import recognise
from kancompress.packing import sizing
from kancompress.reporting import inspection


def inspect(
    source: Source,
    name: str | None = None,
    *,
    check: bool = False,
    clusters: int | None = None,
    layouts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a file holds, byte by byte; the keys are listed in docs/json.md.

    source   : any safetensors file, a torch file of another KAN library, or bytes of one
    name     : what messages call the source, its path when None
    check    : only verify structure and checksum; the report is then `kind` and `sound`
    clusters : also the size of the packed file at this k, where the file is not packed yet
    layouts  : of another library's layers: layer name or stem ("" for all) to the name of a layout,
               or to one in the notation of docs/layouts.md
    Raises InvalidFileError for a damaged file, UsageError for layouts that fit nothing, and for
    `clusters` of a file that is packed already.

    >>> import kancompress
    >>> report = kancompress.inspect("packed.safetensors")
    >>> report["kind"], report["layers"][0]["clusters"], report["layers"][0]["index_bits"]
    ('packed', 16, 4)
    >>> kancompress.inspect("packed.safetensors", check=True)
    {'kind': 'packed', 'sound': True}
    """
    if check:
        return {"kind": storage.check(source, name), "sound": True}
    config = None if clusters is None else ClusterConfig(clusters=clusters)
    source, name = once(source, name)
    if is_native(source):
        if layouts:
            raise UsageError(
                "Layouts belong to other libraries' files; this one is ours.",
                where=called(source, name),
                fields=("layouts",),
            )
        container = open_container(source, name)
        predicted = None if config is None else _predict_native(container, config)
        return inspection.describe(container, predicted)
    foreign = read_foreign(source, name)
    found = recognise(foreign.tensors, layouts)
    predicted = None
    if config is not None:
        predicted = sizing.predict_foreign(foreign, found, config)
    return inspection.describe_foreign(foreign, found, predicted)


def _predict_native(container: Container, config: ClusterConfig) -> tuple[int, int]:
    record = read_record(container, stored=True)
    if isinstance(record, PackedModel):
        raise UsageError(
            f"{container.where} is packed already; `clusters` is for what is not.",
            where=container.where,
            fields=("clusters",),
        )
    return sizing.predict_native(record, config, source_file_bytes=container.file_size)
