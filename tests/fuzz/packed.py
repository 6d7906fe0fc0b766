"""Mutations of packed files: refused in form, or read, restored and written again as they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import kancompress
from kancompress.errors import Flaw, InvalidFileError, KancompressError
from tests import rans_reader
from tests.fuzz import drafts, limits, zips
from tests.fuzz.engine import Case, Slot, Verdict
from tests.hostile import BLANK, Draft, sign
from tests.packed_checker import checker  # written from docs/packed-format.md alone

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 64, 255, 65536, 2**31 - 1, 2**31, 2**53 + 1, 2**62,
    2**63 - 1, 2**63, 2**64, 10**22, -(2**63), 0.5, -0.0, 1.0, -1.5, 1e-320, 3.5e38, 1e308, "", "0",
    "a", "F32", "\ud83d\ude00", "\x00\n", "\u202e", "n" * 2000, [], {}, [[]], [0], [1, 1],
    ["a", "a"], [None], {"a": 1}, {"": []}, [2**30] * 4, [1] * 65, [0] * 64, [[[[[[]]]]]],
    {"fill": 0}, {"tie": "w"}, {"repeat": "row"}, {"arange": [0, 1, 0, 4]}, {"parts": []},
)  # fmt: skip
PATTERNS = (
    "out in coef", "in out coef", "coef out in", "out (in coef)", "(out in) coef", "(out in coef)",
    "half out in coef", "out in half coef", "out in kh kw coef", "out (in coef) kh kw",
    "out in kd kh kw coef", "out in kd kh coef",
    "out (coef in) kh kw", "group out in coef", "(group out) in coef", "out in", "", "out", "coef",
    "out out coef", "out in coef x", "(out", "out) in coef", "out  in coef", "out in coef coef",
    "out in 1 coef", "... coef", "out in coef -> out (in coef)", "é", "out in coef 2",
    "() out in coef",
)  # fmt: skip
KEYS = (
    "version", "kind", "checksum", "layers", "encodings", "exceptions", "source", "model", "data",
    "restore", "shape", "groups", "codebook", "container", "path", "tensors", "metadata", "opaque",
    "pykan", "width", "mult_arity", "k", "symbolic",
    "layer", "axes", "from", "to", "group", "columns", "parts", "fill", "repeat", "arange", "tie",
    "as", "live", "silent", "kept", "name", "grid", "degree", "strides", "padding", "dropout",
    "classes", "targets", "mean", "std", "seed", "validation", "test", "file", "dense", "bits",
    "plain", "0", "1", "clusters", "rans", "coefficients", "head", "F16", "F32",
)  # fmt: skip
ROLES = ("codebook", "index", "kept_at", "kept", "coefficients", "bias", "norm", "beta", "slope")
DTYPES = (*drafts.SIZES, "F4", "f32", "")
# Restored tensors up to this size are made; those up to the second are also written.
_MADE, _WRITTEN = 1 << 28, 1 << 26
# What docs/packed-format.md lets a file restore: so many times its bytes, and a gigabyte.
_TIMES, _SPARE = 10_000, 1_000_000_000
_LOADING, _RESTORING = 100_000_000, 200_000_000
_KNOWN = ("shares its storage with another tensor but not its numbers",)

Change = Callable[["_Work"], None]


@dataclass(slots=True)
class Base:
    """An honest file, ready to be copied often."""

    name: str
    text: str
    draft: Draft
    raw: bytes
    archive: zips.Archive | None = None
    ops: list[zips.Op] = field(default_factory=list)


def _base(name: str, draft: Draft) -> Base:
    raw = drafts.build(draft)
    base = Base(name, json.dumps(draft.document), draft, raw)
    opaque = draft.document.get("restore", {}).get("opaque")
    if opaque in draft.tensors:  # not within the one tensor of a short header
        base.archive = zips.archive_of(draft.tensors[opaque][2])
        base.archive.aligned = True
        main = next(r for r in base.archive.records if r.name.endswith("data.pkl"))
        base.ops = zips.opcodes(main.data)
    return base


@dataclass(slots=True)
class _Work:
    """A copy of a base under the hands of a change."""

    base: Base
    draft: Draft
    draw: Random
    story: list[str]
    archive: zips.Archive | None = None


def _spots(value: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every place in a document: what holds it, its key there, its path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield value, key, f"{path}/{key}"
            yield from _spots(child, f"{path}/{key}")
    elif isinstance(value, list):
        for key, child in enumerate(value):
            yield value, key, f"{path}/#{key}"
            yield from _spots(child, f"{path}/#{key}")


def _spot(work: _Work) -> tuple[Any, Any, str]:
    spots = list(_spots(work.draft.document))
    restore = work.draft.document.get("restore")
    if isinstance(restore, dict) and work.draw.random() < 0.5:
        spots = list(_spots(restore, "/restore")) or spots
    return work.draw.choice(spots)


def _strange(draw: Random) -> Any:
    return json.loads(json.dumps(draw.choice(STRANGE)))


# --- changes of the document ---------------------------------------------------------------


def _put(work: _Work) -> None:
    holder, key, path = _spot(work)
    holder[key] = _strange(work.draw)
    work.story.append(f"{path} = {holder[key]!r:.60}")


def _put_another(work: _Work) -> None:
    holder, key, path = _spot(work)
    other, name, whence = _spot(work)
    holder[key] = json.loads(json.dumps(other[name]))
    work.story.append(f"{path} = {whence}")


def _swap_values(work: _Work) -> None:
    one, key, path = _spot(work)
    other, name, whence = _spot(work)
    value = json.loads(json.dumps(one[key])), json.loads(json.dumps(other[name]))
    one[key] = value[1]
    if isinstance(other, dict) or name < len(other):
        other[name] = value[0]
    work.story.append(f"{path} and {whence} swapped")


def _drop(work: _Work) -> None:
    holder, key, path = _spot(work)
    del holder[key]
    work.story.append(f"no {path}")


def _rename(work: _Work) -> None:
    holder, key, path = _spot(work)
    if isinstance(holder, dict):
        new = work.draw.choice((*KEYS, f"{key}x", key.upper(), "", "_", "n" * 600, "\x07"))
        holder[new] = holder.pop(key)
        work.story.append(f"{path} is called {new!r:.40}")
    else:
        holder.insert(key, json.loads(json.dumps(holder[key])))
        work.story.append(f"{path} twice")


def _double(work: _Work) -> None:
    lists = [(h, k, p) for h, k, p in _spots(work.draft.document) if isinstance(h, list)]
    if lists:
        holder, key, path = work.draw.choice(lists)
        holder.insert(work.draw.randrange(len(holder) + 1), json.loads(json.dumps(holder[key])))
        work.story.append(f"{path} once more")


def _turn(work: _Work) -> None:
    lists = [(h[k], p) for h, k, p in _spots(work.draft.document) if isinstance(h[k], list)]
    if lists:
        value, path = work.draw.choice(lists)
        work.draw.shuffle(value)
        work.story.append(f"{path} shuffled")


def _nudge(work: _Work) -> None:
    numbers = [
        (h, k, p)
        for h, k, p in _spots(work.draft.document)
        if isinstance(h[k], int | float) and not isinstance(h[k], bool)
    ]
    if not numbers:
        return
    holder, key, path = work.draw.choice(numbers)
    old = holder[key]
    near = (old + 1, old - 1, old * 2, -old, old + 0.5, float(old), old * 1000)
    far = (0, 1, 63, 64, 65, 1 << 16, 1 << 20, 1 << 28, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1,
           1 << 63, 10**30, -1, -(1 << 63), 1e308, 1e39, 65520.0, 1e-320, 0.1)  # fmt: skip
    holder[key] = work.draw.choice(near if work.draw.random() < 0.6 else far)
    work.story.append(f"{path} = {holder[key]!r}, not {old!r}")


def _name(work: _Work) -> None:
    texts = [(h, k, p) for h, k, p in _spots(work.draft.document) if isinstance(h[k], str)]
    holder, key, path = work.draw.choice(texts)
    pool: list[str] = [*work.draft.tensors, *(h[k] for h, k, _ in texts)]
    layers = work.draft.document.get("layers")
    pool += layers if isinstance(layers, dict) else []
    words = ("safetensors", "torch-zip", "torch-module", "torch-legacy", "dense", "meta", "packed",
             "n" * 900, "__metadata__", "x\x1b[0m")  # fmt: skip
    kinds = (pool, pool, DTYPES, PATTERNS, KEYS, words)
    holder[key] = work.draw.choice(work.draw.choice(kinds))
    work.story.append(f"{path} = {holder[key]!r:.60}")


def _entries(work: _Work) -> list[list[Any]]:
    """Entries of `restore.tensors` that are whole."""
    restore = work.draft.document.get("restore")
    entries = restore.get("tensors") if isinstance(restore, dict) else None
    return [
        entry
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, list) and len(entry) == 4 and isinstance(entry[2], list)
    ]


def _pattern(work: _Work) -> None:
    pieces = [
        (h, p) for h, k, p in _spots(work.draft.document) if k == "axes" and isinstance(h, dict)
    ]
    if not pieces:
        return _put(work)
    piece, path = work.draw.choice(pieces)
    words = str(piece["axes"]).split(" ")
    if work.draw.random() < 0.5:
        piece["axes"] = work.draw.choice(PATTERNS)
    else:
        at = work.draw.randrange(len(words))
        match work.draw.randrange(4):
            case 0:
                work.draw.shuffle(words)
            case 1:
                words[at] = work.draw.choice(
                    ("out", "in", "coef", "half", "kd", "kh", "kw", "group", "1")
                )
            case 2:
                words.insert(at, work.draw.choice(("(", ")", "half", "kh", "->", "group", "(in")))
            case _:
                del words[at]
        piece["axes"] = " ".join(words)
    work.story.append(f"{path} = {piece['axes']!r:.60}")
    return None


def _origin(work: _Work) -> None:
    """Another origin for a tensor that is restored."""
    entries = _entries(work)
    if not entries:
        return _put(work)
    draw = work.draw
    entry = draw.choice(entries)
    names = [str(one[0]) for one in entries] + [*work.draft.tensors]
    layers = work.draft.document.get("layers")
    fills = (0, 1, 1.5, -1, 300, 1e39, 2**63, 1e5)
    layer = draw.choice([*layers] or ["a"]) if isinstance(layers, dict) else "a"
    piece = {"layer": layer, "axes": draw.choice(PATTERNS), "from": 0, "to": draw.choice((1, 2, 3))}
    length = entry[2][-1] if entry[2] else 4
    entry[3] = draw.choice((
        None, {"as": draw.choice(names)}, {"tie": draw.choice(names)},
        {"repeat": draw.choice(names)}, {"fill": draw.choice(fills)},
        {"arange": [draw.choice((0, -1.5, 1e308, 2**62)), draw.choice((1, 0.1, 1e308, 2**62)),
                    draw.choice((0, -1, 2**62, -(2**63))), length]},
        {key: value for key, value in (
            ("layer", layer), ("axes", piece["axes"]), ("live", draw.choice(fills)),
            ("silent", draw.choice((0, 1.5))), ("kept", draw.choice((0, 1, *names))),
        ) if key == "layer" or draw.random() < 0.8},
        piece, piece | {"columns": [0, draw.choice((1, 2, 99))]}, piece | {"group": 0},
        {"parts": [piece | {"columns": [0, 1]}, piece | {"columns": [1, 2]}]},
    ))  # fmt: skip
    work.story.append(f"the origin of {entry[0]!r:.30} is {entry[3]!r:.120}")
    return None


def _resize(work: _Work) -> None:
    """Another shape for a tensor that is restored, often of the same size."""
    entries = _entries(work)
    if not entries:
        return _nudge(work)
    draw = work.draw
    entry = draw.choice(entries)
    shape = [size for size in entry[2] if isinstance(size, int)]
    match draw.randrange(8):
        case 0:
            shape = shape[::-1]
        case 1:
            shape = [*shape, 1]
        case 2:
            shape = [1, *shape]
        case 3:
            product = 1
            for size in shape:
                product *= size
            shape = [product]
        case 4:
            shape = [0, *shape]
        case 5:
            shape = [draw.choice((2**20, 2**31, 2**40, 2**62, 2**63 - 1)), *shape]
        case 6:
            shape = [*shape[:-1], 0]
        case _:
            shape = [1] * draw.choice((30, 63, 64, 65)) + shape
    entry[2] = shape
    work.story.append(f"the shape of {entry[0]!r:.30} is {shape!r:.80}")
    return None


def _retype(work: _Work) -> None:
    entries = _entries(work)
    if not entries:
        return _name(work)
    entry = work.draw.choice(entries)
    entry[1] = work.draw.choice(DTYPES)
    work.story.append(f"the dtype of {entry[0]!r:.30} is {entry[1]}")
    return None


def _layer_shape(work: _Work) -> None:
    layers = work.draft.document.get("layers")
    shapes = [
        (name, record)
        for name, record in (layers.items() if isinstance(layers, dict) else ())
        if isinstance(record, dict) and isinstance(record.get("shape"), list)
    ]
    if not shapes:
        return _put(work)
    name, record = work.draw.choice(shapes)
    draw = work.draw
    big = draw.choice((2**20, 2**30, 2**31 - 1))
    shape = record["shape"]
    record["shape"] = draw.choice(
        (shape[::-1], [big, big], [*shape, 1, 1], [1, 1, *shape], [big, 1], shape[:2], [6, 1],
         [1, 6], [1, 1, 2, 3], [big] * 4, [1, 1], [2**31 - 1, 2**31 - 1, 1, 1])
    )  # fmt: skip
    work.story.append(f"the shape of layer {name!r:.20} is {record['shape']!r:.60}")
    return None


# --- changes of tensors --------------------------------------------------------------------


def _tensor(work: _Work) -> None:
    draw, tensors = work.draw, work.draft.tensors
    if not tensors:
        return
    name = draw.choice([*tensors])
    dtype, shape, data = tensors[name]
    match draw.randrange(9):
        case 0:  # another type, bytes as many as it needs
            dtype = draw.choice([*drafts.SIZES])
            work.story.append(f"{name!r:.30} as {dtype}")
        case 1:
            shape = [*shape]
            if shape:
                shape[draw.randrange(len(shape))] = draw.choice((0, 1, 2, 3, 5, 9, 64, 70_000))
            else:
                shape = draw.choice(([1], [2], [0], [1, 1]))
            work.story.append(f"{name!r:.30} of shape {shape}")
        case 2:
            shape = draw.choice((shape[::-1], [*shape, 1], [1, *shape], shape[1:], [1] * 65))
            work.story.append(f"{name!r:.30} of shape {shape!r:.60}")
        case 3:
            fill = draw.choice((b"\0", b"\xff", b"\x7f", b"\1", b"\0\0\xc0\x7f", b"\0\0\x80\xff"))
            data = (fill * (len(data) // len(fill) + 1))[: len(data)]
            work.story.append(f"{name!r:.30} full of {fill!r}")
        case 4 if data:
            raw = bytearray(data)
            raw[draw.randrange(len(raw))] = draw.choice((0, 1, 2, 127, 128, 255))
            data = bytes(raw)
            work.story.append(f"a byte of {name!r:.30}")
        case 5:
            del tensors[name]
            work.story.append(f"no tensor {name!r:.30}")
            return
        case 6:
            other = draw.choice([*tensors])
            tensors[name], tensors[other] = tensors[other], tensors[name]
            work.story.append(f"tensors {name!r:.30} and {other!r:.30} exchanged")
            return
        case 7:
            layer = name.rpartition(".")[0] or "x"
            new = draw.choice((
                f"{layer}.{draw.choice(ROLES)}", f"{name}x", "", "n" * 700, "\x1b", "a.b.index",
                "head.weight", f"{layer}..index", "\u2028", f".{name}",
            ))  # fmt: skip
            tensors[new] = tensors.pop(name)
            work.story.append(f"tensor {name!r:.30} is called {new!r:.30}")
            return
        case _:
            layer = name.rpartition(".")[0] or "0"
            tensors[f"{layer}.{draw.choice(ROLES)}"] = (dtype, shape, data)
            work.story.append(f"{name!r:.30} once more under another role")
            return
    count = drafts.SIZES[dtype]
    for length in shape:
        count *= length
    if count <= 1 << 20:
        tensors[name] = (dtype, shape, (data * (count // max(len(data), 1) + 1))[:count]
                         .ljust(count, b"\0"))  # fmt: skip


def _record(work: _Work) -> None:
    draw = work.draw
    if not work.draft.tensors:
        return
    name = draw.choice([*work.draft.tensors])
    if "/" in name or name.startswith("#"):
        return
    key = draw.choice(("dtype", "shape", "data_offsets", "data_offsets/#0", "data_offsets/#1"))
    work.draft.records[f"{name}/{key}"] = _strange(draw)
    work.story.append(f"{key} of {name!r:.30} is {work.draft.records[f'{name}/{key}']!r:.50}")


def _layout(work: _Work) -> None:
    draft, draw = work.draft, work.draw
    match draw.randrange(4):
        case 0:
            draft.order = [*draft.tensors]
            draw.shuffle(draft.order)
            work.story.append("tensors in another order")
        case 1:
            draft.padding = draw.choice((b"", b"\0", b"\n", b"\t"))
            work.story.append(f"padded with {draft.padding!r}")
        case 2:
            draft.tail = bytes(draw.choice((1, 8, 64)))
            work.story.append(f"{len(draft.tail)} bytes behind the end")
        case _:
            draft.metadata = {draw.choice(("a", "format", "")): draw.choice(("", "pt", "x" * 999))}
            work.story.append("other metadata")


def _opaque(work: _Work) -> None:
    if work.base.archive is None:
        return _origin(work)
    archive = work.archive or work.base.archive
    if not archive.records:
        return None
    work.archive = zips.mutate_archive(archive, work.base.ops, work.draw, work.story)
    return None


_CHANGES: tuple[Change, ...] = (
    _put, _put, _put, _put_another, _swap_values, _drop, _rename, _double, _turn, _nudge, _nudge,
    _nudge, _name, _name, _pattern, _origin, _origin, _resize, _retype, _layer_shape, _tensor,
    _tensor, _tensor, _record, _layout, _opaque, _opaque, _opaque,
)  # fmt: skip


# --- changes of bytes ----------------------------------------------------------------------


def _damaged(raw: bytes, other: bytes, draw: Random, story: list[str]) -> bytes:
    """Bytes flipped, cut out, put in, or taken from another file."""
    place = draw.randrange(len(raw))
    if draw.random() < 0.5:  # the header, mostly
        place = draw.randrange(min(len(raw), 8 + int.from_bytes(raw[:8], "little") % len(raw)))
    match draw.randrange(7):
        case 0 | 1:
            new = raw[place] ^ (1 << draw.randrange(8))
            story.append(f"byte {place} is {new}")
            return raw[:place] + bytes([new]) + raw[place + 1 :]
        case 2:
            new = draw.choice(b'"{}[],:0123456789-.eE\\ \xff\0tn')
            story.append(f"byte {place} is {bytes([new])!r}")
            return raw[:place] + bytes([new]) + raw[place + 1 :]
        case 3:
            story.append(f"cut at {place}")
            return raw[:place]
        case 4:
            end = place + draw.choice((1, 1, 2, 8, 50))
            story.append(f"without bytes {place} to {end - 1}")
            return raw[:place] + raw[end:]
        case 5:
            new_bytes = draw.randbytes(draw.choice((1, 1, 2, 8)))
            story.append(f"{len(new_bytes)} bytes more at {place}")
            return raw[:place] + new_bytes + raw[place:]
        case _:
            length = draw.choice((1, 4, 16, 100))
            whence = draw.randrange(len(other))
            story.append(f"{length} bytes of another file at {place}")
            return raw[:place] + other[whence : whence + length] + raw[place + length :]


def resigned(raw: bytes) -> bytes:
    """With a checksum that fits, where there is place for one."""
    place = raw.find(b"sha256-", 0, 1 << 20)
    if place < 0:
        return raw
    return sign(raw[: place + 7] + BLANK[7:].encode() + raw[place + 51 :])


class Packed:
    """Packed files, and the dense and meta files of kancompress."""

    name = "packed"

    def __init__(self) -> None:
        limits.prepare()
        found = drafts.by_hand() | dict(drafts.by_library())
        self.bases = [_base(name, draft) for name, draft in found.items()]
        # Other libraries' files have more to lie about, most of all those with a torch file inside.
        self.often = [b for b in self.bases if "restore" in b.draft.document]
        self.inside = [b for b in self.bases if b.archive is not None]
        for base in self.bases:
            verdict = self.judge(Case(base.raw), None)
            assert verdict.outcome == "accepted", (base.name, verdict)
            if base.draft.document["kind"] == "packed":
                assert checker(base.raw) is None, (base.name, checker(base.raw))

    def make(self, draw: Random) -> Case:
        kind = draw.random()
        bases = self.bases if kind < 0.5 else self.often if kind < 0.75 else self.inside
        base = draw.choice(bases)
        story = [base.name]
        if draw.random() < 0.15:
            raw = base.raw
            for _ in range(draw.choice((1, 1, 1, 2, 3))):
                raw = _damaged(raw, draw.choice(self.bases).raw, draw, story) or b"\0"
            return Case(resigned(raw) if draw.random() < 0.9 else raw, story)
        draft = Draft(json.loads(base.text), dict(base.draft.tensors), dict(base.draft.metadata))
        work = _Work(base, draft, draw, story)
        for _ in range(draw.choice((1, 1, 1, 1, 2, 2, 3))):
            if not draft.document:
                break
            change = _opaque if kind >= 0.75 and draw.random() < 0.7 else draw.choice(_CHANGES)
            change(work)
        if work.archive is not None:
            restore = draft.document.get("restore")
            name = restore.get("opaque") if isinstance(restore, dict) else None
            data = zips.build(work.archive)
            draft.tensors[name if isinstance(name, str) else "the rest"] = ("U8", [len(data)], data)
        try:
            return Case(drafts.build(draft, sign=draw.random() < 0.97), story)
        except (KeyError, TypeError, IndexError):  # a record of the header that is no place
            draft.records.clear()
            return Case(drafts.build(draft), story)

    def judge(self, case: Case, slot: Slot | None) -> Verdict:
        verdict = Verdict()
        raw = case.raw
        seconds = slot.seconds if slot else 60.0
        record, flaw = _load(raw, verdict, slot, seconds)
        if slot:
            slot.stage("check")
        refusal = checker(raw)
        if record is None:
            if flaw and refusal is None and _is_packed(raw):
                verdict.notes.append(f"refused as {flaw}, fine for the checker")
            return verdict
        is_packed = isinstance(record, kancompress.PackedModel)
        if is_packed and refusal is not None and refusal.startswith("unknown"):
            verdict.notes.append("accepted, the checker cannot tell")
        elif is_packed and refusal is not None:
            verdict.fault(f"accepted, though the checker refuses: {_gist(refusal)}", refusal)
        size = restored_bytes(record) if is_packed else 0
        if size > _TIMES * len(raw) + _SPARE:
            verdict.fault("accepted, though it restores more than the bound", f"{size:,} bytes")
        if size > _MADE:
            verdict.notes.append("too large to be restored here")
            return verdict
        _write_again(record, raw, size, verdict, slot, seconds)
        if is_packed:
            _restore(record, size, verdict, slot, seconds)
        return verdict


def _load(raw: bytes, verdict: Verdict, slot: Slot | None, seconds: float) -> tuple[Any, str]:
    if slot:
        slot.stage("load")
    memory = max(_LOADING, 4 * len(raw))
    record, error = limits.attempt(lambda: kancompress.load(raw), memory, seconds)
    if error is None:
        verdict.outcome = "accepted"
        return record, ""
    if isinstance(error, InvalidFileError):
        check_message(error, verdict, "load")
        verdict.outcome = str(error.flaw)
        return None, verdict.outcome
    verdict.outcome = "another exception"
    verdict.fault(limits.kind_of(error, "load"), limits.brief(error))
    return None, ""


def check_message(error: KancompressError, verdict: Verdict, stage: str) -> None:
    """A message is one that can be printed, and no longer than 500 characters."""
    text = str(error)
    if isinstance(error, InvalidFileError) and not isinstance(error.flaw, Flaw):
        verdict.fault(f"{stage}: no flaw", text[:300])
    kind = error.flaw if isinstance(error, InvalidFileError) else type(error).__name__
    if max(map(len, error.sentences)) > 500:
        verdict.fault(f"{stage}: a message of more than 500 characters ({kind})", ascii(text[:300]))
    if not "".join(error.sentences).isprintable():
        verdict.fault(f"{stage}: a message that cannot be printed ({kind})", ascii(text[:300]))


def _gist(text: str) -> str:
    """The first words of a sentence, with no names and numbers in it."""
    return " ".join("…" if any(c in "'\"0123456789[" for c in w) else w for w in text.split()[:12])


def _is_packed(raw: bytes) -> bool:
    try:
        return drafts.take_apart(raw).document.get("kind") == "packed"
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return False


def restored_bytes(model: Any) -> int:
    """Bytes of all tensors that a packed model stands for."""
    total = 0
    if model.restore is None:
        for layer in model.layers:
            codebook = model.codebook_of(layer)
            width = (layer.coefficients if codebook is None else codebook).shape[-1]
            total += layer.edges * width * 8
        return total
    for _, dtype, shape, origin in model.restore.to_json()["tensors"]:
        count = 0 if isinstance(origin, dict) and "tie" in origin else 1
        for length in shape:
            count *= length
        total += count * drafts.SIZES.get(dtype, 8)
    for layer in model.layers:  # what the layers' tensors are made of
        codebook = model.codebook_of(layer)
        width = (layer.coefficients if codebook is None else codebook).shape[-1]
        total += layer.edges * (width * 8 + 16)
    return total


def _write_again(
    record: Any, raw: bytes, size: int, verdict: Verdict, slot: Slot | None, seconds: float
) -> None:
    if slot:
        slot.stage("encode")
    memory = 2 * max(_LOADING, 4 * len(raw)) + size
    again, error = limits.attempt(lambda: kancompress.encode(record), memory, seconds)
    if error is not None:
        verdict.fault(limits.kind_of(error, "encode"), limits.brief(error))
        return
    if again == raw:
        return
    ours, theirs = _content(raw), _content(again)
    if ours != theirs:
        what = "document" if ours[0] != theirs[0] else "tensors"
        verdict.fault(f"written again with another {what}")
    elif _document(raw) != _document(again):
        verdict.notes.append("a whole number for a real one, written again as a real one")
    elif drafts.take_apart(raw).tensors != drafts.take_apart(again).tensors:
        verdict.notes.append("the same indices, written again by other tables")
    elif isinstance(record, kancompress.PackedModel) and _is_canonical(raw):
        verdict.fault("canonical, written again with other bytes")
    else:
        verdict.notes.append("not canonical, written again with the same content")


def _content(raw: bytes) -> tuple[Any, dict[str, Any]]:
    """What a file says; a real number may be written as a whole one, and entropy-coded indices by
    tables of the writer's choice."""
    draft = drafts.ordinary(drafts.take_apart(raw))
    for name in [*draft.tensors]:
        layer, _, role = name.rpartition(".")
        if role == "index" and layer in draft.document.get("layers", {}):
            draft.tensors[name] = _indices(draft, name, layer)
    draft.document.pop("checksum", None)
    return _exact(draft.document), draft.tensors


def _indices(draft: Draft, name: str, layer: str) -> Any:
    """A layer's indices where they are entropy-coded, else the tensor."""
    document, record = draft.document, draft.document["layers"][layer]
    usual = "rans" if "index" in document["encodings"].get("rans", ()) else "bits"
    if document.get("exceptions", {}).get(name, usual) != "rans":
        return draft.tensors[name]
    owner = record.get("codebook", layer)
    codebook = f"{owner}.codebook"
    _, shape, _ = draft.tensors[codebook]
    usual = "int8" if "codebook" in document["encodings"].get("int8", ()) else "plain"
    coded = document.get("exceptions", {}).get(codebook, usual) == "int8"
    parts = document["layers"][owner].get("parts", 1)
    _, kept, places = draft.tensors.get(f"{layer}.kept_at", ("I64", [0], b""))
    return rans_reader.read(
        draft.tensors[name][2],
        shape[1] - 2 if coded else shape[0],
        [*record["shape"], parts],
        record.get("groups", 1),
        tuple(
            edge * parts + part
            for edge in struct.unpack(f"<{kept[0]}q", places)
            for part in range(parts)
        ),
    )


def _document(raw: bytes) -> str:
    draft = drafts.ordinary(drafts.take_apart(raw))
    draft.document.pop("checksum", None)
    return json.dumps(draft.document, sort_keys=True)


def _exact(value: Any) -> Any:
    """A value of which True is not 1, and 1.0 is."""
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return (type(value) is bool, value)


def _is_canonical(raw: bytes) -> bool:
    """Whether the header is the one text for what it says."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    places = [e["data_offsets"] for n, e in header.items() if n != "__metadata__"]
    ordered = {
        name: {key: header[name][key] for key in ("dtype", "shape", "data_offsets")}
        if name != "__metadata__" else header[name]
        for name in header
    }  # fmt: skip
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    in_order = next(iter(header)) == "__metadata__" and places == sorted(places)
    return in_order and text + b" " * (-len(text) % 8) == raw[8 : 8 + length]


def _restore(model: Any, size: int, verdict: Verdict, slot: Slot | None, seconds: float) -> None:
    if slot:
        slot.stage("restore")
    found, error = limits.attempt(model.state_dict, size + _RESTORING, seconds)
    if error is not None:
        verdict.fault(limits.kind_of(error, "state_dict"), limits.brief(error))
    elif model.restore is not None:
        _check_state(model.restore.to_json()["tensors"], found, verdict)
    whole, error = limits.attempt(lambda: kancompress.expand(model), size + _RESTORING, seconds)
    if error is not None:
        verdict.fault(limits.kind_of(error, "expand"), limits.brief(error))
        return
    if size > _WRITTEN:
        verdict.notes.append("too large to be written here")
        return
    memory = 4 * size + _RESTORING
    ways: list[dict[str, Any]] = [{}]
    if model.restore is not None:  # the other kind of container, too
        ways.append({"torch_file": model.restore.container == "safetensors"})
    for options in ways:
        _, error = limits.attempt(lambda options=options: whole.encode(**options), memory, seconds)
        if isinstance(error, KancompressError) and any(words in str(error) for words in _KNOWN):
            check_message(error, verdict, "expand")
            verdict.notes.append("restored numbers do not fit one storage")
        elif error is not None:
            verdict.fault(limits.kind_of(error, "write what expand gave"), limits.brief(error))


def _check_state(entries: list[Any], found: Any, verdict: Verdict) -> None:
    """Names, shapes and types of a state dict against what the document says of them."""
    if list(found) != [entry[0] for entry in entries]:
        verdict.fault("state_dict: other names than restore.tensors")
        return
    for name, dtype, shape, origin in entries:
        tensor = found[name]
        got = str(tensor.dtype), list(tensor.shape)
        if got != (TORCH.get(dtype, got[0]), shape):
            kind = next(iter(origin)) if origin else "null"
            verdict.fault(f"state_dict: another shape or type than restore says ({kind})",
                          f"{name!r:.40}: {dtype} {shape}, not {got}")  # fmt: skip


TORCH = {
    "F64": "torch.float64", "F32": "torch.float32", "F16": "torch.float16", "I64": "torch.int64",
    "BF16": "torch.bfloat16", "I32": "torch.int32", "I16": "torch.int16", "I8": "torch.int8",
    "U8": "torch.uint8", "BOOL": "torch.bool", "U16": "torch.uint16", "U32": "torch.uint32",
    "U64": "torch.uint64", "C64": "torch.complex64", "F8_E4M3": "torch.float8_e4m3fn",
    "F8_E5M2": "torch.float8_e5m2",
}  # fmt: skip
