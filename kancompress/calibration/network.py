"""A network clustered layer by layer by what its layers put out.

Each layer sees what the packed layers before it put out and aims at what the dense network puts
out, so that later layers repair what earlier ones left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress import bits, kmeans
from kancompress.calibration.layer import Problem, Solution
from kancompress.calibration.moments import ROWS, Batches, measure
from kancompress.errors import UsageError
from kancompress.nn.layer import EdgeLayer
from kancompress.recipes import CalibrationConfig, Method

_TOO_LARGE = (
    "The second moments of a layer's features cannot be used: on these rows they overflow float32"
    " or are too uneven. Scale the rows as the network's training rows were, or take"
    " --method kmeans."
)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Streams:
    """Rows on their way through the network: as the dense one has them and as the packed one."""

    dense: Tensor
    packed: Tensor


def start(rows: Tensor, held_out: Tensor) -> tuple[Streams, Streams]:
    """The streams before the first layer."""
    return Streams(dense=rows, packed=rows), Streams(dense=held_out, packed=held_out)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerSolution:
    """What calibration chose for one layer.

    bias            : (out,) float32 to add to the sum over the edges, the layer's own included;
                      None where there is no place for one
    error           : mean squared error of the layer's outputs over the calibration rows, relative
                      to the spread of what the dense layer puts out; `held_out` on rows that were
                      not used, `plain` and `plain_held_out` the same for plain k-means
    seconds         : that it took, moments included
    """

    clustering: kmeans.Clustering
    bias: Tensor | None
    method: Method
    error: float
    held_out: float
    plain: float
    plain_held_out: float
    seconds: float

    @property
    def index_entropy(self) -> float:
        """Shannon entropy of the indices in bits."""
        return bits.entropy(np.bincount(self.clustering.labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a packed layer can hold: the type of its centroids, and whether it may have a bias.

    dense_itemsize : bytes of a coefficient in the source
    """

    dtype: torch.dtype
    biased: bool
    dense_itemsize: int = 4


def pose(layer: EdgeLayer, rows: Streams, config: CalibrationConfig, place: Place) -> Problem:
    """Measure what a layer sees, for any number of clusters."""
    weights = layer.edges().detach().float()
    centred = place.biased and config.method is not Method.METRIC
    moments = measure(_batches(layer, weights, rows), centred=centred, memory=config.memory)
    # No second moment is larger than those on the diagonal.
    if not all(group.hessian.diagonal().isfinite().all() for group in moments.groups):
        raise UsageError(_TOO_LARGE)
    return Problem(weights, moments, config, follow=rows.dense is not rows.packed)


def solve_layer(
    layer: EdgeLayer,
    streams: tuple[Streams, Streams],
    clusters: int,
    config: CalibrationConfig,
    place: Place,
    problem: Problem | None = None,
) -> LayerSolution:
    """Cluster one layer; never worse on the held-out rows than plain k-means with the same k.

    streams : rows to calibrate on, and rows that are held out
    problem : what `pose` made of the same layer and rows, where it is at hand
    """
    begin = time.perf_counter()
    weights = layer.edges().detach().float()
    dtype = place.dtype
    candidates: list[tuple[Method, kmeans.Clustering, Tensor | None]] = []
    plain = _plain(weights, clusters, config)
    candidates.append((Method.KMEANS, _rounded(plain, dtype), None))
    if config.method is not Method.KMEANS:
        problem = problem or pose(layer, streams[0], config, place)
        try:
            found = problem.solve(clusters, config.method)
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError):  # type: ignore[attr-defined]
            raise UsageError(_TOO_LARGE) from None
        codebook = _round(found.codebook, dtype)
        bias = problem.bias(codebook, found.labels)
        candidates.append((config.method, _clustering(codebook, found), bias))
    tried = [(method, c, _with_own(bias, layer.bias)) for method, c, bias in candidates]
    errors = [output_errors(layer, weights, s, [t[1:] for t in tried]) for s in streams]
    scored = [(errors[1][i], errors[0][i], *t) for i, t in enumerate(tried)]
    best = min(scored, key=lambda entry: entry[0])
    return LayerSolution(
        clustering=best[3],
        bias=None if best[4] is None else best[4].float(),
        method=best[2],
        error=best[1],
        held_out=best[0],
        plain=scored[0][1],
        plain_held_out=scored[0][0],
        seconds=time.perf_counter() - begin,
    )


def _with_own(bias: Tensor | None, own: nn.Parameter | None) -> Tensor | None:
    if own is None:
        return bias
    return own.detach().double() if bias is None else bias + own.detach().double()


def _plain(weights: Tensor, clusters: int, config: CalibrationConfig) -> kmeans.Clustering:
    vectors = weights.reshape(-1, weights.shape[2]).cpu().numpy()
    return kmeans.fit(vectors, clusters, seed=config.seed, max_iterations=config.max_iterations)


def _round(codebook: Tensor, dtype: torch.dtype) -> Tensor:
    return codebook.to(dtype).float()


def _rounded(found: kmeans.Clustering, dtype: torch.dtype) -> kmeans.Clustering:
    centroids = torch.from_numpy(found.centroids).to(dtype).double().numpy()
    return kmeans.canonical(
        centroids,
        found.labels,
        inertia=found.inertia,
        iterations=found.iterations,
        exact=found.exact,
        repaired=found.repaired,
    )


def _clustering(codebook: Tensor, found: Solution) -> kmeans.Clustering:
    """The solution in the canonical order, centroids without edges left out."""
    labels = found.labels.reshape(-1).cpu()
    used, labels = torch.unique(labels, return_inverse=True)
    return kmeans.canonical(
        codebook.cpu()[used].double().numpy(),
        labels.numpy(),
        inertia=0.0,
        iterations=found.iterations,
        exact=False,
        repaired=0,
    )


def _batches(layer: EdgeLayer, weights: Tensor, rows: Streams) -> Batches:
    """Features of the packed stream and outputs of the dense layer, without its bias."""
    matrix = weights.transpose(1, 2).flatten(1)

    def walk() -> Iterator[tuple[Tensor, Tensor]]:
        with torch.no_grad():
            for start in range(0, len(rows.dense), ROWS):
                features = layer.features(rows.packed[start : start + ROWS]).float()
                own = features
                if rows.dense is not rows.packed:
                    own = layer.features(rows.dense[start : start + ROWS]).float()
                yield features, own.flatten(1) @ matrix.T

    return walk


def output_errors(
    layer: EdgeLayer,
    weights: Tensor,
    rows: Streams,
    candidates: list[tuple[kmeans.Clustering, Tensor | None]],
) -> list[float]:
    """Mean squared errors of the sums over the edges, relative to the spread of the dense ones.

    candidates : clusterings, each with the bias (out,) that goes with it
    """
    own = 0.0 if layer.bias is None else layer.bias.detach().double()
    matrices = [_coefficients(c, weights).transpose(1, 2).flatten(1).T for c, _ in candidates]
    shifts = [(0.0 if bias is None else bias.double()) - own for _, bias in candidates]
    errors = [0.0] * len(candidates)
    outputs = []
    for features, targets in _batches(layer, weights, rows)():
        flat = features.flatten(1)
        for number, (matrix, shift) in enumerate(zip(matrices, shifts, strict=True)):
            gap = (flat @ matrix).double() + shift - targets.double()
            errors[number] += float(gap.square().sum())
        outputs.append(targets.double())
    targets = torch.cat(outputs)
    spread = max(float((targets - targets.mean(0)).square().sum()), 1e-30)
    return [error / spread for error in errors]


def _coefficients(found: kmeans.Clustering, weights: Tensor) -> Tensor:
    codebook = torch.from_numpy(found.centroids).float()
    return functional.embedding(torch.from_numpy(found.labels), codebook).view_as(weights)


def advance(layer: EdgeLayer, rows: Streams, found: LayerSolution | None) -> Streams:
    """What both streams are behind a layer; without a solution the layer stays dense."""
    weights = layer.edges().detach().float()
    dense = _through(layer, rows.dense, weights, layer.bias)
    if found is None and rows.packed is rows.dense:
        return Streams(dense=dense, packed=dense)
    if found is None:
        return Streams(dense=dense, packed=_through(layer, rows.packed, weights, layer.bias))
    packed = _coefficients(found.clustering, weights)
    return Streams(dense=dense, packed=_through(layer, rows.packed, packed, found.bias))


def _through(layer: EdgeLayer, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    matrix = weights.transpose(1, 2).flatten(1)
    parts = []
    with torch.no_grad():
        for start in range(0, len(x), ROWS):
            features = layer.features(x[start : start + ROWS]).float().flatten(1)
            parts.append(layer.finish(functional.linear(features, matrix, bias)))
    return torch.cat(parts)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NetworkSolution:
    """Solutions by layer name, and the error of the network's outputs.

    error, held_out : as in LayerSolution, of the last layer's finished outputs
    """

    layers: Mapping[str, LayerSolution]
    error: float
    held_out: float


Tell = Callable[[str, LayerSolution], None]


def solve_network(
    layers: Mapping[str, EdgeLayer],
    rows: Tensor,
    held_out: Tensor,
    clusters: Mapping[str, int | None],
    config: CalibrationConfig,
    places: Mapping[str, Place],
    *,
    first: Problem | None = None,
    tell: Tell | None = None,
) -> NetworkSolution:
    """Cluster layers one after another; those whose number of clusters is None stay dense.

    rows, held_out : (n, in) inputs of the first layer
    first          : the first layer's problem, where it is at hand
    """
    streams = start(rows, held_out)
    solutions: dict[str, LayerSolution] = {}
    for number, (name, layer) in enumerate(layers.items()):
        k = clusters[name]
        solution = None
        if k is not None:
            solution = solve_layer(
                layer, streams, k, config, places[name], first if number == 0 else None
            )
            solutions[name] = solution
            if tell:
                tell(name, solution)
        streams = (
            advance(layer, streams[0], solution),
            advance(layer, streams[1], solution),
        )
    errors = [relative(stream.packed, stream.dense) for stream in streams]
    return NetworkSolution(layers=solutions, error=errors[0], held_out=errors[1])


def relative(outputs: Tensor, targets: Tensor) -> float:
    """Squared distance of outputs from targets, relative to the spread of the targets."""
    wide = targets.double()
    spread = float((wide - wide.mean(0)).square().sum())
    return float((outputs.double() - wide).square().sum()) / max(spread, 1e-30)
