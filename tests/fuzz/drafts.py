"""Honest packed files to begin from: drafts written by hand, and files that the library makes.

The drafts hold every kind of origin that docs/packed-format.md knows; the library's own files are
small networks of every family, and other libraries' golden cases.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections import OrderedDict
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import kancompress
from tests import hostile, short_reader
from tests.conftest import fresh
from tests.fuzz import zips
from tests.hostile import BLANK, Draft, document, ramp

CASES = Path(__file__).parents[1] / "cases"
NETWORKS = (
    ("kan", (3, 4, 2)), ("fastkan", (3, 4, 2)), ("gramkan", (3, 4, 2)), ("mlp", (4, 6, 2)),
    ("metakan", (3, 4, 2)), ("metafastkan", (3, 4, 2)), ("metagramkan", (3, 4, 2)),
    ("kanconv", (1, 2, 3, 2)), ("fastkanconv", (1, 2, 3, 2)), ("gramkanconv", (1, 2, 3, 2)),
    ("metakanconv", (1, 2, 2, 2)),
)  # fmt: skip


SIZES = hostile.SIZES | {
    "C64": 8, "U64": 8, "U32": 4, "I16": 2, "U16": 2, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "F8_E8M0": 1,
}  # fmt: skip


def build(draft: Draft, *, sign: bool = True) -> bytes:
    """The file of a draft, as `Draft.build` makes it, of more types and in less time."""
    text = json.dumps(draft.document, sort_keys=True, separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {"kancompress": text} | draft.metadata}
    names = sorted(
        draft.tensors, key=lambda n: (-SIZES[draft.tensors[n][0]], n.encode("utf-8", "replace"))
    )
    if draft.order:
        names.sort(key=lambda n: draft.order.index(n) if n in draft.order else -1)
    payload, begin = [], 0
    for name in names:
        dtype, shape, data = draft.tensors[name]
        header[name] = {
            "dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(data)],
        }  # fmt: skip
        payload.append(data)
        begin += len(data)
    for path, value in draft.records.items():
        hostile.put_at(header, path, value)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    encoded = text.encode("utf-8", "surrogatepass")
    encoded += draft.padding * (-len(encoded) % 8)
    raw = b"".join((struct.pack("<Q", len(encoded)), encoded, *payload, draft.tail))
    return hostile.sign(raw) if sign else raw


def take_apart(raw: bytes) -> Draft:
    """A sound packed file as a draft, with nothing of kancompress."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__")
    begin = 8 + length
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensors[name] = (entry["dtype"], entry["shape"], raw[begin + first : begin + last])
    document = json.loads(metadata.pop("kancompress"))
    if "checksum" in document:
        document["checksum"] = BLANK
    return Draft(document, tensors, metadata)


def ordinary(draft: Draft) -> Draft:
    """A sound file with a short header as one with an ordinary header; others as they are."""
    if not short_reader.is_short(draft.document):
        return draft
    document, told = short_reader.ordinary(draft.document)
    data, tensors, end = draft.tensors["packed"][2], {}, 0
    for name in sorted(told, key=lambda n: (-SIZES[told[n][0]], n.encode())):
        dtype, shape = told[name]
        begin, end = end, end + SIZES[dtype] * math.prod(shape)
        tensors[name] = (dtype, shape, data[begin:end])
    return Draft(document, tensors, draft.metadata)


# --- drafts --------------------------------------------------------------------------------


def _ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


# Other tensors of every kind, beside one small layer.
ORIGINS = Draft(
    document(
        layers={"fc": {"shape": [2, 2]}},
        encodings={"bits": ["index"], "plain": ["codebook"]},
        restore={
            "container": "torch-legacy",
            "path": ["model", "net"],
            "tensors": [
                ["fc.w", "F32", [2, 2, 2], {
                    "layer": "fc", "axes": "out in coef", "from": 0, "to": 2,
                }],
                ["fc.w2", "F32", [2, 2, 2], {"tie": "fc.w"}],
                ["f64", "F64", [3], {"fill": 0.1}],
                ["f32", "F32", [2, 3], {"fill": -1.5}],
                ["f16", "F16", [3], {"fill": 2.0}],
                ["bf16", "BF16", [3], {"fill": 1.0}],
                ["i64", "I64", [3], {"fill": 7}],
                ["i32", "I32", [3], {"fill": -7}],
                ["zero", "F32", [0, 3], {"fill": 0.0}],
                ["steps", "I64", [2, 4], {"arange": [5, 2, -1, 4]}],
                ["steps32", "I32", [4], {"arange": [0, 1, 0, 4]}],
                ["grid", "F32", [1, 2, 5], {"arange": [-1.0, 0.4, 0, 5]}],
                ["grid64", "F64", [5], {"arange": [-1.0, 0.1, 2, 5]}],
                ["grid16", "BF16", [2, 4], {"arange": [0.0, 0.5, 0, 4]}],
                ["rows", "I64", [3, 2], {"repeat": "one row"}],
                ["row", "I64", [2], None],
                ["rows too", "F16", [2, 1, 2], {"repeat": "half row"}],
                ["fc.bias", "F32", [2], {"as": "tensor 3"}],
                ["empty", "F32", [0, 4], None],
                ["flags", "BOOL", [3], None],
                ["eighth", "F8_E4M3", [2], None],
                ["count", "I64", [], None],
                ["again", "I64", [], {"tie": "count"}],
            ],
        },
    ),
    {
        "fc.codebook": ("F32", [2, 2], ramp(4)),
        "fc.index": ("U8", [1], bytes([0b1010])),
        "row": ("I64", [2], _ints(3, 4)),
        "one row": ("I64", [2], _ints(5, 6)),
        "half row": ("F16", [1, 2], b"\0\x3c\0\x40"),
        "tensor 3": ("F32", [2], ramp(2)),
        "empty": ("F32", [0, 4], b""),
        "flags": ("BOOL", [3], b"\1\0\1"),
        "eighth": ("F8_E4M3", [2], b"\x38\x40"),
        "count": ("I64", [], _ints(7)),
    },
)  # fmt: skip

# Two layers that lie in the columns of one tensor, a Fourier layer in halves, a grouped one.
PARTS = Draft(
    document(
        layers={
            "a": {"shape": [2, 3]},
            "b": {"shape": [2, 3], "codebook": "a"},
            "four": {"shape": [2, 2]},
            "conv": {"shape": [4, 1, 1, 2], "groups": 2},
            "one": {"shape": [3, 2]},
        },
        encodings={"bits": ["index"], "plain": ["codebook", "kept", "kept_at"]},
        restore={
            "container": "safetensors",
            "path": [],
            "metadata": {"format": "pt"},
            "tensors": [
                ["both", "F32", [2, 3, 4], {"parts": [
                    {"layer": "a", "axes": "out in coef", "from": 0, "to": 2, "columns": [0, 2]},
                    {"layer": "b", "axes": "out in coef", "from": 0, "to": 2, "columns": [2, 4]},
                ]}],
                ["four.c", "F32", [2, 2, 2, 3], {
                    "layer": "four", "axes": "half out in coef", "from": 0, "to": 6,
                }],
                ["conv.0", "F32", [2, 2, 1, 2], {
                    "layer": "conv", "axes": "out (in coef) kh kw", "from": 0, "to": 2, "group": 0,
                }],
                ["conv.1", "F32", [2, 2, 1, 2], {
                    "layer": "conv", "axes": "out (in coef) kh kw", "from": 0, "to": 2, "group": 1,
                }],
                ["one.flat", "F16", [2, 9], {
                    "layer": "one", "axes": "in (out coef)", "from": 0, "to": 3,
                }],
            ],
        },
    ),
    {
        "a.codebook": ("F32", [3, 2], ramp(6)),
        "a.index": ("U8", [2], bytes([0b10010010, 0b0001])),
        "b.index": ("U8", [1], bytes([0b00011001])),
        "b.kept_at": ("I64", [2], _ints(1, 4)),
        "b.kept": ("F32", [2, 2], ramp(4)),
        "four.codebook": ("F32", [2, 6], ramp(12)),
        "four.index": ("U8", [1], bytes([0b0110])),
        "conv.codebook": ("F32", [4, 2], ramp(8)),
        "conv.index": ("U8", [2], bytes([0b11100100, 0b00011011])),
        "one.codebook": ("F16", [1, 3], b"\0\x3c\0\x40\0\x42"),
    },
)  # fmt: skip


def _opaque(module: bool = False) -> tuple[bytes, dict[str, torch.Tensor]]:
    """A torch file without the storages of its model, and the model's tensors."""
    weight = torch.arange(8.0).reshape(2, 2, 2) / 8
    base = torch.arange(12, dtype=torch.int64)
    state: Any = OrderedDict(
        w=weight, n=base[:4], m=base[4:].reshape(2, 4), t=torch.arange(6.0).reshape(2, 3).t()
    )
    if module:
        part = torch.nn.Module()
        for name, tensor in state.items():
            part.register_buffer(name, tensor)
        content: Any = part
    else:
        content = {"net": state, "opt": {"m": torch.ones(3), "lr": 0.1}, "epoch": 3}
    file = io.BytesIO()
    torch.save(content, file)
    archive = zips.archive_of(file.getvalue())
    archive.records = [r for r in archive.records if r.name.rpartition("/")[2] not in ("0", "1")
                       or "/data/" not in r.name]  # fmt: skip
    archive.records = [r for r in archive.records if not r.name.endswith("data/2")]
    archive.aligned = True
    return zips.build(archive), state


def _with_opaque(container: str, path: list[str], *, module: bool = False) -> Draft:
    raw, state = _opaque(module)
    return Draft(
        document(
            layers={"l": {"shape": [2, 2]}},
            encodings={"bits": ["index"], "plain": ["codebook"]},
            restore={
                "container": container,
                "path": path,
                "opaque": "the rest",
                "tensors": [
                    ["w", "F32", [2, 2, 2], {
                        "layer": "l", "axes": "out in coef", "from": 0, "to": 2,
                    }],
                    ["n", "I64", [4], None],
                    ["m", "I64", [2, 4], None],
                    ["t", "F32", [3, 2], None],
                ],
            },
        ),
        {
            "l.codebook": ("F32", [2, 2], ramp(4)),
            "l.index": ("U8", [1], bytes([0b0110])),
            "n": ("I64", [4], state["n"].numpy().tobytes()),
            "m": ("I64", [2, 4], state["m"].numpy().tobytes()),
            "t": ("F32", [3, 2], state["t"].contiguous().numpy().tobytes()),
            "the rest": ("U8", [len(raw)], raw),
        },
    )  # fmt: skip


# Every edge alike (no index at all), in a native network and in another library's.
ONE = Draft(
    document(
        model={"name": "kan", "grid": [-1.0, 1.0, 1], "degree": 1},
        layers={"0": {"shape": [3, 2]}, "1": {"shape": [2, 3]}},
        encodings={"plain": ["codebook", "kept", "kept_at"]},
    ),
    {
        "0.codebook": ("F32", [1, 3], ramp(3)),
        "1.codebook": ("F64", [1, 3], struct.pack("<3d", 0.1, 0.2, 0.3)),
        "1.kept_at": ("I64", [2], _ints(0, 5)),
        "1.kept": ("F64", [2, 3], struct.pack("<6d", *range(6))),
    },
)


def by_hand() -> dict[str, Draft]:
    """The drafts, by name; the one whose `opaque` is no archive has none here."""
    plain = deepcopy(hostile.FOREIGN)
    del plain.document["restore"]["opaque"], plain.tensors["rest"]
    plain.document["restore"]["tensors"][0][3]["axes"] = "out (in coef) kh kw"
    return hostile.HONEST | {
        "foreign": plain,
        "origins": ORIGINS,
        "parts": PARTS,
        "one": ONE,
        "opaque": _with_opaque("torch-zip", ["net"]),
        "opaque-module": _with_opaque("torch-module", [], module=True),
    }


# --- files that the library makes ------------------------------------------------------------


def _case(name: str) -> dict[str, torch.Tensor]:
    return load_file(CASES / name / "state.safetensors")


def _saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _packed(
    source: Any,
    clusters: int,
    *,
    indices: str = "bits",
    numbers: str = "source",
    header: str = "auto",
    parts: int | None = None,
    **options: Any,
) -> bytes:
    dtype = kancompress.StoredDtype(numbers)
    sides = dtype if isinstance(source, kancompress.Checkpoint) else kancompress.StoredDtype.SOURCE
    config = kancompress.ClusterConfig(
        codebook_dtype=dtype,
        side_dtype=sides,
        clusters=clusters,
        parts=parts,
        force_pack=True,
        max_iterations=3,
        indices=kancompress.IndexCoding(indices),
        header=kancompress.HeaderForm(header),
    )
    return kancompress.encode(kancompress.cluster(source, config, **options).model)


def by_library() -> Iterator[tuple[str, Draft]]:
    """Files that the library packs, by name."""
    for name, widths in NETWORKS:
        dense = fresh(name, widths)
        yield name, take_apart(_packed(dense, 3))
        if name in ("gramkan", "kanconv", "mlp"):
            yield f"{name}-int8", take_apart(_packed(dense, 3, numbers="int8"))
        if name == "kan":
            yield "kan-1", take_apart(_packed(dense, 1))
        if name.startswith("meta"):
            yield f"{name}-meta", take_apart(kancompress.encode(dense))
    for name in ("efficient_kan_default", "fast_kan_default", "tck_fc_kagn"):
        tensors = _case(name)
        yield name, take_apart(_packed(_saved(tensors), 4))
        for header in ("plain", "short"):
            raw = _packed(_saved(tensors), 4, indices="rans", header=header)
            yield f"{name}-rans-{header}", take_apart(raw)
        coded = _packed(_saved(tensors), 4, indices="rans", numbers="int8")
        yield f"{name}-int8", take_apart(coded)
    cut = _saved(_case("efficient_kan_default"))
    yield "parts-bits", take_apart(_packed(cut, 5, parts=3))
    yield "parts-rans", take_apart(_packed(cut, 5, parts=9, indices="rans"))
    scaled = _saved({"model": _case("efficient_kan_default"), "epoch": 3, "opt": torch.ones(2)})
    yield "kept-scaler", take_apart(_packed(scaled, 2, keep_scaler=True))
    for header in ("plain", "short"):
        raw = _packed(scaled, 2, header=header, keep_extra=True)
        yield f"kept-extra-{header}", take_apart(raw)
    legacy = io.BytesIO()
    torch.save(_case("fast_kan_default"), legacy, _use_new_zipfile_serialization=False)
    yield "legacy", take_apart(_packed(legacy.getvalue(), 2))
