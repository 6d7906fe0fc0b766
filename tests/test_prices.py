"""What indices cost, and clustering that counts it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_calibration import PLACE, correlated, spline_layer

import kancompress
from conftest import fresh
from kancompress import CalibrationConfig, ClusterConfig, Target
from kancompress.clustering import kmeans, prices
from kancompress.clustering.layer import Streams, pose
from kancompress.clustering.price_search import Tried, fewest_bytes, least_error, next_price
from kancompress.clustering.prices import prices_of
from kancompress.errors import UsageError


def entropy(counts: np.ndarray) -> float:
    """Bits of all indices that occur so often."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(counts[counts > 0] * np.log2(shares)).sum())


def bits_of(labels: torch.Tensor, clusters: int) -> float:
    """Bits of all indices at their prices."""
    prices = prices_of(labels, clusters)
    return float(prices.gather(1, labels.T).sum())


def drawn(shares: np.ndarray, kinds: np.ndarray, outputs: int = 64) -> torch.Tensor:
    """Labels (outputs, inputs), those of an input distributed as its kind's are."""
    rng = np.random.default_rng(0)
    columns = [rng.choice(shares.shape[1], outputs, p=shares[kind]) for kind in kinds]
    return torch.from_numpy(np.stack(columns, axis=1))


def test_inputs_of_two_kinds_cost_their_entropies() -> None:
    kinds = np.arange(200) % 2
    shares = np.array([[0.9, 0.05, 0.03, 0.02], [0.05, 0.15, 0.3, 0.5]])
    labels = drawn(shares, kinds)
    counts = [np.bincount(labels[:, kinds == kind].reshape(-1), minlength=4) for kind in (0, 1)]
    least, one = sum(map(entropy, counts)), entropy(sum(counts))
    assert least > bits_of(labels, 4) > 0.9 * least  # still more classes tell a little
    assert bits_of(labels, 4) < 0.85 * one


def test_an_index_that_nobody_has_costs_most() -> None:
    labels = drawn(np.array([[0.25, 0.25, 0.25, 0.25, 0.0]]), np.zeros(100, int))
    prices = prices_of(labels, 5)
    assert prices[:, :4].mean() == pytest.approx(2.0, abs=0.1)
    assert (prices[:, 4] > 10).all()


def test_edges_without_an_index_are_not_counted() -> None:
    labels = drawn(np.array([[0.5, 0.5, 0.0]]), np.zeros(40, int))
    used = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    masked = torch.where(used, labels, 2)
    assert (prices_of(masked, 3, used)[:, 2] > 8).all()
    assert (prices_of(masked, 3)[:, 2] < 2).all()


def test_a_price_saves_bits_for_little_error() -> None:
    layer, rows = spline_layer(48, 64), correlated(3000, 64)
    problem = pose(layer, Streams(dense=rows, packed=rows), CalibrationConfig(), PLACE)
    bits, errors = [], []
    for price in (0.0, 1.0, 10.0):
        found = problem.solve(8, CalibrationConfig(starts=1), price=price)
        labels = problem._cut(found.labels[:, problem.order])
        errors.append(problem._error(found.codebook, labels))
        bits.append(bits_of(found.labels, 8))
    assert bits[0] > 1.05 * bits[1] > 1.2 * bits[2]
    assert errors[0] < errors[1] < errors[2]
    # What is minimised: the error, and at the second price the bits.
    scale = errors[0] / (64 * 48)
    costs = [error + scale * count for error, count in zip(errors, bits, strict=True)]
    assert costs[1] == min(costs)


def test_inputs_that_never_change_cost_next_to_nothing() -> None:
    layer, rows = spline_layer(48, 64), correlated(3000, 64)
    rows[:, :32] = 0.25
    problem = pose(layer, Streams(dense=rows, packed=rows), CalibrationConfig(), PLACE)
    found = problem.solve(8, CalibrationConfig(starts=1), price=1.0)
    assert len(set(found.labels[:, :32].reshape(-1).tolist())) == 1


def uneven(count: int = 900) -> torch.Tensor:
    """Rows of which most numbers hardly change."""
    rows = correlated(count, 200) / 2
    rows[:, 20:] *= 0.05
    return rows


@pytest.mark.slow
def test_a_priced_file_is_smaller_for_little_error() -> None:
    checkpoint, config = fresh("kan", (200, 64, 10)), ClusterConfig(clusters=16)
    quick = CalibrationConfig(starts=1, sweeps=2)
    plain, paid = (
        kancompress.cluster(
            checkpoint, replace(config, price=price), rows=uneven(), calibration=quick
        )
        for price in (None, 2.0)
    )
    sizes = [len(kancompress.encode(found.model)) for found in (plain, paid)]
    assert sizes[1] < 0.85 * sizes[0]
    assert paid.model.layers[0].encoding == "rans"
    assert [layer.encoding for layer in plain.model.layers] == ["bits", "bits"]
    again = kancompress.load(kancompress.encode(paid.model))
    for layer, other in zip(paid.model.layers, again.layers, strict=True):
        assert np.array_equal(layer.index, other.index)
    assert paid.calibrated.price == 2.0


@pytest.mark.exhaustive
def test_a_target_is_met_with_and_without_a_price() -> None:
    """The search ends with whatever has the least error in so many bytes."""
    checkpoint = fresh("kan", (200, 64, 10))
    target, quick = Target(bytes=6000), CalibrationConfig(starts=1)
    tried: list[tuple[Any, float, int, float]] = []
    hooks = kancompress.Hooks(tried=lambda *told: tried.append(told))
    paid, plain = (
        kancompress.cluster(
            checkpoint,
            ClusterConfig(price=price),
            rows=uneven(),
            target=target,
            calibration=quick,
            hooks=hooks,
        )
        for price in (None, 0.0)
    )
    chosen = paid.calibrated
    found = len(kancompress.encode(paid.model)), chosen.solution.held_out
    assert (chosen.clusters, chosen.price, *found) in tried
    fit = [error for *_, size, error in tried if size <= 6000]
    assert len(tried) > 1
    assert min(fit) == chosen.solution.held_out
    assert max(len(kancompress.encode(found.model)) for found in (paid, plain)) <= 6000
    assert paid.calibrated.solution.held_out <= plain.calibrated.solution.held_out
    assert plain.calibrated.price == 0


def test_prices_meet_the_budget_between_those_that_are_known() -> None:
    """Bytes that fall as a power of the price are met at the second guess."""

    def size(price: float) -> float:
        return 0.3 - 0.4 * np.log(price)  # logarithm of the budgets that a file takes

    points = [(0.0, size(1.0))]
    for _ in range(3):
        price = next_price(points, np.log(0.99), (-0.15, -0.33, -0.6))
        points.append((np.log(price), size(price)))
    assert np.exp(points[-1][1]) == pytest.approx(0.99, abs=0.005)


@pytest.mark.parametrize(
    ("price", "says"),
    [
        (np.nan, "price=nan"),
        (-1.0, "price=-1"),
        (np.inf, "price=inf"),
    ],
)
def test_a_price_that_is_none_is_refused(price: float, says: str) -> None:
    for rows in (None, uneven(100)):
        with pytest.raises(kancompress.UsageError, match=says):
            kancompress.cluster(fresh("kan", (200, 8, 10)), ClusterConfig(price=price), rows=rows)


@pytest.mark.parametrize(
    "calibration",
    [None, CalibrationConfig(method=kancompress.Method.METRIC, starts=1)],
    ids=["coefficients", "metric"],
)
def test_a_price_counts_without_feedback_too(calibration) -> None:
    """Fewer bytes for more error, and the labels are those of least distance and price."""
    checkpoint = fresh("kan", (60, 48, 10))
    rows = None if calibration is None else uneven(400)[:, :60]
    plain, paid = (
        kancompress.cluster(
            checkpoint, ClusterConfig(clusters=8, price=price), rows=rows, calibration=calibration
        )
        for price in (0.0, 4.0)
    )
    sizes = [found.layers[0].packed_bytes for found in (plain, paid)]
    assert sizes[1] < 0.93 * sizes[0]
    assert paid.layers[0].distortion > plain.layers[0].distortion


def test_no_sweep_at_higher_prices_without_one_at_the_price_itself() -> None:
    """`sweeps=0` is feedback, and with one sweep the same price gives another file."""
    checkpoint, rows = fresh("kan", (60, 24, 10)), uneven(400)[:, :60]
    feedback, none, one = (
        kancompress.encode(
            kancompress.cluster(
                checkpoint, ClusterConfig(clusters=8, price=4.0), rows=rows, calibration=calibration
            ).model
        )
        for calibration in (
            CalibrationConfig(method=kancompress.Method.FEEDBACK, starts=1),
            CalibrationConfig(sweeps=0, starts=1),
            CalibrationConfig(sweeps=1, starts=1),
        )
    )
    assert none == feedback
    assert one != feedback


def test_prices_of_plain_k_means_are_those_of_brute_force() -> None:
    """Two kinds of inputs: vectors take the centroid of least squared distance plus price."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((40 * 30, 3)).astype(np.float32)
    inputs = np.tile(np.arange(30), 40)
    vectors[inputs >= 10] *= 0.1
    start = kmeans.fit(vectors, 6)
    assert prices.cluster(vectors, start, inputs, 0.0) is start
    found = prices.cluster(vectors, start, inputs, 3.0)
    unheld = prices.cluster(vectors, start, inputs, 3.0, memory=1)  # points are made block by block
    assert np.array_equal(unheld.labels, found.labels)
    points = vectors.astype(np.float64)
    labels = torch.from_numpy(found.labels.reshape(40, 30))
    scale = 3.0 * np.square(points - start.centroids[start.labels]).sum() / len(points)
    bits = scale * prices_of(labels, len(found.centroids)).numpy()[inputs]
    costs = np.square(points[:, None] - found.centroids).sum(axis=2) + bits
    same = costs.argmin(axis=1) == found.labels
    assert same.mean() > 0.98  # the centroids have moved to their means since
    assert bits_of(labels, 6) < 0.6 * bits_of(torch.from_numpy(start.labels.reshape(40, 30)), 6)


@pytest.mark.slow
def test_a_target_without_rows_is_met_with_a_price() -> None:
    checkpoint = fresh("kan", (60, 32, 10))
    source = len(kancompress.encode(checkpoint))
    found, plain = (
        kancompress.cluster(
            checkpoint, ClusterConfig(price=price), target=Target(ratio=source / 2900)
        )
        for price in (None, 0.0)
    )
    sizes = [len(kancompress.encode(one.model)) for one in (found, plain)]
    assert max(sizes) <= 2900
    assert sum(x.distortion for x in found.layers) <= sum(x.distortion for x in plain.layers)


@pytest.mark.parametrize("rises", [False, True])
def test_a_search_ends_within_its_target(rises: bool) -> None:
    """Bytes that are a power of the price, and an error that is another."""
    tried = []

    def solve(price: float) -> Tried[float]:
        tried.append(price)
        return Tried(price, int(20_000 * price**-0.4), 0.01 * price**0.7)

    if rises:
        found = fewest_bytes(0.03, Tried(0.0, 18_000, 0.029), [(1.0, solve)])
        assert 0.93 * 0.03 <= found.error <= 0.03
    else:
        found = least_error(12_000, Tried(0.0, 11_900, 0.05), [(1.0, solve)])
        assert 0.98 * 12_000 <= found.bytes <= 12_000
    assert len(tried) <= 4


def test_a_search_takes_the_numbers_of_centroids_that_promise_most() -> None:
    """Of three numbers the second has the least error in the same bytes."""
    tried: list[tuple[int, float]] = []

    def solver(number: int, factor: float) -> Callable[[float], Tried[float]]:
        def solve(price: float) -> Tried[float]:
            tried.append((number, price))
            return Tried(price, int(20_000 * price**-0.4), factor * price**0.8)

        return solve

    richer = [(1.0, solver(0, 0.02)), (1.5, solver(1, 0.01)), (2.0, solver(2, 0.03))]
    found = least_error(12_000, None, richer)
    assert found is not None
    assert 0.98 * 12_000 <= found.bytes <= 12_000
    assert found.error == pytest.approx(0.01 * found.found**0.8)
    assert [number for number, _ in tried[:3]] == [0, 1, 2]
    assert {number for number, _ in tried[3:]} == {1}


def test_a_search_ends_where_no_layer_would_be_packed() -> None:
    best = Tried(0.0, 900, 0.5)
    assert least_error(1000, best, [(1.0, lambda price: None)]) is best
    assert least_error(1000, None, [(1.0, lambda price: None)]) is None


def test_memory_bounds_what_k_means_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    network = fresh("fastkan", (6, 5, 3))
    with pytest.raises(UsageError, match=r"takes 1,080 bytes as k-means .* than `memory` \(999\)"):
        kancompress.cluster(network, clusters=4, kmeans="scikit-learn", memory=999)
    given: list[int] = []
    fit = kmeans.fit

    def noted(*vectors: Any, **how: Any) -> kmeans.Clustering:
        given.append(how["memory"])
        return fit(*vectors, **how)

    monkeypatch.setattr(kmeans, "fit", noted)
    calibration = CalibrationConfig(samples=32, starts=1, rounds=0, sweeps=0, memory=999)
    kancompress.cluster(network, clusters=4, rows=torch.rand(64, 6), calibration=calibration)
    assert set(given) == {999}
