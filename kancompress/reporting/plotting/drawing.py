"""Figures of clouds and curves; matplotlib is imported here alone, when one is drawn."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kancompress.clustering.nearest import Labels
from kancompress.clustering.progress import NOBODY, Progress
from kancompress.config import PlotConfig
from kancompress.errors import UsageError
from kancompress.reporting.plotting.clouds import Cloud, Plane, project
from kancompress.reporting.plotting.curves import Curves
from kancompress.reporting.plotting.labels import place_labels
from kancompress.reporting.plotting.maps import InputMap
from kancompress.reporting.plotting.tradeoff import Tradeoff
from kancompress.reporting.targets import PICTURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Most layers of a picture, and most centroids of a layer that are drawn as functions.
MOST_PANELS, MOST_CURVES = 16, 32
_COLUMNS = 8
# Inches: of a panel with a cloud, of one with a function, and of a picture of functions at least.
_PANEL, _CELL, _LEAST_WIDTH = 4.6, 1.375, 5.5
# Characters that stand above a function, and steps of ticks.
_LINE, _STEPS = 16, (1, 2, 2.5, 5, 10)
_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988",
    "#cc3311", "#33bbee",
)  # fmt: skip
# Colours that can be told apart without being neighbours: at least 24 apart in CIELAB.
_DISTINCT = (
    *_COLOURS[:9],
    "#000000", "#000075", "#f032e6", "#aaffc3", "#dcbeff", "#5b3a1a", "#4363d8", "#bfef45",
    "#777777",
)  # fmt: skip


def draw_clouds(
    clouds: Sequence[Cloud], config: PlotConfig, name: str, progress: Progress = NOBODY
) -> Figure:
    """One panel for each layer: edges as points, centroids as circles.

    progress : told of iterations of t-SNE
    """
    shown = [cloud for cloud in clouds if cloud.edges][:MOST_PANELS]
    if not shown:
        raise UsageError(f"{name} has no edge to draw: all of them are masked or symbolic.")
    rows, columns = _balanced(len(shown), 2 if len(shown) < 5 else 4)
    figure = _figure(_PANEL * columns, 4.3 * rows + 0.3)
    figure.suptitle(f"{_text(Path(name).name)}: edge vectors{_first(clouds)}", parse_math=False)
    sizes = [min(config.sample, len(cloud.vectors)) + len(cloud.centroids) for cloud in shown]
    for number, (cloud, part) in enumerate(zip(shown, progress.parts(sizes), strict=True)):
        plane = project(cloud, config, part.part(0.0, 1.0, f"layer {cloud.name}, t-SNE"))
        _draw_cloud(figure.add_subplot(rows, columns, number + 1), cloud, plane)
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
    for number, axis in enumerate((axes.xaxis, axes.yaxis)):
        if plane.flat[number]:  # one line through the middle, and no scale that would mean nothing
            axis.set_ticks([0])
            (axes.set_xlim if number == 0 else axes.set_ylim)(-1, 1)
    axes.grid(alpha=0.25)


def _balanced(count: int, most: int) -> tuple[int, int]:
    """Rows and columns of so many panels, at most `most` in a row, all rows about as long."""
    rows = math.ceil(count / most)
    return rows, math.ceil(count / rows)


def draw_curves(curves: Sequence[Curves], name: str) -> Figure:
    """A block of small panels for each layer, one for each centroid, with the edges that use it."""
    shown = curves[:MOST_PANELS]
    counts = [min(len(layer.y), MOST_CURVES) for layer in shown]
    grids = [_balanced(count, _COLUMNS) for count in counts]
    # few centroids have a narrow picture, not an empty one
    width = max(_LEAST_WIDTH, _CELL * max(columns for _, columns in grids))
    titles = [_wrapped(_above(layer), width) for layer in shown]
    tall = 1.4 if any(layer.own for layer in shown) else 1.15
    heights = [
        tall * rows + 0.6 + 0.16 * title.count("\n") + 0.15
        for (rows, _), title in zip(grids, titles, strict=True)
    ]
    figure = _figure(width, sum(heights) + 0.3)
    whole = f"{_text(Path(name).name)}: functions of the centroids{_first(curves)}"
    figure.suptitle(_wrapped(whole, width, 9.5), parse_math=False)
    blocks = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, layer, title, grid in zip(blocks, shown, titles, grids, strict=True):
        block.suptitle(title, fontsize=10, parse_math=False)
        _draw_layer(block, layer, grid, width)
    return figure


def _above(layer: Curves) -> str:
    """What the title of a layer says of its panels."""
    count = min(len(layer.y), MOST_CURVES)
    what = _count(count, "centroid")
    if count < len(layer.y):
        share = 100 * layer.edges[:count].sum() / max(1, int(layer.edges.sum()))
        what = f"the {count} most used of {len(layer.y):,} centroids ({share:.0f} % of the edges)"
    each = "it" if len(layer.y) == 1 else "each"
    text = f"{_layer(layer)}: {what}, above {each} the number of its edges"
    if layer.own:
        text += (
            " (input→output of the first), and in grey what some of them computed before packing"
        )
    return f"{text}; {layer.note}" if layer.note else text


def _draw_layer(block: SubFigure, layer: Curves, grid: tuple[int, int], width: float) -> None:
    rows, columns = grid
    count = min(len(layer.y), MOST_CURVES)
    total = max(1, int(layer.edges.sum()))
    cells, first = block.add_gridspec(rows, columns), None
    for number in range(count):
        axes = block.add_subplot(cells[divmod(number, columns)], sharex=first, sharey=first)
        first = first or axes
        edges = int(layer.edges[number])
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.plot(layer.x, layer.y[number], color=_COLOURS[0], linewidth=1.6)
        title = f"{edges:,} ({100 * edges / total:.1f} %)"
        if layer.own:
            _draw_own(axes, layer, number)
            title += f"\n{_used(layer.used[number], edges)}"
        axes.set_title(title, fontsize=8, pad=3)
        lowest = number + columns >= count
        axes.tick_params(labelsize=7, labelbottom=lowest, labelleft=number % columns == 0)
    assert first is not None
    first.set_xlim(layer.x[0], layer.x[-1])
    _few_ticks(first, width / columns)
    block.supxlabel(layer.input, fontsize=9)
    block.supylabel(f"edge function{layer.unit}", fontsize=9)


def _few_ticks(axes: Axes, width: float) -> None:
    """Ticks that have room in a panel of so many inches, and no factor above the panel."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(max(2, min(10, int(2.2 * width))), steps=_STEPS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.6g}".replace("-", "\N{MINUS SIGN}"))


def draw_map(found: InputMap, name: str) -> Figure:
    """For each channel the centroids that most edges of each pixel use, and the bits of its
    indices."""
    channels = len(found.most)
    figure = _figure(10, 4.4 * channels + 0.5)
    title = f"{_text(Path(name).name)}: the edges of each input, layer {_text(found.name)}"
    figure.suptitle(_wrapped(title, 10, 9.5), parse_math=False)
    for channel in range(channels):
        of = f" (channel {channel + 1} of {channels})" if channels > 1 else ""
        cells = figure.add_subplot(channels, 2, 2 * channel + 1)
        what = f"centroid that most of its {_count(found.outputs, 'edge')} use{of}"
        what += ", white: none" if (found.most[channel] < 0).any() else ""
        cells.set_title(_wrapped(what, _PANEL), fontsize=10)
        _draw_most(cells, found.most[channel], np.unique(found.most[found.most >= 0]))
        cells = figure.add_subplot(channels, 2, 2 * channel + 2)
        cells.set_title(
            _wrapped(f"bits of an edge: entropy of its indices{of}", _PANEL), fontsize=10
        )
        image = cells.imshow(found.bits[channel], cmap="viridis", vmin=0)
        figure.colorbar(image, ax=cells, shrink=0.85).set_label("bits")
    return figure


def _draw_most(axes: Axes, most: Labels, used: Labels) -> None:
    """Centroids in a colour each; where there are not so many colours, on a scale."""
    from matplotlib.colors import ListedColormap

    if len(used) > len(_DISTINCT):
        image = axes.imshow(np.ma.masked_less(most, 0), cmap="viridis", vmin=used[0], vmax=used[-1])
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.85)
    else:
        count = max(1, len(used))
        place = np.ma.masked_array(np.searchsorted(used, most), mask=most < 0)
        image = axes.imshow(place, cmap=ListedColormap(_DISTINCT[:count]))
        image.set_clim(-0.5, count - 0.5)
        bar = axes.figure.colorbar(image, ax=axes, ticks=range(len(used)), shrink=0.85)
        bar.ax.set_yticklabels([str(number) for number in used])
    bar.set_label("number of the centroid")


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
    """Text in the fewest lines that a picture of so many inches has room for, all about as long;
    names are not cut, and numbers stay with what they count."""
    text = re.sub(r"(?<=\d) (?=[\w%])", "\N{NO-BREAK SPACE}", text)
    most = max(20, int(width * per_inch))
    lines = len(textwrap.wrap(text, most, break_on_hyphens=False))
    while most > 20 and len(textwrap.wrap(text, most - 1, break_on_hyphens=False)) == lines:
        most -= 1
    filled = textwrap.fill(text, most, break_on_hyphens=False)
    return filled.replace("\N{NO-BREAK SPACE}", " ")


def draw_tradeoff(tradeoff: Tradeoff, name: str) -> Figure:
    """The score of packed files, and the error of their outputs, against their bytes."""
    figure = _figure(9.2, 4.3 + (0.2 if tradeoff.note else 0))
    title = f"{_text(Path(name).name)}: bytes and what they give"
    if tradeoff.note:
        title += f"\n{_wrapped(tradeoff.note, 9.2, 9.5)}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    score, error = figure.subplots(1, 2)
    unit = " %" if tradeoff.unit.endswith("%") else ""
    dense = score.axhline(tradeoff.dense, color="grey", linestyle="dashed", linewidth=1)
    score.legend(
        [dense], [f"dense: {tradeoff.dense:.4g}{unit}, {tradeoff.dense_bytes:,} bytes"], fontsize=8,
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0.2,
    )  # fmt: skip
    score.set_ylabel(tradeoff.unit)
    error.set_ylabel("relative squared error of the outputs")
    if any(one > 0 for one in tradeoff.errors):
        error.set_yscale("log")
    drawn = [
        (score, range(len(tradeoff.sizes)), tradeoff.scores),
        (error, [n for n, one in enumerate(tradeoff.errors) if one > 0], tradeoff.errors),
    ]
    for axes, numbers, values in drawn:
        order = sorted(numbers, key=tradeoff.sizes.__getitem__)
        _draw_points(axes, [tradeoff.sizes[n] for n in order], [values[n] for n in order])
    figure.draw_without_rendering()  # the axes find their places, and keep them
    figure.set_layout_engine("none")
    for axes, numbers, values in drawn:
        points = [(tradeoff.sizes[n], values[n]) for n in numbers]
        place_labels(axes, points, [tradeoff.labels[n] for n in numbers], 7)
    return figure


def _draw_points(axes: Axes, sizes: Sequence[int], values: Sequence[float]) -> None:
    """Points on a line, by their bytes."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.plot(sizes, values, "o-", color=_COLOURS[0], linewidth=1, markersize=5)
    if sizes and max(sizes) > 10 * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=_STEPS))
    axes.xaxis.set_major_formatter("{x:,.0f}")
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
