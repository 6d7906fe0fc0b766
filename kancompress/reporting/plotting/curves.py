"""The centroids of a file's layers as functions of one input, over the grid of their basis."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.clustering.nearest import Labels
from kancompress.clustering.progress import NOBODY, Progress
from kancompress.clustering.vectors import F64
from kancompress.config import PlotConfig, RunOptions
from kancompress.errors import UsageError
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.layers.edges import CodebookEdges
from kancompress.layers.expansions import ACTIVATIONS
from kancompress.layers.forms import Act, Norm, Points, UniformGaussians, UniformSplines
from kancompress.layers.layer import EdgeLayer, ScaledEdges
from kancompress.models import runnable as running
from kancompress.models.records import PackedModel
from kancompress.models.runnable import Runnable
from kancompress.reporting.plotting.against import dense_vectors
from kancompress.reporting.plotting.clouds import Points as Vectors
from kancompress.reporting.plotting.clouds import clustered, in_units, settled

_POINTS = 201
# Most edges of a centroid that are drawn behind it, and that are named.
_BEHIND, _NAMED = 40, 3
# Inputs of a basis that has no grid.
_NO_GRID = (-3.0, 3.0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curves:
    """The functions of a layer's centroids.

    x     : (points,) inputs of the basis
    y     : (k, points) values, base branch included, most used centroid first
    edges : (k,) that use each
    input : what `x` is; unit : what `y` is divided by, as in " / 1e30"
    own   : of each centroid, functions (n, points) of some edges that use it, as they were before
            packing; used : the first of these edges, as (input, output). Both where they are known
    """

    name: str
    shape: tuple[int, ...]
    x: F64
    y: F64
    edges: Labels
    input: str
    note: str = ""
    unit: str = ""
    own: tuple[F64, ...] = ()
    used: tuple[tuple[tuple[int, int], ...], ...] = ()


def centroid_curves(
    record: Runnable,
    config: PlotConfig,
    options: RunOptions | None = None,
    against: Runnable | None = None,
    progress: Progress = NOBODY,
) -> list[Curves]:
    """The functions of the centroids of each layer, but of those that a packed file keeps dense or
    cuts into parts.

    against  : of a packed file, the dense one, whose edges are then drawn behind their centroids
    progress : told of layers, and of iterations of k-means
    """
    try:
        ready = running.run(record, options)
    except UsageError as error:  # which counsels `eval`
        raise UsageError(
            f"Its functions cannot be drawn: {error.finding}",
            where=error.where,
            layer=error.layer,
            tensor=error.tensor,
            fields=error.fields,
        ) from None
    dense: list[EdgeLayer] = []
    if against is not None:
        dense_vectors(record, against, options.layouts if options else None)  # or refuses
        dense = list(running.run(against, options).network.kan_layers())
    config = settled(record, config)
    found = []
    layers = list(ready.network.kan_layers())
    parts = progress.parts([math.prod(layer.shape) for layer in layers])
    for number, (layer, part) in enumerate(zip(layers, parts, strict=True)):
        own = _codebook_edges(layer.edges)
        if isinstance(record, PackedModel) and (own is None or own.parts > 1):
            continue
        with torch.no_grad():
            behind = dense[number].edges() if dense else None
            found.append(_curves(layer, str(number), config, behind, part))
    if not found:
        raise UsageError(
            "No layer of this file has a codebook of whole edges, so there is no function to draw."
        )
    return found


def _curves(
    layer: EdgeLayer,
    number: str,
    config: PlotConfig,
    behind: Tensor | None,
    progress: Progress,
) -> Curves:
    source = _codebook_edges(layer.edges)
    if source is not None:
        centroids: Tensor = source.codebook.centroids
        shape = tuple(source.index.shape)
        used = torch.bincount(source.index.flatten(), minlength=len(centroids))[: len(centroids)]
        counts = used.numpy()
    else:
        coefficients = layer.edges()
        shape = tuple(coefficients.shape[:-1])
        cloud = clustered(number, shape, coefficients, config, progress)
        centroids, counts = torch.from_numpy(cloud.centroids), cloud.counts
    x, features, axis, note = _grid_features(layer)
    order = np.argsort(-counts, kind="stable")
    own, named = _own(source, behind, order, config.seed)
    (vectors, *own), unit = in_units(centroids.double().numpy(), *own)
    if source is not None and (silent := int(counts[~centroids.any(1).numpy()].sum())):
        beside = f"{silent:,} edges that compute nothing have the one of zeros"
        note = f"{note}; {beside}" if note else beside
    curves = (torch.from_numpy(vectors) @ features.double().T).numpy()
    if not np.isfinite(curves).all():
        raise UsageError(
            f"The functions of layer {shown(number)} hold NaN or infinity, so they cannot be drawn."
        )
    return Curves(
        name=number if layer.name is None else layer.name,
        shape=shape,
        x=x.double().numpy(),
        y=curves[order],
        edges=counts[order],
        input=axis,
        note=note,
        unit=unit,
        own=tuple((torch.from_numpy(few) @ features.double().T).numpy() for few in own),
        used=named,
    )


def _own(
    source: CodebookEdges | None, behind: Tensor | None, order: Labels, seed: int
) -> tuple[list[Vectors], tuple[tuple[tuple[int, int], ...], ...]]:
    """Vectors of some edges of each centroid, and which edges those are, (input, output)."""
    if source is None or behind is None:
        return [], ()
    index = source.index.reshape(-1).numpy()
    vectors = behind.flatten(0, -2).double().numpy()
    taps = math.prod(source.index.shape[2:])
    inputs = source.index.shape[1]
    rng = np.random.default_rng(seed)
    own, used = [], []
    for number in order:
        edges = np.flatnonzero(index == number)
        chosen = np.sort(rng.choice(edges, min(len(edges), _BEHIND), replace=False))
        own.append(vectors[chosen])
        first = (edges[:_NAMED] // taps).tolist()
        used.append(tuple((edge % inputs, edge // inputs) for edge in first))
    return own, tuple(used)


def _codebook_edges(edges: nn.Module) -> CodebookEdges | None:
    """Where the layer's vectors come from, if from a codebook; factors of edges are left out."""
    while isinstance(edges, ScaledEdges):
        edges = edges.edges
    return edges if isinstance(edges, CodebookEdges) else None


def _grid_features(layer: EdgeLayer) -> tuple[Tensor, Tensor, str, str]:
    """Inputs (points,) over the grid, the layer's basis and base branch there (points, d), what
    the inputs are, and what is to be known. The base branch sees what the basis sees."""
    form = layer.form
    if form.points is Points.MIDDLES:
        x = torch.linspace(*layer.expansion.span, _POINTS, dtype=layer.dtype)
        wide = x[:, None].expand(-1, layer.shape[1])
        planes = layer.expanded(wide, wide)
        same = torch.allclose(planes, planes[:, :, :1].expand_as(planes), atol=1e-4)
        note = "" if same else "each input has its own grid, and this is that of the first"
        return x, planes[:, :, 0], "input" if not form.before else "input of the basis", note
    has_grid = isinstance(form.basis, UniformSplines | UniformGaussians)
    low, high = layer.expansion.span if has_grid else _NO_GRID
    x = torch.linspace(low, high, _POINTS)
    z = x
    for step in form.before:
        z = ACTIVATIONS[step.name](z) if isinstance(step, Act) else z
    planes = layer.expanded(x[:, None], z[:, None])
    normalised = any(isinstance(step, Norm) for step in form.before)
    return x, planes[:, :, 0], "input, normalised" if normalised else "input", ""
