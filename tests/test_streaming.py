"""Large checkpoints are read where they lie, layer by layer."""

import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

import kancompress
from benchmarks.streaming import efficient_kan, make, peak
from conftest import fresh
from kancompress.api.cluster import Work
from kancompress.config import RunOptions
from kancompress.formats.safetensors import parse
from kancompress.models.files import read_foreign
from kancompress.packing.by_outputs import Hooks
from kancompress.packing.foreign import ForeignSource
from kancompress.packing.native import NativeSource
from kancompress.system import inputs

SHAPES = ((0, (30, 20)), (1, (20, 30)))
STATE = efficient_kan([shape for _, shape in SHAPES])


def saved(kind: str, folder: Path) -> Path:
    path = folder / f"model.{'pt' if kind == 'torch' else 'safetensors'}"
    make(kind, path, 0.1, 2)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what Linux counts")
@pytest.mark.parametrize(
    "kind",
    [
        "torch",
        pytest.param("safetensors", marks=pytest.mark.exhaustive),
        pytest.param("native", marks=pytest.mark.exhaustive),
    ],
)
def test_peak_of_memory_stays_below_the_file(kind: str, tmp_path: Path) -> None:
    path = saved(kind, tmp_path)
    tiny = peak(path, 4, 1)
    make(kind, path, 96, 12)
    size = path.stat().st_size
    assert size > 90_000_000
    assert peak(path, 4, 1) - tiny < 0.9 * size


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what Linux counts")
@pytest.mark.parametrize("clusters", [pytest.param(16, marks=pytest.mark.exhaustive), 256])
def test_peak_of_one_large_layer_stays_below_one_and_a_half_files(
    clusters: int, tmp_path: Path
) -> None:
    path = saved("safetensors", tmp_path)
    tiny = peak(path, 4, 1)
    make("safetensors", path, 96, 1)
    assert peak(path, clusters, 1) - tiny < 1.5 * path.stat().st_size


@pytest.mark.parametrize("kind", ["torch", "safetensors", "native"])
def test_some_edges_are_read_by_themselves(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(kind, tmp_path)
    layer = opened(path).layers[1]
    expected = layer.vectors()
    read, sizes = inputs.FileData.__getitem__, []

    def counted(self: inputs.FileData, place: slice) -> memoryview:
        found = read(self, place)
        sizes.append(len(found))
        return found

    vectors = layer.in_parts()
    monkeypatch.setattr(inputs.FileData, "__getitem__", counted)
    assert vectors.shape == tuple(expected.shape)
    assert np.array_equal(vectors.block(5, 8), expected[5:8])
    assert np.array_equal(vectors.cut(3).block(4, 8), expected.reshape(-1, 3)[4:8])
    assert np.array_equal(vectors.block(layer.edges - 1, layer.edges + 9), expected[-1:])
    assert sum(sizes) == (3 + 2 + 1) * 9 * 4


def test_factors_of_edges_are_folded_into_what_is_read() -> None:
    rng = torch.Generator().manual_seed(0)
    scaler = {f"layers.{n}.spline_scaler": torch.rand(*s, generator=rng) for n, s in SHAPES}
    layer = opened({**STATE, **scaler}).layers[0]
    assert np.array_equal(layer.in_parts().block(7, 31), layer.vectors()[7:31])
    assert not np.array_equal(layer.vectors(), opened(STATE).layers[0].vectors())


def test_edges_in_another_order_are_read_whole() -> None:
    """As ChebyKAN has them, with the inputs first; and those behind a mask."""
    rng = torch.Generator().manual_seed(0)
    source = opened({"chebykan_layer1.cheby_coeffs": torch.randn(7, 6, 5, generator=rng)})
    (layer,) = source.layers
    assert np.array_equal(layer.in_parts().block(3, 9), layer.vectors()[3:9])
    assert np.array_equal(layer.in_parts().whole(), layer.vectors())


def opened(source: Path | dict[str, torch.Tensor]) -> NativeSource | ForeignSource:
    work = Work(config=kancompress.ClusterConfig(), options=RunOptions(), hooks=Hooks())
    return work.open(source, "x")


def test_pieces_are_as_good_as_one() -> None:
    whole = bytes(range(20))
    cuts = [0, 3, 3, 10, 19, 20]
    pieces = inputs.Pieces([whole[a:b] for a, b in itertools.pairwise(cuts)])
    assert len(pieces) == 20
    for begin, end in itertools.product(range(22), repeat=2):
        assert pieces[begin:end] == whole[begin:end]


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_tensors_are_read_when_they_are_asked_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    if kind == "torch":
        torch.save(STATE, path)
    else:
        save_file(STATE, path)
    source = read_foreign(path)
    assert all(torch.equal(source.tensors[name], tensor) for name, tensor in STATE.items())
    one = source.tensors["layers.0.grid"]
    assert source.tensors["layers.0.grid"] is one  # while it is held
    one.zero_()
    del one
    assert torch.equal(source.tensors["layers.0.grid"], STATE["layers.0.grid"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(kancompress.KancompressError, match="model was changed while"):
        dict(source.tensors)


@pytest.mark.parametrize("kind", ["torch", "safetensors", "native"])
def test_what_is_packed_has_memory_of_its_own(kind: str, tmp_path: Path) -> None:
    """Changes to the result are neither lost nor written to the source."""
    path = saved(kind, tmp_path)
    before = path.read_bytes()
    config = kancompress.ClusterConfig(clusters=60_000 if kind == "native" else 2)
    model = kancompress.cluster(path, config).model
    tensors = model.named_tensors()
    for tensor in tensors.values():
        tensor.zero_()
    assert not any(tensor.any() for tensor in tensors.values())
    assert path.read_bytes() == before


def test_tensors_that_lie_askew_are_read_all_the_same(tmp_path: Path) -> None:
    raw = save(STATE)
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length])).encode()
    header += b" " * (-len(header) % 8 + 3)
    path = tmp_path / "askew.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
    assert parse(inputs.read(path), "").header_size % 4 == 3
    tensors = read_foreign(path).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in STATE.items())
    assert all(tensor.data_ptr() % 4 == 0 for tensor in tensors.values())


@pytest.mark.parametrize("kind", ["torch", "native"])
def test_a_file_that_changes_underway_is_refused(kind: str, tmp_path: Path) -> None:
    path = saved(kind, tmp_path)

    def touch(_: object) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(kancompress.KancompressError, match=r"model\.\w+ was changed while"):
        kancompress.cluster(path, report=touch)


def test_the_bytes_do_not_depend_on_how_the_file_is_read(tmp_path: Path) -> None:
    checkpoint = fresh("fastkan")
    path = tmp_path / "model.safetensors"
    kancompress.save(checkpoint, path)
    mapped = kancompress.encode(kancompress.cluster(path).model)
    assert mapped == kancompress.encode(kancompress.cluster(path.read_bytes()).model)
    assert mapped == kancompress.encode(kancompress.cluster(checkpoint).model)
    torch.save(STATE, path)
    mapped = kancompress.encode(kancompress.cluster(path).model)
    assert mapped == kancompress.encode(kancompress.cluster(path.read_bytes()).model)
