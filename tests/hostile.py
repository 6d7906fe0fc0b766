"""Packed files written byte by byte from docs/packed-format.md, and edits that make them lie.

Nothing here uses kancompress. A `Draft` is a file taken apart; `build` signs whatever the edits
have left of it, so that a reader meets the lie itself and not a wrong checksum.
"""

import base64
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

BLANK = "sha256-" + "A" * 44
SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1}

Edit = Callable[["Draft"], None]


@dataclass
class Draft:
    """A file taken apart: `tensors` holds dtype, shape and bytes by name."""

    document: dict[str, Any]
    tensors: dict[str, tuple[str, list[int], bytes]]
    metadata: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    swaps: list[tuple[str, str]] = field(default_factory=list)
    order: list[str] | None = None
    padding: bytes = b" "
    tail: bytes = b""

    def build(self) -> bytes:
        """The file, with a checksum that fits it."""
        text = json.dumps(self.document, sort_keys=True, separators=(",", ":"))
        header: dict[str, Any] = {"__metadata__": {"kancompress": text} | self.metadata}
        payload = b""
        names = sorted(self.tensors, key=lambda n: (-SIZES[self.tensors[n][0]], n.encode()))
        for name in self.order or names:
            dtype, shape, data = self.tensors[name]
            offsets = [len(payload), len(payload) + len(data)]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
            payload += data
        for path, value in self.records.items():
            put_at(header, path, value)
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
        for old, new in self.swaps:
            assert text.count(old) >= 1, (old, text)
            text = text.replace(old, new, 1)
        encoded = text.encode("utf-8", "surrogatepass")
        encoded += self.padding * (-len(encoded) % 8)
        return sign(struct.pack("<Q", len(encoded)) + encoded + payload + self.tail)


def sign(raw: bytes) -> bytes:
    """Put the checksum in the place of its blank."""
    digest = base64.b64encode(hashlib.sha256(raw).digest())
    return raw.replace(BLANK.encode(), b"sha256-" + digest, 1)


def steps(path: str) -> list[Any]:
    return [int(part[1:]) if part.startswith("#") else part for part in path.split("/")]


def put_at(record: Any, path: str, value: object) -> None:
    *parents, last = steps(path)
    for step in parents:
        record = record[step]
    record[last] = value


# --- edits ---------------------------------------------------------------------------------


def put(path: str, value: object) -> Edit:
    """Set a value of the document; steps are divided by "/", list positions written "#0"."""
    return lambda draft: put_at(draft.document, path, value)


def drop(path: str) -> Edit:
    def edit(draft: Draft) -> None:
        record: Any = draft.document
        *parents, last = steps(path)
        for step in parents:
            record = record[step]
        del record[last]

    return edit


def tensor(name: str, dtype: str, shape: list[int], data: bytes | None = None) -> Edit:
    """Add or replace a tensor, with zeros where there are no `data`."""

    def edit(draft: Draft) -> None:
        count = SIZES[dtype]
        for length in shape:
            count *= length
        draft.tensors[name] = (dtype, shape, bytes(count) if data is None else data)

    return edit


def without(name: str) -> Edit:
    return lambda draft: void(draft.tensors.pop(name))


def renamed(old: str, new: str) -> Edit:
    return lambda draft: void(draft.tensors.update({new: draft.tensors.pop(old)}))


def record(path: str, value: object) -> Edit:
    """Set a value of the header, after it is laid out."""
    return lambda draft: void(draft.records.update({path: value}))


def swap(old: str, new: str) -> Edit:
    """Replace the first `old` in the header's text."""
    return lambda draft: draft.swaps.append((old, new))


def attribute(name: str, value: object) -> Edit:
    return lambda draft: setattr(draft, name, value)


def void(_: object) -> None:
    return None


def made(base: Draft, *edits: Edit) -> bytes:
    """A base with edits, as bytes."""
    draft = deepcopy(base)
    for edit in edits:
        edit(draft)
    return draft.build()


# --- honest files --------------------------------------------------------------------------


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def ramp(count: int) -> bytes:
    return floats(*(number / 8 - 1 for number in range(count)))


def document(**more: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "kind": "packed",
        "checksum": BLANK,
        "source": {"tensors": 144, "file": 600},
    } | more


# 2 -> 3 -> 2: one intercept, one slope and a base weight an edge; edge 1 of layer 1 is kept.
KAN = Draft(
    document(
        model={"name": "kan", "grid": [-1.0, 1.0, 1], "degree": 1},
        data={"name": "file", "seed": 0, "classes": 2, "mean": [0.5], "std": [0.25]},
        layers={"0": {"shape": [3, 2]}, "1": {"shape": [2, 3]}},
        encodings={"bits": ["index"], "plain": ["bias", "codebook", "kept", "kept_at"]},
    ),
    {
        "0.bias": ("F32", [3], ramp(3)),
        "0.codebook": ("F32", [4, 3], ramp(12)),
        "0.index": ("U8", [2], bytes([0b11100100, 0b0001])),  # 0 1 2 3 1 0
        "1.codebook": ("F32", [10, 3], ramp(30)),
        "1.index": ("U8", [3], bytes([0x09, 0x45, 0x03])),  # 9 0 5 4 3
        "1.kept_at": ("I64", [1], struct.pack("<q", 1)),
        "1.kept": ("F32", [1, 3], ramp(3)),
    },
)

GRAM = Draft(
    document(
        model={"name": "gramkan", "degree": 1},
        layers={"0": {"shape": [2, 2]}},
        encodings={"bits": ["index"], "plain": ["beta", "codebook", "norm"]},
    ),
    {
        "0.codebook": ("F16", [2, 3], bytes(12)),
        "0.index": ("U8", [1], bytes([0b0101])),
        "0.norm": ("F32", [2, 2], ramp(4)),
        "0.beta": ("F32", [2], ramp(2)),
    },
)

# 1 -> 2 channels, kernels of 1 x 2, and a head of three outputs.
CONV = Draft(
    document(
        model={
            "name": "kanconv",
            "grid": [-3.0, 3.0, 1],
            "degree": 1,
            "strides": [2],
            "padding": 1,
            "dropout": [0.25, 0.5],
        },
        data={"name": "file", "seed": 0, "classes": 3},
        layers={"0": {"shape": [2, 1, 1, 2]}},
        encodings={"bits": ["index"], "plain": ["codebook", "norm", "slope"]},
    ),
    {
        "0.codebook": ("F32", [2, 3], ramp(6)),
        "0.index": ("U8", [1], bytes([0b0101])),
        "0.norm": ("F32", [4, 2], floats(-1, 1, 0, 0.5, 0.25, 0, 0, 2)),
        "0.slope": ("F32", [1], ramp(1)),
        "head.weight": ("F32", [3, 2], ramp(6)),
        "head.bias": ("F32", [3], ramp(3)),
    },
)

MLP = Draft(
    document(
        model={"name": "mlp"},
        layers={"0": {"shape": [2, 2]}},
        encodings={"bits": ["index"], "plain": ["bias", "codebook"]},
    ),
    {
        "0.codebook": ("F32", [2, 1], ramp(2)),
        "0.index": ("U8", [1], bytes([0b0101])),
        "0.bias": ("F32", [2], ramp(2)),
    },
)


# Numbers of a byte: the codebook of section 4.2, with a third coefficient that is zero everywhere.
INT8 = Draft(
    document(
        model={"name": "gramkan", "degree": 1},
        layers={"0": {"shape": [2, 2]}},
        encodings={"bits": ["index"], "int8": ["bias", "codebook", "norm"], "plain": ["beta"]},
    ),
    {
        "0.codebook": ("U8", [3, 5], bytes.fromhex("091c7fc119 0100ef0005 0000000000")),
        "0.index": ("U8", [1], bytes([0b00100100])),  # 0 1 2 0
        "0.norm": ("U8", [2, 4], bytes.fromhex("003c7f81 0038817f")),
        "0.bias": ("U8", [4], bytes.fromhex("002c7f01")),
        "0.beta": ("F32", [2], ramp(2)),
    },
)

# The second example of the page, a layer of which edges are kept, and one of fixed width.
RANS = Draft(
    document(
        model={"name": "mlp"},
        layers={"0": {"shape": [8, 6]}, "1": {"shape": [2, 8]}, "2": {"shape": [1, 2]}},
        encodings={"plain": ["codebook", "kept", "kept_at"], "rans": ["index"]},
        exceptions={"2.index": "bits"},
    ),
    {
        "0.codebook": ("F32", [4, 1], ramp(4)),
        "0.index": ("U8", [16], bytes.fromhex("0100984ebb0a12d11a00af61af8500ea")),
        "1.codebook": ("F32", [3, 1], ramp(3)),
        "1.index": ("U8", [10], bytes.fromhex("0000e802b9970200004a")),
        "1.kept_at": ("I64", [3], struct.pack("<3q", 2, 9, 15)),
        "1.kept": ("F32", [3, 1], ramp(3)),
        "2.codebook": ("F32", [2, 1], ramp(2)),
        "2.index": ("U8", [1], bytes([0b10])),
    },
)


# Edges in three parts of one number: in `bits` with a kept edge, and in `rans`.
CUT = Draft(
    document(
        model={"name": "kan", "grid": [-1.0, 1.0, 1], "degree": 1},
        layers={"0": {"shape": [3, 2], "parts": 3}, "1": {"shape": [2, 3], "parts": 3}},
        encodings={"bits": ["index"], "plain": ["codebook", "kept", "kept_at"]},
        exceptions={"1.index": "rans"},
    ),
    {
        "0.codebook": ("F32", [2, 1], ramp(2)),
        "0.index": ("U8", [2], bytes([0b01101001, 0b01110010])),  # 1 0 0 1 0 1 1 0 0 1 0 0 1 1 1
        "0.kept_at": ("I64", [1], struct.pack("<q", 4)),
        "0.kept": ("F32", [1, 3], ramp(3)),
        "1.codebook": ("F32", [3, 1], ramp(3)),
        "1.index": ("U8", [10], bytes.fromhex("0000ac0250b2450000fe")),
    },
)


def stripped(content: object) -> bytes:
    """The torch file of `content` without the storages of its tensors."""
    whole, rest = io.BytesIO(), io.BytesIO()
    torch.save(content, whole)
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(rest, "w") as kept:
        for info in archive.infolist():
            if "/data/" not in info.filename:
                kept.writestr(zipfile.ZipInfo(info.filename), archive.read(info))
    return rest.getvalue()


_TIED = torch.tensor(7)
# What `opaque` of FOREIGN holds: its source without the model's storages.
SKELETON = stripped({
    "state": {
        "conv.w": torch.zeros(2, 2, 2, 2),
        "fc.w": torch.zeros(2, 2),
        "fc.scale": torch.ones(2),
        "grid": torch.zeros(2, 3),
        "steps": torch.zeros(2, 3, dtype=torch.int64),
        "a.bias": torch.zeros(3),
        "count": _TIED,
        "again": _TIED,
    },
    "epoch": 3,
})  # fmt: skip

# Convolutions of another library that share a codebook, a dense layer, and every kind of origin.
FOREIGN = Draft(
    document(
        layers={
            "a": {"shape": [2, 1, 2, 2]},
            "b": {"shape": [2, 2], "codebook": "a"},
            "c": {"shape": [1, 2]},
        },
        encodings={"bits": ["index"], "plain": ["bias", "codebook", "coefficients", "norm"]},
        restore={
            "container": "torch-zip",
            "path": ["state"],
            "metadata": {"format": "pt"},
            "opaque": "rest",
            "tensors": [
                ["conv.w", "F32", [2, 2, 2, 2], {
                    "layer": "a", "axes": "out (in coef) kh kw",
                    "from": 0, "to": 2,
                }],
                ["fc.w", "F32", [2, 2], {
                    "layer": "b", "axes": "out in coef", "from": 1, "to": 2,
                }],
                ["fc.scale", "F32", [2], {"fill": 1.0}],
                ["grid", "F32", [2, 3], {"repeat": "row"}],
                ["steps", "I64", [2, 3], {"arange": [0, 1, 0, 3]}],
                ["a.bias", "F32", [3], {"as": "a.bias.1"}],
                ["count", "I64", [], None],
                ["again", "I64", [], {"tie": "count"}],
            ],
        },
    ),
    {
        "a.codebook": ("F32", [2, 2], ramp(4)),
        "a.index": ("U8", [1], bytes([0b10010110])),
        "a.norm": ("F32", [4, 2], ramp(8)),
        "a.bias": ("F32", [2], ramp(2)),
        "b.index": ("U8", [1], bytes([0b1010])),
        "c.coefficients": ("F32", [1, 2, 2], ramp(4)),
        "a.bias.1": ("F32", [3], ramp(3)),
        "row": ("F32", [3], ramp(3)),
        "rest": ("U8", [len(SKELETON)], SKELETON),
        "count": ("I64", [], struct.pack("<q", 7)),
    },
)  # fmt: skip

# Two layers of another library, and all that a form may say.
FORMS = Draft(
    document(
        layers={"layers.0": {"shape": [2, 2]}, "w": {"shape": [3, 2]}},
        encodings={"bits": ["index"], "plain": ["codebook"]},
        restore={
            "container": "torch-legacy",
            "path": [],
            "tensors": [
                ["layers.0.w", "F32", [2, 2, 2], {
                    "layer": "layers.0", "axes": "out in coef", "from": 0, "to": 2,
                }],
                ["w", "F32", [3, 2], {"layer": "w", "axes": "out in", "from": 0, "to": 1}],
            ],
        },
        forms={
            "layers.0": {
                "layout": "torch-conv-kan-fc",
                "base_activation": "gelu",
                "grid_range": [-1.5, 2.0],
                "rbf_denominator": 0.25,
                "spline_order": 16,
                "symbolic": False,
                "assumed": ["grid_range", "spline_order"],
            },
            "w": {"layout": "of-1-later_version"},
        },
    ),
    {
        "layers.0.codebook": ("F32", [2, 2], ramp(4)),
        "layers.0.index": ("U8", [1], bytes([0b0110])),
        "w.codebook": ("F32", [4, 1], ramp(4)),
        "w.index": ("U8", [2], bytes([0b11100100, 0b0001])),
    },
)  # fmt: skip

# A layer of six edges: two clustered, two masked, two kept as they are.
MASKED = Draft(
    document(
        layers={"a": {"shape": [3, 2]}},
        encodings={"bits": ["index"], "plain": ["codebook", "kept", "kept_at"]},
        restore={
            "container": "torch-zip",
            "path": [],
            "tensors": [
                ["w", "F32", [2, 3], {"layer": "a", "axes": "in out", "from": 0, "to": 1}],
                ["mask", "F32", [2, 3], {
                    "layer": "a", "axes": "in out", "live": 1, "silent": 0, "kept": 0.5,
                }],
                ["affine", "F16", [3, 2, 2], {
                    "layer": "a", "axes": "out in coef",
                    "live": 0.0, "silent": -1.0, "kept": "rows",
                }],
            ],
        },
    ),
    {
        "a.codebook": ("F32", [3, 1], floats(0, 5, 6)),
        "a.index": ("U8", [1], bytes([0b10000100])),
        "a.kept_at": ("I64", [2], struct.pack("<2q", 1, 4)),
        "a.kept": ("F32", [2, 1], ramp(2)),
        "rows": ("F16", [2, 2], struct.pack("<4e", 1, 2, 3, 4)),
    },
)  # fmt: skip

# A layer of pykan to one sum and one multiplication of two, with what `loadckpt` needs.
PYKAN = Draft(
    document(
        layers={"a": {"shape": [3, 1]}},
        encodings={"bits": ["index"], "plain": ["codebook"]},
        restore={
            "container": "torch-zip",
            "path": [],
            "tensors": [
                ["act_fun.0.coef", "F32", [1, 3, 2], {
                    "layer": "a", "axes": "in out coef", "from": 0, "to": 2,
                }],
            ],
            "pykan": {
                "width": [[1, 0], [1, 1]], "mult_arity": [[], [2]], "grid": 1, "k": [1],
                "grid_eps": 0.02, "grid_range": [-1, 1.5], "base_fun_name": "silu",
                "symbolic_enabled": True, "affine_trainable": False, "sp_trainable": True,
                "sb_trainable": True, "symbolic": [[0, 0, 0, "sin"], [0, 2, 0, "x^2"]],
            },
        },
    ),
    {"a.codebook": ("F32", [2, 2], ramp(4)), "a.index": ("U8", [1], bytes([0b101]))},
)  # fmt: skip


def behind_one_another(tensors: dict[str, tuple[str, list[int], bytes]]) -> dict[str, Any]:
    """The one tensor of a short header (section 12) that holds the bytes of these."""
    names = sorted(tensors, key=lambda n: (-SIZES[tensors[n][0]], n.encode()))
    data = b"".join(tensors[name][2] for name in names)
    return {"packed": ("U8", [len(data)], data)}


# RANS with a short header.
SHORT = Draft(
    document(
        model={"name": "mlp"},
        data={"name": "mnist", "seed": 0, "classes": 1},
        source=[144, 600],
        layers=[[8, 6], [2, 8], [1, 2]],
        clusters=[4, 3, 2],
        kept=[0, 3, 0],
        rans=[16, 10, 0],
        F32=["codebook", "kept"],
    ),
    behind_one_another(RANS.tensors),
)

# CONV with a short header, and a norm in float16.
SHORT_CONV = Draft(
    document(
        model=CONV.document["model"],
        source=[144, 600, 288, 900],
        layers=[[2, 1, 1, 2]],
        clusters=2,
        head=3,
        F16=["norm"],
        F32=["codebook", "head.bias", "head.weight", "slope"],
    ),
    behind_one_another(CONV.tensors | {"0.norm": ("F16", [4, 2], bytes(16))}),
)

# Layers of another library that share a codebook, a dense one, and tensors that are stored.
SHORT_FOREIGN = Draft(
    document(
        source=[144, 600],
        layers={"a": [2, 1, 2, 2], "b": {"shape": [2, 2], "codebook": "a"}, "c": [1, 2]},
        clusters=[2, 0, 0],
        coefficients=2,
        F32=["codebook", "coefficients"],
        restore={
            "container": "safetensors",
            "path": [],
            "tensors": [
                FOREIGN.document["restore"]["tensors"][0],
                ["grid", "F32", [2, 3], {"repeat": "row"}],
                ["count", "I64", [], None],
            ],
        },
    ),
    behind_one_another({
        name: FOREIGN.tensors[name]
        for name in ("a.codebook", "a.index", "b.index", "c.coefficients", "row", "count")
    }),
)  # fmt: skip

DENSE = Draft(
    {
        "version": 1,
        "kind": "dense",
        "model": {"name": "fastkan", "grid": [-2.0, 2.0, 2]},
        "data": {"name": "digits", "seed": 0, "classes": 2},
        "layers": {"0": {"shape": [2, 2]}},
    },
    {"0.coefficients": ("F32", [2, 2, 3], ramp(12)), "0.norm": ("F32", [2, 2], ramp(4))},
)

META = Draft(
    DENSE.document | {"kind": "meta"},
    {
        "0.embedding": ("F32", [2, 2, 1], ramp(4)),
        "0.norm": ("F32", [2, 2], ramp(4)),
        "meta.hidden.weight": ("F32", [2, 1], ramp(2)),
        "meta.hidden.bias": ("F32", [2], ramp(2)),
        "meta.output.weight": ("F32", [3, 2], ramp(6)),
        "meta.output.bias": ("F32", [3], ramp(3)),
    },
)

HONEST = {
    "kan": KAN,
    "gramkan": GRAM,
    "kanconv": CONV,
    "mlp": MLP,
    "rans": RANS,
    "cut": CUT,
    "foreign": FOREIGN,
    "forms": FORMS,
    "masked": MASKED,
    "pykan": PYKAN,
    "short": SHORT,
    "short-conv": SHORT_CONV,
    "short-foreign": SHORT_FOREIGN,
    "dense": DENSE,
    "meta": META,
}
