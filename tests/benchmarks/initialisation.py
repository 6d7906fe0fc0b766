"""How metakan on MNIST depends on the first embeddings and the meta-learner's output layer.

    python -m tests.benchmarks.initialisation --data-dir DIR [--epochs 12] [--seeds 0]

Prints the validation accuracy of every epoch for a few standard deviations of the embeddings and
gains of the output layer (1 is Xavier's).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import kancompress
from kancompress.config import default_training
from kancompress.layers import edges
from kancompress.specs import DataOptions, ModelName

# MetaKAN draws embeddings with variance 2 / (edges + 1): 0.009 for the first layer.
STARTS = [(0.009, 1.0), (0.03, 1.0), (0.03, 0.3), (0.3, 0.3)]


def main() -> None:
    """Print a table row for each start and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    data = DataOptions(name="mnist", directory=options.data_dir)
    print("| embedding std | output gain | seed | best % | last % | all epochs |")
    print("|---|---|---|---|---|---|")
    for std, gain in STARTS:
        for seed in options.seeds:
            edges.EMBEDDING_STD, edges.OUTPUT_GAIN = std, gain
            config = replace(default_training(ModelName.METAKAN), seed=seed, epochs=options.epochs)
            history = kancompress.train("metakan", data, config).history[1:]
            found = [100 * (epoch.validation.accuracy or 0) for epoch in history]
            shown = " ".join(f"{value:.1f}" for value in found)
            scores = f"{max(found):.2f} | {found[-1]:.2f} | {shown}"
            print(f"| {std} | {gain} | {seed} | {scores} |", flush=True)


if __name__ == "__main__":
    main()
