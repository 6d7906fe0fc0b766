"""What ideas are tried on: a dense network of two layers, rows, and how a packing is scored."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from kancompress import CalibrationConfig
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import Place, Streams, pose, relative
from kancompress.clustering.network import sample
from kancompress.data import datasets
from kancompress.models.files import sized
from kancompress.models.native import build
from kancompress.specs import DataOptions

K = 16
PLACE = Place(dtype=torch.float16, biased=True)

# A layer's coefficients and bias, as packed.
Part = tuple[Tensor, Tensor | None]


class Bench:
    """A dense network of two layers, rows to calibrate on and to check on, and how it is scored."""

    def __init__(self, source: Path, options: DataOptions, model: str, seed: int) -> None:
        _, record = sized(source, None)
        self.model = model
        network = build(record).eval()
        self.first, self.last = network.kan_layers()
        inputs = datasets.load_inputs(record.data, options).flatten(1)
        self.config = CalibrationConfig(seed=seed)
        self.inputs, self.held_out = sample(inputs, len(inputs), 0)
        self.rows = self.inputs[: self.config.samples]
        self.test = datasets.load_for_model(record.data, options).test
        self.hidden, self.outputs = self.dense(self.rows)
        self.problem = self.open(self.config)
        self.found = self.problem.solve(K, self.config)

    @torch.no_grad()
    def dense(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What both layers put out."""
        hidden = self.first(x)
        return hidden, self.last(hidden)

    def open(self, config: CalibrationConfig, rows: Tensor | None = None) -> Problem:
        """The first layer's problem."""
        rows = self.rows if rows is None else rows
        return pose(self.first, Streams(dense=rows, packed=rows), config, PLACE)

    @torch.no_grad()
    def after(self, part: Part, rows: Tensor | None = None) -> Tensor:
        """What the packed first layer puts out."""
        return self.first.run(self.rows if rows is None else rows, *part)

    def follow(self, packed: Tensor, hidden: Tensor | None = None) -> Problem:
        """The last layer's problem behind a packed first one."""
        dense = self.hidden if hidden is None else hidden
        return pose(self.last, Streams(dense=dense, packed=packed), self.config, PLACE)

    @torch.no_grad()
    def score(self, first: Part, last: Part) -> dict[str, float]:
        """Accuracy, share of predictions that change, divergence and held-out error."""

        def run(x: Tensor) -> Tensor:
            return self.last.run(self.first.run(x, *first), *last)

        found, wanted = run(self.test.x), self.dense(self.test.x)[1]
        logs = found.log_softmax(1), wanted.log_softmax(1)
        right = [float((y.argmax(1) == self.test.y).float().mean()) for y in (wanted, found)]
        return {
            "dense": right[0],
            "accuracy": right[1],
            "changed": float((found.argmax(1) != wanted.argmax(1)).float().mean()),
            "divergence": float(functional.kl_div(*logs, log_target=True, reduction="batchmean")),
            "held_out": relative(run(self.held_out), self.dense(self.held_out)[1]),
        }


def part_of(problem: Problem, codebook: Tensor, labels: Tensor) -> Part:
    """What a packed layer holds; labels (out, in) in the order of its inputs."""
    return with_bias(problem, codebook.half().float(), labels)


def with_bias(problem: Problem, stored: Tensor, labels: Tensor) -> Part:
    """The same of centroids as they are stored."""
    bias = problem.bias(stored, labels)
    return stored[labels], None if bias is None else bias.float()


def solved(problem: Problem, config: CalibrationConfig, clusters: int = K) -> Part:
    """The layer as `cluster --calibrate` packs it."""
    found = problem.solve(clusters, config)
    return part_of(problem, found.codebook, found.labels)
