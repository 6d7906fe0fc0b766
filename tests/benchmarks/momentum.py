"""What momentum does to k-means: inertia it ends at, and iterations, beside plain Lloyd's.

    python -m tests.benchmarks.momentum [CHECKPOINT ...] [--edges 30000] [--starts 4]
        [--clusters 16 64 256]

Both run from the same starts until no label changes, 300 iterations at most, on seeded vectors
(`tests.benchmarks.clustering`) and on the first layer of each checkpoint. Iterations to reach are
the fewest of momentum's whose inertia is that of all of plain Lloyd's, or less.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sklearn

import kancompress
from kancompress.clustering import kmeans
from kancompress.packing.native import dense_coefficients
from tests.benchmarks.clustering import vectors

MOST = 300


@contextmanager
def momentum(share: float) -> Iterator[None]:
    """Let all numbers of centroids move with so much momentum."""
    before = kmeans._MANY, kmeans._MOMENTUM
    kmeans._MANY, kmeans._MOMENTUM = 1, share
    try:
        yield
    finally:
        kmeans._MANY, kmeans._MOMENTUM = before


def first_layer(path: Path) -> np.ndarray:
    """Edge vectors of the first layer, (edges, coefficients)."""
    checkpoint = kancompress.load(path)
    assert isinstance(checkpoint, kancompress.Checkpoint)
    coefficients = next(iter(dense_coefficients(checkpoint))).detach()
    return coefficients.reshape(-1, coefficients.shape[-1]).numpy()


def compare(points: np.ndarray, clusters: int, seed: int) -> tuple[float, int, int, int | None]:
    """Inertia of momentum over plain's, iterations of plain and momentum, and those to reach."""
    start = kmeans.plus_plus(points, clusters, np.random.Generator(np.random.PCG64(seed)))
    with momentum(0):
        plain = kmeans.lloyd(points, start, max_iterations=MOST)
    with momentum(kmeans._MOMENTUM):
        ours = kmeans.lloyd(points, start, max_iterations=MOST)
        reached = None
        if ours.inertia <= plain.inertia:
            reached = next(
                count
                for count in range(1, ours.iterations + 1)
                if kmeans.lloyd(points, start, max_iterations=count).inertia <= plain.inertia
            )
    return ours.inertia / plain.inertia, plain.iterations, ours.iterations, reached


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--edges", type=int, default=30_000)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--clusters", nargs="+", type=int, default=[16, 64, 256])
    options = parser.parse_args()
    sources = {kind: vectors(options.edges, kind) for kind in ("free", "generated")}
    sources |= {path.stem: first_layer(path) for path in options.checkpoints}
    print(f"numpy {np.__version__}, scikit-learn {sklearn.__version__}, {options.starts} starts\n")
    print(
        "| vectors | k | inertia / plain | from - to | iterations | plain's | to reach plain's"
        " |\n|---|---|---|---|---|---|---|"
    )
    for name, values in sources.items():
        points = kmeans.comparable(values).held().array
        for clusters in options.clusters:
            found = [compare(points, clusters, seed) for seed in range(options.starts)]
            ratios, plain, ours, reached = zip(*found, strict=True)
            counts = [count for count in reached if count is not None]
            middle = f"{statistics.median(counts):.0f}" if counts else "-"
            missed = f", {len(found) - len(counts)} never" if len(counts) < len(found) else ""
            print(
                f"| {name} | {clusters} | {statistics.median(ratios):.4f} |"
                f" {min(ratios):.4f} - {max(ratios):.4f} | {statistics.median(ours):.0f} |"
                f" {statistics.median(plain):.0f} | {middle}{missed} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
