"""Every encoding of indices gives them back, and keeps to the size that it foretells."""

import json
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch

import kancompress
from conftest import fresh
from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.arrays import Array, Outline, from_numpy
from kancompress.formats.packed.encodings import (
    OF_INDICES,
    OF_NUMBERS,
    IndexEncoding,
    Indices,
    Size,
    index_type,
)
from kancompress.formats.packed.encodings.bits import Bits
from kancompress.formats.safetensors import Entry
from kancompress.layers.stored import rounded
from kancompress.models.records import sizes
from kancompress.models.tensors import to_array
from kancompress.packing.native import NativeSource
from kancompress.packing.source import Coded

CASES = [(1, 1), (7, 1), (5, 2), (1000, 2), (70_000, 3), (999, 16), (12, 256), (12, 257),
         (3000, 65_536)]  # fmt: skip


@pytest.mark.parametrize("name", OF_INDICES)
@pytest.mark.parametrize(("count", "clusters"), CASES)
def test_indices_come_back(name: str, count: int, clusters: int) -> None:
    encoding, claim = OF_INDICES[name], Indices("0.index", count, clusters)
    assert encoding.fits(claim) or (name, clusters > 1024) == ("rans", True)
    if not encoding.fits(claim):
        return
    indices = np.random.default_rng(count).integers(0, clusters, count).astype(index_type(clusters))
    array, size = encoding.encode(indices, claim), encoding.size(claim)
    nbytes = 0 if array is None else array.nbytes
    assert nbytes == size.nbytes if size.exact else nbytes <= size.nbytes
    entry = None if array is None else Entry("0.index", array.dtype, array.shape, 0, nbytes)
    encoding.check(entry, claim, "the file")
    again = encoding.decode(array, claim, "the file")
    if again is None:
        assert clusters == 1
    else:
        assert again.dtype == index_type(clusters)
        assert np.array_equal(again, indices)


@pytest.mark.parametrize("name", OF_INDICES)
def test_what_cannot_be_right_is_refused_before_it_is_read(name: str) -> None:
    encoding, claim = OF_INDICES[name], Indices("0.index", 10, 4)
    for entry in (
        None,
        Entry("0.index", "I8", (3,), 0, 3),
        Entry("0.index", "U8", (2**40,), 0, 2**40),
        Entry("0.index", "U8", (1, 3), 0, 3),
    ):
        with pytest.raises(InvalidFileError, match=r"the file: tensor '0\.index'"):
            encoding.check(entry, claim, "the file")


@pytest.mark.parametrize("name", OF_NUMBERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("role", ["codebook", "bias", "norm"])
def test_numbers_come_back(name: str, dtype: torch.dtype, role: str) -> None:
    shape = {"codebook": (16, 9), "bias": (7,), "norm": (2, 5)}[role]
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    encoding = OF_NUMBERS[name]
    array = to_array(rounded(numbers, torch.int8 if name == "int8" else dtype, role))
    claim = Outline(array.dtype, array.shape)
    written = encoding.encode(array, f"0.{role}")
    assert Outline(written.dtype, written.shape) == encoding.written(claim, role)
    encoding.check(Entry(f"0.{role}", written.dtype, written.shape, 0, written.nbytes), role, "f")
    assert encoding.read(Outline(written.dtype, written.shape), role) == claim
    again = encoding.decode(written, f"0.{role}", "f")
    assert np.array_equal(again.data, array.data)


# --- an encoding beside the usual one -------------------------------------------------------


class Octets(Bits):
    """An index in each byte, for codebooks of at most 256 centroids."""

    name = "octets"

    def size(self, claim: Indices) -> Size:
        return Size(claim.count)

    def check(self, entry: Entry | None, claim: Indices, where: str) -> None:
        if entry is None or entry.shape != (claim.count,):
            raise InvalidFileError(Flaw.INDEX_LENGTH, f"{where}: not {claim.count} octets")

    def encode(self, indices: np.ndarray, claim: Indices) -> Array:
        return from_numpy(indices.astype(np.uint8))

    def decode(self, array: Array | None, claim: Indices, where: str) -> np.ndarray:
        assert array is not None
        if array.data.max() >= claim.clusters:
            raise InvalidFileError(Flaw.INDEX_RANGE, f"{where}: no centroid {array.data.max()}")
        return array.data


def of_octets(names: str, clusters: int) -> kancompress.PackedModel:
    """A packed network of three layers, of which the named ones have octets."""
    config = kancompress.ClusterConfig(clusters=clusters, force_pack=True)
    model = kancompress.cluster(fresh("fastkan", (8, 6, 4, 3)), config).model
    layers = [
        replace(layer, encoding="octets" if layer.name in names else "bits")
        for layer in model.layers
    ]
    return replace(model, layers=tuple(layers))


@pytest.mark.parametrize(
    ("names", "encodings", "exceptions"),
    [
        ("", {"bits": "index"}, {}),
        ("012", {"octets": "index"}, {}),
        ("1", {"bits": "index"}, {"1.index": "octets"}),
        ("02", {"octets": "index"}, {"1.index": "bits"}),
    ],
)
@pytest.mark.parametrize("clusters", [1, 5])
def test_each_layer_may_have_an_encoding_of_its_own(
    names: str,
    encodings: dict[str, str],
    exceptions: dict[str, str],
    clusters: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(cast(dict[str, IndexEncoding], OF_INDICES), "octets", Octets())
    model = of_octets(names, clusters)
    raw = kancompress.encode(model)
    assert sum(sizes(model)) == len(raw)
    again = kancompress.load(raw)
    assert isinstance(again, kancompress.PackedModel)
    for one, other in zip(model.layers, again.layers, strict=True):
        assert np.array_equal(one.indices(), other.indices())
    assert kancompress.encode(again) == raw
    if clusters > 1:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        document = json.loads(header["__metadata__"]["kancompress"])
        found = {name: "index" for name, roles in document["encodings"].items() if "index" in roles}
        assert (found, document.get("exceptions", {})) == (encodings, exceptions)
        assert [layer.encoding for layer in again.layers] == [
            layer.encoding for layer in model.layers
        ]


def test_clustering_weighs_and_writes_the_encoding_that_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(cast(dict[str, IndexEncoding], OF_INDICES), "octets", Octets())
    source = NativeSource(checkpoint=fresh("fastkan", (8, 6)), file_bytes=0)
    labels = np.arange(48) % 5
    coded = Coded(codebook=torch.zeros(5, 9), labels=labels, encoding="octets")
    assert coded.nbytes(48) == 5 * 9 * 4 + 48
    raw = kancompress.encode(source.assemble({"0": coded}))
    again = kancompress.load(raw)
    assert isinstance(again, kancompress.PackedModel)
    assert again.layers[0].encoding == "octets"
    assert np.array_equal(again.layers[0].indices(), labels)


def test_an_encoding_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as known:
        known.setitem(cast(dict[str, IndexEncoding], OF_INDICES), "octets", Octets())
        raw = kancompress.encode(of_octets("1", 5))
    with pytest.raises(InvalidFileError, match=r"'1\.index' has the encoding 'octets'"):
        kancompress.load(raw)
