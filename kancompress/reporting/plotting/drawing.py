"""Figures of clouds and curves; matplotlib is imported here alone, when one is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kancompress.config import PlotConfig
from kancompress.errors import UsageError
from kancompress.reporting.plotting.clouds import Cloud, Plane, project
from kancompress.reporting.plotting.curves import Curves
from kancompress.reporting.plotting.tradeoff import Tradeoff
from kancompress.reporting.targets import PICTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Most layers of a picture, and most centroids of a layer that are drawn as functions.
MOST_PANELS, MOST_CURVES = 16, 32
_COLUMNS = 8
_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988",
    "#cc3311", "#33bbee",
)  # fmt: skip


def draw_clouds(clouds: Sequence[Cloud], config: PlotConfig, name: str) -> Figure:
    """One panel for each layer: edges as points, centroids as circles."""
    shown = [cloud for cloud in clouds if cloud.edges][:MOST_PANELS]
    if not shown:
        raise UsageError(f"{name} has no edge to draw: all of them are masked or symbolic.")
    columns = min(len(shown), 2 if len(shown) < 5 else 4)
    rows = math.ceil(len(shown) / columns)
    figure = _figure(4.6 * columns, 4.3 * rows + 0.3)
    figure.suptitle(f"{_text(Path(name).name)}: edge vectors{_first(clouds)}", parse_math=False)
    for number, cloud in enumerate(shown):
        _draw_cloud(figure.add_subplot(rows, columns, number + 1), cloud, project(cloud, config))
    return figure


def _draw_cloud(axes: Axes, cloud: Cloud, plane: Plane) -> None:
    # neighbours along the first axis get different colours
    rank = np.argsort(np.argsort(plane.centroids[:, 0], kind="stable"), kind="stable")
    colours = np.array(_COLOURS)[rank % len(_COLOURS)]
    own = plane.labels >= 0
    for marked, colour in ((~own, "grey"), (own, colours[plane.labels[own]])):
        x, y = plane.points[marked].T
        axes.scatter(x, y, s=5, c=colour, linewidths=0, rasterized=True)
    packed = len(rank) > 0 and not own.any()
    area = 15 + 500 * cloud.counts / max(1, cloud.counts.sum()) if packed else 42
    x, y = plane.centroids.T
    axes.scatter(x, y, s=area, c=colours, edgecolors="black", linewidths=0.9, zorder=3)
    drawn = f"{len(plane.points):,} of " if len(plane.points) < len(cloud.vectors) else ""
    cut = f" of {cloud.parts} parts" if cloud.parts > 1 else ""
    what = f"{drawn}{cloud.edges:,} edges{cut}, {len(rank) or 'no':} centroids"
    what += ", area by edges" if packed else ""
    axes.set_title(f"{_layer(cloud)}\n{what}", fontsize=10, parse_math=False)
    axes.set_xlabel(plane.axes[0])
    axes.set_ylabel(plane.axes[1])
    axes.locator_params(nbins=6)
    axes.grid(alpha=0.25)


def draw_curves(curves: Sequence[Curves], name: str) -> Figure:
    """A block of small panels for each layer, one for each centroid, with the edges that use it."""
    shown = curves[:MOST_PANELS]
    rows = [math.ceil(min(len(layer.y), MOST_CURVES) / _COLUMNS) for layer in shown]
    heights = [1.15 * count + 0.75 for count in rows]
    figure = _figure(11, sum(heights) + 0.3)
    figure.suptitle(
        f"{_text(Path(name).name)}: functions of the centroids{_first(curves)}", parse_math=False
    )
    blocks = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, layer, count in zip(blocks, shown, rows, strict=True):
        _draw_layer(block, layer, count)
    return figure


def _draw_layer(block: SubFigure, layer: Curves, rows: int) -> None:
    count = min(len(layer.y), MOST_CURVES)
    total = max(1, int(layer.edges.sum()))
    what = f"{count} centroids"
    if count < len(layer.y):
        share = 100 * layer.edges[:count].sum() / total
        what = f"the {count} most used of {len(layer.y):,} centroids ({share:.0f} % of the edges)"
    note = f"; {layer.note}" if layer.note else ""
    text = f"{_layer(layer)}: {what}, above each the edges that use it{note}"
    block.suptitle(text, fontsize=10, parse_math=False)
    cells = block.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for number, axes in enumerate(cells):
        if number >= count:
            axes.set_visible(False)
            continue
        edges = int(layer.edges[number])
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.plot(layer.x, layer.y[number], color=_COLOURS[0], linewidth=1.6)
        axes.set_title(f"{edges:,} ({100 * edges / total:.1f} %)", fontsize=8, pad=3)
        axes.tick_params(labelsize=7)
        axes.set_xlim(layer.x[0], layer.x[-1])
    block.supxlabel(layer.input, fontsize=9)
    block.supylabel(f"edge function{layer.unit}", fontsize=9)


def draw_tradeoff(tradeoff: Tradeoff, name: str) -> Figure:
    """The score of packed files, and the error of their outputs, against their bytes."""
    figure = _figure(9.2, 4.3)
    figure.suptitle(f"{_text(Path(name).name)}: bytes and what they give", parse_math=False)
    score, error = figure.subplots(1, 2)
    _draw_points(score, tradeoff.sizes, tradeoff.scores, tradeoff.labels)
    score.axhline(tradeoff.dense, color="grey", linestyle="dashed", linewidth=1)
    score.annotate(
        f"dense, {tradeoff.dense_bytes:,} bytes", (1, tradeoff.dense), (-4, 4), fontsize=8,
        xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", color="grey",
    )  # fmt: skip
    score.set_ylabel(tradeoff.unit)
    positive = [one > 0 for one in tradeoff.errors]
    chosen = [[one for one, is_shown in zip(many, positive, strict=True) if is_shown]
              for many in (tradeoff.sizes, tradeoff.errors, tradeoff.labels)]  # fmt: skip
    _draw_points(error, *chosen)
    if any(positive):
        error.set_yscale("log")
    error.set_ylabel("relative squared error of the outputs")
    return figure


def _draw_points(
    axes: Axes, sizes: Sequence[Any], values: Sequence[Any], labels: Sequence[Any]
) -> None:
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    axes.plot(
        [sizes[n] for n in order], [values[n] for n in order], "o-", color=_COLOURS[0], linewidth=1
    )
    for number, n in enumerate(order):  # neighbours have theirs above and below
        place = (0, -13 if number % 2 else 7)
        axes.annotate(
            labels[n], (sizes[n], values[n]), place,
            textcoords="offset points", fontsize=7, ha="center",
        )  # fmt: skip
    if sizes and max(sizes) > 10 * min(sizes):
        axes.set_xscale("log")
    axes.set_xlabel("bytes of the packed file")
    axes.margins(0.12)
    axes.grid(alpha=0.25)


def _first(layers: Sequence[Any]) -> str:
    return f" (the first {MOST_PANELS} layers)" if len(layers) > MOST_PANELS else ""


def _layer(layer: Cloud | Curves) -> str:
    return f"layer {_text(layer.name)} ({' x '.join(f'{size:,}' for size in layer.shape)})"


def _text(name: str) -> str:
    """A name in a file, short and in characters that the font has."""
    plain = ascii(name)[1:-1]
    return plain if len(plain) <= 60 else f"{plain[:28]}...{plain[-28:]}"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def encode(figure: Figure, suffix: str) -> bytes:
    """The picture's file; equal pictures have equal bytes."""
    import matplotlib as mpl

    drawn = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "kancompress"}):
        figure.savefig(drawn, format=suffix[1:], dpi=110, metadata=PICTURES[suffix])
    return _with_palette(drawn) if suffix == ".png" else drawn.getvalue()


def _with_palette(drawn: io.BytesIO) -> bytes:
    """A PNG of at most 256 colours, a third as large."""
    from PIL import Image

    found = io.BytesIO()
    plain = Image.open(drawn).convert("RGB")
    plain.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        found, format="PNG", optimize=True
    )
    return found.getvalue()
