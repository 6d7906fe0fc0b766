"""Accuracy against bytes where the assignment counts what an index costs.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.prices CHECKPOINT... --data-dir DIR

Each checkpoint, a network of kancompress's own with its data, is clustered by outputs with float16
codebooks and sides, without a label, at numbers of centroids of its layers and prices, and scored
on its test rows from the packed file. Whole files, header included.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import kancompress
from kancompress import ClusterConfig, DataOptions, StoredDtype

# Centroids of the first and of the last layer, and prices.
CHOICES = (
    (16, 64, 0.0),
    (8, 24, 0.0),
    (16, 64, 0.3),
    (16, 64, 1.0),
    (8, 24, 2.0),
    (8, 24, 4.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    options = parser.parse_args()
    where = DataOptions(directory=options.data_dir)
    print(
        "| network | k | price | test accuracy | bytes | bits an edge |\n|---|---|---|---|---|---|"
    )
    for path in options.checkpoints:
        record = kancompress.load(path)
        dense = kancompress.evaluate(path, where).score.accuracy
        size = path.stat().st_size
        print(f"| {path.stem} | dense | | {100 * dense:.2f} % | {size:,} | |", flush=True)
        last = str(len(record.shapes) - 1)
        rows = DataOptions(name=record.data.name, directory=options.data_dir)
        for first, second, price in CHOICES:
            config = ClusterConfig(
                clusters=first,
                layers={last: second},
                codebook_dtype=StoredDtype.FLOAT16,
                side_dtype=StoredDtype.FLOAT16,
            )
            found = kancompress.cluster(path, replace(config, price=price), rows=rows)
            raw = kancompress.encode(found.model)
            score = kancompress.evaluate(raw, where).score.accuracy
            bits = [
                8 * layer["index_bytes"] / layer["edges"]
                for layer in kancompress.inspect(raw)["layers"]
            ]
            told = ", ".join(f"{one:.2f}" for one in bits)
            print(
                f"| {path.stem} | {first}, {second} | {price:g} | {100 * score:.2f} %"
                f" | {len(raw):,} | {told} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
