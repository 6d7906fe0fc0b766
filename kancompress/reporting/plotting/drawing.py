"""Figures of clouds and curves; matplotlib is imported here alone, when one is drawn."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kancompress.config import PlotConfig
from kancompress.errors import UsageError
from kancompress.reporting.plotting.clouds import Cloud, Plane, project
from kancompress.reporting.plotting.curves import Curves
from kancompress.reporting.plotting.maps import InputMap
from kancompress.reporting.plotting.tradeoff import Tradeoff
from kancompress.reporting.targets import PICTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Most layers of a picture, and most centroids of a layer that are drawn as functions.
MOST_PANELS, MOST_CURVES = 16, 32
_COLUMNS = 8
# Inches: of a panel with a cloud, and of a picture of functions at least.
_PANEL, _LEAST_WIDTH = 4.6, 5.5
# Characters that stand above a function, and centroids that a map names.
_LINE, _MOST_TICKS = 16, 32
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
    figure = _figure(_PANEL * columns, 4.3 * rows + 0.3)
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
    what = f"{drawn}{_count(cloud.edges, 'edge')}{cut}, {_count(len(rank), 'centroid')}"
    what += ", area by edges" if packed else ""
    what += ", edges as before packing" if cloud.full else ""
    title = _wrapped(_layer(cloud), _PANEL)
    axes.set_title(f"{title}\n{_wrapped(what, _PANEL)}", fontsize=10, parse_math=False)
    axes.set_xlabel(plane.axes[0])
    axes.set_ylabel(plane.axes[1])
    axes.locator_params(nbins=6)
    axes.grid(alpha=0.25)


def draw_curves(curves: Sequence[Curves], name: str) -> Figure:
    """A block of small panels for each layer, one for each centroid, with the edges that use it."""
    shown = curves[:MOST_PANELS]
    counts = [min(len(layer.y), MOST_CURVES) for layer in shown]
    columns = min(_COLUMNS, max(counts))  # few centroids have a narrow picture, not an empty one
    width = max(_LEAST_WIDTH, 1.375 * columns)
    titles = [_wrapped(_above(layer), width) for layer in shown]
    tall = 1.4 if any(layer.own for layer in shown) else 1.15
    rows = [math.ceil(count / columns) for count in counts]
    heights = [
        tall * count + 0.6 + 0.16 * title.count("\n") + 0.15
        for count, title in zip(rows, titles, strict=True)
    ]
    figure = _figure(width, sum(heights) + 0.3)
    whole = f"{_text(Path(name).name)}: functions of the centroids{_first(curves)}"
    figure.suptitle(_wrapped(whole, width, 9.5), parse_math=False)
    blocks = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, layer, title, count in zip(blocks, shown, titles, rows, strict=True):
        block.suptitle(title, fontsize=10, parse_math=False)
        _draw_layer(block, layer, count, min(columns, len(layer.y)))
    return figure


def _above(layer: Curves) -> str:
    """What the title of a layer says of its panels."""
    count = min(len(layer.y), MOST_CURVES)
    what = _count(count, "centroid")
    if count < len(layer.y):
        share = 100 * layer.edges[:count].sum() / max(1, int(layer.edges.sum()))
        what = f"the {count} most used of {len(layer.y):,} centroids ({share:.0f} % of the edges)"
    text = f"{_layer(layer)}: {what}, above each the edges that use it"
    if layer.own:
        text += (
            " (input→output of the first), and in grey what some of them computed before packing"
        )
    return f"{text}; {layer.note}" if layer.note else text


def _draw_layer(block: SubFigure, layer: Curves, rows: int, columns: int) -> None:
    count = min(len(layer.y), MOST_CURVES)
    total = max(1, int(layer.edges.sum()))
    cells = block.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for number, axes in enumerate(cells):
        if number >= count:
            axes.set_visible(False)
            continue
        edges = int(layer.edges[number])
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.plot(layer.x, layer.y[number], color=_COLOURS[0], linewidth=1.6)
        title = f"{edges:,} ({100 * edges / total:.1f} %)"
        if layer.own:
            _draw_own(axes, layer, number)
            title += f"\n{_used(layer.used[number], edges)}"
        axes.set_title(title, fontsize=8, pad=3)
        axes.tick_params(labelsize=7)
        axes.set_xlim(layer.x[0], layer.x[-1])
    block.supxlabel(layer.input, fontsize=9)
    block.supylabel(f"edge function{layer.unit}", fontsize=9)


def draw_map(found: InputMap, name: str) -> Figure:
    """For each channel the centroids that most edges of each pixel use, and the bits of its
    indices."""
    channels = len(found.most)
    figure = _figure(10, 4.4 * channels + 0.5)
    title = f"{_text(Path(name).name)}: the edges of each input, layer {_text(found.name)}"
    figure.suptitle(_wrapped(title, 10, 9.5), parse_math=False)
    used = np.unique(found.most[found.most >= 0])
    place = np.full(found.clusters + 1, np.nan)  # the last is that of inputs without a centroid
    place[used] = np.arange(len(used))
    for channel in range(channels):
        of = f" (channel {channel + 1} of {channels})" if channels > 1 else ""
        cells = figure.add_subplot(channels, 2, 2 * channel + 1)
        what = f"centroid that most of its {_count(found.outputs, 'edge')} use{of}"
        cells.set_title(_wrapped(what, _PANEL), fontsize=10)
        image = cells.imshow(place[found.most[channel]], cmap=_colours(len(used)))
        image.set_clim(-0.5, max(1, len(used)) - 0.5)
        if len(used) <= _MOST_TICKS:
            bar = figure.colorbar(image, ax=cells, ticks=range(len(used)), shrink=0.85)
            bar.ax.set_yticklabels([str(number) for number in used])
            bar.set_label("number of the centroid")
        cells = figure.add_subplot(channels, 2, 2 * channel + 2)
        cells.set_title(
            _wrapped(f"bits of an edge: entropy of its indices{of}", _PANEL), fontsize=10
        )
        image = cells.imshow(found.bits[channel], cmap="viridis", vmin=0)
        figure.colorbar(image, ax=cells, shrink=0.85).set_label("bits")
    return figure


def _colours(count: int) -> Any:
    """A map of so many colours that differ from their neighbours."""
    from matplotlib.colors import ListedColormap

    return ListedColormap([_COLOURS[number % len(_COLOURS)] for number in range(max(1, count))])


def _draw_own(axes: Axes, layer: Curves, number: int) -> None:
    """What edges of a centroid computed before packing, behind it."""
    from matplotlib.collections import LineCollection

    lines = [np.column_stack([layer.x, y]) for y in layer.own[number]]
    behind = LineCollection(lines, colors="grey", linewidths=0.5, alpha=0.5, zorder=1)
    axes.add_collection(behind)
    axes.autoscale_view()


def _used(edges: Sequence[tuple[int, int]], total: int) -> str:
    """The first edges of a centroid: `3→0, 7→0, ...`."""
    names = [f"{source}→{target}" for source, target in edges]
    while len(names) > 1 and sum(len(name) + 2 for name in names) > _LINE:
        names.pop()
    return ", ".join([*names, *(["..."] if total > len(names) else [])])


def _count(number: int, word: str) -> str:
    """`no edges`, `1 edge`, `2,048 edges`."""
    if number == 1:
        return f"1 {word}"
    return f"{number:,} {word}s" if number else f"no {word}s"


def _wrapped(text: str, width: float, per_inch: float = 12.5) -> str:
    """Text in lines that are as long as a picture of so many inches is wide; names are not cut."""
    return textwrap.fill(text, max(20, int(width * per_inch)), break_on_hyphens=False)


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
        figure.savefig(drawn, format=suffix[1:], dpi=150, metadata=PICTURES[suffix])
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
