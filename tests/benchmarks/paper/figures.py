"""Figures 1 and 2."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import kancompress
from kancompress import PlotConfig, Projection
from tests.benchmarks.cells import Recipe, trained
from tests.benchmarks.paper import tables
from tests.benchmarks.paper.stages import STAGES

# The panels of Figure 1: a meta-learner with embeddings of one and of two numbers, and none.
FIGURE1 = {
    "(a) embedding of one number": Recipe(model="metakan", dataset="cifar10", embedding=1, limit=1),
    "(b) embedding of two numbers": Recipe(
        model="metakan", dataset="cifar10", embedding=2, limit=1
    ),
    "(c) no meta-learner": Recipe(model="kan", dataset="cifar10", limit=1),
}


def figure1(options: argparse.Namespace, _: Sequence[tables.Cell]) -> str:
    """Train one epoch on CIFAR-10 and draw the edge vectors of both layers with t-SNE."""
    lines = []
    for name, recipe in FIGURE1.items():
        source, told = trained(recipe, options.data_dir, options.work)
        path = (options.pictures or Path("tests/benchmarks/measurements")) / f"figure1{name[1]}.png"
        config = PlotConfig(projection=Projection.TSNE)
        size = kancompress.plot_edges(source, path, config, name=name, force=True)
        lines.append(f"{path}: {recipe.stem}, {told['train_seconds']} s, {size:,} bytes")
    return "\n".join(lines)


def figure2(options: argparse.Namespace, cells: Sequence[tables.Cell]) -> str:
    """The table of accuracy by k; the picture where a folder for it is given."""
    if options.pictures:
        draw(cells, options.pictures / "figure2.svg")
    return tables.figure2(cells)


def draw(cells: Sequence[tables.Cell], path: Path) -> None:
    """Accuracy against k: clustered dashed, fine-tuned solid, a colour for each model."""
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = "kancompress"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    found = tables.by_clusters(cells)
    for number, (model, by_k) in enumerate(found.items()):
        for stage, style in ((1, "--"), (2, "-")):
            points = [
                (k, statistics.median(tables.accuracies(own, stage))) for k, own in by_k.items()
            ]
            axes.plot(
                *zip(*points, strict=True), style, marker="o", markersize=4, color=f"C{number}",
                label=f"{model}, {STAGES[stage]}",
            )  # fmt: skip
    ticks = sorted({k for by_k in found.values() for k in by_k})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set_xlabel("clusters of each layer, k")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("CIFAR-10", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
