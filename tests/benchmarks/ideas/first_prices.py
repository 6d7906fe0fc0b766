"""Ways from a solution without prices to one with them: feedback, and sweeps that pay more first.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.ideas.first_prices CHECKPOINT --data-dir DIR
        --clusters 8 --price 30 [--samples 4096]

The first layer of a dense or meta network. Bytes are those of its indices at their prices, the
error is a share of what the outputs are without any edge, and the sum is what is minimised, in that
unit: the error, and the bits at their price.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import kancompress
from kancompress import CalibrationConfig, ClusterConfig, DataOptions, Method
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import pose
from kancompress.clustering.network import sample
from kancompress.data import datasets
from kancompress.models.records import Checkpoint
from kancompress.packing.by_outputs import native_runs
from kancompress.packing.native import NativeSource

# Times the price that each sweep pays; behind three rounds of feedback where the first word is so.
WAYS: tuple[tuple[str, Sequence[float]], ...] = (
    ("feedback", (1, 1, 1, 1, 1)),
    ("sweeps", (1,) * 8),
    ("sweeps", (8, 4, 2, 1, 1, 1, 1, 1)),
    ("sweeps", (4, 4, 4, 4, 4, 1, 1, 1)),
    ("sweeps", (10, 10, 10, 1, 1, 1, 1, 1)),
    ("sweeps", (4,) * 8 + (1,) * 4),
)


def problem_of(path: Path, data_dir: Path, samples: int) -> Problem:
    """The first layer's problem."""
    checkpoint = kancompress.load(path)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.data is not None
    source = NativeSource(checkpoint=checkpoint, file_bytes=1)
    runs = native_runs(source, ClusterConfig(), torch.device("cpu"))
    options = DataOptions(name=checkpoint.data.name, directory=data_dir)
    rows = datasets.load_inputs(checkpoint.data, options).flatten(1)
    flow = runs.flow(*sample(rows, samples, 0))
    first = next(iter(runs.layers))
    return pose(
        runs.layers[first],
        flow.seen(first)[0],
        CalibrationConfig(samples=samples),
        runs.places[first],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--price", type=float, default=4.0)
    parser.add_argument("--samples", type=int, default=4096)
    options = parser.parse_args()
    problem = problem_of(options.checkpoint, options.data_dir, options.samples)
    none = (
        torch.zeros(1, problem.d),
        [
            torch.zeros(problem.out, form.weights.shape[1], dtype=torch.int64)
            for form in problem.forms
        ],
    )
    unit = problem.joint.error(*none)
    config = CalibrationConfig(method=Method.SWEEPS, samples=options.samples)
    free = problem._without_prices(options.clusters, config, None)
    least = problem._error(free.codebook, free.labels)
    scale = options.price * least / (problem.out * len(problem.order))
    print(f"{options.checkpoint.stem}, k = {options.clusters}, price {options.price:g}")
    print("| way | bytes | error | sum |\n|---|---|---|---|")
    for name, steps in WAYS:
        trial = problem._priced_feedback(free, scale) if name == "feedback" else free
        for times in steps:
            trial = problem._priced_sweeps(trial, scale * times, 1)
        bits = problem._bits(trial.codebook, trial.labels)
        error = problem._error(trial.codebook, trial.labels)
        paid = problem._paid(trial, bits, scale)
        size = (paid - error) / scale / 8
        told = ", ".join(f"{times:g}" for times in steps)
        before = "three of feedback, then " if name == "feedback" else ""
        print(
            f"| {before}{told} | {size:,.0f} | {error / unit:.4g} | {paid / unit:.4g} |", flush=True
        )


if __name__ == "__main__":
    main()
