"""What dropout right before a batch normalisation does to its running statistics.

    python -m tests.benchmarks.variance_shift CHECKPOINT --data-dir DIR [--batches 64]

CHECKPOINT is a `fastkanconv` or its meta twin. Its running statistics are taken anew on batches of
training rows, of the values after dropout, as a module for dropout and one for batch normalisation
behind it take them, and of the values before, as kancompress does. The test rows are scored with
both, without dropout; and with the first and dropout left on, as training has it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

import kancompress
from kancompress import datasets, fitting
from kancompress.nn.layer import KanLayer
from kancompress.nn.network import Network, build
from kancompress.specs import DataOptions

BATCH = 128


def renew(network: Network, x: Tensor, batches: int) -> None:
    """Running statistics of some batches of rows; 64 leave a thousandth of what stood before."""
    torch.manual_seed(0)
    network.train()
    with torch.no_grad():
        for start in range(0, batches * BATCH, BATCH):
            network(x[start : start + BATCH])
    network.eval()


def dropped(layer: KanLayer, x: Tensor) -> Tensor:
    """What the basis sees, the statistics those of the values after dropout."""
    return layer._normalise(layer._drop(x))


def dropped_always(layer: KanLayer, x: Tensor) -> Tensor:
    """What the basis sees with the dropout of training, normalised as in evaluation."""
    values = torch.nn.functional.dropout2d(x, layer.dropout) if layer.dropout else x
    return layer._normalise(values)


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
    layers = [layer for layer in network.kan_layers() if isinstance(layer, KanLayer)]
    own = KanLayer._seen
    lines = [("as stored", fitting.score(network, rows.test))]
    renew(network, x, options.batches)
    variances = [layer.statistics[1].clone() for layer in layers]
    lines.append(("before dropout", fitting.score(network, rows.test)))
    try:
        KanLayer._seen = dropped
        renew(network, x, options.batches)
        lines.append(("after dropout", fitting.score(network, rows.test)))
        KanLayer._seen = dropped_always
        torch.manual_seed(0)
        lines.append(("after dropout, dropout on", fitting.score(network, rows.test)))
    finally:
        KanLayer._seen = own
    print(f"{options.checkpoint.stem}, torch {torch.__version__}, {options.batches} batches\n")
    print("| running statistics | test % | loss |\n|---|---|---|")
    for name, score in lines:
        print(f"| {name} | {100 * (score.accuracy or 0):.2f} | {score.loss:.3f} |")
    ratios = [
        f"{float((layer.statistics[1] / old).median()):.2f}"
        for layer, old in zip(layers, variances, strict=True)
    ]
    print(f"\nVariance after dropout / before, median over the channels: {', '.join(ratios)}")


if __name__ == "__main__":
    main()
