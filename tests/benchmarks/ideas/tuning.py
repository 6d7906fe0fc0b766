"""What needs gradients: edges that are assigned anew while codebooks are tuned, and a meta-learner
distilled from a dense network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.clustering import kmeans, quadratic
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import flat_edges
from kancompress.config import default_training
from kancompress.layers.edges import DenseEdges, MetaEdges, new_embedding, new_learner
from kancompress.specs import ModelName
from tests.benchmarks.ideas.bench import Bench, K, Part, solved

_BATCH = 128
_EPOCHS = 3
_RATE = 1e-4
_META_EPOCHS = 20


def tuned(*, anew: bool) -> Callable[[Bench, Part], tuple[Part, Part]]:
    """Three epochs of codebooks and biases towards the dense outputs, on the calibration rows.

    anew : sweep over the assignments of both layers after every epoch but the last; biases are then
           those that centre the outputs
    """

    def run(bench: Bench, first: Part) -> tuple[Part, Part]:
        problem = bench.follow(bench.after(first))
        found = [bench.found, problem.solve(K, bench.config)]
        labels = [one.labels for one in found]
        codebooks = [nn.Parameter(one.codebook.half().float()) for one in found]
        biases = _biases([bench.problem, problem], codebooks, labels)
        for epoch in range(_EPOCHS):
            _epoch(bench, codebooks, biases, labels, epoch)
            if anew and epoch < _EPOCHS - 1:
                labels[0] = _anew(bench.problem, codebooks[0], labels[0])
                biases[:1] = _biases([bench.problem], codebooks[:1], labels[:1])
                hidden = bench.after((codebooks[0].detach()[labels[0]], biases[0].detach()))
                problem = bench.follow(hidden)
                labels[1] = _anew(problem, codebooks[1], labels[1])
                biases[1:] = _biases([problem], codebooks[1:], labels[1:])
        parts = [
            (codebook.detach().half().float()[chosen], bias.detach())
            for codebook, chosen, bias in zip(codebooks, labels, biases, strict=True)
        ]
        return parts[0], parts[1]

    return run


def _biases(
    problems: list[Problem], codebooks: list[nn.Parameter], labels: list[Tensor]
) -> list[nn.Parameter]:
    found = []
    for problem, codebook, chosen in zip(problems, codebooks, labels, strict=True):
        bias = problem.bias(codebook.detach(), chosen)
        assert bias is not None
        found.append(nn.Parameter(bias.float()))
    return found


def _anew(problem: Problem, codebook: Tensor, labels: Tensor) -> Tensor:
    centroids = codebook.detach()
    swept = quadratic.sweep(problem.forms[0], centroids, labels[:, problem.order])
    return problem.all_labels(centroids, [swept])


def _epoch(
    bench: Bench,
    codebooks: list[nn.Parameter],
    biases: list[nn.Parameter],
    labels: list[Tensor],
    seed: int,
) -> None:
    optimizer = torch.optim.AdamW([*codebooks, *biases], lr=_RATE, fused=True)

    def outputs(x: Tensor) -> Tensor:
        edges = [
            functional.embedding(chosen, codebook)
            for chosen, codebook in zip(labels, codebooks, strict=True)
        ]
        return bench.last.run(bench.first.run(x, edges[0], biases[0]), edges[1], biases[1])

    _distil(outputs, bench.rows, bench.outputs, optimizer, seed)


def _distil(
    outputs: Callable[[Tensor], Tensor],
    rows: Tensor,
    targets: Tensor,
    optimizer: torch.optim.Optimizer,
    seed: int,
) -> None:
    """One epoch of the mean squared error, relative to the targets' variance."""
    scale = targets.var()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    for chosen in torch.split(order, _BATCH):
        optimizer.zero_grad()
        loss = functional.mse_loss(outputs(rows[chosen]), targets[chosen]) / scale
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def meta_network(bench: Bench) -> Bench:
    """The network with coefficients that a meta-learner makes, trained for twenty epochs towards
    the dense outputs of all training images but those held out; what is beside the edges stays."""
    edges = bench.first.edges()
    out, inputs, d = edges.shape
    rates = default_training(ModelName(f"meta{bench.model}"))
    generator = torch.Generator().manual_seed(bench.config.seed)
    learner = new_learner(1, 32, d, generator)
    sources = [
        MetaEdges(new_embedding(shape, 1, generator), learner)
        for shape in ((out, inputs), bench.last.edges().shape[:2])
    ]
    groups: list[dict[str, Any]] = [
        {"params": learner.parameters(), "lr": rates.lr},
        {"params": [source.embedding for source in sources], "lr": rates.lr_embedding},
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    targets = torch.cat([bench.dense(part)[1] for part in torch.split(bench.inputs, 4096)])

    def outputs(x: Tensor) -> Tensor:
        hidden = bench.first.run(x, sources[0](), None)
        return bench.last.run(hidden, sources[1](), None)

    for epoch in range(_META_EPOCHS):
        _distil(outputs, bench.inputs, targets, optimizer, epoch)
    found = copy.copy(bench)
    found.first, found.last = copy.deepcopy(bench.first), copy.deepcopy(bench.last)
    for layer, source in zip((found.first, found.last), sources, strict=True):
        layer.edges = DenseEdges(source().detach())
    return found


def meta_plain(bench: Bench, _: Part) -> tuple[Part, Part]:
    """A distilled meta-learner's coefficients, clustered by plain k-means."""
    network = meta_network(bench)
    seed = bench.config.seed
    return _nearest(flat_edges(network.first), seed), _nearest(flat_edges(network.last), seed)


def _nearest(weights: Tensor, seed: int) -> Part:
    found = kmeans.fit(weights.flatten(0, 1).numpy(), K, seed=seed)
    codebook = torch.from_numpy(found.centroids).half().float()
    return codebook[torch.from_numpy(found.labels)].view_as(weights), None


def meta_outputs(bench: Bench, _: Part) -> tuple[Part, Part]:
    """A distilled meta-learner's coefficients, clustered by what the layers put out."""
    network = meta_network(bench)
    network.hidden = network.dense(network.rows)[0]
    first = solved(network.open(network.config), network.config)
    return first, solved(network.follow(network.after(first)), network.config)
