"""The safetensors container: a strict reader of headers and a writer with one byte layout.

The reader checks everything a header claims before anything is allocated, and refuses what
the safetensors library lets pass (duplicate names, null metadata); see docs/packed-format.md,
section 1. The writer lays tensors out by element size and name, so that equal tensors and
metadata give equal bytes whatever version of safetensors is installed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import kinds
from kancompress.formats.arrays import (
    DTYPES,
    Array,
    Outline,
    StoredArrays,
    element_count,
    from_bytes,
    is_countable,
)
from kancompress.frozen import dataclass
from kancompress.system.inputs import Data

MAX_HEADER = 100_000_000
# Where the safetensors library's own JSON parser stops.
_MAX_DEPTH = 128
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header declares it; `begin` and `end` count from the payload's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, eq=False)
class Container:
    """A safetensors file whose header has been checked; tensors are read on demand.

    `entries` keeps the order of the payload, `where` is the name used in messages.
    """

    where: str
    data: Data
    entries: dict[str, Entry]
    metadata: dict[str, str]
    header_size: int

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return len(self.data)

    @property
    def payload_size(self) -> int:
        """Bytes of all tensors."""
        return len(self.data) - self.header_size

    def held(self) -> Container:
        """The same with the whole file in memory, read at once: what is checked is what is used."""
        return replace(self, data=Data(self.data[:]))

    def array(self, name: str) -> Array:
        """Read one tensor, which must be in `entries`: a part of the memory of a file that is held,
        else memory of its own."""
        entry = self.entries[name]
        raw = self.data[self.header_size + entry.begin : self.header_size + entry.end]
        return from_bytes(raw, entry.dtype, entry.shape)

    def part(self, name: str, start: int, stop: int) -> Array:
        """Elements `start ... stop - 1` of one tensor, row-major, as `array` reads them."""
        entry = self.entries[name]
        begin, size = self.header_size + entry.begin, DTYPES[entry.dtype].itemsize
        raw = self.data[begin + start * size : begin + stop * size]
        return from_bytes(raw, entry.dtype, (stop - start,))

    def arrays(self) -> dict[str, Array]:
        """Read all tensors."""
        return {name: self.array(name) for name in self.entries}

    def stored(self) -> StoredArrays:
        """All tensors, each read when it is asked for."""
        return StoredArrays(self.outline(), self.array, parts=self.part)

    def outline(self) -> dict[str, Outline]:
        """Type and shape of all tensors."""
        return {name: Outline(entry.dtype, entry.shape) for name, entry in self.entries.items()}


def shown(value: object) -> str:
    """A value from a file as messages show it, cut where it is long."""
    if isinstance(value, str | bytes) and len(value) > 120:
        return f"{value[:100]!r:.100}... ({len(value) + 2} characters)"
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def parse(data: Data, where: str) -> Container:
    """Check the header of a safetensors file and return it with its payload unread.

    Raises InvalidFileError with the flaw that was found first.
    """
    header_size = _header_size(data, where)
    header = _load_json(bytes(data[8:header_size]), where)
    metadata = _metadata(header.pop("__metadata__", {}), where)
    entries = [_entry(name, record, where) for name, record in header.items()]
    entries.sort(key=lambda e: (e.begin, e.end, -DTYPES[e.dtype].itemsize, e.name))
    _check_layout(entries, len(data) - header_size, where)
    return Container(where, data, {entry.name: entry for entry in entries}, metadata, header_size)


def _header_size(data: Data, where: str) -> int:
    if not len(data):
        raise InvalidFileError(Flaw.EMPTY, f"{where} is empty; a safetensors file was expected.")
    length = int.from_bytes(data[:8], "little")
    opening = bytes(data[8:9])
    # A header of 640 bytes begins like a pickle, one of 60 like HTML: such files have no "{" here.
    if opening != b"{" or length > MAX_HEADER:
        _refuse_other_formats(data, where)
    if len(data) < 10:
        raise InvalidFileError(
            Flaw.TOO_SHORT,
            f"{where} has {len(data)} bytes; a safetensors file has at least 10.",
        )
    if opening == b"[":
        raise InvalidFileError(
            Flaw.HEADER_NOT_OBJECT, f"{where}: the header should be a JSON object, not a list."
        )
    if opening != b"{":
        raise InvalidFileError(
            Flaw.NOT_SAFETENSORS,
            f"{where} is not a safetensors file: byte 8 should open the JSON header.",
        )
    if length > MAX_HEADER:
        raise InvalidFileError(
            Flaw.HEADER_TOO_LARGE,
            f"{where} claims a header of {length} bytes; at most {MAX_HEADER} are allowed.",
        )
    if 8 + length > len(data):
        raise InvalidFileError(
            Flaw.HEADER_TRUNCATED,
            f"{where} ends inside its header ({len(data)} bytes, {8 + length} needed)."
            " It was not copied whole.",
        )
    return 8 + length


def _refuse_other_formats(data: Data, where: str) -> None:
    start = bytes(data[:64]).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise InvalidFileError(
            Flaw.GIT_LFS_POINTER,
            f"{where} is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull",
        )
    if start[:1] == b"<":
        raise InvalidFileError(
            Flaw.HTML,
            f"{where} is an HTML page, not a safetensors file. Download the raw file instead.",
        )
    if kinds.is_npz(data):
        raise InvalidFileError(
            Flaw.NOT_SAFETENSORS,
            f"{where} holds NumPy arrays, which are data and no network; a safetensors file was"
            " expected.",
        )
    if kinds.is_onnx(data):
        raise InvalidFileError(Flaw.NOT_SAFETENSORS, f"{where} is {kinds.ONNX}.")
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        raise InvalidFileError(
            Flaw.TORCH_PICKLE,
            f"{where} is a torch.save file; a safetensors file was expected. Pack a model with:"
            " kancompress cluster FILE -o PACKED",
        )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateKeyError(name)
            seen.add(name)
    return result


class _DuplicateKeyError(ValueError):
    pass


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _integer(text: str) -> float:
    """An int, and -0 as the float that it is elsewhere; none too long for Python's arithmetic."""
    if len(text) > 100:
        raise ValueError(f"a number of {len(text)} digits")
    return -0.0 if text == "-0" else int(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number beyond the range of float64")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested deeper than {_MAX_DEPTH} levels")


def strict_json(text: str, where: str, flaw: Flaw, what: str) -> Any:
    """Parse a JSON object or list as strictly as the safetensors library, and more so.

    Refuses duplicate keys, numbers that are not finite, lone surrogates and deep nesting;
    `flaw` is raised for all but the first.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
        if isinstance(value, dict | list):
            _check_depth(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except _DuplicateKeyError as error:
        raise InvalidFileError(
            Flaw.DUPLICATE_KEY, f"{where}: the name {shown(str(error))} occurs twice in {what}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(flaw, f"{where}: {what} is not valid JSON ({error}).") from None


def _load_json(raw: bytes, where: str) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(
            Flaw.HEADER_NOT_UTF8, f"{where}: the header is not UTF-8 at byte {8 + error.start}."
        ) from None
    header: dict[str, Any] = strict_json(text, where, Flaw.HEADER_NOT_JSON, "the header")
    return header  # it begins with "{"


def _metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidFileError(
            Flaw.METADATA_NOT_STRINGS, f"{where}: __metadata__ should map names to strings."
        )
    return dict(value)


def _naturals(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in value):
        return None
    return tuple(value)


def _entry(name: str, record: object, where: str) -> Entry:
    if not isinstance(record, dict) or set(record) != {"dtype", "shape", "data_offsets"}:
        raise InvalidFileError(
            Flaw.TENSOR_RECORD,
            f"{where}: tensor {shown(name)} should have exactly dtype, shape and data_offsets.",
        )
    dtype = record["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidFileError(
            Flaw.UNKNOWN_DTYPE,
            f"{where}: tensor {shown(name)} has the unknown dtype {shown(dtype)};"
            f" known are {', '.join(DTYPES)}.",
        )
    shape = _naturals(record["shape"])
    if shape is None or not is_countable(shape):
        raise InvalidFileError(
            Flaw.BAD_SHAPE,
            f"{where}: tensor {shown(name)} has the shape {shown(record['shape'])};"
            " a list of non-negative integers with a product below 2^63 was expected.",
        )
    offsets = _naturals(record["data_offsets"])
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InvalidFileError(
            Flaw.BAD_OFFSETS,
            f"{where}: tensor {shown(name)} has the data_offsets {shown(record['data_offsets'])};"
            " [begin, end] was expected.",
        )
    needed = element_count(shape) * DTYPES[dtype].itemsize
    if needed != offsets[1] - offsets[0]:
        raise InvalidFileError(
            Flaw.SIZE_MISMATCH,
            f"{where}: tensor {shown(name)} of shape {shown(list(shape))} and dtype {dtype} needs"
            f" {needed} bytes, its data_offsets give {offsets[1] - offsets[0]}.",
        )
    return Entry(name, dtype, shape, *offsets)


def _check_layout(entries: list[Entry], payload: int, where: str) -> None:
    expected = 0
    for entry in entries:
        if entry.begin != expected:
            flaw, word = (
                (Flaw.OVERLAP, "overlaps the tensor before it")
                if entry.begin < expected
                else (Flaw.HOLE, "leaves a hole before it")
            )
            raise InvalidFileError(
                flaw,
                f"{where}: tensor {shown(entry.name)} {word}"
                f" (begins at {entry.begin}, {expected} was expected).",
            )
        expected = entry.end
    if expected > payload:
        raise InvalidFileError(
            Flaw.TRUNCATED,
            f"{where} ends {expected - payload} bytes too early. It was not copied whole.",
        )
    if expected < payload:
        raise InvalidFileError(
            Flaw.TRAILING_BYTES,
            f"{where} has {payload - expected} bytes after its last tensor.",
        )


# --- writing -------------------------------------------------------------------------------


def layout_order(tensors: Mapping[str, Outline]) -> list[str]:
    """Names in payload order: element size descending, then name in byte order."""
    return sorted(tensors, key=lambda name: (-tensors[name].itemsize, name.encode()))


def encode_header(tensors: Mapping[str, Outline], metadata: Mapping[str, str]) -> bytes:
    """Header of a file with these tensors, its 8 length bytes and padding included."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in layout_order(tensors):
        tensor = tensors[name]
        size = tensor.nbytes
        place = [offset, offset + size]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": place}
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def payload_chunks(tensors: Mapping[str, Array]) -> Iterator[memoryview]:
    """The payload without a copy, tensor by tensor, in the order of `encode_header`."""
    for name in layout_order(tensors):
        yield tensors[name].data.data


def pieces(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A whole safetensors file: its header and the memory of its tensors, one after another."""
    return [encode_header(tensors, metadata), *payload_chunks(tensors)]


def encode(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """A whole safetensors file in memory."""
    return b"".join(pieces(tensors, metadata))
