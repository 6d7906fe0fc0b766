"""What indices cost, and clustering that counts it."""

import numpy as np
import pytest
import torch
from test_calibration import PLACE, correlated, spline_layer

from kancompress import CalibrationConfig
from kancompress.clustering.layer import Streams, pose
from kancompress.clustering.prices import prices_of


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
        found = problem.solve(8, CalibrationConfig(starts=1, price=price))
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
    found = problem.solve(8, CalibrationConfig(starts=1, price=1.0))
    assert len(set(found.labels[:, :32].reshape(-1).tolist())) == 1
