"""What an exporter gives: the file, what its bytes are, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from kancompress.frozen import dataclass


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Exported:
    """A network written for another program.

    data         : the file
    format       : its name, such as `onnx`
    source_bytes : of the file that it was made from
    parts        : bytes of the file by what they hold; together they are all of it
    details      : what else there is to say, by the keys of the command's `--json`
    notes        : sentences for who made it
    assumed      : what was taken for granted that the source does not tell

    >>> import kancompress
    >>> made = kancompress.export("packed.safetensors", format="c")
    >>> made.format, sum(made.parts.values()) == len(made.data)
    ('c', True)
    """

    data: bytes
    format: str
    source_bytes: int
    parts: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Exported: {self.format}, {len(self.data):,} bytes>"

    @property
    def grown(self) -> int:
        """Bytes that the file is larger than its source; negative where it is smaller."""
        return len(self.data) - self.source_bytes
