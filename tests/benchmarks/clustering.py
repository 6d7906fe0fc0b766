"""k-means on edge vectors beside scikit-learn's, with the same start and iterations.

    python -m tests.benchmarks.clustering [--rounds 5] [--edges 300000] [--clusters 256]
        [--kind free|generated]

`free` vectors fill their nine dimensions and vary much in length, which is hard for bounds;
`generated` ones lie near a curve, as those that a meta-learner makes.

Prints scikit-learn's iterations and ours, as many and as few as reach its inertia, on the same
vectors, and the whole of `kancompress.cluster` on a checkpoint with that many edges, its own start
and packing included. They take turns; ratios are medians over the rounds, with their range.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.cluster import KMeans

import kancompress
from kancompress.clustering import kmeans
from kancompress.models.records import Checkpoint
from kancompress.specs import Family, default_basis

ITERATIONS = 25


def vectors(edges: int, kind: str = "free") -> np.ndarray:
    """Coefficient vectors of nine numbers, seeded."""
    rng = np.random.default_rng(0)
    if kind == "generated":
        t = rng.standard_normal((edges, 1))
        bends = np.maximum(t - rng.standard_normal((1, 32)), 0)
        curve = bends @ rng.standard_normal((32, 9))
        return (curve + 0.02 * rng.standard_normal((edges, 9))).astype(np.float32)
    mixing = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(np.arange(9), np.arange(9))))
    gain = rng.lognormal(0, 0.8, (edges, 1))
    return (rng.standard_normal((edges, 9)) @ mixing.T * gain).astype(np.float32)


def timed(work: Any) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--edges", type=int, default=300_000)
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--kind", choices=("free", "generated"), default="free")
    options = parser.parse_args()
    points = vectors(options.edges, options.kind)
    start = kmeans.plus_plus(points, options.clusters, np.random.default_rng(0))
    inputs = options.edges // 100
    checkpoint = Checkpoint(
        kind="dense",
        basis=default_basis(Family.KAN),
        shapes=((100, inputs),),
        data=None,
        tensors={
            "0.coefficients": torch.from_numpy(points[: 100 * inputs].reshape(100, inputs, 9))
        },
    )

    def inertia(centroids: np.ndarray, labels: np.ndarray) -> float:
        offsets = points - centroids.astype(np.float32)[labels]
        return float((offsets.astype(np.float64) ** 2).sum())

    def theirs() -> Any:
        return KMeans(
            options.clusters, init=start, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd"
        ).fit(points)

    def ours(iterations: int) -> Any:
        return kmeans.lloyd(points, start, max_iterations=iterations)

    def whole(iterations: int) -> Any:
        config = kancompress.ClusterConfig(clusters=options.clusters, max_iterations=iterations)
        return kancompress.cluster(checkpoint, config)

    other = theirs()
    bound = inertia(other.cluster_centers_, other.labels_)
    fewest = [
        iterations
        for iterations in range(1, ITERATIONS)
        if inertia((found := ours(iterations)).centroids, found.labels) <= bound
    ]
    counts = (ITERATIONS, *fewest[:1])
    works: dict[str, Callable[[], Any]] = {
        f"scikit-learn, {ITERATIONS} iterations": theirs,
        **{f"kancompress, {n} iterations": partial(ours, n) for n in counts},
        **{f"kancompress.cluster, {n} iterations, all of it": partial(whole, n) for n in counts},
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    results = {}
    for _ in range(options.rounds):
        for name, work in works.items():
            took, results[name] = timed(work)
            seconds[name].append(took)
    spread = float(((points - points.mean(0)).astype(np.float64) ** 2).sum())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, scikit-learn"
        f" {sklearn.__version__}; {options.edges:,} {options.kind} vectors of 9,"
        f" k = {options.clusters}, {options.rounds} rounds\n"
    )
    print("| | seconds | times scikit-learn's speed | inertia / spread |\n|---|---|---|---|")
    scikit_learns, *_ = seconds.values()
    for name, took in seconds.items():
        found = results[name]
        if name.startswith("kancompress.cluster"):
            rest = found.layers[0].distortion
        elif name.startswith("kancompress"):
            rest = inertia(found.centroids, found.labels) / spread
        else:
            rest = bound / spread
        ratios = sorted(a / b for a, b in zip(scikit_learns, took, strict=True))
        middle = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        print(f"| {name} | {statistics.median(took):.2f} | {middle} | {rest:.7f} |")


if __name__ == "__main__":
    main()
