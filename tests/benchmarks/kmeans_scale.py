"""Time and memory of plain k-means against the number of edges.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.kmeans_scale [--edges 1250000 2500000 ...]
        [--clusters 256] [--iterations 5] [--rounds 3]

Each number of vectors is clustered in a process of its own, start and final means included;
rounds take turns, and the medians are told. The peak is that of the resident set, the vectors
themselves included; what a run on a thousand vectors holds (Python, numpy, torch) is taken off.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time

import numpy as np
import sklearn

from kancompress.clustering import kmeans
from tests.benchmarks import peaks

COEFFICIENTS = 9
BLOCK = 1 << 16


def vectors(edges: int) -> np.ndarray:
    """Correlated vectors of uneven length, seeded, made without large temporaries."""
    rng = np.random.default_rng(0)
    mixing = np.abs(np.subtract.outer(np.arange(COEFFICIENTS), np.arange(COEFFICIENTS)))
    turn = np.linalg.cholesky(0.6**mixing).T.astype(np.float32)
    made = np.empty((edges, COEFFICIENTS), np.float32)
    for start in range(0, edges, BLOCK):
        rows = min(BLOCK, edges - start)
        free = rng.standard_normal((rows, COEFFICIENTS), dtype=np.float32)
        made[start : start + rows] = free @ turn * rng.lognormal(0, 0.8, (rows, 1))
    return made


def cluster(edges: int, clusters: int, iterations: int) -> None:
    """Cluster so many vectors and print the seconds."""
    points = vectors(edges)
    start = time.perf_counter()
    found = kmeans.fit(points, clusters, max_iterations=iterations)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "iterations": found.iterations}))


def measure(edges: int, clusters: int, iterations: int) -> tuple[int, float]:
    """Peak bytes and seconds of one run."""
    command = [sys.executable, "-m", "tests.benchmarks.kmeans_scale", "--child"]
    command += ["--edges", str(edges), "--clusters", str(clusters)]
    most, printed = peaks.run([*command, "--iterations", str(iterations)])
    return most, json.loads(printed)["seconds"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = [1_250_000, 2_500_000, 5_000_000, 10_000_000]
    parser.add_argument("--edges", type=int, nargs="+", default=sizes)
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        cluster(options.edges[0], options.clusters, options.iterations)
        return
    print(
        f"{platform.machine()}, numpy {np.__version__}, scikit-learn {sklearn.__version__};"
        f" vectors of {COEFFICIENTS} float32 numbers, k = {options.clusters},"
        f" {options.iterations} iterations, {options.rounds} rounds\n"
    )
    base = measure(1000, 4, 1)[0]
    runs: dict[int, list[tuple[int, float]]] = {edges: [] for edges in options.edges}
    for _ in range(options.rounds):
        for edges, found in runs.items():
            found.append(measure(edges, options.clusters, options.iterations))
    print("| edges | seconds | microseconds an edge | to the first | peak MB | bytes an edge |")
    print("|---|---|---|---|---|---|")
    first = 0.0
    for edges, found in runs.items():
        most = max(peak for peak, _ in found)
        seconds = statistics.median(each for _, each in found)
        first = first or seconds / edges
        print(
            f"| {edges:,} | {seconds:.2f} | {1e6 * seconds / edges:.3f} |"
            f" {seconds / edges / first:.2f} | {most / 1e6:,.0f} | {(most - base) / edges:.0f} |"
        )


if __name__ == "__main__":
    main()
