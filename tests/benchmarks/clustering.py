"""k-means on edge vectors beside scikit-learn's, with the same start and iterations.

    python -m tests.benchmarks.clustering [--rounds 5] [--edges 300000] [--clusters 256]
        [--kind free|generated]

`free` vectors fill their nine dimensions and vary much in length, which is hard for bounds;
`generated` ones lie near a curve, as those that a meta-learner makes.

Prints Lloyd against Lloyd on the same vectors, and the whole of `kancompress cluster` on a
checkpoint with that many edges beside scikit-learn's KMeans alone. They take turns; the ratio is
the median over the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.cluster import KMeans

import kancompress
from kancompress import kmeans
from kancompress.checkpoint import Checkpoint
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
    config = kancompress.ClusterConfig(clusters=options.clusters, max_iterations=ITERATIONS)

    def theirs() -> Any:
        return KMeans(
            options.clusters, init=start, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd"
        ).fit(points)

    rows = []
    for _ in range(options.rounds):
        lloyd_seconds, ours = timed(lambda: kmeans.lloyd(points, start, max_iterations=ITERATIONS))
        sklearn_seconds, other = timed(theirs)
        whole_seconds, packed = timed(lambda: kancompress.cluster(checkpoint, config))
        rows.append((lloyd_seconds, sklearn_seconds, whole_seconds))
    exact = [
        float(((points - centres[labels]).astype(np.float64) ** 2).sum())
        for centres, labels in (
            (ours.centroids.astype(np.float32), ours.labels),
            (other.cluster_centers_, other.labels_),
        )
    ]
    spread = float(((points - points.mean(0)).astype(np.float64) ** 2).sum())
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, scikit-learn"
        f" {sklearn.__version__}; {options.edges:,} {options.kind} vectors of 9,"
        f" k = {options.clusters}, {ITERATIONS} iterations, {options.rounds} rounds\n"
    )
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    print("| | seconds | inertia / spread |\n|---|---|---|")
    print(f"| kancompress, Lloyd from the same start | {middle[0]:.2f} | {exact[0] / spread:.6f} |")
    print(
        f"| scikit-learn, Lloyd from the same start | {middle[1]:.2f} | {exact[1] / spread:.6f} |"
    )
    print(
        f"| kancompress.cluster, start and packing included | {middle[2]:.2f} |"
        f" {packed.layers[0].distortion:.6f} |"
    )
    for column, name in ((0, "Lloyd"), (2, "whole cluster command")):
        ratios = sorted(row[1] / row[column] for row in rows)
        print(
            f"\nscikit-learn / kancompress, {name}: {statistics.median(ratios):.1f}"
            f" ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
