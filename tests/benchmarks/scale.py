"""The tables of memory and time against the size of a file, from what is kept of them.

    python -m tests.benchmarks.scale [--results FILE] [--edges 1e9]

The lines are those of `tests.benchmarks.streaming`. Of equal runs the last one counts. The slope is
that between the smallest and the largest file with a single layer, of 200 MB and more, as the peak
of starting up hides some of smaller ones; and between few and more iterations on one file. A layer
of so many edges is what it gives on paper.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.paper.tables import markdown
from tests.benchmarks.streaming import COEFFICIENTS

RESULTS = Path(__file__).parent / "results" / "scale.jsonl"
# Iterations of the tables, and those that a command runs at most unless it is told.
ITERATIONS, MOST = 3, 100
_LEAST = 200_000_000
_EDGE = 4 * COEFFICIENTS

Line = dict[str, Any]


class Slope(NamedTuple):
    """What an edge costs: bytes of memory, seconds of a processor for `ITERATIONS` of them, and for
    one more; None where files of one size, or runs of as many iterations, are all there is."""

    clusters: int
    smallest: float
    largest: float
    memory: float
    seconds: float
    iteration: float | None


def lines(path: Path = RESULTS) -> list[Line]:
    """What is kept, a run each; of equal ones the last."""
    found: dict[tuple[Any, ...], Line] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        what = ("label", "command", "file", "layers", "k", "iterations", "bytes")
        found[tuple(line[name] for name in what)] = line
    return list(found.values())


def memory_table(found: Sequence[Line]) -> str:
    """Peaks and seconds of all sizes, before and now."""
    cells: dict[tuple[Any, ...], dict[str, Line]] = {}
    for line in found:
        if line["iterations"] == ITERATIONS:
            size = round(line["bytes"] / 1e6)
            key = (line["command"], line["file"], line["layers"], size // 32, line["k"])
            cells.setdefault(key, {})[line["label"]] = line
    order = {"safetensors": 0, "native": 1}
    rows = []
    for key in sorted(cells, key=lambda key: (key[0], order[key[1]], *key[2:])):
        runs = [cells[key].get(label) for label in ("before", "after")]
        line = next(run for run in runs if run is not None)
        shares = ["" if run is None else f"{run['above'] / run['bytes']:.2f}" for run in runs]
        seconds = ["" if run is None else f"{run['seconds']:.1f}" for run in runs]
        what = [key[0], key[1], str(key[2]), str(key[4]), f"{line['bytes'] / 1e6:,.0f}"]
        rows.append([*what, *shares, *seconds])
    columns = ["command", "file", "layers", "k", "file MB", "above a tiny run / file, before"]
    return markdown([*columns, "now", "seconds, before", "now"], rows)


def share_table(found: Sequence[Line]) -> str:
    """Peaks above a tiny run as shares of the files, by their megabytes."""
    sizes = (128, 256, 1001)
    cells: dict[tuple[Any, ...], dict[int, Line]] = {}
    for line in found:
        if line["iterations"] == ITERATIONS and line["label"] == "after":
            size = min(sizes, key=lambda size: abs(size - line["bytes"] / 1e6))
            key = (line["command"], line["file"] != "safetensors", line["layers"], line["k"])
            cells.setdefault(key, {})[size] = line
    rows = []
    for key, runs in sorted(cells.items()):
        command, _, layers, clusters = key
        kind = next(iter(runs.values()))["file"]
        shares = [
            f"{runs[size]['above'] / runs[size]['bytes']:.2f}" if size in runs else ""
            for size in sizes
        ]
        rows.append([command, kind, str(layers), str(clusters), *shares])
    heads = [f"{size:,} MB" for size in sizes]
    return markdown(["command", "file", "layers", "k", *heads], rows)


def slopes(found: Sequence[Line], kind: str = "safetensors") -> list[Slope]:
    """What an edge of a single layer costs, for each number of clusters."""
    own = [
        line
        for line in found
        if (line["label"], line["command"], line["file"]) == ("after", "cluster", kind)
        and line["layers"] == 1
        and line["bytes"] >= _LEAST
    ]
    told = []
    for clusters in sorted({line["k"] for line in own}):
        runs = [line for line in own if line["k"] == clusters]
        alike = [line for line in runs if line["iterations"] == ITERATIONS]
        if not alike:
            continue
        first, last = (one(alike, key=lambda line: line["bytes"]) for one in (min, max))
        if first["bytes"] == last["bytes"]:
            continue
        edges = (last["bytes"] - first["bytes"]) / _EDGE
        told.append(
            Slope(
                clusters=clusters,
                smallest=first["bytes"],
                largest=last["bytes"],
                memory=(last["above"] - first["above"]) / edges,
                seconds=(last["seconds"] - first["seconds"]) / edges,
                iteration=_iteration(runs),
            )
        )
    return told


def _iteration(runs: Sequence[Line]) -> float | None:
    """Seconds of an iteration for an edge, on average over those beyond `ITERATIONS`."""
    for more in runs:
        for few in runs:
            alike = abs(more["bytes"] - few["bytes"]) < few["bytes"] / 100
            steps = more["iterations"] - few["iterations"]
            if alike and few["iterations"] == ITERATIONS and steps > 0:
                spent: float = more["seconds"] - few["seconds"]
                return spent / steps / (few["bytes"] / _EDGE)
    return None


def slope_table(found: Sequence[Line], edges: float) -> str:
    """What a layer of so many edges would take."""
    rows = []
    for slope in slopes(found):
        whole = edges * slope.seconds
        longest = "not run"
        if slope.iteration is not None:
            longest = f"{(whole + (MOST - ITERATIONS) * edges * slope.iteration) / 3600:,.1f}"
        rows.append(
            [
                str(slope.clusters),
                f"{slope.smallest / 1e6:,.0f} and {slope.largest / 1e6:,.0f}",
                f"{slope.memory:.0f}",
                f"{slope.memory / _EDGE:.2f}",
                f"{1e6 * slope.seconds:.2f}",
                "not run" if slope.iteration is None else f"{1e6 * slope.iteration:.2f}",
                f"{edges * _EDGE / 1e9:,.0f}",
                f"{edges * slope.memory / 1e9:,.0f}",
                f"{whole / 3600:,.1f}",
                longest,
            ]
        )
    columns = ["k", "of files of MB", "bytes an edge", "/ file", f"us an edge, {ITERATIONS} it."]
    columns += ["one more", "file GB", "memory GB", f"hours, {ITERATIONS} it.", f"{MOST} it."]
    return markdown(columns, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--edges", type=float, default=1e9, help="of the layer on paper")
    options = parser.parse_args(arguments)
    found = lines(options.results)
    print(f"{memory_table(found)}\n\nPeaks above a tiny run, as shares of files:\n")
    print(share_table(found))
    print(f"\nA layer of {options.edges:,.0f} edges of {COEFFICIENTS} float32 numbers:\n")
    print(slope_table(found, options.edges))


if __name__ == "__main__":
    main()
