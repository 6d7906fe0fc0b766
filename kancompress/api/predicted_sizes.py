"""The size of a packed file before it exists, for `inspect`."""

from __future__ import annotations

from collections.abc import Mapping

from kancompress.config import ClusterConfig, RunOptions
from kancompress.errors import UsageError
from kancompress.formats.arrays import Array
from kancompress.formats.foreign import ForeignRecord
from kancompress.formats.safetensors import Container
from kancompress.libraries import Recognition
from kancompress.models.files import read_record
from kancompress.models.records import PackedModel, foreign_of
from kancompress.packing.foreign import ForeignSource
from kancompress.packing.native import NativeSource
from kancompress.packing.pack import predict


def of_native(container: Container, config: ClusterConfig) -> tuple[int, int]:
    """(header, payload) bytes of the file that `cluster` makes of one of kancompress's own.

    Raises UsageError for a file that is packed already.
    """
    record = read_record(container, stored=True)
    if isinstance(record, PackedModel):
        raise UsageError(
            f"{container.where} is packed already; `clusters` is for what is not.",
            where=container.where,
            fields=("clusters",),
        )
    return predict(NativeSource(checkpoint=record, file_bytes=container.file_size), config)


def of_foreign(
    record: ForeignRecord[Array],
    found: Recognition,
    config: ClusterConfig,
    layouts: Mapping[str, str],
) -> tuple[int, int]:
    """(header, payload) bytes of the file that `cluster` makes of another library's checkpoint."""
    source = ForeignSource(
        checkpoint=foreign_of(record), found=found, keep_masked=config.keep_masked
    )
    return predict(source.saying(RunOptions(layouts=layouts)), config)
