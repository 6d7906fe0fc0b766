"""Entropy-coded indices: against a reader written from the page, entropy, and constriction."""

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kancompress
import rans_reader
from command import done, refused
from conftest import fresh
from kancompress.config import ClusterConfig, IndexCoding
from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.formats.arrays import from_numpy
from kancompress.formats.packed.encodings import (
    RANS,
    Indices,
    classes,
    frequencies,
    index_bytes,
    rans,
    smallest,
)
from kancompress.models.records import sizes
from kancompress.packing.encoded import encoded
from kancompress.packing.native import NativeSource
from kancompress.packing.sizes import Plan
from packed_checker import checker

PACKED = Path(__file__).parent / "cases" / "v0.1" / "packed"
PAGE = (Path(__file__).parent.parent / "docs" / "packed-format.md").read_text()


def drawn(
    inputs: int, outputs: int, clusters: int, steep: tuple[float, ...], seed: int = 0
) -> np.ndarray:
    """Indices (inputs, outputs), each input's with one of the given geometric distributions."""
    rng = np.random.default_rng(seed)
    shares = np.exp(-np.arange(clusters) * rng.choice(steep, inputs)[:, None])
    ends = np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True)
    draws = rng.random((inputs, outputs))
    return np.stack(
        [np.searchsorted(own, row) for own, row in zip(ends, draws, strict=True)]
    ).clip(max=clusters - 1)  # fmt: skip


def entropy_bytes(counts: np.ndarray) -> float:
    """Bytes of symbols that occur so often in each class, (classes, symbols)."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return float(-(counts * np.log2(np.where(counts > 0, shares, 1))).sum()) / 8


def written(labels: np.ndarray, claim: Indices) -> bytes:
    array = RANS.encode(labels, claim)
    assert array is not None
    return array.data.tobytes()


def again(data: bytes, claim: Indices) -> list[int]:
    """The indices that the library reads from bytes."""
    found = RANS.decode(from_numpy(np.frombuffer(data, np.uint8)), claim, "the file")
    assert found is not None
    return [int(one) for one in found]


# shape, groups, k, edges that are kept
LAYERS = [
    ((3, 2), 1, 2, 0),
    ((8, 50), 1, 17, 200),
    ((4, 5), 2, 300, 3),
    ((6, 4, 2, 3), 3, 7, 10),
    ((6, 20, 3, 3), 1, 1024, 0),
    ((40, 210), 1, 3, 1),
    ((2, 3), 1, 5, 5),
]


@pytest.mark.parametrize(("shape", "groups", "clusters", "kept"), LAYERS)
def test_a_reader_of_the_page_reads_what_is_written(
    shape: tuple[int, ...], groups: int, clusters: int, kept: int
) -> None:
    edges = math.prod(shape)
    rng = np.random.default_rng(edges)
    kept_at = np.sort(rng.choice(edges, kept, replace=False))
    labels = np.minimum(rng.geometric(0.3, edges - kept) - 1, clusters - 1)
    labels[-1] = clusters - 1
    claim = Indices("0.index", len(labels), clusters, shape, groups, kept_at)
    data = written(labels, claim)
    assert len(data) <= RANS.size(claim).nbytes
    read = rans_reader.read(data, clusters, list(shape), groups, tuple(map(int, kept_at)))
    assert read == labels.tolist() == again(data, claim)


def examples() -> list[Any]:
    pattern = r"shape \[(\d+), (\d+)\], k = (\d+)   indices ([\d\s]+?)\s+->   ([0-9a-f ]+)\n"
    return re.findall(pattern, PAGE)


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_page(number: int) -> None:
    out, inputs, clusters, indices, data = examples()[number]
    shape, k = (int(out), int(inputs)), int(clusters)
    labels = np.array(indices.split(), np.int64)
    claim = Indices("0.index", len(labels), k, shape)
    assert written(labels, claim) == bytes.fromhex(data)
    assert rans_reader.read(bytes.fromhex(data), k, list(shape)) == labels.tolist()


def test_what_the_second_example_says_of_its_parts() -> None:
    record = rans_reader.read_record(bytes.fromhex(examples()[1][4]), 4)
    assert record.class_table == [2048, 2048]
    assert record.tables == [[4096, 0, 0, 0], [1024, 1536, 1024, 512]]
    assert (record.states, record.words) == ([0x001AD112], [0x61AF, 0x85AF, 0xEA00])


def test_bytes_that_are_cut_or_turned_are_refused_or_other_indices() -> None:
    labels = drawn(12, 6, 5, (0.1, 2.0)).T.reshape(-1)
    claim = Indices("0.index", 72, 5, (6, 12))
    data = written(labels, claim)
    draw = random.Random(0)
    changed = [data[:end] for end in range(7, len(data))] + [data + b"\0\0", data[:7] + data[9:]]
    for place in range(len(data)):
        turned = bytearray(data)
        turned[place] ^= 1 << draw.randrange(8)
        changed.append(bytes(turned))
    accepted = 0
    for one in changed:
        try:
            expected: list[int] | None = rans_reader.read(one, 5, [6, 12])
        except rans_reader.RansError:
            expected = None
        if expected is None:
            with pytest.raises(InvalidFileError, match=r"^the file: tensor '0\.index' .*\.$"):
                again(one, claim)
        else:
            assert again(one, claim) == expected != labels.tolist()
            accepted += 1
    assert accepted < len(changed) / 4


# --- how near to the entropy ---------------------------------------------------------------


def test_a_large_layer_takes_the_entropy_of_its_classes() -> None:
    labels = drawn(1200, 160, 16, (0.02, 0.5, 1.0, 3.0))
    claim = Indices("0.index", labels.size, 16, (160, 1200))
    found = classes.classes_of(labels, 16)
    ideal = entropy_bytes(found.counts) + entropy_bytes(found.sizes[None])
    assert len(written(labels.T.reshape(-1), claim)) < 1.01 * ideal
    # Four distributions are told apart, and one table for all would take more.
    assert ideal < 0.8 * entropy_bytes(found.counts.sum(axis=0)[None])


def test_constriction_takes_as_many_bytes() -> None:
    constriction = pytest.importorskip("constriction")
    labels = drawn(300, 64, 12, (0.05, 1.0))
    data = written(labels.T.reshape(-1), Indices("0.index", labels.size, 12, (64, 300)))
    record = rans_reader.read_record(data, 12)
    found = rans_reader.Decoder(record)
    assert record.class_table is not None
    of_input = [found.symbol(at, record.class_table) for at in range(300)]
    coder = constriction.stream.stack.AnsCoder()
    runs = [(np.array(of_input), record.class_table)]
    for own, table in enumerate(record.tables):
        runs.append((labels[np.array(of_input) == own].reshape(-1), table))
    for symbols, table in runs:
        shares = np.array(table, np.float32) / 4096
        model = constriction.stream.model.Categorical(shares, perfect=False)
        coder.encode_reverse(symbols.astype(np.int32), model)
    ours = 4 * len(record.states) + 2 * len(record.words)
    assert abs(ours - coder.num_valid_bits() / 8) < 0.002 * ours + 4 * len(record.states)


@pytest.mark.parametrize("counts", [[1, 0, 0], [1, 10**6, 0, 3], [5] * 1024, [10**9, *[1] * 1023]])
@pytest.mark.parametrize("precision", [0, 2, 11])
def test_tables_come_back(counts: list[int], precision: int) -> None:
    table, rest = frequencies.chosen(np.array(counts), precision)
    assert int(table.sum()) == 4096
    assert [one > 0 for one in counts] == [one > 0 for one in table.tolist()]
    bits = frequencies.BitWriter()
    frequencies.write(table, precision, rest, bits)
    data = bits.data()
    assert len(data) == -(-frequencies.length_of(table, precision, rest) // 8)
    assert rans_reader.read_table(rans_reader.Bits(data), len(counts), precision) == table.tolist()
    read = frequencies.read(frequencies.BitReader(data), len(counts), precision)
    assert np.array_equal(read, table)


def test_precise_tables_cost_what_entropy_does() -> None:
    counts = np.random.default_rng(0).integers(1, 1000, 40) ** 2
    table, _ = frequencies.chosen(counts, 11)
    cost = frequencies.cost(counts, table) / classes.BIT / 8
    assert entropy_bytes(counts[None]) < cost < 1.001 * entropy_bytes(counts[None])


# --- classes -------------------------------------------------------------------------------


def test_logarithms_are_those_of_whole_numbers() -> None:
    numbers = np.array([1, 2, 3, 5, 4096, 4097, 10**6, 2**40 + 1, 2**53])
    exact = np.array([math.log2(int(one)) for one in numbers]) * classes.BIT
    assert np.all(np.abs(classes.log2(numbers) - exact) <= 1)


def test_inputs_of_two_distributions_fall_into_two_classes() -> None:
    rng = np.random.default_rng(0)
    even, steep = rng.integers(0, 8, (50, 40)), np.minimum(rng.geometric(0.9, (30, 40)) - 1, 7)
    found = classes.classes_of(np.concatenate([even, steep]), 8, most=2)
    assert len({*found.of_input[:50]}) == len({*found.of_input[50:]}) == 1
    assert found.of_input[0] != found.of_input[-1]
    assert found.sizes.sum() == 80
    assert found.counts.sum() == 80 * 40
    assert np.allclose((2.0 ** -found.prices()).sum(axis=1), 1, atol=1e-4)
    assert np.isfinite(found.prices()).all()


def test_classes_of_a_sample_are_those_of_all_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = drawn(400, 50, 6, (0.05, 2.5), seed=3)
    whole = classes.classes_of(labels, 6, most=2)
    monkeypatch.setattr(classes, "_MOST_COUNTS", 6 * 100)
    monkeypatch.setattr(classes, "_BLOCK", 333)
    sample = classes.classes_of(labels, 6, most=2)
    assert np.mean(whole.of_input != sample.of_input) < 0.02
    assert sample.counts.sum() == labels.size


def test_one_table_is_enough_for_inputs_that_are_alike() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (50, 30))
    data = written(labels.T.reshape(-1), Indices("0.index", 1500, 4, (30, 50)))
    assert rans_reader.read_record(data, 4).class_table is None


# --- what is written -----------------------------------------------------------------------


def test_what_does_not_come_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rans, "_KEPT", {})
    right = rans._encoded

    def wrong(*given: Any) -> Any:
        states, words = right(*given)
        states[0] ^= 1
        return states, words

    monkeypatch.setattr(rans, "_encoded", wrong)
    labels = np.arange(60) % 3
    with pytest.raises(KancompressError):
        RANS.encode(labels, Indices("0.index", 60, 3, (6, 10)))


def test_indices_that_do_not_fit_are_refused() -> None:
    for claim in (Indices("a.index", 9, 1025), Indices("a.index", 2**40, 4)):
        assert not RANS.fits(claim)
        with pytest.raises(UsageError, match=r"'a\.index' cannot have the encoding 'rans'"):
            RANS.encode(np.zeros(9, np.int64), claim)


def test_the_smallest_encoding_is_the_usual_one_where_both_are_equal() -> None:
    flat, steep = np.random.default_rng(0).integers(0, 8, 800), np.zeros(800, np.int64)
    steep[::100] = 7
    claim = Indices("0.index", 800, 8, (20, 40))
    assert smallest(flat, claim) == "bits"
    assert smallest(steep, claim) == "rans"
    assert smallest(steep, Indices("0.index", 800, 2000, (20, 40))) == "bits"


# --- commands ------------------------------------------------------------------------------


def steep_network() -> kancompress.Checkpoint:
    """A network whose edges lie near three of sixteen places."""
    dense = fresh("kan", (60, 16, 4))
    tensors = dict(dense.tensors)
    places = torch.arange(16.0)[:, None] * torch.ones(1, 9)
    for name in ("0.coefficients", "1.coefficients"):
        shape = tensors[name].shape[:-1]
        own = torch.from_numpy(drawn(shape[1], shape[0], 16, (0.1, 4.0)).T.copy())
        tensors[name] = places[own] + 0.001 * tensors[name]
    return kancompress.Checkpoint(
        kind="dense", basis=dense.basis, shapes=dense.shapes, data=dense.data, tensors=tensors
    )


@pytest.fixture
def steep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dense.st").write_bytes(kancompress.encode(steep_network()))
    return tmp_path


def test_every_command_reads_entropy_coded_indices(steep: Path) -> None:
    for coding in IndexCoding:
        done("cluster", "dense.st", "-o", f"{coding}.st", "--indices", coding)
    size = {coding: Path(f"{coding}.st").stat().st_size for coding in IndexCoding}
    assert size["auto"] <= size["rans"] < size["bits"]
    raw = Path("rans.st").read_bytes()
    assert checker(raw) is None
    model = kancompress.load(raw)
    assert isinstance(model, kancompress.PackedModel)
    assert kancompress.encode(model) == raw
    assert sum(sizes(model)) == len(raw)
    for coding in IndexCoding:
        done("expand", f"{coding}.st", "-o", f"{coding}.dense.st")
    assert Path("rans.dense.st").read_bytes() == Path("bits.dense.st").read_bytes()
    report = json.loads(done("inspect", "rans.st", "--json").stdout)
    for layer in report["layers"]:
        assert layer["index_encoding"] == "rans"
        assert layer["bits_per_edge"] == 8 * layer["index_bytes"] / layer["edges"]
        own = layer["rans"]
        assert own["table_bytes"] + own["stream_bytes"] + 2 == layer["index_bytes"]
        least = own["class_entropy_bytes"] + own["index_entropy_bytes"]
        assert 0.98 * least - 4 <= own["stream_bytes"] <= 1.02 * least + 16
    assert report["layers"][0]["bits_per_edge"] < 3
    totals = report["totals"]
    parts = (totals[key] for key in ("index_bytes", "codebook_bytes", "other_bytes"))
    assert sum(parts) + report["header_bytes"] == len(raw)
    assert re.search(r"\d\.\d\d rans", done("inspect", "rans.st").stdout)
    assert json.loads(done("inspect", "--check", "rans.st", "--json").stdout)["sound"]


def test_fine_tuning_keeps_indices_and_encoding(steep: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez("rows.npz", x=rng.normal(size=(64, 60)).astype("f"), y=rng.integers(0, 4, 64))
    done("cluster", "dense.st", "-o", "rans.st", "--indices", "rans")
    done("finetune", "rans.st", "-o", "tuned.st", "--data", "rows.npz", "--epochs", "1")
    done("eval", "tuned.st", "--data", "rows.npz")
    before, after = kancompress.load("rans.st"), kancompress.load("tuned.st")
    assert isinstance(before, kancompress.PackedModel)
    assert isinstance(after, kancompress.PackedModel)
    for one, other in zip(before.layers, after.layers, strict=True):
        assert other.encoding == "rans"
        assert np.array_equal(one.indices(), other.indices())


def test_layers_of_one_file_may_differ() -> None:
    dense = steep_network()
    config = ClusterConfig(layers={"0": 16, "1": 2}, force_pack=True, indices=IndexCoding.AUTO)
    model = kancompress.cluster(dense, config).model
    both = {name: kancompress.cluster(dense, ClusterConfig(
        layers={"0": 16, "1": 2}, force_pack=True, indices=IndexCoding(name))).model
        for name in ("bits", "rans")}  # fmt: skip
    assert len(kancompress.encode(model)) == min(
        [len(kancompress.encode(one)) for one in both.values()] + [len(kancompress.encode(model))]
    )
    again = kancompress.load(kancompress.encode(model))
    assert isinstance(again, kancompress.PackedModel)
    assert [one.encoding for one in again.layers] == [one.encoding for one in model.layers]


def test_codebooks_that_are_too_large_have_indices_of_one_width() -> None:
    dense = fresh("mlp", (40, 40, 2))
    config = ClusterConfig(layers={"0": 1100, "1": 4}, force_pack=True, indices=IndexCoding.RANS)
    model = kancompress.cluster(dense, config).model
    assert [layer.encoding for layer in model.layers] == ["bits", "rans"]


def test_sizes_before_clustering_are_bounds() -> None:
    dense = steep_network()
    source = NativeSource(checkpoint=dense, file_bytes=len(kancompress.encode(dense)))
    plan = Plan.of(source)
    for coding in IndexCoding:
        config = ClusterConfig(clusters=16, indices=coding)
        made = sum(sizes(kancompress.cluster(source.checkpoint, config).model))
        foretold = plan.size(config)
        assert foretold is not None
        assert made <= sum(foretold)
        assert not (plan.is_certain(config) and made != sum(foretold))
        assert plan.is_certain(config) in (False, coding is IndexCoding.BITS)


@pytest.mark.parametrize("coding", ["rans", "auto"])
def test_a_target_is_kept_with_sizes_that_are_bounds(coding: str) -> None:
    config = ClusterConfig(target_bytes=4000, indices=IndexCoding(coding))
    model = kancompress.cluster(steep_network(), config).model
    assert sum(sizes(model)) <= 4000


def test_reports_of_clustering_have_the_bytes_that_are_written() -> None:
    made = kancompress.cluster(
        steep_network(), ClusterConfig(clusters=16, indices=IndexCoding.RANS)
    )
    for layer, told in zip(made.model.layers, made.layers, strict=True):
        assert layer.codebook is not None
        data = made.model.named_tensors()[f"{layer.name}.index"]
        assert told.packed_bytes == layer.codebook.nbytes + len(data)
        assert layer.name == "1" or len(data) < index_bytes(layer.edges, len(layer.codebook))


@pytest.mark.parametrize("path", sorted(PACKED.glob("*.st")), ids=lambda path: path.stem)
def test_files_of_every_kind_can_have_it(path: Path) -> None:
    model = kancompress.load(path)
    assert isinstance(model, kancompress.PackedModel)
    coded = encoded(model, IndexCoding.RANS)
    raw = kancompress.encode(coded)
    assert sum(sizes(coded)) == len(raw)
    assert checker(raw) is None
    again = kancompress.load(raw)
    assert isinstance(again, kancompress.PackedModel)
    assert kancompress.encode(again) == raw
    assert kancompress.encode(encoded(again, IndexCoding.BITS)) == kancompress.encode(
        encoded(model, IndexCoding.BITS)
    )
    before, after = model.state_dict(), again.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["masked", "fast_grouped", "shared_codebook"])
def test_other_libraries_checkpoints_are_packed_with_it(name: str, tmp_path: Path) -> None:
    """Edges that are kept, groups, and layers that share a codebook."""
    source = tmp_path / "source"
    done("expand", PACKED / f"{name}.st", "-o", source)
    config = ClusterConfig(clusters=4, force_pack=True, indices=IndexCoding.RANS)
    made = kancompress.cluster(source, config)
    raw = kancompress.encode(made.model)
    assert checker(raw) is None
    assert {layer.encoding for layer in made.model.layers if layer.index is not None} == {"rans"}
    tensors = made.model.named_tensors()
    roles = ("codebook", "index")
    written = sum(one.nbytes for name, one in tensors.items() if name.endswith(roles))
    assert sum(layer.packed_bytes for layer in made.layers) == written


def test_an_encoding_that_does_not_exist_is_refused(steep: Path) -> None:
    assert "rans" in refused(2, "cluster", "dense.st", "-o", "x.st", "--indices", "huffman")


@pytest.mark.exhaustive
def test_indices_that_tell_next_to_nothing_are_written_so_that_readers_take_them() -> None:
    """Nine million equal indices but one would stand for more than a reader allows a few bytes."""
    state = {"w": torch.zeros(3000, 3000, 1)}
    state["w"][0, 0] = 1
    layouts = {"": "coef=w:out in coef"}
    config = ClusterConfig(clusters=2, indices=IndexCoding.RANS)
    made = kancompress.cluster(state, config, layouts=layouts).model
    assert made.layers[0].encoding == "bits"
    assert torch.equal(kancompress.load(kancompress.encode(made)).state_dict()["w"], state["w"])
    raw = kancompress.encode(encoded_as(made, "rans"))
    with pytest.raises(InvalidFileError) as told:
        kancompress.load(raw)
    assert told.value.flaw is Flaw.TOO_LARGE
    assert torch.equal(kancompress.load(raw, any_size=True).state_dict()["w"], state["w"])


def encoded_as(model: kancompress.PackedModel, encoding: str) -> kancompress.PackedModel:
    return replace(model, layers=tuple(replace(one, encoding=encoding) for one in model.layers))
