"""Packed networks in every runtime, side by side: time, memory, bytes shipped, start.

    pip install '.[onnx]' onnxruntime
    python -m tests.benchmarks.runtimes CHECKPOINT [CHECKPOINT ...] [--clusters 16] [--rounds 9]

Each CHECKPOINT is a file of one of kancompress's own fully connected networks (`kan`, `fastkan`,
`gramkan`, with a meta-learner or without), packed by plain k-means (what is timed does not depend
on how well). Every runtime is a process of its own with one thread, whose modules are compiled, as
an installation has them. They stay, and take turns, so that a busy machine slows all of them alike:
a round asks each for the time of one row, then of 128 rows. Ratios to dense torch are medians over
the rounds, with their range.

- ready: from the start of the process until the first row is computed, of that many starts
- held: resident memory when it is ready, less that of Python alone
- shipped: bytes of the file that it reads (C: of constant data)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.runtime_process import RUNTIMES

BATCHES = (1, 128)
_STARTS = 5
# An installation has its modules compiled, and so have these processes from the second start on.
_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
} | {"OMP_NUM_THREADS": "1"}


class Child:
    """A runtime's process."""

    def __init__(self, name: str, files: dict[str, str]) -> None:
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.runtime_process", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_ENVIRONMENT | {"RUNTIME_FILES": json.dumps(files)},
        )
        told = json.loads(self._line())
        self.ready = time.perf_counter() - begin
        self.first, self.held = np.array(told["first"]), told["held"]

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def seconds(self, batch: int) -> float:
        """Of a call with so many rows."""
        assert self._process.stdin is not None
        print(batch, file=self._process.stdin, flush=True)
        return float(json.loads(self._line()))

    def end(self) -> None:
        """Close it."""
        self._process.communicate()


def made(checkpoint: Path, clusters: int, place: Path) -> dict[str, str]:
    """Every file that a runtime reads."""
    kancompress: Any = import_module("kancompress")
    config = kancompress.ClusterConfig(
        clusters=clusters, codebook_dtype=kancompress.StoredDtype.FLOAT16
    )
    files = {"dense": str(checkpoint), "packed": str(place / "packed.safetensors")}
    record = kancompress.load(checkpoint)
    if record.kind == "meta":
        files["dense"] = str(place / "dense.safetensors")
        kancompress.save(kancompress.expand(checkpoint), files["dense"])
    kancompress.save(kancompress.cluster(checkpoint, config).model, files["packed"])
    for name, suffix in (("onnx", ".onnx"), ("header", ".h")):
        files[name] = str(place / f"network{suffix}")
        kancompress.export(files["packed"], files[name])
    network = kancompress.runtime.load(files["packed"])
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (max(BATCHES), network.inputs)).astype(np.float32)
    files["rows"], files["outputs"] = str(place / "rows.npy"), str(network.outputs)
    np.save(files["rows"], rows)
    files["library"] = _compiled(place)
    return files


_LOOP = """
#include "network.h"
static network_scratch scratch;
int run_rows(const float *x, float *y, int rows, int width)
{
    int row;
    for (row = 0; row < rows; row++) {
        network_run(x + (long)row * width, y + (long)row * NETWORK_OUTPUTS, &scratch);
    }
    return 0;
}
"""


def _compiled(place: Path) -> str:
    """A library with a loop over rows, at -O2."""
    source, library = place / "rows.c", place / "rows.so"
    source.write_text(_LOOP)
    subprocess.run(
        ["cc", "-std=c99", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-lm"],
        check=True,
    )
    return str(library)


def shipped(name: str, files: dict[str, str]) -> int:
    """Bytes that a runtime reads."""
    kinds = {"torch, dense": "dense", "onnx, folded": "onnx", "onnx, not folded": "onnx"}
    return Path(files[kinds.get(name, "packed")]).stat().st_size


def measure(checkpoint: Path, clusters: int, rounds: int) -> None:
    """One network's table."""
    with tempfile.TemporaryDirectory() as folder:
        files = made(checkpoint, clusters, Path(folder))
        children = {name: Child(name, files) for name in RUNTIMES}
        wanted = children["torch, packed"].first
        for name, one in children.items():
            if name != "torch, dense":
                assert np.abs(one.first - wanted).max() <= 1e-5 * np.abs(wanted).max(), name
        times = {(name, batch): [] for name in RUNTIMES for batch in BATCHES}  # type: dict[tuple[str, int], list[float]]
        for _ in range(rounds):
            for batch in BATCHES:
                for name, one in children.items():
                    times[name, batch].append(one.seconds(batch))
        starts = {name: [one.ready] for name, one in children.items()}
        for one in children.values():
            one.end()
        for _ in range(_STARTS - 1):
            for name in RUNTIMES:
                again = Child(name, files)
                starts[name].append(again.ready)
                again.end()
        print(f"\n{checkpoint.stem}, k = {clusters}\n")
        print("| runtime | 1 row | 128 rows | held MB | shipped B | ready s |")
        print("|---|---|---|---|---|---|")
        for name in RUNTIMES:
            cells = [_ratio(times[name, batch], times["torch, dense", batch]) for batch in BATCHES]
            print(
                f"| {name} | {cells[0]} | {cells[1]} | {children[name].held / 1e6:.1f}"
                f" | {shipped(name, files):,} | {statistics.median(starts[name]):.2f} |"
            )


def _ratio(own: list[float], dense: list[float]) -> str:
    """How many times as fast as dense torch: median and range."""
    ratios = sorted(theirs / mine for mine, theirs in zip(own, dense, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for checkpoint in options.checkpoints:
        measure(checkpoint, options.clusters, options.rounds)
    names = ("torch", "numpy", "onnxruntime", "kancompress")
    versions = ", ".join(f"{name} {import_module(name).__version__}" for name in names)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, one thread each; {versions}")


if __name__ == "__main__":
    main()
