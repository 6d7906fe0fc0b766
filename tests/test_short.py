"""The short header of packed files: small, exact, told as the page tells it, and chosen."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kancompress
import short_reader
from command import done
from conftest import fresh
from kancompress.config import ClusterConfig, HeaderForm, IndexCoding, RepackConfig, StoredDtype
from kancompress.data.images import IMAGE_SETS
from kancompress.formats import document as documents
from kancompress.formats.packed import ordinary
from kancompress.formats.packed.short import STATISTICS
from kancompress.formats.safetensors import parse
from kancompress.formats.storage import open_container
from kancompress.models.records import PackedModel, sizes
from kancompress.packing.native import NativeSource
from kancompress.packing.sizes import Plan
from kancompress.packing.source import Coded, blank
from kancompress.specs import DataSpec
from packed_checker import checker

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "packed-format.md").read_text().partition("## 12. ")[2]
STATE = TESTS / "cases" / "efficient_kan_default" / "state.safetensors"
NATIVE = TESTS / "cases" / "v0.1" / "gramkan.safetensors"


def header_of(raw: bytes) -> int:
    return 8 + int.from_bytes(raw[:8], "little")


def document_of(raw: bytes) -> dict[str, Any]:
    header = json.loads(raw[8 : header_of(raw)])
    found: dict[str, Any] = json.loads(header["__metadata__"]["kancompress"])
    return found


# --- the page -------------------------------------------------------------------------------


def test_the_page_s_example_has_the_tensors_that_it_lists() -> None:
    document = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.S)[0])
    listed = re.findall(r"^(\S+) +(\w+) +\[(.*?)\] +(\d+) to (\d+) *(\w*)$", PAGE, re.M)
    wanted = {
        name: (dtype, [int(length) for length in shape.split(", ")], int(begin), int(end))
        for name, dtype, shape, begin, end, _ in listed
    }
    assert len(wanted) == 9
    made, tensors = short_reader.ordinary(document)
    assert {name: wanted[name][:2] for name in wanted} == tensors
    for name, *_, encoding in listed:
        usual = [one for one, roles in made["encodings"].items() if name.split(".")[1] in roles]
        assert made.get("exceptions", {}).get(name, usual[0]) == (encoding or "plain")
    text = json.dumps({
        "__metadata__": documents.metadata(document),
        "packed": {"dtype": "U8", "shape": [118], "data_offsets": [0, 118]},
    })  # fmt: skip
    raw = len(text).to_bytes(8, "little") + text.encode() + bytes(118)
    container = parse(memoryview(raw), "the example")
    found = ordinary(container, document)
    assert wanted == {
        name: (one.dtype, list(one.shape), one.begin, one.end)
        for name, one in found.entries.items()
    }


def test_the_page_s_table_is_that_of_the_data_sets() -> None:
    rows = re.findall(r"^\| `(\S+)` \| ([\d., ]+) \| ([\d., ]+) \|$", PAGE, re.M)
    told = {
        name: tuple([float(one) for one in numbers.split(", ")] for numbers in (mean, std))
        for name, mean, std in rows
    }
    assert told == STATISTICS == short_reader.STATISTICS
    known = {str(name): ([*kind.mean], [*kind.std]) for name, kind in IMAGE_SETS.items()}
    assert told == known | {"digits": ([0.0], [1.0])}


# --- bytes ----------------------------------------------------------------------------------

KINDS = ("kan", "fastkan", "gramkan", "metakan", "metafastkan", "metagramkan")


@pytest.mark.parametrize("data", ["mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("name", KINDS)
def test_two_layers_have_a_header_of_at_most_500_bytes(name: str, data: str) -> None:
    """With real shapes, float16 throughout, biases, and the most bytes that indices may have."""
    classes = 100 if data == "cifar100" else 10
    small = fresh(name, (784 if data == "mnist" else 2352, 32, classes))
    mean, std = STATISTICS[data]
    spec = DataSpec(name=data, classes=classes, mean=tuple(mean), std=tuple(std), seed=123)
    source = NativeSource(
        checkpoint=replace(small, data=spec), file_bytes=10**7, side_dtype=StoredDtype.FLOAT16
    )
    coded = {
        layer.name: Coded(
            codebook=blank((k, layer.coefficients), torch.float16),
            labels=None,
            bias=blank((layer.shape[0],), torch.float32),
            encoding="rans",
        )
        for layer, k in zip(source.layers, (8, 24), strict=True)
    }
    made = source.outline().assemble(coded)
    header, payload = sizes(made)
    assert header <= 500
    before = sizes(replace(made, header=HeaderForm.PLAIN))
    assert before[0] > 700
    assert before[1] == payload


@pytest.mark.parametrize("indices", IndexCoding)
@pytest.mark.parametrize("header", HeaderForm)
def test_sizes_are_exact_and_numbers_the_same(indices: IndexCoding, header: HeaderForm) -> None:
    for source, last in ((NATIVE, "1"), (STATE, "layers.1")):
        config = ClusterConfig(clusters=9, layers={last: 3}, indices=indices, force_pack=True)
        plain = kancompress.cluster(source, replace(config, header=HeaderForm.PLAIN)).model
        made = kancompress.cluster(source, replace(config, header=header)).model
        raw, before = kancompress.encode(made), kancompress.encode(plain)
        assert sizes(made) == (header_of(raw), len(raw) - header_of(raw))
        assert checker(raw) is None
        again = kancompress.load(raw)
        assert isinstance(again, PackedModel)
        assert kancompress.encode(again) == raw
        plain_file = header is HeaderForm.AUTO and indices is IndexCoding.BITS
        short = header is not HeaderForm.PLAIN and not plain_file
        assert short_reader.is_short(document_of(raw)) == short
        assert (raw == before) == (not short)
        if {layer.encoding for layer in plain.layers} == {layer.encoding for layer in made.layers}:
            assert raw[header_of(raw) :] == before[header_of(before) :]
        was, now = plain.state_dict(), again.state_dict()
        assert all(torch.equal(was[name], now[name]) for name in was)


def test_numbers_of_a_byte_are_told_by_their_encoding() -> None:
    narrow = StoredDtype.INT8
    config = ClusterConfig(clusters=6, codebook_dtype=narrow, side_dtype=narrow)
    made = kancompress.cluster(NATIVE, replace(config, header=HeaderForm.SHORT)).model
    raw = kancompress.encode(made)
    assert document_of(raw)["int8"] == ["codebook", "norm"]
    assert checker(raw) is None
    assert header_of(raw) < 500
    assert sizes(made) == (header_of(raw), len(raw) - header_of(raw))
    plain = kancompress.encode(kancompress.cluster(NATIVE, config).model)
    assert kancompress.repack(plain, RepackConfig(indices=IndexCoding.BITS)).data == raw
    wide = kancompress.cluster(NATIVE, ClusterConfig(clusters=6)).model
    again = kancompress.repack(
        wide, RepackConfig(codebook_dtype=narrow, side_dtype=narrow, indices=IndexCoding.BITS)
    )
    assert checker(again.data) is None
    assert document_of(again.data).keys() == document_of(raw).keys()
    assert len(again.data) == len(raw)


def test_parts_of_edges_are_counted() -> None:
    for source, last in ((NATIVE, "1"), (STATE, "layers.1")):
        for parts in ({"parts": 1}, {"layer_parts": {last: 5 if last == "1" else 3}}):
            for indices in (IndexCoding.BITS, IndexCoding.RANS):
                config = ClusterConfig(clusters=5, force_pack=True, indices=indices, **parts)
                made = kancompress.cluster(source, replace(config, header=HeaderForm.SHORT)).model
                raw = kancompress.encode(made)
                assert checker(raw) is None
                assert short_reader.is_short(document_of(raw))
                assert ("parts" in document_of(raw)) == ("layer_parts" in parts)
                plain = kancompress.encode(replace(made, header=HeaderForm.PLAIN))
                assert raw[header_of(raw) :] == plain[header_of(plain) :]
                assert kancompress.encode(kancompress.load(raw)) == raw


def test_a_size_before_clustering_has_the_header_that_is_asked_for() -> None:
    dense = kancompress.load(NATIVE)
    assert isinstance(dense, kancompress.Checkpoint)
    source = NativeSource(checkpoint=dense, file_bytes=NATIVE.stat().st_size)
    plan = Plan.of(source)
    for header in HeaderForm:
        config = ClusterConfig(clusters=6, header=header)
        assert plan.is_certain(config)
        assert plan.size(config) == sizes(kancompress.cluster(NATIVE, config).model)
    most = ClusterConfig(target_bytes=1900, header=HeaderForm.SHORT)
    made = kancompress.cluster(NATIVE, most).model
    assert len(kancompress.encode(made)) <= 1900 < sum(sizes(replace(made, header="plain")))


def test_the_command_line_writes_and_tells_it(tmp_path: Path) -> None:
    reports = {}
    for header in HeaderForm:
        path = tmp_path / f"{header}.st"
        done("cluster", NATIVE, "-k", "5", "--indices", "rans", "--header", header, "-o", path)
        assert done("inspect", path, "--check").exit_code == 0
        reports[header] = json.loads(done("inspect", path, "--json").stdout)
    short, plain = reports[HeaderForm.SHORT], reports[HeaderForm.PLAIN]
    assert reports[HeaderForm.AUTO] == short
    assert short["header_bytes"] < 500 < plain["header_bytes"]
    assert short["file_bytes"] - short["header_bytes"] == plain["payload_bytes"]
    differing = {key for key in plain if plain[key] != short[key]}
    assert plain.keys() == short.keys()
    assert differing == {"file_bytes", "header_bytes", "header_form", "parts", "ratios"}


@pytest.mark.slow
def test_what_is_tuned_keeps_its_header(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.random((40, 6)).astype("f4"), y=np.arange(40) % 2)
    data = kancompress.DataOptions(file=tmp_path / "rows.npz")
    for header in (HeaderForm.PLAIN, HeaderForm.SHORT):
        config = ClusterConfig(clusters=2, indices=IndexCoding.RANS, header=header)
        model = kancompress.cluster(fresh("kan", (6, 4, 2)), config).model
        tuned = kancompress.finetune(
            kancompress.encode(model), data, kancompress.FinetuneConfig(epochs=1)
        )
        raw = kancompress.encode(tuned.model)
        assert short_reader.is_short(document_of(raw)) == (header is HeaderForm.SHORT)


def test_tensors_of_several_types_are_named() -> None:
    """Layers that differ have counts and names of their own; unlike `restore` layers' sides."""
    model = kancompress.load(TESTS / "cases" / "v0.1" / "packed" / "masked.st")
    assert isinstance(model, PackedModel)
    layers = list(model.layers)
    assert layers[0].codebook is not None
    layers[0] = replace(layers[0], codebook=layers[0].codebook.half())
    raw = kancompress.encode(replace(model, layers=tuple(layers), header=HeaderForm.SHORT))
    told = document_of(raw)
    assert told["F16"] == [f"{layers[0].name}.codebook"]
    assert f"{layers[0].name}.codebook" not in told["F32"]
    assert checker(raw) is None
    container = open_container(raw)
    found = ordinary(container, documents.read(container)).entries
    assert sorted(found) == sorted(model.named_tensors())
    assert np.isclose(sum(one.size for one in found.values()), container.payload_size)
