"""The checker that reads docs/packed-format.md for itself: honest files pass, lies are named."""

import io
import math
import random
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kancompress
from conftest import fresh
from hostile import (
    CONV,
    FOREIGN,
    FORMS,
    GRAM,
    HONEST,
    INT8,
    KAN,
    MLP,
    Draft,
    Edit,
    attribute,
    document,
    drop,
    floats,
    made,
    put,
    ramp,
    record,
    renamed,
    swap,
    tensor,
    without,
)
from kancompress.config import ClusterConfig
from packed_checker import checker, kind, rounded

CASES = Path(__file__).parent / "cases"
NAN = floats(math.nan, 0, 0)


def rule(raw: bytes) -> str | None:
    """The number of the rule that the checker names."""
    found = checker(raw)
    return None if found is None else found.partition(":")[0]


# --- an archive of torch's, without the storage that the packed layer covers -----------------


def archive(
    value: object, left_out: tuple[str, ...] = (), change: Callable[[bytes], bytes] = bytes
) -> bytes:
    """What torch.save makes of a value, its records stored again; `change` edits data.pkl."""
    saved, again = io.BytesIO(), io.BytesIO()
    torch.save(value, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(again, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = change(content)
            if not name.endswith(tuple(f"data/{key}" for key in left_out)):
                target.writestr(zipfile.ZipInfo(name), content)
    return again.getvalue()


def state() -> OrderedDict[str, Tensor]:
    return OrderedDict(w=torch.zeros(2, 2), n=torch.tensor(7))


def trainer() -> dict[str, Any]:
    return {"model": state(), "epoch": 3, "ema": [torch.ones(3), {1: 2.5}]}


def with_opaque(content: bytes) -> Draft:
    return Draft(
        document(
            layers={"a": {"shape": [2, 2]}},
            encodings={"bits": ["index"], "plain": ["codebook"]},
            restore={
                "container": "torch-zip",
                "path": ["model"],
                "opaque": "rest",
                "tensors": [
                    ["w", "F32", [2, 2], {"layer": "a", "axes": "out in", "from": 0, "to": 1}],
                    ["n", "I64", [], None],
                ],
            },
        ),
        {
            "a.codebook": ("F32", [2, 1], ramp(2)),
            "a.index": ("U8", [1], bytes([0b0101])),
            "n": ("I64", [], struct.pack("<q", 7)),
            "rest": ("U8", [len(content)], content),
        },
    )


def foreign() -> Draft:
    """FOREIGN, with a pattern as the page has it and without its `opaque` that is no archive."""
    draft = Draft(**vars(FOREIGN))
    restore = dict(draft.document["restore"])
    restore["tensors"] = [list(entry) for entry in restore["tensors"]]
    origin = restore["tensors"][0][3]
    restore["tensors"][0][3] = origin | {"axes": "out (in coef) kh kw"}
    restore.pop("opaque", None)
    draft.document = draft.document | {"restore": restore}
    draft.tensors = {name: kept for name, kept in draft.tensors.items() if name != "rest"}
    return draft


OTHER = foreign()
OPAQUE = with_opaque(archive(trainer(), ("0",)))
ENTRY = "restore/tensors/#0"
ORIGIN = f"{ENTRY}/#3"
SCALE = "restore/tensors/#2"
STEPS = "restore/tensors/#4"

# --- honest files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kan", "gramkan", "kanconv", "mlp", "cut", "pykan"])
def test_honest_files_pass(name: str) -> None:
    assert checker(made(HONEST[name])) is None


def test_an_honest_file_of_another_library_passes() -> None:
    assert checker(made(OTHER)) is None
    assert checker(made(OPAQUE)) is None


@pytest.mark.parametrize("name", ["dense", "meta"])
def test_files_of_other_kinds_are_not_its_business(name: str) -> None:
    raw = made(HONEST[name])
    assert kind(raw) == name
    assert checker(raw) == "2: kind is not packed"


def dense_layer(draft: Draft) -> None:
    """Layer 1 with all its coefficients, in the place of a codebook."""
    for name in ("1.codebook", "1.index", "1.kept_at", "1.kept"):
        del draft.tensors[name]
    draft.tensors["1.coefficients"] = ("BF16", [2, 3, 3], bytes(36))
    draft.document["encodings"]["plain"] = ["bias", "codebook", "coefficients"]


def pieces(*columns: list[int]) -> Edit:
    """The first tensor of OTHER in several pieces of its last axis."""
    piece = {"layer": "b", "axes": "out in coef", "from": 1, "to": 2}
    return put(ENTRY, ["x", "F32", [2, 4], {"parts": [piece | {"columns": c} for c in columns]}])


# The convolution of OTHER with a depth.
VOLUME = (
    put("layers/a/shape", [2, 1, 1, 2, 2]),
    put(f"{ENTRY}/#2", [2, 2, 1, 2, 2]),
    put(f"{ORIGIN}/axes", "out (in coef) kd kh kw"),
)

# The edges of OTHER's two layers that share a codebook in two parts of one coefficient.
SHORTER = (
    put("layers/a/parts", 2),
    tensor("a.codebook", "F32", [2, 1]),
    tensor("a.index", "U8", [2]),
    tensor("b.index", "U8", [1]),
)

HONEST_EDITS: list[tuple[Draft, tuple[Edit, ...]]] = [
    (KAN, (dense_layer,)),
    (KAN, (tensor("0.bias", "BF16", [3]),)),
    (INT8, ()),
    (INT8, (put("exceptions", {"0.bias": "plain"}), tensor("0.bias", "F16", [2]))),
    (
        OTHER,
        (
            put("exceptions", {"a.codebook": "int8"}),
            tensor("a.codebook", "U8", [2, 4], bytes.fromhex("003c7f01 003c017f")),
        ),
    ),
    (OTHER, (pieces([2, 4], [0, 2]),)),
    (OTHER, (put(SCALE, ["s", "F16", [9], {"fill": 65504}]),)),
    (OTHER, (put(SCALE, ["s", "BF16", [9], {"fill": -0.0}]),)),
    (OTHER, (put(SCALE, ["s", "I64", [0, 9], {"fill": -(2**63)}]),)),
    (OTHER, (put(STEPS, ["s", "F16", [3, 0], {"arange": [0.1, 1, 5, 0]}]),)),
    (OTHER, (put(f"{ENTRY}/#2", [2, 2, 4, 1]), put(f"{ORIGIN}/axes", "(out kh) (in kw coef)"))),
    (
        OTHER,  # blocks of one coefficient, two of them
        (put(f"{ENTRY}/#2", [4, 2, 2]), put(f"{ORIGIN}/axes", "(half out in) kh (kw coef)")),
    ),
    (OTHER, VOLUME),
    (OTHER, SHORTER),
    (
        OTHER,
        (
            put("layers/a/shape", [2, 1, 2, 1, 2]),
            put(f"{ORIGIN}/axes", "(kw coef) kd in kh out"),
            put(f"{ENTRY}/#2", [4, 2, 1, 1, 2]),
        ),
    ),
]


@pytest.mark.parametrize(("base", "edits"), HONEST_EDITS)
def test_what_the_page_allows_passes(base: Draft, edits: tuple[Edit, ...]) -> None:
    assert checker(made(base, *edits)) is None


# --- lies ------------------------------------------------------------------------------------

LIES: list[tuple[str, Draft, tuple[Edit, ...]]] = [
    ("1.1", KAN, (swap('"F32"', '"F31"'),)),
    ("1.1", KAN, (record("0.bias/shape", [4]),)),
    ("1.1", KAN, (record("0.bias/more", 0),)),
    ("1.1", KAN, (swap("{", "[{"),)),
    ("1.2", KAN, (attribute("padding", b"\n"), put("source/file", 600000))),
    ("1.2", KAN, (attribute("tail", b"12345678"),)),
    ("1.2", MLP, (attribute("order", ["0.codebook", "0.bias", "0.index"]),)),
    ("1.3", KAN, (record("0.bias/shape", [-3]),)),
    ("1.3", KAN, (record("0.bias/shape", [3.0]),)),
    ("1.3", KAN, (record("0.bias/shape", [2**63]),)),
    ("1.3", KAN, (swap('"0.codebook"', '"0.bias"'),)),
    ("1.3", KAN, (swap('\\"seed\\"', '\\"name\\"'),)),
    ("1.3", KAN, (put("data/seed", 10**101),)),
    ("1.3", KAN, (swap('\\"seed\\":0', '\\"seed\\":' + "[" * 200 + "]" * 200),)),
    ("1.3", OTHER, (put("restore/path", ["\ud800"]),)),
    ("1.4", KAN, (attribute("metadata", {"more": ""}),)),
    ("1.4", KAN, (swap('\\"seed\\":', '\\"seed\\": '),)),
    ("1.4", KAN, (swap('\\"seed\\"', '\\"zeed\\"'), put("data/validation", 0.5))),
    ("1.4", KAN, (swap('\\"seed\\":0', '\\"seed\\":NaN'),)),
    ("1.6", OTHER, (put("restore/tensors/#3/#3/repeat", ""), renamed("row", ""))),
    ("1.6", OTHER, (put("restore/tensors/#3/#3/repeat", "\x85"), renamed("row", "\x85"))),
    ("2", KAN, (put("version", 2),)),
    ("2", KAN, (put("version", True),)),
    ("2", KAN, (put("note", 1),)),
    ("2", KAN, (drop("source"),)),
    ("2", KAN, (drop("model"),)),
    ("2", KAN, (put("restore", {}),)),
    ("3.1", OTHER, (put("layers/a b", {"shape": [1, 1]}),)),
    ("3.1", MLP, (put("layers", {"1": {"shape": [2, 2]}}), renamed("0.codebook", "1.codebook"),
                  renamed("0.index", "1.index"), renamed("0.bias", "1.bias"))),
    ("3.2", KAN, (put("layers/0/shape", [3, 2, 1]),)),
    ("3.2", KAN, (put("layers/0/shape", [2**40, 2**40]),)),
    ("3.2", OTHER, (put("layers/b/codebook", "c"),)),
    ("3.2", OTHER, (put("layers/a/groups", 3),)),
    ("3.2", HONEST["cut"], (put("layers/0/parts", 1),)),
    ("3.2", OTHER, (*SHORTER, put("layers/b/parts", 2))),
    ("3.3", HONEST["cut"], (drop("layers/0/parts"),)),
    ("8.7", HONEST["pykan"], (put("restore/pykan/width/#1/#0", 2),)),
    ("8.7", HONEST["pykan"], (put("restore/pykan/symbolic/#1/#1", 0),)),
    ("8.7", HONEST["pykan"], (put("restore/pykan/device", "cuda"),)),
    ("8.7", HONEST["pykan"], (put("restore/path", ["model"]),)),
    ("4", HONEST["cut"], (tensor("0.index", "U8", [1]),)),
    ("3.3", MLP, (tensor("0.codebook", "F32", [1, 1]),)),
    ("3.3", KAN, (tensor("1.kept_at", "I64", [1], struct.pack("<q", 6)),)),
    ("3.3", KAN, (tensor("0.bias", "F32", [2]),)),
    ("3.3", KAN, (tensor("0.index", "U8", [2, 1]),)),
    ("3.4", KAN, (without("1.kept"),)),
    ("3.5", MLP, (without("0.codebook"),)),
    ("3.5", OTHER, (tensor("b.codebook", "F32", [2, 2]),)),
    ("3.6", KAN, (tensor("0.bias", "F32", [3], NAN),)),
    ("3.6", KAN, (tensor("0.bias", "BF16", [3], b"\x80\xff\0\0\0\0"),)),
    ("3.6", KAN, (tensor("0.bias", "I32", [3]),)),
    ("3.8", KAN, (tensor("1.index", "U8", [3], b"\xaa\x00\x00"),)),
    ("3.9", KAN, (tensor("more", "F32", [1]),)),
    ("3.9", OTHER, (tensor("more", "F32", [1]),)),
    ("4", KAN, (put("encodings/plain", ["bias", "codebook", "kept"]),)),
    ("4", KAN, (put("encodings/huffman", []),)),
    ("4", KAN, (put("exceptions", {}),)),
    ("4", KAN, (tensor("0.index", "U8", [3]),)),
    ("4", MLP, (tensor("0.index", "U8", [1], b"\x10"),)),
    ("5.1", KAN, (put("model/name", "kann"),)),
    ("5.1", KAN, (put("model/more", 1),)),
    ("5.1", KAN, (put("model/grid", [1.0, -1.0, 1]),)),
    ("5.1", KAN, (put("model/degree", 2),)),
    ("5.1", GRAM, (tensor("0.beta", "F32", [3]),)),
    ("5.1", GRAM, (tensor("0.norm", "F32", [4, 2]),)),
    ("5.1", KAN, (put("layers/1/shape", [3, 2]),)),
    ("5.2", KAN, (put("data/name", "a\nb"),)),
    ("5.2", KAN, (put("data/validation", 1.5),)),
    ("5.3", CONV, (put("model/strides", [0]),)),
    ("5.3", CONV, (put("model/padding", 17),)),
    ("5.3", CONV, (put("model/dropout", [0, 1]),)),
    ("5.3", CONV, (tensor("head.weight", "F32", [3, 3]),)),
    ("5.3", CONV, (tensor("head.bias", "F32", [3], NAN),)),
    ("5.3", CONV, (tensor("0.norm", "F32", [4, 2], floats(1, 1, 0, 0, 0, 0, 1, -1)),)),
    ("6", KAN, (put("source/file", -1),)),
    ("6", KAN, (put("source/dense", [1]),)),
    ("7", KAN, (put("checksum", "sha256-" + "B" * 43 + "="),)),
    ("7", KAN, (put("checksum", "sha512-" + "A" * 44),)),
    ("8.1", OTHER, (put("restore/container", "onnx"),)),
    ("8.1", OTHER, (put("restore/path", ["a"] * 65),)),
    ("8.1", OTHER, (put("restore/metadata", {"kancompress": ""}),)),
    ("8.2", OTHER, (put(f"{SCALE}/#0", "conv.w"),)),
    ("8.2", OTHER, (put(f"{SCALE}/#1", "C64"),)),
    ("8.2", OTHER, (put(f"{SCALE}/#2", [0, 2**62, 2]),)),
    ("8.2", OTHER, (put(f"{SCALE}/#3", {"zero": 0}),)),
    ("8.2", OTHER, (put(f"{ORIGIN}/more", 0),)),
    ("8.2", OTHER, (put(ORIGIN, {"parts": []}),)),
    ("8.3", OTHER, (put("restore/tensors/#6/#2", [1]),)),
    ("8.3", OTHER, (put("restore/tensors/#5/#3/as", "count"),)),
    ("8.3", OTHER, (put("restore/tensors/#5/#3/as", "a.bias"),)),
    ("8.3", OTHER, (put("restore/tensors/#7/#3/tie", "again"),)),
    ("8.3", OTHER, (put("restore/tensors/#7/#3/tie", "grid"),)),
    ("8.3", OTHER, (put("restore/tensors/#3/#2", [2, 4]),)),
    ("8.3", OTHER, (put(f"{SCALE}/#3/fill", 0.1),)),
    ("8.3", OTHER, (put(SCALE, ["s", "BF16", [1], {"fill": 257}]),)),
    ("8.3", OTHER, (put(SCALE, ["s", "I32", [1], {"fill": 2**31}]),)),
    ("8.3", OTHER, (put(SCALE, ["s", "I32", [1], {"fill": 1.0}]),)),
    ("8.3", OTHER, (put(f"{SCALE}/#2", [2**31]),)),
    ("8.3", OTHER, (put(f"{STEPS}/#3/arange", [0, 1, 0, 4]),)),
    ("8.3", OTHER, (put(f"{STEPS}/#3/arange", [2**63 - 2, 1, 0, 3]),)),
    ("4", INT8, (put("exceptions", {"0.beta": "int8"}),)),
    ("4.2.1", INT8, (tensor("0.bias", "I8", [4]),)),
    ("4.2.1", INT8, (tensor("0.codebook", "U8", [3, 2]),)),
    ("4.2.2", INT8, (tensor("0.bias", "U8", [4], bytes.fromhex("007c7f01")),)),
    ("4.2.2", INT8, (tensor("0.bias", "U8", [4], bytes.fromhex("002c8001")),)),
    ("4.2.2", INT8, (tensor("0.bias", "U8", [4], bytes.fromhex("002c7e01")),)),
    ("8.3", OTHER, (put(f"{STEPS}/#3/arange", [0, 1, 2**53 - 1, 3]),)),
    ("8.3", OTHER, (put(STEPS, ["s", "F16", [3], {"arange": [0.5, 1, 65518, 3]}]),)),
    ("8.3", OTHER, (put(f"{ORIGIN}/to", 3),)),
    ("8.3", OTHER, (put(f"{ORIGIN}/group", 0),)),
    ("8.3", OTHER, (put(f"{ORIGIN}/columns", [0, 3]),)),
    ("8.3", OTHER, (pieces([0, 2], [1, 3]),)),
    ("8.3", OTHER, (put(f"{ENTRY}/#1", "F16"), tensor("a.codebook", "F32", [2, 2],
                                                      floats(0, 65520, 0, 0)))),
    ("8.3", MLP, (put("layers/0/shape", [10**6, 10**6]), tensor("0.codebook", "F32", [1, 1]),
                  without("0.index"), without("0.bias"),
                  put("encodings", {"plain": ["codebook"]}))),
    ("8.4", OTHER, (put(f"{ORIGIN}/axes", "out (in (coef)) kh kw"),)),
    ("8.4", OTHER, (put(f"{ORIGIN}/axes", "out in coef -> out (in coef)"),)),
    ("8.4.1", OTHER, (put(f"{ORIGIN}/axes", "out (in coef) kh"),)),
    ("8.4.1", OTHER, (put(f"{ORIGIN}/axes", "out (in in) kh kw"),)),
    ("8.4.1", OTHER, (put(f"{ORIGIN}/axes", "out (in coef) kh kw depth"),)),
    ("8.4.1", OTHER, (put(f"{ORIGIN}/axes", "out in kh kw"),)),
    ("8.4.1", OTHER, (put(f"{ORIGIN}/axes", "out (in coef) kd kh kw"),)),
    ("8.4.1", OTHER, (*VOLUME, put(f"{ORIGIN}/axes", "out (in coef) 1 kh kw"))),
    ("8.4.1", OTHER, (*VOLUME, put(f"{ORIGIN}/axes", "out (in coef) kd kd kw"))),
    ("8.4.2", OTHER, (*VOLUME, put(f"{ORIGIN}/axes", "out (in coef) kw kh kd"))),
    ("8.4.2", OTHER, (*VOLUME, put(f"{ENTRY}/#2", [2, 2, 2, 2, 2]))),
    ("8.4.2", OTHER, (put(f"{ORIGIN}/axes", "(out in) coef (kh kw) 1"),)),
    ("8.4.2", OTHER, (put(f"{ENTRY}/#2", [2, 2, 2, 3]),)),
    ("8.4.2", OTHER, (put(f"{ORIGIN}/axes", "out (in coef half) kh kw"),)),
    ("8.5", OTHER, (put("restore/opaque", "rest"), tensor("rest", "U8", [5], b"bytes"))),
    ("8.5", OPAQUE, (put("restore/container", "torch-legacy"),)),
    ("8.5", OPAQUE, (put("restore/path", ["state"]),)),
    ("8.5", OPAQUE, (put(f"{ENTRY}/#0", "v"),)),
    ("8.5", OPAQUE, (put(f"{ENTRY}/#2", [4]),)),
    ("2", KAN, (put("forms", {"0": {"layout": "pykan"}}),)),
    ("9.1", FORMS, (put("forms", {}),)),
    ("9.1", FORMS, (put("forms/layers", {"layout": "pykan"}),
                    put("forms/layers.", {"layout": "pykan"}))),
    ("9.3", FORMS, (put("forms/w", {}),)),
    ("9.3", FORMS, (put("forms/w/layout", "a b"),)),
    ("9.3", FORMS, (put("forms/w/base_activation", "swish"),)),
    ("9.3", FORMS, (put("forms/w/rbf_denominator", 0),)),
    ("9.3", FORMS, (put("forms/w/grid_range", [1, 1]),)),
    ("9.3", FORMS, (put("forms/w/spline_order", 17),)),
    ("9.3", FORMS, (put("forms/w/symbolic", True),)),
    ("9.3", FORMS, (put("forms/w/assumed", ["spline_order"]),)),
    ("9.3", FORMS, (put("forms/layers.0/assumed", []),)),
    ("9.3", FORMS, (put("forms/layers.0/assumed", ["spline_order", "grid_range"]),)),
    ("9.3", FORMS, (put("forms/w/alpha", 1),)),
]  # fmt: skip


@pytest.mark.parametrize(("number", "base", "edits"), LIES)
def test_each_lie_is_named(number: str, base: Draft, edits: tuple[Edit, ...]) -> None:
    assert rule(made(base, *edits)) == number


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a size that is not the record's": lambda: archive(
        trainer(), ("0",), lambda pkl: pkl.replace(b"K\x01tq", b"K\x02tq", 1)
    ),
    "a tensor beyond its storage": lambda: archive(
        trainer(), ("0",), lambda pkl: pkl.replace(b"K\x02K\x01\x86", b"K\x02K\x02\x86")
    ),
    "a storage that no tensor covers": lambda: archive(trainer(), ("0", "2")),
    "half a storage that no tensor covers": lambda: archive(
        {"model": OrderedDict(w=torch.zeros(2, 4)[:, 1:3], n=torch.tensor(7))}, ("0",)
    ),
    "one record compressed": lambda: compressed(OPAQUE.tensors["rest"][2]),
    "another checksum": lambda: OPAQUE.tensors["rest"][2].replace(b"little", b"LITTLE"),
    "bytes behind": lambda: OPAQUE.tensors["rest"][2] + b"more",
    "no pickle": lambda: archive(trainer(), ("0",), lambda pkl: pkl[:-1]),
    "more from the stack than it has": lambda: archive(trainer(), ("0",), lambda _: b"\x80\x02."),
}


def compressed(content: bytes) -> bytes:
    again = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(again, "w") as target:
        for name in source.namelist():
            method = zipfile.ZIP_DEFLATED if name.endswith("version") else zipfile.ZIP_STORED
            target.writestr(zipfile.ZipInfo(name), source.read(name), method)
    return again.getvalue()


@pytest.mark.parametrize("name", ARCHIVES)
def test_lies_of_archives_are_named(name: str) -> None:
    content = ARCHIVES[name]()
    assert content != OPAQUE.tensors["rest"][2]
    assert rule(made(with_opaque(content))) == "8.5"


def one_key(pkl: bytes) -> bytes:
    """data.pkl in which the last storage has the first one's key."""
    key = b"X\x01\x00\x00\x00"
    place = pkl.rindex(key + b"2")
    return pkl[:place] + key + b"0" + pkl[place + len(key) + 1 :]


def test_one_storage_of_two_sizes_is_named() -> None:
    found = checker(made(with_opaque(archive(trainer(), ("0",), one_key))))
    assert found == "8.5: data.pkl names a storage with two types or sizes"


def test_a_transposed_view_covers_its_storage() -> None:
    value = trainer() | {"model": OrderedDict(w=torch.zeros(2, 2).T, n=torch.tensor(7))}
    assert checker(made(with_opaque(archive(value, ("0",))))) is None


def test_what_it_does_not_understand_is_no_fault() -> None:
    """A pickle that calls something in the place of the state dict."""
    content = archive(trainer() | {"model": torch.nn.Linear(1, 1)}, ("0",))
    assert rule(made(with_opaque(content))) == "unknown"


# --- real files ------------------------------------------------------------------------------


def packed(source: Any, keep: bool = False, k: int = 8) -> bytes:
    config = ClusterConfig(clusters=k, force_pack=True)
    return kancompress.encode(kancompress.cluster(source, config, keep_extra=keep).model)


def torch_file(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class Holder(nn.Module):
    """A module that holds tensors under any names."""

    def hold(self, name: str, value: Tensor) -> None:
        first, _, rest = name.partition(".")
        if rest:
            if first not in self._modules:
                self.add_module(first, Holder())
            self._modules[first].hold(rest, value)
        elif value.is_floating_point():
            self.register_parameter(first, nn.Parameter(value))
        else:
            self.register_buffer(first, value)


@pytest.mark.parametrize("case", ["efficient_kan_default", "fast_kan_default", "tck_fc_kagn"])
def test_packed_files_of_other_libraries_pass(case: str) -> None:
    path = CASES / case / "state.safetensors"
    state = load_file(path)
    module = Holder()
    for name, value in state.items():
        module.hold(name, value)
    content = {"epoch": 3, "state": state, "optimizer": {"m": torch.ones(2, 3).T}}
    for k in (1, 5, 8):
        assert checker(packed(path, k=k)) is None
    assert checker(packed(torch_file(content))) is None
    for value in (content, {"model": module}, module):
        raw = packed(torch_file(value), keep=True)
        assert kind(raw) == "packed"
        assert b"opaque" in raw
        assert checker(raw) is None


@pytest.mark.parametrize(
    "name", ["kan", "fastkan", "gramkan", "mlp", "kanconv", "fastkanconv", "gramkanconv", "metakan"]
)
def test_packed_native_networks_pass(name: str) -> None:
    for k in (1, 11):
        assert checker(packed(fresh(name, (64, 6, 10)), k=k)) is None


# --- what a fuzzer asks ------------------------------------------------------------------------


@pytest.mark.parametrize("base", [KAN, CONV, OTHER, OPAQUE])
def test_no_bytes_raise(base: Draft) -> None:
    draw = random.Random(0)
    honest = made(base)
    for _ in range(200):
        raw = bytearray(honest)
        for _ in range(draw.choice((1, 1, 3))):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        cut = bytes(raw[: draw.randrange(len(raw))]) if draw.random() < 0.1 else bytes(raw)
        found = checker(cut)
        assert found is None or "itself" not in found, found


CLAIMS: list[tuple[Draft, tuple[Edit, ...]]] = [
    (MLP, (tensor("0.codebook", "F32", [1, 1]), put("layers/0/shape", [2**31, 2**31]))),
    (KAN, (put("model/grid", [-1.0, 1.0, 2**62]),)),
    (OTHER, (put(f"{SCALE}/#2", [2**62]),)),
    (OTHER, (put("layers/c/shape", [0, 2]), tensor("c.coefficients", "F32", [0, 2, 2**50]))),
    (OTHER, (put(f"{STEPS}/#3/arange", [0, 1, 0, 2**53]), put(f"{STEPS}/#2", [2**53]))),
]


@pytest.mark.parametrize(("base", "edits"), CLAIMS)
def test_claims_cost_nothing(base: Draft, edits: tuple[Edit, ...]) -> None:
    raw = made(base, *edits)
    tracemalloc.start()
    try:
        found = checker(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found is None or "itself" not in found
    assert peak < 1_000_000


def test_rounding_to_bf16_is_that_of_torch() -> None:
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2**32, 500, dtype=np.uint32)
    edges = np.array([0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 1, 0x8000, 0x18000], np.uint32)
    values = np.concatenate([bits, edges]).view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values).to(torch.bfloat16).double().tolist()
    assert [rounded("BF16", float(value)) for value in values] == expected
