"""Accuracy in a given number of bytes: trained networks of kancompress's own, packed for a target.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.reach DIRECTORY --data-dir DIR [--only mnist]
        [--dtype int8] [--target BYTES] [--results FILE] [--keep DIRECTORY [--distill EPOCHS]]

DIRECTORY holds checkpoints `DATASET-MODEL-SEED.st` as `kancompress train` writes them with its
defaults (`mnist-gramkanconv-0.st`: with `--epochs 1`). Each is clustered with `-k auto` and its
target of whole-file bytes, int8 codebooks and sides unless told otherwise, without a label, and
scored on its test rows from the packed file. A row of the results is appended as a line of JSON;
rows that are there are not measured again. `--table` prints them.

`--keep` keeps the packed files. With `--distill` those that are kept learn from the outputs of
their dense network on the training rows, without a label, and the score that this gives joins the
row; the file keeps its size.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import kancompress
from kancompress import ClusterConfig, DataOptions, FinetuneConfig, StoredDtype, Target

RESULTS = Path(__file__).parent / "results" / "reach.jsonl"
# The learning rate of distillation.
RATE = 1e-3
# Bytes of the whole file by data set and network.
TARGETS = {
    "mnist": {
        "metakan": 4700, "metafastkan": 7000, "metagramkan": 4800,
        "kan": 5400, "fastkan": 8000, "gramkan": 6000, "gramkanconv": 71400,
    },
    "cifar10": {
        "metakan": 13500, "metafastkan": 19500, "metagramkan": 13100,
        "kan": 16000, "fastkan": 23000, "gramkan": 16000,
    },
    "cifar100": {"metakan": 13800, "metafastkan": 20000, "metagramkan": 13900, "kan": 17000},
}  # fmt: skip


def measured(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One network packed for its target."""
    dataset, model, seed = path.stem.split("-")
    where = DataOptions(directory=options.data_dir)
    dtype = StoredDtype(options.dtype)
    budget = options.target or TARGETS[dataset][model]
    start = time.perf_counter()
    found = kancompress.cluster(
        path,
        ClusterConfig(codebook_dtype=dtype, side_dtype=dtype),
        rows=DataOptions(name=dataset, directory=options.data_dir),
        target=Target(bytes=budget),
    )
    seconds = time.perf_counter() - start
    raw = kancompress.encode(found.model)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        kept(path, budget, options).write_bytes(raw)
    assert found.calibrated is not None
    assert found.calibrated.solution is not None
    return {
        "dataset": dataset,
        "model": model,
        "seed": int(seed),
        "dtype": options.dtype,
        "target": budget,
        "bytes": len(raw),
        "header": kancompress.inspect(raw)["header_bytes"],
        "dense": kancompress.evaluate(path, where).score.accuracy,
        "packed": kancompress.evaluate(raw, where).score.accuracy,
        "held_out": found.calibrated.solution.held_out,
        "clusters": [str(k) for k in found.calibrated.clusters.values()],
        "price": found.calibrated.price,
        "seconds": round(seconds),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, 2 cores",
    }


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a row another one."""
    return tuple(row[name] for name in ("dataset", "model", "seed", "dtype", "target"))


def kept(path: Path, budget: int, options: argparse.Namespace) -> Path:
    """Where the packed file of a network lies."""
    return Path(options.keep, f"{path.stem}-{options.dtype}-{budget}.safetensors")


def distilled(path: Path, packed: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the kept file has learnt from its dense network, and for how many epochs."""
    where = DataOptions(directory=options.data_dir)
    config = FinetuneConfig(epochs=options.distill, lr=RATE)
    tuned = kancompress.finetune(packed, where, config, teacher=path)
    raw = kancompress.encode(tuned.model)
    assert len(raw) == packed.stat().st_size
    score = kancompress.evaluate(raw, where).score
    return {"distilled": score.accuracy, "epochs": options.distill, "rate": RATE}


def table(rows: list[dict[str, Any]]) -> str:
    """Medians over the seeds; the spread of the difference to dense in brackets."""
    lines = [
        "| data set | network | type | target B | file B | dense | packed | difference | seeds"
        " | distilled |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((r["dataset"], r["model"], r["dtype"], r["target"]) for r in rows)
    for key in keys:
        own = [r for r in rows if (r["dataset"], r["model"], r["dtype"], r["target"]) == key]
        gaps = [100 * (r["packed"] - r["dense"]) for r in own]
        spread = f" ({min(gaps):+.2f} to {max(gaps):+.2f})" if len(own) > 1 else ""
        dense, packed = (
            100 * statistics.median(r[name] for r in own) for name in ("dense", "packed")
        )
        size = round(statistics.median(r["bytes"] for r in own))
        scores = [100 * r["distilled"] for r in own if "distilled" in r]
        taught = f"{statistics.median(scores):.2f}" if scores else ""
        lines.append(
            f"| {key[0]} | {key[1]} | {key[2]} | {key[3]:,} | {size:,} | {dense:.2f} | {packed:.2f}"
            f" | {statistics.median(gaps):+.2f}{spread} | {len(own)} | {taught} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--only", default="")
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--target", type=int, help="bytes in place of those in the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--distill", type=int, metavar="EPOCHS")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    done = []
    if options.results.exists():
        done = [json.loads(line) for line in options.results.read_text().splitlines()]
    known = {key_of(r) for r in done}
    for path in [] if options.table else sorted(options.directory.glob(f"{options.only}*.st")):
        dataset, model, seed = path.stem.split("-")
        budget = options.target or TARGETS[dataset][model]
        key = dataset, model, int(seed), options.dtype, budget
        if key not in known:
            row = measured(path, options)
            print(json.dumps(row), flush=True)
            with options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            done.append(row)
        packed = None if options.keep is None else kept(path, budget, options)
        if options.distill and packed is not None and packed.exists():
            row = next(r for r in done if key == key_of(r))
            row.update(distilled(path, packed, options))
            options.results.write_text("".join(json.dumps(r) + "\n" for r in done))
    print(table(done))


if __name__ == "__main__":
    main()
