"""Table 1 of the MetaCluster paper, run again: any row or data set, finished cells kept.

    python -m tests.benchmarks.paper --dataset mnist --data-dir DIR [--seeds 0 1] [--models kan]
    python -m tests.benchmarks.paper --dataset mnist --table

A cell is one training run (model, data set, seed) with its clustered and fine-tuned files. Each is
appended to the results file when it is done and is not run again; --table only prints.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import kancompress
from kancompress.specs import DataOptions
from tests.benchmarks.cells import finished, keep, machine, ran_with, trained

RESULTS = "table1"

# Accuracy and KB (of 1024 bytes) of Table 1: trained, clustered, fine-tuned.
PAPER: dict[str, dict[str, tuple[tuple[float, float], ...]]] = {
    "mnist": {
        "kan": ((95.36, 1031.44), (63.47, 13.84), (93.34, 13.84)),
        "metakan": ((96.45, 141.32), (96.02, 13.84), (96.45, 13.84)),
        "fastkan": ((96.75, 900.56), (32.85, 20.54), (87.37, 20.54)),
        "metafastkan": ((96.29, 108.09), (96.28, 20.54), (96.58, 20.54)),
        "gramkan": ((96.11, 497.46), (48.16, 13.96), (85.22, 13.96)),
        "metagramkan": ((95.83, 101.49), (95.22, 14.15), (95.82, 14.15)),
    },
    "cifar10": {
        "kan": ((47.52, 3064.95), (29.82, 38.34), (43.73, 38.34)),
        "metakan": ((46.99, 410.82), (46.39, 38.34), (46.59, 38.34)),
        "fastkan": ((49.28, 2676.83), (23.53, 57.30), (38.26, 57.30)),
        "metafastkan": ((47.41, 316.35), (47.46, 57.30), (47.35, 57.30)),
        "gramkan": ((51.15, 1477.48), (30.32, 38.46), (45.36, 38.46)),
        "metagramkan": ((49.31, 297.49), (49.06, 38.65), (49.31, 38.65)),
    },
    "cifar100": {
        "kan": ((17.90, 3177.45), (7.32, 39.75), (12.54, 39.75)),
        "metakan": ((20.08, 422.08), (19.03, 39.75), (19.43, 39.75)),
        "fastkan": ((20.76, 2778.08), (7.63, 58.71), (12.85, 58.71)),
        "metafastkan": ((19.89, 327.60), (19.65, 58.71), (19.54, 58.71)),
        "gramkan": ((21.92, 1534.43), (5.61, 40.58), (14.51, 40.58)),
        "metagramkan": ((19.74, 309.45), (18.87, 40.76), (19.46, 40.76)),
    },
}
STAGES = ("trained", "clustered", "fine-tuned")


def run_cell(model: str, dataset: str, seed: int, directory: Path, work: Path) -> dict[str, Any]:
    """Train, cluster and fine-tune once, through files, and score all three."""
    options = DataOptions(name=dataset, directory=directory)
    source, told = trained(model, options, seed, work)
    with tempfile.TemporaryDirectory() as place:
        files = [source, *(Path(place) / f"{stage}.safetensors" for stage in STAGES[1:])]
        kancompress.save(kancompress.cluster(source).model, files[1])
        tuned = kancompress.finetune(files[1], options)
        kancompress.save(tuned.model, files[2])
        accuracies = [kancompress.evaluate(file, options).score.accuracy for file in files]
        sizes = [file.stat().st_size for file in files]
    cell = {"model": model, "dataset": dataset, "seed": seed}
    return cell | {"accuracy": accuracies, "bytes": sizes} | told | machine()


def table(dataset: str) -> str:
    """The data set's column of Table 1 in Markdown."""
    cells = [cell for cell in finished(RESULTS) if cell["dataset"] == dataset]
    lines = [
        "| model | stage | paper % | ours % (median) | from - to | seeds | paper B | ours B |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, rows in PAPER[dataset].items():
        mine = [cell for cell in cells if cell["model"] == model]
        for stage, (accuracy, kilobytes) in enumerate(rows):
            paper_bytes = f"{kilobytes * 1024:,.0f}"
            name = f"| {model} | {STAGES[stage]} | {accuracy:.2f} |"
            if not mine:
                lines.append(f"{name} not run | | 0 | {paper_bytes} | |")
                continue
            found = sorted(100 * cell["accuracy"][stage] for cell in mine)
            size = statistics.median_high([cell["bytes"][stage] for cell in mine])
            lines.append(
                f"{name} {statistics.median(found):.2f} | {found[0]:.2f} - {found[-1]:.2f} |"
                f" {len(found)} | {paper_bytes} | {size:,} |"
            )
    return "\n".join([*lines, "", ran_with(cells)])


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=sorted(PAPER), default="mnist")
    parser.add_argument("--models", nargs="+", choices=sorted(PAPER["mnist"]), default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("checkpoints"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    done = {(cell["model"], cell["dataset"], cell["seed"]) for cell in finished(RESULTS)}
    for seed in [] if options.table else options.seeds:
        for model in options.models or PAPER[options.dataset]:
            if (model, options.dataset, seed) in done:
                continue
            cell = run_cell(model, options.dataset, seed, options.data_dir, options.work)
            keep(RESULTS, cell)
    print(table(options.dataset))


if __name__ == "__main__":
    main()
