"""The `restore` object of a packed file (docs/packed-format.md, section 8), checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kancompress.container import DTYPES, Entry, element_count, shown
from kancompress.document import check_keys
from kancompress.errors import Flaw, InvalidFileError

CONTAINERS = ("safetensors", "torch-zip", "torch-legacy", "torch-module")
_WITH_OPAQUE = ("torch-zip", "torch-module")


def check_restore(record: object, layers: set[str], where: str) -> set[str]:
    """Check the object's form; returns the names of the stored tensors that it explains."""
    if not isinstance(record, dict):
        raise _bad(where, "restore should be an object")
    check_keys(record, {"container", "path", "tensors"}, {"metadata", "opaque"}, where, "restore")
    if record["container"] not in CONTAINERS:
        raise _bad(where, f"restore.container is {shown(record['container'])}")
    if not _strings(record["path"]):
        raise _bad(where, "restore.path should be a list of strings")
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict) or not _strings(list(metadata.values())):
        raise _bad(where, "restore.metadata should map names to strings")
    if not isinstance(record["tensors"], list):
        raise _bad(where, "restore.tensors should be a list")
    origins = {entry[0]: entry[3] for entry in record["tensors"] if _is_entry(entry)}
    if len(origins) != len(record["tensors"]):
        raise _bad(where, "restore.tensors should list [name, dtype, shape, origin] once a tensor")
    for name, origin in origins.items():
        if not _is_origin(origin):
            raise _bad(
                where,
                f"the origin of {shown(name)} is {shown(origin)}, which this version does not know",
            )
    tied = {name for name, origin in origins.items() if origin and "tie" in origin}
    stored: set[str] = set()
    for name, origin in origins.items():
        match origin:
            case None:
                stored.add(name)
            case {"as": target} | {"repeat": target}:
                stored.add(target)
            case {"tie": target} if target in tied or target not in origins:
                raise _bad(
                    where,
                    f"{shown(name)} is tied to {shown(target)}, which is no tensor that has storage"
                    " of its own",
                )
        for piece in pieces_of(origin):
            if piece["layer"] not in layers:
                raise InvalidFileError(
                    Flaw.UNKNOWN_LAYER,
                    f"{where}: {shown(name)} comes from layer {shown(piece['layer'])}, which is not"
                    " there.",
                )
    if "opaque" in record:
        if not isinstance(record["opaque"], str):
            raise _bad(where, "restore.opaque should name a tensor")
        if record["container"] not in _WITH_OPAQUE:
            raise _bad(where, f"restore.opaque does not go with {shown(record['container'])}")
        stored.add(record["opaque"])
    return stored


def pieces_of(origin: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The ranges of a layer's coefficients that a tensor holds, none where it holds no edges."""
    if origin and "layer" in origin:
        return [origin]
    pieces: list[Mapping[str, Any]] = origin["parts"] if origin and "parts" in origin else []
    return pieces


def check_origins(
    record: Mapping[str, Any],
    entries: Mapping[str, Entry],
    layers: Mapping[str, tuple[int, int, int]],
    where: str,
) -> None:
    """Check that every tensor of the source has the dtype and the size of what it comes from.

    record : an object that has passed `check_restore`, and whose stored tensors are in `entries`
    layers : edges of each layer, coefficients of an edge, and groups
    """
    for name, dtype, shape, origin in record["tensors"]:
        count = element_count(tuple(shape))
        match origin:
            case {"layer": _} | {"parts": _}:
                fits = count == sum(_held(piece, layers) for piece in pieces_of(origin))
            case {"arange": [_, _, _, length]}:
                fits = bool(shape) and shape[-1] == length
            case {"repeat": row}:
                _check_dtype(entries[row], dtype, name, where)
                stored = element_count(entries[row].shape)
                fits = bool(shape) and count == shape[0] * stored
            case None | {"as": _}:
                entry = entries[name if origin is None else origin["as"]]
                _check_dtype(entry, dtype, name, where)
                fits = entry.shape == tuple(shape)
            case _:
                fits = True
        if not fits:
            raise InvalidFileError(
                Flaw.WRONG_SHAPE,
                f"{where}: restore gives {shown(name)} the shape {shown(shape)}, which its origin"
                f" {shown(origin)} does not have.",
            )
    if "opaque" in record:
        _check_dtype(entries[record["opaque"]], "U8", "restore.opaque", where)


def _held(piece: Mapping[str, Any], layers: Mapping[str, tuple[int, int, int]]) -> int:
    """Numbers of a layer that a piece covers; -1 where it claims more than there is."""
    edges, coefficients, groups = layers[piece["layer"]]
    if piece["to"] > coefficients or piece.get("group", 0) >= groups:
        return -1
    share: int = edges // groups if "group" in piece else edges
    width: int = piece["to"] - piece["from"]
    return share * width


def _check_dtype(entry: Entry, dtype: str, name: str, where: str) -> None:
    if entry.dtype != dtype:
        raise InvalidFileError(
            Flaw.WRONG_DTYPE,
            f"{where}: tensor {shown(entry.name)} has the dtype {entry.dtype};"
            f" {dtype} was expected for {shown(name)}.",
        )


def _bad(where: str, message: str) -> InvalidFileError:
    return InvalidFileError(Flaw.BAD_VALUE, f"{where}: {message}.")


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 4
        and isinstance(entry[0], str)
        and isinstance(entry[1], str)
        and entry[1] in DTYPES
        and isinstance(entry[2], list)
        and len(entry[2]) <= 64
        and all(type(size) is int and 0 <= size < 1 << 63 for size in entry[2])
    )


def _is_origin(origin: Any) -> bool:
    match origin:
        case None:
            return True
        case {"as": str()} | {"tie": str()} | {"repeat": str()}:
            return len(origin) == 1
        case {"fill": number}:
            return len(origin) == 1 and _is_number(number)
        case {"arange": [base, step, first, count]}:
            numbers = _is_number(base) and _is_number(step)
            whole = type(first) is type(count) is int
            return len(origin) == 1 and numbers and whole and count >= 0
        case {"parts": [_, _, *_] as pieces}:
            return len(origin) == 1 and all(_is_piece(piece) for piece in pieces)
    return _is_piece(origin)


def _is_piece(piece: Any) -> bool:
    """Whether this is `{"layer", "axes", "from", "to"}`, perhaps with `group` and `columns`."""
    match piece:
        case {"layer": str(), "axes": str(), "from": first, "to": last}:
            numbers = [first, last, *piece.get("columns", [0, 1]), piece.get("group", 0)]
            whole = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
            extra = piece.keys() - {"layer", "axes", "from", "to"}
            return whole and len(numbers) == 5 and first < last and extra <= {"group", "columns"}
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
