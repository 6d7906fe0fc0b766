"""What a layer loses where its second moments do not fit and its inputs are taken in groups.

    python -m tests.benchmarks.groups CHECKPOINT --dataset mnist --data-dir DIR [--groups 1 2 4]
    python -m tests.benchmarks.groups CHECKPOINT --dataset cifar10 --data-dir DIR --memory 6 2 1
    python -m tests.benchmarks.groups --table

The checkpoint is clustered by outputs with k centroids in each layer, each time with less memory
for the moments of its first layer: as much as so many groups need, or so many GiB. The error of
the first layer and of the network on held-out rows, and the accuracy, are kept by the way of
grouping (`--way`), so that revisions of the program can be compared. A cell that is there is not
run again.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import kancompress
from kancompress import CalibrationConfig, ClusterConfig, StoredDtype
from kancompress.clustering import layer, moments
from kancompress.specs import DataOptions
from tests.benchmarks.cells import finished, keep, machine

RESULTS = "groups"


def memory_for(groups: int, inputs: int, d: int) -> int:
    """The least bytes with which so many inputs of so many coefficients take so many groups."""
    most = -(-inputs // groups)
    return 12 * (most * d) ** 2


def run_cell(source: Path, options: DataOptions, memory: int, given: argparse.Namespace) -> Any:
    """Cluster with so much memory, and score the result."""
    taken: list[int] = []
    measure = moments.measure

    def counted(*arguments: Any, **more: Any) -> moments.Moments:
        found = measure(*arguments, **more)
        taken.append(len(found.groups))
        return found

    layer.measure = counted
    config = ClusterConfig(
        clusters=given.clusters, codebook_dtype=StoredDtype.FLOAT16, parts=1, price=0.0
    )
    calibration = CalibrationConfig(
        memory=memory, rounds=given.rounds, sweeps=given.sweeps, samples=given.samples
    )
    start = time.perf_counter()
    done = kancompress.cluster_by_outputs(source, options, config, calibration)
    seconds = time.perf_counter() - start
    layer.measure = measure
    assert done.calibrated is not None
    assert done.calibrated.solution is not None
    solution = done.calibrated.solution
    first = next(iter(solution.layers.values()))
    score = kancompress.evaluate(done.model, options).score
    return {
        "groups": taken[0],
        "layer_error": first.error,
        "layer_held_out": first.held_out,
        "held_out": solution.held_out,
        "accuracy": score.accuracy,
        "seconds": round(seconds, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def table() -> str:
    """What was measured, as Markdown."""
    lines = [
        "| network | k | memory, MiB | groups | way | first layer, held-out error | network,"
        " held-out error | accuracy | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in finished(RESULTS):
        lines.append(
            f"| {cell['network']} | {cell['k']} | {cell['memory'] / 2**20:,.0f} | {cell['groups']}"
            f" | {cell['way']} | {cell['layer_held_out']:.5f} | {cell['held_out']:.5f}"
            f" | {100 * cell['accuracy']:.2f} | {cell['seconds']:,.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--groups", type=int, nargs="*", default=[])
    parser.add_argument("--memory", type=float, nargs="*", default=[], help="GiB")
    parser.add_argument("--clusters", "-k", type=int, default=16)
    parser.add_argument("--samples", type=int, default=16_384)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--sweeps", type=int)
    parser.add_argument("--inputs", type=int, default=784, help="of the first layer that change")
    parser.add_argument("--coefficients", type=int, default=4, help="of an edge of it")
    parser.add_argument("--way", default="by correlation, with feedback")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        print(table())
        return
    options = DataOptions(name=given.dataset, directory=given.data_dir)
    wanted = [int(gib * 2**30) for gib in given.memory]
    wanted += [memory_for(groups, given.inputs, given.coefficients) for groups in given.groups]
    for memory in wanted:
        cell = {
            "network": given.checkpoint.stem,
            "k": given.clusters,
            "samples": given.samples,
            "rounds": given.rounds,
            "sweeps": given.sweeps,
            "way": given.way,
            "memory": memory,
        }
        if any(all(old.get(key) == cell[key] for key in cell) for old in finished(RESULTS)):
            continue
        keep(RESULTS, cell | run_cell(given.checkpoint, options, memory, given) | machine())


if __name__ == "__main__":
    main()
