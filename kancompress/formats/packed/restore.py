"""The `restore` object of a packed file (docs/packed-format.md, section 8), checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats.document import check_keys
from kancompress.formats.edges.axes import NAMES, Axes, Claim, Sizes, parse_axes, solve
from kancompress.formats.packed.numbers import is_number_of, steps_stay_in_range
from kancompress.formats.safetensors import DTYPES, Entry, shown
from kancompress.formats.shapes import element_count, is_countable

CONTAINERS = ("safetensors", "torch-zip", "torch-legacy", "torch-module")
_WITH_OPAQUE = ("torch-zip", "torch-module")
_MAX_PATH = 64
_MAX_RANK = 64
_REAL = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerClaim:
    """A layer as the header claims it; `shape` counts the outputs of all groups."""

    shape: tuple[int, ...]
    coefficients: int
    groups: int

    @property
    def edges(self) -> int:
        """Number of edges."""
        return element_count(self.shape)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the axes that number an edge."""
        known = {
            "group": self.groups,
            "out": self.shape[0] // self.groups,
            "in": self.shape[1],
        }
        if len(self.shape) > 2:
            known["kh"], known["kw"] = self.shape[2:]
        return known


def check_restore(record: object, layers: set[str], where: str) -> set[str]:
    """Check the object's form; returns the names of the stored tensors that it explains."""
    if not isinstance(record, dict):
        raise _bad(where, "restore should be an object")
    check_keys(record, {"container", "path", "tensors"}, {"metadata", "opaque"}, where, "restore")
    if record["container"] not in CONTAINERS:
        raise _bad(where, f"restore.container is {shown(record['container'])}")
    if not _strings(record["path"]) or len(record["path"]) > _MAX_PATH:
        raise _bad(where, f"restore.path should be a list of at most {_MAX_PATH} strings")
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict) or not _strings(list(metadata.values())):
        raise _bad(where, "restore.metadata should map names to strings")
    if "kancompress" in metadata:
        raise _bad(where, "restore.metadata has the key 'kancompress', which no such source has")
    if not isinstance(record["tensors"], list):
        raise _bad(where, "restore.tensors should be a list")
    origins = {entry[0]: entry[3] for entry in record["tensors"] if _is_entry(entry)}
    if len(origins) != len(record["tensors"]):
        raise _bad(where, "restore.tensors should list [name, dtype, shape, origin] once a tensor")
    if "__metadata__" in origins:
        raise _bad(where, "restore.tensors names a tensor '__metadata__'")
    stored = list(_stored(origins, layers, where))
    if "opaque" in record:
        if not isinstance(record["opaque"], str):
            raise _bad(where, "restore.opaque should name a tensor")
        if record["container"] not in _WITH_OPAQUE:
            raise _bad(where, f"restore.opaque does not go with {shown(record['container'])}")
        stored.append(record["opaque"])
    names: set[str] = set()
    for name in stored:
        if name in names:
            raise _bad(where, f"restore names the stored tensor {shown(name)} twice")
        names.add(name)
    return names


def _stored(origins: Mapping[str, Any], layers: set[str], where: str) -> Iterator[str]:
    """Names of the stored tensors that origins of a right form speak of."""
    tied = {
        name for name, origin in origins.items() if isinstance(origin, dict) and "tie" in origin
    }
    for name, origin in origins.items():
        if not _is_origin(origin):
            raise _bad(
                where,
                f"the origin of {shown(name)} is {shown(origin)}, which this version does not know",
            )
        match origin:
            case None:
                yield name
            case {"as": target} | {"repeat": target}:
                yield target
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


def pieces_of(origin: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The ranges of a layer's coefficients that a tensor holds, none where it holds no edges."""
    if origin and "layer" in origin:
        return [origin]
    pieces: list[Mapping[str, Any]] = origin["parts"] if origin and "parts" in origin else []
    return pieces


def check_origins(
    record: Mapping[str, Any],
    entries: Mapping[str, Entry],
    layers: Mapping[str, LayerClaim],
    where: str,
) -> int:
    """Check every tensor of the source against what it comes from (8.3, 8.4).

    record : an object that has passed `check_restore`, and whose stored tensors are in `entries`
    Returns the bytes of all tensors of the source that are not tied.
    """
    kinds = {name: (dtype, shape) for name, dtype, shape, _ in record["tensors"]}
    total = 0
    for name, dtype, shape, origin in record["tensors"]:
        fits = True
        match origin:
            case {"layer": _} | {"parts": _}:
                _check_pieces(name, dtype, shape, origin, layers, where)
            case {"tie": other}:
                fits = kinds[other] == (dtype, shape)
            case {"fill": number}:
                _check_number(is_number_of(number, dtype), name, dtype, origin, where)
            case {"arange": [base, step, first, count]}:
                fits = bool(shape) and shape[-1] == count
                in_range = steps_stay_in_range(base, step, first, count, dtype)
                _check_number(in_range, name, dtype, origin, where)
            case {"repeat": row}:
                _check_dtype(entries[row], dtype, name, where)
                fits = bool(shape) and entries[row].shape == tuple(shape[1:])
            case _:
                entry = entries[name if origin is None else origin["as"]]
                _check_dtype(entry, dtype, name, where)
                fits = entry.shape == tuple(shape)
        if not fits:
            raise InvalidFileError(
                Flaw.WRONG_SHAPE,
                f"{where}: restore gives {shown(name)} the type {dtype} and the shape"
                f" {shown(shape)}, which its origin {shown(origin)} has not.",
            )
        if not (origin and "tie" in origin):
            total += element_count(tuple(shape)) * DTYPES[dtype][1]
    if "opaque" in record:
        entry = entries[record["opaque"]]
        _check_dtype(entry, "U8", "restore.opaque", where)
        if len(entry.shape) != 1:
            raise InvalidFileError(
                Flaw.WRONG_SHAPE,
                f"{where}: restore.opaque has the shape {shown(list(entry.shape))}; [bytes] was"
                " expected.",
            )
    return total


def _check_number(is_right: bool, name: str, dtype: str, origin: object, where: str) -> None:
    """Refuse an origin whose numbers are none of the tensor's type."""
    if not is_right:
        raise _bad(
            where,
            f"restore gives {shown(name)} the type {dtype}, and its origin {shown(origin)} has"
            " numbers that are none of this type",
        )


def _check_pieces(
    name: str,
    dtype: str,
    shape: list[int],
    origin: Mapping[str, Any],
    layers: Mapping[str, LayerClaim],
    where: str,
) -> None:
    """Refuse a tensor that its layers' coefficients do not fill, all of it and once."""
    if dtype not in _REAL:
        raise InvalidFileError(
            Flaw.WRONG_DTYPE,
            f"{where}: {shown(name)} holds coefficients and has the dtype {dtype};"
            f" one of {', '.join(_REAL)} was expected.",
        )
    pieces = pieces_of(origin)
    reason = _columns_misfit(pieces, shape)
    for piece in pieces:
        part = shape
        if "columns" in piece and not reason:
            part = [*shape[:-1], piece["columns"][1] - piece["columns"][0]]
        reason = reason or _piece_misfit(piece, layers[piece["layer"]], part)
    if reason:
        raise InvalidFileError(
            Flaw.WRONG_SHAPE,
            f"{where}: restore gives {shown(name)} the shape {shown(shape)}, which its origin"
            f" {shown(origin)} has not: {reason}.",
        )


def _columns_misfit(pieces: list[Mapping[str, Any]], shape: list[int]) -> str:
    """Why the columns of a tensor's pieces are not its last axis, each once; "" if they are."""
    given = sorted(piece["columns"] for piece in pieces if "columns" in piece)
    if not given and len(pieces) == 1:
        return ""
    if len(given) != len(pieces) or not shape:
        return "several parts each need columns"
    ends = [0, *(end for _, end in given)]
    if [begin for begin, _ in given] != ends[:-1] or ends[-1] != shape[-1]:
        return "its columns are not the whole last axis, each once"
    return ""


def _piece_misfit(piece: Mapping[str, Any], layer: LayerClaim, shape: list[int]) -> str:
    """Why a range of a layer's coefficients does not have this shape; "" where it has."""
    width = piece["to"] - piece["from"]
    if piece["to"] > layer.coefficients:
        return f"the layer has {layer.coefficients} coefficients an edge"
    if "group" in piece and (layer.groups < 2 or piece["group"] >= layer.groups):
        return f"the layer has {layer.groups} groups"
    try:
        axes = parse_axes(piece["axes"], only=NAMES)
    except UsageError as error:
        return str(error).removesuffix(".")
    sizes = layer.sizes
    if "group" in piece:
        del sizes["group"]
    reason = _axes_misfit(axes, sizes, width)
    if reason:
        return reason
    if "half" not in axes.names and "coef" in axes.names:
        sizes["coef"] = width
    known = Sizes(sizes, dict.fromkeys(sizes, "the layer"))
    claim = Claim("it", tuple(shape), axes)
    if claim.has_rank:
        reason = solve([claim], known)
    elif "half" in axes.names:
        reason = "half needs a length for each dimension of the axes"
    if reason:
        return reason
    if "half" in axes.names and known.known["half"] * known.known["coef"] != width:
        return f"half and coef are not {width} together"
    held = math.prod(known.known[name] for name in axes.names)
    return "" if held == element_count(tuple(shape)) else f"the layer gives {held} numbers"


def _axes_misfit(axes: Axes, sizes: Mapping[str, int], width: int) -> str:
    names = set(axes.names)
    needed = {name for name in sizes if name != "group" or sizes[name] > 1}
    if len(axes.dims) > _MAX_RANK:
        return "the axes have too many dimensions"
    if width != 1:
        needed = needed | {"coef"}
    if missing := sorted(needed - names):
        return f"the axes lack {missing[0]}"
    allowed = {*sizes, "coef"} | ({"half"} if "coef" in names else set())
    if extra := sorted(names - allowed):
        return f"the axes name {extra[0]}, which the layer has not"
    return ""


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
        and entry[1] != "C64"
        and isinstance(entry[2], list)
        and len(entry[2]) <= _MAX_RANK
        and all(type(size) is int and 0 <= size < 1 << 63 for size in entry[2])
        and is_countable(tuple(entry[2]))
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
            columns = piece.get("columns", [0, 1])
            if not isinstance(columns, list) or len(columns) != 2:
                return False
            numbers = [first, last, *columns, piece.get("group", 0)]
            whole = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
            extra = piece.keys() - {"layer", "axes", "from", "to"}
            ascending = whole and first < last and columns[0] < columns[1]
            return ascending and extra <= {"group", "columns"}
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
