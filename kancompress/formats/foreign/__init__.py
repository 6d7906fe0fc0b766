"""Checkpoints of other programs, read without running or importing anything that they name.

Safetensors files, their sharded form, and what `torch.save` writes: state dicts, trainers'
dictionaries around them, and whole modules, of which the classes need not be installed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats import kinds
from kancompress.formats.arrays import Array, Stored
from kancompress.formats.foreign import saveckpt, shards, skeletons, statedicts, torchfiles
from kancompress.formats.foreign.checkpoint import ForeignRecord
from kancompress.formats.foreign.dropping import refuse_drop, without
from kancompress.formats.foreign.placement import unused_bytes
from kancompress.formats.foreign.saveckpt import Settings
from kancompress.formats.foreign.skeletons import Skeleton
from kancompress.formats.safetensors import MAX_HEADER
from kancompress.system import inputs
from kancompress.system.inputs import Data

__all__ = [
    "ForeignRecord",
    "Settings",
    "Skeleton",
    "read_record",
    "read_skeleton",
    "refuse_drop",
    "refuse_state",
    "without",
]

# How files begin that are sometimes taken for checkpoints.
_OTHERS = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "a NumPy array, which is data and no network"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF", "a PDF"),
)


_TORCH = ("torch-zip", "torch-legacy", "torch-module")


def read_record(
    source: str | os.PathLike[str] | bytes,
    name: str | None = None,
    *,
    state: str | None = None,
    drop: Sequence[str] = (),
) -> ForeignRecord[Array]:
    """Read a checkpoint from a path or from bytes; `name` is what messages call it.

    state : which of several state dicts of a torch file is meant: its keys with dots between
            them, or the last of them; None: the one that a key of trainers tells, or the first
    drop  : patterns of the names of tensors that are left out, as of `without`
    Raises InvalidFileError for what cannot be read, holds no tensors by name, or asks to run a
    command; UsageError where `state` names nothing or `drop` fits nothing. Nothing that a file
    names is ever run or imported.
    """
    path, where, data = inputs.opened(source, name, "the checkpoint")
    if not len(data):
        raise InvalidFileError(Flaw.EMPTY, f"{where} is empty; a checkpoint was expected.")
    if not _is_safetensors(data) and bytes(data[:64]).lstrip()[:1] == b"{":
        refuse_state(state, where)
        index = shards.read_index(data, where, path, _read_shard)
        return without(_checkpoint(index, where), drop)
    found = replace(_checkpoint(_read_single(data, where, state), where), data=data)
    return without(found if path is None else _with_saveckpt(found, path), drop)


def refuse_state(state: str | None, where: str) -> None:
    """Refuse the name of a state dict for what is no torch file of another program."""
    if state is not None:
        raise UsageError(
            f"`state` chooses a state dict of another library's torch file, and {where} is none;"
            " leave it out.",
            where=where,
            fields=("state",),
        )


def _read_single(data: Data, where: str, state: str | None = None) -> shards.Loaded:
    """Read one file that is no index."""
    if _is_safetensors(data):
        refuse_state(state, where)
        return shards.read_single(data, where)
    start = bytes(data[:64])
    if start[:4] == b"PK\x03\x04":
        return _from_torch(torchfiles.read_zip(data, where), where, state)
    if start[:1] == b"\x80":
        return _from_torch(torchfiles.read_legacy(data, where), where, state)
    if kinds.is_onnx(data):
        raise InvalidFileError(Flaw.UNKNOWN_FORMAT, f"{where} is {kinds.ONNX}.")
    raise _unknown(start, where)


def _read_shard(data: Data, where: str) -> shards.Loaded:
    if not len(data):
        raise InvalidFileError(Flaw.EMPTY, f"{where} is empty; a shard was expected.")
    loaded = _read_single(data, where)
    # what torch wrote before 1.6 comes back as it writes now, and so do all its shards
    return replace(loaded, container="torch-zip") if loaded.container in _TORCH else loaded


def _with_saveckpt(found: ForeignRecord[Array], path: Path) -> ForeignRecord[Array]:
    """With what pykan's `saveckpt` wrote beside its state."""
    plain = found.container in _TORCH[:2] and not found.path
    stored = found.tensors if isinstance(found.tensors, Stored) else None
    beside = saveckpt.beside(path, stored.outline if stored is not None and plain else None)
    return replace(
        found,
        settings=beside.settings,
        pykan=beside.config,
        notes=(*found.notes, *beside.notes),
    )


def read_skeleton(source: ForeignRecord[Any]) -> Skeleton | None:
    """What a checkpoint that `read_record` has read holds beside its tensors.

    None for safetensors, which hold nothing else but metadata, and for an index of shards. Raises
    UsageError for the stream of pickles of torch before 1.6.
    """
    where, data = source.where, source.data
    if data is None:
        return None
    if bytes(data[:4]) == b"PK\x03\x04":
        return skeletons.strip(data, source.path, where)
    if bytes(data[:1]) == b"\x80" and not _is_safetensors(data):
        raise UsageError(
            f"{where} is a torch file of the kind before 1.6, of which only the model's tensors can"
            " be kept. Load it and save it again with torch, or leave `keep_extra` out.",
            where=where,
            fields=("keep_extra",),
        )
    return None


def _is_safetensors(data: Data) -> bool:
    """Whether a header of a possible length begins where it should."""
    return bytes(data[8:9]) == b"{" and int.from_bytes(data[:8], "little") <= MAX_HEADER


def _checkpoint(loaded: shards.Loaded, where: str) -> ForeignRecord[Array]:
    if not loaded.tensors:
        raise InvalidFileError(Flaw.NO_TENSORS, f"{where} holds no tensors.")
    known = loaded.tensors.outline
    sizes = (tensor.nbytes for name, tensor in known.items() if name not in loaded.ties)
    return ForeignRecord(
        where=where,
        container=loaded.container,
        path=loaded.path,
        tensors=loaded.tensors,
        ties=dict(loaded.ties),
        metadata=loaded.metadata,
        dropped=loaded.dropped,
        notes=loaded.notes,
        tensor_bytes=sum(sizes),
        file_bytes=loaded.file_bytes,
        unused_bytes=loaded.unused_bytes,
    )


def _from_torch(file: torchfiles.TorchFile, where: str, state: str | None) -> shards.Loaded:
    found = statedicts.find(file, where, state)
    tensors, ties = statedicts.make(found.records, file, where)
    return shards.Loaded(
        tensors=tensors,
        metadata={},
        dropped=tuple(found.dropped),
        file_bytes=len(file.data),
        container="torch-module" if found.is_module else file.container,
        path=found.path,
        ties=ties,
        notes=found.notes,
        unused_bytes=unused_bytes(found.records.values()),
    )


def _unknown(start: bytes, where: str) -> InvalidFileError:
    if start.startswith(b"version https://git-lfs"):
        return InvalidFileError(
            Flaw.GIT_LFS_POINTER,
            f"{where} is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull",
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return InvalidFileError(
            Flaw.HTML,
            f"{where} is an HTML page, not a checkpoint. Download the raw file instead.",
        )
    kind = next((text for magic, text in _OTHERS if start.startswith(magic)), None)
    if kind is None and start and not any(start):
        kind = "bytes of zero, as an interrupted copy leaves them; copy it again"
    if kind is None:
        plain = start.isascii() and start.decode("ascii").replace("\n", "").isprintable()
        kind = "a text file" if plain else "none of them"
    return InvalidFileError(
        Flaw.UNKNOWN_FORMAT,
        f"{where}: a safetensors file, an index of its shards or a torch.save file was expected;"
        f" this is {kind}.",
    )
