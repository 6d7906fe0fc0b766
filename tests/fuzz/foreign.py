"""Mutations of other programs' checkpoints: refused in form, or read as their own libraries do."""

from __future__ import annotations

import io
import json
import pickletools
import re
import shutil
import struct
import tempfile
import warnings
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

import kancompress
from kancompress.errors import InvalidFileError, KancompressError, UsageError
from kancompress.formats.foreign import read_skeleton, skeletons
from kancompress.libraries import recognise
from kancompress.models.files import read_foreign
from kancompress.models.tensors import all_to_arrays
from tests.fuzz import drafts, limits, zips
from tests.fuzz.engine import Case, Slot, Verdict
from tests.fuzz.packed import STRANGE, check_message

_LOADING, _RESTORING = 100_000_000, 200_000_000
# Numbers that arithmetic stumbles over, in all places of a storage.
_PATTERNS = (
    b"\0", b"\xff", struct.pack("<f", 1e38), struct.pack("<f", -3e38), struct.pack("<f", 1e-45),
    struct.pack("<f", float("inf")), struct.pack("<f", float("nan")), struct.pack("<d", 1e200),
    struct.pack("<d", 1e308), struct.pack("<d", float("nan")), struct.pack("<d", 5e-324),
    struct.pack("<e", 65504.0), struct.pack("<e", float("inf")), b"\x80\x7f", struct.pack("<q", -1),
    struct.pack("<f", 1.0), struct.pack("<d", 1.0), b"\1",
)  # fmt: skip


_WORDS = (
    *drafts.SIZES, "one.safetensors", "two.safetensors", "one.pt", "../x", "x", "", "/etc", "\0",
    "n" * 300, ".",
)  # fmt: skip


class Net(nn.Module):
    """A module that is pickled whole."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Module(), nn.Module()])
        for name, tensor in state.items():
            _, number, *rest = name.split(".")
            holder: nn.Module = self.layers[int(number)]
            for part in rest[:-1]:
                if part not in dict(holder.named_children()):
                    holder.add_module(part, nn.Module())
                holder = holder.get_submodule(part)
            holder.register_buffer(rest[-1], tensor)


def _saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def _odd() -> dict[str, Tensor]:
    """Tensors of many types that lie in their storages in many ways."""
    base = torch.arange(24.0)
    wide = torch.arange(30, dtype=torch.float64)
    return OrderedDict(
        a=base.reshape(4, 6), turned=base.reshape(4, 6).t(), part=base[5:11], tied=base[5:11],
        spread=base[::3], one=base[:1].expand(3, 5), none=torch.empty(0, 3), scalar=torch.tensor(7),
        double=wide.reshape(5, 6)[:, 2:4], half=torch.arange(5).half(),
        brain=torch.ones(3).bfloat16(),
        flags=torch.tensor([True, False]), small=torch.tensor([-3], dtype=torch.int8),
        eighth=torch.ones(4).to(torch.float8_e4m3fn),
        unsigned=torch.tensor([9], dtype=torch.uint16),
        learnt=nn.Parameter(torch.ones(2)), deep=torch.arange(16.0).reshape(2, 2, 2, 2, 1),
    )  # fmt: skip


@dataclass(slots=True)
class _Base:
    name: str
    kind: str  # zip, legacy, safetensors or index
    raw: bytes
    archive: zips.Archive | None = None
    ops: list[zips.Op] = field(default_factory=list)
    pickles: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    header: str = ""


def _zip(name: str, raw: bytes) -> _Base:
    archive = zips.archive_of(raw)
    main = next(r for r in archive.records if r.name.endswith("/data.pkl"))
    return _Base(name, "zip", raw, archive, zips.opcodes(main.data))


def _legacy(name: str, raw: bytes) -> _Base:
    parts, begin = [], 0
    for _ in range(5):
        for opcode, _, place in pickletools.genops(raw[begin:]):
            if opcode.name == "STOP":
                parts.append(raw[begin : begin + (place or 0) + 1])
        begin += len(parts[-1])
    return _Base(name, "legacy", raw, None, zips.opcodes(parts[3]), parts, raw[begin:])


def _tensors(name: str, raw: bytes) -> _Base:
    (length,) = struct.unpack("<Q", raw[:8])
    return _Base(
        name, "safetensors", raw, rest=raw[8 + length :], header=raw[8 : 8 + length].decode()
    )


class Foreign:
    """Torch files, safetensors files, and indexes of shards."""

    name = "foreign"

    def __init__(self) -> None:
        limits.prepare()
        states = {
            name: load_file(drafts.CASES / name / "state.safetensors")
            for name in ("efficient_kan_default", "fast_kan_default", "tck_fc_kagn")
        }
        plain = states["efficient_kan_default"]
        trainer = {"model_state_dict": plain, "opt": {"state": {0: torch.ones(3)}, "lr": 0.1},
                   "epoch": 3, "names": ["a", ("b", 2.5, None, True)]}  # fmt: skip
        double = {name: tensor.double() for name, tensor in plain.items()}
        old = {"_use_new_zipfile_serialization": False}
        self.bases = [
            _zip("plain", _saved(plain)),
            _zip("fast", _saved(OrderedDict(states["fast_kan_default"]))),
            _zip("trainer", _saved(trainer)),
            _zip("double", _saved({"net": double})),
            _zip("odd", _saved(_odd())),
            _zip("odd-4", _saved({"model": _odd()}, pickle_protocol=4)),
            _zip("module", _saved(Net(plain))),
            _legacy("legacy", _saved(trainer, **old)),
            _legacy(
                "legacy-odd", _saved({n: t for n, t in _odd().items() if n != "unsigned"}, **old)
            ),
            _legacy("legacy-module", _saved(Net(plain), **old)),
            _tensors("safetensors", save(plain, {"format": "pt"})),
            _tensors("safetensors-gram", save(states["tck_fc_kagn"])),
            _tensors(
                "safetensors-odd",
                save({n: t.detach().contiguous().clone() for n, t in _odd().items()}),
            ),
        ]
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.shards = self._write_shards(states["fast_kan_default"])
        for base in self.bases:
            verdict = self.judge(Case(base.raw, [], base.kind), None)
            assert verdict.outcome == "accepted", (base.name, verdict)

    def _write_shards(self, state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        names = [*state]
        half = len(names) // 2
        shards = {
            "one.safetensors": {name: state[name] for name in names[:half]},
            "two.safetensors": {name: state[name] for name in names[half:]},
        }
        for file, tensors in shards.items():
            save_file(tensors, self.folder / file)
        weight_map = {name: file for file, tensors in shards.items() for name in tensors}
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        torch.save(shards["one.safetensors"], self.folder / "one.pt")
        (self.folder / "x").mkdir()
        self.bases.append(_Base("index", "index", json.dumps(index).encode()))
        return shards

    # --- cases ---

    def make(self, draw: Random) -> Case:
        base = draw.choice(self.bases)
        story = [base.name]
        times = draw.choice((1, 1, 1, 1, 2, 3))
        if draw.random() < 0.12:
            raw = base.raw
            for _ in range(times):
                raw = _damaged(raw, draw, story) or b"\0"
        elif base.kind == "zip":
            archive = base.archive
            assert archive is not None
            for _ in range(times):
                if archive.records and draw.random() < 0.12:
                    archive = zips.copied(archive)
                    _fill(archive, draw, story)
                elif archive.records:
                    archive = zips.mutate_archive(archive, base.ops, draw, story)
            archive.aligned = draw.random() < 0.5
            raw = zips.build(archive)
        elif base.kind == "legacy":
            raw = _edit_legacy(base, draw, story)
        else:
            raw = _edit_json(base, times, draw, story)
        return Case(raw, story, base.kind)

    # --- judgement ---

    def judge(self, case: Case, slot: Slot | None) -> Verdict:
        verdict = Verdict()
        source: Any = case.raw
        if case.extra == "index":
            source = self.folder / f"{id(slot)}.json"
            source.write_bytes(case.raw)
        seconds = slot.seconds if slot else 60.0
        found = self._read(source, case.raw, verdict, slot, seconds)
        if found is None:
            return verdict
        verdict.outcome = "accepted"
        self._recognise(found, source, case, verdict, slot, seconds)
        if slot:
            slot.stage("oracle")
        if case.extra == "index":
            self._compare_shards(case.raw, found, verdict)
        elif found.container == "safetensors":
            _compare_safetensors(case.raw, found, verdict)
        elif found.container != "torch-module":
            _compare_torch(case.raw, found, verdict)
        return verdict

    def _read(
        self, source: Any, raw: bytes, verdict: Verdict, slot: Slot | None, seconds: float
    ) -> Any:
        if slot:
            slot.stage("load")

        def read() -> Any:
            found = read_foreign(source, "it")
            return found, dict(found.tensors.items())

        result, error = limits.attempt(read, max(_LOADING, 4 * len(raw)), seconds)
        if error is None:
            return result[0]
        if isinstance(error, KancompressError):
            check_message(error, verdict, "load")
            invalid = isinstance(error, InvalidFileError)
            verdict.outcome = str(error.flaw) if invalid else type(error).__name__
        else:
            verdict.outcome = "another exception"
            verdict.fault(limits.kind_of(error, "load"), limits.brief(error))
        return None

    def _recognise(
        self, found: Any, source: Any, case: Case, verdict: Verdict, slot: Slot | None,
        seconds: float,
    ) -> None:  # fmt: skip
        if slot:
            slot.stage("check")
        memory = max(_LOADING, 4 * len(case.raw))
        seen, error = limits.attempt(lambda: recognise(found.tensors), memory, seconds)
        if error is not None:
            _allowed(error, verdict, "recognise")
        if slot:
            slot.stage("restore")
        size = sum(tensor.nbytes for tensor in found.tensors.values())
        if found.container in ("torch-zip", "torch-module") and isinstance(source, bytes):
            _fill_again(found, source, size, verdict, seconds)
        if seen is None or not seen.layers or zlib.crc32(case.raw) % 16:  # clustering takes long
            return
        if slot:
            slot.stage("encode")
        config = kancompress.ClusterConfig(clusters=2, max_iterations=2, force_pack=True)
        keep = found.container in ("torch-zip", "torch-module") and zlib.crc32(case.raw) % 32 == 0

        def pack() -> Any:
            packed = kancompress.cluster(source, config, keep_extra=keep, name="it")
            return kancompress.encode(packed.model)

        again, error = limits.attempt(pack, 4 * size + _RESTORING, 2 * seconds)
        if error is not None:
            _allowed(error, verdict, "cluster")
        else:
            verdict.notes.append("packed with the rest" if keep else "packed")
            _, error = limits.attempt(
                lambda: kancompress.expand(kancompress.load(again)).encode(),
                4 * size + _RESTORING,
                seconds,
            )
            if error is not None:
                verdict.fault(limits.kind_of(error, "expand what was packed"), limits.brief(error))

    def _compare_shards(self, raw: bytes, found: Any, verdict: Verdict) -> None:
        places = json.loads(raw).get("weight_map", {})
        for name, tensor in found.tensors.items():
            path = self.folder / str(places.get(name))
            with safe_open(path, "pt") as file:
                if not _same(tensor, file.get_tensor(name)):
                    verdict.fault("index: another tensor than the shard's", repr(name)[:100])


def _allowed(error: BaseException, verdict: Verdict, stage: str) -> None:
    """Count a documented refusal, tell any other."""
    if isinstance(error, InvalidFileError | UsageError) or type(error) is KancompressError:
        check_message(error, verdict, stage)
        verdict.notes.append(f"{stage} refuses: {getattr(error, 'flaw', type(error).__name__)}")
    else:
        verdict.fault(limits.kind_of(error, stage), limits.brief(error))


def _fill_again(found: Any, raw: bytes, size: int, verdict: Verdict, seconds: float) -> None:
    """The rest of a torch file, and the file made of it again, hold the same tensors."""
    memory = 4 * max(size, len(raw)) + _RESTORING
    skeleton, error = limits.attempt(lambda: read_skeleton(found), memory, seconds)
    if error is not None:
        _allowed(error, verdict, "read_skeleton")
        return
    again, error = limits.attempt(
        lambda: skeletons.fill(skeleton.data, all_to_arrays(found.tensors), found.path, "it"),
        memory,
        seconds,
    )
    if error is not None:
        _allowed(error, verdict, "fill")
        return
    twin, error = limits.attempt(lambda: read_foreign(again, "it"), memory, seconds)
    if error is not None:
        verdict.fault(limits.kind_of(error, "read what fill wrote"), limits.brief(error))
    elif twin.tensors.keys() != found.tensors.keys() or not all(
        _same(tensor, twin.tensors[name]) for name, tensor in found.tensors.items()
    ):
        verdict.fault("fill: other tensors than those that were put in")


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal in type, shape and bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(_flat(one), _flat(other))


def _flat(tensor: Tensor) -> Tensor:
    """Its bytes; a tensor of one number counts as contiguous whatever its strides are."""
    row = torch.empty(tensor.numel(), dtype=tensor.dtype)
    if len(row):
        row.view(tensor.shape).copy_(tensor.detach())
    return row.view(torch.uint8)


def _compare_safetensors(raw: bytes, found: Any, verdict: Verdict) -> None:
    theirs, error = limits.attempt(lambda: load_safetensors(raw), _LOADING + 8 * len(raw), 10)
    if error is not None:
        verdict.notes.append(f"accepted, refused by safetensors: {str(error)[:40]!r}")
        return
    if theirs.keys() != found.tensors.keys() or not all(
        _same(tensor, theirs[name]) for name, tensor in found.tensors.items()
    ):
        verdict.fault("other tensors than safetensors reads")
    else:
        verdict.notes.append("the same tensors as safetensors")


def _compare_torch(raw: bytes, found: Any, verdict: Verdict) -> None:
    def read() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)

    theirs, error = limits.attempt(read, _LOADING + 64 * len(raw), 10)
    if error is not None:
        words = re.sub(r"b?'[^']*'|[0-9]+", "…", str(error).splitlines()[0])[:50]
        verdict.notes.append(f"accepted, refused by torch: {words}")
        return
    for key in found.path:
        theirs = theirs[key]
    names = [
        key for key, value in theirs.items() if isinstance(key, str) and torch.is_tensor(value)
    ]
    if names != list(found.tensors):
        verdict.fault("other names than torch reads", ascii(f"{names} {list(found.tensors)}")[:300])
        return
    for name, tensor in found.tensors.items():
        if _same(tensor, theirs[name]):
            continue
        if _is_unwritten(read, [*found.path, name]):
            verdict.notes.append("torch hands out memory that nobody wrote")
        else:
            verdict.fault("another tensor than torch reads", ascii(name)[:100])
        return
    verdict.notes.append("the same tensors as torch")


def _is_unwritten(read: Callable[[], Any], path: list[str]) -> bool:
    """Whether a tensor of the reading has the numbers that lay in memory before it."""
    seen = []
    for value in (1, 2):
        found = read()
        for key in path:
            found = found[key]
        size = found.untyped_storage().nbytes()
        del found
        junk = [torch.full((size,), value, dtype=torch.uint8) for _ in range(64)]
        del junk
        found = read()
        for key in path:
            found = found[key]
        seen.append(found.contiguous().view(-1).view(torch.uint8).clone())
    return not torch.equal(*seen)


# --- changes -------------------------------------------------------------------------------


def _fill(archive: zips.Archive, draw: Random, story: list[str]) -> None:
    """Numbers of one kind in a whole storage, or in its first place."""
    stored = [record for record in archive.records if "/data/" in record.name]
    if not stored:
        return
    record, pattern = draw.choice(stored), draw.choice(_PATTERNS)
    size = len(record.data)
    if draw.random() < 0.5:
        record.data = (pattern * (size // len(pattern) + 1))[:size]
        story.append(f"{record.name} is full of {pattern!r}")
    else:
        record.data = (pattern + record.data[len(pattern) :])[:size]
        story.append(f"{record.name} begins with {pattern!r}")


def _edit_legacy(base: _Base, draw: Random, story: list[str]) -> bytes:
    parts, rest = list(base.pickles), base.rest
    for _ in range(draw.choice((1, 1, 1, 2))):
        way = draw.random()
        if way < 0.65:
            parts[3] = zips.mutate_pickle(base.ops, draw, story)
        elif way < 0.8:
            number = draw.randrange(5)
            try:
                ops = zips.opcodes(parts[number])
            except (ValueError, IndexError, UnicodeError):  # it was changed before
                continue
            story.append(f"pickle {number}")
            parts[number] = zips.mutate_pickle(ops, draw, story)
        elif way < 0.9:
            length = draw.choice((0, 1, 8, 9, len(rest) - 1, len(rest) // 2))
            rest = rest[:length] + draw.choice((b"", bytes(8), b"\xff" * 8))
            story.append(f"storages cut to {length} bytes")
        else:
            raw = bytearray(rest)
            at = 8 * draw.randrange(max(len(raw) // 8, 1))
            raw[at : at + 8] = struct.pack(
                "<q", draw.choice((0, 1, -1, 2**31, 2**61, 2**62, 10**9))
            )
            rest = bytes(raw)
            story.append(f"8 bytes at {at} of the storages")
    return b"".join(parts) + rest


def _edit_json(base: _Base, times: int, draw: Random, story: list[str]) -> bytes:
    """A header, or an index, with strange values, names and shapes."""
    header = json.loads(base.header or base.raw)
    rest = base.rest
    for _ in range(times):
        if base.kind == "safetensors" and draw.random() < 0.15 and rest:
            pattern = draw.choice(_PATTERNS)
            begin = draw.randrange(len(rest)) // 8 * 8
            length = draw.choice((len(pattern), len(rest)))
            rest = rest[:begin] + (pattern * length)[:length] + rest[begin + length :]
            rest = rest[: len(base.rest)]
            story.append(f"{pattern!r} from byte {begin} of the payload")
            continue
        _edit_value(header, draw, story)
        if not isinstance(header, dict) or not header:
            break
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    if base.kind == "index":
        return text
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + rest


def _edit_value(header: Any, draw: Random, story: list[str]) -> None:
    holder = header
    while True:
        if not holder:
            return
        key = draw.choice([*holder]) if isinstance(holder, dict) else draw.randrange(len(holder))
        inner = holder[key]
        if not isinstance(inner, dict | list) or draw.random() < 0.25:
            break
        holder = inner
    others = [*header.values()] if isinstance(header, dict) else []
    match draw.randrange(6):
        case 0:
            del holder[key]
            story.append(f"no {key!r:.40}")
        case 1 if isinstance(inner, int):
            holder[key] = draw.choice((inner + 1, inner - 1, 2 * inner, inner + 8, -inner))
            story.append(f"{key!r:.40} = {holder[key]}, not {inner}")
        case 2 if isinstance(holder, dict):
            new = draw.choice(
                ("__metadata__", "", "x", "../x", "n" * 900, "\x1b", f"{key}.0", "dtype")
            )
            holder[new] = holder.pop(key)
            story.append(f"{key!r:.40} is called {new!r:.20}")
        case 3 if others:
            holder[key] = json.loads(json.dumps(draw.choice(others)))
            story.append(f"{key!r:.40} = {holder[key]!r:.60}")
        case 4 if isinstance(inner, list):
            draw.shuffle(inner)
            inner.append(draw.choice((0, 1, 2, 2**31, 2**62)))
            story.append(f"{key!r:.40} = {inner!r:.60}")
        case 5 if isinstance(inner, str):
            holder[key] = draw.choice(_WORDS)
            story.append(f"{key!r:.40} = {holder[key]!r:.40}")
        case _:
            holder[key] = json.loads(json.dumps(draw.choice(STRANGE)))
            story.append(f"{key!r:.40} = {holder[key]!r:.60}")


def _damaged(raw: bytes, draw: Random, story: list[str]) -> bytes:
    place = draw.randrange(len(raw))
    match draw.randrange(5):
        case 0 | 1:
            new = draw.randrange(256)
            story.append(f"byte {place} is {new}")
            return raw[:place] + bytes([new]) + raw[place + 1 :]
        case 2:
            story.append(f"cut at {place}")
            return raw[:place]
        case 3:
            end = place + draw.choice((1, 2, 8, 100))
            story.append(f"without bytes {place} to {end - 1}")
            return raw[:place] + raw[end:]
        case _:
            story.append(f"bytes more at {place}")
            return raw[:place] + draw.randbytes(draw.choice((1, 4, 64))) + raw[place:]
