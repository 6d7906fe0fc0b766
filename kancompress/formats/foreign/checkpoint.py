"""A checkpoint of another program, as its file holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from kancompress.formats.foreign.saveckpt import Settings
from kancompress.formats.pykan_config import PykanConfig
from kancompress.frozen import dataclass
from kancompress.system.inputs import Data

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ForeignRecord(Generic[T_co]):
    """A checkpoint as its file holds it.

    `container` is safetensors, torch-zip, torch-legacy or torch-module; `path` the dictionary keys
    under which the state dict lay. `tensors` keeps the source's order and names, and reads a tensor
    of a file when it is asked for. `ties` maps a name to the earlier name of which it is the same
    storage, offset, shape and stride; `tensor_bytes` counts the two once. `unused_bytes` of the
    file lie in a storage of which the tensors use another part. `data` are the bytes of the one
    file it lies in, None for shards and live modules. `metadata` is a safetensors file's own.
    `dropped` tells what beside the state dict was left out. `where` is the name in messages.
    `notes` are what to know of what lies beside the tensors, in the file or next to it; `settings`
    those of pykan's `saveckpt`, whose files lie there, and `pykan` all that its `loadckpt` needs.
    """

    where: str
    container: str
    path: tuple[str, ...]
    tensors: Mapping[str, T_co]
    ties: dict[str, str]
    metadata: dict[str, str]
    dropped: tuple[str, ...]
    tensor_bytes: int
    file_bytes: int
    settings: Settings | None = None
    pykan: PykanConfig | None = None
    notes: tuple[str, ...] = ()
    data: Data | None = None
    unused_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of the file without those that no tensor uses: what ratios divide."""
        return self.file_bytes - self.unused_bytes
