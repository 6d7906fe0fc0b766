"""What indices cost, and clustering that counts it."""

import numpy as np
import pytest
import torch
from test_calibration import PLACE, correlated, spline_layer

from kancompress import CalibrationConfig
from kancompress.clustering.layer import Streams, pose
from kancompress.clustering.prices import counts_of, prices_of


def entropy(counts: np.ndarray) -> float:
    """Bits of all indices that occur so often."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(counts[counts > 0] * np.log2(shares)).sum())


def test_counts_are_those_of_every_input() -> None:
    labels = torch.tensor([[0, 2], [0, 1], [1, 1]])
    assert counts_of(labels, 3).tolist() == [[2, 1, 0], [0, 2, 1]]
    used = torch.tensor([[True, False], [True, True], [False, True]])
    assert counts_of(labels, 3, used).tolist() == [[2, 0, 0], [0, 2, 0]]


def test_inputs_of_two_kinds_become_two_classes_and_cost_their_entropies() -> None:
    rng = np.random.default_rng(0)
    kinds = np.arange(200) % 2
    shares = np.array([[0.9, 0.05, 0.03, 0.02], [0.05, 0.15, 0.3, 0.5]])
    counts = np.stack([rng.multinomial(64, shares[kind]) for kind in kinds]).astype(float)
    found = prices_of(torch.from_numpy(counts))
    classes = found.classes.numpy()
    assert len(set(classes)) == 2
    assert len(set(classes[kinds == 0])) == len(set(classes[kinds == 1])) == 1
    least = sum(entropy(counts[kinds == kind].sum(0)) for kind in (0, 1))
    coded = float((counts * found.bits.double().numpy()).sum())
    assert 0.9999 * least <= coded <= 1.001 * least
    assert found.total == pytest.approx(coded + 200 + 8 * 8)  # a bit an input, a byte an entry


def test_one_distribution_needs_one_class() -> None:
    counts = torch.full((100, 8), 5.0, dtype=torch.float64)
    found = prices_of(counts)
    assert set(found.classes.tolist()) == {0}
    assert found.bits.numpy() == pytest.approx(np.full((100, 8), 3.0), abs=1e-3)


def test_a_price_saves_bits_for_little_error() -> None:
    layer, rows = spline_layer(48, 64), correlated(3000, 64)
    problem = pose(layer, Streams(dense=rows, packed=rows), CalibrationConfig(), PLACE)
    bits, errors = [], []
    for price in (0.0, 1.0, 10.0):
        found = problem.solve(8, CalibrationConfig(starts=1, price=price))
        labels = problem._cut(found.labels[:, problem.order])
        errors.append(problem._error(found.codebook, labels))
        bits.append(prices_of(counts_of(found.labels, 8)).total)
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
