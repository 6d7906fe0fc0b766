"""What the tables cost: times that were measured, and an estimate for a GPU."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import fields

from kancompress.specs import Family, ModelName, default_basis
from tests.benchmarks.cells import Recipe
from tests.benchmarks.paper import tables

# Images of a training set, nine tenths of the data set's.
_IMAGES = {"mnist": 54_000, "cifar10": 45_000, "cifar100": 45_000}
_BATCH = 128
# Epochs at most (Tables 4 to 7), and of fine-tuning.
_EPOCHS = {False: 50, True: 150}
TUNING = 5
# Side of the map that each of the four convolutions puts out, by strides 1, 2, 2, 1.
_SIDES = {"mnist": (28, 14, 7, 7), "cifar10": (32, 16, 8, 8), "cifar100": (32, 16, 8, 8)}
_CHANNELS = (32, 64, 128, 256)


def times(_: argparse.Namespace, cells: Sequence[tables.Cell]) -> str:
    """Seconds of training that the kept cells took, by model and data set."""
    rows = []
    kinds = dict.fromkeys((c["model"], c["dataset"], c.get("device")) for c in cells)
    for model, dataset, device in kinds:
        own = tables.of(cells, model=model, dataset=dataset, device=device)
        own = [cell for cell in own if cell["epochs"]]
        each = [cell["train_seconds"] / cell["epochs"] for cell in own]
        peaks = [cell["peak_mb"] for cell in own if "peak_mb" in cell]
        rows.append(
            [
                *(model, dataset if device is None else f"{dataset}, {device}", str(len(own))),
                ", ".join(str(cell["epochs"]) for cell in own),
                ", ".join(str(cell["train_seconds"]) for cell in own),
                f"{statistics.median(each):.1f}",
                ", ".join(sorted({str(cell["threads"]) for cell in own})),
                f"{max(peaks):,}" if peaks else "",
            ]
        )
    columns = ["model", "data", "cells", "epochs", "seconds", "s / epoch", "threads", "peak MB"]
    return tables.footer(tables.markdown(columns, rows), cells)


def products(family: Family, dataset: str, *, conv: bool, coefficients: int | None = None) -> int:
    """Multiplications of one image's forward pass through the sums over edges.

    coefficients : of an edge; those of the paper's Tables 1 and 2 when None
    """
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
    return edges * (coefficients or default_basis(family, conv=conv).coefficients)


def work(recipe: Recipe) -> int:
    """Multiplications of the forward passes of an epoch."""
    name = ModelName(recipe.model)
    basis = recipe.basis() or default_basis(name.family, conv=name.is_conv)
    each = products(name.family, recipe.dataset, conv=name.is_conv, coefficients=basis.coefficients)
    return each * _IMAGES[recipe.dataset]


def most_epochs(recipe: Recipe) -> int:
    """Epochs of training at most, and of fine-tuning."""
    return _EPOCHS[ModelName(recipe.model).is_conv] + TUNING


def epoch_on_gpu(recipe: Recipe, tflops: float, step_ms: float) -> float:
    """Seconds of an epoch at so many TFLOP/s and so long a step of small kernels.

    A training step takes three times the forward's two operations a multiplication. What the
    expansion into the basis reads and writes is not counted, so convolutions may take longer. A
    network with a meta-learner takes about the time of the plain one.
    """
    steps = -(-_IMAGES[recipe.dataset] // _BATCH)
    return 6 * work(recipe) / (tflops * 1e12) + steps * step_ms / 1e3


def epoch_here(recipe: Recipe, cells: Sequence[tables.Cell]) -> tuple[float, str]:
    """Seconds of an epoch as the kept cells took them, and the model and data that they are of.

    The nearest cells are taken: of the same basis, data set, meta-learner and size, in this order,
    and their time in proportion to the multiplications.
    """
    conv = ModelName(recipe.model).is_conv

    def distance(cell: tables.Cell) -> tuple[bool, ...]:
        return (
            tables.plain(cell["model"]) != tables.plain(recipe.model),
            cell["dataset"] != recipe.dataset,
            cell["model"] != recipe.model,
            (cell.get("grid"), cell.get("embedding")) != (recipe.grid, recipe.embedding),
        )

    known = [
        cell
        for cell in cells
        if cell["epochs"]
        and cell["model"] != "mlp"
        and "device" not in cell
        and ModelName(cell["model"]).is_conv == conv
    ]
    if not known:
        return math.nan, ""
    least = min(map(distance, known))
    near = [cell for cell in known if distance(cell) == least]
    seconds = [
        cell["train_seconds"] / cell["epochs"] * work(recipe) / work(recipe_of(cell))
        for cell in near
    ]
    names = dict.fromkeys(f"{cell['model']}, {cell['dataset']}" for cell in near)
    return statistics.median(seconds), "; ".join(names)


def recipe_of(cell: tables.Cell) -> Recipe:
    """The network of a cell."""
    names = [field.name for field in fields(Recipe)]
    return Recipe(**{name: cell[name] for name in names if name in cell})


def estimate(options: argparse.Namespace, _: Sequence[tables.Cell]) -> str:
    """Minutes of a network's full training on a GPU, all epochs counted."""
    rows = []
    total = {False: 0.0, True: 0.0}
    for dataset in options.dataset or ("mnist", "cifar10", "cifar100"):
        for conv in (False, True):
            for family in (Family.KAN, Family.FASTKAN, Family.GRAMKAN):
                recipe = Recipe(model=f"{family.value}{'conv' if conv else ''}", dataset=dataset)
                epoch = epoch_on_gpu(recipe, options.tflops, options.step_ms)
                epochs = most_epochs(recipe)
                total[conv] += 2 * epoch * epochs  # the meta twin costs about the same
                rows.append(
                    [
                        *(recipe.model, dataset),
                        f"{products(family, dataset, conv=conv) / 1e6:,.1f}",
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
