"""Other programs' checkpoints: read as torch reads them, and never run."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import sys
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.foreign import pickles
from kancompress.models.files import read_foreign
from kancompress.models.records import ForeignCheckpoint

CASES = Path(__file__).parents[2] / "shared" / "cases"
TRAPS = CASES / "traps"
needs_cases = pytest.mark.skipif(not TRAPS.is_dir(), reason="the golden cases are not here")


def saved(value: object, **options: Any) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def legacy(value: object) -> bytes:
    """What torch.save wrote before 1.6."""
    return saved(value, _use_new_zipfile_serialization=False)


def zipped(records: dict[str, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content, **options)
    return file.getvalue()


def with_pickle(main: bytes, *storages: bytes) -> bytes:
    """A torch file around a pickle made by hand."""
    data = {f"archive/data/{number}": content for number, content in enumerate(storages)}
    return zipped({"archive/data.pkl": main, "archive/byteorder": b"little"} | data)


def edited(raw: bytes, edit: Callable[[str, bytes], bytes]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return zipped({name: edit(name, archive.read(name)) for name in archive.namelist()})


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal in dtype, shape and bits."""
    flat = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (found, expected)]
    return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(*flat)


def check(found: ForeignCheckpoint, expected: dict[str, Tensor]) -> None:
    assert list(found.tensors) == list(expected)
    for name, tensor in expected.items():
        assert same(found.tensors[name], tensor), name
        assert found.tensors[name].is_contiguous()
        assert not found.tensors[name].requires_grad
    untied = [tensor.nbytes for name, tensor in found.tensors.items() if name not in found.ties]
    assert found.tensor_bytes == sum(untied)


def refused(source: Path | bytes, flaw: Flaw, says: str = "") -> str:
    with pytest.raises(InvalidFileError) as caught:
        read_foreign(source, name="it")
    message = str(caught.value)
    assert (caught.value.flaw, caught.value.exit_code) == (flaw, 3)
    assert says in message
    assert "it" in message
    assert message.isprintable()
    assert len(message) < 500
    return message


STATE = OrderedDict(
    b=torch.arange(6.0).reshape(2, 3),
    a=torch.tensor(7),
    half=torch.arange(3, dtype=torch.float16),
    brain=torch.arange(3, dtype=torch.bfloat16),
    double=torch.arange(3, dtype=torch.float64),
    flags=torch.tensor([True, False]),
    small=torch.tensor([-3], dtype=torch.int8),
    eighth=torch.arange(3.0).to(torch.float8_e4m3fn),
    unsigned=torch.tensor([65535], dtype=torch.uint16),
    none=torch.empty(0, 3),
    turned=torch.arange(6.0).reshape(2, 3).t(),
    parameter=nn.Parameter(torch.ones(2)),
    expanded=torch.arange(4.0).expand(3, 4),
    part=torch.arange(10.0)[4:7],
)
PLAIN = {"w": torch.arange(3.0)}


# --- state dicts ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("write", [saved, legacy])
def test_state_dict(write: Callable[..., bytes], protocol: int) -> None:
    file = io.BytesIO()
    torch.save(STATE, file, pickle_protocol=protocol,
               _use_new_zipfile_serialization=write is saved)  # fmt: skip
    found = read_foreign(file.getvalue())
    check(found, STATE)
    assert found.container == ("torch-zip" if write is saved else "torch-legacy")
    assert (found.path, found.ties, found.metadata, found.dropped) == ((), {}, {}, ())
    assert found.file_bytes == len(file.getvalue())


def test_paths_and_names(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(saved(PLAIN))
    assert read_foreign(path).where == read_foreign(str(path)).where == str(path)
    assert read_foreign(path, name="mine").where == "mine"
    check(read_foreign(path), PLAIN)


@pytest.mark.parametrize("write", [saved, legacy])
def test_ties(write: Callable[..., bytes]) -> None:
    base = torch.arange(12.0)
    state = {"a": base, "b": base.view(3, 4), "c": base, "d": base[:6], "e": base[6:],
             "f": base.view(3, 4), "g": base.clone(), "h": nn.Parameter(base)}  # fmt: skip
    found = read_foreign(write(state))
    check(found, state)
    assert found.ties == {"c": "a", "f": "b", "h": "a"}
    assert found.tensors["c"] is found.tensors["a"]
    assert found.tensor_bytes == 4 * 48


def test_entries_that_are_no_tensors() -> None:
    state = PLAIN | {"_extra_state": {"x": 1}, "count": 3, 4: torch.ones(2),
                     "deep": [torch.ones(3)], (5,): None, "\x1b[31m": "red"}  # fmt: skip
    found = read_foreign(saved(state))
    check(found, PLAIN)
    assert found.dropped == (
        "_extra_state (no tensor)", "count (no tensor)", "4 (1 tensor, 8 bytes)",
        "deep (1 tensor, 12 bytes)", "an entry whose name is no text (no tensor)",
        "'\\x1b[31m' (no tensor)",
    )  # fmt: skip


def test_tensors_with_attributes() -> None:
    marked, parameter = torch.ones(2), nn.Parameter(torch.zeros(2))
    marked.note = "x"  # type: ignore[attr-defined]
    parameter.note = "x"  # type: ignore[attr-defined]
    buffer = nn.Buffer(torch.ones(3)) if hasattr(nn, "Buffer") else torch.ones(3)
    state = {"a": marked, "b": parameter, "c": buffer}
    check(read_foreign(saved(state)), state)


@pytest.mark.parametrize("write", [saved, legacy])
@pytest.mark.parametrize(
    ("kind", "says"),
    [("complex", "complex64"), ("complex double", "complex128"), ("sparse", "sparse"),
     ("meta", "device meta"), ("quantised", "quantised")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_kinds_that_are_refused(write: Callable[..., bytes], kind: str, says: str) -> None:
    tensor = {
        "complex": lambda: torch.ones(2, dtype=torch.complex64),
        "complex double": lambda: torch.ones(2, dtype=torch.complex128),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "meta": lambda: torch.ones(2, device="meta"),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }[kind]()
    state = PLAIN | {"odd.one": tensor}
    assert "'odd.one'" in refused(write(state), Flaw.UNSUPPORTED_TENSOR, says)
    assert read_foreign(write({"model": PLAIN, "extra": tensor})).path == ("model",)


# --- trainers' dictionaries ----------------------------------------------------------------


def trained(parameter: Tensor) -> dict[str, Any]:
    parameter = nn.Parameter(parameter.clone())
    optimiser = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimiser.step()
    return optimiser.state_dict()


OTHER = {"v": torch.ones(2)}


@pytest.mark.parametrize(
    ("value", "path", "dropped"),
    [
        ({"epoch": 3, "state_dict": PLAIN}, ["state_dict"], ["epoch"]),
        ({"optimizer": trained(torch.ones(3)), "net": PLAIN}, ["net"],
         ["optimizer (3 tensors, 28 bytes)"]),
        ({"model_ema": OTHER, "model": PLAIN}, ["model"], ["model_ema (1 tensor, 8 bytes)"]),
        ({"params_ema": PLAIN, "iter": 1}, ["params_ema"], ["iter"]),
        ({"state_dict": PLAIN, "best": torch.tensor(0.5)}, ["state_dict"],
         ["best (1 tensor, 4 bytes)"]),
        ({"encoder": PLAIN, "decoder": OTHER}, ["encoder"], ["decoder (1 tensor, 8 bytes)"]),
        ({"checkpoint": {"step": 1, "model": PLAIN}, "lr": 0.1}, ["checkpoint", "model"],
         ["lr", "checkpoint.step"]),
        ({"state": trained(torch.ones(3)), "weights": PLAIN}, ["weights"],
         ["state (3 tensors, 28 bytes)"]),
        ({"model": {"name": "KAN"}, "w": PLAIN["w"]}, [], ["model (no tensor)"]),
        ({"model": torch.ones(1), **PLAIN}, [], []),
        ({"state_dict": {}, "other": PLAIN}, ["other"], ["state_dict"]),
        ({"model": defaultdict(int, PLAIN), "votes": Counter("ab"), "kinds": {1, 2}}, ["model"],
         ["votes", "kinds"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("write", [saved, legacy])
def test_trainer_dictionary(
    write: Callable[..., bytes], value: dict[str, Any], path: list[str], dropped: list[str]
) -> None:
    found = read_foreign(write(value))
    expected: Any = value
    for key in path:
        expected = expected[key]
    check(found, {k: v for k, v in expected.items() if isinstance(v, Tensor)})
    assert list(found.path) == path
    assert list(found.dropped) == dropped


class Settings:
    """A class that readers of the file do not have, and that tells when it is built."""

    built: list[str] = []  # noqa: RUF012

    def __setstate__(self, state: object) -> None:
        Settings.built.append("built")


class Table(dict[str, Any]):
    pass


def test_classes_are_not_built() -> None:
    settings = Settings()
    settings.depth = 3  # type: ignore[attr-defined]
    found = read_foreign(saved({"args": settings, "state_dict": Table(PLAIN)}))
    check(found, PLAIN)
    assert found.dropped == ("args",)
    assert Settings.built == []


# --- modules -------------------------------------------------------------------------------


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.arange(4.0).expand(2, 4))
        self.weight = nn.Parameter(torch.rand(2, 3))
        self.register_buffer("cache", torch.ones(5), persistent=False)
        self.register_parameter("bias", None)
        self.register_buffer("nothing", None)
        self.plain = torch.ones(7)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Inner(), Inner()])
        self.norm = nn.BatchNorm1d(3)
        self.missing = None
        self.tied = self.layers[0]
        self.register_module("none", None)
        self.listed = nn.ParameterList([torch.rand(2), torch.rand(1)])
        self.named = nn.ParameterDict({"z": torch.rand(2), "a": torch.rand(1)})
        self.scale = nn.Parameter(torch.ones(()))
        self.act = nn.functional.silu


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("write", ["zip", "legacy"])
def test_whole_module(
    write: str, protocol: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    model = Whole()
    expected = model.state_dict()
    file = io.BytesIO()
    torch.save(model, file, pickle_protocol=protocol,
               _use_new_zipfile_serialization=write == "zip")  # fmt: skip
    monkeypatch.delattr(sys.modules[__name__], "Whole")
    found = read_foreign(file.getvalue())
    check(found, expected)
    assert (found.container, found.path) == ("torch-module", ())
    assert found.ties == {f"tied.{n}": f"layers.0.{n}" for n in ("weight", "grid")}
    assert f"the class {__name__}.Whole and its settings" in found.dropped
    assert "layers.1.cache (not persistent)" in found.dropped


def test_module_in_a_dictionary() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    found = read_foreign(saved({"epoch": 1, "model": model}))
    check(found, model.state_dict())
    assert (found.container, found.path) == ("torch-module", ("model",))
    assert found.dropped[0] == "epoch"


def test_module_without_tensors() -> None:
    refused(saved(nn.Sequential(nn.ReLU())), Flaw.NO_TENSORS, "torch.nn.modules.container")


def test_module_in_itself() -> None:
    model = nn.Module()
    model._modules["again"] = model
    refused(saved(model), Flaw.BAD_PICKLE, "too deeply")


def test_modules_that_double_at_each_level() -> None:
    model = nn.Linear(1, 1)
    for _ in range(40):
        model = nn.Sequential(model, model)  # type: ignore[assignment]
    refused(saved(model), Flaw.TOO_COSTLY, "modules")


# --- pickles that would do something --------------------------------------------------------


class Call:
    """Pickles to a call of `function` on `args`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.args


def mischief(mark: Path) -> dict[str, object]:
    line = f"open({str(mark)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {mark}"),
        "eval": Call(eval, line),
        "exec": Call(exec, line),
        "open": Call(open, str(mark), "w"),
    }


@pytest.mark.parametrize("kind", ["os.system", "eval", "exec", "open"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("write", [saved, legacy])
def test_commands(write: Callable[..., bytes], kind: str, protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    payload = mischief(mark)[kind]
    for value in (payload, PLAIN | {"x": payload}, {"model": PLAIN, "x": [payload]}):
        raw = write(value, pickle_protocol=protocol) if write is saved else write(value)
        refused(raw, Flaw.UNSAFE_PICKLE, "nothing was run")
    refused(pickle.dumps(payload, protocol=protocol), Flaw.UNSAFE_PICKLE)
    assert not mark.exists()
    made = pickle.loads(pickle.dumps(payload))  # the payload is a real one
    if kind == "open":
        made.close()
    assert mark.exists()


CALLS = {
    "reduce": b"cpathlib\nPath\nq\x00X\x01\x00\x00\x00.\x85R",
    "inst": b"(X\x01\x00\x00\x00.ipathlib\nPath\n",
    "obj": b"(cpathlib\nPath\nX\x01\x00\x00\x00.o",
    "newobj": b"cpathlib\nPath\nX\x01\x00\x00\x00.\x85\x81",
    "newobj_ex": b"cpathlib\nPath\nX\x01\x00\x00\x00.\x85}\x92",
    "stack_global": b"\x8c\x07pathlib\x8c\x04Path\x93)R",
    "build": b"cpathlib\nPath\n)R}X\x01\x00\x00\x00aK\x01sb",
    "no such module": b"cno_such_module_anywhere\nThing\n)R",
    "import that runs": b"cantigravity\nfly\n)R",
    "nested": b"cno.such\nThing\n)RcX\nY\n\x85R",
    "call of a call": b"cfunctools\npartial\n)R)R",
    "dotted": b"\x8c\x05torch\x8c\x09os.system\x93\x8c\x04true\x85R",
}


@pytest.mark.parametrize("code", CALLS.values(), ids=CALLS)
def test_calls_make_stubs(code: bytes) -> None:
    refused(with_pickle(b"\x80\x04N."), Flaw.NO_TENSORS)  # reading zip archives imports a code page
    modules = set(sys.modules)
    refused(with_pickle(b"\x80\x04" + code + b"."), Flaw.NO_TENSORS)
    assert set(sys.modules) == modules
    tensor = tensor_pickle(3, 0, (3,), (1,))[len(b"\x80\x02}X\x01\x00\x00\x00w") : -len(b"s.")]
    raw = b"\x80\x04}(X\x01\x00\x00\x00w" + tensor + b"X\x01\x00\x00\x00x" + code + b"u."
    found = read_foreign(with_pickle(raw, struct.pack("<3f", 0, 1, 2)))
    check(found, PLAIN)
    assert found.dropped == ("x (no tensor)",)


# --- pickles that would take the machine down ----------------------------------------------


def deep(opening: bytes, closing: bytes) -> bytes:
    return b"\x80\x04" + opening * 50_000 + b"N" + closing * 50_000 + b"."


BOMBS = {
    "lists": b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "tuples": deep(b"", b"\x85"),
    "tuple as a key": b"\x80\x04}N" + b"\x85" * 50_000 + b"Ns.",
    "stubs in stubs": b"\x80\x04" + b"ca\nb\n" * 20_000 + b")" + b"R\x85" * 19_999 + b"R.",
    "memo of 2^31": b"\x80\x04}r\xff\xff\xff\x7f.",
    "bytearray of 2^40": b"\x80\x04c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
    "list of doublings": b"\x80\x04]" + b"q\x00]h\x00ah\x00a" * 5000 + b"0" * 5000 + b".",
    "set of unhashables": b"\x80\x04\x8f(]]]\x90.",
    "long digits": b"\x80\x04}L" + b"9" * 5000 + b"L\nNs.",
    "long as a key": b"\x80\x04}\x8b\xff\xff\x00\x00" + b"\x7f" * 65535 + b"Ns.",
    "dictionary as a key": b"\x80\x04}}Ns.",
    "nothing on the stack": b"\x80\x04R.",
    "too many values": b"\x80\x04NN.",
    "marks": b"\x80\x04" + b"(" * 1000 + b"R.",
    "no mark": b"\x80\x04t.",
    "extension": b"\x80\x04\x82\x01.",
    "buffer": b"\x80\x05\x97.",
    "frame of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "string of 2^60": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"N.",
    "name without an end": b"\x80\x04c" + b"a" * 100_000 + b".",
    "not utf-8": b"\x80\x04X\x01\x00\x00\x00\xff.",
    "no pickle": b"\x80\x04\xff\xff.",
    "empty": b"",
}


@pytest.mark.parametrize("code", BOMBS.values(), ids=BOMBS)
def test_bombs(code: bytes) -> None:
    tracemalloc.start()
    try:
        for raw in (with_pickle(code), code):
            with pytest.raises(InvalidFileError) as caught:
                read_foreign(raw)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 400
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_pickles_without_an_end_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    refused(with_pickle(b"\x80\x04" + b"N0" * 1000 + b"N."), Flaw.TOO_COSTLY, "1000 opcodes")


def tensor_pickle(count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...],
                  storage: str = "FloatStorage") -> bytes:  # fmt: skip
    """A pickle of {"w": a tensor}, whatever the numbers are."""

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(value) for value in values) + b"t"

    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("
        b"X\x07\x00\x00\x00storagectorch\n" + storage.encode() + b"\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpu" + number(count) + b"tQ" + number(offset) + numbers(shape)
        + numbers(stride) + b"\x89)tRs."
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flaw", "count", "offset", "shape", "stride"),
    [
        (Flaw.BAD_OFFSETS, 4, 0, (5,), (1,)),
        (Flaw.BAD_OFFSETS, 4, 1, (4,), (1,)),
        (Flaw.BAD_OFFSETS, 4, 0, (2, 2), (3, 1)),
        (Flaw.BAD_OFFSETS, 4, 4, (), ()),
        (Flaw.BAD_OFFSETS, 4, 0, (2**61, 2**61), (0, 0)),
        (Flaw.SIZE_MISMATCH, 5, 0, (5,), (1,)),
        (Flaw.SIZE_MISMATCH, 2**60, 0, (1,), (1,)),
        (Flaw.SIZE_MISMATCH, 4, 0, (2**40,), (0,)),
        (Flaw.SIZE_MISMATCH, 4, 0, (2**30, 4), (0, 1)),
        (Flaw.BAD_PICKLE, -1, 0, (1,), (1,)),
        (Flaw.BAD_PICKLE, 4, -1, (1,), (1,)),
        (Flaw.BAD_PICKLE, 4, 0, (-1,), (1,)),
        (Flaw.BAD_PICKLE, 4, 0, (2,), (-1,)),
        (Flaw.BAD_PICKLE, 4, 0, (2,), (1, 1)),
        (Flaw.BAD_PICKLE, 4, 0, (1,) * 65, (1,) * 65),
        (Flaw.BAD_PICKLE, 2**63, 0, (1,), (1,)),
    ],
)
def test_tensors_that_lie(
    flaw: Flaw, count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    refused(with_pickle(tensor_pickle(count, offset, shape, stride), bytes(16)), flaw)


def test_tensors_that_do_not() -> None:
    good = with_pickle(tensor_pickle(4, 1, (3, 2), (0, 2)), struct.pack("<4f", 0, 1, 2, 3))
    check(read_foreign(good), {"w": torch.tensor([[1.0, 3.0]] * 3)})
    empty = with_pickle(tensor_pickle(0, 0, (0, 5), (5, 1)), b"")
    check(read_foreign(empty), {"w": torch.empty(0, 5)})


def test_storages_that_lie() -> None:
    code = tensor_pickle(4, 0, (4,), (1,))
    refused(with_pickle(code), Flaw.BAD_ZIP, "lacks the record data/0")
    unknown = tensor_pickle(4, 0, (4,), (1,), storage="PaperStorage")
    refused(with_pickle(unknown, bytes(16)), Flaw.BAD_PICKLE, "PaperStorage")
    escape = code.replace(b"X\x01\x00\x00\x000", b"X\x09\x00\x00\x00../../etc")
    refused(with_pickle(escape, bytes(16)), Flaw.BAD_ZIP, "lacks")


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_safetensors_cannot_store(name: str) -> None:
    refused(saved({name: torch.ones(2)}), Flaw.BAD_TENSOR_NAME)


# --- files that are something else ----------------------------------------------------------


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 3)), file)
    return file.getvalue()


def random_bytes() -> bytes:
    return b"\x00" + random.Random(0).randbytes(2000)


OTHERS: list[tuple[str, Flaw, str, Callable[[], bytes]]] = [
    ("empty", Flaw.EMPTY, "empty", lambda: b""),
    ("lfs", Flaw.GIT_LFS_POINTER, "git lfs pull",
     lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    ("html", Flaw.HTML, "HTML", lambda: b"\n <!DOCTYPE html><html></html>"),
    ("random", Flaw.UNKNOWN_FORMAT, "torch.save", random_bytes),
    ("png", Flaw.UNKNOWN_FORMAT, "PNG", lambda: b"\x89PNG\r\n\x1a\n" + bytes(60)),
    ("text", Flaw.UNKNOWN_FORMAT, "text", lambda: b"epoch,loss\n1,0.5\n"),
    ("hdf5", Flaw.UNKNOWN_FORMAT, "HDF5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(60)),
    ("gzip", Flaw.UNKNOWN_FORMAT, "unpack", lambda: b"\x1f\x8b" + bytes(60)),
    ("one byte", Flaw.UNKNOWN_FORMAT, "", lambda: b"\x00"),
    ("other zip", Flaw.BAD_ZIP, "data.pkl", lambda: zipped({"a/b.txt": b"x"})),
    ("numpy zip", Flaw.BAD_ZIP, "data.pkl", lambda: zipped({"w.npy": b"x"})),
    ("two roots", Flaw.BAD_ZIP, "more than one",
     lambda: zipped({"a/data.pkl": b"", "b/data.pkl": b""})),
    ("compressed", Flaw.BAD_ZIP, "compressed",
     lambda: zipped({"a/data.pkl": b"x" * 99}, compress_type=zipfile.ZIP_DEFLATED)),
    ("big endian", Flaw.UNSUPPORTED_TENSOR, "byte order",
     lambda: edited(saved(PLAIN), lambda n, c: b"big" if n.endswith("byteorder") else c)),
    ("other pickle", Flaw.UNKNOWN_FORMAT, "none that torch.save wrote",
     lambda: pickle.dumps({"w": [1.0]})),
    ("JSON", Flaw.BAD_INDEX, "no index of shards", lambda: b'{"a": 1}'),
    ("JSON cut", Flaw.BAD_INDEX, "not valid JSON", lambda: b'{"a": '),
    ("no tensors", Flaw.NO_TENSORS, "without any tensor", lambda: saved({"epoch": 1})),
    ("empty dictionary", Flaw.NO_TENSORS, "empty dictionary", lambda: saved({})),
    ("list of tensors", Flaw.NO_TENSORS, "2 tensors",
     lambda: saved([torch.ones(2), torch.ones(2)])),
    ("one tensor", Flaw.NO_TENSORS, "single tensor", lambda: saved(torch.ones(2))),
    ("numbered tensors", Flaw.NO_TENSORS, "none by name", lambda: saved({0: torch.ones(2)})),
    ("only an optimizer", Flaw.NO_TENSORS, "3 tensors",
     lambda: saved({"optimizer": trained(torch.ones(3))})),
    ("no tensors, safetensors", Flaw.NO_TENSORS, "no tensors", lambda: save({})),
    ("complex safetensors", Flaw.UNSUPPORTED_TENSOR, "'z'",
     lambda: save({"z": torch.ones(2, dtype=torch.complex64)})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("flaw", "says", "make"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS]
)
def test_other_files(flaw: Flaw, says: str, make: Callable[[], bytes], tmp_path: Path) -> None:
    raw = make()
    refused(raw, flaw, says)
    path = tmp_path / "x.pt"
    path.write_bytes(raw)
    if not raw.startswith(b"{"):
        refused(path, flaw, says)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript() -> None:
    refused(scripted(), Flaw.TORCHSCRIPT, "state_dict()")


def test_paths_without_a_file(tmp_path: Path) -> None:
    for path, flaw in [(tmp_path / "none", Flaw.MISSING), (tmp_path, Flaw.NOT_A_FILE)]:
        with pytest.raises(InvalidFileError, match=str(tmp_path)) as caught:
            read_foreign(path)
        assert caught.value.flaw == flaw


@pytest.mark.parametrize("write", [saved, legacy, save])
def test_truncation(write: Callable[..., bytes]) -> None:
    raw = write(PLAIN | {"v": torch.arange(50.0)})
    for size in range(1, len(raw)):
        with pytest.raises(InvalidFileError) as caught:
            read_foreign(raw[:size])
        if size > 64:
            assert "copied whole" in str(caught.value)


@pytest.mark.parametrize("write", [saved, legacy, lambda value: saved(nn.Linear(2, 3))])
def test_damage(write: Callable[..., bytes]) -> None:
    """Whatever bytes turn, the reader answers with tensors or with its own error."""
    raw = write({"model": PLAIN | {"v": torch.arange(50.0).expand(2, 50)}, "epoch": [1, {2: 3}]})
    choose = random.Random(1)
    for _ in range(1500):
        broken = bytearray(raw)
        for _ in range(choose.randint(1, 4)):
            broken[choose.randrange(min(len(raw), 2000))] = choose.randrange(256)
        try:
            read_foreign(bytes(broken))
        except InvalidFileError as error:
            assert str(error).isprintable()  # noqa: PT017


def test_damage_within_the_pickle() -> None:
    """The same behind the archive's checksums."""
    choose = random.Random(2)
    main = {}
    with zipfile.ZipFile(io.BytesIO(saved(Whole()))) as archive:
        main = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(600):
        broken = bytearray(main["archive/data.pkl"])
        for _ in range(choose.randint(1, 3)):
            broken[choose.randrange(len(broken))] = choose.randrange(256)
        try:
            read_foreign(zipped(main | {"archive/data.pkl": bytes(broken)}))
        except InvalidFileError as error:
            assert str(error).isprintable()  # noqa: PT017


def test_checksums() -> None:
    raw = saved({"w": torch.full((64,), 3.0)})
    at = raw.index(struct.pack("<4f", 3, 3, 3, 3))
    broken = raw[:at] + b"\x01" + raw[at + 1 :]
    refused(broken, Flaw.CHECKSUM_MISMATCH, "data/0")


def test_archive_without_checksums() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        raw = saved(STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    check(read_foreign(raw), STATE)


# --- safetensors ----------------------------------------------------------------------------


def test_safetensors() -> None:
    state = {name: tensor.detach().contiguous().clone() for name, tensor in STATE.items()}
    raw = save(state, metadata={"format": "pt", "note": "kept"})
    found = read_foreign(raw)
    assert found.container == "safetensors"
    assert found.metadata == {"format": "pt", "note": "kept"}
    assert found.tensors.keys() == state.keys()
    assert all(same(found.tensors[name], tensor) for name, tensor in state.items())
    assert found.tensor_bytes == sum(tensor.nbytes for tensor in state.values())
    assert found.file_bytes == len(raw)


def test_safetensors_whose_header_has_640_bytes() -> None:
    """Such a file begins like a pickle, one of 60 bytes like HTML, one of 123 like JSON."""
    for wanted in (60, 123, 640):
        text = b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'.ljust(wanted)
        raw = struct.pack("<Q", wanted) + text + struct.pack("<3f", 0, 1, 2)
        check(read_foreign(raw), PLAIN)


SHARDED = {"b.w": torch.arange(4.0), "a.w": torch.ones(2, 2), "c": torch.tensor(3)}
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
PLACES = {"b.w": FIRST, "c": SECOND, "a.w": FIRST}


def sharded(folder: Path, places: object = PLACES) -> Path:
    save_file({k: SHARDED[k] for k in ("a.w", "b.w")}, folder / FIRST, metadata={"format": "pt"})
    save_file({"c": SHARDED["c"]}, folder / SECOND, metadata={"format": "pt", "x": "y"})
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 40}, "weight_map": places}))
    return path


def test_shards(tmp_path: Path) -> None:
    path = sharded(tmp_path)
    found = read_foreign(path)
    check(found, {name: SHARDED[name] for name in PLACES})
    assert found.container == "safetensors"
    assert found.metadata == {"format": "pt", "x": "y"}
    assert found.dropped == ()
    assert found.file_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    refused(path.read_bytes(), Flaw.BAD_INDEX, "pass its path")


def test_shards_in_part(tmp_path: Path) -> None:
    found = read_foreign(sharded(tmp_path, {"a.w": FIRST}))
    assert found.dropped == (f"b.w (in {FIRST} but not in the index; 16 bytes)",)


def test_shards_missing(tmp_path: Path) -> None:
    path = sharded(tmp_path, PLACES | {"gone": SECOND})
    refused(path, Flaw.MISSING_TENSOR, f"{SECOND!r} holds the tensor 'gone'")
    path = sharded(tmp_path)
    (tmp_path / SECOND).unlink()
    refused(path, Flaw.MISSING_SHARD, SECOND)
    (tmp_path / SECOND).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InvalidFileError, match=f"{SECOND}.*git lfs pull"):
        read_foreign(path)


BINS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


def torch_sharded(folder: Path, first: bytes, second: bytes, places: dict[str, int]) -> Path:
    """What transformers writes beside two torch files."""
    for name, raw in zip(BINS, (first, second), strict=True):
        (folder / name).write_bytes(raw)
    path = folder / "pytorch_model.bin.index.json"
    index = {"metadata": {"total_size": 1},
             "weight_map": {name: BINS[number] for name, number in places.items()}}  # fmt: skip
    path.write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("write", [saved, legacy])
def test_torch_shards(write: Callable[..., bytes], tmp_path: Path) -> None:
    base = torch.arange(6.0)
    one = {"b": base, "a": torch.ones(2, 2, dtype=torch.bfloat16), "b again": base}
    path = torch_sharded(tmp_path, write(one), saved({"c": torch.tensor(3)}),
                         {"b": 0, "c": 1, "b again": 0, "a": 0})  # fmt: skip
    found = read_foreign(path)
    check(found, {"b": base, "c": torch.tensor(3), "b again": base, "a": one["a"]})
    assert (found.container, found.path, found.metadata) == ("torch-zip", (), {})
    assert found.ties == {"b again": "b"}
    assert found.dropped == ()
    assert found.file_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    refused(path.read_bytes(), Flaw.BAD_INDEX, "pass its path")


def test_torch_shards_in_part(tmp_path: Path) -> None:
    one = {"model": {"b": torch.arange(6.0), "x": torch.ones(3)}, "epoch": 3}
    two = {"model": {"c": torch.ones(2), "b": torch.zeros(6)}}
    path = torch_sharded(tmp_path, saved(one), saved(two), {"b": 0, "c": 1})
    found = read_foreign(path)
    check(found, {"b": torch.arange(6.0), "c": torch.ones(2)})
    assert found.path == ("model",)
    assert found.dropped == (
        f"x (in {BINS[0]} but not in the index; 12 bytes)",
        f"epoch (in {BINS[0]})",
        f"b (in {BINS[1]} but not in the index; 24 bytes)",
    )


def test_every_missing_shard_is_named(tmp_path: Path) -> None:
    raw = saved({"w": torch.ones(2)})
    path = torch_sharded(tmp_path, raw, raw, {"w": 0, "v": 1})
    refused(path, Flaw.MISSING_TENSOR, f"{BINS[1]!r} holds the tensor 'v'")
    for name in BINS:
        (tmp_path / name).unlink()
    with pytest.raises(InvalidFileError) as caught:
        read_foreign(path, name="it")
    assert caught.value.flaw == Flaw.MISSING_SHARD
    assert caught.value.sentences == tuple(
        f"it names the shard {name!r}, which is not beside it. Fetch all shards into one directory."
        for name in BINS
    )


def test_shards_that_are_no_files_of_one_kind(tmp_path: Path) -> None:
    raw = saved({"v": torch.ones(2)})
    places = {"w": 0, "v": 1}
    for first, flaw, says in (
        (save({"w": torch.ones(2)}), Flaw.BAD_INDEX, "shards of several kinds"),
        (saved({"model": {"w": torch.ones(2)}}), Flaw.BAD_INDEX, "shards of several kinds"),
        (b"", Flaw.EMPTY, "is empty; a shard was expected"),
        (b"{}", Flaw.UNKNOWN_FORMAT, "this is a text file"),
        (saved({"w": torch.ones(2)})[:-40], Flaw.TRUNCATED, "not copied whole"),
        (b"version https://git-lfs.github.com/spec/v1", Flaw.GIT_LFS_POINTER, "git lfs pull"),
    ):
        with pytest.raises(InvalidFileError) as caught:
            read_foreign(torch_sharded(tmp_path, first, raw, places))
        assert caught.value.flaw == flaw
        assert says in str(caught.value)


@pytest.mark.parametrize(
    "shard", ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a\\b", "C:x", "a\0b", 3, None, {}]
)
def test_shards_elsewhere(shard: object, tmp_path: Path) -> None:
    refused(sharded(tmp_path, {"w": shard}), Flaw.BAD_INDEX, "only files beside the index")


@pytest.mark.parametrize(
    "text",
    ["{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a":"b", "a":"c"}}',
     "{" * 100_000, '{"a":' + "[" * 100_000, '{"weight_map": NaN}', "{\xff"],
)  # fmt: skip
def test_indexes_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidFileError) as caught:
        read_foreign(path)
    assert caught.value.flaw in (Flaw.BAD_INDEX, Flaw.DUPLICATE_KEY)


# --- the golden cases -----------------------------------------------------------------------


def by_torch(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def cases(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(CASES)) for path in CASES.glob(pattern))


@needs_cases
@pytest.mark.parametrize("name", cases("*/*.pt"))
def test_cases(name: str) -> None:
    path = CASES / name
    if path.parent == TRAPS:
        return
    found = read_foreign(path)
    state: Any = by_torch(path)
    for key in found.path:  # of trainers' dictionaries
        state = state[key]
    check(found, {n: t for n, t in state.items() if isinstance(t, Tensor)})
    expected = ("model_state_dict",) if path.parent.name == "kanele" else ()
    assert (found.container, found.path) == ("torch-zip", expected)
    twin = path.with_suffix(".safetensors")
    if twin.exists():
        other = read_foreign(twin)
        assert other.tensors.keys() == found.tensors.keys()
        assert all(same(other.tensors[n], t) for n, t in found.tensors.items())
        with safe_open(twin, "pt") as file:
            assert set(file.keys()) == set(other.tensors)


REFUSED = {
    "code_executing_pickle.pt": Flaw.UNSAFE_PICKLE,
    "empty.pt": Flaw.NO_TENSORS,
    "lfs_pointer.pt": Flaw.GIT_LFS_POINTER,
    "torchscript.pt": Flaw.TORCHSCRIPT,
    "truncated.pt": Flaw.TRUNCATED,
}


@needs_cases
@pytest.mark.parametrize("name", [Path(n).name for n in cases("traps/*.pt")])
def test_traps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = TRAPS / name
    if name in REFUSED:
        refused(path, REFUSED[name])
        assert list(tmp_path.iterdir()) == []
        return
    found = read_foreign(path)
    if name == "whole_module.pt":
        assert found.container == "torch-module"
        check(found, by_torch(TRAPS / "eff_plain.pt"))
        return
    expected: Any = by_torch(path)
    for key in found.path:
        expected = expected[key]
    check(found, expected)
    assert found.container == ("torch-legacy" if name.startswith("legacy") else "torch-zip")


@needs_cases
def test_traps_in_detail() -> None:
    plain = read_foreign(TRAPS / "trainer_dict.pt")
    assert plain.path == ("model_state_dict",)
    assert plain.dropped == ("epoch", "optimizer_state_dict (18 tensors, 4,024 bytes)", "loss")
    double = read_foreign(TRAPS / "trainer_dict_ema.pt")
    assert double.path == ("model",)
    assert "model_ema (8 tensors, 2,576 bytes)" in double.dropped
    tied = read_foreign(TRAPS / "tied_layers.pt")
    assert tied.ties == {f"b.{n}": f"a.{n}" for n in ("base_weight", "spline_weight", "grid")}
    assert read_foreign(TRAPS / "eff_plain.safetensors").metadata == {
        "format": "pt",
        "note": "keep me",
    }
