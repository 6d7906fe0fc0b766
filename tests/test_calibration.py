"""Clustering by outputs, against direct evaluation, brute force and inverse-Hessian formulas."""

import itertools
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kancompress.clustering import allocation, grid, kmeans, metric, moments, quadratic
from kancompress.clustering import flow as flow_module
from kancompress.clustering.allocation import Choice, Curve
from kancompress.clustering.cuts import split
from kancompress.clustering.flow import Chain
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import Place, Streams, pose, relative, solve_layer
from kancompress.clustering.moments import measure
from kancompress.clustering.network import (
    Calibrated,
    NetworkSolution,
    calibrate,
    reach,
    sample,
    solve_network,
)
from kancompress.clustering.quadratic import Form
from kancompress.config import CalibrationConfig, ClusterConfig, Method, StoredDtype, Target
from kancompress.errors import KancompressError, UsageError
from kancompress.layers.bases.bspline import uniform_features
from kancompress.layers.edges import DenseEdges
from kancompress.layers.layer import EdgeLayer
from kancompress.models.native import native_layer
from kancompress.models.records import Checkpoint
from kancompress.packing.by_outputs import Hooks, native_runs, pack_by_outputs
from kancompress.packing.native import NativeSource
from kancompress.specs import Family, default_basis

PLACE = Place(dtype=torch.float32, biased=True)


def correlated(rows: int, inputs: int, seed: int = 0) -> Tensor:
    """Inputs in which neighbours are alike."""
    rng = np.random.default_rng(seed)
    mixing = 0.8 ** np.abs(np.subtract.outer(np.arange(inputs), np.arange(inputs)))
    x = rng.standard_normal((rows, inputs)) @ np.linalg.cholesky(mixing).T
    return torch.from_numpy(np.tanh(x).astype(np.float32))


def spline_layer(out: int, inputs: int, seed: int = 0) -> EdgeLayer:
    spec = default_basis(Family.KAN)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(out, inputs, spec.coefficients, generator=generator)
    return native_layer(spec, DenseEdges(values))


def features_of(layer: EdgeLayer, x: Tensor) -> np.ndarray:
    """(rows, in * d) float64, inputs outermost."""
    with torch.no_grad():
        return layer.features(x).transpose(1, 2).flatten(1).double().numpy()


def start(rows: Tensor, held_out: Tensor) -> tuple[Streams, Streams]:
    """Rows before the first layer."""
    return Streams(dense=rows, packed=rows), Streams(dense=held_out, packed=held_out)


def small_form(seed: int = 0, out: int = 5, m: int = 7, d: int = 3) -> Form:
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((60, m * d)) @ rng.standard_normal((m * d, m * d))
    hessian = samples.T @ samples / 60 + 0.1 * np.eye(m * d)
    weights = rng.standard_normal((out, m, d))
    return Form(torch.from_numpy(weights).float(), torch.from_numpy(hessian).float())


def small_codebook(seed: int = 1, k: int = 4, d: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((k, d))).float()


@pytest.mark.parametrize("tile", [moments.TILE, 20])
@pytest.mark.parametrize("centred", [True, False])
def test_moments_are_those_of_numpy(
    centred: bool, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a single tile, and in tiles of which the last ones are smaller."""
    monkeypatch.setattr(moments, "TILE", tile)
    layer, x = spline_layer(4, 6), correlated(3000, 6)
    weights = layer.edges()
    matrix = weights.transpose(1, 2).flatten(1).detach()

    def batches():
        for part in x.split(700):
            features = layer.features(part).detach()
            yield features, features.flatten(1) @ matrix.T

    found = measure(batches, centred=centred, memory=1 << 30)
    (group,) = found.groups
    features = features_of(layer, x).reshape(3000, 6, 9)
    variance = features.var(axis=0).sum(axis=1)
    assert (np.diff(variance[group.inputs.numpy()]) >= -1e-9).all()
    ordered = features[:, group.inputs.numpy()].reshape(3000, -1)
    shift = ordered.mean(axis=0) if centred else 0
    expected = (ordered - shift).T @ (ordered - shift) / 3000
    assert np.allclose(group.hessian.numpy(), expected, atol=2e-6)
    outputs = np.einsum("rid,oid->ro", features, weights.detach().double().numpy())
    offset = outputs.mean(axis=0) if centred else 0
    assert np.allclose(
        group.cross.numpy(), (outputs - offset).T @ (ordered - shift) / 3000, atol=2e-5
    )
    assert found.spread == pytest.approx(outputs.var(axis=0).sum(), rel=1e-4)


def test_a_small_budget_cuts_inputs_into_groups() -> None:
    layer, x = spline_layer(4, 6), correlated(500, 6)

    def batches():
        features = layer.features(x).detach()
        yield features, features.sum(dim=(1, 2))[:, None].expand(-1, 4)

    found = measure(batches, centred=True, memory=3 * 4 * 18**2)
    assert [len(group.inputs) for group in found.groups] == [2, 2, 2]
    assert sorted(torch.cat([group.inputs for group in found.groups]).tolist()) == list(range(6))


def test_the_form_is_the_squared_error_of_the_outputs() -> None:
    layer, x = spline_layer(4, 6), correlated(2000, 6)
    features = features_of(layer, x)
    hessian = torch.from_numpy(features.T @ features / 2000).float()
    weights = layer.edges().detach()
    codebook = weights.reshape(-1, 9)[:5].clone()
    labels = torch.randint(0, 5, (4, 6), generator=torch.Generator().manual_seed(0))
    gap = (weights - codebook[labels]).double().numpy().reshape(4, -1)
    expected = ((features @ gap.T) ** 2).sum(axis=1).mean()
    assert Form(weights, hessian).error(codebook, labels) == pytest.approx(expected, rel=1e-4)


def test_feedback_is_the_inverse_hessian_update() -> None:
    """GPTQ's formulation: propagate with the Cholesky factor of the inverse."""
    form, codebook = small_form(), small_codebook()
    labels = quadratic.feedback(form, quadratic.lower_factor(form.hessian), codebook)
    reverse = slice(None, None, -1)  # the last input comes first
    hessian = form.hessian.double().numpy()[reverse, reverse]
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    weights = form.weights.double().numpy().reshape(5, -1)[:, reverse].copy()
    centroids = codebook.double().numpy()[:, reverse]
    for q in range(7):
        block = slice(3 * q, 3 * q + 3)
        turn = np.linalg.inv(upper[block, block])
        distances = ((weights[:, None, block] - centroids) @ turn) ** 2
        chosen = distances.sum(axis=2).argmin(axis=1)
        assert np.array_equal(labels[:, 6 - q].numpy(), chosen)
        gap = (weights[:, block] - centroids[chosen]) @ turn
        weights[:, 3 * q + 3 :] -= gap @ upper[block, 3 * q + 3 :]


def test_a_sweep_chooses_the_best_centroid_for_each_edge_in_turn() -> None:
    form, codebook = small_form(2), small_codebook(3)
    begin = torch.randint(0, 4, (5, 7), generator=torch.Generator().manual_seed(1))
    swept = quadratic.sweep(form, codebook, begin)
    labels = begin.clone()
    for q, row in itertools.product(range(7), range(5)):
        errors = []
        for candidate in range(4):
            labels[row, q] = candidate
            gap = (form.weights - codebook[labels]).double().flatten(1)[row]
            errors.append(float(gap @ form.hessian.double() @ gap))
        labels[row, q] = int(np.argmin(errors))
    assert torch.equal(swept, labels)


@pytest.mark.parametrize("pairs", [0, 2], ids=["conjugate gradients", "normal equations"])
@pytest.mark.parametrize("moving", [(0, 1, 2), (0, 2), (1,)])
def test_refit_is_the_least_squares_solution(
    moving: tuple[int, ...], pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quadratic, "_PAIRS", pairs)
    form, codebook = small_form(4), small_codebook(5)
    labels = torch.randint(0, 4, (5, 7), generator=torch.Generator().manual_seed(2))
    free = torch.zeros(3, dtype=torch.bool).index_fill(0, torch.tensor(moving), True)
    every = None if free.all() else free
    found = quadratic.refit([form], codebook, [labels], steps=30, free=every)
    assert torch.equal(found[:, ~free], codebook[:, ~free])
    columns = np.flatnonzero(free.repeat(4).numpy())
    still = (codebook * ~free).double().numpy().reshape(-1)
    root = np.linalg.cholesky(form.hessian.double().numpy())  # |gap root|^2
    design, targets = [], []
    for row in range(5):
        one_hot = np.zeros((21, 12))
        for q, a in itertools.product(range(7), range(3)):
            one_hot[3 * q + a, 3 * int(labels[row, q]) + a] = 1
        design.append(root.T @ one_hot[:, columns])
        wanted = form.weights[row].double().numpy().reshape(-1) - one_hot @ still
        targets.append(root.T @ wanted)
    expected = np.linalg.lstsq(np.concatenate(design), np.concatenate(targets), rcond=None)[0]
    assert np.allclose(found.double().numpy().reshape(-1)[columns], expected, atol=1e-3)


@pytest.mark.parametrize("pairs", [0, 2], ids=["conjugate gradients", "normal equations"])
def test_a_centroid_without_edges_stays(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic, "_PAIRS", pairs)
    form, codebook = small_form(4), small_codebook(5)
    labels = 3 * torch.randint(0, 2, (5, 7), generator=torch.Generator().manual_seed(2))
    found = quadratic.refit([form], codebook, [labels])
    assert torch.equal(found[1:3], codebook[1:3])
    assert not torch.isclose(found[0], codebook[0]).all()


def test_moments_between_centroids_are_those_of_all_pairs_of_edges() -> None:
    form = small_form(4)
    labels = torch.randint(0, 4, (5, 7), generator=torch.Generator().manual_seed(2))
    expected = np.zeros((4, 3, 4, 3))
    hessian = form.hessian.double().numpy().reshape(7, 3, 7, 3)
    for row, p, q in itertools.product(range(5), range(7), range(7)):
        expected[int(labels[row, p]), :, int(labels[row, q])] += hessian[p, :, q]
    assert np.allclose(form.sums(labels, 4).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 10, 32, 200])
def test_products_of_few_rows(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    rows, matrix = (torch.randn(n, 40, generator=generator) for n in (count, 40))
    found = quadratic.times(rows, matrix)
    assert found.is_contiguous()
    assert np.allclose(found.numpy(), rows.double().numpy() @ matrix.double().numpy(), atol=1e-4)


def test_metric_assignment_and_update_against_brute_force() -> None:
    form, codebook = small_form(6), small_codebook(7)
    blocks = form.blocks
    labels = metric.assign(form.weights, blocks, codebook)
    gaps = (form.weights[:, :, None] - codebook).double()
    distances = torch.einsum("oqkd,qde,oqke->oqk", gaps, blocks.double(), gaps)
    assert torch.equal(labels, distances.argmin(2))
    moved = metric.update(form.weights, blocks, codebook, labels)
    for k in labels.unique().tolist():
        rows, inputs = (labels == k).nonzero(as_tuple=True)
        left = blocks[inputs].double().sum(0)
        right = torch.einsum(
            "nde,ne->d", blocks[inputs].double(), form.weights[rows, inputs].double()
        )
        assert torch.allclose(moved[k].double(), torch.linalg.solve(left, right), atol=1e-4)


def test_centroids_without_edges_move_to_the_edges_that_are_worst_off() -> None:
    form, codebook = small_form(6), small_codebook(7)
    blocks, far = form.blocks, torch.full((2, 3), 1e3)
    whole = torch.cat([codebook, far])
    labels = metric.assign(form.weights, blocks, whole)
    assert int(labels.max()) < 4
    moved, count = metric.repair(form.weights, blocks, whole, labels)
    assert count == 2
    gaps = (form.weights - codebook[labels]).double()
    errors = torch.einsum("oqd,qde,oqe->oq", gaps, blocks.double(), gaps).reshape(-1)
    worst = form.weights.reshape(-1, 3)[errors.argsort(descending=True)[:2]]
    assert torch.equal(moved[4:], worst)
    assert torch.equal(moved[:4], codebook)
    found = metric.lloyd(form.weights, blocks, whole, iterations=30)
    assert len(found.labels.unique()) == 6
    assert (found.repaired, found.iterations > 1) == (2, True)
    fewer = metric.lloyd(form.weights, blocks, codebook, iterations=30)

    def error(result: metric.Lloyd) -> float:
        gaps = (form.weights - result.codebook[result.labels]).double()
        return float(torch.einsum("oqd,qde,oqe->", gaps, blocks.double(), gaps))

    assert error(found) < error(fewer)


def test_equal_edges_leave_centroids_unused() -> None:
    form = small_form(6)
    weights = form.weights[:1, :1].expand(5, 7, 3).contiguous()
    codebook = torch.cat([weights[0, :1], torch.full((2, 3), 1e3)])
    found = metric.lloyd(weights, form.blocks, codebook, iterations=30)
    assert (found.repaired, found.labels.unique().tolist()) == (0, [0])


def test_small_layers_use_all_their_centroids_and_passes_are_counted() -> None:
    """18 edges and 12 centroids: k-means in the metric of each input empties some of them."""
    layer, x = spline_layer(3, 6, seed=2), correlated(900, 6)
    streams = start(x[:800], x[800:])
    passes = []
    for method in (Method.CENTRED, Method.FEEDBACK, Method.SWEEPS):
        config = CalibrationConfig(method=method, starts=1, rounds=5, sweeps=3)
        found = pose(layer, streams[0], config, PLACE).solve(12, config)
        assert len(found.labels.unique()) == 12
        passes.append(found.iterations)
    assert passes[0] > 1
    assert passes[1:] == [passes[0] + 5, passes[0] + 8]


def test_passes_go_on_while_each_lowers_the_error_by_a_hundredth() -> None:
    """What numbers of sweeps lead to, one by one, tells where no number stops."""
    layer, x = spline_layer(8, 30, seed=4), correlated(3000, 30)
    problem = pose(layer, start(x, x)[0], CalibrationConfig(), PLACE)

    def solved(rounds: int | None, sweeps: int | None) -> tuple[float, int]:
        found = problem.solve(6, CalibrationConfig(starts=1, rounds=rounds, sweeps=sweeps))
        form = problem.forms[0]
        return form.error(found.codebook, found.labels[:, problem.order]), found.iterations

    for fixed in (lambda n: (n, 0), lambda n: (2, n)):
        _, before = solved(*fixed(0))
        errors = [solved(*fixed(number))[0] for number in range(9)]
        gains = [1 - after / error for error, after in itertools.pairwise(errors)]
        stop = next((n for n, gain in enumerate(gains, 1) if gain < 0.01), 8)
        assert 1 < stop < 8
        rounds, sweeps = fixed(None)
        assert solved(rounds, sweeps) == (errors[stop], before + stop)


@pytest.mark.slow
def test_each_rung_lowers_the_error_of_the_outputs() -> None:
    layer, x = spline_layer(16, 24), correlated(6000, 24)
    streams = start(x[:4000], x[4000:])
    found = {
        method: solve_layer(layer, streams, 8, CalibrationConfig(method=method), PLACE)
        for method in Method
    }
    errors = [found[method].held_out for method in Method]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]


def test_a_small_layer_keeps_the_best_of_its_starts() -> None:
    """Each start alone is a problem with the seed that it has."""
    layer, rows = spline_layer(6, 10), correlated(2000, 10)
    problem = pose(layer, Streams(dense=rows, packed=rows), CalibrationConfig(), PLACE)

    def error(seed: int, starts: int) -> float:
        found = problem.solve(5, CalibrationConfig(seed=seed, starts=starts))
        gap = problem.weights - found.codebook[found.labels]
        flat = gap[:, problem.order].flatten(1).double()
        return float(((flat @ problem.forms[0].hessian.double()) * flat).sum())

    apart = 1 << 20
    single = [error(number * apart, 1) for number in range(6)]
    assert min(single[1:]) < 0.98 * single[1]
    assert error(apart, 5) == pytest.approx(min(single[1:]), rel=1e-4)


def test_large_layers_start_less_often() -> None:
    layer, rows = spline_layer(6, 10), correlated(200, 10)
    problem = pose(layer, Streams(dense=rows, packed=rows), CalibrationConfig(), PLACE)
    assert problem.starts(5, 16) == 16
    few, none = (2**28 // (6 * 90 * 8) - 1, 2**30)  # rooms for eight starts, less one centroid
    assert problem.starts(few, 16) == 8
    assert problem.starts(none, 16) == 1


@pytest.mark.parametrize("memory", [6 << 30, 3 * 4 * 36**2])
@pytest.mark.parametrize("centred", [True, False])
def test_inputs_that_never_change_leave_the_solution_as_it_is_without_them(
    centred: bool, memory: int
) -> None:
    """Around the mean any constant is still; around zero only one without features is."""
    spec = default_basis(Family.KAN)
    values = torch.randn(6, 10, spec.coefficients, generator=torch.Generator().manual_seed(1))
    x = correlated(1500, 10)
    x[:, [2, 7]] = 0.3 if centred else -1e9  # off the grid, and SiLU is zero there
    moving = [i for i in range(10) if i not in (2, 7)]
    place = Place(dtype=torch.float32, biased=centred)
    config = CalibrationConfig(starts=2, memory=memory)
    whole, part = (
        solve_layer(
            native_layer(spec, DenseEdges(edges)), start(rows, rows[:200]), 5, config, place
        )
        for edges, rows in ((values, x), (values[:, moving], x[:, moving]))
    )
    assert whole.method is Method.SWEEPS
    assert whole.error == pytest.approx(part.error, rel=1e-4)
    labels = whole.clustering.labels.reshape(6, 10)[:, moving]
    found = whole.clustering.centroids[labels]
    expected = part.clustering.centroids[part.clustering.labels.reshape(6, 8)]
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_inputs_that_never_change_get_the_nearest_centroids() -> None:
    """In the mean metric of the others; centroids that these do not need are theirs."""
    layer, x = spline_layer(3, 8), correlated(1000, 8)
    x[:, 2:] = 0.3
    features = features_of(layer, x).reshape(1000, 8, 9)
    moving = features[:, :2] - features[:, :2].mean(axis=0)
    metric = np.einsum("rid,rie->de", moving, moving) / 2000
    edges = layer.edges().detach().double().numpy()[:, 2:].reshape(-1, 9)
    for clusters in (4, 12):
        found = solve_layer(layer, start(x, x[:200]), clusters, CalibrationConfig(), PLACE)
        centroids = found.clustering.centroids
        assert len(centroids) == clusters  # though six vectors are all that moving inputs have
        gaps = edges[:, None] - centroids
        distances = np.einsum("nkd,de,nke->nk", gaps, metric, gaps)
        labels = found.clustering.labels.reshape(3, 8)[:, 2:].reshape(-1)
        chosen = distances[np.arange(18), labels]
        assert (chosen <= 1.05 * distances.min(axis=1) + 1e-3 * distances.mean()).all()


def test_bias_takes_up_the_mean_error_and_error_is_what_it_says() -> None:
    layer, x = spline_layer(5, 8), correlated(3000, 8)
    found = solve_layer(layer, start(x[:2500], x[2500:]), 4, CalibrationConfig(), PLACE)
    features = features_of(layer, x)
    dense = features @ layer.edges().detach().double().numpy().reshape(5, -1).T
    vectors = found.clustering.centroids[found.clustering.labels].reshape(5, -1)
    assert found.bias is not None
    packed = features @ vectors.T + found.bias.double().numpy()
    gap = packed - dense
    assert np.abs(gap[:2500].mean(axis=0)).max() < 1e-4
    for rows, error in ((slice(2500), found.error), (slice(2500, None), found.held_out)):
        spread = ((dense[rows] - dense[rows].mean(axis=0)) ** 2).sum()
        assert error == pytest.approx((gap[rows] ** 2).sum() / spread, rel=1e-3)


def test_norms_are_rounded_before_the_layers_are_solved() -> None:
    """Errors are those against the network whose norms are not rounded, and bias is float16."""
    spec = default_basis(Family.FASTKAN)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "0.coefficients": torch.randn(5, 8, 9, generator=generator),
        "0.norm": torch.randn(2, 8, generator=generator),
    }
    checkpoint = Checkpoint(kind="dense", basis=spec, shapes=((5, 8),), data=None, tensors=tensors)
    x = correlated(3000, 8)
    config = ClusterConfig(clusters=4, side_dtype=StoredDtype.BFLOAT16)
    cpu = torch.device("cpu")
    source = NativeSource(checkpoint=checkpoint, file_bytes=1, side_dtype=config.side_dtype)
    runs = native_runs(source, config, cpu)
    made = pack_by_outputs(runs, x, CalibrationConfig(), target=None, hooks=Hooks())
    model, found = made.model, made.calibrated
    assert found is not None
    sides = model.layers[0].sides
    assert {tensor.dtype for tensor in sides.values()} == {torch.bfloat16}
    train, held_out = sample(x, CalibrationConfig().samples, 0)

    def outputs(rows: Tensor, norm: Tensor, coefficients: Tensor) -> np.ndarray:
        scale, shift = norm.double().numpy()
        z = rows.double().numpy()
        z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)
        z = z * scale + shift
        centres = np.linspace(-2, 2, 8)
        planes = np.exp(-(((z[..., None] - centres) * 7 / 4) ** 2))
        base = rows.double().numpy() / (1 + np.exp(-rows.double().numpy()))
        features = np.concatenate([planes, base[..., None]], axis=2)
        return np.einsum("rid,oid->ro", features, coefficients.double().numpy())

    assert found.solution is not None
    layer = found.solution.layers["0"]
    for rows, error in ((train, layer.error), (held_out, layer.held_out)):
        dense = outputs(rows, tensors["0.norm"], tensors["0.coefficients"])
        packed = outputs(rows, sides["norm"], model.coefficients_of(model.layers[0]))
        gap = packed + sides["bias"].double().numpy() - dense
        spread = ((dense - dense.mean(axis=0)) ** 2).sum()
        assert error == pytest.approx((gap**2).sum() / spread, rel=1e-3)


def test_a_layer_behind_a_packed_one_aims_at_the_dense_outputs() -> None:
    first, second = spline_layer(6, 10), spline_layer(4, 6, seed=1)
    x = correlated(5000, 10)
    layers = {"0": first, "1": second}
    config = CalibrationConfig()
    places = dict.fromkeys(layers, PLACE)
    both = solve_network(Chain(layers, places, x[:4000], x[4000:]), {"0": 8, "1": 8}, config)
    with torch.no_grad():
        alone = solve_layer(
            second, start(first(x[:4000]), first(x[4000:])), 8, config, PLACE
        ).clustering
        inner = features_of(first, x[4000:])
        hidden = (
            inner
            @ both.layers["0"]
            .clustering.centroids[both.layers["0"].clustering.labels]
            .reshape(6, -1)
            .T
            + both.layers["0"].bias.double().numpy()
        )
        outer = features_of(second, torch.from_numpy(hidden).float())
        target = second(first(x[4000:])).double().numpy()
    naive = outer @ alone.centroids[alone.labels].reshape(4, -1).T
    naive = naive - naive.mean(axis=0) + target.mean(axis=0)
    relative = ((naive - target) ** 2).sum() / ((target - target.mean(axis=0)) ** 2).sum()
    assert both.held_out < relative


def test_curves_take_dense_outputs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"0": spline_layer(5, 8), "1": spline_layer(3, 5, seed=1)}
    x = correlated(900, 8)
    taken: list[EdgeLayer] = []
    outputs = flow_module.dense_outputs

    def counted(layer: EdgeLayer, rows: Tensor) -> Tensor:
        taken.append(layer)
        return outputs(layer, rows)

    monkeypatch.setattr(flow_module, "dense_outputs", counted)
    flow = Chain(layers, dict.fromkeys(layers, PLACE), x[:600], x[600:])
    config = CalibrationConfig()
    found = [solve_layer(layers["0"], flow.seen("0"), k, config, PLACE) for k in (2, 3)]
    errors = [flow.alone("0", one, config) for one in found]
    assert taken.count(layers["0"]) == 2  # both kinds of rows
    fresh = Chain(layers, dict.fromkeys(layers, PLACE), x[:600], x[600:])
    assert fresh.alone("0", found[1], config) == errors[1]
    flow.settle("0", found[0])
    second = solve_layer(layers["1"], flow.seen("1"), 3, config, PLACE)
    flow.settle("1", second)
    assert torch.equal(flow._streams[1].dense, outputs(layers["1"], outputs(layers["0"], x[600:])))
    flow.restart()
    assert [flow.alone("0", one, config) for one in found] == errors


def test_a_curve_lets_the_next_layer_repair_what_it_can() -> None:
    """A layer alone costs what a least-squares fit of the next one leaves of its error."""
    layers = {"0": spline_layer(5, 8), "1": spline_layer(3, 5, seed=1)}
    x = correlated(3000, 8)
    flow = Chain(layers, dict.fromkeys(layers, PLACE), x[:2500], x[2500:])
    found = solve_layer(layers["0"], flow.seen("0"), 3, CalibrationConfig(), PLACE)
    error = flow.alone("0", found, CalibrationConfig(damping=1e-7))
    first, second = layers.values()
    with torch.no_grad():
        hidden = first.run(x, *found.edges(first))
        wanted = second(first(x)).double().numpy()
        unmoved = second(hidden).double().numpy()
    outer = np.hstack([features_of(second, hidden), np.ones((3000, 1))])
    matrix = np.linalg.lstsq(outer[:2500], wanted[:2500], rcond=1e-8)[0]
    target = wanted[2500:]
    spread = ((target - target.mean(axis=0)) ** 2).sum()
    best = ((outer[2500:] @ matrix - target) ** 2).sum() / spread
    assert error == pytest.approx(best, rel=0.02)
    assert error < 0.9 * ((unmoved[2500:] - target) ** 2).sum() / spread
    assert flow.seen("0")[0].packed is flow.seen("0")[0].dense  # nothing is settled


@pytest.mark.parametrize("degenerate", ["constant", "dead inputs", "few rows", "outside the grid"])
def test_degenerate_inputs_are_handled(degenerate: str) -> None:
    layer, x = spline_layer(5, 8), correlated(2000, 8)
    if degenerate == "constant":
        layer = native_layer(default_basis(Family.KAN), DenseEdges(torch.ones(5, 8, 9)))
    if degenerate == "dead inputs":
        x[:, 2:6] = -1.0
    if degenerate == "few rows":
        x = x[:40]
    if degenerate == "outside the grid":
        x = x * 5
    train, held_out = sample(x, 1500, 0)
    found = solve_layer(layer, start(train, held_out), 4, CalibrationConfig(), PLACE)
    assert np.isfinite(found.clustering.centroids).all()
    assert math.isfinite(found.held_out)
    assert found.held_out <= found.plain_held_out


def test_errors_on_constant_rows_are_relative_to_the_squares() -> None:
    layer, x = spline_layer(5, 8), correlated(1, 8).expand(400, -1).contiguous()
    config = CalibrationConfig(method=Method.KMEANS)
    found = solve_layer(layer, start(x[:300], x[300:]), 4, config, PLACE)
    features = features_of(layer, x[:1])
    dense = features @ layer.edges().detach().double().numpy().reshape(5, -1).T
    packed = features @ found.clustering.centroids[found.clustering.labels].reshape(5, -1).T
    expected = ((packed - dense) ** 2).sum() / (dense**2).sum()
    assert found.held_out == pytest.approx(expected, rel=1e-4)
    assert solve_layer(layer, start(x[:300], x[300:]), 4, CalibrationConfig(), PLACE).error < 1e-9
    zeros = torch.zeros(40, 3)
    assert relative(zeros, zeros) == 0
    assert relative(zeros + 2, zeros) == pytest.approx(4 * 120)


def test_a_network_is_never_worse_than_with_plain_k_means() -> None:
    """The layers' own errors may mislead; the network's outputs decide in the end."""

    class Misled(Chain):
        def errors(self) -> tuple[float, float]:
            plain = all(found.method is Method.KMEANS for found in settled[-2:])
            return (0.1, 0.2 if plain else 0.3)

        def settle(self, name, found) -> None:
            settled.append(found)
            super().settle(name, found)

    settled: list = []
    layers: dict[str, EdgeLayer] = {"0": spline_layer(6, 10), "1": spline_layer(4, 6, seed=1)}
    x = correlated(900, 10)
    flow = Misled(layers, dict.fromkeys(layers, PLACE), x[:800], x[800:])
    found = solve_network(flow, {"0": 4, "1": 4}, CalibrationConfig())
    assert settled[0].method is Method.SWEEPS
    assert found.held_out == 0.2
    for name, layer in layers.items():
        plain = kmeans.fit(layer.edges().detach().reshape(-1, 9).numpy(), 4)
        assert np.array_equal(found.layers[name].clustering.labels, plain.labels)


def test_rows_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 16 rows"):
        sample(torch.zeros(5, 3), 100, 0)
    with pytest.raises(UsageError, match="NaN"):
        sample(torch.full((50, 3), math.nan), 100, 0)
    layers = {"0": spline_layer(3, 4)}
    with pytest.raises(UsageError, match="takes 4 inputs"):
        Chain(layers, {"0": PLACE}, torch.zeros(50, 3), torch.zeros(50, 3))


def curve(edges: int, errors: dict[int, float]) -> Curve:
    return Curve(edges=edges, coefficients=9, itemsize=4, dense_bytes=edges * 36, errors=errors)


def test_the_frontier_has_the_best_choice_for_every_budget() -> None:
    curves = [
        curve(5000, {2: 0.5, 4: 0.2, 8: 0.08, 16: 0.02}),
        curve(320, {2: 0.9, 4: 0.5, 8: 0.2, 16: 0.1, 64: 0.01}),
    ]
    found = allocation.frontier(curves)
    every = [
        (a.bytes + b.bytes, a.error + b.error)
        for a in curves[0].choices()
        for b in curves[1].choices()
    ]
    for budget in range(900, 6000, 137):
        best = allocation.within(found, budget)
        affordable = [error for size, error in every if size <= budget]
        if best is None:
            assert not affordable
        else:
            assert best.error == pytest.approx(min(affordable))


@pytest.mark.slow
def test_a_file_never_exceeds_its_target() -> None:
    layers: dict[str, EdgeLayer] = {"0": spline_layer(16, 30), "1": spline_layer(4, 16)}
    flow = partial(Chain, layers, dict.fromkeys(layers, PLACE))
    x, config = correlated(1200, 30), CalibrationConfig(method=Method.CENTRED, starts=1)

    def weigh(clusters) -> int:
        sizes = {"0": 480, "1": 64}
        total = 700
        for name, number in clusters.items():
            if number is None:
                total += sizes[name] * 36
                continue
            k, parts = split(number)
            total += k * 36 // parts + math.ceil(sizes[name] * parts * math.ceil(math.log2(k)) / 8)
        return total

    files = SimpleNamespace(weigh=weigh)
    for target in (1300, 2000, 4000, 50_000):
        found = calibrate(flow, x, None, config, target=Target(bytes=target), files=files)
        assert weigh(found.clusters) <= target
    with pytest.raises(KancompressError, match="the smallest has"):
        calibrate(flow, x, None, config, target=Target(bytes=750), files=files)
    wanted = calibrate(flow, x, None, config, target=Target(error=0.05), files=files)
    assert wanted.solution is not None
    assert wanted.solution.held_out <= 0.05
    told = calibrate(
        flow, x, None, config, target=Target(error=0.05), files=files,
        dry_run=True,
    )  # fmt: skip
    assert told.clusters == wanted.clusters
    with pytest.raises(KancompressError, match="output error of at most 1e-12; the least has"):
        calibrate(
            flow, x, None, config, target=Target(error=1e-12),
            files=SimpleNamespace(weigh=lambda k: weigh(k) if any(k.values()) else None),
        )  # fmt: skip


@pytest.mark.parametrize("gap", [0.1, 0.9, 1.0, 1.7, 3.0])
def test_an_error_is_reached_with_the_smallest_choice(gap: float) -> None:
    """Where measured errors are `gap` times the promised ones; of 60 choices a dozen are tried."""
    choices = [Choice((k,), 100 * k, 1 / k) for k in range(2, 62)]
    tried = []

    def solve(choice: Choice) -> Calibrated:
        tried.append(choice)
        error = gap * choice.error
        solution = NetworkSolution(layers={}, error=error, held_out=error)
        return Calibrated(
            clusters={"0": choice.clusters[0]}, curves={}, predicted=1.0, solution=solution
        )

    wanted = next(choice for choice in choices if gap * choice.error <= 0.1)
    found = reach(choices, 0.1, solve)
    if gap >= 0.5:  # the curves leave no hope for what is twice the error
        assert found.clusters == {"0": wanted.clusters[0]}
    else:
        assert found.clusters == {"0": 5}
    assert len(tried) <= 10


def test_chosen_numbers_of_clusters_are_solved_as_if_they_were_asked_for() -> None:
    layers: dict[str, EdgeLayer] = {"0": spline_layer(16, 30), "1": spline_layer(4, 16)}
    flow = partial(Chain, layers, dict.fromkeys(layers, PLACE))
    config = CalibrationConfig(rounds=2, sweeps=2, starts=2)
    x, target = correlated(1200, 30), Target(bytes=2000)
    files = SimpleNamespace(weigh=lambda _: 2000)
    chosen = calibrate(flow, x, None, config, files=files, target=target)
    asked = calibrate(flow, x, chosen.clusters, config, files=files)
    assert chosen.solution is not None
    assert asked.solution is not None
    for name in layers:
        mine, theirs = chosen.solution.layers[name], asked.solution.layers[name]
        assert np.array_equal(mine.clustering.labels, theirs.clustering.labels)
        assert np.array_equal(mine.clustering.centroids, theirs.clustering.centroids)


def test_the_same_rows_give_the_same_clustering() -> None:
    layer, x = spline_layer(6, 9), correlated(900, 9)
    problems = [solve_layer(layer, start(x, x[:100]), 5, CalibrationConfig(), PLACE) for _ in "ab"]
    assert np.array_equal(problems[0].clustering.labels, problems[1].clustering.labels)
    assert np.array_equal(problems[0].clustering.centroids, problems[1].clustering.centroids)


def test_weights_without_a_target_of_their_own_stay_as_they_are() -> None:
    layer, x = spline_layer(3, 4), correlated(800, 4)
    weights = layer.edges().detach()

    def batches():
        features = layer.features(x).detach()
        yield features, features.flatten(1) @ weights.transpose(1, 2).flatten(1).T

    found = measure(batches, centred=True, memory=1 << 30)
    problem = Problem(weights, found, None, follow=False)
    order = problem.order
    assert torch.equal(problem.forms[0].weights, weights[:, order])
    assert isinstance(layer.bias, nn.Parameter | None)


def test_the_grid_metric_is_the_distance_of_functions() -> None:
    spec = default_basis(Family.KAN)
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(12, 20, spec.coefficients, generator=generator)
    layer = native_layer(spec, DenseEdges(weights))
    found = grid.cluster(layer, 5, dtype=torch.float32)
    x = torch.linspace(-1, 1, 2001)
    planes = uniform_features(x[:, None], x[:, None], (-1.0, 1.0, 5), 3)[:, :, 0].double()
    functions = weights.reshape(-1, 9).double() @ planes.T
    centroids = torch.from_numpy(found.centroids) @ planes.T
    distances = torch.cdist(functions, centroids)
    chosen = distances[torch.arange(240), torch.from_numpy(found.labels)]
    assert (chosen <= distances.min(1).values * 1.002).all()


def test_the_grid_metric_keeps_few_vectors_as_they_are() -> None:
    spec = default_basis(Family.KAN)
    few = torch.randn(6, spec.coefficients, generator=torch.Generator().manual_seed(3))
    weights = few[torch.arange(240) % 6].view(12, 20, -1)
    layer = native_layer(spec, DenseEdges(weights))
    found = grid.cluster(layer, 8, dtype=torch.float32)
    assert found.exact
    restored = torch.from_numpy(found.centroids)[torch.from_numpy(found.labels)]
    assert torch.equal(restored.float().view(12, 20, -1), weights)
