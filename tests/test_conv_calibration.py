"""Clustering of convolutions by outputs, against whole maps of sums and whole networks."""

import pytest
import torch
from test_convolutions import PLAIN, checkpoint, images, network
from torch.nn import functional

import kancompress
from kancompress import CalibrationConfig, ClusterConfig, StoredDtype, UsageError
from kancompress.clustering.layer import Place, Streams, relative, solve_layer
from kancompress.models.native import build
from kancompress.specs import ModelName


def smooth(rows: int) -> torch.Tensor:
    """Images whose neighbouring pixels are alike."""
    return functional.avg_pool2d(images(rows, side=9), 3, stride=1) * 2


@pytest.mark.parametrize("name", PLAIN)
def test_errors_are_those_of_all_sums_of_small_maps(name: ModelName) -> None:
    """Maps of 2 x 2 sums, fewer than are looked at, so none is left out."""
    layer = network(name).eval().layers[1]
    x = images(400, channels=4, side=3)
    streams = [Streams(dense=part, packed=part) for part in x.split(300)]
    place = Place(dtype=torch.float32, biased=True)
    found = solve_layer(layer, (streams[0], streams[1]), 5, CalibrationConfig(), place)
    weights = layer.edges().detach()
    with torch.no_grad():
        for part, error in zip(x.split(300), (found.error, found.held_out), strict=True):
            dense = layer.sums(part, weights, layer.bias)
            packed = layer.sums(part, found.coefficients(weights), found.bias)
            assert dense.shape[2:] == (2, 2)
            rows = [sums.permute(0, 2, 3, 1).flatten(0, 2) for sums in (packed, dense)]
            assert error == pytest.approx(relative(*rows), rel=1e-3)
    assert found.held_out < 0.8 * found.plain_held_out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name is ModelName.FASTKANCONV else pytest.mark.exhaustive)
        for name in PLAIN
    ],
)
def test_a_network_comes_nearer_than_with_plain_k_means(name: ModelName) -> None:
    source, x = checkpoint(name), smooth(1000)
    config = ClusterConfig(clusters=6, side_dtype=StoredDtype.FLOAT16)
    found = kancompress.cluster_by_outputs(source, x[:800], config)
    plain = kancompress.cluster(source, config)
    with torch.no_grad():
        dense = build(source).eval()(x)
        outputs = [build(done.model).eval()(x) for done in (found, plain)]
    assert relative(outputs[0][800:], dense[800:]) < 0.8 * relative(outputs[1][800:], dense[800:])
    order = torch.randperm(800, generator=torch.Generator().manual_seed(0))[:100]
    solution = found.calibrated.solution
    assert solution.held_out == pytest.approx(relative(outputs[0][order], dense[order]), rel=1e-3)
    once = CalibrationConfig(rounds=1, sweeps=1, starts=1)
    auto = kancompress.cluster_by_outputs(
        source, x[:200], config, once, target=kancompress.Target(bytes=4500)
    )
    assert len(kancompress.encode(auto.model)) <= 4500


def test_rows_that_are_no_images_are_refused() -> None:
    with pytest.raises(UsageError, match="images of 2 channels"):
        kancompress.cluster_by_outputs(checkpoint(PLAIN[0]), torch.zeros(100, 98))
