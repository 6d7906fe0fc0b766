"""Layers whose second moments do not fit: which inputs go together, and what groups repair."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from kancompress.clustering import grouping
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import Place, Streams, pose, solve_layer
from kancompress.clustering.moments import Moments, gaps, measure, spread
from kancompress.config import CalibrationConfig

SIZE, D, OUT = 12, 3, 5
# Four groups of three inputs.
MEMORY = 3 * 4 * (3 * D) ** 2


def mixed(rows: int, latent: int, seed: int = 0, inputs: int = SIZE) -> Tensor:
    """Features (rows, D, inputs) of inputs that have few causes, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(rows, latent, generator=generator)
    x = causes @ torch.randn(latent, inputs, generator=generator)
    x = x + 0.3 * torch.randn(rows, inputs, generator=generator)
    return 2.0 + torch.stack([x, x.square() / 2, torch.tanh(x)], dim=1)


def problem_of(features: Tensor, targets: Tensor, weights: Tensor, centred: bool) -> Problem:
    """The layer with these features and targets, in four groups."""
    batches = [*zip(features.split(100), targets.split(100), strict=True)]
    found = measure(lambda: batches, centred=centred, memory=MEMORY)
    assert [len(group.inputs) for group in found.groups] == [3, 3, 3, 3]
    follow = not torch.equal(targets, torch.einsum("rdi,oid->ro", features, weights))
    told = partial(spread, lambda: features.split(100), found)
    return Problem(
        weights,
        found,
        0.02,
        follow=follow,
        gaps=partial(gaps, lambda: batches, found),
        spread=(told, told),
    )


def small(follow: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Features, targets and weights."""
    features = mixed(600, 3)
    weights = torch.randn(OUT, SIZE, D, generator=torch.Generator().manual_seed(1))
    targets = torch.einsum("rdi,oid->ro", features, weights)
    return features, targets + torch.sin(targets) if follow else targets, weights


def some_labels(problem: Problem, k: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, k, form.weights.shape[:2], generator=generator) for form in
            problem.forms]  # fmt: skip


def measured(
    problem: Problem, features: Tensor, targets: Tensor, codebook: Tensor, labels: list[Tensor]
) -> float:
    """Mean squared error of the outputs on the rows, by NumPy in float64, and what damping adds."""
    whole = torch.empty(OUT, SIZE, dtype=torch.int64)
    whole[:, problem.order] = torch.cat(labels, dim=1)
    edges = codebook[whole].double().numpy()
    gap = targets.double().numpy() - np.einsum("rdi,oid->ro", features.double().numpy(), edges)
    if problem.moments.centred:
        gap -= gap.mean(axis=0)
    total = float((gap**2).sum(axis=1).mean())
    for inputs, ridge in zip(problem.joint.inputs, problem.joint.ridges, strict=True):
        own = problem.weights[:, inputs].double().numpy() - edges[:, inputs.numpy()]
        total += ridge * float((own**2).sum())
    return total


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [8, 8], [6, 6, 4]])
def test_inputs_that_go_together_are_in_one_group(sizes: list[int]) -> None:
    """Sixteen inputs in pairs of nearly the same one, shuffled: no group parts a pair."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(256, 8, generator=generator).repeat(1, 2)
    x = x + 0.2 * torch.randn(256, 16, generator=generator)
    x[:, 8:] *= -5  # neither sign nor scale tells them apart
    order = torch.randperm(16, generator=generator)
    features = torch.stack([x, torch.tanh(x)], dim=2).permute(1, 0, 2)[order]
    groups = grouping.bisected(features - features.mean(1, keepdim=True), sizes)
    assert [len(group) for group in groups] == sizes
    assert sorted(torch.cat(groups).tolist()) == list(range(16))
    for group in groups:
        pairs = order[group] % 8
        assert (torch.bincount(pairs, minlength=8) % 2 == 0).all()


def test_groups_are_of_one_cause() -> None:
    """Three causes, four inputs of each, in groups of four; the same groups every time."""
    generator = torch.Generator().manual_seed(5)
    cause = torch.arange(SIZE) % 3
    x = torch.randn(200, 3, generator=generator)[:, cause]
    x = x + torch.randn(200, SIZE, generator=generator)
    features = torch.stack([x, x.abs()], dim=2).permute(1, 0, 2)
    features = features - features.mean(1, keepdim=True)
    groups = grouping.bisected(features, [4, 4, 4])
    assert [len(cause[group].unique()) for group in groups] == [1, 1, 1]
    for group, again in zip(groups, grouping.bisected(features, [4, 4, 4]), strict=True):
        assert torch.equal(group, again)


def test_inputs_of_no_change_have_a_group_too() -> None:
    """Features that are zero in the rows that are looked at go with nothing."""
    features = torch.zeros(6, 50, 2)
    features[:3] = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0))
    groups = grouping.bisected(features, [2, 2, 2])
    assert sorted(torch.cat(groups).tolist()) == list(range(6))
    assert [len(group) for group in grouping.bisected(torch.zeros(5, 9, 2), [3, 2])] == [3, 2]


@pytest.mark.parametrize("centred", [True, False])
def test_rows_tell_what_errors_do_to_all_slopes(centred: bool) -> None:
    features, targets, _ = small()
    batches = [(features, targets)]
    found: Moments = measure(lambda: batches, centred=centred, memory=MEMORY)
    members = torch.tensor([7, 2, 9])
    errors = torch.randn(OUT, 3, D, generator=torch.Generator().manual_seed(2))
    wide = features.double().numpy()
    if centred:
        wide = wide - wide.mean(axis=0)
    outputs = np.einsum("rdi,oid->ro", wide[:, :, members.numpy()], errors.double().numpy())
    expected = np.einsum("ro,rdi->oid", outputs, wide) / len(wide)
    result = spread(lambda: features.split(100), found, errors, members)
    assert np.allclose(result.numpy(), expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("centred", [True, False])
def test_the_joint_form_is_the_error_of_the_whole_layer(centred: bool, follow: bool) -> None:
    """Differences of the form are those that the rows show, after every kind of pass."""
    features, targets, weights = small(follow)
    problem = problem_of(features, targets, weights, centred)
    joint = problem.joint
    joint.factorise()
    codebook = weights.reshape(-1, D)[:4].clone()
    labels = some_labels(problem, 4, 0)
    states = [(codebook, labels), (codebook, joint.feedback(codebook))]
    states.append((joint.refit(*states[-1]), states[-1][1]))
    states.append((states[-1][0], joint.sweep(*states[-1])))
    found = [joint.error(*state) for state in states]
    expected = [measured(problem, features, targets, *state) for state in states]
    scale = expected[0] - expected[-1]
    assert scale > 0
    for one, other in zip(found, expected, strict=True):
        assert one - found[0] == pytest.approx(other - expected[0], abs=2e-3 * scale)
    if not follow:
        assert found == pytest.approx(expected, rel=2e-3)
    assert found[3] <= found[2] <= found[1]
    # What passes keep of their slopes is what is found anew.
    fresh = (states[-1][0].clone(), [own.clone() for own in states[-1][1]])
    assert joint.error(*fresh) == pytest.approx(found[3], rel=1e-3, abs=1e-3 * scale)


def test_the_codebook_is_the_best_for_all_groups() -> None:
    """No step away from it lowers the error on the rows."""
    features, targets, weights = small()
    problem = problem_of(features, targets, weights, True)
    labels = some_labels(problem, 3, 4)
    codebook = problem.joint.refit(weights.reshape(-1, D)[:3].clone(), labels, steps=30)
    least = measured(problem, features, targets, codebook, labels)
    for place in range(codebook.numel()):
        for step in (-0.02, 0.02):
            moved = codebook.clone()
            moved.view(-1)[place] += step
            assert measured(problem, features, targets, moved, labels) > least


def test_groups_that_repair_each_other_lose_less() -> None:
    """Thirty-two inputs of six causes in eight groups: on held-out rows better than groups that
    are solved by themselves, and little worse than one group."""
    features = mixed(800, 6, inputs=32)
    weights = torch.randn(8, 32, D, generator=torch.Generator().manual_seed(0))
    ways = ((1 << 30, False), (3 * 4 * (4 * D) ** 2, False), (3 * 4 * (4 * D) ** 2, True))
    whole, together, apart = (_held_out(features, weights, *way) for way in ways)
    assert together < 0.9 * apart
    assert together < 1.3 * whole


def _held_out(features: Tensor, weights: Tensor, memory: int, alone: bool) -> float:
    layer = _Given(weights)
    streams = [Streams(dense=x, packed=x) for x in (features[:600], features[600:])]
    config = CalibrationConfig(starts=1, memory=memory, rounds=3, sweeps=3)
    place = Place(dtype=torch.float32, biased=True)
    problem = pose(layer, streams[0], config, place)
    assert len(problem.forms) == (1 if memory == 1 << 30 else 8)
    if alone:
        problem.joint.spread = None
    return solve_layer(layer, (streams[0], streams[1]), 6, config, place, problem).held_out


class _Given:
    """A layer whose rows are its features."""

    name, bias, maps = "given", None, False

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def edges(self) -> Tensor:
        return self._weights

    def places(self, x: Tensor) -> int:
        return 1

    def columns(self, x: Tensor, places: Tensor) -> Tensor:
        return x

    def beside(self, x: Tensor, places: Tensor) -> Tensor | None:
        return None

    def sides(self) -> dict[str, Tensor]:
        return {}
