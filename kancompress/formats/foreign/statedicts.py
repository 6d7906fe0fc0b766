"""Finding the state dict in what a torch file holds, and making its tensors.

Trainers wrap state dicts in dictionaries of their own; whole modules hold theirs in
`_parameters`, `_buffers` and `_modules`. What is left out on the way is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kancompress.errors import Flaw, InvalidFileError, shortened
from kancompress.formats.arrays import U8, Array, Outline, StoredArrays
from kancompress.formats.foreign import nesting
from kancompress.formats.foreign.nesting import (
    Choice,
    attributes_of,
    is_tensor,
    maker_of,
    mapping_of,
    shown_key,
    tally,
)
from kancompress.formats.foreign.placement import extent, is_contiguous, is_countable, read
from kancompress.formats.foreign.records import Stub, TensorRecord, Unsupported
from kancompress.formats.foreign.torchfiles import TorchFile
from kancompress.formats.foreign.work import Work
from kancompress.formats.safetensors import shown

_MAX_MODULES = 100_000
_MAX_MODULE_NESTING = 100
_MAX_LINES = 200
_MAX_SHOWN = 300  # characters of a name that is told
# What a tensor costs beside the characters of its name.
_EACH = 20
# Tensors may share numbers or repeat them (stride 0); how much more than the file they may come to.
_SPARE_BYTES = 1 << 26
_EXPANSION = 16


@dataclass(slots=True, eq=False)
class Found:
    """A state dict, the keys that led to it, what lay beside it, and what to know of that."""

    where: str
    work: Work
    path: tuple[str, ...]
    notes: tuple[str, ...] = ()
    records: dict[str, TensorRecord] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    is_module: bool = False
    more: int = 0

    def drop(self, name: str, value: object, nothing: str = "") -> None:
        """Tell what is left out: its tensors, or `nothing` where it holds none.

        Beyond the first lines it is only counted.
        """
        if len(self.dropped) < _MAX_LINES:
            told = tally(value, self.work) or nothing
            self.dropped.append(shortened(name, _MAX_SHOWN) + told)
        else:
            self.more += 1


def find(
    file: TorchFile, where: str, state: str | None = None, path: tuple[str, ...] | None = None
) -> Found:
    """Find the state dict in the object of a torch file.

    state : the name of one of several, as `nesting.choose` takes it
    path  : the keys that lead to it, where they are known
    Raises InvalidFileError when there is none, a tensor of it is of a kind that is not read, or
    finding it takes more work than the file may ask for; UsageError where `state` names none.
    """
    value, work = file.value, file.work
    choice = nesting.choose(value, work, where, state) if path is None else Choice(path)
    if choice is None:
        raise InvalidFileError(Flaw.NO_TENSORS, f"{where} {_without(value, work)}")
    path = choice.path
    found = Found(where, work, path, notes=choice.notes)
    shown_path = [shown_key(key) for key in path]
    for depth, key in enumerate(path):
        mapping = mapping_of(value) or {}
        if key not in mapping:
            raise InvalidFileError(
                Flaw.BAD_VALUE, f"{where}: the state dict lies elsewhere than restore.path says."
            )
        for other, content in mapping.items():
            if other != key:
                found.drop(".".join([*shown_path[:depth], shown_key(other)]), content)
        value = mapping[key]
    if attributes_of(value) is not None:
        found.is_module = True
        found.dropped.append(f"the class {maker_of(value)} and its settings")
        _walk(value, found)
    else:
        _take(mapping_of(value) or {}, "", found)
    if not found.records:
        raise InvalidFileError(Flaw.NO_TENSORS, f"{where} {_without(value, work)}")
    if found.more:
        found.dropped.append(f"and {found.more:,} more")
    return found


def _without(value: object, work: Work) -> str:
    expected = "a dictionary of tensors (a state dict) was expected."
    if isinstance(value, Stub):
        return f"holds an object of {maker_of(value)} without tensors; {expected}"
    if is_tensor(value):
        return f"holds a single tensor without a name; {expected}"
    if isinstance(value, dict) and not value:
        return f"holds an empty dictionary; {expected}"
    kinds = ((dict, "dictionary"), (list, "list"), (tuple, "tuple"))
    kind = next((name for cls, name in kinds if isinstance(value, cls)), "value")
    count = tally(value, work)
    inside = f"with{count} but none by name" if count else "without any tensor"
    return f"holds a {kind} {inside}; {expected}"


def _take(mapping: Mapping[object, object], prefix: str, found: Found) -> None:
    """Take the tensors of a dictionary, and tell what else is in it."""
    for key, value in mapping.items():
        found.work.spend(_EACH + len(prefix) + (len(key) if isinstance(key, str) else 0))
        if isinstance(key, str) and isinstance(value, Unsupported):
            raise InvalidFileError(
                Flaw.UNSUPPORTED_TENSOR,
                f"{found.where}: tensor {shown(prefix + key)} is {value.kind}; plain dense tensors"
                " were expected. Convert it with torch before passing the file.",
            )
        if isinstance(key, str) and isinstance(value, TensorRecord):
            found.records[prefix + key] = value
        else:
            found.drop(prefix + shown_key(key), value, nothing=" (no tensor)")


def _walk(module: object, found: Found) -> None:
    """Collect what `state_dict()` of a pickled module would give, in its order."""
    todo: list[tuple[object, str, int]] = [(module, "", 0)]
    for _ in range(_MAX_MODULES):
        if not todo:
            return
        value, prefix, depth = todo.pop()
        state = attributes_of(value)
        if value is None:
            continue
        if state is None or depth > _MAX_MODULE_NESTING:
            raise InvalidFileError(
                Flaw.BAD_PICKLE,
                f"{found.where}: {shown(prefix)} is nested too deeply or is no module.",
            )
        hidden = state.get("_non_persistent_buffers_set")
        found.work.spend(len(hidden) if isinstance(hidden, list) else 0)
        names = {n for n in hidden if isinstance(n, str)} if isinstance(hidden, list) else set()
        for part in ("_parameters", "_buffers"):
            found.work.spend(len(_part(state, part)))
            content = {k: v for k, v in _part(state, part).items() if v is not None}
            if part == "_buffers":
                for hidden_name in (n for n in content if n in names):
                    found.work.spend(_EACH + len(prefix))
                    found.drop(f"{prefix}{shown_key(hidden_name)} (not persistent)", None)
                content = {k: v for k, v in content.items() if k not in names}
            _take(content, prefix, found)
        children: list[tuple[object, str, int]] = []
        for name, child in _part(state, "_modules").items():
            if isinstance(name, str):
                found.work.spend(_EACH + len(prefix) + len(name))
                children.append((child, f"{prefix}{name}.", depth + 1))
        todo.extend(reversed(children))
    raise InvalidFileError(
        Flaw.TOO_COSTLY,
        f"{found.where} holds more than {_MAX_MODULES:,} modules, or one in itself.",
    )


def _part(state: dict[object, object], name: str) -> dict[object, object]:
    return mapping_of(state.get(name)) or {}


# --- tensors -------------------------------------------------------------------------------


def _budget(size: int) -> int:
    """Bytes that tensors which share or repeat numbers may come to, for a file of `size` bytes."""
    return _SPARE_BYTES + _EXPANSION * size


def make(
    records: Mapping[str, TensorRecord], file: TorchFile, where: str
) -> tuple[StoredArrays, dict[str, str]]:
    """The tensors of a torch file, each read when it is asked for, and which are the same as an
    earlier one.

    Raises InvalidFileError for what does not lie in its storage or cannot be stored elsewhere.
    """
    first: dict[str, str] = {}
    outline: dict[str, Outline] = {}
    ties: dict[str, str] = {}
    size = len(file.data)
    left, last = _budget(size), ""
    for name, record in records.items():
        _check_name(name, where)
        identity = check_record(name, record, where)
        if identity in first:
            ties[name] = first[identity]
            outline[name] = outline[ties[name]]
            continue
        first[identity] = name
        left -= record.size
        if not is_contiguous(record):  # its storage is read whole, unless it was the last one
            left -= 0 if record.storage.key == last else record.storage.size
            last = record.storage.key
        if left < 0:
            raise InvalidFileError(
                Flaw.SIZE_MISMATCH,
                f"{where}: up to {shown(name)} the tensors repeat the same numbers to more than"
                f" {_EXPANSION} times the file's {size:,} bytes.",
            )
        _check_place(name, record, file, where)
        outline[name] = Outline(record.dtype.name, record.shape)
    reader = _Reader(records, file)
    return StoredArrays(outline, reader, ties, reader.part), ties


class _Reader:
    """Reads one tensor of a torch file; keeps the last storage whose parts are not in one piece."""

    def __init__(self, records: Mapping[str, TensorRecord], file: TorchFile) -> None:
        self._records = records
        self._file = file
        self._last: tuple[str, memoryview] = ("", memoryview(b""))

    def __call__(self, name: str) -> Array:
        record = self._records[name]
        if 0 in record.shape:
            return Array(record.dtype.name, record.shape, np.zeros(0, np.uint8))
        storage, (first, end) = record.storage, extent(record)
        begin, _ = self._file.storage(storage)
        if is_contiguous(record):
            raw = self._file.data[begin + first : begin + end]
            own = bytearray(raw) if raw.readonly else raw
            return read(_bytes(own, record), record, first)
        key, whole = self._last
        if key != storage.key:
            del whole
            self._last = "", memoryview(b"")  # before the next one is read
            whole = self._file.data[begin : begin + storage.size]
            self._last = storage.key, whole
        return read(_bytes(whole[first:end], record), record, first)

    def part(self, name: str, start: int, stop: int) -> Array | None:
        """Elements `start ... stop - 1` of a tensor in one piece; None of any other."""
        record = self._records[name]
        if 0 in record.shape or not is_contiguous(record):
            return None
        size = record.dtype.itemsize
        begin = self._file.storage(record.storage)[0] + extent(record)[0]
        raw = self._file.data[begin + start * size : begin + stop * size]
        return Array(record.dtype.name, (stop - start,), _bytes(raw, record))


def _bytes(raw: memoryview | bytearray, record: TensorRecord) -> U8:
    """Bytes as an array that can be written to, and where the tensor's type can lie."""
    found = np.frombuffer(raw, np.uint8)
    is_odd = found.ctypes.data % record.dtype.itemsize
    return found.copy() if is_odd or not found.flags.writeable else found


def _check_place(name: str, record: TensorRecord, file: TorchFile, where: str) -> None:
    """Refuse a tensor whose storage is not there, or in another size than its pickle gives."""
    if 0 in record.shape and not file.has(record.storage):
        return
    begin, end = file.storage(record.storage)
    have, size = end - begin, record.storage.size
    if have < extent(record)[1] or (have < size and 0 not in record.shape):
        raise InvalidFileError(
            Flaw.SIZE_MISMATCH,
            f"{where}: the storage of tensor {shown(name)} should have {size:,} bytes and has"
            f" {have:,}.",
        )


def _check_name(name: str, where: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        name = "__metadata__"
    if name == "__metadata__":
        raise InvalidFileError(
            Flaw.BAD_TENSOR_NAME, f"{where}: a tensor has a name that safetensors cannot store."
        )


def check_record(name: str, record: TensorRecord, where: str) -> str:
    """Refuse what cannot be; returns what two tensors that are the same have in common.

    That is a text: the hash of a tuple of numbers from a file could be chosen there.
    """
    if not record.dtype.name or record.dtype.kind == "complex":
        raise InvalidFileError(
            Flaw.UNSUPPORTED_TENSOR,
            f"{where}: tensor {shown(name)} is of dtype {record.dtype.torch},"
            " which is not supported. Convert it with torch before passing the file.",
        )
    storage = record.storage
    begin, end = extent(record)
    have = (storage.start + storage.count) * storage.dtype.itemsize
    if not is_countable(record) or end > have:
        raise InvalidFileError(
            Flaw.BAD_OFFSETS,
            f"{where}: tensor {shown(name)} of shape {shown(list(record.shape))} reaches beyond"
            f" its storage of {storage.count * storage.dtype.itemsize:,} bytes.",
        )
    nothing = name if 0 in record.shape else ""
    return repr((storage.key, record.dtype.torch, begin, record.shape, record.stride, nothing))
