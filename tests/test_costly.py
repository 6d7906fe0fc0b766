"""Torch files that would take minutes or gigabytes of whoever reads them without a measure.

Each is small; what it asks for would grow with the square of its size, or with a number that it
names. A reader refuses it, or reads it in time and memory that its size is worth.
"""

import functools
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kancompress
from command import done, refused
from hostile import MLP, Draft, document, made, ramp, stripped
from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.foreign import pickles
from kancompress.models.files import read_foreign
from kancompress.models.records import ForeignCheckpoint
from kancompress.models.restoration import Restored

PRIME = (1 << 61) - 1  # numbers that it divides have the hash 0


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def get(number: int) -> bytes:
    return b"j" + struct.pack("<I", number)


def whole(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def row(*values: int) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def tensor(key: str = "0", count: int = 4, offset: int = 0, stride: int = 1) -> bytes:
    """A tensor of one number in a storage of `count`."""
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text(key) + text("cpu")
    storage += whole(count) + b"tQ"
    rest = whole(offset) + row(1) + row(stride) + b"\x89" + named("collections", "OrderedDict")
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b")RtR"


def dictionary(*items: bytes) -> bytes:
    return b"}(" + b"".join(items) + b"u"


def module(parameters: bytes, children: bytes) -> bytes:
    state = dictionary(
        text("_parameters"), dictionary(parameters), text("_buffers"), b"}",
        text("_modules"), dictionary(children),
    )  # fmt: skip
    return named("m", "M") + b")\x81" + state + b"b"


def archive(pickle: bytes, storage: bytes = bytes(16)) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", b"\x80\x02" + pickle + b".")
        made.writestr("a/data/0", storage)
    return file.getvalue()


MODEL = text("w") + tensor()


def colliding_numbers(make: Callable[[int], bytes] = whole) -> bytes:
    keys = b"".join(make(number * PRIME) + b"N" for number in range(1, 20_001))
    return archive(dictionary(MODEL, keys))


@functools.cache
def in_each_others_way(bits: int = 16, extra: int = 6_000) -> list[int]:
    """Numbers below 2^31 that Python's dictionaries of 2^bits places probe one behind the other.

    The first fill a run of the places that are looked at in turn; the others begin in it.
    """
    size, run = 1 << bits, int(0.4 * (1 << bits))
    place, orbit = 7, []
    for _ in range(run):
        orbit.append(place)
        place = (5 * place + 1) % size
    position = {slot: number for number, slot in enumerate(orbit)}
    draw = np.random.default_rng(0)
    found: dict[int, None] = {}
    while len(found) < extra:
        for number in draw.integers(size, 1 << 31, 20_000).tolist():
            slot, rest = number % size, number
            while slot in position and rest:
                rest >>= 5
                slot = (slot * 5 + rest + 1) % size
            if position.get(slot, run) < run // 3:
                found[number] = None
    return [*orbit, *list(found)[:extra]]


def memo_in_each_others_way() -> bytes:
    puts = b"".join(put(number) for number in in_each_others_way())
    return archive(b"N" + puts + b"0" + dictionary(MODEL))


def keys_in_each_others_way() -> bytes:
    keys = (b"J" + struct.pack("<i", number) + b"N" for number in in_each_others_way())
    return archive(dictionary(MODEL, *keys))


def colliding_memo() -> bytes:
    puts = b"".join(b"p%d\n" % (number * PRIME) for number in range(1, 5_001))
    return archive(dictionary(MODEL, text("x"), b"N" + puts))


def long_number_as_keys() -> bytes:
    number = b"\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20)
    return archive(dictionary(MODEL, number + put(1) + b"N", (get(1) + b"N") * 20_000))


def list_copied_for_every_key() -> bytes:
    shared = b"(" + b"N" * 50_000 + b"l" + put(1)
    copies = (named("builtins", "set") + get(1) + b"\x85R") * 5_000
    return archive(dictionary(MODEL, text("y"), shared, text("x"), b"(" + copies + b"l"))


def arguments_copied_for_every_call() -> bytes:
    shared = b"(" + b"N" * 50_000 + b"t" + put(1) + b"0"
    calls = (named("torch.nn.parameter", "Parameter") + get(1) + b"R") * 5_000
    return archive(shared + dictionary(MODEL, text("x"), b"(" + calls + b"l"))


def list_counted_for_every_key() -> bytes:
    shared = text("x") + b"]" + put(1) + b"(" + b"]" * 30_000 + b"e"
    keys = b"".join(text(f"{number:x}") + get(1) for number in range(20_000))
    return archive(dictionary(MODEL, shared, keys))


def long_path() -> bytes:
    inner = dictionary(MODEL, b"".join(text(f"{number:x}") + b"N" for number in range(20_000)))
    return archive(dictionary(text("k" * (1 << 20)), dictionary(text("model"), inner)))


def long_key_in_many_dictionaries() -> bytes:
    key = text("k" * (1 << 20)) + put(1) + b"0"
    inner = b"".join(text(f"{number:x}") + b"}" + get(1) + b"Ns" for number in range(20_000))
    return archive(key + dictionary(text("model"), dictionary(inner, MODEL)))


def long_name_of_a_module() -> bytes:
    shared = tensor() + put(7) + b"0"
    many = b"".join(text(f"p{number}") + get(7) for number in range(20_000))
    return archive(shared + module(b"", text("n" * (1 << 20)) + module(many, b"")))


def modules_that_double() -> bytes:
    shared = tensor() + put(7) + b"0"
    many = b"".join(text(f"p{number}") + get(7) for number in range(3_000))
    made = shared + module(many, b"") + put(100) + b"0"
    for level in range(15):
        twice = text("a") + get(100 + level) + text("b") + get(100 + level)
        made += module(b"", twice) + put(101 + level) + b"0"
    return archive(made + get(115))


def long_name_of_a_class() -> bytes:
    calls = (get(1) + b")R") * 20_000
    name = text("m" * (1 << 20)) + text("C") + b"\x93" + put(1) + b"0"
    return archive(name + dictionary(MODEL, text("x"), b"(" + calls + b"l"))


def records_that_overlap() -> bytes:
    """A thousand records that are all the same megabyte."""
    body = b"\1" * (1 << 20)
    pickle = dictionary(*(text(f"t{n}") + tensor(str(n), 1 << 18) for n in range(1000)))
    raw = archive(pickle, body)
    end = raw.rindex(b"PK\5\6")
    begin = int.from_bytes(raw[end + 16 : end + 20], "little")
    last = raw[raw.rindex(b"PK\1\2") : end]
    directory = raw[begin : raw.rindex(b"PK\1\2")]
    for number in range(1000):
        name = f"a/data/{number}".encode()
        directory += last[:28] + struct.pack("<HH", len(name), 0) + last[32:46] + name
    sizes = (0, 0, 1001, 1001, len(directory), begin, 0)
    return raw[:begin] + directory + struct.pack("<4s4H2LH", b"PK\5\6", *sizes)


def views_of_one_storage(step: int = 1) -> bytes:
    """Two thousand tensors of one number each in a storage of a megabyte."""
    tensors = (text(f"t{n}") + tensor(count=1 << 18, offset=n, stride=step) for n in range(2000))
    return archive(dictionary(*tensors), b"\1" * (1 << 20))


def colliding_strides() -> bytes:
    tensors = (text(f"t{n}") + tensor(stride=n * PRIME % (1 << 62)) for n in range(1, 2001))
    return archive(dictionary(*tensors))


def deep_values(code: bytes = b"\x85") -> bytes:
    return archive(dictionary(MODEL, text("x"), b"N" + code * 100_000))


def deep_dictionaries() -> bytes:
    deep = (b"}" + text("k")) * 30_000 + b"N" + b"s" * 30_000
    return archive(dictionary(MODEL, text("x"), deep))


def list_copied_behind_a_type() -> bytes:
    """Of a tensor of a subclass the arguments lie one level deeper."""
    pairs = b"(" + (text("a") + b"N\x86") * 20_000 + b"l" + put(1)
    inner = named("collections", "OrderedDict") + named("m", "T") + get(1) + b"\x85" + b"N"
    call = named("torch._tensor", "_rebuild_from_type_v2") + b"(" + inner + b"tR"
    return archive(dictionary(MODEL, text("y"), pairs, text("x"), b"(" + call * 2_000 + b"l"))


def long_key_of_a_storage() -> bytes:
    name = b"(" + text("storage") + named("torch", "FloatStorage") + text("k" * (1 << 20))
    name += text("cpu") + whole(4) + b"t" + put(1)
    again = (get(1) + b"Q0") * 20_000
    return archive(dictionary(MODEL, text("x"), name) + again)


def hidden_names_of_a_shared_module() -> bytes:
    names = (
        named("builtins", "set") + b"(" + b"(" + b"".join(map(text, "ab")) * 30_000 + b"l" + b"tR"
    )
    state = dictionary(
        text("_parameters"), b"}", text("_buffers"), b"}", text("_modules"), b"}",
        text("_non_persistent_buffers_set"), names,
    )  # fmt: skip
    shared = named("m", "M") + b")\x81" + state + b"b" + put(9) + b"0"
    children = b"".join(text(f"{number:x}") + get(9) for number in range(5_000))
    return archive(shared + module(MODEL, children))


def long_name_before_hidden_buffers() -> bytes:
    hidden = b"".join(text(f"b{number}") for number in range(5_000))
    buffers = b"".join(text(f"b{number}") + b"K\x01" for number in range(5_000))
    names = named("builtins", "set") + b"((" + hidden + b"ltR"
    state = dictionary(
        text("_parameters"), b"}", text("_buffers"), dictionary(buffers), text("_modules"), b"}",
        text("_non_persistent_buffers_set"), names,
    )  # fmt: skip
    child = text("n" * (1 << 20)) + named("m", "M") + b")\x81" + state + b"b"
    return archive(module(MODEL, child))


COSTLY: dict[str, tuple[Callable[[], bytes], Flaw | int]] = {
    "numbers-of-one-hash": (colliding_numbers, 1),
    "memo-in-each-others-way": (memo_in_each_others_way, 1),
    "keys-in-each-others-way": (keys_in_each_others_way, 1),
    "memo-of-one-hash": (colliding_memo, Flaw.BAD_PICKLE),
    "long-number-as-keys": (long_number_as_keys, 1),
    "list-copied-for-every-key": (list_copied_for_every_key, Flaw.TOO_COSTLY),
    "arguments-copied-for-every-call": (arguments_copied_for_every_call, Flaw.TOO_COSTLY),
    "list-counted-for-every-key": (list_counted_for_every_key, Flaw.TOO_COSTLY),
    "long-path": (long_path, Flaw.NO_TENSORS),
    "long-key-in-many-dictionaries": (long_key_in_many_dictionaries, 1),
    "long-name-of-a-module": (long_name_of_a_module, Flaw.TOO_COSTLY),
    "modules-that-double": (modules_that_double, Flaw.TOO_COSTLY),
    "long-name-of-a-class": (long_name_of_a_class, Flaw.BAD_PICKLE),
    "records-that-overlap": (records_that_overlap, Flaw.BAD_ZIP),
    "views-of-one-storage": (views_of_one_storage, 2000),
    "strides-of-one-hash": (colliding_strides, 2000),
    "list-copied-behind-a-type": (list_copied_behind_a_type, Flaw.TOO_COSTLY),
    "long-key-of-a-storage": (long_key_of_a_storage, Flaw.BAD_PICKLE),
    "hidden-names-of-a-shared-module": (hidden_names_of_a_shared_module, Flaw.TOO_COSTLY),
    "long-name-before-hidden-buffers": (long_name_before_hidden_buffers, Flaw.TOO_COSTLY),
    "deep-tuples": (deep_values, 1),
    "deep-dictionaries": (deep_dictionaries, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if number > 4 else ())
        for number, name in enumerate(COSTLY)
    ],
)
def test_what_a_file_asks_for_is_bounded_by_its_size(name: str) -> None:
    """Memory is measured; that time is bounded shows in that the test ends."""
    make, expected = COSTLY[name]
    raw = make()
    tracemalloc.start()
    try:
        if isinstance(expected, Flaw):
            with pytest.raises(InvalidFileError) as caught:
                read_foreign(raw)
            assert caught.value.flaw is expected, str(caught.value)
            assert len(str(caught.value)) <= 500
        else:
            found = read_foreign(raw)
            assert len(found.tensors) == expected
            assert all(t.shape == (1,) for t in found.tensors.values())
            assert all(len(line) <= 500 for line in found.dropped)
        assert tracemalloc.get_traced_memory()[1] < (40 << 20) + 60 * len(raw)
    finally:
        tracemalloc.stop()


def test_steps_of_the_machine_grow_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100)
    honest = b"".join(text(f"a long name {n}") + tensor() for n in range(50))
    assert len(read_foreign(archive(dictionary(honest))).tensors) == 50
    with pytest.raises(InvalidFileError) as caught:
        read_foreign(archive(dictionary(MODEL, text("x") + b"N" + b"2" * 5000 + b"0" * 5000)))
    assert caught.value.flaw is Flaw.TOO_COSTLY


def test_parts_of_a_storage_are_read_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """What flatten_parameters leaves: one storage, of which each tensor is a part."""
    flat = torch.arange(100_000.0)
    state: dict[str, Any] = {f"p.{n}": flat[n * 100 : n * 100 + 100] for n in range(1000)}
    file = io.BytesIO()
    torch.save(state, file)
    found = read_foreign(file.getvalue())
    data = found.data
    assert data is not None
    read = 0
    original = type(data).__getitem__

    def count(self: object, place: slice) -> memoryview:
        nonlocal read
        part = original(self, place)  # type: ignore[arg-type]
        read += len(part)
        return part

    monkeypatch.setattr(type(data), "__getitem__", count)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in state.items())
    assert read == flat.nbytes


def test_columns_of_a_storage_are_read_together() -> None:
    matrix = torch.arange(10_000.0).reshape(100, 100)
    state = {f"c.{n}": matrix[:, n] for n in range(100)}
    file = io.BytesIO()
    torch.save(state, file)
    found: ForeignCheckpoint = read_foreign(file.getvalue())
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in state.items())


def test_columns_of_storages_in_turn_are_refused_where_they_would_be_read_again() -> None:
    """Each would have its storage of a megabyte read anew."""
    body = b"\1" * (1 << 20)
    pair = named("torch._utils", "_rebuild_tensor_v2")
    items = []
    for number in range(300):
        storage = b"(" + text("storage") + named("torch", "FloatStorage") + text(str(number % 2))
        storage += text("cpu") + whole(1 << 18) + b"tQ"
        rest = whole(0) + row(2) + row(7 + number) + b"\x89" + named("collections", "OrderedDict")
        items.append(text(f"t{number}") + pair + b"(" + storage + rest + b")RtR")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a/data.pkl", b"\x80\x02" + dictionary(*items) + b".")
        made.writestr("a/data/0", body)
        made.writestr("a/data/1", body)
    with pytest.raises(InvalidFileError) as caught:
        read_foreign(file.getvalue())
    assert caught.value.flaw is Flaw.SIZE_MISMATCH


# --- packed files --------------------------------------------------------------------------


def expanded(count: int) -> bytes:
    """A packed file whose rest names one number `count` times, in a storage that is not there."""
    tensors = {"w": torch.zeros(2, 2), "x": torch.zeros(1).expand(count)}
    rest = stripped(tensors)
    draft = Draft(
        document(
            layers={"l": {"shape": [2, 2]}},
            encodings={"bits": ["index"], "plain": ["codebook"]},
            restore={
                "container": "torch-zip",
                "path": [],
                "opaque": "rest",
                "tensors": [
                    ["w", "F32", [2, 2], {"layer": "l", "axes": "out in", "from": 0, "to": 1}],
                    ["x", "F32", [count], {"fill": 0.5}],
                ],
            },
        ),
        {
            "l.codebook": ("F32", [2, 1], ramp(2)),
            "l.index": ("U8", [1], b"\x06"),
            "rest": ("U8", [len(rest)], rest),
        },
    )
    return draft.build()


def test_a_number_that_is_repeated_costs_nothing_until_it_is_restored() -> None:
    raw = expanded(200_000_000)
    tracemalloc.start()
    try:
        model = kancompress.load(raw)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert isinstance(model, kancompress.PackedModel)
    back = kancompress.expand(kancompress.load(expanded(1000)))
    assert isinstance(back, Restored)
    again = torch.load(io.BytesIO(back.encode()), weights_only=True)
    assert torch.equal(again["x"], torch.full((1000,), 0.5))
    assert again["x"].stride() == (0,)


@pytest.mark.slow
def test_many_entries_of_one_codebook_are_checked_once() -> None:
    """And a name that is stored twice is found in one pass."""
    entries: list[Any] = [
        [f"t{n}", "F16", [2, 2], {"layer": "l", "axes": "out in", "from": n % 64, "to": n % 64 + 1}]
        for n in range(20_000)
    ]
    draft = Draft(
        document(
            layers={"l": {"shape": [2, 2]}},
            encodings={"bits": ["index"], "plain": ["codebook"]},
            restore={"container": "safetensors", "path": [], "tensors": entries},
        ),
        {
            "l.codebook": ("F32", [4, 64], ramp(256)),
            "l.index": ("U8", [1], b"\x06"),
        },
    )
    assert len(kancompress.load(draft.build()).state_dict()) == 20_000
    entries += [[f"s{n}", "F32", [0], {"as": f"s{n % 9_999}"}] for n in range(10_000)]
    draft.tensors |= {f"s{n}": ("F32", [0], b"") for n in range(9_999)}
    with pytest.raises(InvalidFileError, match="'s0' twice"):
        kancompress.load(draft.build())


def test_a_file_beyond_the_bound_is_read_by_who_asks_for_it(tmp_path: Path) -> None:
    draft = Draft(
        document(
            model={"name": "mlp"},
            layers={"0": {"shape": [2, 150_000_000]}},
            encodings={"plain": ["codebook"]},
        ),
        {"0.codebook": ("F32", [1, 1], ramp(1))},
    )
    path = tmp_path / "large.st"
    path.write_bytes(draft.build())
    for read in (kancompress.load, kancompress.expand, kancompress.inspect):
        with pytest.raises(InvalidFileError, match="`any_size`") as caught:
            read(path)
        assert caught.value.flaw is Flaw.TOO_LARGE
    model = kancompress.load(path, any_size=True)
    assert isinstance(model, kancompress.PackedModel)
    assert model.layers[0].edges == 300_000_000
    assert kancompress.encode(model) == path.read_bytes()
    assert "--any-size" in refused(3, "expand", path, "-o", tmp_path / "dense.st")
    small = made(MLP)
    path.write_bytes(small)
    done("expand", path, "--any-size", "-o", tmp_path / "dense.st")


def test_a_row_of_many_layers_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer's columns are written into one tensor."""
    count = 300
    layers = {f"l{n}": {"shape": [1, 1], "codebook": "l0"} for n in range(1, count)}
    parts = [
        {"layer": f"l{n}", "axes": "out in", "from": 0, "to": 1, "columns": [n, n + 1]}
        for n in range(count)
    ]
    draft = Draft(
        document(
            layers={"l0": {"shape": [1, 1]}} | layers,
            encodings={"bits": ["index"], "plain": ["codebook"]},
            restore={
                "container": "safetensors",
                "path": [],
                "tensors": [["row", "F32", [1, count], {"parts": parts}]],
            },
        ),
        {"l0.codebook": ("F32", [4, 1], ramp(4))}
        | {f"l{n}.index": ("U8", [1], bytes([n % 4])) for n in range(count)},
    )
    model = kancompress.load(draft.build())
    made = []
    zeros = np.zeros

    def counted(shape: Any, *rest: Any, **more: Any) -> np.ndarray:
        if shape == count:
            made.append(shape)
        return zeros(shape, *rest, **more)

    monkeypatch.setattr(np, "zeros", counted)
    row = model.state_dict()["row"]
    assert row.tolist() == [[n % 4 / 8 - 1 for n in range(count)]]
    assert len(made) == 1
