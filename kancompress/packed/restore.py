"""The `restore` object of a packed file (docs/packed-format.md, section 8), checked."""

from __future__ import annotations

from typing import Any

from kancompress.container import DTYPES
from kancompress.document import check_keys
from kancompress.errors import Flaw, InvalidFileError

CONTAINERS = ("safetensors", "torch-zip", "torch-legacy", "torch-module")
_ORIGINS = (
    {"as"},
    {"tie"},
    {"layer", "axes", "from", "to"},
    {"fill"},
    {"repeat"},
    {"arange"},
)


def check_restore(record: object, layers: set[str], where: str) -> set[str]:
    """Check the object's form; returns the names of the stored tensors that it explains."""
    if not isinstance(record, dict):
        raise _bad(where, "restore should be an object")
    check_keys(record, {"container", "path", "tensors"}, {"metadata", "opaque"}, where, "restore")
    if record["container"] not in CONTAINERS:
        raise _bad(where, f"restore.container is {record['container']!r}")
    if not _strings(record["path"]):
        raise _bad(where, "restore.path should be a list of strings")
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict) or not _strings(list(metadata.values())):
        raise _bad(where, "restore.metadata should map names to strings")
    if not isinstance(record["tensors"], list):
        raise _bad(where, "restore.tensors should be a list")
    names = [entry[0] for entry in record["tensors"] if _is_entry(entry)]
    if len(names) != len(record["tensors"]) or len(set(names)) != len(names):
        raise _bad(where, "restore.tensors should list [name, dtype, shape, origin] once a tensor")
    stored: set[str] = set()
    for entry in record["tensors"]:
        stored |= _stored_by(entry, layers, set(names), where)
    if "opaque" in record:
        if not isinstance(record["opaque"], str):
            raise _bad(where, "restore.opaque should name a tensor")
        stored.add(record["opaque"])
    return stored


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
        and all(type(size) is int and size >= 0 for size in entry[2])
        and (entry[3] is None or isinstance(entry[3], dict))
    )


def _stored_by(entry: list[Any], layers: set[str], names: set[str], where: str) -> set[str]:
    name, _, _, origin = entry
    if origin is None:
        return {name}
    if set(origin) not in _ORIGINS:
        raise _bad(where, f"the origin of {name!r} is {origin!r}, which this version does not know")
    if "tie" in origin and origin["tie"] not in names:
        raise _bad(where, f"{name!r} is tied to {origin['tie']!r}, which is no tensor")
    if "layer" in origin and origin["layer"] not in layers:
        raise InvalidFileError(
            Flaw.UNKNOWN_LAYER, f"{where}: {name!r} comes from layer {origin['layer']!r}."
        )
    target = origin.get("as", origin.get("repeat"))
    if target is None:
        return set()
    if not isinstance(target, str):
        raise _bad(where, f"the origin of {name!r} should name a tensor")
    return {target}
