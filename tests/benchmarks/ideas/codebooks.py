"""Codebooks made of fewer numbers than their centroids have: sums of vectors, and gains times
shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kancompress.clustering import metric, quadratic
from kancompress.clustering.ladder import Problem
from kancompress.clustering.quadratic import Form
from tests.benchmarks.ideas.bench import Bench, K, Part, solved, with_bias

# What a codebook (k, d) is made of, and how.
Parts = list[Tensor]
Make = Callable[[Sequence[Tensor]], Tensor]

_ROUNDS, _SWEEPS, _STEPS = 4, 4, 20


def sums(parts: Sequence[Tensor]) -> Tensor:
    """(a, d) and (b, d) to all their sums, (a * b, d)."""
    first, second = parts
    return (first[:, None] + second).flatten(0, 1)


def products(parts: Sequence[Tensor]) -> Tensor:
    """Gains (a, 1) and shapes (b, d) to all their products, (a * b, d)."""
    gains, shapes = parts
    return (gains[:, None] * shapes).flatten(0, 1)


def residual(problem: Problem, first: int, second: int, seed: int) -> Parts:
    """A codebook, and one for what it leaves."""
    form = problem.forms[0]
    codebook, labels = _clustered(form, form.weights, first, seed)
    rest, _ = _clustered(form, form.weights - codebook[labels], second, seed)
    return [codebook, rest]


def gain_shape(problem: Problem, gains: Sequence[float], shapes: int, seed: int) -> Parts:
    """Shapes, each at so many sizes; negative ones are mirrored."""
    form = problem.forms[0]
    return [torch.tensor(gains)[:, None], _clustered(form, form.weights, shapes, seed)[0]]


def _clustered(form: Form, weights: Tensor, clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    codebook, _ = metric.start(weights, form.blocks, clusters, seed=seed, iterations=100)
    found = metric.lloyd(weights, form.blocks, codebook, iterations=100)
    return found.codebook, found.labels


def refit(form: Form, make: Make, parts: Parts, labels: Tensor) -> Parts:
    """The parts of least error for fixed labels, by L-BFGS."""
    leaves = [part.clone(memory_format=torch.contiguous_format).requires_grad_() for part in parts]
    optimizer = torch.optim.LBFGS(
        leaves, max_iter=_STEPS, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    scale = form.error(make(parts), labels)

    def value() -> Tensor:
        optimizer.zero_grad()
        codebook = make(leaves)
        gap = form.gap(codebook.detach(), labels)
        pull = (gap.flatten(1) @ form.hessian).view_as(gap)
        slope = torch.zeros_like(codebook.detach())
        slope.index_add_(0, labels.flatten(), pull.flatten(0, 1), alpha=-2 / scale)
        codebook.backward(slope)  # type: ignore[no-untyped-call]
        return (pull * gap).sum() / scale

    optimizer.step(value)  # type: ignore[no-untyped-call]
    return [leaf.detach() for leaf in leaves]


def descend(problem: Problem, make: Make, parts: Parts) -> tuple[float, Parts, Tensor]:
    """Rounds of feedback, of which the best is kept, then sweeps, each with a refit.

    Returns the error, the parts, and labels (out, m).
    """
    form = problem.forms[0]
    factor = quadratic.lower_factor(form.hessian)

    def measured(parts: Parts, labels: Tensor) -> tuple[float, Parts, Tensor]:
        parts = refit(form, make, parts, labels)
        return form.error(make(parts), labels), parts, labels

    found = best = measured(parts, metric.assign(form.weights, form.blocks, make(parts)))
    for _ in range(_ROUNDS):
        found = measured(found[1], quadratic.feedback(form, factor, make(found[1])))
        best = min(best, found, key=lambda one: one[0])
    for _ in range(_SWEEPS):
        best = measured(best[1], quadratic.sweep(form, make(best[1]), best[2]))
    return best


def packed(problem: Problem, make: Make, starts: Sequence[Parts]) -> Part:
    """The layer with the best of what its starts led to."""
    _, parts, labels = min((descend(problem, make, s) for s in starts), key=lambda found: found[0])
    stored = make([part.half().float() for part in parts])
    return with_bias(problem, stored, problem.all_labels(stored, [labels]))


def seeds(bench: Bench, problem: Problem) -> range:
    """Of the starts: one, and of a small layer as many as the tool has."""
    first = 1000 * bench.config.seed
    return range(first, first + problem.starts(K, bench.config.starts))


def residual_everywhere(bench: Bench, _: Part) -> tuple[Part, Part]:
    """Four and four vectors in both layers."""

    def layer(problem: Problem) -> Part:
        starts = [residual(problem, 4, 4, seed) for seed in seeds(bench, problem)]
        return packed(problem, sums, starts)

    first = layer(bench.problem)
    return first, layer(bench.follow(bench.after(first)))


def gains_everywhere(bench: Bench, _: Part) -> tuple[Part, Part]:
    """Two gains and eight shapes in both layers."""

    def layer(problem: Problem) -> Part:
        starts = [
            gain_shape(problem, gains, 8, seed)
            for gains in ((1.0, -1.0), (0.5, 1.5))
            for seed in seeds(bench, problem)
        ]
        return packed(problem, products, starts)

    first = layer(bench.problem)
    return first, layer(bench.follow(bench.after(first)))


def residual_last(bench: Bench, first: Part) -> tuple[Part, Part]:
    """Sixteen and sixteen vectors in the last layer."""
    last = bench.follow(bench.after(first))
    starts = [residual(last, 16, 16, seed) for seed in seeds(bench, last)]
    return first, packed(last, sums, starts)


def wide_last(clusters: int) -> Callable[[Bench, Part], tuple[Part, Part]]:
    """So many centroids in the last layer, as the tool finds them."""

    def run(bench: Bench, first: Part) -> tuple[Part, Part]:
        return first, solved(bench.follow(bench.after(first)), bench.config, clusters)

    return run
