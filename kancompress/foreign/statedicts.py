"""Finding the state dict in what a torch file holds, and making its tensors.

Trainers wrap state dicts in dictionaries of their own; whole modules hold theirs in
`_parameters`, `_buffers` and `_modules`. What is left out on the way is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from kancompress.container import NAMES, shown
from kancompress.errors import Flaw, InvalidFileError
from kancompress.foreign.records import Global, Storage, Stub, TensorRecord, Unsupported

# Where trainers put the state dict; the first of these wins.
KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network",
    "module", "params", "weights", "model_weights", "model_ema", "params_ema", "ema_state_dict",
    "state_dict_ema", "ema",
)  # fmt: skip
_MAX_NESTING = 8
_MAX_MODULES = 100_000
_MAX_MODULE_NESTING = 100
_MAX_LINES = 200
# Tensors may share numbers or repeat them (stride 0); how much more than the file they may come to.
_SPARE_BYTES = 1 << 26
_EXPANSION = 16


@dataclass(slots=True, eq=False)
class Found:
    """A state dict, the keys that led to it, and what lay beside it."""

    path: tuple[str, ...] = ()
    records: dict[str, TensorRecord] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    is_module: bool = False


def find(value: object, where: str) -> Found:
    """Find the state dict in `value`, the object of a torch file.

    Raises InvalidFileError when there is none or a tensor of it is of a kind that is not read.
    """
    path = _locate(value, _MAX_NESTING, set())
    if path is None:
        raise InvalidFileError(Flaw.NO_TENSORS, f"{where} {_without(value)}")
    found = Found(path=path)
    for depth, key in enumerate(path):
        mapping = _mapping(value) or {}
        for other, content in mapping.items():
            if other != key:
                name = ".".join([*path[:depth], _name(other)])
                found.dropped.append(name + _tally(content))
        value = mapping[key]
    parts = _module(value)
    if parts is not None:
        found.is_module = True
        found.dropped.append(f"the class {_maker(value)} and its settings")
        _walk(value, found, where)
    else:
        _take(_mapping(value) or {}, "", found, where)
    if not found.records:
        raise InvalidFileError(Flaw.NO_TENSORS, f"{where} {_without(value)}")
    if len(found.dropped) > _MAX_LINES:
        more = len(found.dropped) - _MAX_LINES
        found.dropped[_MAX_LINES:] = [f"and {more:,} more"]
    return found


def _locate(value: object, depth: int, dead: set[int]) -> tuple[str, ...] | None:
    """Keys to the state dict in `value`, or None; `dead` are those in which there is none."""
    mapping = _mapping(value)
    if _module(value) is not None:
        return ()
    if mapping is None or id(mapping) in dead or depth == 0 or "param_groups" in mapping:
        return None
    direct = any(_is_tensor(v) for k, v in mapping.items() if isinstance(k, str))
    declared = [key for key in KEYS if key in mapping]
    others = [] if direct else [k for k in mapping if isinstance(k, str) and k not in KEYS]
    for key in (*declared, *others):
        if "optim" not in key.lower():
            inner = _locate(mapping[key], depth - 1, dead)
            if inner is not None:
                return (key, *inner)
    if direct:
        return ()
    dead.add(id(mapping))
    return None


def _mapping(value: object) -> dict[object, object] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, Stub) and value.mapping:  # a dictionary of a class of its own
        return value.mapping
    return None


def _module(value: object) -> dict[object, object] | None:
    """Attributes of a pickled module."""
    state = value.state if isinstance(value, Stub) else None
    if isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys():
        return state
    return None


def _maker(value: object) -> str:
    maker = value.maker if isinstance(value, Stub) else None
    return shown(str(maker))[1:-1] if isinstance(maker, Global) else "an unnamed class"


def _is_tensor(value: object) -> bool:
    return isinstance(value, TensorRecord | Unsupported)


def _name(key: object) -> str:
    if isinstance(key, str):
        return key if len(key) <= 100 and key.isprintable() else shown(key)
    is_short = isinstance(key, int) and key.bit_length() < 64
    return str(key) if is_short else "an entry whose name is no text"


def _tally(value: object) -> str:
    """How many tensors `value` holds, in brackets; nothing when none."""
    count = size = 0
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, TensorRecord):
            count, size = count + 1, size + item.size
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list | tuple):
            todo.extend(item)
        elif isinstance(item, Stub):
            todo += [item.args, item.state, item.items, item.mapping]
    if not count:
        return ""
    length = f"{size:,}" if size < 1 << 63 else "impossibly many"
    return f" ({count:,} tensor{'s' * (count != 1)}, {length} bytes)"


def _without(value: object) -> str:
    expected = "a dictionary of tensors (a state dict) was expected."
    if isinstance(value, Stub):
        return f"holds an object of {_maker(value)} without tensors; {expected}"
    if _is_tensor(value):
        return f"holds a single tensor without a name; {expected}"
    if isinstance(value, dict) and not value:
        return f"holds an empty dictionary; {expected}"
    kinds = ((dict, "dictionary"), (list, "list"), (tuple, "tuple"))
    kind = next((name for cls, name in kinds if isinstance(value, cls)), "value")
    tally = _tally(value)
    inside = f"with{tally} but none by name" if tally else "without any tensor"
    return f"holds a {kind} {inside}; {expected}"


def _take(mapping: Mapping[object, object], prefix: str, found: Found, where: str) -> None:
    """Take the tensors of a dictionary, and tell what else is in it."""
    for key, value in mapping.items():
        if isinstance(key, str) and isinstance(value, Unsupported):
            raise InvalidFileError(
                Flaw.UNSUPPORTED_TENSOR,
                f"{where}: tensor {shown(prefix + key)} is {value.kind}; plain dense tensors were"
                " expected. Convert it with torch before passing the file.",
            )
        if isinstance(key, str) and isinstance(value, TensorRecord):
            found.records[prefix + key] = value
        else:
            found.dropped.append(prefix + _name(key) + (_tally(value) or " (no tensor)"))


def _walk(module: object, found: Found, where: str) -> None:
    """Collect what `state_dict()` of a pickled module would give, in its order."""
    todo: list[tuple[object, str, int]] = [(module, "", 0)]
    for _ in range(_MAX_MODULES):
        if not todo:
            return
        value, prefix, depth = todo.pop()
        state = _module(value)
        if value is None:
            continue
        if state is None or depth > _MAX_MODULE_NESTING:
            raise InvalidFileError(
                Flaw.BAD_PICKLE,
                f"{where}: {shown(prefix)} is nested too deeply or is no module.",
            )
        hidden = state.get("_non_persistent_buffers_set")
        names = {n for n in hidden if isinstance(n, str)} if isinstance(hidden, list) else set()
        for part in ("_parameters", "_buffers"):
            content = {k: v for k, v in _part(state, part).items() if v is not None}
            if part == "_buffers":
                found.dropped += [f"{prefix}{_name(n)} (not persistent)" for n in content
                                  if n in names]  # fmt: skip
                content = {k: v for k, v in content.items() if k not in names}
            _take(content, prefix, found, where)
        children = [
            (child, f"{prefix}{name}.", depth + 1)
            for name, child in _part(state, "_modules").items()
            if isinstance(name, str)
        ]
        todo.extend(reversed(children))
    raise InvalidFileError(
        Flaw.BAD_PICKLE, f"{where} holds more than {_MAX_MODULES:,} modules, or one in itself."
    )


def _part(state: dict[object, object], name: str) -> dict[object, object]:
    return _mapping(state.get(name)) or {}


# --- tensors -------------------------------------------------------------------------------


def budget(size: int) -> int:
    """Bytes that tensors which share or repeat numbers may come to, for a file of `size` bytes."""
    return _SPARE_BYTES + _EXPANSION * size


def make(
    records: Mapping[str, TensorRecord],
    storage: Callable[[Storage], memoryview],
    file_bytes: int,
    where: str,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Make the tensors, and tell which are the same as an earlier one.

    Raises InvalidFileError for what does not lie in its storage or cannot be stored elsewhere.
    """
    buffers: dict[str, torch.Tensor] = {}
    first: dict[tuple[object, ...], str] = {}
    tensors: dict[str, torch.Tensor] = {}
    ties: dict[str, str] = {}
    left = budget(file_bytes)
    for name, record in records.items():
        _check_name(name, where)
        identity = check_record(name, record, where)
        if identity in first:
            ties[name] = first[identity]
            tensors[name] = tensors[ties[name]]
            continue
        first[identity] = name
        left -= record.size
        if left < 0:
            raise InvalidFileError(
                Flaw.SIZE_MISMATCH,
                f"{where}: up to {shown(name)} the tensors repeat the same numbers to more than"
                f" {_EXPANSION} times the file's {file_bytes:,} bytes.",
            )
        key = record.storage.key
        if key not in buffers:
            buffers[key] = _buffer(storage(record.storage))
        tensors[name] = _view(name, record, buffers[key], where)
    return tensors, ties


def _check_name(name: str, where: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        name = "__metadata__"
    if name == "__metadata__":
        raise InvalidFileError(
            Flaw.BAD_TENSOR_NAME, f"{where}: a tensor has a name that safetensors cannot store."
        )


def check_record(name: str, record: TensorRecord, where: str) -> tuple[object, ...]:
    """Refuse what cannot be; returns what two tensors that are the same have in common."""
    if record.dtype not in NAMES or record.dtype.is_complex:
        raise InvalidFileError(
            Flaw.UNSUPPORTED_TENSOR,
            f"{where}: tensor {shown(name)} is of dtype {str(record.dtype).removeprefix('torch.')},"
            " which is not supported. Convert it with torch before passing the file.",
        )
    storage, item = record.storage, record.dtype.itemsize
    steps = zip(record.shape, record.stride, strict=True)
    last = record.offset + sum((length - 1) * step for length, step in steps)
    have = storage.count * storage.dtype.itemsize
    nothing = 0 in record.shape
    if record.size >= 1 << 63 or (not nothing and (last + 1) * item > have):
        raise InvalidFileError(
            Flaw.BAD_OFFSETS,
            f"{where}: tensor {shown(name)} of shape {shown(list(record.shape))} reaches beyond"
            f" its storage of {have:,} bytes.",
        )
    start = storage.start * storage.dtype.itemsize + record.offset * item
    return storage.key, record.dtype, start, record.shape, record.stride, nothing and name


def _buffer(raw: memoryview) -> torch.Tensor:
    if not len(raw):
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(raw) if raw.readonly else raw, dtype=torch.uint8)


def _view(name: str, record: TensorRecord, buffer: torch.Tensor, where: str) -> torch.Tensor:
    if 0 in record.shape:
        return torch.empty(record.shape, dtype=record.dtype)
    storage = record.storage
    begin = storage.start * storage.dtype.itemsize
    end = begin + storage.count * storage.dtype.itemsize
    if end > len(buffer):
        raise InvalidFileError(
            Flaw.SIZE_MISMATCH,
            f"{where}: the storage of tensor {shown(name)} should have {end:,} bytes and has"
            f" {len(buffer):,}.",
        )
    item = record.dtype.itemsize
    numbers = buffer[begin : begin + storage.count * storage.dtype.itemsize // item * item]
    if begin % item or numbers.data_ptr() % item:
        numbers = numbers.clone()  # a view of another dtype must begin at a multiple of its size
    base = numbers.view(record.dtype)
    offset = base.storage_offset() + record.offset
    return base.as_strided(record.shape, record.stride, offset).contiguous()
