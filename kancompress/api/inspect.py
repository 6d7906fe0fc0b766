"""`inspect`: what a file holds, byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kancompress.config import ClusterConfig, RunOptions
from kancompress.errors import UsageError
from kancompress.formats import storage
from kancompress.formats.foreign import read_foreign
from kancompress.formats.packed import PackedModel
from kancompress.formats.safetensors import Container
from kancompress.formats.storage import Source, called, is_native, once, open_container, read_record
from kancompress.libraries import recognise
from kancompress.packing.foreign import ForeignSource
from kancompress.packing.native import NativeSource
from kancompress.packing.pack import predict
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
        opened = ForeignSource(checkpoint=foreign, found=found)
        predicted = predict(opened.saying(RunOptions(layouts=layouts or {})), config)
    return inspection.describe_foreign(foreign, found, predicted)


def _predict_native(container: Container, config: ClusterConfig) -> tuple[int, int]:
    record = read_record(container, stored=True)
    if isinstance(record, PackedModel):
        raise UsageError(
            f"{container.where} is packed already; `clusters` is for what is not.",
            where=container.where,
            fields=("clusters",),
        )
    return predict(NativeSource(checkpoint=record, file_bytes=container.file_size), config)
