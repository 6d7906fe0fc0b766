"""Safetensors files, and the shards that an index names, safetensors or torch, read as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path

from kancompress.errors import Flaw, InvalidFileError, together
from kancompress.formats.arrays import StoredArrays
from kancompress.formats.safetensors import Container, parse, shown, strict_json
from kancompress.frozen import dataclass
from kancompress.system import inputs
from kancompress.system.inputs import Data

_MAX_INDEX = 100_000_000
_MAX_LINES = 200


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Loaded:
    """Tensors of one or more files, as `ForeignCheckpoint` has them."""

    tensors: StoredArrays
    metadata: dict[str, str]
    dropped: tuple[str, ...]
    file_bytes: int
    container: str = "safetensors"
    path: tuple[str, ...] = ()
    ties: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unused_bytes: int = 0


Read = Callable[[Data, str], Loaded]


def read_single(data: Data, where: str) -> Loaded:
    """Read one safetensors file."""
    container = parse(data, where)
    for name in container.entries:
        _check_type(container, name)
    return Loaded(
        tensors=container.stored(),
        metadata=container.metadata,
        dropped=(),
        file_bytes=len(data),
    )


def read_index(data: Data, where: str, path: Path | None, read: Read) -> Loaded:
    """Read the shards that the index at `path` names, each with `read`, in the index's order.

    Raises InvalidFileError that names every shard that is not there.
    """
    places = _weight_map(data, where)
    if path is None:
        raise InvalidFileError(
            Flaw.BAD_INDEX, f"{where} is an index of shards; pass its path, so that they are found."
        )
    shards = _shards(places, where, path, read)
    if len({(shard.container, shard.path) for shard in shards.values()}) > 1:
        raise InvalidFileError(
            Flaw.BAD_INDEX,
            f"{where} names shards of several kinds; all safetensors or all torch files of one"
            " nesting were expected.",
        )
    for name, shard in places.items():
        if name not in shards[shard].tensors:
            raise InvalidFileError(
                Flaw.MISSING_TENSOR,
                f"{where} says that {shown(shard)} holds the tensor {shown(name)}; it does not.",
            )
    metadata: dict[str, str] = {}
    ties: dict[str, str] = {}
    dropped: list[str] = []
    for file, loaded in shards.items():
        metadata = dict(loaded.metadata) | metadata
        there = {name for name in loaded.tensors if places.get(name) == file}
        ties |= {name: one for name, one in loaded.ties.items() if {name, one} <= there}
        dropped += [
            f"{name} (in {file} but not in the index; {tensor.nbytes:,} bytes)"
            for name, tensor in loaded.tensors.outline.items()
            if name not in there
        ]
        dropped += [f"{what} (in {file})" for what in loaded.dropped]
    if len(dropped) > _MAX_LINES:
        dropped[_MAX_LINES:] = [f"and {len(dropped) - _MAX_LINES:,} more"]
    first = next(iter(shards.values()))
    return Loaded(
        tensors=StoredArrays(
            {name: shards[shard].tensors.outline[name] for name, shard in places.items()},
            lambda name: shards[places[name]].tensors[name],
            parts=lambda name, a, b: shards[places[name]].tensors.part(name, a, b),
        ),
        metadata=metadata,
        dropped=tuple(dropped),
        file_bytes=len(data) + sum(shard.file_bytes for shard in shards.values()),
        container=first.container,
        path=first.path,
        ties=ties,
        unused_bytes=sum(shard.unused_bytes for shard in shards.values()),
    )


def _shards(places: Mapping[str, str], where: str, path: Path, read: Read) -> dict[str, Loaded]:
    shards: dict[str, Loaded] = {}
    missing: list[InvalidFileError] = []
    for shard in dict.fromkeys(places.values()):
        beside = path.parent / shard
        try:
            shards[shard] = read(inputs.read(beside), str(beside))
        except InvalidFileError as error:
            if error.flaw != Flaw.MISSING:
                raise
            missing.append(
                InvalidFileError(
                    Flaw.MISSING_SHARD,
                    f"{where} names the shard {shown(shard)}, which is not beside it."
                    " Fetch all shards into one directory.",
                )
            )
    if missing:
        raise together(missing)
    return shards


def _weight_map(data: Data, where: str) -> dict[str, str]:
    if len(data) > _MAX_INDEX:
        raise InvalidFileError(Flaw.BAD_INDEX, f"{where} is too large for an index of shards.")
    try:
        text = bytes(data[:]).decode()
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


def _check_type(container: Container, name: str) -> None:
    if container.entries[name].dtype == "C64":
        raise InvalidFileError(
            Flaw.UNSUPPORTED_TENSOR,
            f"{container.where}: tensor {shown(name)} is complex, which is not supported."
            " Convert it with torch before passing the file.",
        )
