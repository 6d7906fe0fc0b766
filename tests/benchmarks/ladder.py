"""Accuracy and bytes of each way of clustering, on plain checkpoints that nobody prepared.

    python -m tests.benchmarks.ladder --dataset mnist --data-dir DIR [--models kan] [--seeds 0 1]
    python -m tests.benchmarks.ladder --dataset mnist --table

For each model, plain ones by default: the checkpoint (trained once with the paper's recipe, kept
in --work), plain k-means, every rung of docs/guides/choose-a-method.md at k = 16, and k per layer
for budgets relative to the paper's file of the same network; codebooks in float16. No label is used
after training. Then three epochs of distillation on top. Finished cells are kept in the results
file.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import kancompress
from kancompress import CalibrationConfig, ClusterConfig, Method, StoredDtype, Target
from kancompress.specs import DataOptions
from tests.benchmarks.cells import Recipe, finished, keep, machine, ran_with, trained
from tests.benchmarks.paper.published import TABLE1

RESULTS = "ladder"
MODELS = ("kan", "fastkan", "gramkan")
META = tuple(f"meta{model}" for model in MODELS)
# Budgets of k per layer, as shares of the paper's bytes.
SHARES = (1.0, 0.8, 0.6)


def rungs(dataset: str, model: str) -> dict[str, dict[str, Any]]:
    """Arguments of each rung by its name."""
    common: dict[str, dict[str, Any]] = {
        f"{method}, k = 16": {"method": method} for method in Method
    }
    paper = TABLE1[dataset][model][2][1] * 1024
    budgets: dict[str, dict[str, Any]] = {
        f"k per layer, {share} of the paper's bytes": {"bytes": int(share * paper)}
        for share in SHARES
    }
    narrow: dict[str, dict[str, Any]] = {
        f"{way}, float16 norms": wish | {"side_dtype": StoredDtype.FLOAT16}
        for way, wish in budgets.items()
    }
    return common | budgets | narrow


def run_cell(source: Path, options: DataOptions, wish: dict[str, Any]) -> dict[str, Any]:
    """Cluster in one way through a file, and score it."""
    config = ClusterConfig(
        codebook_dtype=StoredDtype.FLOAT16,
        side_dtype=wish.get("side_dtype", StoredDtype.SOURCE),
        parts=1,
        price=0.0,
    )
    start = time.perf_counter()
    if wish.get("method") is Method.KMEANS:
        done = kancompress.cluster(source, config)
    else:
        target = Target(bytes=wish["bytes"]) if "bytes" in wish else None
        calibration = CalibrationConfig(method=wish.get("method", Method.SWEEPS))
        done = kancompress.cluster_by_outputs(source, options, config, calibration, target=target)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "packed.safetensors"
        size = kancompress.save(done.model, path)
        accuracy = kancompress.evaluate(path, options).score.accuracy
        tuned = kancompress.finetune(
            path,
            options,
            kancompress.FinetuneConfig(epochs=3, also=("norms", "biases")),
            teacher=source,
        )
        distilled = tuned.test.accuracy
    found = done.calibrated
    return {
        "clusters": [layer.clusters for layer in done.layers],
        "bytes": size,
        "accuracy": accuracy,
        "distilled": distilled,
        "seconds": round(seconds, 1),
        "held_out_error": found.solution.held_out if found and found.solution else None,
    }


def table(dataset: str) -> str:
    """The ladder of a data set in Markdown; losses against dense in points."""
    cells = [cell for cell in finished(RESULTS) if cell["dataset"] == dataset]
    lines = [
        "| model | way | seeds | dense % | % | loss | from - to | distilled % | bytes | clusters |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model in (*MODELS, *META):
        for way in rungs(dataset, model):
            mine = [cell for cell in cells if (cell["model"], cell["way"]) == (model, way)]
            if not mine:
                continue
            losses = sorted(100 * (cell["dense"] - cell["accuracy"]) for cell in mine)
            middle = {
                key: 100 * statistics.median(cell[key] for cell in mine)
                for key in ("dense", "accuracy", "distilled")
            }
            clusters = ", ".join("dense" if k is None else str(k) for k in mine[0]["clusters"])
            lines.append(
                f"| {model} | {way} | {len(mine)} | {middle['dense']:.2f} |"
                f" {middle['accuracy']:.2f} | {statistics.median(losses):.2f} |"
                f" {losses[0]:.2f} - {losses[-1]:.2f} | {middle['distilled']:.2f} |"
                f" {max(cell['bytes'] for cell in mine):,} | {clusters} |"
            )
    return "\n".join([*lines, "", ran_with(cells)])


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=sorted(TABLE1), default="mnist")
    parser.add_argument("--models", nargs="+", choices=(*MODELS, *META), default=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", default=None, help="run only ways that contain these")
    parser.add_argument("--without", nargs="+", default=[], help="and that contain none of these")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("checkpoints"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    data = DataOptions(name=options.dataset, directory=options.data_dir)
    key = ("dataset", "model", "seed", "way")
    done = {tuple(cell[name] for name in key) for cell in finished(RESULTS)}
    for seed in [] if options.table else options.seeds:
        for model in options.models:
            for way, wish in rungs(options.dataset, model).items():
                wanted = options.ways is None or any(part in way for part in options.ways)
                wanted = wanted and not any(part in way for part in options.without)
                cell = {"dataset": options.dataset, "model": model, "seed": seed, "way": way}
                if not wanted or tuple(cell.values()) in done:
                    continue
                recipe = Recipe(model=model, dataset=options.dataset, seed=seed)
                source, _ = trained(recipe, options.data_dir, options.work)
                score = kancompress.evaluate(source, data).score.accuracy
                cell |= {"dense": score} | run_cell(source, data, wish)
                cell |= machine()
                keep(RESULTS, cell)
    print(table(options.dataset))


if __name__ == "__main__":
    main()
