"""Zip archives and pickles taken apart and put together again, to lie in single fields.

An archive is a list of records; whatever an edit changes, checksums and offsets are made to fit
unless the edit is about them. A pickle is a list of opcodes, each with its bytes.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")


@dataclass(slots=True)
class Record:
    """A record; `local` and `central` hold fields of its two headers that differ from the truth."""

    name: str
    data: bytes
    local: dict[str, int] = field(default_factory=dict)
    central: dict[str, int] = field(default_factory=dict)
    extra: bytes = b""


@dataclass(slots=True)
class Archive:
    """The records, and fields of the end record that differ from the truth."""

    records: list[Record]
    end: dict[str, int] = field(default_factory=dict)
    comment: bytes = b""
    aligned: bool = False


FIELDS = ("flags", "method", "crc", "packed", "size", "name_length", "extra_length", "offset")
ENDS = ("disk", "start_disk", "here", "count", "length", "begin")


def archive_of(raw: bytes) -> Archive:
    """The records of an archive that tells the truth."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        return Archive([Record(name, file.read(name)) for name in file.namelist()])


def copied(archive: Archive) -> Archive:
    """A copy for edits; contents are shared."""
    records = [replace(r, local=dict(r.local), central=dict(r.central)) for r in archive.records]
    return replace(archive, records=records, end=dict(archive.end))


def _u(value: int, bits: int) -> int:
    return value & ((1 << bits) - 1)


def build(archive: Archive) -> bytes:
    """The archive's bytes."""
    body, directory = bytearray(), bytearray()
    for record in archive.records:
        name = record.name.encode("utf-8", "surrogatepass")[:60000]
        crc, size, extra = zlib.crc32(record.data), len(record.data), record.extra
        if archive.aligned:
            gap = -(len(body) + 34 + len(name)) % 64
            extra = b"FB" + struct.pack("<H", gap) + b"Z" * gap
        truth = {
            "flags": 0x800, "method": 0, "crc": crc, "packed": size, "size": size,
            "name_length": len(name), "extra_length": len(extra), "offset": len(body),
        }  # fmt: skip
        here, there = truth | record.local, truth | {"extra_length": 0} | record.central
        body += _LOCAL.pack(
            b"PK\3\4", 20, _u(here["flags"], 16), _u(here["method"], 16), 0, 33,
            _u(here["crc"], 32), _u(here["packed"], 32), _u(here["size"], 32),
            _u(here["name_length"], 16), _u(here["extra_length"], 16),
        )  # fmt: skip
        body += name + extra + record.data
        directory += _CENTRAL.pack(
            b"PK\1\2", 20, 20, _u(there["flags"], 16), _u(there["method"], 16), 0, 33,
            _u(there["crc"], 32), _u(there["packed"], 32), _u(there["size"], 32),
            _u(there["name_length"], 16), _u(there["extra_length"], 16), 0, 0, 0, 0,
            _u(there["offset"], 32),
        )  # fmt: skip
        directory += name
    count = len(archive.records)
    end = {
        "disk": 0, "start_disk": 0, "here": count, "count": count, "length": len(directory),
        "begin": len(body),
    } | archive.end  # fmt: skip
    tail = _END.pack(
        b"PK\5\6", _u(end["disk"], 16), _u(end["start_disk"], 16), _u(end["here"], 16),
        _u(end["count"], 16), _u(end["length"], 32), _u(end["begin"], 32), len(archive.comment),
    )  # fmt: skip
    return bytes(body + directory + tail + archive.comment)


# --- pickles -------------------------------------------------------------------------------

Op = tuple[str, Any, bytes]


def opcodes(raw: bytes) -> list[Op]:
    """Name, argument and bytes of every opcode."""
    found = list(pickletools.genops(raw))
    ends = [place for _, _, place in found[1:]] + [len(raw)]
    return [
        (opcode.name, argument, raw[place or 0 : end])
        for (opcode, argument, place), end in zip(found, ends, strict=True)
    ]


def joined(ops: list[Op]) -> bytes:
    """The pickle of some opcodes."""
    return b"".join(raw for _, _, raw in ops)


def whole(number: int) -> Op:
    """The opcode that pushes a whole number."""
    if 0 <= number < 256:
        return "BININT1", number, b"K" + bytes([number])
    if -(1 << 31) <= number < 1 << 31:
        return "BININT", number, b"J" + struct.pack("<i", number)
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    if len(data) < 256:
        return "LONG1", number, b"\x8a" + bytes([len(data)]) + data
    return "LONG4", number, b"\x8b" + struct.pack("<i", len(data)) + data


def text(value: str) -> Op:
    """The opcode that pushes a text."""
    data = value.encode("utf-8", "surrogatepass")
    return "BINUNICODE", value, b"X" + struct.pack("<I", len(data)) + data


def a_global(module: str, name: str) -> Op:
    """The opcode that names a class or function."""
    return "GLOBAL", f"{module} {name}", f"c{module}\n{name}\n".encode("utf-8", "backslashreplace")


NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"}
TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
GETS = {"BINGET", "LONG_BINGET", "GET"}
EXTREMES = (
    0, 1, 2, 3, 7, 63, 64, 255, 256, 65535, 2**24, 2**31 - 1, 2**31, 2**32, 2**40, 2**61, 2**62 - 1,
    2**62, 2**63 - 1, 2**63, 2**64, 10**30, -1, -2, -8, -(2**31), -(2**63),
)  # fmt: skip
STORAGES = (
    "FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage",
    "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage", "UntypedStorage",
    "ComplexFloatStorage", "QInt8Storage", "NoStorage",
)  # fmt: skip
GLOBALS = (
    *(("torch", name) for name in STORAGES),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v3"), ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"), ("torch._utils", "_rebuild_sparse_tensor"),
    ("torch._tensor", "_rebuild_from_type_v2"), ("torch", "Size"), ("torch", "float32"),
    ("torch", "uint16"), ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "set"),
    ("builtins", "list"), ("builtins", "dict"), ("builtins", "tuple"), ("builtins", "bytearray"),
    ("copyreg", "_reconstructor"), ("copyreg", "__newobj__"), ("numpy", "dtype"),
    ("torch.nn.modules.linear", "Linear"), ("os", "system"), ("builtins", "eval"), ("", ""),
)  # fmt: skip
SNIPPETS = (
    b"N", b"\x88", b"\x89", b")", b"]", b"}", b"(", b"0", b"1", b"2", b"t", b"l", b"d", b"a", b"e",
    b"s", b"u", b"b", b"R", b"Q", b"\x81", b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91",
    b"\x92", b"\x93", b"\x94", b".", b"o", b"G\x7f\xf8" + bytes(6), b"G" + bytes(8), b"h\x00",
    b"q\x00", b"h\x01", b"(NNt", b"}(K\x01K\x02u", b"](K\x01e", b"\x8a\x00", b"C\x00", b"U\x00",
    b"\x96" + bytes(8), b"\x97", b"\x98", b"P1\n", b"i\n\n", b"\x80\x05", b"\x95" + bytes(8),
)  # fmt: skip


def mutate_pickle(raw_ops: list[Op], draw: Random, story: list[str]) -> bytes:
    """A pickle with one change to its opcodes, or to its bytes."""
    ops = list(raw_ops)
    way = draw.choice(_WAYS)
    way(ops, draw, story)
    return joined(ops)


def _spot(ops: list[Op], names: set[str], draw: Random) -> int | None:
    places = [place for place, op in enumerate(ops) if op[0] in names]
    return draw.choice(places) if places else None


def _number(ops: list[Op], draw: Random, story: list[str]) -> None:
    place = _spot(ops, NUMBERS, draw)
    if place is None:
        return
    old = int(ops[place][1])
    near = (old - 1, old + 1, 2 * old, old // 2, -old, old + 8, old * 1000)
    new = draw.choice(near if draw.random() < 0.5 else EXTREMES)
    ops[place] = whole(new)
    story.append(f"number {old} of opcode {place} is {new}")


def _swap_numbers(ops: list[Op], draw: Random, story: list[str]) -> None:
    one, other = _spot(ops, NUMBERS, draw), _spot(ops, NUMBERS, draw)
    if one is None or other is None:
        return
    ops[one], ops[other] = ops[other], ops[one]
    story.append(f"numbers of opcodes {one} and {other} swapped")


def _text(ops: list[Op], draw: Random, story: list[str]) -> None:
    place = _spot(ops, TEXTS, draw)
    if place is None:
        return
    pool = [str(op[1]) for op in ops if op[0] in TEXTS]
    new = draw.choice((
        draw.choice(pool), draw.choice(pool), draw.choice(pool), "", "0", "1", "99", "a.b",
        "x/../y",
        "state_dict", "model", "\x00", "\ud800", "é" * 9, "n" * 3000, "__metadata__", "_parameters",
        "_modules", "_buffers", "param_groups", "storage", "module", "optimizer", "net",
    ))  # fmt: skip
    story.append(f"text {ops[place][1]!r:.60} of opcode {place} is {new!r:.60}")
    ops[place] = text(new)


def _global(ops: list[Op], draw: Random, story: list[str]) -> None:
    place = _spot(ops, {"GLOBAL"}, draw)
    if place is None:
        return
    new = draw.choice(GLOBALS)
    story.append(f"global {ops[place][1]!r} of opcode {place} is {'.'.join(new)}")
    ops[place] = a_global(*new)


def _get(ops: list[Op], draw: Random, story: list[str]) -> None:
    place = _spot(ops, GETS, draw)
    if place is None:
        return
    new = draw.randrange(len(ops))
    ops[place] = ("BINGET", new, b"h" + bytes([new % 256]))
    story.append(f"the memo of opcode {place} is {new % 256}")


def _drop(ops: list[Op], draw: Random, story: list[str]) -> None:
    place = draw.randrange(len(ops))
    end = place + draw.choice((1, 1, 1, 2, 5))
    story.append(f"without opcodes {place} to {end - 1} ({ops[place][0]}...)")
    del ops[place:end]


def _double(ops: list[Op], draw: Random, story: list[str]) -> None:
    place = draw.randrange(len(ops))
    end = place + draw.choice((1, 2, 5, 20))
    target = draw.choice((place, draw.randrange(len(ops))))
    ops[target:target] = ops[place:end]
    story.append(f"opcodes {place} to {end - 1} again before {target}")


def _insert(ops: list[Op], draw: Random, story: list[str]) -> None:
    place, new = draw.randrange(len(ops)), draw.choice(SNIPPETS)
    ops.insert(place, ("", None, new))
    story.append(f"{new!r} before opcode {place}")


def _replace(ops: list[Op], draw: Random, story: list[str]) -> None:
    place, new = draw.randrange(len(ops)), draw.choice(SNIPPETS)
    story.append(f"{new!r} for opcode {place} ({ops[place][0]})")
    ops[place] = ("", None, new)


def _exchange(ops: list[Op], draw: Random, story: list[str]) -> None:
    one, other = draw.randrange(len(ops)), draw.randrange(len(ops))
    ops[one], ops[other] = ops[other], ops[one]
    story.append(f"opcodes {one} and {other} exchanged")


def _bytes(ops: list[Op], draw: Random, story: list[str]) -> None:
    raw = bytearray(joined(ops))
    place = draw.randrange(len(raw))
    raw[place] = draw.randrange(256)
    ops[:] = [("", None, bytes(raw))]
    story.append(f"byte {place} of the pickle is {raw[place]}")


def _deep(ops: list[Op], draw: Random, story: list[str]) -> None:
    place, depth = (
        draw.randrange(1, len(ops)),
        draw.choice((9, 9, 100, 100, 1000, 30_000 if draw.random() < 0.1 else 64)),
    )
    wrap = draw.choice((b"\x85", b"]\x94a", b"}K\x00s"))
    inner = b"N" + b"\x85" * depth if wrap == b"\x85" else b"(" * depth + b"t" * depth
    ops.insert(place, ("", None, inner + b"0"))
    story.append(f"{depth} nested tuples before opcode {place}")


_WAYS: tuple[Callable[[list[Op], Random, list[str]], None], ...] = (
    _number, _number, _number, _number, _number, _number, _swap_numbers, _text, _text, _text,
    _global, _global, _get, _drop, _double, _double, _insert, _replace, _exchange, _bytes, _bytes,
    _deep,
)  # fmt: skip


# --- archives ------------------------------------------------------------------------------


def mutate_archive(base: Archive, ops: list[Op], draw: Random, story: list[str]) -> Archive:
    """An archive with one change: to its pickle, a record, a header or the directory."""
    archive = copied(base)
    way = draw.random()
    main = next((r for r in archive.records if r.name.endswith("data.pkl")), archive.records[0])
    if way < 0.6:
        main.data = mutate_pickle(ops, draw, story)
    elif way < 0.75:
        _mutate_record(archive, draw, story)
    elif way < 0.9:
        record = draw.choice(archive.records)
        name, new = draw.choice(FIELDS), _field(draw, len(record.data))
        both = draw.choice((("local",), ("central",), ("local", "central")))
        for which in both:
            getattr(record, which)[name] = new
        story.append(f"{name} of {record.name} is {new} ({' and '.join(both)})")
    else:
        name, new = draw.choice(ENDS), _field(draw, len(archive.records))
        archive.end[name] = new
        story.append(f"{name} of the end record is {new}")
    return archive


def _field(draw: Random, size: int) -> int:
    near = (size - 1, size + 1, size + 64, 2 * size, max(size // 2, 1))
    return draw.choice(
        near if draw.random() < 0.5 else (0, 1, 8, 12, 0x41, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 10**9)
    )


def _mutate_record(archive: Archive, draw: Random, story: list[str]) -> None:
    records = archive.records
    record, other = draw.choice(records), draw.choice(records)
    match draw.randrange(8):
        case 0:
            records.remove(record)
            story.append(f"without {record.name}")
        case 1:
            records.insert(draw.randrange(len(records) + 1), replace(record))
            story.append(f"{record.name} twice")
        case 2:
            record.name = draw.choice((
                other.name, "", "/", "archive/data/0", "x" * 300, "a/b/c/data.pkl", "data.pkl",
                record.name + "/", "archive/code/x.py", "other/data.pkl", "../x", "\udcff",
            ))  # fmt: skip
            story.append(f"a record is called {record.name!r:.40}")
        case 3:
            size = len(record.data)
            new = max(0, draw.choice((size - 1, size + 1, size // 2, 2 * size, size + 64, 0)))
            record.data = (record.data + bytes(max(0, new - size)))[:new]
            story.append(f"{record.name} has {new} bytes, not {size}")
        case 4:
            record.name, other.name = other.name, record.name
            story.append(f"{record.name} and {other.name} exchange names")
        case 5:
            record.data, other.data = other.data, record.data
            story.append(f"{record.name} and {other.name} exchange contents")
        case 6:
            records.append(Record(f"{records[0].name.partition('/')[0]}/data/{draw.randrange(9)}",
                                  bytes(draw.randrange(100))))  # fmt: skip
            story.append(f"a record {records[-1].name} more")
        case _:
            raw = bytearray(record.data or b"x")
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            record.data = bytes(raw)
            story.append(f"a bit of {record.name}")
