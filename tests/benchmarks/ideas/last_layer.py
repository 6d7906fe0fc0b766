"""The last layer of a network: whole edges, edges in parts, and sums of two codebooks, by bytes.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ideas.last_layer CHECKPOINT --data-dir DIR

One layer of a dense or meta network of two layers, on the inputs that the dense first one gives it.
Codebooks are float16 and have indices of one width. The error is that of the layer's outputs as a
share of what they are without any edge. No way is beaten by another in the rows that are printed
with a star.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import kancompress
from kancompress import CalibrationConfig, ClusterConfig, DataOptions, StoredDtype
from kancompress.clustering import metric, quadratic
from kancompress.clustering.cuts import divisors
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import pose
from kancompress.clustering.network import sample
from kancompress.clustering.quadratic import Form
from kancompress.data import datasets
from kancompress.models.records import Checkpoint
from kancompress.packing.by_outputs import native_runs
from kancompress.packing.native import NativeSource

CLUSTERS = (4, 8, 16, 24, 32, 48, 64, 96, 128)
PAIRS = ((4, 4), (8, 8), (16, 4), (16, 8), (16, 16), (32, 8), (32, 32))
_SEEDS, _ROUNDS, _TURNS = 3, 8, 2


@dataclass(frozen=True, order=True)
class Row:
    """Bytes of codebooks and indices, the error's share, and what it was."""

    bytes: int
    error: float
    name: str


def problems(path: Path, data_dir: Path) -> dict[int, Problem]:
    """The last layer's problem by the number of parts of an edge."""
    checkpoint = kancompress.load(path)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.data is not None
    half = StoredDtype.FLOAT16
    source = NativeSource(checkpoint=checkpoint, file_bytes=1, side_dtype=half)
    config = ClusterConfig(codebook_dtype=half, side_dtype=half)
    runs = native_runs(source, config, torch.device("cpu"))
    options = DataOptions(name=checkpoint.data.name, directory=data_dir)
    rows = datasets.load_inputs(checkpoint.data, options).flatten(1)
    flow = runs.flow(*sample(rows, 4096, 0))
    *others, last = runs.layers
    for name in others:
        flow.settle(name, None)
    streams, layer, place = flow.seen(last)[0], runs.layers[last], runs.places[last]
    return {
        parts: pose(layer, streams, CalibrationConfig(), place.cut(parts))
        for parts in divisors(layer.edges().shape[-1])
    }


def packed(problem: Problem, parts: int, clusters: int) -> Row:
    """Edges in parts, each with an index into one codebook."""
    found = problem.solve(clusters, CalibrationConfig(starts=2))
    own = [form.error(found.codebook, found.labels[:, problem.order]) for form in problem.forms]
    edges = problem.out * problem.inputs
    size = 2 * clusters * problem.d + edges * math.log2(clusters) / 8
    return Row(math.ceil(size), sum(own), f"{parts} parts, k = {clusters}")


def summed(problem: Problem, first: int, second: int) -> Row:
    """Each edge is the sum of a vector of each of two codebooks, which alternate."""
    (form,) = problem.forms
    errors = []
    for seed in range(_SEEDS):
        found = problem.solve(first, CalibrationConfig(starts=2, seed=seed))
        one, chosen = found.codebook, found.labels[:, problem.order]
        rest = Form(form.weights - one[chosen], form.hessian)
        other, _ = metric.start(rest.weights, rest.blocks, second, seed=seed, iterations=50)
        others = metric.assign(rest.weights, rest.blocks, other)
        for _ in range(_ROUNDS):
            other, others = _turned(Form(form.weights - one[chosen], form.hessian), other, others)
            rest = Form(form.weights - other[others], form.hessian)
            one, chosen = _turned(rest, one, chosen)
        errors.append(rest.error(one, chosen))
    edges = problem.out * problem.inputs
    size = 2 * (first + second) * problem.d + edges * (math.log2(first) + math.log2(second)) / 8
    return Row(math.ceil(size), min(errors), f"sum of {first} and {second}")


def _turned(
    form: Form, codebook: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refit and sweep for what the other codebook leaves."""
    for _ in range(_TURNS):
        codebook = quadratic.refit([form], codebook, [labels])
        labels = quadratic.sweep(form, codebook, labels)
    return codebook, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    posed = problems(options.checkpoint, options.data_dir)
    whole = posed[1]
    none = torch.zeros(1, whole.d), torch.zeros(whole.out, len(whole.order), dtype=torch.int64)
    scale = whole.forms[0].error(*none)
    rows = [
        packed(problem, parts, clusters)
        for parts, problem in posed.items()
        for clusters in CLUSTERS
        if clusters < problem.out * problem.inputs
    ]
    rows += [summed(whole, *pair) for pair in PAIRS]
    least = math.inf
    for row in sorted(rows):
        star = "*" if row.error < least else " "
        least = min(least, row.error)
        share = replace(row, error=row.error / scale)
        print(f"{star} {share.bytes:6,} B  {share.error:.6f}  {share.name}", flush=True)


if __name__ == "__main__":
    main()
