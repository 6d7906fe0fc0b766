"""The size of a packed file before it exists, for `inspect`."""

from __future__ import annotations

from kancompress.config import ClusterConfig
from kancompress.errors import UsageError
from kancompress.formats.arrays import Array
from kancompress.formats.foreign import ForeignRecord
from kancompress.formats.safetensors import Container
from kancompress.libraries import Recognition
from kancompress.models.files import read_record
from kancompress.models.records import PackedModel, foreign_of
from kancompress.packing import sizing


def of_native(container: Container, config: ClusterConfig) -> tuple[int, int]:
    """(header, payload) bytes of the file that `cluster` makes of one of kancompress's own.

    Raises UsageError for a file that is packed already.
    """
    record = read_record(container, stored=True)
    if isinstance(record, PackedModel):
        raise UsageError(f"{container.where} is packed already; --clusters is for what is not.")
    return sizing.predict_native(record, config, source_file_bytes=container.file_size)


def of_foreign(
    record: ForeignRecord[Array], found: Recognition, config: ClusterConfig
) -> tuple[int, int]:
    """(header, payload) bytes of the file that `cluster` makes of another library's checkpoint."""
    return sizing.predict_foreign(foreign_of(record), found, config)
