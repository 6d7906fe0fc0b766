"""What the tables cost: times that were measured, and an estimate for a GPU."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from kancompress.specs import Family, default_basis
from tests.benchmarks.paper import tables

# Images of a training set, nine tenths of the data set's.
_IMAGES = {"mnist": 54_000, "cifar10": 45_000, "cifar100": 45_000}
_BATCH = 128
# Epochs at most (Tables 4 to 7), and of fine-tuning.
_EPOCHS = {False: 50, True: 150}
_TUNING = 5
# Side of the map that each of the four convolutions puts out, by strides 1, 2, 2, 1.
_SIDES = {"mnist": (28, 14, 7, 7), "cifar10": (32, 16, 8, 8), "cifar100": (32, 16, 8, 8)}
_CHANNELS = (32, 64, 128, 256)


def times(_: argparse.Namespace, cells: Sequence[tables.Cell]) -> str:
    """Seconds of training that the kept cells took, by model and data set."""
    rows = []
    for model, dataset in dict.fromkeys((cell["model"], cell["dataset"]) for cell in cells):
        own = [c for c in tables.of(cells, model=model, dataset=dataset) if c["epochs"]]
        each = [cell["train_seconds"] / cell["epochs"] for cell in own]
        peaks = [cell["peak_mb"] for cell in own if "peak_mb" in cell]
        rows.append(
            [
                *(model, dataset, str(len(own))),
                ", ".join(str(cell["epochs"]) for cell in own),
                ", ".join(str(cell["train_seconds"]) for cell in own),
                f"{statistics.median(each):.1f}",
                ", ".join(sorted({str(cell["threads"]) for cell in own})),
                f"{max(peaks):,}" if peaks else "",
            ]
        )
    columns = ["model", "data", "cells", "epochs", "seconds", "s / epoch", "threads", "peak MB"]
    return tables.footer(tables.markdown(columns, rows), cells)


def products(family: Family, dataset: str, *, conv: bool) -> int:
    """Multiplications of one image's forward pass through the sums over edges."""
    classes = 100 if dataset == "cifar100" else 10
    channels = 1 if dataset == "mnist" else 3
    if not conv:
        edges = 28 * 28 * channels * 32 + 32 * classes
    else:
        inputs = (channels, *_CHANNELS[:-1])
        edges = sum(
            9 * i * o * side**2
            for i, o, side in zip(inputs, _CHANNELS, _SIDES[dataset], strict=True)
        )
    return edges * default_basis(family).coefficients


def estimate(options: argparse.Namespace, _: Sequence[tables.Cell]) -> str:
    """Minutes of a network's full training at so many TFLOP/s and so long a step of small kernels.

    A training step takes three times the forward's two operations a multiplication. What the
    expansion into the basis reads and writes is not counted, so convolutions may take longer.
    """
    rows = []
    total = {False: 0.0, True: 0.0}
    for dataset in options.dataset or ("mnist", "cifar10", "cifar100"):
        for conv in (False, True):
            for family in (Family.KAN, Family.FASTKAN, Family.GRAMKAN):
                macs = products(family, dataset, conv=conv)
                images = _IMAGES[dataset]
                work = 6 * macs * images / (options.tflops * 1e12)
                steps = -(-images // _BATCH) * options.step_ms / 1e3
                epoch = work + steps
                epochs = _EPOCHS[conv] + _TUNING
                total[conv] += 2 * epoch * epochs  # the meta twin costs about the same
                rows.append(
                    [
                        *(f"{family.value}{'conv' if conv else ''}", dataset),
                        f"{macs / 1e6:,.1f}",
                        f"{epoch:,.1f}",
                        str(epochs),
                        f"{epoch * epochs / 60:,.1f}",
                    ]
                )
    columns = ["model", "data", "million products / image", "s / epoch", "epochs", "minutes"]
    return (
        f"Estimated at {options.tflops:g} TFLOP/s sustained and {options.step_ms:g} ms a step:\n\n"
        + tables.markdown(columns, rows)
        + f"\n\nWith meta twins: fully connected {total[False] / 60:.0f} minutes, convolutions"
        f" {total[True] / 3600:.1f} hours."
    )
