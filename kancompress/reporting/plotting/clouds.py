"""The edge vectors of a file's layers, and their way into the plane."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kancompress.clustering import kmeans
from kancompress.clustering.nearest import Labels, one_thread
from kancompress.clustering.progress import NOBODY, Progress
from kancompress.clustering.vectors import F64, SUM_BLOCK
from kancompress.config import ClusterConfig, PlotConfig, Projection
from kancompress.errors import UsageError
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.libraries import recognise
from kancompress.models.records import Checkpoint, ForeignCheckpoint, PackedLayer, PackedModel
from kancompress.models.runnable import Runnable
from kancompress.models.vectors import gather, packable
from kancompress.packing.native import dense_coefficients
from kancompress.reporting.plotting.against import dense_vectors, labels_of

Points = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Cloud:
    """The edge vectors of one layer.

    vectors   : (n, d) that are points of their own; of a packed layer only edges that were kept
    labels    : (n,) centroid of each, -1 where there is none
    centroids : (k, d), and `counts` (k,) of the edges that use them; k is 0 where there are none
    parts     : of an edge, where its coefficients are cut; vectors are then those of parts
    full      : vectors are all edges of a packed layer, as they were before
    """

    name: str
    shape: tuple[int, ...]
    vectors: Points
    labels: Labels
    centroids: Points
    counts: Labels
    parts: int = 1
    full: bool = False

    @property
    def edges(self) -> int:
        """Edges of the layer that are drawn, if only as centroids."""
        if self.full:
            return len(self.vectors) // self.parts
        return int(self.counts.sum() + (self.labels < 0).sum()) // self.parts


def edge_clouds(
    record: Runnable,
    config: PlotConfig,
    layouts: Mapping[str, str] | None = None,
    against: Runnable | None = None,
    progress: Progress = NOBODY,
) -> Iterator[Cloud]:
    """The edge vectors of each layer.

    against  : of a packed file, the dense one, whose vectors are then the points
    progress : told of iterations of k-means
    """
    if against is not None:
        vectors = dense_vectors(record, against, layouts)
        assert isinstance(record, PackedModel)
        for layer in record.layers:
            yield _with_vectors(record, layer, vectors[layer.name])
        return
    config = settled(record, config)
    if isinstance(record, ForeignCheckpoint):
        yield from _foreign_clouds(record, config, layouts, progress)
        return
    if layouts:
        raise UsageError("Layouts belong to other libraries' files; this one is ours.")
    if isinstance(record, PackedModel):
        for layer in record.layers:
            yield _packed_cloud(record, layer)
        return
    parts = progress.parts([math.prod(shape) for shape in record.shapes])
    for number, (x, part) in enumerate(zip(dense_coefficients(record), parts, strict=True)):
        yield clustered(str(number), tuple(x.shape[:-1]), x, config, part)


def _foreign_clouds(
    record: ForeignCheckpoint,
    config: PlotConfig,
    layouts: Mapping[str, str] | None,
    progress: Progress,
) -> Iterator[Cloud]:
    found = recognise(record.tensors, layouts)
    if not found.layers:
        reasons = " ".join((*found.problems, *found.hints))
        raise UsageError(
            f"{record.where}: no KAN layer was recognised, so there is none to draw. {reasons}",
            where=record.where,
            fields=("layouts", "drop"),
        )
    parts = progress.parts([layer.edges for layer in found.layers])
    for layer, part in zip(found.layers, parts, strict=True):
        with torch.no_grad():
            vectors = gather(layer, record.tensors)[packable(layer, record.tensors)]
        yield clustered(layer.name, layer.shape, vectors, config, part)


def settled(record: Runnable, config: PlotConfig) -> PlotConfig:
    """The same with the number of clusters that `cluster` would take where it names none."""
    conv = isinstance(record, Checkpoint) and record.conv is not None
    clusters = ClusterConfig(clusters=config.clusters).settled(conv=conv).common
    return replace(config, clusters=clusters)


def clustered(
    name: str,
    shape: tuple[int, ...],
    vectors: Tensor,
    config: PlotConfig,
    progress: Progress = NOBODY,
) -> Cloud:
    """The vectors of a layer that is not packed, with the centroids that `cluster` finds."""
    points = _points(vectors)
    if not np.isfinite(points).all():
        raise UsageError(f"Layer {shown(name)} holds NaN or infinity, so it cannot be drawn.")
    if not len(points):
        return _cloud(name, shape, points)
    assert config.clusters is not None
    part = progress.part(0.0, 1.0, f"layer {name}, k-means")
    found = kmeans.fit(points, config.clusters, seed=config.seed, progress=part)
    progress.at(1.0)
    return _cloud(name, shape, points, found.labels, found.centroids)


def _packed_cloud(model: PackedModel, layer: PackedLayer) -> Cloud:
    codebook = model.codebook_of(layer)
    if codebook is None:
        assert layer.coefficients is not None
        return _cloud(layer.name, layer.shape, _points(layer.coefficients))
    centroids = _points(codebook)
    kept = centroids[:0]
    if layer.kept is not None:  # cut as the centroids are
        kept = _points(layer.kept).reshape(-1, centroids.shape[1])
    counts = np.bincount(model.indices_of(layer), minlength=len(centroids))
    cloud = _cloud(layer.name, layer.shape, kept)
    return replace(cloud, centroids=centroids, counts=counts, parts=layer.parts)


def _with_vectors(model: PackedModel, layer: PackedLayer, vectors: Tensor) -> Cloud:
    """A packed layer with the vectors that its edges had, each in the colour of its centroid."""
    cloud, codebook = _packed_cloud(model, layer), model.codebook_of(layer)
    if codebook is None:
        return cloud
    points = _points(vectors).reshape(-1, codebook.shape[1])
    if not np.isfinite(points).all():
        raise UsageError(f"Layer {shown(layer.name)} holds NaN or infinity, so it is not drawn.")
    return replace(cloud, vectors=points, labels=labels_of(model, layer).reshape(-1), full=True)


def _cloud(
    name: str,
    shape: tuple[int, ...],
    vectors: Points,
    labels: Labels | None = None,
    centroids: Points | None = None,
) -> Cloud:
    """Vectors with their centroids, or without any."""
    labels = np.full(len(vectors), -1) if labels is None else labels
    centroids = vectors[:0] if centroids is None else centroids
    counts = np.bincount(labels[labels >= 0], minlength=len(centroids))
    return Cloud(
        name=name, shape=shape, vectors=vectors, labels=labels, centroids=centroids, counts=counts
    )


def _points(vectors: Tensor) -> Points:
    flat = vectors.detach().cpu().reshape(-1, vectors.shape[-1])
    points: Points = (flat.float() if flat.itemsize < 4 else flat).numpy()
    return points


# --- into the plane -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plane:
    """Points and centroids of a cloud in the plane, (n, 2) and (k, 2), and what the axes are.

    labels : (n,) of the points
    flat   : of each axis, whether all points and centroids lie at its 0
    """

    points: F64
    labels: Labels
    centroids: F64
    axes: tuple[str, str]
    flat: tuple[bool, bool] = (False, False)


def project(cloud: Cloud, config: PlotConfig, progress: Progress = NOBODY) -> Plane:
    """Bring a seeded sample of the edges, and all centroids, into the plane.

    Principal components are those of all edges of the layer. Vectors of a single number lie at
    that number, and as high as the share of edges below it.
    """
    rng = np.random.default_rng(config.seed)
    cloud, unit = _in_units(cloud)
    count = min(config.sample, len(cloud.vectors))
    chosen = np.sort(rng.choice(len(cloud.vectors), count, replace=False))
    points = cloud.vectors[chosen]
    both = np.concatenate([points, cloud.centroids])
    none = (False, False)
    if both.shape[1] == 1:
        flat, axes = _shares(cloud, both), ("weight", "share of edges below, %")
    elif config.projection is Projection.TSNE and len(both) > 3:
        flat, axes = _tsne(both, config.seed, progress), ("t-SNE 1", "t-SNE 2")
    else:
        mean, directions, shares = principal_components(*_all_edges(cloud))
        flat = np.where(shares > 0, (both - mean) @ directions, 0.0)
        none = (bool(shares[0] <= 0), bool(shares[1] <= 0))
        axes = (
            f"1st principal component ({_share(shares[0], ' of variance')})",
            f"2nd principal component ({_share(shares[1])})",
        )
    return Plane(
        flat=none,
        points=flat[:count],
        labels=cloud.labels[chosen],
        centroids=flat[count:],
        axes=(f"{axes[0]}{unit}", f"{axes[1]}{unit if both.shape[1] > 1 else ''}"),
    )


def _share(share: float, more: str = "") -> str:
    """A share of the variance in percent; what is not nothing is not told as 0."""
    if share <= 0:
        return "no variance"
    if share < 0.005:
        return f"under 1 %{more}"
    return f"{100 * share:.0f} %{more}"


def _in_units(cloud: Cloud) -> tuple[Cloud, str]:
    """A cloud whose numbers can be squared and drawn, and what its axes add where it is other."""
    divided, unit = in_units(cloud.vectors, cloud.centroids)
    if not unit:
        return cloud, ""
    return replace(cloud, vectors=divided[0], centroids=divided[1]), unit


# Shares that are rounding: of the squares of all numbers in float64, and of the variance of numbers
# that were float32.
_NO_SPREAD, _NO_VARIANCE = 1e-28, 1e-13
# Numbers between these are drawn as they are; t-SNE squares them in float32.
_LARGE, _SMALL = 1e15, 1e-15


def in_units(*numbers: Points) -> tuple[list[Points], str]:
    """Numbers over a power of ten where they are too large or small to be drawn, and its name for
    an axis, empty where they are as they were."""
    largest = max((float(np.abs(part).max()) for part in numbers if part.size), default=0.0)
    if largest == 0 or _SMALL <= largest <= _LARGE:
        return list(numbers), ""
    power = math.floor(math.log10(largest))
    half = power // 2  # 10^power itself may be no number
    divided: list[Points] = [
        part.astype(np.float64) / 10.0**half / 10.0 ** (power - half) for part in numbers
    ]
    return divided, f" / 1e{power}"


def _all_edges(cloud: Cloud) -> tuple[Points, F64]:
    """Vectors that stand for all edges of the layer, and the number of edges of each."""
    if (cloud.labels >= 0).any():
        return cloud.vectors, np.ones(len(cloud.vectors))
    vectors = np.concatenate([cloud.vectors, cloud.centroids])
    return vectors, np.concatenate([np.ones(len(cloud.vectors)), cloud.counts])


def principal_components(vectors: Points, weights: F64) -> tuple[F64, F64, F64]:
    """Mean (d,), first two principal directions (d, 2) and their shares of the variance (2,).

    vectors : (n, d), each counted `weights` (n,) times. The largest entry of a direction is
              positive, so that pictures do not flip. What rounding makes of no variance is 0.
    """
    blocks = [slice(at, at + SUM_BLOCK) for at in range(0, len(vectors), SUM_BLOCK)]
    mean = np.zeros(vectors.shape[1])
    for block in blocks:
        mean += weights[block] @ vectors[block].astype(np.float64) / weights.sum()
    spread = np.zeros((vectors.shape[1],) * 2)
    for block in blocks:
        moved = vectors[block] - mean
        spread += moved.T @ (moved * weights[block, None])
    with one_thread():
        values, directions = np.linalg.eigh(spread)
    directions = directions[:, :-3:-1]
    tallest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[tallest, [0, 1]] < 0, -1.0, 1.0)
    total, length = values.sum(), weights.sum() * (mean @ mean)
    if total <= _NO_SPREAD * (length + total):
        return mean, directions, np.zeros(2)
    shares = values[:-3:-1] / total
    if shares[1] <= _NO_VARIANCE:  # a line
        shares = np.array([1.0, 0.0])
    return mean, directions, shares


# Iterations of t-SNE at the most, as scikit-learn has them unless it is told otherwise.
_ITERATIONS = 1000


class _Printed(io.TextIOBase):
    """Reads what scikit-learn's t-SNE prints, which has no other way to tell how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write(self, text: str) -> int:
        """A line, of which the number of an iteration is told."""
        if found := re.search(r"Iteration (\d+)", text):
            done = int(found[1])
            told = f"iteration {done:,} of at most {_ITERATIONS:,}"
            self._progress.at(done / _ITERATIONS, told)
        return len(text)


def _tsne(vectors: Points, seed: int, progress: Progress) -> F64:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    distinct = len(np.unique(vectors, axis=0)) > 1
    start: Any = "pca" if distinct else "random"
    tell = progress.tell is not None
    reduction = TSNE(
        perplexity=perplexity,
        init=start,
        random_state=seed % 2**32,
        verbose=2 if tell else 0,
    )
    progress.at(0.0, "neighbours")
    with (
        one_thread(),
        contextlib.redirect_stdout(_Printed(progress)) if tell else contextlib.nullcontext(),
    ):
        flat = reduction.fit_transform(vectors.astype(np.float32))
    wide: F64 = flat.astype(np.float64)
    return wide


def _shares(cloud: Cloud, vectors: Points) -> F64:
    """Each number, and the percentage of all edges whose number is smaller."""
    numbers, edges = _all_edges(cloud)
    order = np.argsort(numbers[:, 0], kind="stable")
    below = np.concatenate([[0.0], np.cumsum(edges[order])]) / edges.sum()
    at = np.searchsorted(numbers[order, 0], vectors[:, 0])
    return np.column_stack([vectors[:, 0], 100 * below[at]])
