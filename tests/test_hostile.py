"""Files that lie: each must be refused with the flaw that it has, whatever it claims."""

import copy
import io
import json
import random
import re
import string
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import hostile
import kancompress
from hostile import (
    CONV,
    CUT,
    DENSE,
    FOREIGN,
    FORMS,
    GRAM,
    INT8,
    KAN,
    MASKED,
    META,
    MLP,
    PYKAN,
    RANS,
    SHORT,
    SHORT_CONV,
    SHORT_FOREIGN,
    SKELETON,
    Draft,
    attribute,
    drop,
    made,
    put,
    ramp,
    record,
    renamed,
    swap,
    tensor,
    without,
)
from kancompress.data import datasets
from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.safetensors import Container, parse
from kancompress.specs import DataOptions
from packed_checker import checker

VALID = made(KAN)
NAN, INFINITY = (struct.pack("<f", float(text)) for text in ("nan", "inf"))
HUGE = "9" * 5000


def header(text: str | bytes, payload: bytes = b"") -> bytes:
    """A file with this header."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw + payload


def flipped(at: int, bit: int = 0) -> bytes:
    """The valid file with one bit turned."""
    raw = bytearray(VALID)
    raw[at] ^= 1 << bit
    return bytes(raw)


def unsigned(old: bytes, new: bytes) -> bytes:
    """The valid file edited by someone who forgot the checksum."""
    assert VALID.count(old) == 1
    return VALID.replace(old, new)


def streamed(*edits: tuple[int, int], cut: int = 0, more: bytes = b"") -> bytes:
    """The file with entropy-coded indices, bytes of the first layer's changed, cut or added."""
    data = bytearray(RANS.tensors["0.index"][2])
    for place, value in edits:
        data[place] = value
    data = data[: len(data) - cut] + more
    return made(RANS, tensor("0.index", "U8", [len(data)], bytes(data)))


def with_table(start: str) -> bytes:
    """The same, of which another table comes first: its bits, the first of a byte on the right."""
    bits = start.replace(" ", "")
    table = int(bits, 2).to_bytes(-(-len(bits) // 8), "little")
    data = bytes([0, 0]) + table + struct.pack("<I", 1 << 16)
    return made(RANS, tensor("0.index", "U8", [len(data)], data))


def same_digest() -> bytes:
    """The valid file with a bit of its checksum turned that base64 decoders pass over."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    at = VALID.index(b"sha256-") + 7 + 42
    other = alphabet[alphabet.index(chr(VALID[at])) + 1].encode()
    return VALID[:at] + other + VALID[at + 1 :]


def positions(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def origin(number: int, value: object) -> hostile.Edit:
    return put(f"restore/tensors/#{number}/#3", value)


# The origin of the mask.
MASKED_ORIGIN = {"layer": "a", "axes": "in out", "live": 1, "silent": 0, "kept": 0.5}


def piece(**changes: object) -> dict[str, object]:
    """The origin of fc.w, changed."""
    return {"layer": "b", "axes": "out in coef", "from": 1, "to": 2} | changes


def opaque(edit: Callable[[dict[str, bytes]], None]) -> hostile.Edit:
    """Change the records of what is kept beside the tensors."""

    def change(draft: Draft) -> None:
        with zipfile.ZipFile(io.BytesIO(SKELETON)) as archive:
            records = {info.filename: archive.read(info) for info in archive.infolist()}
        edit(records)
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w") as archive:
            for name, content in records.items():
                archive.writestr(name, content)
        tensor("rest", "U8", [len(raw.getvalue())], raw.getvalue())(draft)

    return change


def pickled(old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    """Replace the first `old` in data.pkl."""

    def edit(records: dict[str, bytes]) -> None:
        name = next(name for name in records if name.endswith("/data.pkl"))
        assert old in records[name]
        records[name] = records[name].replace(old, new, 1)

    return edit


def storage_there(size: int) -> Callable[[dict[str, bytes]], None]:
    def edit(records: dict[str, bytes]) -> None:
        root = next(iter(records)).partition("/")[0]
        records[f"{root}/data/0"] = bytes(size)

    return edit


# The storage of conv.w has 16 numbers: K is BININT1. Its offset follows the storage (Q).
OPAQUE_LIES: list[tuple[str, Flaw, str, Callable[[dict[str, bytes]], None]]] = [
    ("storage-larger-than-its-tensors", Flaw.SIZE_MISMATCH, "storage '0'",
     pickled(b"K\x10t", b"K\x20t")),
    ("storage-of-petabytes", Flaw.SIZE_MISMATCH, "storage '0'",
     pickled(b"K\x10t", b"\x8a\x07\x00\x00\x00\x00\x00\x00\x04t")),
    ("storage-there-in-another-size", Flaw.SIZE_MISMATCH, "storage '0'", storage_there(60)),
    ("offset-beyond-the-storage", Flaw.BAD_OFFSETS, "'conv.w'", pickled(b"QK\x00", b"QK\x01")),
    ("no-pickle", Flaw.BAD_ZIP, "data.pkl", lambda records: records.clear()),
    ("pickle-of-a-command", Flaw.UNSAFE_PICKLE, "system", lambda records: records.update(
        {name: b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."
         for name in records if name.endswith("data.pkl")})),
]  # fmt: skip


# name, flaw, what the message must speak of, the file
CORPUS: list[tuple[str, Flaw, str, bytes]] = [
    # --- not a safetensors file ---
    ("empty", Flaw.EMPTY, "empty", b""),
    ("html", Flaw.HTML, "HTML", b"<!DOCTYPE html><html></html>"),
    ("html-after-white-space", Flaw.HTML, "HTML", b"\n\n  <html>{}</html>"),
    ("lfs-pointer", Flaw.GIT_LFS_POINTER, "git lfs pull",
     b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    ("torch-zip", Flaw.TORCH_PICKLE, "torch.save", b"PK\x03\x04" + bytes(60)),
    ("torch-legacy", Flaw.TORCH_PICKLE, "torch.save", b"\x80\x02\x8a\x0a" + bytes(60)),
    ("too-short", Flaw.TOO_SHORT, "7 bytes", VALID[:7]),
    ("nine-bytes", Flaw.TOO_SHORT, "9 bytes", VALID[:9]),
    ("png", Flaw.NOT_SAFETENSORS, "not a safetensors file", b"\x89PNG\r\n\x1a\n" + bytes(60)),
    ("zeros", Flaw.NOT_SAFETENSORS, "byte 8", bytes(64)),
    # --- header ---
    ("header-of-2^62-bytes", Flaw.HEADER_TOO_LARGE, str(2**62),
     struct.pack("<Q", 2**62) + VALID[8:]),
    ("header-over-the-limit", Flaw.HEADER_TOO_LARGE, "100000000",
     struct.pack("<Q", 100_000_001) + VALID[8:]),
    ("header-truncated", Flaw.HEADER_TRUNCATED, "ends inside its header", VALID[:300]),
    ("header-not-utf8", Flaw.HEADER_NOT_UTF8, "byte 10", header(b'{"\xff": 1}')),
    ("header-overlong-utf8", Flaw.HEADER_NOT_UTF8, "UTF-8", header(b'{"\xc0\xaf": 1}')),
    ("header-of-no-bytes", Flaw.HEADER_NOT_JSON, "not valid JSON", bytes(8) + b"{}"),
    ("header-not-json", Flaw.HEADER_NOT_JSON, "not valid JSON", header("{'a': 1}")),
    ("header-twice", Flaw.HEADER_NOT_JSON, "Extra data", header("{}{}")),
    ("header-nan", Flaw.HEADER_NOT_JSON, "NaN", header('{"a": NaN}')),
    ("header-infinity", Flaw.HEADER_NOT_JSON, "Infinity", header('{"a": -Infinity}')),
    ("header-1e999", Flaw.HEADER_NOT_JSON, "range", header('{"a": 1e999}')),
    ("header-number-of-5000-digits", Flaw.HEADER_NOT_JSON, "5000 digits",
     header(f'{{"a": {HUGE}}}')),
    ("header-nested-to-overflow", Flaw.HEADER_NOT_JSON, "recursion",
     header('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")),
    ("header-nested-deeply", Flaw.HEADER_NOT_JSON, "128 levels",
     header('{"a":' + "[" * 200 + "]" * 200 + "}")),
    ("header-lone-surrogate", Flaw.HEADER_NOT_JSON, "surrogates",
     made(KAN, swap('"0.bias"', '"\\ud800.bias"'))),
    ("header-list", Flaw.HEADER_NOT_OBJECT, "list", header("[1, 2, 3]")),
    ("tensor-name-twice", Flaw.DUPLICATE_KEY, "'0.codebook'",
     made(KAN, swap('"1.codebook"', '"0.codebook"'))),
    ("tensor-name-twice-in-escapes", Flaw.DUPLICATE_KEY, "'0.codebook'",
     made(KAN, swap('"1.codebook"', '"\\u0030.codebook"'))),
    ("metadata-twice", Flaw.DUPLICATE_KEY, "'__metadata__'",
     made(KAN, swap('"0.bias"', '"__metadata__"'))),
    ("dtype-twice", Flaw.DUPLICATE_KEY, "'dtype'", made(KAN, swap('"shape"', '"dtype"'))),
    ("metadata-null", Flaw.METADATA_NOT_STRINGS, "__metadata__",
     made(KAN, record("__metadata__", None))),
    ("metadata-list", Flaw.METADATA_NOT_STRINGS, "__metadata__",
     made(KAN, record("__metadata__", ["kancompress"]))),
    ("metadata-number", Flaw.METADATA_NOT_STRINGS, "__metadata__",
     made(KAN, record("__metadata__/kancompress", 1))),
    ("document-unquoted", Flaw.METADATA_NOT_STRINGS, "__metadata__",
     made(KAN, record("__metadata__/kancompress", {"version": 1}))),
    # --- tensor records ---
    ("record-is-a-list", Flaw.TENSOR_RECORD, "'0.bias'", made(KAN, record("0.bias", [1]))),
    ("record-with-extra-key", Flaw.TENSOR_RECORD, "'0.bias'",
     made(KAN, record("0.bias/note", "hidden"))),
    ("record-without-shape", Flaw.TENSOR_RECORD, "'0.bias'",
     made(KAN, record("0.bias", {"dtype": "F32", "data_offsets": [0, 12]}))),
    ("dtype-unknown", Flaw.UNKNOWN_DTYPE, "'F31'", made(KAN, record("0.bias/dtype", "F31"))),
    ("dtype-list", Flaw.UNKNOWN_DTYPE, "['F32']", made(KAN, record("0.bias/dtype", ["F32"]))),
    ("dtype-long", Flaw.UNKNOWN_DTYPE, "100002 characters",
     made(KAN, record("0.bias/dtype", "F" * 100_000))),
    ("shape-negative", Flaw.BAD_SHAPE, "[-3]", made(KAN, record("0.bias/shape", [-3]))),
    ("shape-float", Flaw.BAD_SHAPE, "[3.0]", made(KAN, record("0.bias/shape", [3.0]))),
    ("shape-bool", Flaw.BAD_SHAPE, "[True]", made(KAN, record("0.bias/shape", [True]))),
    ("shape-string", Flaw.BAD_SHAPE, "'3'", made(KAN, record("0.bias/shape", "3"))),
    ("shape-nested", Flaw.BAD_SHAPE, "[[3]]", made(KAN, record("0.bias/shape", [[3]]))),
    ("shape-of-2^63", Flaw.BAD_SHAPE, str(2**63), made(KAN, record("0.bias/shape", [2**63]))),
    ("shape-minus-zero", Flaw.BAD_SHAPE, "-0.0", made(KAN, swap('"shape":[3]', '"shape":[3,-0]'))),
    ("shape-of-100-digits", Flaw.BAD_SHAPE, "characters",
     made(KAN, swap('"shape":[3]', f'"shape":[{"9" * 99},{"9" * 99}]'))),
    ("shape-that-wraps-to-3", Flaw.BAD_SHAPE, "below 2^63",
     made(KAN, record("0.bias/shape", [2**62, 4, 3]))),
    ("shape-that-wraps-behind-zero", Flaw.BAD_SHAPE, "below 2^63",
     made(KAN, record("0.bias/shape", [0, 2**62, 3]))),
    ("shape-with-a-product-of-10000-digits", Flaw.BAD_SHAPE, "below 2^63",
     made(KAN, record("0.bias/shape", [2**62] * 600))),
    ("offsets-reversed", Flaw.BAD_OFFSETS, "'0.bias'",
     made(KAN, record("0.bias/data_offsets", [20, 8]))),
    ("offsets-negative", Flaw.BAD_OFFSETS, "[-4, 8]",
     made(KAN, record("0.bias/data_offsets", [-4, 8]))),
    ("offsets-of-three", Flaw.BAD_OFFSETS, "[8, 20, 20]",
     made(KAN, record("0.bias/data_offsets", [8, 20, 20]))),
    ("offsets-float", Flaw.BAD_OFFSETS, "20.0",
     made(KAN, record("0.bias/data_offsets", [8, 20.0]))),
    ("shape-larger-than-offsets", Flaw.SIZE_MISMATCH, "needs 16 bytes",
     made(KAN, record("0.bias/shape", [4]))),
    ("dtype-wider-than-offsets", Flaw.SIZE_MISMATCH, "needs 24 bytes",
     made(KAN, record("0.bias/dtype", "F64"))),
    ("shape-of-petabytes", Flaw.SIZE_MISMATCH, str(2**52),
     made(KAN, record("0.bias/shape", [2**50]))),
    # --- layout ---
    ("overlap", Flaw.OVERLAP, "'0.codebook'",
     made(KAN, record("0.codebook/data_offsets", [16, 64]))),
    ("same-bytes-twice", Flaw.OVERLAP, "overlaps",
     made(KAN, record("1.kept/data_offsets", [8, 20]))),
    ("hole", Flaw.HOLE, "'0.codebook'",
     made(KAN, record("0.bias", {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}))),
    ("hole-before-the-first", Flaw.HOLE, "'0.bias'", made(KAN, record("1.kept_at",
     {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}))),
    ("no-bytes-inside-another", Flaw.OVERLAP, "'0.void'",
     made(KAN, record("0.void", {"dtype": "F32", "shape": [0], "data_offsets": [12, 12]}))),
    ("trailing-bytes", Flaw.TRAILING_BYTES, "4 bytes", made(KAN, attribute("tail", b"more"))),
    ("payload-truncated", Flaw.TRUNCATED, "1 bytes too early", VALID[:-1]),
    ("payload-missing", Flaw.TRUNCATED, "too early", VALID[: -sum(
        len(data) for _, _, data in KAN.tensors.values())]),
    ("last-tensor-of-petabytes", Flaw.TRUNCATED, "too early", made(KAN, record("1.index",
     {"dtype": "U8", "shape": [2**52], "data_offsets": [202, 202 + 2**52]}))),
    ("header-not-padded", Flaw.MISALIGNED, "multiple of 8",
     made(KAN, put("source/file", 12), attribute("padding", b""))),
    ("header-padded-with-tabs", Flaw.MISALIGNED, "spaces",
     made(KAN, put("source/file", 12), attribute("padding", b"\t"))),
    ("tensors-by-name-only", Flaw.TENSOR_ORDER, "order",
     made(KAN, attribute("order", sorted(KAN.tensors)))),
    ("tensors-of-one-size-swapped", Flaw.TENSOR_ORDER, "order", made(KAN, attribute("order", [
        "1.kept_at", "0.codebook", "0.bias", "1.codebook", "1.kept", "0.index", "1.index"]))),
    ("name-empty", Flaw.BAD_TENSOR_NAME, "''", made(KAN, tensor("", "U8", [1]))),
    ("name-with-newline", Flaw.BAD_TENSOR_NAME, "0.\\nbias",
     made(KAN, renamed("0.bias", "0.\nbias"))),
    ("name-with-escape", Flaw.BAD_TENSOR_NAME, "x1b",
     made(FOREIGN, renamed("count", "\x1b[2J"), put("restore/tensors/#6/#0", "\x1b[2J"))),
    ("name-with-c1-control", Flaw.BAD_TENSOR_NAME, "x9b",
     made(FOREIGN, renamed("rest", "\x9bJ"), put("restore/opaque", "\x9bJ"))),
    # --- document ---
    ("no-document", Flaw.NOT_KANCOMPRESS, "did not write it",
     made(KAN, record("__metadata__", {"format": "pt"}))),
    ("no-metadata", Flaw.NOT_KANCOMPRESS, "metadata", header('{"__metadata__":{}}')),
    ("no-tensors", Flaw.NOT_KANCOMPRESS, "metadata", header("{}")),
    ("metadata-beside-the-document", Flaw.EXTRA_METADATA, "['format']",
     made(KAN, attribute("metadata", {"format": "pt"}))),
    ("document-not-json", Flaw.DOCUMENT_NOT_JSON, "document",
     made(KAN, record("__metadata__/kancompress", "version: 1"))),
    ("document-list", Flaw.DOCUMENT_NOT_JSON, "object",
     made(KAN, record("__metadata__/kancompress", "[1]"))),
    ("document-null", Flaw.DOCUMENT_NOT_JSON, "object",
     made(KAN, record("__metadata__/kancompress", "null"))),
    ("document-nan", Flaw.DOCUMENT_NOT_JSON, "NaN", made(KAN, put("data/mean", [float("nan")]))),
    ("document-1e999", Flaw.DOCUMENT_NOT_JSON, "range", made(KAN, swap("[0.5]", "[1e999]"))),
    ("document-5000-digits", Flaw.DOCUMENT_NOT_JSON, "5000 digits",
     made(KAN, swap('\\"file\\":600', f'\\"file\\":{HUGE}'))),
    ("document-lone-surrogate", Flaw.DOCUMENT_NOT_JSON, "surrogates",
     made(FOREIGN, put("restore/path", ["\udc00"]))),
    ("document-nested-deeply", Flaw.DOCUMENT_NOT_JSON, "128 levels",
     made(KAN, swap("[0.5]", "[" * 300 + "]" * 300))),
    ("document-key-twice", Flaw.DUPLICATE_KEY, "'version'",
     made(KAN, swap('\\"version\\":1', '\\"version\\":1,\\"version\\":1'))),
    ("layer-twice", Flaw.DUPLICATE_KEY, "'1'",
     made(KAN, swap('\\"0\\":{\\"shape\\"', '\\"1\\":{\\"shape\\"'))),
    ("document-with-a-space", Flaw.DOCUMENT_NOT_CANONICAL, "canonical",
     made(KAN, swap('\\"version\\":1', '\\"version\\": 1'))),
    ("document-unsorted", Flaw.DOCUMENT_NOT_CANONICAL, "sorted", made(KAN, swap(
        '\\"degree\\":1,\\"grid\\":[-1.0,1.0,1]', '\\"grid\\":[-1.0,1.0,1],\\"degree\\":1'))),
    ("document-escapes-ascii", Flaw.DOCUMENT_NOT_CANONICAL, "canonical",
     made(KAN, swap('\\"kan\\"', '\\"\\\\u006ban\\"'))),
    ("document-not-ascii", Flaw.DOCUMENT_NOT_CANONICAL, "canonical",
     made(KAN, swap('\\"name\\":\\"file\\"', '\\"name\\":\\"fïle\\"'))),
    ("document-exponent", Flaw.DOCUMENT_NOT_CANONICAL, "canonical",
     made(KAN, swap("[-1.0,1.0,1]", "[-1e0,1.0,1]"))),
    ("document-minus-zero", Flaw.DOCUMENT_NOT_CANONICAL, "canonical",
     made(KAN, swap('\\"seed\\":0', '\\"seed\\":-0'))),
    ("no-version", Flaw.MISSING_KEY, "'version'", made(KAN, drop("version"))),
    ("version-2", Flaw.LATER_VERSION, "version 2", made(KAN, put("version", 2))),
    ("version-2-with-everything-else", Flaw.LATER_VERSION, "--upgrade",
     made(KAN, put("version", 2), drop("kind"), put("layers", [1]), put("new", 1))),
    ("version-0", Flaw.BAD_VALUE, "version is 0", made(KAN, put("version", 0))),
    ("version-bool", Flaw.BAD_VALUE, "version is True", made(KAN, put("version", True))),
    ("version-string", Flaw.BAD_VALUE, "version is '1'", made(KAN, put("version", "1"))),
    ("version-float", Flaw.BAD_VALUE, "version is 1.0", made(KAN, put("version", 1.0))),
    ("no-kind", Flaw.MISSING_KEY, "'kind'", made(KAN, drop("kind"))),
    ("kind-unknown", Flaw.WRONG_KIND, "'zipped'", made(KAN, put("kind", "zipped"))),
    ("kind-list", Flaw.WRONG_KIND, "['packed']", made(KAN, put("kind", ["packed"]))),
    ("kind-of-another-file", Flaw.UNKNOWN_KEY, "'checksum'", made(KAN, put("kind", "dense"))),
    *(
        (f"no-{key}", Flaw.MISSING_KEY, key, made(KAN, drop(key)))
        for key in ("checksum", "layers", "encodings", "source", "model")
    ),
    ("key-unknown", Flaw.UNKNOWN_KEY, "'author'", made(KAN, put("author", "me"))),
    ("key-with-newline", Flaw.UNKNOWN_KEY, "\\n", made(KAN, put("a\nb", 1))),
    # --- source, model, data ---
    ("source-number", Flaw.BAD_VALUE, "source is 5", made(KAN, put("source", 5))),
    ("source-without-file", Flaw.BAD_VALUE, "source.file", made(KAN, drop("source/file"))),
    ("source-negative", Flaw.BAD_VALUE, "-1", made(KAN, put("source/file", -1))),
    ("source-dense-of-one", Flaw.BAD_VALUE, "source.dense", made(KAN, put("source/dense", [1]))),
    ("source-with-path", Flaw.BAD_VALUE, "source.path", made(KAN, put("source/path", "/home/me"))),
    ("model-unknown", Flaw.UNKNOWN_MODEL, "'waveletkan'",
     made(KAN, put("model/name", "waveletkan"))),
    ("model-of-a-list", Flaw.UNKNOWN_MODEL, "['kan']", made(KAN, put("model", ["kan"]))),
    ("model-key-unknown", Flaw.BAD_VALUE, "model.order", made(KAN, put("model/order", 3))),
    ("model-key-with-newline", Flaw.BAD_VALUE, "\\n", made(KAN, put("model/a\nb", 3))),
    ("model-key-of-another", Flaw.BAD_VALUE, "model.grid",
     made(GRAM, put("model/grid", [-1.0, 1.0, 1]))),
    ("strides-missing", Flaw.BAD_VALUE, "model.strides", made(CONV, drop("model/strides"))),
    ("strides-of-two-layers", Flaw.BAD_VALUE, "2 numbers for 1 layers",
     made(CONV, put("model/strides", [1, 2]))),
    ("stride-0", Flaw.BAD_VALUE, "model.strides", made(CONV, put("model/strides", [0]))),
    ("strides-number", Flaw.BAD_VALUE, "model.strides", made(CONV, put("model/strides", 2))),
    ("padding-negative", Flaw.BAD_VALUE, "model.padding", made(CONV, put("model/padding", -1))),
    ("padding-huge", Flaw.BAD_VALUE, "model.padding", made(CONV, put("model/padding", 1024))),
    ("padding-half", Flaw.BAD_VALUE, "model.padding", made(CONV, put("model/padding", 0.5))),
    ("dropout-of-all", Flaw.BAD_VALUE, "model.dropout",
     made(CONV, put("model/dropout", [0.25, 1.0]))),
    ("dropout-of-one", Flaw.BAD_VALUE, "model.dropout", made(CONV, put("model/dropout", [0.25]))),
    ("strides-of-a-kan", Flaw.BAD_VALUE, "model.strides", made(KAN, put("model/strides", [1, 1]))),
    ("conv-of-matrices", Flaw.BAD_VALUE, "[out, in, rows, columns]",
     made(CONV, put("layers/0/shape", [2, 2]))),
    ("kan-of-kernels", Flaw.BAD_VALUE, "[out, in]",
     made(MLP, put("layers/0/shape", [2, 1, 1, 2]))),
    ("head-missing", Flaw.MISSING_TENSOR, "'head.weight'", made(CONV, without("head.weight"))),
    ("head-bias-missing", Flaw.MISSING_TENSOR, "'head.bias'", made(CONV, without("head.bias"))),
    ("head-of-other-channels", Flaw.WRONG_SHAPE, "head.weight",
     made(CONV, tensor("head.weight", "F32", [3, 4]))),
    ("head-of-no-outputs", Flaw.WRONG_SHAPE, "head.weight",
     made(CONV, tensor("head.weight", "F32", [0, 2]))),
    ("head-of-other-classes", Flaw.BAD_VALUE, "data names 3",
     made(CONV, tensor("head.weight", "F32", [4, 2]), tensor("head.bias", "F32", [4]))),
    ("head-of-whole-numbers", Flaw.WRONG_DTYPE, "head.bias",
     made(CONV, tensor("head.bias", "I32", [3]))),
    ("head-nan", Flaw.NOT_FINITE, "head.bias",
     made(CONV, tensor("head.bias", "F32", [3], NAN + bytes(8)))),
    ("head-of-a-kan", Flaw.UNEXPLAINED_TENSOR, "head.bias",
     made(KAN, tensor("head.bias", "F32", [2]))),
    ("norm-without-statistics", Flaw.WRONG_SHAPE, "0.norm",
     made(CONV, tensor("0.norm", "F32", [2, 2]))),
    ("variance-negative", Flaw.BAD_VALUE, "negative running variance",
     made(CONV, tensor("0.norm", "F32", [4, 2], hostile.floats(1, 1, 0, 0, 0, 0, 1, -1)))),
    ("groups-of-a-native-network", Flaw.BAD_VALUE, "layer '0' should have no groups",
     made(CONV, put("layers/0/groups", 2))),
    ("slope-of-each-channel", Flaw.WRONG_SHAPE, "0.slope",
     made(CONV, tensor("0.slope", "F32", [2]))),
    ("grid-of-an-mlp", Flaw.BAD_VALUE, "model.grid",
     made(MLP, put("model/grid", [-1.0, 1.0, 1]))),
    ("model-metakanconv", Flaw.UNKNOWN_MODEL, "metakanconv",
     made(CONV, put("model/name", "metakanconv"))),
    ("grid-missing", Flaw.BAD_VALUE, "model.grid", made(KAN, drop("model/grid"))),
    ("grid-reversed", Flaw.BAD_VALUE, "low < high", made(KAN, put("model/grid", [1.0, -1.0, 1]))),
    ("grid-of-two", Flaw.BAD_VALUE, "model.grid", made(KAN, put("model/grid", [-1.0, 1.0]))),
    ("grid-size-0", Flaw.BAD_VALUE, "model.grid", made(KAN, put("model/grid", [-1.0, 1.0, 0]))),
    ("grid-size-float", Flaw.BAD_VALUE, "1.0",
     made(KAN, put("model/grid", [-1.0, 1.0, 1.0]))),
    ("grid-of-100-digits", Flaw.BAD_VALUE, "model.grid",
     made(KAN, swap("[-1.0,1.0,1]", f"[-1.0,1.0,{'9' * 100}]"))),
    ("grid-bound-of-400-digits", Flaw.DOCUMENT_NOT_JSON, "400 digits",
     made(KAN, swap("[-1.0,1.0,1]", f"[-1.0,{'9' * 400},1]"))),
    ("degree-bool", Flaw.BAD_VALUE, "model.degree", made(KAN, put("model/degree", True))),
    ("degree-huge", Flaw.BAD_VALUE, "model.degree", made(KAN, put("model/degree", 2**40))),
    ("degree-of-another-width", Flaw.WRONG_SHAPE, "needs 4", made(KAN, put("model/degree", 2))),
    ("data-classes-of-another", Flaw.BAD_VALUE, "data names 10",
     made(KAN, put("data/classes", 10))),
    ("data-targets-of-another", Flaw.BAD_VALUE, "data names 3",
     made(KAN, put("data", {"name": "file", "seed": 0, "targets": 3}))),
    ("data-classes-and-targets", Flaw.BAD_VALUE, "both", made(KAN, put("data/targets", 2))),
    ("data-without-seed", Flaw.BAD_VALUE, "data.seed", made(KAN, drop("data/seed"))),
    ("data-name-number", Flaw.BAD_VALUE, "data.name", made(KAN, put("data/name", 7))),
    ("data-name-control", Flaw.BAD_VALUE, "data.name", made(KAN, put("data/name", "\x1b[2J"))),
    ("data-mean-without-std", Flaw.BAD_VALUE, "data.std", made(KAN, drop("data/std"))),
    ("data-std-0", Flaw.BAD_VALUE, "positive", made(KAN, put("data/std", [0.0]))),
    ("data-validation-1", Flaw.BAD_VALUE, "data.validation", made(KAN, put("data/validation", 1))),
    ("data-path", Flaw.BAD_VALUE, "data.path", made(KAN, put("data/path", "/home/me"))),
    # --- layers ---
    ("layers-list", Flaw.BAD_VALUE, "layers", made(KAN, put("layers", [1]))),
    ("layers-none", Flaw.BAD_VALUE, "layers", made(KAN, put("layers", {}))),
    ("layer-null", Flaw.BAD_VALUE, "'0'", made(KAN, put("layers/0", None))),
    ("layer-key-unknown", Flaw.UNKNOWN_KEY, "'bits'", made(KAN, put("layers/0/bits", 2))),
    ("layer-without-shape", Flaw.MISSING_KEY, "'shape'", made(KAN, drop("layers/0/shape"))),
    ("layer-name-with-slash", Flaw.BAD_VALUE, "'../0'",
     made(KAN, put("layers/0", {"shape": [3, 2]}), put("layers",
          {"../0": {"shape": [3, 2]}, "1": {"shape": [2, 3]}}))),
    ("layer-name-empty", Flaw.BAD_VALUE, "''",
     made(GRAM, put("layers", {"": {"shape": [2, 2]}}))),
    ("layer-shape-number", Flaw.BAD_VALUE, "[out, in]", made(KAN, put("layers/0/shape", 6))),
    *(
        (f"layer-shape-of-{len(shape)}-lengths", Flaw.BAD_VALUE, "[out, in, depth, rows, columns]",
         made(KAN, put("layers/0/shape", shape)))
        for shape in ([6], [3, 2, 1], [3, 2, 1, 1, 1, 1])
    ),
    ("layer-of-a-volume-in-a-native-network", Flaw.BAD_VALUE, "not [out, in]",
     made(KAN, put("layers/0/shape", [3, 2, 1, 1, 1]))),
    ("volume-of-more-edges-than-can-be-numbered", Flaw.BAD_VALUE, "layer 'a'",
     made(FOREIGN, put("layers/a/shape", [2**31 - 1] * 5))),
    ("layer-shape-of-three", Flaw.BAD_VALUE, "[3, 2, 1]",
     made(KAN, put("layers/0/shape", [3, 2, 1]))),
    ("layer-shape-zero", Flaw.BAD_VALUE, "[0, 2]", made(KAN, put("layers/0/shape", [0, 2]))),
    ("layer-shape-float", Flaw.BAD_VALUE, "[3.0, 2]", made(KAN, put("layers/0/shape", [3.0, 2]))),
    ("layer-shape-bool", Flaw.BAD_VALUE, "True", made(KAN, put("layers/0/shape", [3, True]))),
    ("layer-shape-of-2^31", Flaw.BAD_VALUE, str(2**31),
     made(KAN, put("layers/0/shape", [2**31, 2]))),
    ("layer-of-2^120-edges", Flaw.BAD_VALUE, "'a'", made(
        FOREIGN, put("layers/a/shape", [2**30] * 4), tensor("a.codebook", "F32", [1, 2]),
        tensor("a.kept_at", "I64", [1]), tensor("a.kept", "F32", [1, 2]), without("a.index"))),
    ("layer-of-many-petabytes", Flaw.INDEX_LENGTH, "indices",
     made(FOREIGN, put("layers/a/shape", [2**30, 2**30, 1, 1]))),
    ("layer-of-a-convolution-in-a-native-network", Flaw.BAD_VALUE, "not [out, in]",
     made(GRAM, put("layers/0/shape", [2, 2, 1, 1]))),
    ("layers-that-do-not-chain", Flaw.BAD_VALUE, "3 outputs",
     made(KAN, put("layers/1/shape", [3, 2]))),
    ("layers-that-do-not-count", Flaw.UNKNOWN_LAYER, "no layer '0'",
     made(GRAM, put("layers", {"1": {"shape": [2, 2]}}), renamed("0.codebook", "1.codebook"),
          renamed("0.index", "1.index"), renamed("0.norm", "1.norm"), renamed("0.beta", "1.beta"))),
    ("codebook-of-itself", Flaw.BAD_CODEBOOK_REFERENCE, "'b'",
     made(FOREIGN, put("layers/b/codebook", "b"))),
    ("codebook-of-nobody", Flaw.BAD_CODEBOOK_REFERENCE, "'z'",
     made(FOREIGN, put("layers/b/codebook", "z"))),
    ("codebook-of-a-dense-layer", Flaw.BAD_CODEBOOK_REFERENCE, "'c'",
     made(FOREIGN, put("layers/b/codebook", "c"))),
    ("codebook-of-a-layer-that-shares", Flaw.BAD_CODEBOOK_REFERENCE, "'b'",
     made(FOREIGN, put("layers/d", {"shape": [2, 2], "codebook": "b"}), tensor("d.index", "U8",
          [1]))),
    ("codebook-of-a-list", Flaw.BAD_CODEBOOK_REFERENCE, "['a']",
     made(FOREIGN, put("layers/b/codebook", ["a"]))),
    ("codebook-of-its-own-and-shared", Flaw.CONFLICTING_TENSORS, "two codebooks",
     made(FOREIGN, tensor("b.codebook", "F32", [2, 2]))),
    # --- encodings ---
    ("encodings-list", Flaw.BAD_VALUE, "encodings", made(KAN, put("encodings", []))),
    ("encodings-by-role", Flaw.BAD_VALUE, "sorted list", made(GRAM, put("encodings", {
        "index": "bits", "beta": "plain", "codebook": "plain", "norm": "plain"}))),
    ("encodings-unsorted", Flaw.BAD_VALUE, "sorted",
     made(GRAM, put("encodings/plain", ["codebook", "beta", "norm"]))),
    ("encodings-role-twice", Flaw.BAD_VALUE, "sorted",
     made(GRAM, put("encodings/plain", ["beta", "codebook", "codebook", "norm"]))),
    ("encodings-two-for-a-role", Flaw.BAD_VALUE, "no other",
     made(GRAM, put("encodings/plain", ["beta", "codebook", "index", "norm"]))),
    ("encodings-of-numbers", Flaw.BAD_VALUE, "[1]", made(KAN, put("encodings/plain", [1]))),
    ("encoding-of-no-role", Flaw.BAD_VALUE, "'huffman'", made(KAN, put("encodings/huffman", []))),
    ("encoding-of-an-absent-role", Flaw.BAD_VALUE, "'norm'",
     made(KAN, put("encodings/plain", ["bias", "codebook", "kept", "kept_at", "norm"]))),
    ("encoding-of-an-unknown-role", Flaw.UNKNOWN_ROLE, "'scale'",
     made(GRAM, put("encodings/plain", ["beta", "codebook", "norm", "scale"]))),
    ("encoding-missing", Flaw.MISSING_KEY, "'beta'",
     made(GRAM, put("encodings/plain", ["codebook", "norm"]))),
    ("encoding-unknown", Flaw.UNKNOWN_ENCODING, "'huffman'",
     made(GRAM, put("encodings", {"huffman": ["index"], "plain": ["beta", "codebook", "norm"]}))),
    ("encoding-of-another-role", Flaw.UNKNOWN_ENCODING, "'0.index'",
     made(GRAM, put("encodings", {"plain": ["beta", "codebook", "index", "norm"]}))),
    ("int8-of-another-type", Flaw.WRONG_DTYPE, "'0.codebook' has the dtype I8",
     made(INT8, tensor("0.codebook", "I8", [3, 5]))),
    ("int8-without-numbers", Flaw.WRONG_SHAPE, "'0.codebook'",
     made(INT8, tensor("0.codebook", "U8", [3, 2]))),
    ("int8-in-one-row", Flaw.WRONG_SHAPE, "'0.codebook'",
     made(INT8, tensor("0.codebook", "U8", [15]))),
    ("int8-without-rows", Flaw.WRONG_SHAPE, "'0.codebook'",
     made(INT8, tensor("0.codebook", "U8", [0, 5]))),
    ("int8-of-more-coefficients", Flaw.WRONG_SHAPE, "4 coefficients",
     made(INT8, tensor("0.codebook", "U8", [4, 5]))),
    ("int8-of-too-many-centroids", Flaw.TOO_MANY_CENTROIDS, "65537",
     made(INT8, tensor("0.codebook", "U8", [3, 65_539]))),
    ("int8-of-another-bias", Flaw.WRONG_SHAPE, "[3]",
     made(INT8, tensor("0.bias", "U8", [5]))),
    ("int8-of-a-bias-in-rows", Flaw.WRONG_SHAPE, "'0.bias'",
     made(INT8, tensor("0.bias", "U8", [1, 4]))),
    ("int8-of-running-statistics", Flaw.WRONG_SHAPE, "[2, 2 + features]",
     made(CONV, tensor("0.norm", "U8", [4, 4]), put("exceptions", {"0.norm": "int8"}),
          put("encodings", {"bits": ["index"], "plain": ["codebook", "norm", "slope"]}))),
    ("int8-of-a-beta", Flaw.UNKNOWN_ENCODING, "'0.beta'",
     made(INT8, put("exceptions", {"0.beta": "int8"}))),
    ("int8-of-a-source-tensor", Flaw.UNKNOWN_ENCODING, "'row'",
     made(FOREIGN, put("exceptions", {"row": "int8"}))),
    *((f"int8-{what}", flaw, says, made(INT8, tensor("0.bias", "U8", [4], bytes.fromhex(row))))
      for what, flaw, says, row in (
        ("of-least", Flaw.BAD_VALUE, "-128", "002c8001"),
        ("infinite", Flaw.NOT_FINITE, "'0.bias'", "007c7f01"),
        ("nan", Flaw.NOT_FINITE, "'0.bias'", "ff7f7f01"),
        ("negative-nan", Flaw.NOT_FINITE, "'0.bias'", "01fe7f01"),
        ("negative", Flaw.BAD_VALUE, "negative", "00ac7f01"),
        ("negative-zero", Flaw.BAD_VALUE, "negative", "00800000"),
        ("of-a-scale-too-large", Flaw.BAD_VALUE, "not the smallest", "00303f01"),
        ("of-a-scale-just-too-large", Flaw.BAD_VALUE, "not the smallest", "002c7e01"),
        ("of-a-tiny-scale-too-large", Flaw.BAD_VALUE, "not the smallest", "02003f3f"),
        ("of-no-scale", Flaw.BAD_VALUE, "not the smallest", "00000001"),
        ("of-a-scale-of-zeros", Flaw.BAD_VALUE, "not the smallest", "01000000"))),
    ("exceptions-list", Flaw.BAD_VALUE, "exceptions", made(KAN, put("exceptions", ["0.bias"]))),
    ("exception-of-no-tensor", Flaw.BAD_VALUE, "'9.bias'",
     made(KAN, put("exceptions", {"9.bias": "int8"}))),
    ("exception-unknown", Flaw.UNKNOWN_ENCODING, "'0.codebook'",
     made(KAN, put("exceptions", {"0.codebook": "float16"}))),
    ("exception-null", Flaw.UNKNOWN_ENCODING, "None",
     made(KAN, put("exceptions", {"0.codebook": None}))),
    ("exception-that-is-none", Flaw.BAD_VALUE, "'0.codebook'",
     made(KAN, put("exceptions", {"0.codebook": "plain"}))),
    ("exception-of-a-source-tensor", Flaw.UNKNOWN_ENCODING, "'row'",
     made(FOREIGN, put("exceptions", {"row": "huffman"}))),
    # --- tensors against the document ---
    ("both-dense-and-packed", Flaw.CONFLICTING_TENSORS, "both", made(
        KAN, tensor("0.coefficients", "F32", [3, 2, 3]),
        put("encodings/plain", ["bias", "codebook", "coefficients", "kept", "kept_at"]))),
    ("dense-with-index", Flaw.CONFLICTING_TENSORS, "'c'", made(FOREIGN, tensor("c.index", "U8",
     [1]))),
    ("neither-dense-nor-packed", Flaw.MISSING_TENSOR, "neither",
     made(FOREIGN, without("c.coefficients"), put("encodings/plain", ["bias", "codebook",
          "norm"]))),
    ("codebook-missing", Flaw.MISSING_TENSOR, "layer '0'", made(KAN, without("0.codebook"))),
    ("index-missing", Flaw.MISSING_TENSOR, "'0.index'", made(KAN, without("0.index"))),
    ("norm-missing", Flaw.MISSING_TENSOR, "'0.norm'",
     made(GRAM, without("0.norm"), put("encodings/plain", ["beta", "codebook"]))),
    ("tensor-of-no-layer", Flaw.UNEXPLAINED_TENSOR, "'7.bias'",
     made(KAN, tensor("7.bias", "F32", [3]))),
    ("tensor-without-a-layer", Flaw.UNEXPLAINED_TENSOR, "'notes'",
     made(KAN, tensor("notes", "U8", [3]))),
    ("tensor-of-an-unknown-role", Flaw.UNKNOWN_ROLE, "'scale'",
     made(KAN, tensor("0.scale", "F32", [3]))),
    ("norm-in-a-kan-layer", Flaw.UNEXPLAINED_TENSOR, "'0.norm'",
     made(KAN, tensor("0.norm", "F32", [2, 3]),
          put("encodings/plain", ["bias", "codebook", "kept", "kept_at", "norm"]))),
    ("index-short", Flaw.INDEX_LENGTH, "6 indices of 2 bits take [2]",
     made(KAN, tensor("0.index", "U8", [1]))),
    ("index-long", Flaw.INDEX_LENGTH, "'0.index'", made(KAN, tensor("0.index", "U8", [3]))),
    ("index-of-rank-2", Flaw.INDEX_LENGTH, "[2, 1]", made(KAN, tensor("0.index", "U8", [2, 1]))),
    ("index-of-one-centroid", Flaw.INDEX_LENGTH, "no tensor",
     made(KAN, tensor("0.codebook", "F32", [1, 3]), tensor("0.index", "U8", [0]))),
    ("index-as-if-nothing-were-kept", Flaw.INDEX_LENGTH, "6 indices", made(
        KAN, without("1.kept"), without("1.kept_at"), tensor("1.index", "U8", [4]),
        put("encodings/plain", ["bias", "codebook"]))),
    ("index-i8", Flaw.WRONG_DTYPE, "I8", made(KAN, tensor("0.index", "I8", [2]))),
    ("index-out-of-range", Flaw.INDEX_RANGE, "holds 10",
     made(KAN, tensor("1.index", "U8", [3], bytes([0xA0, 0, 0])))),
    ("index-padding", Flaw.INDEX_PADDING, "'0.index'",
     made(KAN, tensor("0.index", "U8", [2], bytes([0, 0x10])))),
    # --- edges in parts ---
    ("parts-1", Flaw.BAD_VALUE, "1 parts; 2 or more", made(CUT, put("layers/0/parts", 1))),
    ("parts-beyond-counting", Flaw.BAD_VALUE, "fewer than 2^63",
     made(CUT, put("layers/0/parts", 2**61))),
    ("parts-beside-anothers-codebook", Flaw.BAD_VALUE, "layer 'b' uses another",
     made(FOREIGN, put("layers/b/parts", 2))),
    ("parts-of-a-dense-layer", Flaw.CONFLICTING_TENSORS, "layer 'c' is both",
     made(FOREIGN, put("layers/c/parts", 2))),
    ("parts-left-out", Flaw.WRONG_SHAPE, "[1, 1] was expected", made(CUT, drop("layers/0/parts"))),
    ("parts-without-their-indices", Flaw.INDEX_LENGTH, "18 indices of 2 bits",
     made(KAN, put("layers/0/parts", 3))),
    ("parts-that-are-kept", Flaw.WRONG_SHAPE, "[1, 3] was expected",
     made(CUT, tensor("0.kept", "F32", [3, 1]))),
    ("parts-of-other-coefficients", Flaw.WRONG_SHAPE, "9 coefficients an edge", made(
        CUT, tensor("1.codebook", "F32", [3, 3]))),
    ("parts-without-measure", Flaw.TOO_LARGE, "its layers' coefficients", made(
        FORMS, put("layers/w/parts", 2**50), tensor("w.codebook", "F32", [1, 1]),
        without("w.index"))),
    ("parts-with-few-lanes", Flaw.TOO_LARGE, "stands for 49152 edges",
     made(CUT, put("layers/1/parts", 8192))),
    # --- indices in rans: bytes 0 and 1, tables from 2, the state from 6, words from 10 ---
    ("rans-missing", Flaw.MISSING_TENSOR, "'0.index'", made(RANS, without("0.index"))),
    ("rans-i8", Flaw.WRONG_DTYPE, "I8", made(RANS, tensor("0.index", "I8", [16]))),
    ("rans-of-rank-2", Flaw.INDEX_LENGTH, "[4, 4]", made(RANS, tensor("0.index", "U8", [4, 4]))),
    ("rans-of-few-bytes", Flaw.INDEX_LENGTH, "[6]", made(RANS, tensor("0.index", "U8", [6]))),
    ("rans-of-many-bytes", Flaw.INDEX_LENGTH, "48 indices",
     made(RANS, tensor("0.index", "U8", [300_000]))),
    ("rans-of-one-centroid", Flaw.INDEX_LENGTH, "no tensor",
     made(RANS, tensor("0.codebook", "F32", [1, 1]))),
    ("rans-of-many-centroids", Flaw.TOO_MANY_CENTROIDS, "1025",
     made(RANS, tensor("0.codebook", "F32", [1025, 1]))),
    ("rans-of-a-large-layer", Flaw.TOO_LARGE, "'0.index'",
     made(RANS, put("layers/0/shape", [8192, 6]))),
    ("rans-with-few-lanes", Flaw.TOO_LARGE, "1 lanes may have 8192", made(
        RANS, put("layers/0/shape", [2000, 6]), put("layers/1/shape", [2, 2000]))),
    ("rans-of-more-than-its-bytes", Flaw.TOO_LARGE, "more than 8 for each byte", made(
        RANS, put("layers/0/shape", [1_800_000, 6]), put("layers/1/shape", [2, 1_800_000]),
        tensor("0.index", "U8", [6000]), tensor("1.index", "U8", [6000]))),
    ("rans-precision", Flaw.BAD_VALUE, "12 bits of precision", streamed((0, 0xC1))),
    ("rans-lanes", Flaw.BAD_VALUE, "2^17 lanes", streamed((1, 17))),
    ("rans-more-lanes-than-bytes", Flaw.INDEX_LENGTH, "4 for each of 4 lanes", streamed((1, 2))),
    ("rans-more-classes-than-tables", Flaw.INDEX_RANGE, "table", streamed((0, 0x0F))),
    ("rans-rest-of-no-symbol", Flaw.INDEX_RANGE, "rest is the symbol 3 of 3", made(
        RANS, tensor("1.index", "U8", [10], bytes.fromhex("0000eb02b9970200004a")))),
    ("rans-frequencies-without-a-rest", Flaw.INDEX_RANGE, "sum to 4096 and a rest",
     with_table("0000 1100 1100 00")),
    ("rans-frequencies-beyond-the-sum", Flaw.INDEX_RANGE, "sum to 6144 and a rest",
     with_table("1100 1100 1100 00")),
    ("rans-code", Flaw.INDEX_RANGE, "the code 15", with_table("0000 0000 1111 00")),
    ("rans-run-of-eight", Flaw.INDEX_RANGE, "more than 4 symbols", with_table("010 1101 00")),
    ("rans-run-of-ten", Flaw.INDEX_RANGE, "more than 4 symbols",
     with_table("0000000000 1110 00")),
    ("rans-tables-that-end-early", Flaw.INDEX_RANGE, "ends within its tables", made(
        RANS, tensor("0.codebook", "F32", [1024, 1]))),
    ("rans-padding", Flaw.INDEX_PADDING, "after its last table", streamed((5, 0x8A))),
    ("rans-odd-bytes", Flaw.INDEX_LENGTH, "an even number more", streamed(cut=1)),
    ("rans-state-below", Flaw.INDEX_RANGE, "state is below 65536", streamed((8, 0))),
    ("rans-ends-early", Flaw.INDEX_LENGTH, "ends before the last of 48", streamed(cut=2)),
    ("rans-goes-on", Flaw.INDEX_LENGTH, "goes on behind", streamed(more=b"\0\0")),
    ("rans-final-state", Flaw.INDEX_PADDING, "does not end at 65536", streamed((14, 0x01))),
    ("rans-of-a-source-tensor", Flaw.UNKNOWN_ENCODING, "'row'",
     made(FOREIGN, put("exceptions", {"row": "rans"}))),
    ("rans-of-a-codebook", Flaw.UNKNOWN_ENCODING, "'0.codebook'",
     made(KAN, put("exceptions", {"0.codebook": "rans"}))),
    ("rans-though-it-is-usual", Flaw.BAD_VALUE, "the usual one",
     made(RANS, put("exceptions", {"0.index": "rans"}))),
    ("codebook-of-rank-1", Flaw.WRONG_SHAPE, "[12]", made(KAN, tensor("0.codebook", "F32", [12]))),
    ("codebook-of-rank-3", Flaw.WRONG_SHAPE, "[4, 3, 1]",
     made(KAN, tensor("0.codebook", "F32", [4, 3, 1]))),
    ("codebook-of-no-rows", Flaw.WRONG_SHAPE, "[0, 3]",
     made(KAN, tensor("0.codebook", "F32", [0, 3]))),
    ("codebook-of-no-columns", Flaw.WRONG_SHAPE, "[4, 0]",
     made(KAN, tensor("0.codebook", "F32", [4, 0]))),
    ("codebook-of-65537", Flaw.TOO_MANY_CENTROIDS, "65537",
     made(KAN, tensor("0.codebook", "F16", [65_537, 3]))),
    ("codebook-of-another-width", Flaw.WRONG_SHAPE, "4 coefficients",
     made(KAN, tensor("0.codebook", "F32", [4, 4]))),
    ("codebook-i32", Flaw.WRONG_DTYPE, "I32", made(KAN, tensor("0.codebook", "I32", [4, 3]))),
    ("codebook-nan", Flaw.NOT_FINITE, "'0.codebook'",
     made(KAN, tensor("0.codebook", "F32", [4, 3], ramp(11) + NAN))),
    ("codebook-infinite-in-bf16", Flaw.NOT_FINITE, "1 numbers",
     made(KAN, tensor("0.codebook", "BF16", [4, 3], bytes(22) + b"\x80\xff"))),
    ("norm-infinite", Flaw.NOT_FINITE, "'0.norm'",
     made(GRAM, tensor("0.norm", "F32", [2, 2], ramp(3) + INFINITY))),
    ("kept-nan", Flaw.NOT_FINITE, "'1.kept'",
     made(KAN, tensor("1.kept", "F32", [1, 3], ramp(2) + NAN))),
    ("norm-of-other-features", Flaw.WRONG_SHAPE, "'0.norm'",
     made(GRAM, tensor("0.norm", "F32", [2, 3]))),
    ("norm-with-statistics-in-a-layer-norm", Flaw.WRONG_SHAPE, "'0.norm'",
     made(GRAM, tensor("0.norm", "F32", [4, 2]))),
    ("norm-flat", Flaw.WRONG_SHAPE, "'a.norm'", made(FOREIGN, tensor("a.norm", "F32", [8]))),
    ("norm-of-three-rows", Flaw.WRONG_SHAPE, "[3, 2]",
     made(FOREIGN, tensor("a.norm", "F32", [3, 2]))),
    ("bias-of-other-features", Flaw.WRONG_SHAPE, "'a.bias'",
     made(FOREIGN, tensor("a.bias", "F32", [3]))),
    ("beta-of-rank-2", Flaw.WRONG_SHAPE, "'a.beta'",
     made(FOREIGN, tensor("a.beta", "F32", [3, 1]),
          put("encodings/plain", ["beta", "bias", "codebook", "coefficients", "norm"]))),
    ("beta-of-another-degree", Flaw.WRONG_SHAPE, "'0.beta'",
     made(GRAM, tensor("0.beta", "F32", [3]))),
    ("beta-u8", Flaw.WRONG_DTYPE, "'0.beta'", made(GRAM, tensor("0.beta", "U8", [2]))),
    ("coefficients-flat", Flaw.WRONG_SHAPE, "'c.coefficients'",
     made(FOREIGN, tensor("c.coefficients", "F32", [4]))),
    ("coefficients-of-another-shape", Flaw.WRONG_SHAPE, "[2, 1, 2]",
     made(FOREIGN, tensor("c.coefficients", "F32", [2, 1, 2]))),
    ("coefficients-none", Flaw.WRONG_SHAPE, "'c.coefficients'",
     made(FOREIGN, tensor("c.coefficients", "F32", [1, 2, 0]))),
    ("kept-without-positions", Flaw.MISSING_TENSOR, "only one",
     made(KAN, without("1.kept_at"), put("encodings/plain", ["bias", "codebook", "kept"]))),
    ("positions-without-kept", Flaw.MISSING_TENSOR, "only one",
     made(KAN, without("1.kept"), put("encodings/plain", ["bias", "codebook", "kept_at"]))),
    ("positions-i32", Flaw.WRONG_DTYPE, "I64", made(KAN, tensor("1.kept_at", "I32", [1]))),
    ("positions-of-rank-2", Flaw.WRONG_SHAPE, "'1.kept_at'",
     made(KAN, tensor("1.kept_at", "I64", [1, 1]))),
    ("positions-of-all-edges", Flaw.WRONG_SHAPE, "'1.kept_at'",
     made(KAN, tensor("1.kept_at", "I64", [6]), tensor("1.kept", "F32", [6, 3]),
          without("1.index"))),
    ("kept-of-another-number", Flaw.WRONG_SHAPE, "'1.kept'",
     made(KAN, tensor("1.kept", "F32", [2, 3]))),
    *(
        (f"positions-{name}", Flaw.KEPT_POSITIONS, "ascend",
         made(KAN, tensor("1.kept_at", "I64", [2], positions(*places)),
              tensor("1.kept", "F32", [2, 3]), tensor("1.index", "U8", [2])))
        for name, places in {
            "unsorted": (3, 1), "twice": (2, 2), "negative": (-1, 2), "too-large": (1, 6),
            "extreme": (-(2**63), 2**63 - 1),
        }.items()
    ),
    # --- forms ---
    ("forms-none", Flaw.BAD_VALUE, "forms", made(FORMS, put("forms", {}))),
    ("forms-list", Flaw.BAD_VALUE, "forms", made(FORMS, put("forms", [1]))),
    ("forms-of-a-native-network", Flaw.BAD_VALUE, "both 'model' and 'forms'",
     made(KAN, put("forms", {"0": {"layout": "efficient-kan"}}))),
    *(
        (f"form-of-{what}", Flaw.UNKNOWN_LAYER, shown,
         made(FORMS, put(f"forms/{name}", {"layout": "efficient-kan"})))
        for what, name, shown in (
            ("nobody", "layers.1", "'layers.1'"), ("half-a-name", "layers.", "'layers.'"),
            ("a-name-cut", "layer", "'layer'"), ("more-than-a-name", "w.w", "'w.w'"),
            ("a-newline", "w\n", "\\n"),
        )
    ),
    ("form-null", Flaw.BAD_VALUE, "'w'", made(FORMS, put("forms/w", None))),
    ("form-key-unknown", Flaw.UNKNOWN_KEY, "'alpha'. A later kancompress",
     made(FORMS, put("forms/w/alpha", 1.0))),
    ("form-without-layout", Flaw.MISSING_KEY, "'layout'",
     made(FORMS, drop("forms/layers.0/layout"))),
    *(
        (f"form-{key}-{number}", Flaw.BAD_VALUE, key, made(FORMS, put(f"forms/w/{key}", value)))
        for key, values in {
            "layout": ("", "x" * 101, "fast kan", "kän", "a\x1b[2J", 7, None, ["pykan"]),
            "base_activation": ("SiLU", "swish", "", None, 1, ["silu"], {"silu": 1}),
            "rbf_denominator": (0, 0.0, -0.5, True, "1", None, [1.0], 2**53 + 1),
            "grid_range": (
                [1, 1], [1, -1], [0.0], [-1, 0, 1], [0, "1"], [False, 1], [None, 1], "-1,1", 1,
                {"low": 0}, [0, 2**60],
            ),
            "spline_order": (-1, 17, 3.0, True, "3", None, [3], 10**90),
            "symbolic": (True, None, 0, "false"),
            "assumed": (
                [], ["layout"], ["spline_order"], "layout", None, {"layout": 1}, [["layout"]],
            ),
        }.items()
        for number, value in enumerate(values)
    ),
    *(
        (f"form-assumed-{what}", Flaw.BAD_VALUE, "assumed",
         made(FORMS, put("forms/layers.0/assumed", value)))
        for what, value in {
            "twice": ["grid_range", "grid_range"], "unsorted": ["spline_order", "grid_range"],
            "symbolic": ["grid_range", "symbolic"], "itself": ["assumed"],
            "a-list": [["grid_range"]], "null": [None],
        }.items()
    ),
    # --- restore ---
    ("restore-string", Flaw.BAD_VALUE, "restore", made(FOREIGN, put("restore", "torch"))),
    ("restore-without-container", Flaw.MISSING_KEY, "'container'",
     made(FOREIGN, drop("restore/container"))),
    ("restore-key-unknown", Flaw.UNKNOWN_KEY, "'code'", made(FOREIGN, put("restore/code", "x"))),
    ("restore-container-unknown", Flaw.BAD_VALUE, "'hdf5'",
     made(FOREIGN, put("restore/container", "hdf5"))),
    ("restore-path-string", Flaw.BAD_VALUE, "path", made(FOREIGN, put("restore/path", "state"))),
    ("restore-metadata-number", Flaw.BAD_VALUE, "metadata",
     made(FOREIGN, put("restore/metadata", {"epoch": 3}))),
    ("restore-tensors-object", Flaw.BAD_VALUE, "tensors", made(FOREIGN, put("restore/tensors",
     {}))),
    ("restore-tensor-short", Flaw.BAD_VALUE, "tensors",
     made(FOREIGN, put("restore/tensors/#6", ["count", "I64", []]))),
    ("restore-tensor-twice", Flaw.BAD_VALUE, "once a tensor",
     made(FOREIGN, put("restore/tensors/#7/#0", "count"))),
    ("restore-dtype-unknown", Flaw.BAD_VALUE, "dtype",
     made(FOREIGN, put("restore/tensors/#6/#1", "I63"))),
    ("restore-shape-negative", Flaw.BAD_VALUE, "shape",
     made(FOREIGN, put("restore/tensors/#6/#2", [-1]))),
    *(
        (f"origin-{name}", Flaw.BAD_VALUE, "origin of 'grid'", made(FOREIGN, origin(3, value)))
        for name, value in {
            "string": "row", "empty": {}, "unknown": {"copy": "row"}, "two": {"as": "row", "tie":
            "row"}, "as-list": {"as": ["row"]}, "tie-list": {"tie": ["count"]},
            "repeat-number": {"repeat": 3}, "fill-string": {"fill": "1"}, "fill-bool": {"fill":
            True}, "arange-short": {"arange": [0, 1]}, "arange-float": {"arange": [0, 1, 0, 3.0]},
            "layer-half": {"layer": "a", "axes": "out in"},
            "layer-list": {"layer": ["a"], "axes": "o", "from": 0, "to": 1},
            "layer-backwards": {"layer": "a", "axes": "o", "from": 2, "to": 1},
            "layer-bool": {"layer": "a", "axes": "o", "from": False, "to": 1},
        }.items()
    ),
    ("origin-layer-unknown", Flaw.UNKNOWN_LAYER, "'z'",
     made(FOREIGN, origin(1, {"layer": "z", "axes": "out in coef", "from": 0, "to": 1}))),
    ("origin-beyond-the-coefficients", Flaw.WRONG_SHAPE, "'fc.w'",
     made(FOREIGN, origin(1, {"layer": "b", "axes": "out in coef", "from": 2, "to": 3}))),
    ("origin-of-more-coefficients", Flaw.WRONG_SHAPE, "'fc.w'",
     made(FOREIGN, origin(1, {"layer": "b", "axes": "out in coef", "from": 0, "to": 2}))),
    ("origin-tied-to-nothing", Flaw.BAD_VALUE, "'gone'", made(FOREIGN, origin(7, {"tie": "gone"}))),
    ("origin-tied-to-itself", Flaw.BAD_VALUE, "'again'", made(FOREIGN, origin(7, {"tie":
     "again"}))),
    ("origin-missing", Flaw.MISSING_TENSOR, "'gone'", made(FOREIGN, origin(5, {"as": "gone"}),
     without("a.bias.1"))),
    ("origin-of-nobody", Flaw.UNKNOWN_ROLE, "'a.bias.1'",
     made(FOREIGN, put("layers/a.bias", {"shape": [2, 2]}), origin(5, {"fill": 0}))),
    ("origin-of-another-dtype", Flaw.WRONG_DTYPE, "'count'",
     made(FOREIGN, tensor("count", "F64", []))),
    ("origin-of-another-shape", Flaw.WRONG_SHAPE, "'count'",
     made(FOREIGN, tensor("count", "I64", [1]))),
    ("origin-row-of-another-width", Flaw.WRONG_SHAPE, "'grid'",
     made(FOREIGN, tensor("row", "F32", [4]))),
    ("origin-row-of-another-dtype", Flaw.WRONG_DTYPE, "'row'",
     made(FOREIGN, tensor("row", "F16", [3]))),
    ("origin-steps-of-another-number", Flaw.WRONG_SHAPE, "'steps'",
     made(FOREIGN, origin(4, {"arange": [0, 1, 0, 4]}))),
    *(
        (f"tie-of-another-{name}", Flaw.WRONG_SHAPE, "'again'",
         made(FOREIGN, put(f"restore/tensors/#7/#{at}", value)))
        for name, at, value in (("type", 1, "F64"), ("shape", 2, [1]))
    ),
    *(
        (f"columns-{name}", Flaw.WRONG_SHAPE, "'fc.w'", made(FOREIGN, origin(1, value)))
        for name, value in {
            "beyond": piece(columns=[7, 9]), "part": piece(columns=[0, 1]),
            "overlap": {"parts": [piece(columns=[0, 2]), piece(columns=[0, 2])]},
            "gap": {"parts": [piece(columns=[0, 1]), piece(columns=[1, 2])]},
            "one-without": {"parts": [piece(columns=[0, 2]), piece()]},
        }.items()
    ),
    *(
        (f"columns-{name}", Flaw.BAD_VALUE, "'fc.w'",
         made(FOREIGN, origin(1, piece(columns=value))))
        for name, value in {
            "number": 5, "null": None, "object": {"a": 1, "b": 2}, "backwards": [2, 1],
            "negative": [-1, 2], "three": [0, 1, 2],
        }.items()
    ),
    *(
        (f"axes-{name}", Flaw.WRONG_SHAPE, says, made(FOREIGN, origin(1, piece(axes=axes))))
        for name, axes, says in (
            ("unknown", "out in depth", "'depth'"), ("junk", "-> $(reboot)", "cannot be read"),
            ("empty", "", "too early"), ("twice", "out out", "twice"),
            ("missing", "out coef", "lack in"), ("kernels", "out in kh kw", "name kh"),
            ("depth", "out in kd", "name kd"),
            ("half", "out in half", "name half"),
            ("nested", "((out) in)", "cannot be read"),
        )
    ),
    ("axes-with-the-group-of-one-group", Flaw.WRONG_SHAPE, "name group", made(
        FOREIGN, put("layers/b/groups", 2), origin(1, piece(axes="group out in", group=0)))),
    ("axes-of-other-lengths", Flaw.WRONG_SHAPE, "'conv.w'",
     made(FOREIGN, put("restore/tensors/#0/#2", [4, 1, 2, 2]))),
    ("axes-without-coef", Flaw.WRONG_SHAPE, "lack coef",
     made(FOREIGN, origin(0, piece(layer="a", axes="out in kh kw", **{"from": 0, "to": 2})))),
    ("coefficients-in-whole-numbers", Flaw.WRONG_DTYPE, "'fc.w'",
     made(FOREIGN, put("restore/tensors/#1/#1", "I32"))),
    ("coefficients-too-large-for-their-type", Flaw.NOT_FINITE, "infinite in the type F16",
     made(FOREIGN, put("restore/tensors/#1/#1", "F16"),
          tensor("a.codebook", "F32", [2, 2], hostile.floats(0, 70000, 0, 0)))),
    *(
        (f"fill-{name}", Flaw.BAD_VALUE, "none of this type",
         made(FOREIGN, origin(2, {"fill": value}), put("restore/tensors/#2/#1", dtype)))
        for name, dtype, value in (
            ("half-of-a-whole-number", "I64", 0.5), ("whole-with-fraction", "I64", 1.0),
            ("beyond-int64", "I64", 2**63), ("beyond-int32", "I32", 2**31),
            ("beyond-float16", "F16", 1e30), ("beyond-float32", "F32", 1e39),
            ("rounded", "F32", 0.1), ("of-10^400", "F64", 10**90), ("of-bools", "BOOL", 1),
            ("of-bytes", "U8", 1),
        )
    ),
    *(
        (f"arange-{name}", Flaw.BAD_VALUE, "none of this type",
         made(FOREIGN, origin(4, {"arange": value}), put("restore/tensors/#4/#1", dtype)))
        for name, dtype, value in (
            ("far", "I64", [0, 1, 2**62, 3]), ("beyond-the-sum", "I64", [2**63 - 1, 1, 0, 3]),
            ("beyond-the-product", "I32", [0, 2**30, 1, 3]), ("beyond-t", "I32", [0, 0, 2**31, 3]),
            ("of-halves", "I64", [0, 0.5, 0, 3]), ("beyond-float16", "F16", [0, 4e4, 0, 3]),
            ("of-bools", "BOOL", [0, 1, 0, 3]),
        )
    ),
    *(
        (f"by-edge-{name}", flaw, says, made(MASKED, origin(number, MASKED_ORIGIN | value)))
        for name, flaw, says, number, value in (
            ("string", Flaw.BAD_VALUE, "origin of 'mask'", 1, {"live": "1"}),
            ("silent-bool", Flaw.BAD_VALUE, "origin of 'mask'", 1, {"silent": True}),
            ("kept-null", Flaw.BAD_VALUE, "origin of 'mask'", 1, {"kept": None}),
            ("more-keys", Flaw.BAD_VALUE, "origin of 'mask'", 1, {"from": 0}),
            ("no-layer", Flaw.UNKNOWN_LAYER, "'z'", 1, {"layer": "z"}),
            ("other-order", Flaw.WRONG_SHAPE, "'mask'", 1, {"axes": "out in"}),
            ("no-axis", Flaw.WRONG_SHAPE, "lack in", 1, {"axes": "out"}),
            ("rows-twice", Flaw.BAD_VALUE, "twice", 1, {"kept": "rows"}),
        )
    ),
    ("by-edge-rows-of-another-type", Flaw.WRONG_DTYPE, "'rows'",
     made(MASKED, put("restore/tensors/#2/#1", "F32"))),
    ("by-edge-beyond-float16", Flaw.BAD_VALUE, "none of this type",
     made(MASKED, put("restore/tensors/#2/#3/silent", 1e5))),
    ("by-edge-without-coef", Flaw.WRONG_SHAPE, "lack coef",
     made(MASKED, put("restore/tensors/#2/#3/axes", "out in"))),
    ("by-edge-rows-missing", Flaw.MISSING_TENSOR, "'rows'", made(MASKED, without("rows"))),
    ("by-edge-rows-of-a-layer", Flaw.BAD_VALUE, "belongs to a layer",
     made(MASKED, put("restore/tensors/#2/#3/kept", "a.kept"), without("rows"))),
    ("by-edge-without-kept", Flaw.WRONG_SHAPE, "2 edges of the layer are not packed",
     made(MASKED, origin(1, {"layer": "a", "axes": "in out", "live": 1}))),
    ("by-edge-with-rows-of-another-shape", Flaw.WRONG_SHAPE, "'rows' has the shape",
     made(MASKED, tensor("rows", "F16", [4, 1]))),
    ("by-edge-of-other-edges", Flaw.WRONG_SHAPE, "6 edges",
     made(MASKED, put("restore/tensors/#1/#2", [2, 4]))),
    ("by-edge-of-bools", Flaw.BAD_VALUE, "none of this type",
     made(MASKED, put("restore/tensors/#1/#1", "BOOL"))),
    ("by-edge-of-a-dense-layer", Flaw.WRONG_SHAPE, "stays dense",
     made(FOREIGN, origin(2, {"layer": "c", "axes": "out in", "live": 1}))),
    ("repeat-of-other-rows", Flaw.WRONG_SHAPE, "'grid'",
     made(FOREIGN, put("restore/tensors/#3/#2", [3, 2]))),
    ("repeat-of-nothing", Flaw.WRONG_SHAPE, "'grid'",
     made(FOREIGN, put("restore/tensors/#3/#2", []))),
    ("stored-twice", Flaw.BAD_VALUE, "twice",
     made(FOREIGN, origin(3, {"as": "a.bias.1"}), without("row"))),
    ("stored-under-a-role", Flaw.BAD_VALUE, "belongs to a layer",
     made(FOREIGN, origin(5, {"as": "a.bias"}), without("a.bias.1"))),
    ("restore-path-of-10000", Flaw.BAD_VALUE, "64",
     made(FOREIGN, put("restore/path", ["k"] * 10000))),
    ("restore-of-complex-numbers", Flaw.BAD_VALUE, "dtype",
     made(FOREIGN, put("restore/tensors/#6/#1", "C64"))),
    ("restore-of-metadata", Flaw.BAD_VALUE, "'__metadata__'",
     made(FOREIGN, put("restore/tensors/#2/#0", "__metadata__"))),
    ("restore-as-one-of-ours", Flaw.BAD_VALUE, "'kancompress'",
     made(FOREIGN, put("restore/metadata", {"kancompress": "x"}))),
    ("model-and-restore", Flaw.BAD_VALUE, "both",
     made(FOREIGN, put("model", {"name": "mlp"}))),
    ("exceptions-none", Flaw.BAD_VALUE, "not empty", made(KAN, put("exceptions", {}))),
    ("fill-of-20-gigabytes", Flaw.TOO_LARGE, "20000", made(
        FOREIGN, put("restore/tensors/#2/#2", [5 * 10**9]), drop("restore/opaque"),
        without("rest"))),
    ("layer-of-4*10^18-edges", Flaw.TOO_LARGE, "coefficients", made(
        FOREIGN, put("layers/d", {"shape": [2**30, 2**30, 1, 2]}),
        tensor("d.codebook", "F32", [1, 1]))),
    ("network-of-10^9-edges", Flaw.TOO_LARGE, "any_size", made(
        MLP, put("layers/0/shape", [2, 10**9]), tensor("0.codebook", "F32", [1, 1]),
        without("0.index"), put("encodings", {"plain": ["bias", "codebook"]}))),
    *(
        (f"opaque-{name}", flaw, says, made(FOREIGN, opaque(edit)))
        for name, flaw, says, edit in OPAQUE_LIES
    ),
    ("opaque-with-a-comment-that-is-not-there", Flaw.BAD_ZIP, "around it",
     made(FOREIGN, tensor("rest", "U8", [len(SKELETON)], SKELETON[:-1] + b"\x20"))),
    ("opaque-under-another-path", Flaw.BAD_VALUE, "restore.path",
     made(FOREIGN, put("restore/path", ["model"]))),
    ("opaque-of-other-tensors", Flaw.BAD_VALUE, "'fc.scale'",
     made(FOREIGN, put("restore/tensors/#2/#0", "fc.size"))),
    ("opaque-of-other-shapes", Flaw.BAD_VALUE, "another type or shape",
     made(FOREIGN, put("restore/tensors/#2/#2", [3]))),
    ("opaque-safetensors", Flaw.BAD_VALUE, "opaque does not go with 'safetensors'",
     made(FOREIGN, put("restore/container", "safetensors"))),
    ("opaque-number", Flaw.BAD_VALUE, "opaque", made(FOREIGN, put("restore/opaque", 1))),
    ("opaque-missing", Flaw.MISSING_TENSOR, "'gone'", made(FOREIGN, put("restore/opaque", "gone"),
     without("rest"))),
    ("opaque-f32", Flaw.WRONG_DTYPE, "'rest'", made(FOREIGN, tensor("rest", "F32", [5]))),
    ("opaque-of-no-zip", Flaw.TRUNCATED, "restore.opaque",
     made(FOREIGN, tensor("rest", "U8", [5], b"PK\x03\x04x"))),
    ("stored-but-unexplained", Flaw.UNEXPLAINED_TENSOR, "'rest'",
     made(FOREIGN, drop("restore/opaque"))),
    # --- what pykan's loadckpt needs ---
    *(
        (f"pykan-{name}", flaw, says, made(PYKAN, edit))
        for name, flaw, says, edit in (
            ("string", Flaw.BAD_VALUE, "an object", put("restore/pykan", "x: 1")),
            ("without-k", Flaw.MISSING_KEY, "lacks the key 'k'", drop("restore/pykan/k")),
            ("more-keys", Flaw.UNKNOWN_KEY, "'ckpt_path'", put("restore/pykan/ckpt_path", "/etc")),
            ("in-safetensors", Flaw.BAD_VALUE, "at the top",
             put("restore/container", "safetensors")),
            ("below-a-key", Flaw.BAD_VALUE, "at the top", put("restore/path", ["model"])),
            ("other-widths", Flaw.BAD_VALUE, "of another network: 'act_fun.0.coef' has the shape",
             put("restore/pykan/width", [[1, 0], [2, 1]])),
            ("more-layers", Flaw.BAD_VALUE, "no tensor 'act_fun.1.coef'",
             put("restore/pykan", PYKAN.document["restore"]["pykan"] | {
                 "width": [[1, 0], [1, 1], [1, 0]], "mult_arity": 2, "k": 1})),
            ("fewer-coefficients", Flaw.BAD_VALUE, "of another network",
             put("restore/pykan/grid", 0)),
            ("width-of-a-number", Flaw.BAD_VALUE, "[sums, multiplications]",
             put("restore/pykan/width/#0", 1)),
            ("width-without-end", Flaw.BAD_VALUE, "2 to 1000",
             put("restore/pykan/width", [[1, 0]] * 1001)),
            ("edges-without-end", Flaw.BAD_VALUE, "1,048,576 edges",
             put("restore/pykan/width", [[2**31 - 1, 0], [2**31 - 1, 1]])),
            ("arity-of-other-layers", Flaw.BAD_VALUE, "mult_arity",
             put("restore/pykan/mult_arity", [[2]])),
            ("flag-of-1", Flaw.BAD_VALUE, "true or false",
             put("restore/pykan/sp_trainable", 1)),
            ("base-of-two-lines", Flaw.BAD_VALUE, "the name of a function",
             put("restore/pykan/base_fun_name", "silu\nround: 1")),
            ("base-of-200", Flaw.BAD_VALUE, "the name of a function",
             put("restore/pykan/base_fun_name", "s" * 200)),
            ("deep-range", Flaw.BAD_VALUE, "[low, high]",
             put("restore/pykan/grid_range", [[[[[1]]]], 1])),
            ("symbol-outside", Flaw.BAD_VALUE, "an edge of the network",
             put("restore/pykan/symbolic/#1/#1", 3)),
            ("symbol-twice", Flaw.BAD_VALUE, "each edge once",
             put("restore/pykan/symbolic/#1/#1", 0)),
            ("symbol-of-none", Flaw.BAD_VALUE, "the name of a function",
             put("restore/pykan/symbolic/#1/#3", "0")),
            ("symbols-none", Flaw.BAD_VALUE, "symbolic", put("restore/pykan/symbolic", [])),
        )
    ),
    # --- checksum ---
    *(
        (f"checksum-{name}", Flaw.BAD_CHECKSUM_FORM, "checksum", made(KAN, put("checksum", value)))
        for name, value in {
            "number": 5, "null": None, "empty": "", "md5": "md5-" + "A" * 22 + "==",
            "hexadecimal": "sha256-" + "0" * 64, "short": "sha256-" + "A" * 39 + "=",
            "not-base64": "sha256-" + "*" * 43 + "=", "not-ascii": "sha256-" + "é" * 44,
            "unused-bits": "sha256-" + "A" * 42 + "B=",
        }.items()
    ),
    ("checksum-of-the-same-bytes", Flaw.BAD_CHECKSUM_FORM, "44 base64", same_digest()),
    ("checksum-twice", Flaw.BAD_CHECKSUM_FORM, "once",
     made(FOREIGN, put("checksum", "sha256-" + "B" * 42 + "A="),
          put("restore/path", ["B" * 42 + "A="]))),
    ("checksum-escaped", Flaw.BAD_CHECKSUM_FORM, "once",
     made(KAN, put("checksum", "sha256-" + "B" * 42 + "A="), swap("BBBB", "\\u0042BBB"))),
    ("checksum-of-another-file", Flaw.CHECKSUM_MISMATCH, "does not match",
     made(KAN, put("checksum", "sha256-" + "B" * 42 + "A="))),
    ("payload-bit", Flaw.CHECKSUM_MISMATCH, "does not match", flipped(len(VALID) - 30)),
    ("index-bit", Flaw.CHECKSUM_MISMATCH, "does not match", flipped(len(VALID) - 4)),
    ("grid-edited", Flaw.CHECKSUM_MISMATCH, "edited",
     unsigned(b"[-1.0,1.0,1]", b"[-3.0,3.0,1]")),
    ("source-edited", Flaw.CHECKSUM_MISMATCH, "edited", unsigned(b"144", b"999")),
    ("seed-edited", Flaw.CHECKSUM_MISMATCH, "edited",
     unsigned(b'\\"seed\\":0', b'\\"seed\\":1')),
    ("tensors-renamed", Flaw.CHECKSUM_MISMATCH, "edited",
     made(FOREIGN).replace(b"conv.w", b"cone.w")),
    # --- short headers ---
    ("short-two-tensors", Flaw.UNEXPLAINED_TENSOR, "'0.bias' stands beside 'packed'",
     made(SHORT, tensor("0.bias", "F32", [2]))),
    ("short-without-its-tensor", Flaw.MISSING_TENSOR, "'packed' is missing",
     made(SHORT, renamed("packed", "Packed"))),
    ("short-of-signed-bytes", Flaw.WRONG_DTYPE, "I8, not U8",
     made(SHORT, attribute("tensors", {"packed": ("I8", *SHORT.tensors["packed"][1:])}))),
    ("short-of-two-axes", Flaw.WRONG_SHAPE, "[bytes]",
     made(SHORT, record("packed/shape", [1, *SHORT.tensors["packed"][1]]))),
    ("short-key-of-the-ordinary", Flaw.UNKNOWN_KEY, "'encodings'",
     made(SHORT, put("encodings", RANS.document["encodings"]))),
    ("short-with-clusters-alone", Flaw.MISSING_TENSOR, "'packed'",
     made(KAN, put("clusters", 4))),
    ("short-bytes-too-few", Flaw.SIZE_MISMATCH, "need 100 bytes, and the tensor 'packed' has 99",
     made(SHORT, put("rans/#0", 17))),
    ("short-bytes-too-many", Flaw.SIZE_MISMATCH, "need 98 bytes",
     made(SHORT, put("rans/#0", 15))),
    ("short-petabytes", Flaw.SIZE_MISMATCH, "need 9223372036854775890 bytes",
     made(SHORT, put("rans/#0", 2**63 - 1))),
    ("short-count-too-large", Flaw.BAD_VALUE, "rans is",
     made(SHORT, put("rans/#0", 2**63))),
    ("short-clusters-too-large", Flaw.BAD_VALUE, "clusters is",
     made(SHORT, put("clusters", 2**31))),
    ("short-clusters-too-many", Flaw.TOO_MANY_CENTROIDS, "70000 centroids",
     made(SHORT, put("clusters/#0", 70_000),
          tensor("packed", "U8", [280_083]))),
    ("short-clusters-negative", Flaw.BAD_VALUE, "clusters is", made(SHORT, put("clusters", -1))),
    ("short-clusters-true", Flaw.BAD_VALUE, "clusters is", made(SHORT, put("clusters/#0", True))),
    ("short-clusters-of-two-layers", Flaw.BAD_VALUE, "each of 3 layers",
     made(SHORT, put("clusters", [4, 3]))),
    ("short-equal-counts", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT_CONV, put("clusters", [2]))),
    ("short-zero-counts", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT_CONV, put("kept", 0))),
    ("short-rans-of-no-index", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT, put("clusters/#2", 1), put("rans/#2", 5),
          tensor("packed", "U8", [94]))),
    ("short-kept-too-many", Flaw.WRONG_SHAPE, "'1.kept_at'",
     made(SHORT, put("kept/#1", 17), tensor("packed", "U8", [267]))),
    ("short-type-of-an-unknown-role", Flaw.UNKNOWN_ROLE, "'scale'",
     made(SHORT, put("F16", ["scale"]))),
    ("short-type-of-an-unknown-tensor", Flaw.UNEXPLAINED_TENSOR, "'3.bias'",
     made(SHORT, put("F16", ["3.bias"]))),
    ("short-type-of-a-role-that-it-has-not", Flaw.UNKNOWN_ROLE, "'beta'",
     made(SHORT, put("F16", ["beta"]))),
    ("short-two-types", Flaw.BAD_VALUE, "'1.codebook' has two types",
     made(SHORT, put("F16", ["1.codebook"]))),
    ("short-types-no-list", Flaw.BAD_VALUE, "F32 should be a list", made(SHORT, put("F32", "a"))),
    ("short-types-unsorted", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT, put("F32", ["kept", "codebook"]))),
    ("short-types-of-nothing", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT, put("F16", []))),
    ("short-role-by-its-tensors", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT, put("F32", ["codebook", "1.kept"]))),
    ("short-without-a-codebook", Flaw.MISSING_TENSOR, "'2.codebook'",
     made(SHORT, put("F32", ["0.codebook", "1.codebook", "kept"]), tensor("packed", "U8", [91]))),
    ("short-layers-by-name", Flaw.BAD_VALUE, "layers should be a list",
     made(SHORT, put("layers", {"0": [8, 6], "1": [2, 8], "2": [1, 2]}))),
    ("short-layers-of-a-library-listed", Flaw.BAD_VALUE, "layers should be an object",
     made(SHORT_FOREIGN, put("layers", [[2, 1, 2, 2]]))),
    ("short-no-layers", Flaw.BAD_VALUE, "should not be empty", made(SHORT, put("layers", []))),
    ("short-record-in-place-of-a-shape", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT, put("layers/#0", {"shape": [8, 6]}))),
    ("short-shape-of-three", Flaw.BAD_VALUE, "layer '0' has the shape",
     made(SHORT, put("layers/#0", [8, 6, 1]))),
    ("short-source-by-name", Flaw.BAD_VALUE, "source is",
     made(SHORT, put("source", {"tensors": 144, "file": 600}))),
    ("short-source-of-three", Flaw.BAD_VALUE, "source is",
     made(SHORT, put("source", [1, 2, 3]))),
    ("short-source-negative", Flaw.BAD_VALUE, "source.file",
     made(SHORT, put("source", [1, -2]))),
    ("short-mean-of-its-name", Flaw.DOCUMENT_NOT_CANONICAL, "section 12",
     made(SHORT, put("data/mean", [0.1307]), put("data/std", [0.3081]))),
    ("short-mean-alone", Flaw.BAD_VALUE, "data.mean and data.std",
     made(SHORT, put("data/mean", [0.1307]))),
    ("short-coefficients-of-a-model", Flaw.BAD_VALUE, "coefficients follow",
     made(SHORT, put("coefficients", 1))),
    ("short-numbers-beyond-counting", Flaw.BAD_SHAPE, "2^63 numbers",
     made(SHORT_FOREIGN, put("layers/c", [2**30, 2**30]), put("coefficients", 2**30))),
    ("short-without-coefficients", Flaw.WRONG_SHAPE, "[clusters, coefficients]",
     made(SHORT_FOREIGN, drop("coefficients"), tensor("packed", "U8", [22]))),
    ("short-without-head", Flaw.MISSING_KEY, "'head'", made(SHORT_CONV, drop("head"))),
    ("short-head-of-nothing", Flaw.BAD_VALUE, "head is 0", made(SHORT_CONV, put("head", 0))),
    ("short-head-of-no-convolutions", Flaw.BAD_VALUE, "head goes with",
     made(SHORT, put("head", 1))),
    ("short-opaque-of-nothing", Flaw.BAD_VALUE, "opaque goes with",
     made(SHORT, put("opaque", 1))),
    ("short-opaque-not-in-restore", Flaw.BAD_VALUE, "opaque goes with",
     made(SHORT_FOREIGN, put("opaque", 1))),
    ("short-opaque-without-bytes", Flaw.MISSING_KEY, "'opaque'",
     made(SHORT_FOREIGN, put("restore/container", "torch-zip"), put("restore/opaque", "rest"))),
    ("short-stored-under-a-role", Flaw.BAD_VALUE, "'a.index', which belongs to a layer",
     made(SHORT_FOREIGN, put("restore/tensors/#2/#3", {"as": "a.index"}))),
    ("short-stored-under-no-name", Flaw.BAD_TENSOR_NAME, "__metadata__",
     made(SHORT_FOREIGN, put("restore/tensors/#2/#3", {"as": "__metadata__"}))),
    ("short-stored-under-control-characters", Flaw.BAD_TENSOR_NAME, "not printable",
     made(SHORT_FOREIGN, put("restore/tensors/#2/#3", {"as": "\x07"}))),
    ("short-codebook-of-no-layer", Flaw.BAD_CODEBOOK_REFERENCE, "'x'",
     made(SHORT_FOREIGN, put("layers/b/codebook", "x"), tensor("packed", "U8", [53]))),
    # --- dense and meta checkpoints ---
    ("dense-without-coefficients", Flaw.MISSING_TENSOR, "'0.coefficients'",
     made(DENSE, without("0.coefficients"))),
    ("dense-with-a-codebook", Flaw.UNEXPLAINED_TENSOR, "'0.codebook'",
     made(DENSE, tensor("0.codebook", "F32", [2, 3]))),
    ("dense-of-another-shape", Flaw.WRONG_SHAPE, "[2, 2, 3] was expected",
     made(DENSE, tensor("0.coefficients", "F32", [2, 3, 2]))),
    ("dense-of-integers", Flaw.WRONG_DTYPE, "I32",
     made(DENSE, tensor("0.coefficients", "I32", [2, 2, 3]))),
    ("dense-nan", Flaw.NOT_FINITE, "'0.coefficients'",
     made(DENSE, tensor("0.coefficients", "F32", [2, 2, 3], ramp(11) + NAN))),
    ("dense-layer-key-unknown", Flaw.UNKNOWN_KEY, "'codebook'",
     made(DENSE, put("layers/0/codebook", "0"))),
    ("dense-layer-null", Flaw.BAD_VALUE, "layer '0'", made(DENSE, put("layers/0", None))),
    ("dense-layer-of-another-name", Flaw.UNKNOWN_LAYER, "'first'",
     made(DENSE, put("layers", {"first": {"shape": [2, 2]}}))),
    ("dense-of-other-classes", Flaw.BAD_VALUE, "data names 3", made(DENSE, put("data/classes", 3))),
    ("meta-without-learner", Flaw.MISSING_TENSOR, "'meta.hidden.weight'",
     made(META, without("meta.hidden.weight"))),
    ("meta-learner-flat", Flaw.WRONG_SHAPE, "[hidden, embedding]",
     made(META, tensor("meta.hidden.weight", "F32", [2]))),
    ("meta-learner-of-no-width", Flaw.WRONG_SHAPE, "[0, 1]",
     made(META, tensor("meta.hidden.weight", "F32", [0, 1]))),
    ("meta-embedding-of-another-width", Flaw.WRONG_SHAPE, "'0.embedding'",
     made(META, tensor("0.embedding", "F32", [2, 2, 2]))),
]  # fmt: skip


def refusal(raw: bytes) -> InvalidFileError:
    """The error that `raw` is refused with; any other exception is a failure."""
    with pytest.raises(InvalidFileError) as caught:
        kancompress.load(raw)
    return caught.value


@pytest.mark.parametrize("name", hostile.HONEST)
def test_honest_file_is_read(name: str) -> None:
    raw = made(hostile.HONEST[name])
    assert kancompress.encode(kancompress.load(raw)) == raw


@pytest.mark.parametrize(
    ("flaw", "says", "raw"), [pytest.param(*case[1:], id=case[0]) for case in CORPUS]
)
def test_lie_is_named(flaw: Flaw, says: str, raw: bytes) -> None:
    error = refusal(raw)
    message = str(error)
    assert error.flaw is flaw, message
    assert says in message
    assert message.isprintable()
    assert len(message) < 600
    assert message.startswith("the input")


@pytest.mark.parametrize(
    "raw", [pytest.param(raw, id=name) for name, _, _, raw in CORPUS if name.startswith("short-")]
)
def test_lie_of_a_short_header_breaks_a_rule_of_the_page(raw: bytes) -> None:
    told = checker(raw)
    assert told is not None
    assert not told.startswith("unknown"), told


# Flaws that need a path; the tests below reach each of them.
OF_PATHS = {Flaw.MISSING, Flaw.NOT_A_FILE, Flaw.UNREADABLE, Flaw.BAD_ARRAYS}
# Of other libraries' files, see test_foreign.py
OF_FOREIGN = {
    Flaw.UNKNOWN_FORMAT, Flaw.TORCHSCRIPT, Flaw.BAD_PICKLE,
    Flaw.NO_TENSORS, Flaw.UNSUPPORTED_TENSOR, Flaw.BAD_INDEX, Flaw.MISSING_SHARD,
    Flaw.BAD_LAYOUTS,  # see test_layout_files.py
    Flaw.TOO_COSTLY,
}  # fmt: skip


def test_corpus_covers_every_flaw() -> None:
    assert {flaw for _, flaw, _, _ in CORPUS} == set(Flaw) - OF_PATHS - OF_FOREIGN
    assert len({name for name, _, _, _ in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize(
    ("flaw", "name"),
    [(Flaw.MISSING, "none"), (Flaw.NOT_A_FILE, "."), (Flaw.UNREADABLE, "loop"),
     (Flaw.UNREADABLE, "a\0b"), (Flaw.EMPTY, "empty")],
)  # fmt: skip
def test_path_that_cannot_be_read(flaw: Flaw, name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidFileError) as caught:
        kancompress.load(tmp_path / name)
    assert caught.value.flaw is flaw
    assert name in str(caught.value)


@pytest.mark.parametrize("name", [name for name, _, _, raw in CORPUS if len(raw) > 200][::20])
def test_lie_on_disk_is_the_same_lie(name: str, tmp_path: Path) -> None:
    flaw, raw = next((flaw, raw) for other, flaw, _, raw in CORPUS if other == name)
    path = tmp_path / "lie.safetensors"
    path.write_bytes(raw)
    with pytest.raises(InvalidFileError) as caught:
        kancompress.load(path)
    assert caught.value.flaw is flaw
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((4, 2))},
        {"x": np.zeros((4, 2)), "y": np.zeros(4, np.int64), "z": np.zeros(1)},
        {"x": np.zeros((4, 2)), "y": np.zeros(3, np.int64)},
        {"x": np.zeros(4), "y": np.zeros(4, np.int64)},
        {"x": np.full((4, 2), np.nan), "y": np.zeros(4, np.int64)},
        {"x": np.zeros((4, 2)), "y": np.full(4, -1)},
        {"x": np.zeros((4, 2)), "y": np.zeros(4, np.int64), "x_test": np.zeros((4, 2))},
    ],
)
def test_arrays_that_are_no_data(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "data.safetensors"
    save_file(arrays, path)
    with pytest.raises(InvalidFileError) as caught:
        datasets.load_for_training(DataOptions(file=path), seed=0)
    assert caught.value.flaw is Flaw.BAD_ARRAYS


def test_archive_that_is_no_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InvalidFileError) as caught:
        datasets.load_for_training(DataOptions(file=path), seed=0)
    assert caught.value.flaw is Flaw.BAD_ARRAYS


# --- damage at random places ---------------------------------------------------------------


@pytest.mark.parametrize("name", hostile.HONEST)
def test_every_prefix_is_refused(name: str) -> None:
    raw = made(hostile.HONEST[name])
    lengths = {*range(24), *range(24, len(raw), max(1, len(raw) // 40)), len(raw) - 1}
    flaws = {refusal(raw[:length]).flaw for length in lengths}
    assert {Flaw.EMPTY, Flaw.TOO_SHORT, Flaw.HEADER_TRUNCATED, Flaw.TRUNCATED} <= flaws


@pytest.mark.parametrize("name", ["kan", "gramkan", "foreign", "rans", "short"])
def test_every_flipped_bit_is_refused(name: str) -> None:
    raw = made(hostile.HONEST[name])
    draw = random.Random(name)
    at = raw.index(b"sha256-") + len("sha256-")
    flips = [(place, bit) for place in (*range(16), *range(at, at + 44)) for bit in range(8)]
    flips += [(place, draw.randrange(8)) for place in draw.sample(range(len(raw)), 200)]
    for place, bit in flips:
        changed = bytearray(raw)
        changed[place] ^= 1 << bit
        refusal(bytes(changed))


# --- damage by someone who signs it --------------------------------------------------------

STRANGE = [
    None, True, False, 0, -1, 1, 2, 3, 2**31, 2**62, 2**64, 10**22, 0.5, -1.5, 1e308, "", "0", "a",
    "\ud83d\ude00", "\x00\n", [], {}, [[]], [0], [1, 1], ["a", "a"], [None], {"a": 1}, {"": []},
    [2**30] * 4,
]  # fmt: skip


def places(value: object, path: str = "") -> Iterator[str]:
    """Paths of all values inside `value`."""
    items = (
        value.items()
        if isinstance(value, dict)
        else ((f"#{at}", child) for at, child in enumerate(value))
        if isinstance(value, list)
        else ()
    )
    for key, child in items:
        yield f"{path}{key}"
        yield from places(child, f"{path}{key}/")


def read(raw: bytes) -> tuple[Container, dict[str, Any]]:
    container = parse(memoryview(raw), "the test")
    return container, json.loads(container.metadata["kancompress"])


def check_outcome(raw: bytes, what: str) -> None:
    """Refused in form; or read, and then nothing in the file was passed over in silence."""
    message = ""
    try:
        record = kancompress.load(raw)
    except InvalidFileError as error:
        message = str(error)
    if message:
        assert message.isprintable(), what
        assert len(message) < 700, what
        return
    if isinstance(record, kancompress.PackedModel):
        for layer in record.layers:
            if layer.edges < 1000:
                assert record.coefficients_of(layer).shape[:-1] == layer.shape, what
    (old, before), (new, after) = read(raw), read(kancompress.encode(record))
    for document in (before, after):
        document.pop("checksum", None)
    assert before == after, what
    assert old.entries == new.entries, what


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "pykan")) for n in hostile.HONEST],
)
def test_any_strange_value_in_the_document(name: str) -> None:
    base = hostile.HONEST[name]
    for path in places(base.document):
        for value in STRANGE:
            raw = made(base, put(path, copy.deepcopy(value)))
            check_outcome(raw, f"{path} = {value!r}")
        if not re.search(r"#\d+$", path):
            check_outcome(made(base, drop(path)), f"no {path}")


@pytest.mark.parametrize("name", hostile.HONEST)
def test_any_strange_value_in_the_header(name: str) -> None:
    base = hostile.HONEST[name]
    for tensor_name, (dtype, shape, _) in base.tensors.items():
        fields = {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for path in places({tensor_name: fields}):
            for value in STRANGE:
                check_outcome(made(base, record(path, value)), f"{path} = {value!r}")


def tensors_of_other_types(base: Draft) -> Iterator[tuple[str, bytes]]:
    for name, (dtype, shape, data) in base.tensors.items():
        yield f"no {name}", made(base, without(name))
        for other in hostile.SIZES:
            yield f"{name} as {other}", made(base, tensor(name, other, shape))
        for longer in ([*shape, 1], [*shape, 0], [0], [1], [], shape[::-1], [n + 1 for n in shape]):
            yield f"{name} {longer}", made(base, tensor(name, dtype, longer))
        yield f"{name} of ones", made(base, tensor(name, dtype, shape, b"\xff" * len(data)))


@pytest.mark.parametrize("name", hostile.HONEST)
def test_any_strange_tensor(name: str) -> None:
    for what, raw in tensors_of_other_types(hostile.HONEST[name]):
        check_outcome(raw, what)


# --- claims cost nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        made(KAN, record("1.index", {"dtype": "U8", "shape": [2**52],
                                     "data_offsets": [202, 202 + 2**52]})),
        made(KAN, record("0.bias/shape", [2**50])),
        made(FOREIGN, put("layers/a/shape", [2**30, 2**30, 1, 1])),
        made(SHORT, put("rans/#0", 2**62)),
        made(SHORT_FOREIGN, put("layers/c", [2**30, 2**30])),
        made(SHORT, put("layers", [[2**30, 6]] * 3), put("clusters", [2**30, 3, 2])),
        struct.pack("<Q", 2**62) + VALID[8:],
    ],
)  # fmt: skip
def test_petabytes_are_not_allocated(raw: bytes) -> None:
    refusal(raw)
    tracemalloc.start()
    try:
        refusal(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_large_header_is_refused_in_linear_time() -> None:
    twice = ",".join(f'"{number}":0' for number in [*range(100_000), 99_999])
    assert refusal(header(f"{{{twice}}}")).flaw is Flaw.DUPLICATE_KEY
    shape = ",".join(["4611686018427387904"] * 100_000)
    text = f'{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}'
    assert refusal(header(text)).flaw is Flaw.BAD_SHAPE


def test_header_lengths_that_look_like_other_formats() -> None:
    """A header of 640 bytes starts with a pickle's 80 02, one of 60 with a "<"."""
    for length in (60, 640, 0x3C20, 0x4B50):
        raw = header("{}" + " " * (length - 2))
        assert refusal(raw).flaw is Flaw.NOT_KANCOMPRESS


def test_layers_of_a_native_network_keep_their_order() -> None:
    layers = {str(number): {"shape": [1, 1]} for number in range(12)}
    tensors = {f"{number}.codebook": ("F32", [1, 3], ramp(3)) for number in range(12)}
    draft = Draft(KAN.document | {"layers": layers, "encodings": {"plain": ["codebook"]}}, tensors)
    draft.document = {key: value for key, value in draft.document.items() if key != "data"}
    model = kancompress.load(made(draft))
    assert isinstance(model, kancompress.PackedModel)
    assert [layer.name for layer in model.layers] == list(layers)
