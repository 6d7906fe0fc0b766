"""Pictures: what is in them by other means of computing it, the files, and what is refused."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.interpolate import BSpline
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from torch import Tensor

import kancompress
from command import call, done, refused
from conftest import fresh
from kancompress import ClusterConfig, PlotConfig, Projection, UsageError
from kancompress.models.files import read_foreign
from kancompress.packing.native import dense_coefficients
from kancompress.reporting.plotting.clouds import Cloud, edge_clouds, principal_components, project
from kancompress.reporting.plotting.curves import centroid_curves
from kancompress.reporting.plotting.drawing import (
    MOST_CURVES,
    MOST_PANELS,
    draw_clouds,
    draw_curves,
    draw_map,
)
from kancompress.reporting.plotting.maps import input_map


def dense_of(record: kancompress.PackedModel) -> list[np.ndarray]:
    """Edge vectors (edges, d) of each layer of a packed network, written out."""
    tensors = record.state_dict()
    return [
        tensors[f"{number}.coefficients"].flatten(0, -2).numpy()
        for number in range(len(record.layers))
    ]


def packed(
    name: str, clusters: int, widths: tuple[int, ...] = (64, 32, 10)
) -> kancompress.PackedModel:
    return kancompress.cluster(fresh(name, widths), ClusterConfig(clusters=clusters)).model


# --- edge vectors ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kan", "metafastkan"])
def test_a_checkpoint_is_coloured_as_cluster_clusters_it(name: str) -> None:
    source = fresh(name)
    model = kancompress.cluster(source, ClusterConfig(clusters=5)).model
    clouds = list(edge_clouds(source, PlotConfig(clusters=5)))
    assert [cloud.shape for cloud in clouds] == [(32, 64), (10, 32)]
    for cloud, layer, vectors in zip(clouds, model.layers, dense_of(model), strict=True):
        np.testing.assert_array_equal(cloud.centroids[cloud.labels].astype(np.float32), vectors)
        np.testing.assert_array_equal(cloud.counts, np.bincount(model.indices_of(layer)))
        assert cloud.edges == len(cloud.vectors) == layer.edges


def test_convolutions_are_clustered_as_cluster_does() -> None:
    source = fresh("gramkanconv", (3, 8, 16, 10))
    model = kancompress.cluster(source).model
    clouds = list(edge_clouds(source, PlotConfig()))
    assert [cloud.shape for cloud in clouds] == [(8, 3, 3, 3), (16, 8, 3, 3)]
    assert [len(cloud.centroids) for cloud in clouds] == [
        model.clusters_of(layer) or 216 for layer in model.layers
    ]


def test_a_packed_file_shows_its_centroids_and_their_edges() -> None:
    model = packed("gramkan", 6)
    for cloud, layer, vectors in zip(
        edge_clouds(model, PlotConfig()), model.layers, dense_of(model), strict=True
    ):
        assert not len(cloud.vectors)
        found, counts = np.unique(vectors, axis=0, return_counts=True)
        order = np.lexsort(cloud.centroids.T[::-1])
        np.testing.assert_array_equal(cloud.centroids[order], found)
        np.testing.assert_array_equal(cloud.counts[order], counts)
        assert cloud.edges == layer.edges


def test_principal_components_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 7)) @ rng.normal(size=(7, 7)) + 3
    weights = rng.integers(1, 5, size=300)
    mean, directions, shares = principal_components(vectors, weights.astype(float))
    oracle = PCA(2).fit(np.repeat(vectors, weights, axis=0))
    np.testing.assert_allclose(mean, oracle.mean_)
    np.testing.assert_allclose(np.abs(directions.T), np.abs(oracle.components_), atol=1e-10)
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_)
    assert all(column[np.abs(column).argmax()] > 0 for column in directions.T)


def test_a_packed_layer_lies_in_the_plane_where_its_edges_lie() -> None:
    model = packed("kan", 6)
    cloud = next(edge_clouds(model, PlotConfig()))
    edges = dense_of(model)[0].astype(float)
    oracle = PCA(2).fit(edges)
    plane = project(cloud, PlotConfig())
    expected = oracle.transform(cloud.centroids)
    np.testing.assert_allclose(np.abs(plane.centroids), np.abs(expected), atol=1e-7)
    assert f"({100 * oracle.explained_variance_ratio_[0]:.0f} % of variance)" in plane.axes[0]


def test_the_sample_is_seeded_and_holds_edges_of_the_layer() -> None:
    cloud = next(edge_clouds(fresh("kan"), PlotConfig()))
    one, same, other = (
        project(cloud, PlotConfig(sample=100, seed=seed)).points for seed in (1, 1, 2**63 - 1)
    )
    whole = project(cloud, PlotConfig(sample=10**6)).points
    assert len(one) == 100
    assert len(whole) == cloud.edges
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert {tuple(row) for row in one.round(9)} <= {tuple(row) for row in whole.round(9)}


def test_tsne_keeps_neighbours_together() -> None:
    cloud = next(edge_clouds(fresh("metakan"), PlotConfig(clusters=4)))
    config = PlotConfig(projection=Projection.TSNE, sample=150, seed=2**40)
    plane = project(cloud, config)
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.choice(len(cloud.vectors), 150, replace=False))
    assert trustworthiness(cloud.vectors[chosen], plane.points, n_neighbors=5) > 0.9
    assert plane.axes == ("t-SNE 1", "t-SNE 2")
    assert plane.centroids.shape == (4, 2)


def test_single_numbers_lie_as_high_as_the_share_below_them() -> None:
    vectors = np.array([[3.0], [1.0], [2.0], [4.0]])
    cloud = Cloud(
        name="0",
        shape=(2, 2),
        vectors=vectors,
        labels=np.array([1, 0, 0, 1]),
        centroids=np.array([[1.5], [3.5]]),
        counts=np.array([2, 2]),
    )
    for projection in Projection:
        plane = project(cloud, PlotConfig(projection=projection))
        np.testing.assert_array_equal(plane.points, [[3, 50], [1, 0], [2, 25], [4, 75]])
        np.testing.assert_array_equal(plane.centroids, [[1.5, 25], [3.5, 75]])
        assert plane.axes[0] == "weight"


def test_a_panel_for_each_layer_with_its_points_and_centroids() -> None:
    clouds = list(edge_clouds(fresh("fastkan"), PlotConfig(clusters=7)))
    figure = draw_clouds(clouds, PlotConfig(sample=200), "net.safetensors")
    assert len(figure.axes) == 2
    for axes, cloud in zip(figure.axes, clouds, strict=True):
        alone, points, centroids = (found.get_offsets() for found in axes.collections)
        assert len(alone) == 0
        assert len(points) == min(200, cloud.edges)
        assert len(centroids) == 7
        colours = axes.collections[1].get_facecolors()
        circles = axes.collections[2].get_facecolors()
        near = project(cloud, PlotConfig(sample=200)).labels
        np.testing.assert_array_equal(colours, circles[near])
    assert "200 of 2,048 edges, 7 centroids" in figure.axes[0].get_title()
    assert "320 edges" not in figure.axes[0].get_title()


def test_very_many_layers_are_cut_and_the_title_says_so() -> None:
    cloud = next(edge_clouds(packed("kan", 3), PlotConfig()))
    figure = draw_clouds([cloud] * (MOST_PANELS + 2), PlotConfig(), "net")
    assert len(figure.axes) == MOST_PANELS
    assert f"the first {MOST_PANELS} layers" in figure.get_suptitle()


# --- functions ------------------------------------------------------------------------------


def silu(x: np.ndarray) -> np.ndarray:
    return x * expit(x)


def function_of(name: str, w: np.ndarray, x: np.ndarray, beta: Tensor | None) -> np.ndarray:
    """The function of an edge with the coefficients `w`, in closed form."""
    if name == "kan":
        step = 2 / 5
        knots = -1 + step * np.arange(-3, 9)
        return BSpline(knots, w[:8], 3)(np.clip(x, -1, 1 - 1e-9)) + w[8] * silu(x)
    if name == "mlp":
        return w[0] * x
    if name.startswith("fastkan"):
        centres = np.linspace(-3, 3, 8) if name.endswith("conv") else np.linspace(-2, 2, 8)
        width = centres[1] - centres[0]
        return np.exp(-(((x[:, None] - centres) / width) ** 2)) @ w[:8] + w[8] * silu(x)
    assert beta is not None
    b = beta.numpy()
    t = np.tanh(x)
    two = t * t - 3 * 1 * 1 / (4 / 3) * b[1]
    three = t * two - 5 * 1 * 4 / (9 / 15) * b[2] * t
    planes = np.stack([silu(p) for p in (np.ones_like(t), t, two, three)], axis=1)
    return planes @ w[:4] + w[4] * silu(x)


WIDTHS = {"fastkanconv": (2, 4, 6, 3)}
GRIDS = {"kan": (-1, 1), "fastkan": (-2, 2)}


@pytest.mark.parametrize("name", ["kan", "fastkan", "gramkan", "mlp", "fastkanconv"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_curves_are_the_functions_of_the_centroids(name: str, is_packed: bool) -> None:
    source = fresh(name, WIDTHS.get(name, (64, 32, 10)))
    model = kancompress.cluster(source, ClusterConfig(clusters=5)).model
    curves = centroid_curves(model if is_packed else source, PlotConfig(clusters=5))
    assert [layer.shape for layer in curves] == [layer.shape for layer in model.layers]
    for layer, stored in zip(curves, model.layers, strict=True):
        counts = np.bincount(model.indices_of(stored))
        order = np.argsort(-counts, kind="stable")
        np.testing.assert_array_equal(layer.edges, counts[order])
        assert stored.codebook is not None
        for row, number in zip(layer.y, order, strict=True):
            w = stored.codebook[number].double().numpy()
            np.testing.assert_allclose(
                row, function_of(name, w, layer.x, stored.sides.get("beta")), atol=2e-5
            )
    assert (curves[0].x[0], curves[0].x[-1]) == GRIDS.get(name, (-3, 3))


def efficient_kan(grids: Tensor) -> dict[str, Tensor]:
    """A state dict of efficient-kan, three inputs and four outputs."""
    torch.manual_seed(0)
    return {
        "layers.0.base_weight": torch.randn(4, 3),
        "layers.0.spline_weight": torch.randn(4, 3, 8),
        "layers.0.spline_scaler": torch.rand(4, 3) + 0.5,
        "layers.0.grid": grids,
    }


UNIFORM = (-1 + 0.4 * torch.arange(-3, 9)).expand(3, -1).contiguous()


@pytest.mark.parametrize("is_packed", [False, True])
def test_curves_of_another_library_are_those_of_its_edges(tmp_path: Path, is_packed: bool) -> None:
    state = efficient_kan(UNIFORM)
    path = tmp_path / "net.safetensors"
    save_file(state, path)
    source = path
    if is_packed:
        source = tmp_path / "packed.safetensors"
        config = ClusterConfig(clusters=12, force_pack=True)
        kancompress.save(kancompress.cluster(path, config).model, source)
    record = kancompress.load(source) if is_packed else read_foreign(source)
    (layer,) = centroid_curves(record, PlotConfig(clusters=12))
    spline = state["layers.0.spline_weight"] * state["layers.0.spline_scaler"][..., None]
    wanted = sorted(
        tuple(BSpline(UNIFORM[0].numpy(), c, 3)(np.clip(layer.x, -1, 1 - 1e-9)) + b * silu(layer.x))
        for c, b in zip(
            spline.reshape(-1, 8).numpy(),
            state["layers.0.base_weight"].flatten().tolist(),
            strict=True,
        )
    )
    np.testing.assert_allclose(np.array(sorted(map(tuple, layer.y))), np.array(wanted), atol=1e-4)
    assert layer.edges.tolist() == [1] * 12
    assert not layer.note


def test_grids_that_differ_are_told(tmp_path: Path) -> None:
    save_file(efficient_kan(UNIFORM * torch.tensor([[1.0], [2.0], [1.0]])), tmp_path / "net.st")
    (layer,) = centroid_curves(read_foreign(tmp_path / "net.st"), PlotConfig())
    assert layer.note == "each input has its own grid, and this is that of the first"
    assert layer.x[-1] == pytest.approx(1)


def test_a_panel_for_each_function_and_a_note_where_there_are_more() -> None:
    model = packed("kan", 40)
    curves = centroid_curves(model, PlotConfig())
    figure = draw_curves(curves, "net")
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert len(drawn) == 2 * MOST_CURVES
    np.testing.assert_allclose(drawn[0].lines[1].get_ydata(), curves[0].y[0])
    titles = [int(axes.get_title().split()[0].replace(",", "")) for axes in drawn[:MOST_CURVES]]
    assert titles == curves[0].edges[:MOST_CURVES].tolist() == sorted(titles, reverse=True)
    share = round(100 * sum(titles) / 2048)
    text = figure.subfigs[0].get_suptitle()
    assert f"the 32 most used of 40 centroids ({share} % of the edges)" in text


# --- against the dense file, and maps --------------------------------------------------------


@pytest.mark.parametrize("name", ["fastkan", "metakan"])
def test_the_dense_vectors_are_the_points_of_a_packed_file(name: str) -> None:
    source = fresh(name, (6, 5, 4))
    model = kancompress.cluster(source, ClusterConfig(clusters=3, layers={"1": 2})).model
    dense = dense_coefficients(source)
    clouds = list(edge_clouds(model, PlotConfig(), against=source))
    for cloud, layer, given in zip(clouds, model.layers, dense, strict=True):
        vectors = given.flatten(0, -2).numpy()
        np.testing.assert_allclose(cloud.vectors, vectors, rtol=1e-6)
        np.testing.assert_array_equal(cloud.labels, model.indices_of(layer))
        assert cloud.edges == layer.edges
    title = draw_clouds(clouds, PlotConfig(), "net").axes[0].get_title()
    assert "30 edges, 3 centroids" in title
    assert "before" in title


def test_the_edges_of_a_centroid_are_drawn_behind_it_and_named() -> None:
    source = fresh("kan", (6, 5, 4))
    model = kancompress.cluster(source, ClusterConfig(clusters=3)).model
    curves = centroid_curves(model, PlotConfig(), against=source)
    for layer, stored in zip(curves, model.layers, strict=True):
        inputs = stored.shape[1]
        index = model.indices_of(stored)
        order = np.argsort(-np.bincount(index), kind="stable")
        dense = source.tensors[f"{stored.name}.coefficients"].flatten(0, 1).double().numpy()
        for number, own, used in zip(order, layer.own, layer.used, strict=True):
            edges = np.flatnonzero(index == number)
            assert list(used) == [(e % inputs, e // inputs) for e in edges[:3].tolist()]
            wanted = [function_of("kan", dense[e], layer.x, None) for e in edges]
            np.testing.assert_allclose(own, wanted, atol=2e-5)
    figure = draw_curves(curves, "net")
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    behind = [len(axes.collections[0].get_segments()) for axes in drawn]
    assert behind == [*curves[0].edges, *curves[1].edges]
    first = "→".join(map(str, curves[0].used[0][0]))
    assert drawn[0].get_title().splitlines()[1].startswith(first)


def test_another_library_s_dense_file_gives_its_vectors(tmp_path: Path) -> None:
    save_file(efficient_kan(UNIFORM), tmp_path / "net")
    config = ClusterConfig(clusters=4, force_pack=True)
    model = kancompress.cluster(tmp_path / "net", config).model
    dense = read_foreign(tmp_path / "net")
    (cloud,) = edge_clouds(model, PlotConfig(), against=dense)
    means = [cloud.vectors[cloud.labels == number].mean(axis=0) for number in range(4)]
    np.testing.assert_allclose(means, cloud.centroids, atol=1e-5)  # as k-means leaves them
    (curves,) = centroid_curves(model, PlotConfig(), against=dense)
    assert [len(own) for own in curves.own] == curves.edges.tolist()
    np.testing.assert_allclose(curves.own[0].mean(axis=0), curves.y[0], atol=1e-4)


def test_only_the_dense_file_stands_behind_a_packed_one(tmp_path: Path) -> None:
    dense, other = fresh("kan", (6, 5, 4)), fresh("kan", (6, 4, 4))
    model = kancompress.cluster(dense, ClusterConfig(clusters=3)).model
    save_file(efficient_kan(UNIFORM), tmp_path / "net")
    for wrong, says in (
        (model, "is packed, too"), (other, "no layer '0' of 30 edges"),
        (read_foreign(tmp_path / "net"), "another library"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            list(edge_clouds(model, PlotConfig(), against=wrong))
    with pytest.raises(UsageError, match="this one is not packed"):
        centroid_curves(dense, PlotConfig(), against=dense)
    kancompress.save(model, tmp_path / "packed")
    assert "--against goes with" in refused(2, "inspect", tmp_path / "packed", "--against", "x")


def test_few_centroids_leave_no_empty_canvas_and_words_agree() -> None:
    model = kancompress.cluster(
        fresh("kan", (6, 5, 4)), ClusterConfig(clusters=2, layers={"1": 1})
    ).model
    figure = draw_curves(centroid_curves(model, PlotConfig()), "net")
    assert len(figure.axes) == 3  # no panel without a function
    assert figure.get_figwidth() < 6
    above = [block.get_suptitle() for block in figure.subfigs]
    assert "2 centroids" in above[0]
    assert "1 centroid," in above[1]
    clouds = draw_clouds(list(edge_clouds(model, PlotConfig())), PlotConfig(), "net")
    assert "1 centroid," in clouds.axes[1].get_title()


def test_a_map_shows_the_edges_of_each_pixel() -> None:
    index = np.random.default_rng(0).integers(0, 3, size=(12, 36))
    index[:, 7] = 2  # a pixel whose edges are all alike
    model = kancompress.cluster(fresh("kan", (36, 12)), ClusterConfig(clusters=3)).model
    layer = replace(model.layers[0], index=index.reshape(-1).astype(np.uint8))
    found = input_map(replace(model, layers=(layer,)), "net")
    assert found.most.shape == found.bits.shape == (1, 6, 6)
    for pixel in range(36):
        counts = np.bincount(index[:, pixel], minlength=3)
        assert found.most.reshape(-1)[pixel] == counts.argmax()
        shares = counts[counts > 0] / 12
        wanted = -(shares * np.log2(shares)).sum()
        assert found.bits.reshape(-1)[pixel] == pytest.approx(wanted, abs=1e-9)
    assert found.bits[0, 1, 1] == 0
    assert len(draw_map(found, "net").axes) == 4  # two images, and what their colours mean


@pytest.mark.parametrize(
    ("name", "widths", "says"),
    [
        ("kan", (30, 4), "not the pixels of a square image"),
        ("fastkanconv", (1, 4, 3), "convolution"),
    ],
)
def test_other_networks_have_no_map(name: str, widths: tuple[int, ...], says: str) -> None:
    source = fresh(name, widths)
    config = ClusterConfig(clusters=2, force_pack=True)
    with pytest.raises(UsageError, match=says):
        input_map(kancompress.cluster(source, config).model, "net")
    with pytest.raises(UsageError, match="not packed"):
        input_map(source, "net")


def test_layers_without_a_codebook_have_no_functions_to_draw() -> None:
    model = packed("kan", 2000, (4, 3, 2))
    assert all(layer.codebook is None for layer in model.layers)
    clouds = list(edge_clouds(model, PlotConfig()))
    assert [len(cloud.vectors) for cloud in clouds] == [12, 6]
    assert all((cloud.labels < 0).all() for cloud in clouds)
    assert "no centroids" in draw_clouds(clouds, PlotConfig(), "net").axes[0].get_title()
    with pytest.raises(UsageError, match="No layer of this file has a codebook"):
        centroid_curves(model, PlotConfig())


# --- files ----------------------------------------------------------------------------------


@pytest.fixture
def material(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "net.st"
    kancompress.save(packed("metafastkan", 4), path)
    return path


def check_picture(data: bytes, suffix: str) -> None:
    if suffix == ".png":
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.width > 800
    elif suffix == ".svg":
        assert ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert data.startswith(b"%PDF-")
        assert data.rstrip().endswith(b"%%EOF")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_both_pictures_are_files_of_their_suffix_and_light(
    suffix: str, material: Path, tmp_path: Path
) -> None:
    edges, functions = tmp_path / f"e{suffix}", tmp_path / f"f{suffix}"
    result = done("inspect", material, "--plot", edges, "--plot-functions", functions, "--json")
    plots = json.loads(result.stdout)["plots"]
    assert [plot["kind"] for plot in plots] == ["edges", "functions"]
    for plot, path in zip(plots, (edges, functions), strict=True):
        assert plot["output"] == str(path)
        assert plot["file_bytes"] == path.stat().st_size < 200_000
        check_picture(path.read_bytes(), suffix)
    before = [path.read_bytes() for path in (edges, functions)]
    done("inspect", material, "--plot", edges, "--plot-functions", functions, "--force")
    assert [path.read_bytes() for path in (edges, functions)] == before


def test_a_checkpoint_from_standard_input_is_drawn(tmp_path: Path) -> None:
    data = kancompress.encode(fresh("kan"))
    picture = tmp_path / "edges.png"
    result = done("inspect", "-", "--plot", picture, "-k", "3", "--sample", "50", stdin=data)
    assert "packed file, predicted" in result.stdout
    assert str(picture) in result.stderr
    check_picture(picture.read_bytes(), ".png")


def test_strange_names_are_drawn(tmp_path: Path) -> None:
    state = {
        name.replace("layers.0", "$\\frac{\u200f\u4f60"): tensor
        for name, tensor in efficient_kan(UNIFORM).items()
    }
    save_file(state, tmp_path / "net.st")
    for plot in ("--plot", "--plot-functions"):
        picture = tmp_path / f"{plot}.svg"
        done("inspect", tmp_path / "net.st", plot, picture)
        check_picture(picture.read_bytes(), ".svg")


def test_pictures_that_cannot_be_are_refused_before_any_work(
    material: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "p.png"
    assert ".png, .svg or .pdf" in refused(2, "inspect", material, "--plot", tmp_path / "p.gif")
    assert "--check draws nothing" in refused(2, "inspect", material, "--check", "--plot", picture)
    assert "two names" in refused(
        2, "inspect", material, "--plot", picture, "--plot-functions", picture
    )
    svg = tmp_path / "net.svg"
    material.rename(svg)
    assert "is the input itself" in refused(2, "inspect", svg, "--plot", svg, "--force")
    picture.write_bytes(b"mine")
    assert "--force" in refused(2, "inspect", svg, "--plot", picture)
    assert picture.read_bytes() == b"mine"


def test_what_cannot_be_drawn_leaves_no_file(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "net.st")
    picture = tmp_path / "p.png"
    assert "none to draw" in refused(2, "inspect", tmp_path / "net.st", "--plot", picture)
    assert "cannot be drawn" in refused(
        2, "inspect", tmp_path / "net.st", "--plot-functions", picture
    )
    assert not picture.exists()


def test_without_matplotlib_the_option_says_where_to_get_it(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for plot in ("--plot", "--plot-functions"):
        told = refused(1, "inspect", material, plot, tmp_path / "p.png")
        assert "pip install 'kancompress[plot]'" in told
    assert call("inspect", material).exit_code == 0
    assert list(tmp_path.glob("*.png")) == []


def test_layouts_mean_nothing_for_a_file_of_ours() -> None:
    with pytest.raises(UsageError, match="Layouts belong to other libraries' files"):
        list(edge_clouds(fresh("kan"), PlotConfig(), {"": "efficient-kan"}))
