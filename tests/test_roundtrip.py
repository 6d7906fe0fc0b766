"""Any packed model comes back from its bytes bit for bit, and means what the format page says."""

import base64
import hashlib
import json
import math
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

import kancompress
import short_reader
from hostile import stripped
from kancompress import HeaderForm, specs
from kancompress.data.images import IMAGE_SETS
from kancompress.formats.checkpoint import side_shapes
from kancompress.formats.packed.encodings import index_type
from kancompress.formats.packed.restore import read_restore
from kancompress.models.records import PackedLayer, PackedModel, sizes
from kancompress.specs import BasisSpec, ConvSpec, DataSpec, Family, SourceSizes, default_basis

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

fast = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- random models -------------------------------------------------------------------------


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Finite numbers of any size that the type has, zeros and subnormals among them."""
    values = rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 4, shape)
    return torch.from_numpy(values).to(dtype)


@st.composite
def packed_layers(
    draw: st.DrawFn, name: str, shape: tuple[int, ...], d: int, lender: PackedLayer | None
) -> PackedLayer:
    """A layer that is packed or dense, with or without kept edges and a codebook of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(FLOATS))
    kind = draw(st.sampled_from(["packed", "packed", "packed", "shared", "dense"]))
    edges = math.prod(shape)
    if kind == "dense":
        return PackedLayer(name=name, shape=shape, coefficients=numbers(rng, (*shape, d), dtype))
    codebook = numbers(rng, (draw(st.integers(1, 300)), d), dtype)
    shares = None
    if kind == "shared" and lender is not None and lender.codebook is not None:
        codebook, shares = lender.codebook, lender.name
    k, kept_at, kept, rest = len(codebook), None, None, edges
    if edges > 1 and draw(st.booleans()):
        count = draw(st.integers(1, edges - 1))
        kept_at = torch.from_numpy(np.sort(rng.permutation(edges)[:count]))
        kept = numbers(rng, (count, d), draw(st.sampled_from(FLOATS)))
        rest -= count
    index = rng.integers(0, k, rest).astype(index_type(k))
    return PackedLayer(
        name=name,
        shape=shape,
        codebook=None if shares else codebook,
        shares=shares,
        index=index,
        kept_at=kept_at,
        kept=kept,
    )


@st.composite
def with_sides(
    draw: st.DrawFn, layer: PackedLayer, shapes: dict[str, tuple[int, ...]]
) -> PackedLayer:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sides = {
        role: numbers(rng, shape, draw(st.sampled_from(FLOATS)))
        for role, shape in shapes.items()
        if role != "bias" or draw(st.booleans())
    }
    if len(sides.get("norm", ())) == 4:
        sides["norm"][3].abs_()  # running variances
    return replace(layer, sides=sides)


bounds = st.floats(-1e6, 1e6).flatmap(
    lambda low: st.floats(low, 2e6, exclude_min=True).map(lambda high: (low, high))
)


@st.composite
def bases(draw: st.DrawFn) -> BasisSpec:
    family = draw(st.sampled_from(list(Family)))
    grid = degree = None
    if specs.FAMILIES[family].grid is not None:
        grid = (*draw(bounds), draw(st.integers(specs.FAMILIES[family].fewest, 12)))
    if specs.FAMILIES[family].degree is not None:
        degree = draw(st.integers(0, 6))
    return BasisSpec(family=family, grid=grid, degree=degree)


shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
source_sizes = st.builds(
    SourceSizes,
    tensors=st.integers(0, 2**63 - 1),
    file=st.integers(0, 2**63 - 1),
    dense=st.none() | st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)),
)


@st.composite
def data_specs(draw: st.DrawFn, outputs: int) -> DataSpec:
    channels = draw(st.integers(0, 3))
    positive = st.floats(1e-6, 1e6)
    kind = draw(st.sampled_from(["classes", "targets", ""]))
    return DataSpec(
        name=draw(st.sampled_from(["digits", "cifar100", "file", "größe µ"])),
        classes=outputs if kind == "classes" else None,
        targets=outputs if kind == "targets" else None,
        mean=tuple(draw(st.floats(-1e6, 1e6)) for _ in range(channels)),
        std=tuple(draw(positive) for _ in range(channels)),
        seed=draw(st.integers(0, 2**63 - 1)),
        validation=draw(shares | st.just(0.1)),
        test=draw(st.none() | shares),
    )


def convolutions(count: int) -> st.SearchStrategy[ConvSpec]:
    share = st.floats(0, 1, exclude_max=True)
    return st.builds(
        ConvSpec,
        strides=st.lists(st.integers(1, 3), min_size=count, max_size=count).map(tuple),
        padding=st.integers(0, 2),
        dropout=st.tuples(share, share),
    )


@st.composite
def native_models(draw: st.DrawFn) -> PackedModel:
    basis = draw(bases())
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    if draw(st.integers(0, 9)) == 0:
        widths = [2] * 13  # two digits: "10" sorts before "2"
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    conv, taps, beside, outputs = None, [], {}, widths[-1]
    if basis.family is not Family.MLP and draw(st.booleans()):
        conv = draw(convolutions(len(widths) - 1))
        taps = draw(st.lists(st.integers(1, 3), min_size=2, max_size=2))
        outputs = draw(st.integers(1, 9))
        beside = {"head.weight": (outputs, widths[-1]), "head.bias": (outputs,)}
    layers: list[PackedLayer] = []
    for number in range(len(widths) - 1):
        shape = (widths[number + 1], widths[number], *taps)
        lender = next((layer for layer in layers if layer.codebook is not None), None)
        layer = draw(packed_layers(str(number), shape, basis.coefficients, lender))
        layers.append(draw(with_sides(layer, side_shapes(basis, shape))))
    return PackedModel(
        layers=tuple(layers),
        source=draw(source_sizes),
        basis=basis,
        data=draw(st.none() | data_specs(outputs)),
        tensors={
            name: numbers(rng, shape, draw(st.sampled_from(FLOATS)))
            for name, shape in beside.items()
        },
        conv=conv,
        header=draw(st.sampled_from(HeaderForm)),
    )


names = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12
).filter(lambda name: "." not in name and name != "__metadata__")  # fmt: skip
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@st.composite
def foreign_models(draw: st.DrawFn) -> PackedModel:
    """A checkpoint of another library: convolutions, tensors kept as they were, `restore`."""
    d = draw(st.integers(1, 6))
    layers: list[PackedLayer] = []
    source: list[list[Any]] = []
    layer_names = draw(
        st.lists(st.from_regex(r"[a-z_0-9.]{1,8}", fullmatch=True), min_size=1, max_size=4,
                 unique=True)
    )  # fmt: skip
    for name in sorted(layer_names):
        rank = draw(st.sampled_from([2, 4]))
        shape = tuple(draw(st.integers(1, 5)) for _ in range(rank))
        lender = next((layer for layer in layers if layer.codebook is not None), None)
        layer = draw(packed_layers(name, shape, d, lender))
        rows = draw(st.sampled_from([2, 4]))
        sides = {"bias": (shape[0],), "norm": (rows, 3), "beta": (2,)}
        chosen = draw(st.sets(st.sampled_from(sorted(sides))))
        layer = draw(with_sides(layer, {role: sides[role] for role in sorted(chosen)}))
        layers.append(layer)
        axes = "out in coef" if rank == 2 else "out (in coef) kh kw"
        whole = {"layer": name, "axes": axes, "from": 0, "to": d}
        source.append([f"{name}.weight", "F32", [math.prod(shape), d], whole])
    tensors: dict[str, Tensor] = {}
    for name in draw(st.lists(names, max_size=4, unique=True)):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        size = math.prod(shape) * DTYPES[dtype].itemsize
        raw = draw(st.binary(min_size=size, max_size=size))
        if dtype == "BOOL":
            raw = bytes(byte & 1 for byte in raw)
        values = torch.from_numpy(np.frombuffer(raw, np.uint8).copy())
        tensors[name] = (
            values.view(DTYPES[dtype]).reshape(shape)
            if size
            else torch.empty(shape, dtype=DTYPES[dtype])
        )
        source.append([name, dtype, list(shape), None])
    path = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=2))
    if draw(st.booleans()):
        kinds = {name: (DTYPES[dtype], shape) for name, dtype, shape, _ in source}
        content: Any = {
            name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in kinds.items()
        }
        for key in reversed(path):
            content = {key: content, "beside": [1]}
        raw = bytearray(stripped(content))
        tensors["opaque bytes"] = torch.frombuffer(raw, dtype=torch.uint8)
    restore: dict[str, Any] = {
        "container": "torch-zip",
        "path": path,
        "tensors": source,
        "metadata": {
            "note": draw(st.text(st.characters(exclude_categories=["Cs"]))),
            "A": "A" * 44,
        },
    }
    if "opaque bytes" in tensors:
        restore["opaque"] = "opaque bytes"
    return PackedModel(
        layers=tuple(layers),
        source=draw(source_sizes),
        tensors=tensors,
        restore=read_restore(restore, {layer.name for layer in layers}, "the model"),
        header=draw(st.sampled_from(HeaderForm)),
    )


models = native_models() | foreign_models()


# --- an independent reader -----------------------------------------------------------------


class MiniReader:
    """Reads a packed file with numpy and json alone, written from docs/packed-format.md."""

    def __init__(self, raw: bytes) -> None:
        (length,) = struct.unpack("<Q", raw[:8])
        assert (8 + length) % 8 == 0
        header = json.loads(raw[8 : 8 + length])
        metadata = header.pop("__metadata__")
        assert list(metadata) == ["kancompress"]
        self.document = json.loads(metadata["kancompress"])
        stated = self.document["checksum"].removeprefix("sha256-").encode()
        assert raw[: 8 + length].count(stated) == 1
        blank = raw.replace(stated, b"A" * 44, 1)
        assert base64.b64encode(hashlib.sha256(blank).digest()) == stated
        self.tensors: dict[str, np.ndarray] = {}
        self.short = short_reader.is_short(self.document)
        if self.short:
            header = self.table(header)
        for name, record in header.items():
            begin, end = record["data_offsets"]
            data = raw[8 + length + begin : 8 + length + end]
            self.tensors[name] = self.numbers(data, record["dtype"]).reshape(record["shape"])
        self.layers = self.document["layers"]

    def table(self, header: dict[str, Any]) -> dict[str, Any]:
        """The records of the tensors that lie in the one of a short header."""
        assert list(header) == ["packed"]
        self.document, tensors = short_reader.ordinary(self.document)
        found, end = {}, 0
        sizes = short_reader.SIZES | {"I32": 4, "BOOL": 1}
        for name in sorted(tensors, key=lambda n: (-sizes[tensors[n][0]], n.encode())):
            dtype, shape = tensors[name]
            begin, end = end, end + math.prod(shape) * sizes[dtype]
            found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        assert header["packed"] == {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}
        return found

    @staticmethod
    def numbers(data: bytes, dtype: str) -> np.ndarray:
        if dtype == "BF16":  # the upper half of a float32
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        kind = {"F": "f", "I": "i", "U": "u", "B": "u"}[dtype[0]]
        size = 1 if dtype == "BOOL" else int(dtype[1:]) // 8
        return np.frombuffer(data, f"<{kind}{size}")

    def coefficients(self, name: str) -> np.ndarray:
        """(*shape, d) in float64, which holds every type's numbers exactly."""
        shape = self.layers[name]["shape"]
        if f"{name}.coefficients" in self.tensors:
            return self.tensors[f"{name}.coefficients"].astype(np.float64)
        owner = self.layers[name].get("codebook", name)
        codebook = self.tensors[f"{owner}.codebook"].astype(np.float64)
        edges, width = math.prod(shape), math.ceil(math.log2(len(codebook)))
        kept_at = self.tensors.get(f"{name}.kept_at", np.zeros(0, np.int64)).tolist()
        stream = int.from_bytes(self.tensors.get(f"{name}.index", np.zeros(0, np.uint8)), "little")
        result = np.empty((edges, codebook.shape[1]))
        taken = 0
        for edge in range(edges):
            if edge in kept_at:
                result[edge] = self.tensors[f"{name}.kept"][kept_at.index(edge)]
            else:
                result[edge] = codebook[stream >> (taken * width) & ((1 << width) - 1)]
                taken += 1
        assert stream >> (taken * width) == 0
        return result.reshape(*shape, -1)


# --- what must hold for any model ----------------------------------------------------------


def same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.numel() == 0 or torch.equal(
        *(t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    )


def loaded(raw: bytes) -> PackedModel:
    record = kancompress.load(raw)
    assert isinstance(record, PackedModel)
    return record


@pytest.mark.slow
@fast
@given(models)
def test_every_field_comes_back(model: PackedModel) -> None:
    raw = kancompress.encode(model)
    again = loaded(raw)
    assert again.source == model.source
    assert again.basis == model.basis
    assert again.conv == model.conv
    assert again.data == model.data
    assert again.restore == model.restore
    assert again.header is (HeaderForm.SHORT if b'\\"clusters\\"' in raw else HeaderForm.PLAIN)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert [layer.shape for layer in again.layers] == [layer.shape for layer in model.layers]
    assert [layer.shares for layer in again.layers] == [layer.shares for layer in model.layers]
    before, after = model.named_tensors(), again.named_tensors()
    assert before.keys() == after.keys()
    assert all(same_bits(before[name], after[name]) for name in before)
    for old, new in zip(model.layers, again.layers, strict=True):
        assert same_bits(model.coefficients_of(old), again.coefficients_of(new))
    assert kancompress.encode(again) == raw


def can_be_short(model: PackedModel) -> bool:
    """Whether the page's section 12 can tell this one: see 12.6."""
    if (
        model.data is not None
        and model.data.name in short_reader.STATISTICS
        and not model.data.mean
    ):
        return False
    return model.restore is None or not any(layer.sides for layer in model.layers)


@pytest.mark.slow
@fast
@given(models)
def test_an_independent_reader_agrees(model: PackedModel) -> None:
    reader = MiniReader(kancompress.encode(model))
    if model.header is HeaderForm.SHORT:
        assert reader.short == can_be_short(model)
    assert reader.layers.keys() == {layer.name for layer in model.layers}
    for layer in model.layers:
        ours = model.coefficients_of(layer).double().numpy()
        assert np.array_equal(ours, reader.coefficients(layer.name))


@fast
@given(models)
def test_safetensors_opens_it(model: PackedModel) -> None:
    raw = kancompress.encode(replace(model, header=HeaderForm.PLAIN))
    theirs, ours = safetensors.torch.load(raw), model.named_tensors()
    assert theirs.keys() == ours.keys()
    assert all(same_bits(theirs[name], ours[name]) for name in ours)


@fast
@given(models)
def test_size_is_known_beforehand(model: PackedModel) -> None:
    raw = kancompress.encode(model)
    (length,) = struct.unpack("<Q", raw[:8])
    assert sizes(model) == (8 + length, len(raw) - 8 - length)


def test_layout_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    assert kancompress.save(of_size((4, 3, 2), Family.FASTKAN, None), path) == path.stat().st_size
    with safe_open(path, "np") as file:
        assert file.metadata().keys() == {"kancompress"}
        assert file.get_tensor("0.norm").shape == (2, 4)


def test_kept_edges_stay_as_they_were() -> None:
    """Float32 edges beside a float16 codebook are not rounded to it."""
    layer = PackedLayer(
        name="0",
        shape=(1, 2),
        codebook=torch.tensor([[0.5, 0.25, 1.0]], dtype=torch.float16),
        kept_at=torch.tensor([1]),
        kept=torch.tensor([[1 / 3, 1e-9, 1e9]]),
    )
    model = PackedModel(
        layers=(layer,),
        source=SourceSizes(tensors=24, file=300),
        basis=BasisSpec(family=Family.KAN, grid=(-1.0, 1.0, 1), degree=1),
    )
    again = loaded(kancompress.encode(model))
    coefficients = again.coefficients_of(again.layers[0])
    assert coefficients.tolist()[0] == [[0.5, 0.25, 1.0], layer.kept.tolist()[0]]  # type: ignore[union-attr]


# --- sizes that the README states ----------------------------------------------------------


def of_size(
    widths: tuple[int, ...],
    family: Family,
    name: str | None,
    dtype: torch.dtype = torch.float32,
) -> PackedModel:
    """A network packed at k = 16, of a meta source, trained for the data set `name`."""
    basis = default_basis(family)
    layers = []
    tensors = edges = 0
    for number, (inputs, out) in enumerate(pairwise(widths)):
        sides = {
            role: torch.zeros(shape)
            for role, shape in side_shapes(basis, (out, inputs)).items()
            if role != "bias"
        }
        layers.append(
            PackedLayer(
                name=str(number),
                shape=(out, inputs),
                codebook=torch.zeros(16, basis.coefficients, dtype=dtype),
                index=(np.arange(out * inputs) % 16).astype(np.uint8),
                sides=sides,
            )
        )
        edges += out * inputs
        tensors += 4 * sum(side.numel() for side in sides.values())
    meta = tensors + 4 * (edges + 32 * (2 + basis.coefficients) + basis.coefficients)
    dense = tensors + 4 * edges * basis.coefficients
    data = None
    if name is not None:
        images = IMAGE_SETS[name]
        data = DataSpec(name=name, classes=images.classes, mean=images.mean, std=images.std)
    return PackedModel(
        layers=tuple(layers),
        source=SourceSizes(tensors=meta, file=meta + 1500, dense=(dense, dense + 900)),
        basis=basis,
        data=data,
    )


FAMILIES = (Family.KAN, Family.FASTKAN, Family.GRAMKAN)
SIZES = {
    "mnist": ((784, 32, 10), (13856, 20384, 13712), (14172, 21033, 14490)),
    "cifar10": ((2352, 32, 10), (38944, 58016, 38800), (39260, 58675, 39578)),
    "cifar100": ((2352, 32, 100), (40384, 59456, 40960), (40704, 60119, 41738)),
}


@pytest.mark.parametrize("position", range(3), ids=FAMILIES)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_paper_s_networks(name: str, position: int) -> None:
    widths, payloads, halves = SIZES[name]
    family = FAMILIES[position]
    model = of_size(widths, family, name)
    header, payload = sizes(model)
    assert payload == payloads[position]
    assert header <= (880 if family is Family.KAN else 1090)
    assert len(kancompress.encode(model)) == header + payload
    half = kancompress.encode(of_size(widths, family, name, torch.float16))
    assert len(half) <= halves[position]
