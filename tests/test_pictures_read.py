"""Pictures that can be read: where labels, ticks and panels stand, and what colours tell."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kancompress import PlotConfig
from kancompress.reporting.plotting.clouds import Cloud, project
from kancompress.reporting.plotting.curves import Curves
from kancompress.reporting.plotting.drawing import (
    draw_clouds,
    draw_curves,
    draw_map,
    draw_tradeoff,
)
from kancompress.reporting.plotting.maps import InputMap
from kancompress.reporting.plotting.tradeoff import Tradeoff

TRADEOFF = Tradeoff(
    sizes=[2096, 2544, 3128, 4008, 5456],
    scores=[49.72, 83.89, 92.5, 92.78, 93.06],
    errors=[0.563, 0.129, 0.0304, 0.0132, 0.00314],
    labels=["k = 2", "k = 4", "k = 8", "k = 16", "k = 32"],
    unit="accuracy in %",
    dense=93.61,
    dense_bytes=86600,
)


def boxes(axes: Axes) -> list[np.ndarray]:
    """Corners of the labels in axes, in pixels."""
    return [text.get_window_extent().get_points() for text in axes.texts]


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[0] < other[1]).all() and (other[0] < one[1]).all())


def on_lines(axes: Axes) -> np.ndarray:
    """Places on the lines of axes, in pixels, less than a pixel apart."""
    places = []
    for line in axes.lines:
        corners = line.get_transform().transform(line.get_xydata())
        for begin, end in itertools.pairwise(corners):
            places.append(begin + np.linspace(0, 1, 700)[:, None] * (end - begin))
    return np.concatenate(places)


@pytest.mark.parametrize("many", [False, True])
def test_labels_of_a_sweep_cover_neither_each_other_nor_a_line(many: bool) -> None:
    tradeoff = TRADEOFF
    if many:  # in a crowd some are left out
        ks = range(2, 18)
        tradeoff = replace(
            TRADEOFF,
            sizes=[2000 + 12 * k + 300 * max(0, k - 12) for k in ks],
            scores=[93 - (k % 2) / 9 for k in ks],
            errors=[1 / (50 + k % 2) for k in ks],
            labels=[f"k = {k}" for k in ks],
        )
    figure = draw_tradeoff(tradeoff, "net")
    figure.draw_without_rendering()
    for axes in figure.axes:
        found = boxes(axes)
        assert len(found) == 5 if not many else 3 < len(found) < 16
        assert not any(overlap(*pair) for pair in itertools.combinations(found, 2))
        places = on_lines(axes)
        for box in found:
            assert not ((places > box[0]) & (places < box[1])).all(axis=1).any()
            assert (box[0] >= axes.bbox.min).all()
            assert (box[1] <= axes.bbox.max).all()
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["dense: 93.61 %, 86,600 bytes"]
    assert legend.get_window_extent().y0 >= figure.axes[0].bbox.y1


def check_ticks(figure: Figure) -> None:
    """Labels of ticks stand apart, also those of neighbours."""
    figure.draw_without_rendering()
    ticks = [
        tick.label1.get_window_extent().get_points()
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis._update_ticks()
        if tick.label1.get_visible() and tick.label1.get_text()
    ]
    assert not any(overlap(*pair) for pair in itertools.combinations(ticks, 2))


def curves(count: int, span: tuple[float, float] = (-1, 1), height: float = 1) -> Curves:
    x = np.linspace(*span, 21)
    y = height * np.sin(x * np.arange(1, count + 1)[:, None])
    return Curves(
        name="act_fun.0", shape=(count, 1), x=x, y=y, edges=np.ones(count, int), input="input"
    )


@pytest.mark.parametrize("count", [2, 9, 19])
def test_panels_stand_in_balanced_rows_with_ticks_below_each_column(count: int) -> None:
    figure = draw_curves([curves(count, (-0.97, 0.97), 1e-7)], "net")
    if count < 10:
        check_ticks(figure)
    places: dict[int, list[Axes]] = {}
    for axes in figure.axes:
        places.setdefault(axes.get_subplotspec().colspan.start, []).append(axes)
    lengths = [len(column) for column in places.values()]
    assert sum(lengths) == count
    assert max(lengths) - min(lengths) <= 1
    for column in places.values():
        lowest = max(column, key=lambda axes: axes.get_subplotspec().rowspan.start)
        for axes in column:
            shown = axes.xaxis.get_tick_params()["labelbottom"]
            assert shown == (axes is lowest)
    assert all(axes.yaxis.get_offset_text().get_text() == "" for axes in figure.axes)


def test_titles_have_lines_of_about_one_length_and_words_agree() -> None:
    figure = draw_curves([curves(1), curves(2)], "net")
    one, two = (block.get_suptitle() for block in figure.subfigs)
    assert "1 centroid, above it the number of its edges" in one.replace("\n", " ")
    assert "2 centroids, above each the number of its edges" in two.replace("\n", " ")
    for title in (one, two):
        lines = [len(line) for line in title.splitlines()]
        assert min(lines) > max(lines) / 2


def cloud(vectors: np.ndarray, name: str = "0") -> Cloud:
    return Cloud(
        name=name, shape=(1, len(vectors)), vectors=vectors, labels=np.arange(len(vectors)),
        centroids=vectors, counts=np.ones(len(vectors), int),
    )  # fmt: skip


def test_rounding_is_no_spread_of_edges() -> None:
    rng = np.random.default_rng(0)
    two = rng.normal(size=(2, 9))
    line = (rng.normal(size=(5, 1)) * two[:1] + two[1:]).astype(np.float32)
    same = np.repeat(two[:1], 3, axis=0)
    for vectors, flat in (
        (two, (False, True)),
        (line, (False, True)),
        (two[:1], (True, True)),
        (same, (True, True)),
        (rng.normal(size=(3, 9)), (False, False)),
    ):
        plane = project(cloud(vectors), PlotConfig())
        assert plane.flat == flat
        for axis in range(2):
            assert ("no variance" in plane.axes[axis]) == flat[axis]
            assert (not plane.points[:, axis].any()) == flat[axis]
    assert "100 % of variance" in project(cloud(two), PlotConfig()).axes[0]
    axes = draw_clouds([cloud(two)], PlotConfig(), "net").axes[0]
    assert axes.get_yticks().tolist() == [0]
    assert len(axes.get_xticks()) > 2


def test_small_shares_are_not_told_as_none() -> None:
    wide = np.diag([100.0, 100, 3, 0.1])[:, :3] + np.eye(4, 3)
    vectors = np.concatenate([wide[:1], -wide[:1], [[0, 1, 0], [0, -1, 0]]])
    axes = project(cloud(vectors), PlotConfig()).axes
    assert "under 1 %" in axes[1]


def test_panels_of_five_layers_stand_in_two_rows() -> None:
    figure = draw_clouds([cloud(np.eye(3), str(n)) for n in range(5)], PlotConfig(), "net")
    assert {axes.get_subplotspec().get_gridspec().get_geometry() for axes in figure.axes} == {
        (2, 3)
    }


def lab(colour: object) -> np.ndarray:
    """A colour in CIELAB."""
    plain = np.array(to_rgb(colour))  # type: ignore[arg-type]
    linear = np.where(plain <= 0.04045, plain / 12.92, ((plain + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    part = xyz @ linear / (0.9505, 1, 1.089)
    root = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def map_of(most: np.ndarray) -> Figure:
    side = int(len(most) ** 0.5)
    found = InputMap(
        name="0", most=most.reshape(1, side, side), bits=np.ones((1, side, side)),
        clusters=int(most.max()) + 1, outputs=4,
    )  # fmt: skip
    return draw_map(found, "net")


def test_sixteen_centroids_of_a_map_have_colours_that_can_be_told_apart() -> None:
    figure = map_of(np.arange(16) * 3)
    image = figure.axes[0].images[0]
    colours = image.cmap(image.norm(image.get_array())).reshape(16, 4)[:, :3]
    far = [np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(colours, 2)]
    assert min(far) > 20
    bar = next(axes for axes in figure.axes if axes.get_ylabel() == "number of the centroid")
    assert [text.get_text() for text in bar.get_yticklabels()] == [str(3 * n) for n in range(16)]


def test_more_centroids_than_colours_stand_on_a_scale() -> None:
    numbers = np.arange(36) * 2
    numbers[3] = -1
    figure = map_of(numbers)
    image = figure.axes[0].images[0]
    assert image.get_clim() == (0, 70)
    shown = image.get_array().reshape(-1)
    np.testing.assert_array_equal(shown.mask, numbers < 0)
    np.testing.assert_array_equal(shown.compressed(), numbers[numbers >= 0])
    assert "white: none" in figure.axes[0].get_title()
    assert any(axes.get_ylabel() == "number of the centroid" for axes in figure.axes)
