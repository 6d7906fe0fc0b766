"""A torch file without its model's numbers: what `--keep-extra` stores, and the file from it again.

A skeleton is the source's zip archive, record by record, without the storages that the tensors of
the state dict cover. Its pickle is kept as bytes and read by the machine of `pickles`, which runs
nothing: once to see which storages are the model's, once to put restored tensors back into them.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kancompress.container import shown
from kancompress.errors import Flaw, InvalidFileError, KancompressError
from kancompress.foreign import statedicts, torchfiles
from kancompress.foreign.records import TensorRecord

# Where torch lets a storage begin, so that the file can be mapped; the rest goes into a field of
# the record's header that torch names "FB".
_ALIGNMENT = 64
_LOCAL_HEADER = 30
_PADDING = b"FB"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Skeleton:
    """The archive without the model's storages.

    shared : tensors of the model that lie over others, or over themselves, in one storage: their
             places cannot be given different numbers
    """

    data: bytes
    shared: frozenset[str]


def strip(data: memoryview, where: str) -> Skeleton:
    """The skeleton of a torch zip archive. Raises InvalidFileError as reading the file does."""
    file = torchfiles.read_zip(data, where)
    models = statedicts.find(file.value, where).records
    by_key: dict[str, dict[str, TensorRecord]] = {}
    for name, record in models.items():
        statedicts.check_record(name, record, where)
        by_key.setdefault(record.storage.key, {})[name] = record
    left_out: set[str] = set()
    shared: set[str] = set()
    for key, records in by_key.items():
        covered, twice = _coverage(records)
        shared |= twice
        if covered == len(file.storage(next(iter(records.values())).storage)):
            left_out.add(f"{file.root}/data/{key}")
    kept = ((name, content) for name, content in file.contents() if name not in left_out)
    return Skeleton(data=_archive(kept), shared=frozenset(shared))


def fill(skeleton: bytes, tensors: Mapping[str, Tensor], where: str) -> bytes:
    """The torch file of a skeleton with these tensors of the model in their places.

    Raises InvalidFileError for a skeleton that is damaged or of another model, KancompressError
    when tensors that share numbers were given different ones.
    """
    where = f"{where} (restore.opaque)"
    file = torchfiles.read_zip(memoryview(skeleton), where)
    records = statedicts.find(file.value, where).records
    _check(records, tensors, where)
    stored = dict(file.contents())
    limit = statedicts.budget(sum(tensor.nbytes for tensor in tensors.values()))
    buffers: dict[str, np.ndarray] = {}
    for record in records.values():
        name = f"{file.root}/data/{record.storage.key}"
        size = record.storage.count * record.storage.dtype.itemsize
        if name in buffers:
            continue
        limit -= size
        if limit < 0 or (name in stored and len(stored[name]) != size):
            raise InvalidFileError(
                Flaw.SIZE_MISMATCH,
                f"{where}: the storage {shown(name)} has not the size it should.",
            )
        buffers[name] = np.zeros(size, np.uint8)
        if name in stored:
            buffers[name][:] = np.frombuffer(stored[name], np.uint8)
    places = {
        name: _place(buffers[f"{file.root}/data/{record.storage.key}"], record)
        for name, record in records.items()
    }
    numbers = {name: _numbers(tensors[name], records[name]) for name in records}
    for name, place in places.items():
        place[...] = numbers[name]
    for name, place in places.items():
        if not np.array_equal(place, numbers[name]):
            raise KancompressError(
                f"{where}: tensor {shown(name)} shares its storage with another tensor but not its"
                " numbers any more. Write a .safetensors file instead."
            )
    filled = {name: buffer.data for name, buffer in buffers.items()}
    return _archive((stored | filled).items())


def _check(records: Mapping[str, TensorRecord], tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse a skeleton whose state dict has other names, types or shapes than the tensors."""
    if records.keys() != tensors.keys():
        name = min(records.keys() ^ tensors.keys())
        raise InvalidFileError(
            Flaw.BAD_VALUE, f"{where}: tensor {shown(name)} is not in both parts of the file."
        )
    for name, record in records.items():
        statedicts.check_record(name, record, where)
        tensor = tensors[name]
        if record.dtype != tensor.dtype or record.shape != tuple(tensor.shape):
            raise InvalidFileError(
                Flaw.BAD_VALUE,
                f"{where}: tensor {shown(name)} has another type or shape there than in"
                " restore.tensors.",
            )


def _coverage(records: Mapping[str, TensorRecord]) -> tuple[int, set[str]]:
    """Bytes of one storage that the tensors cover, and the tensors that cover some of them twice.

    Tensors that are the same in all (ties) count once.
    """
    distinct = {_key(record): name for name, record in records.items()}
    record = next(iter(records.values()))
    if len(distinct) == 1 and record.stride == _contiguous(record.shape):
        return record.size, set()
    size = record.storage.count * record.storage.dtype.itemsize
    owner = np.zeros(size, np.int32)  # 0: nobody, else 1 + number of the tensor
    names = list(distinct.values())
    twice: set[str] = set()
    for number, name in enumerate(names, start=1):
        place = _place(owner, records[name])
        for other in np.unique(place):
            if other:
                twice |= {name, names[other - 1]}
        place[...] = number
        if np.count_nonzero(owner == number) < records[name].size:
            twice.add(name)
    same = {name for name, record in records.items() if distinct[_key(record)] in twice}
    return int(np.count_nonzero(owner)), same


def _key(record: TensorRecord) -> tuple[object, ...]:
    return record.dtype, record.offset, record.shape, record.stride


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))


def _place(buffer: np.ndarray, record: TensorRecord) -> np.ndarray:
    """Where a tensor's bytes lie in an array with one entry for each byte of its storage."""
    item, step = record.dtype.itemsize, buffer.itemsize
    return np.lib.stride_tricks.as_strided(
        buffer[record.offset * item :] if 0 not in record.shape else buffer[:0],
        shape=(*record.shape, item),
        strides=(*(stride * item * step for stride in record.stride), step),
    )


def _numbers(tensor: Tensor, record: TensorRecord) -> np.ndarray:
    """The bytes of a tensor, with one more axis for those of a number."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy() if len(flat) else np.zeros(0, np.uint8)
    return raw.reshape(*record.shape, record.dtype.itemsize)


def _archive(contents: Iterable[tuple[str, memoryview]]) -> bytes:
    """A zip archive as torch writes it: nothing compressed, contents at multiples of 64 bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents:
            info = zipfile.ZipInfo(name)  # of 1980: equal work gives equal bytes
            begin = file.tell() + _LOCAL_HEADER + len(name.encode()) + 4
            gap = -begin % _ALIGNMENT
            info.extra = _PADDING + gap.to_bytes(2, "little") + b"Z" * gap
            with archive.open(info, "w", force_zip64=len(content) >= zipfile.ZIP64_LIMIT) as record:
                record.write(content)
    return file.getvalue()
