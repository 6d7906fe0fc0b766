"""Safetensors files: one, or the shards that an index names, read as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from kancompress import files
from kancompress.container import Container, parse, shown, strict_json
from kancompress.errors import Flaw, InvalidFileError

_MAX_INDEX = 100_000_000


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Loaded:
    """Tensors and metadata of one or more safetensors files."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    dropped: tuple[str, ...]
    file_bytes: int


def read_single(data: memoryview, where: str) -> Loaded:
    """Read one safetensors file."""
    container = parse(data, where)
    return Loaded(
        tensors={name: _tensor(container, name) for name in container.entries},
        metadata=container.metadata,
        dropped=(),
        file_bytes=len(data),
    )


def read_index(data: memoryview, where: str, path: Path | None) -> Loaded:
    """Read the shards that the index at `path` names, in the order of the index."""
    places = _weight_map(data, where)
    if path is None:
        raise InvalidFileError(
            Flaw.BAD_INDEX, f"{where} is an index of shards; pass its path, so that they are found."
        )
    shards: dict[str, Container] = {}
    for shard in dict.fromkeys(places.values()):
        beside = path.parent / shard
        try:
            shards[shard] = parse(files.read(beside), str(beside))
        except InvalidFileError as error:
            if error.flaw != Flaw.MISSING:
                raise
            raise InvalidFileError(
                Flaw.MISSING_SHARD,
                f"{where} names the shard {shown(shard)}, which is not beside it."
                " Fetch all shards into one directory.",
            ) from None
    for name, shard in places.items():
        if name not in shards[shard].entries:
            raise InvalidFileError(
                Flaw.MISSING_TENSOR,
                f"{where} says that {shown(shard)} holds the tensor {shown(name)}; it does not.",
            )
    metadata: dict[str, str] = {}
    for container in shards.values():
        metadata = container.metadata | metadata
    return Loaded(
        tensors={name: _tensor(shards[shard], name) for name, shard in places.items()},
        metadata=metadata,
        dropped=tuple(
            f"{name} (in {shard} but not in the index; {entry.size:,} bytes)"
            for shard, container in shards.items()
            for name, entry in container.entries.items()
            if places.get(name) != shard
        ),
        file_bytes=len(data) + sum(container.file_size for container in shards.values()),
    )


def _weight_map(data: memoryview, where: str) -> dict[str, str]:
    if len(data) > _MAX_INDEX:
        raise InvalidFileError(Flaw.BAD_INDEX, f"{where} is too large for an index of shards.")
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError as error:
        raise InvalidFileError(
            Flaw.BAD_INDEX, f"{where}: the index is not UTF-8 at byte {error.start}."
        ) from None
    index = strict_json(text, where, Flaw.BAD_INDEX, "the index of shards")
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise InvalidFileError(
            Flaw.BAD_INDEX,
            f"{where} is JSON, but no index of shards: its weight_map should name a file for each"
            " tensor.",
        )
    for shard in places.values():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise InvalidFileError(
                Flaw.BAD_INDEX,
                f"{where} names the shard {shown(shard)}; only files beside the index are read.",
            )
    return places


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\:")


def _tensor(container: Container, name: str) -> Tensor:
    if container.entries[name].dtype == "C64":
        raise InvalidFileError(
            Flaw.UNSUPPORTED_TENSOR,
            f"{container.where}: tensor {shown(name)} is complex, which is not supported."
            " Convert it with torch before passing the file.",
        )
    return container.tensor(name, mapped=True)
