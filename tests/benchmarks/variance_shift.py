"""What dropout in training does to the running statistics of batch normalisation.

    python -m tests.benchmarks.variance_shift CHECKPOINT --data-dir DIR [--batches 64]

CHECKPOINT is a network of convolutions. Its running statistics are taken anew on batches of
training rows: with dropout, as a module for dropout and one for batch normalisation take them, and
without. The test rows are scored with both, and with the first and dropout left on, as training has
it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import kancompress
from kancompress.data import datasets
from kancompress.layers.forms import Dropout, Step
from kancompress.layers.layer import EdgeLayer
from kancompress.layers.network import Network
from kancompress.models.native import build
from kancompress.specs import DataOptions
from kancompress.training import loop as fitting

BATCH = 128


def renew(network: Network, x: Tensor, batches: int) -> None:
    """Running statistics of some batches of rows; 64 leave a thousandth of what stood before."""
    torch.manual_seed(0)
    network.train()
    with torch.no_grad():
        for start in range(0, batches * BATCH, BATCH):
            network(x[start : start + BATCH])
    network.eval()


def always_drop(layer: EdgeLayer, step: Step, x: Tensor) -> Tensor:
    """Dropout in evaluation, too."""
    if isinstance(step, Dropout):
        return functional.dropout2d(x, step.share) if step.share else x
    return EdgeLayer.applied(layer, step, x)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--batches", type=int, default=64)
    options = parser.parse_args()
    record = kancompress.load(options.checkpoint)
    assert isinstance(record, kancompress.Checkpoint)
    rows = datasets.load_for_model(
        record.data, DataOptions(directory=options.data_dir, images=True)
    )
    order = torch.randperm(len(rows.train.x), generator=torch.Generator().manual_seed(0))
    x = rows.train.x[order[: options.batches * BATCH]]
    network = build(record).eval()
    layers = list(network.kan_layers())
    lines = [("as stored", fitting.score(network, rows.test))]
    for layer in layers:
        layer.drops = False
    renew(network, x, options.batches)
    lines.append(("anew, without dropout", fitting.score(network, rows.test)))
    variances = [layer.statistics[1].clone() for layer in layers]
    for layer in layers:
        layer.drops = True
    renew(network, x, options.batches)
    lines.append(("anew, with dropout", fitting.score(network, rows.test)))
    for layer in layers:
        layer.applied = partial(always_drop, layer)
    torch.manual_seed(0)
    lines.append(("the same, scored with dropout", fitting.score(network, rows.test)))
    print(f"{options.checkpoint.stem}, torch {torch.__version__}, {options.batches} batches\n")
    print("| running statistics | test % | loss |\n|---|---|---|")
    for name, score in lines:
        print(f"| {name} | {100 * (score.accuracy or 0):.2f} | {score.loss:.3f} |")
    ratios = [
        f"{float((layer.statistics[1] / old).median()):.2f}"
        for layer, old in zip(layers, variances, strict=True)
    ]
    print(f"\nVariance with dropout / without, median over the channels: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
