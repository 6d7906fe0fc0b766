"""`kancompress sweep` beside a shell loop of `cluster` and `eval` over the same points.

    python -m tests.benchmarks.sweep [--points 2,4,8,16,64] [--calibrate digits]

Both run on scikit-learn's digits, each command of the loop in a process of its own. What tells is
the ratio of the two times, measured one right after the other: what the machine does besides slows
both. Files and scores of both are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kancompress

KANCOMPRESS = [sys.executable, "-m", "kancompress"]


def run(*arguments: str) -> str:
    """Run a command; what it prints."""
    return subprocess.run(
        [*KANCOMPRESS, *arguments], check=True, capture_output=True, text=True
    ).stdout


def loop(source: Path, points: list[str], rows: list[str], folder: Path) -> list[float]:
    """Pack and score one point after the other; the accuracies."""
    found = []
    for point in points:
        packed = str(folder / f"k{point}.safetensors")
        run("cluster", str(source), "-k", point, "-o", packed, *rows)
        found.append(json.loads(run("eval", packed, "--json"))["accuracy"])
    return found


def sweep(source: Path, points: list[str], rows: list[str], folder: Path) -> list[float]:
    """The same in one process."""
    told = json.loads(
        run("sweep", str(source), "-k", ",".join(points), "-o", str(folder), "--json", *rows)
    )
    return [point["score"]["accuracy"] for point in told["points"]]


def main() -> None:
    """Measure both, and compare what they made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", default="2,4,8,16,64", help="numbers of centroids")
    parser.add_argument("--calibrate", help="cluster by outputs on these rows, as of cluster")
    options = parser.parse_args()
    points = options.points.split(",")
    rows = ["--calibrate", options.calibrate] if options.calibrate else []
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "digits.safetensors"
        config = kancompress.TrainConfig(lr=1e-3, epochs=6)
        kancompress.save(kancompress.train("fastkan", config=config).checkpoint, source)
        seconds, scores = [], []
        for way in (loop, sweep):
            folder = Path(place) / way.__name__
            folder.mkdir()
            begin = time.perf_counter()
            scores.append(way(source, points, rows, folder))
            seconds.append(time.perf_counter() - begin)
            print(f"{way.__name__}: {seconds[-1]:.1f} s", flush=True)
        assert scores[0] == scores[1], scores
        for point in points:
            one, other = (Path(place) / way / f"k{point}.safetensors" for way in ("loop", "sweep"))
            assert one.read_bytes() == other.read_bytes(), point
    print(f"the loop takes {seconds[0] / seconds[1]:.1f} times as long, for the same files")


if __name__ == "__main__":
    main()
