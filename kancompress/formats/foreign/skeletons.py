"""A torch file without its model's numbers: what `keep_extra` stores, and the file from it again.

A skeleton is the source's zip archive, record by record, without the storages that the tensors of
the state dict cover. Its pickle is kept as bytes and read by the machine of `pickles`, which runs
nothing: once to see which storages are the model's, once to put restored tensors back into them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping

import numpy as np

from kancompress.errors import Flaw, InvalidFileError, KancompressError
from kancompress.formats.arrays import Array, Outline
from kancompress.formats.foreign import statedicts, torchfiles
from kancompress.formats.foreign.placement import covered, extent, overlapping, read, write
from kancompress.formats.foreign.records import TensorRecord
from kancompress.formats.foreign.torchfiles import TorchFile
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.system.inputs import Data

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


def strip(data: Data, path: tuple[str, ...], where: str) -> Skeleton:
    """The skeleton of a torch zip archive whose state dict lies under `path`.

    Raises InvalidFileError for a damaged one.
    """
    file = torchfiles.read_zip(data, where)
    models = statedicts.find(file, where, path=path).records
    left_out: set[str] = set()
    shared: set[str] = set()
    for name, record in models.items():
        statedicts.check_record(name, record, where)
    for key, records in _by_storage(models).items():
        begin, end = file.storage(next(iter(records.values())).storage)
        shared |= _shared(records, end - begin)
        if covered(records.values(), end - begin) == end - begin:
            left_out.add(f"{file.root}/data/{key}")
    kept = ((name, content) for name, content in file.contents() if name not in left_out)
    return Skeleton(data=_archive(kept), shared=frozenset(shared))


def check(skeleton: Data, claims: Mapping[str, Outline], path: tuple[str, ...], where: str) -> None:
    """Refuse a skeleton that could not be filled with tensors of these types and shapes.

    path : keys under which the state dict should lie
    Raises InvalidFileError.
    """
    file, _ = _opened(skeleton, claims, path, f"{where} (restore.opaque)")
    for _ in file.contents():
        pass  # each is where it should, and has its checksum


def fill(skeleton: bytes, tensors: Mapping[str, Array], path: tuple[str, ...], where: str) -> bytes:
    """The torch file of a skeleton with these tensors of the model, under `path`, in their places.

    Raises InvalidFileError for a skeleton that is damaged or of another model, KancompressError
    when tensors that share numbers were given different ones.
    """
    where = f"{where} (restore.opaque)"
    file, records = _opened(Data(skeleton), tensors, path, where)
    stored = dict(file.contents())
    filled: dict[str, memoryview] = {}
    for key, own in _by_storage(records).items():
        name = f"{file.root}/data/{key}"
        buffer = np.zeros(next(iter(own.values())).storage.size, np.uint8)
        if name in stored:
            buffer[:] = np.frombuffer(stored[name], np.uint8)
        for tensor, record in own.items():
            write(buffer, record, tensors[tensor])
        for tensor, record in own.items():
            if not np.array_equal(read(buffer, record).data, tensors[tensor].data):
                raise KancompressError(
                    f"{where}: tensor {shown(tensor)} shares its storage with another tensor but"
                    " not its numbers any more. Write a .safetensors file instead."
                )
        filled[name] = buffer.data
    return _archive((stored | filled).items())


def _opened(
    skeleton: Data, claims: Mapping[str, Outline], path: tuple[str, ...], where: str
) -> tuple[TorchFile, Mapping[str, TensorRecord]]:
    """The archive and where its tensors lie, each checked against the bytes that there are.

    A storage that is there must have the size that the pickle gives it, one that is missing must
    be covered by tensors.
    """
    file = torchfiles.read_zip(skeleton, where, strict=True)
    found = statedicts.find(file, where, path=path)
    _check_claims(found.records, claims, where)
    for record in file.tensors:
        if extent(record)[1] > record.storage.size:
            raise InvalidFileError(
                Flaw.BAD_OFFSETS,
                f"{where}: a tensor reaches beyond its storage {shown(record.storage.key)}.",
            )
    by_storage = _by_storage(found.records)
    for key, storage in file.storages.items():
        size = storage.size
        if file.has(storage):
            begin, end = file.storage(storage)
            fits = end - begin == size
        else:
            records = by_storage.get(key, {})
            most = sum(record.size for record in records.values())
            fits = size <= most and covered(records.values(), size) == size
        if not fits:
            raise InvalidFileError(
                Flaw.SIZE_MISMATCH,
                f"{where}: the storage {shown(key)} has not the size it should.",
            )
    return file, found.records


def _by_storage(records: Mapping[str, TensorRecord]) -> dict[str, dict[str, TensorRecord]]:
    """The tensors of each storage, by its key."""
    result: dict[str, dict[str, TensorRecord]] = {}
    for name, record in records.items():
        result.setdefault(record.storage.key, {})[name] = record
    return result


def _check_claims(
    records: Mapping[str, TensorRecord], claims: Mapping[str, Outline], where: str
) -> None:
    """Refuse a skeleton whose state dict has other names, types or shapes than the model."""
    if list(records) != list(claims) and records.keys() == claims.keys():
        raise InvalidFileError(
            Flaw.BAD_VALUE, f"{where}: the tensors are in another order than in restore.tensors."
        )
    if records.keys() != claims.keys():
        name = min(records.keys() ^ claims.keys())
        raise InvalidFileError(
            Flaw.BAD_VALUE, f"{where}: tensor {shown(name)} is not in both parts of the file."
        )
    for name, record in records.items():
        statedicts.check_record(name, record, where)
        if record.dtype.name != claims[name].dtype or record.shape != claims[name].shape:
            raise InvalidFileError(
                Flaw.BAD_VALUE,
                f"{where}: tensor {shown(name)} has another type or shape there than in"
                " restore.tensors.",
            )


def _shared(records: Mapping[str, TensorRecord], size: int) -> set[str]:
    """Tensors of one storage that lie over others, or over themselves.

    Tensors that are the same in all (ties) count once.
    """
    distinct = {_key(record): name for name, record in records.items()}
    twice = overlapping({name: records[name] for name in distinct.values()}, size)
    return {name for name, record in records.items() if distinct[_key(record)] in twice}


def _key(record: TensorRecord) -> str:
    return repr((record.dtype.torch, record.offset, record.shape, record.stride))


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
