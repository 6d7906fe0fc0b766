"""Edges that are cut into parts: codebooks of shorter vectors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_calibration import PLACE, correlated, spline_layer, start
from torch import Tensor

import hostile
import kancompress
from command import done, refused
from hostile import made
from kancompress.clustering import allocation, kmeans
from kancompress.clustering.coding import Coding, coefficients
from kancompress.clustering.layer import solve_layer
from kancompress.config import PlotConfig
from kancompress.layers.layer import EdgeLayer
from kancompress.models import runnable
from kancompress.reporting.plotting.clouds import edge_clouds
from kancompress.reporting.plotting.curves import centroid_curves

CASES = Path(__file__).parent / "cases"


def efficient(out: int = 5, inputs: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """A layer of efficient-kan: eight splines and a base weight an edge."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "base_weight": torch.randn(out, inputs, generator=generator),
        "spline_weight": torch.randn(out, inputs, 8, generator=generator),
        "grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1),
    }


def edges_of(state: dict[str, Tensor]) -> np.ndarray:
    """Coefficients (out, in, 9) of `efficient`."""
    return torch.cat([state["spline_weight"], state["base_weight"][..., None]], 2).numpy()


def wide(layer: kancompress.PackedLayer) -> np.ndarray:
    """Indices and codebook of a layer gathered by hand, (edges, d), kept edges in their places."""
    assert layer.codebook is not None
    codebook, index = layer.codebook.numpy(), layer.indices().astype(int)
    packed = codebook[index].reshape(-1, layer.parts * codebook.shape[1])
    if layer.kept_at is None or layer.kept is None:
        return packed
    result = np.empty((layer.edges, packed.shape[1]), codebook.dtype)
    kept = np.zeros(layer.edges, bool)
    kept[layer.kept_at.numpy()] = True
    result[kept], result[~kept] = layer.kept.numpy(), packed
    return result


def test_a_file_of_shorter_vectors_stands_for_what_a_gather_gives() -> None:
    model = kancompress.load(made(hostile.CUT))
    assert isinstance(model, kancompress.PackedModel)
    state = model.state_dict()
    for layer in model.layers:
        own = state[f"{layer.name}.coefficients"].numpy()
        assert np.array_equal(own.reshape(-1, 3), wide(layer))
    assert wide(model.layers[0])[0].tolist() == [-0.875, -1, -1]
    assert wide(model.layers[0])[4].tolist() == [-1, -0.875, -0.75]  # the kept edge
    packed, dense = (runnable.run(m).network for m in (model, kancompress.expand(model)))
    for rows in (1, 6):  # one row goes by products
        x = torch.linspace(-1, 1, 2 * rows).view(rows, 2)
        assert torch.allclose(packed(x), dense(x), atol=1e-6)


@pytest.mark.parametrize("indices", list(kancompress.IndexCoding))
@pytest.mark.parametrize("parts", [3, 9])
def test_it_is_the_clustering_of_the_layer_reshaped(
    parts: int, indices: kancompress.IndexCoding
) -> None:
    state = efficient()
    config = kancompress.ClusterConfig(clusters=6, parts=parts, indices=indices)
    packed = kancompress.cluster(state, config)
    layer = packed.model.layers[0]
    found = kmeans.fit(edges_of(state).reshape(-1, 9 // parts), 6, seed=0)
    assert layer.codebook is not None
    assert np.array_equal(layer.codebook.numpy(), found.centroids.astype(np.float32))
    assert np.array_equal(layer.indices(), found.labels)
    again = kancompress.load(kancompress.encode(packed.model))
    assert isinstance(again, kancompress.PackedModel)
    assert np.array_equal(edges_of(again.state_dict()).reshape(-1, 9), wide(layer))
    told = packed.layers[0]
    assert (told.edges, told.coefficients, told.parts) == (35, 9, parts)
    sizes = [kancompress.encode(packed.model), kancompress.encode(again)]
    assert sizes[0] == sizes[1]


def test_layers_that_share_a_codebook_have_one_number_of_parts() -> None:
    base = hostile.FOREIGN
    raw = made(
        base,
        hostile.drop("restore/opaque"),
        hostile.without("rest"),
        hostile.put("restore/tensors/#0/#3/axes", "out (in coef) kh kw"),
        hostile.put("layers/a/parts", 2),
        hostile.tensor("a.codebook", "F32", [2, 1], hostile.floats(3, 5)),
        hostile.tensor("a.index", "U8", [2], bytes([0b10010110, 0b00001111])),
        hostile.tensor("b.index", "U8", [1], bytes([0b11100100])),
    )
    model = kancompress.load(raw)
    assert isinstance(model, kancompress.PackedModel)
    assert [layer.parts for layer in model.layers] == [2, 2, 1]
    state = model.state_dict()
    assert state["fc.w"].tolist() == [[3, 3], [5, 5]]  # the second parts: bits 1, 3, 5 and 7
    assert state["conv.w"].permute(0, 2, 3, 1).reshape(-1, 2).tolist() == [
        [3, 5], [5, 3], [5, 3], [3, 5], [5, 5], [5, 5], [3, 3], [3, 3]
    ]  # fmt: skip
    assert kancompress.encode(model) == raw


def test_gradients_of_centroids_are_sums_over_the_parts_that_use_them() -> None:
    model = torch.nn.Module()
    state = efficient()
    for name, tensor in state.items():
        model.register_parameter(name, torch.nn.Parameter(tensor.clone(), name != "grid"))
    done = kancompress.cluster(state, kancompress.ClusterConfig(clusters=4, parts=3))
    weights = torch.randn(5, 7, 9)
    place = done.parametrize(model)
    whole = torch.cat([model.spline_weight, model.base_weight[..., None]], 2)
    assert np.array_equal(whole.detach().numpy().reshape(-1, 9), wide(done.model.layers[0]))
    (whole * weights).sum().backward()
    wanted = np.zeros((4, 3))
    np.add.at(wanted, done.model.layers[0].indices().astype(int), weights.reshape(-1, 3).numpy())
    (codebook,) = place.parameters()
    assert codebook.grad is not None
    assert np.allclose(codebook.grad.numpy(), wanted, atol=1e-5)
    place.remove()


class Reshaped:
    """A layer of `test_calibration` with three times as many inputs of three features each, made
    by hand; what `solve_layer` asks of a layer."""

    maps, name = False, None

    def __init__(self, layer: EdgeLayer) -> None:
        self._layer, self.bias = layer, layer.bias

    def edges(self) -> Tensor:
        return self._layer.edges().reshape(len(self._layer.edges()), -1, 3)

    def places(self, x: Tensor) -> int:
        return 1

    def columns(self, x: Tensor, places: Tensor) -> Tensor:
        whole = self._layer.features(x).numpy()
        parts = [whole[:, first : first + 3] for first in (0, 3, 6)]  # (rows, 3, in) of each
        return torch.from_numpy(np.stack(parts, 3).reshape(len(x), 3, -1))

    def beside(self, x: Tensor, places: Tensor) -> Tensor | None:
        return None

    def sides(self) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("price", [0.0, 1.0])
def test_a_layer_is_solved_as_one_reshaped_by_hand(price: float) -> None:
    layer, x = spline_layer(6, 5), correlated(900, 5)
    streams = start(x[:800], x[800:])
    config = kancompress.CalibrationConfig(starts=1)
    with torch.no_grad():
        wanted = solve_layer(Reshaped(layer), streams, 6, config, PLACE, price=price)
    found = solve_layer(layer, streams, kancompress.Cut(6, 3), config, PLACE, price=price)
    assert found.method == wanted.method == "sweeps"
    assert np.array_equal(found.clustering.centroids, wanted.clustering.centroids)
    assert np.array_equal(found.clustering.labels, wanted.clustering.labels)
    assert found.held_out == pytest.approx(wanted.held_out)
    edges = found.coefficients(layer.edges().detach())
    table, labels = found.clustering.centroids, found.clustering.labels
    assert np.allclose(edges.numpy(), table[labels].reshape(6, 5, 9), atol=1e-6)
    whole = solve_layer(layer, streams, 6, config, PLACE, price=price)
    assert found.held_out < whole.held_out


def test_edges_that_are_kept_stay_where_others_are_cut() -> None:
    packed = torch.tensor([[True, False], [True, True]])
    factors = torch.rand(2, 2, 6) * packed[..., None]
    weights = torch.randn(2, 2, 6)
    how = Coding(packed=packed, factors=factors, vectors=weights[packed]).cut(2)
    labels = np.array([0, 1, 2, 0, 1, 1])
    found = kmeans.canonical(
        np.arange(9.0).reshape(3, 3), labels, inertia=0, iterations=0, exact=False, repaired=0
    )
    got = coefficients(found, weights, how).numpy()
    wanted = weights.numpy().copy()
    by_hand = found.centroids[found.labels].reshape(3, 6)
    wanted[packed.numpy()] = by_hand * factors[packed].numpy()
    assert np.allclose(got, wanted)
    assert how.edges == 6


def test_a_target_cuts_edges_where_that_is_better() -> None:
    source = CASES / "efficient_kan_default" / "state.safetensors"
    quick = kancompress.CalibrationConfig(rounds=1, sweeps=0, starts=1)
    made = kancompress.cluster(
        source, rows=correlated(200, 7), calibration=quick, target=kancompress.Target(bytes=3300)
    )
    found = made.calibrated
    assert found is not None
    assert found.solution is not None
    raw = kancompress.encode(made.model)
    assert len(raw) <= 3300
    again = kancompress.load(raw)
    assert isinstance(again, kancompress.PackedModel)
    chosen = [number for number in found.clusters.values() if isinstance(number, kancompress.Cut)]
    assert [number.parts for number in chosen] == [layer.parts for layer in again.layers]
    least = allocation.frontier([replace(c, shorter=()) for c in found.curves.values()])
    whole = allocation.within(least, sum(layer.packed_bytes for layer in made.layers))
    assert whole is not None
    assert found.predicted is not None
    assert found.predicted < 0.5 * whole.error


def test_the_command(tmp_path: Path) -> None:
    """Five coefficients an edge."""
    source, packed = CASES / "v0.1" / "gramkan.safetensors", tmp_path / "packed.st"
    told = done("cluster", source, "-k", "4", "--parts", "5", "--parts", "0=1", "-o", packed)
    assert "layer 1: " in told.stderr
    assert "edges in 5 parts of 1 coefficient, k = 4" in told.stderr
    assert "5 = 5 x 1" in done("inspect", packed).stdout
    report = json.loads(done("inspect", packed, "--json").stdout)
    assert [layer["parts"] for layer in report["layers"]] == [1, 5]
    assert [layer["coefficients"] for layer in report["layers"]] == [5, 5]
    dense = tmp_path / "dense.st"
    done("expand", packed, "-o", dense)
    model, expanded = kancompress.load(packed), kancompress.load(dense)
    assert isinstance(model, kancompress.PackedModel)
    assert isinstance(expanded, kancompress.Checkpoint)
    for layer in model.layers:
        own = expanded.tensors[f"{layer.name}.coefficients"].numpy()
        assert np.array_equal(own.reshape(-1, 5), wide(layer))
    clouds = list(edge_clouds(model, PlotConfig()))
    assert [cloud.edges for cloud in clouds] == [layer.edges for layer in model.layers]
    assert [curves.name for curves in centroid_curves(model, PlotConfig())] == ["0"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--parts", "0=3"], "5 coefficients, which cannot be cut into 3 parts"),
        (["--parts", "1=0"], "cannot be cut into 0 parts of one size. Possible numbers: 1, 5."),
        (["--parts", "7=2"], "no layer '7' to give a number of parts"),
        (["--parts", "two"], "--parts two is no number of parts; write 3 or 1=9"),
        (["--parts", "2", "--parts", "4"], "--parts is given twice, 2 and 4; write one"),
        (["--parts", "1=2", "--parts", "1=4"], "--parts names the layer 1 twice"),
    ],
)
def test_what_cannot_be_cut_is_refused(options: list[str], says: str, tmp_path: Path) -> None:
    source = CASES / "v0.1" / "gramkan.safetensors"
    assert says in refused(2, "cluster", source, *options, "-o", tmp_path / "packed.st")
