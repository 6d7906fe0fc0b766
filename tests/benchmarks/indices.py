"""Time of coding and decoding entropy-coded indices, and how near they come to the entropy.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.indices [--edges 10000000] [--rounds 3]

Indices are drawn, seeded: each input's from one of forty geometric distributions, from flat to
steep. Coding is all that a writer does: classes of inputs, tables, stream, and reading it again.
Seconds are those of the processor, medians of the rounds, and beside them stands their ratio to
the time in which `bits` does
the same. `entropy` divides the tensor's bytes by those of the indices' entropy by classes, the
classes' own included; `bits` divides them by the bytes of indices of one width.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kancompress.formats.packed.encodings import (
    BITS,
    RANS,
    IndexEncoding,
    Indices,
    index_type,
    rans,
)
from kancompress.formats.packed.encodings.classes import classes_of
from tests.benchmarks import peaks

# Outputs and centroids of layers whose inputs follow from the number of edges.
LAYERS = ((32, 8), (32, 16), (1000, 16), (256, 256), (128, 1024))


def drawn(inputs: int, outputs: int, clusters: int) -> np.ndarray:
    """Indices (outputs, inputs)."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(np.exp(-np.arange(clusters) * np.linspace(0.02, 3, 40)[:, None]), axis=1)
    ends /= ends[:, -1:]
    made = np.empty((inputs, outputs), index_type(clusters))
    for own, row in zip(rng.integers(0, 40, inputs), made, strict=True):
        row[:] = np.searchsorted(ends[own], rng.random(outputs)).clip(max=clusters - 1)
    return np.ascontiguousarray(made.T)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    rans._KEPT.clear()
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def seconds(encoding: IndexEncoding, labels: np.ndarray, claim: Indices, rounds: int) -> Any:
    """Median seconds of coding and of decoding, and the bytes."""
    coding, decoding = [], []
    for _ in range(rounds):
        spent, array = timed(partial(encoding.encode, labels, claim))
        coding.append(spent)
        spent, found = timed(partial(encoding.decode, array, claim, "the file"))
        decoding.append(spent)
        assert np.array_equal(found, labels)
    return statistics.median(coding), statistics.median(decoding), array.nbytes


def ideal_bytes(counts: np.ndarray) -> float:
    """Bytes of symbols that occur so often in each class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return float(-(counts * np.log2(np.where(counts > 0, shares, 1))).sum()) / 8


def measure(edges: int, outputs: int, clusters: int, rounds: int) -> None:
    """Print a row of the table."""
    inputs = edges // outputs
    labels = drawn(inputs, outputs, clusters)
    claim = Indices("index", labels.size, clusters, (outputs, inputs))
    flat = labels.reshape(-1)
    code, decode, size = seconds(RANS, flat, claim, rounds)
    code_bits, decode_bits, size_bits = seconds(BITS, flat, claim, rounds)
    found = classes_of(labels.T, clusters)
    ideal = ideal_bytes(found.counts) + ideal_bytes(found.sizes[None])
    print(
        f"| {inputs} x {outputs} | {clusters} | {size:,} | {8 * size / labels.size:.3f}"
        f" | {size / ideal:.4f} | {size / size_bits:.3f}"
        f" | {code:.2f} ({code / code_bits:.0f}) | {decode:.2f} ({decode / decode_bits:.0f}) |",
        flush=True,
    )


def main() -> None:
    """Print the table and the peak."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edges", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        for outputs, clusters in LAYERS:
            measure(given.edges, outputs, clusters, given.rounds)
        return
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}\n")
    print("| layer | k | bytes | bits an edge | entropy | bits | coding, s | decoding, s |")
    print("|---|---|---|---|---|---|---|---|")
    command = [sys.executable, "-m", "tests.benchmarks.indices", "--child"]
    command += ["--edges", str(given.edges), "--rounds", str(given.rounds)]
    most, printed = peaks.run(command)
    print(printed)
    print(f"\npeak of the resident set: {most / 1e6:,.0f} MB, indices {given.edges / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
