"""Labels of points, placed where they cover neither each other nor a curve."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kancompress.clustering.nearest import F64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Sides of a point, tried in this order: right and up are (1, 1).
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
# Points between a point's middle and its label; a marker's radius; a curve's and a letter's room.
_AWAY, _RADIUS, _ROOM = (6.0, 10.0), 4.0, 1.5


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float]], texts: Sequence[str], size: float
) -> list[Annotation]:
    """Write a text beside each point, and leave out those that have no room; returns the others.

    The axes must have their place in the figure, their limits and their curves.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    step = figure.dpi / 72  # pixels of a point
    ink = np.concatenate([_along(line, step) for line in axes.lines] or [np.zeros((0, 2))])
    middles = axes.transData.transform(np.reshape(points, (-1, 2)))
    taken: list[F64] = []
    written = []
    for (x, y), middle, text in zip(points, middles, texts, strict=True):
        label = axes.annotate(
            text, (x, y), (0, 0), textcoords="offset points", fontsize=size,
            ha="center", va="center",
        )  # fmt: skip
        box = label.get_window_extent()
        for away in _offsets(box, step):
            found = _box(middle + away * step, box, _ROOM * step)
            if _free(found, axes.bbox, ink, middles, taken, _RADIUS * step) and _is_own(
                found, middle, middles
            ):
                label.set_position((float(away[0]), float(away[1])))
                taken.append(found)
                written.append(label)
                break
        else:
            label.remove()
    return written


def _offsets(box: Bbox, step: float) -> list[F64]:
    """Middles of a label relative to its point, in points."""
    half = np.array([box.width, box.height]) / 2 / step
    return [np.array(side) * (half + away) for away in _AWAY for side in _SIDES]


def _box(middle: F64, box: Bbox, room: float) -> F64:
    """Corners (2, 2) of a label, with some room around it."""
    half = np.array([box.width, box.height]) / 2 + room
    corners: F64 = np.stack([middle - half, middle + half])
    return corners


def _free(
    box: F64, inside: Bbox, ink: F64, middles: F64, taken: Sequence[F64], radius: float
) -> bool:
    low, high = box
    if (low < (inside.x0, inside.y0)).any() or (high > (inside.x1, inside.y1)).any():
        return False
    if ((ink > low) & (ink < high)).all(axis=1).any():
        return False
    if ((middles > low - radius) & (middles < high + radius)).all(axis=1).any():
        return False
    return not any((low < other[1]).all() and (high > other[0]).all() for other in taken)


def _is_own(box: F64, middle: F64, middles: F64) -> bool:
    """Whether no point is nearer to a label than its own."""
    away = np.linalg.norm(np.maximum(np.maximum(box[0] - middles, middles - box[1]), 0), axis=1)
    own = np.linalg.norm(np.maximum(np.maximum(box[0] - middle, middle - box[1]), 0))
    others = away[(middles != middle).any(axis=1)]
    return bool((others > 1.2 * own).all())


def _along(line: Any, step: float) -> F64:
    """Places (n, 2) of a line in pixels, closer than a letter is high."""
    corners = line.get_transform().transform(line.get_xydata())
    parts = [corners]
    for begin, end in itertools.pairwise(corners):
        count = int(np.ceil(np.abs(end - begin).max() / (2 * step))) + 1
        parts.append(begin + np.linspace(0, 1, count)[:, None] * (end - begin))
    places: F64 = np.concatenate(parts)
    return places
