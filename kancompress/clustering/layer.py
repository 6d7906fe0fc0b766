"""One layer of a network clustered by what it puts out.

It sees what the packed layers before it put out and aims at what the dense network puts out, so
that later layers repair what earlier ones left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.clustering import coding, grid, kmeans, prices, scaling
from kancompress.clustering.coding import Coding
from kancompress.clustering.cuts import Number, cut_edges, cut_features, split
from kancompress.clustering.joint import Spread
from kancompress.clustering.ladder import CodedProblem, Problem, Solution, starts_of
from kancompress.clustering.moments import STEP, Batches, Moments, gaps, measure, spread, walks
from kancompress.clustering.progress import NOBODY, Progress
from kancompress.config import CalibrationConfig, KMeans, Method
from kancompress.errors import UsageError
from kancompress.formats.packed.encodings import bits
from kancompress.formats.safetensors import shown
from kancompress.layers.layer import EdgeLayer
from kancompress.layers.stored import rounded
from kancompress.models import lines

# Images of convolutions that are looked at together, and the most sums of each of many.
IMAGES = 64
PLACES = 8
# Blocks of rows, about, by which groups of inputs tell each other what they changed.
_SAMPLED = 8
# Numbers of features, at most, that are kept for them, 64 MB in float32.
_KEPT_FEATURES = 1 << 24


class Solvable(Protocol):
    """What is asked of a layer that is solved on rows: an `EdgeLayer` or an `AskedLayer`.

    Coefficients are (out, ..., d), the bias (out,) or None.
    """

    @property
    def name(self) -> str | None:
        """Name in the file."""
        ...

    @property
    def edges(self) -> Callable[..., Any]:
        """Gives the coefficients."""
        ...

    @property
    def bias(self) -> nn.Parameter | None:
        """Added to the sums."""
        ...

    @property
    def maps(self) -> bool:
        """Whether a row has several places."""
        ...

    def places(self, x: Tensor) -> int:
        """Sums that a row of `x` gives for each output."""
        ...

    def columns(self, x: Tensor, places: Tensor) -> Tensor:
        """Features as the sums take them, as of `EdgeLayer.columns`."""
        ...

    def beside(self, x: Tensor, places: Tensor) -> Tensor | None:
        """What no coefficient makes of the sums, (sums, out); None where that is the bias."""
        ...

    def sides(self) -> Mapping[str, Tensor]:
        """What the layer has beside the edges, by the name that files give it."""
        ...


def _too_large(layer: Solvable) -> UsageError:
    return UsageError(
        "The second moments of a layer's features cannot be used: on these rows they overflow"
        " float32 or are too uneven. Scale the rows as the network's training rows were, or take"
        ' `method="kmeans"`.',
        layer=layer.name,
        fields=("method",),
    )


def _too_large_outputs(layer: Solvable) -> UsageError:
    return UsageError(
        "The outputs of a layer on these rows are too large for float32, in which calibration"
        " computes. Scale the rows as the network's training rows were, or leave `rows` out.",
        layer=layer.name,
        fields=("rows",),
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Streams:
    """Rows on their way through the network: as the dense one has them and as the packed one.

    They are on the CPU; blocks of them visit the device where a layer computes.

    places : most sums of a row that are looked at, where a layer has several
    """

    dense: Tensor
    packed: Tensor
    places: int = PLACES


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerSolution:
    """What calibration chose for one layer.

    bias            : (out,) float32 to add to the sum over the edges, the layer's own included;
                      None where there is no place for one
    error           : mean squared error of the layer's outputs over the calibration rows, relative
                      as `relative` has it; `held_out` on rows that were not used, `plain` and
                      `plain_held_out` the same for plain k-means
    fallback        : the solution of plain k-means where this one is another
    seconds         : that it took, moments included
    slope           : share of `error` that one more kilobyte of indices would take away; None where
                      bits had no price
    coding          : how edges follow from the centroids, where they are not the centroids

    >>> import kancompress
    >>> quick = kancompress.CalibrationConfig(method="kmeans", samples=200)
    >>> packed = kancompress.cluster("digits.safetensors", rows="digits", calibration=quick)
    >>> layer = packed.calibrated.solution.layers["0"]
    >>> layer.error == layer.plain  # plain k-means was asked for
    True
    """

    clustering: kmeans.Clustering
    bias: Tensor | None
    method: Method
    error: float
    held_out: float
    plain: float
    plain_held_out: float
    seconds: float
    fallback: LayerSolution | None = None
    coding: Coding | None = None
    slope: float | None = None

    def __repr__(self) -> str:
        errors = f"error {self.error:.3g}, {self.held_out:.3g} on held-out rows"
        plain = f"plain k-means {self.plain:.3g}"
        return lines.line("LayerSolution", str(self.method), errors, plain)

    def coefficients(self, weights: Tensor) -> Tensor:
        """What stands for every edge, in the shape of the dense coefficients."""
        return coding.coefficients(self.clustering, weights, self.coding)

    def edges(self, layer: Solvable) -> Edges:
        """The centroids in place of the layer's coefficients, and the bias."""
        return self.coefficients(layer.edges().detach().float()), self.bias

    @property
    def index_entropy(self) -> float:
        """Shannon entropy of the indices in bits."""
        return bits.entropy(np.bincount(self.clustering.labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a packed layer can hold: the stored type of its centroids, as of `layers.stored`, and
    whether it may have a bias.

    dense_itemsize : bytes of a coefficient in the source
    parts          : that edges are to be cut into; None where that is open
    cut_into       : parts that `coding` is for
    coding         : which edges are packed and by what they are multiplied; None where an edge is
                     its centroid
    kmeans         : whose k-means runs, by itself and where solutions start
    grid           : whether to start from functions on their grid, too (`Metric.GRID`)
    side_dtype     : stored type of the bias
    rounded        : the layer with what is beside its edges as it will be stored, where that is
                     other than what it is
    """

    dtype: torch.dtype
    biased: bool
    dense_itemsize: int = 4
    side_dtype: torch.dtype = torch.float32
    rounded: EdgeLayer | None = None
    coding: Coding | None = None
    kmeans: KMeans = KMeans.OWN
    grid: bool = False
    parts: int | None = None
    cut_into: int = 1

    def cut(self, parts: int) -> Place:
        """The place of whole edges for edges in so many parts, which are no functions on a grid."""
        if parts == 1:
            return self
        how = None if self.coding is None else self.coding.cut(parts)
        return replace(self, cut_into=parts, coding=how, grid=False)


# Coefficients in the shape of a layer's, and the whole bias (out,) that goes with them.
Edges = tuple[Tensor, Tensor | None]

# Plain k-means of one layer by centroids, parts of edges, seed and most iterations.
Plain = dict[tuple[int, int, int, int], kmeans.Clustering]

# How a layer came to a clustering, that, and the bias of its outputs.
Candidate = tuple[Method, kmeans.Clustering, Tensor | None]

# Labels of those that are kept, at most.
_KEPT = 1 << 24
# Iterations of k-means and passes of solutions, about, that costs are foretold with; and what
# either costs at the least.
_ITERATIONS, _PASSES, _LEAST = 30, 12, 5e8
# By how many times a layer has fewer starts where bits have a price.
_FEWER = 4
# Coefficients of an output of a small layer, at most.
_SMALL = 4096


def flat_edges(layer: Solvable) -> Tensor:
    """Coefficients (out, edges of an output, d): of a convolution inputs and taps together."""
    edges: Tensor = layer.edges()
    return edges.detach().float().flatten(1, -2)


def pose(
    layer: Solvable,
    rows: Streams,
    config: CalibrationConfig,
    place: Place,
    progress: Progress = NOBODY,
) -> Problem:
    """Measure what a layer sees, for any number of clusters of edges, or of their parts.

    The moments are those of whole edges, numbered as if there were so many times as many inputs.

    progress : told of blocks of rows
    """
    weights, exponent = scaling.moderate(cut_edges(flat_edges(layer), place.cut_into))
    centred = place.biased and config.method is not Method.METRIC
    batches = _batches(layer, weights, rows, place)
    _, inputs, d = weights.shape
    blocks = len(_parts(layer, rows.dense)) * walks(inputs, d, config.memory)
    counted = _counted(batches, blocks, progress)
    moments = measure(counted, centred=centred, memory=config.memory, device=weights.device)
    # No second moment is larger than those on the diagonal.
    squares = [group.hessian.diagonal() for group in moments.groups]
    if not all(values.isfinite().all() for values in (*squares, moments.mean)):
        raise _too_large(layer)
    follow = rows.dense is not rows.packed
    problem = Problem if place.coding is None else CodedProblem
    return problem(
        weights,
        moments,
        config.damping,
        follow=follow,
        exponent=exponent,
        coding=place.coding,
        by=place.kmeans,
        gaps=partial(gaps, batches, moments),
        spread=_spreads(layer, rows, place, moments, weights.device),
    )


def _counted(batches: Batches, blocks: int, progress: Progress) -> Batches:
    """The same, each block told once it was made use of; blocks : of all walks together."""
    done = 0

    def walk() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal done
        for block in batches():
            yield block
            done += 1
            progress.at(done / blocks, "moments")

    return walk


def _spreads(
    layer: Solvable, rows: Streams, place: Place, found: Moments, device: torch.device
) -> tuple[Spread, Spread]:
    """What groups of inputs do to each other by all rows, and by few of them."""
    few = max(1, len(_parts(layer, rows.dense)) // _SAMPLED)
    walk = _Walk(partial(_features, layer, rows, place, device, 1))
    fewer = walk if few == 1 else _Walk(partial(_features, layer, rows, place, device, few))
    return partial(spread, walk, found), partial(spread, fewer, found)


class _Walk:
    """Blocks of features anew at each call; they are kept where they are few."""

    def __init__(self, walk: Callable[[], Iterator[Tensor]]) -> None:
        self._walk = walk
        self._kept: list[Tensor] | None = None

    def __call__(self) -> Iterator[Tensor]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Tensor] = []
        total = 0
        for features in self._walk():
            total += features.numel()
            if total <= _KEPT_FEATURES:
                kept.append(features)
            else:
                kept.clear()
            yield features
        self._kept = kept if total <= _KEPT_FEATURES else None


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Within it errors say which layer they are about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(
            f"Layer {shown(name)}: {error}", layer=name, tensor=error.tensor, fields=error.fields
        ) from None


def is_small(layer: Solvable) -> bool:
    """Whether `moved` takes but a moment."""
    edges: Tensor = layer.edges()
    return edges[0].numel() <= _SMALL


def moved(layer: EdgeLayer, rows: Streams, config: CalibrationConfig, place: Place) -> Edges:
    """The dense edges, moved towards the dense outputs behind layers that are packed."""
    problem = pose(layer, rows, config, place)
    weights = scaling.times_two_to(problem.aimed, problem.exponent)
    labels = torch.arange(weights.shape[0] * weights.shape[1], device=weights.device)
    bias = problem.bias(weights.flatten(0, 1), labels.view(weights.shape[:2]))
    return weights.view(layer.edges().shape), _stored_bias(bias, layer.bias, place)


def solve_layer(
    layer: Solvable,
    streams: tuple[Streams, Streams],
    number: Number,
    config: CalibrationConfig,
    place: Place,
    problem: Problem | None = None,
    *,
    price: float = 0.0,
    known: Plain | None = None,
    progress: Progress = NOBODY,
) -> LayerSolution:
    """Cluster one layer; never worse on the held-out rows than plain k-means with the same k, where
    bits have no price.

    streams : rows to calibrate on, and rows that are held out
    number  : of centroids, of edges in as many parts as it says
    problem : what `pose` made of the same layer and rows, where it is at hand; where it has edges
              of other parts it is not used
    price   : of a bit, as of `ClusterConfig`
    known   : plain k-means of the same layer and place, and gets what is found
    progress : told of blocks of rows and of passes
    """
    begin = time.perf_counter()
    if price:  # paid over and over in a search; prices move a solution farther than a start
        config = replace(config, starts=max(1, config.starts // _FEWER))
    clusters, parts = split(number)
    place = place.cut(parts)
    weights = cut_edges(flat_edges(layer), parts)
    # Passes take so many times as long, and short vectors depend less on where they start.
    config = replace(config, starts=max(1, config.starts // parts))
    if problem is not None and problem.d != weights.shape[2]:
        problem = None
    posed = problem is not None
    size = Size(out=weights.shape[0], width=weights[0].numel(), maps=layer.maps)
    first, second, third = progress.parts(size.costs(clusters, config, posed=posed))
    plain = _plain(weights, clusters, config, place, {} if known is None else known)
    start = _on_grid(layer, clusters, config, place) if place.grid else None
    candidates = _not_solved(weights, plain, start, config, place, price)
    first.at(1.0, "plain k-means")
    slope = None
    if config.method is not Method.KMEANS:
        problem = problem or pose(layer, streams[0], config, place, second)
        try:
            found = problem.solve(clusters, config, start, price=price, progress=third)
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError):  # type: ignore[attr-defined]
            raise _too_large(layer) from None
        slope = found.slope
        candidates.append((config.method, *_as_stored(found, problem, place)))
    tried = [
        (clustering, _stored_bias(bias, layer.bias, place)) for _, clustering, bias in candidates
    ]
    errors, held_out = (output_errors(layer, weights, s, tried, place) for s in streams)
    progress.at(1.0)
    if not math.isfinite(errors[0]) or not math.isfinite(held_out[0]):
        raise _too_large_outputs(layer)
    solutions = [
        LayerSolution(
            clustering=clustering,
            bias=bias,
            method=candidates[number][0],
            error=errors[number],
            held_out=held_out[number],
            plain=errors[0],
            plain_held_out=held_out[0],
            seconds=time.perf_counter() - begin,
            coding=place.coding,
            slope=slope if number else None,
        )
        for number, (clustering, bias) in enumerate(tried)
    ]
    return _best_of(solutions, price)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a layer is: its outputs, the coefficients of each, and whether rows are maps."""

    out: int
    width: int
    maps: bool

    @classmethod
    def of(cls, layer: Solvable) -> Size:
        """The size of a layer."""
        edges: Tensor = layer.edges()
        return cls(out=len(edges), width=edges[0].numel(), maps=layer.maps)

    def costs(
        self, clusters: int, config: CalibrationConfig, *, posed: bool
    ) -> tuple[float, float, float]:
        """About how long plain k-means, the moments and the solution take beside each other:
        products of numbers.

        posed : whether the moments are at hand
        """
        near = _LEAST + _ITERATIONS * self.out * self.width * clusters
        if config.method is Method.KMEANS:
            return near, 0.0, 0.0
        rows = config.samples * (PLACES if self.maps else 1)
        moments = 0.0 if posed else rows * self.width * (self.width / 2 + self.out)
        starts = starts_of(self.out, self.width, clusters, config.starts)
        return near, moments, starts * (near + _PASSES * self.out * self.width**2)


def _not_solved(
    weights: Tensor,
    plain: kmeans.Clustering,
    on_grid: kmeans.Clustering | None,
    config: CalibrationConfig,
    place: Place,
    price: float,
) -> list[Candidate]:
    """Clusterings that see no rows, plain k-means first."""
    found: list[Candidate] = [(Method.KMEANS, _rounded(plain, place.dtype), None)]
    if price and config.method is Method.KMEANS:
        inputs = _inputs(weights, place.coding)
        points = coding.plain_vectors(weights, place.coding)
        paid = prices.cluster(points, plain, inputs, price, config.memory)
        found.append((Method.KMEANS, _rounded(paid, place.dtype), None))
    if on_grid is not None and not price:
        found.append((Method.KMEANS, on_grid, None))
    return found


def _as_stored(
    found: Solution, problem: Problem, place: Place
) -> tuple[kmeans.Clustering, Tensor | None]:
    """A solution in the layer's own numbers as they will be stored, and the bias of its outputs."""
    stored = partial(_stored, found.labels, problem, place)
    if place.dtype == torch.int8:  # whose steps are wide, and all edges of a centroid err alike
        found = problem.rounded(found, stored)
    codebook = scaling.times_two_to(stored(found.codebook), problem.exponent)
    bias = problem.bias(codebook, found.labels)
    return _clustering(codebook, found, place.coding), bias


def _best_of(solutions: list[LayerSolution], price: float) -> LayerSolution:
    """The best on the held-out rows, the first of which is plain k-means; where bits have a price
    the one that was solved with it, as the others' indices take more bytes."""
    finite = [one for one in solutions if math.isfinite(one.error + one.held_out)]
    if price and len(finite) > 1:
        return finite[1]
    best = min(finite, key=lambda solution: solution.held_out)
    return best if best is solutions[0] else replace(best, fallback=solutions[0])


def _stored_bias(bias: Tensor | None, own: nn.Parameter | None, place: Place) -> Tensor | None:
    """The whole bias as it is stored: what calibration found and the layer's own."""
    bias = None if bias is None else bias.cpu()
    if own is not None:
        bias = own.detach().cpu().double() + (0.0 if bias is None else bias)
    return None if bias is None else rounded(bias, place.side_dtype, "bias").float()


def _plain(
    weights: Tensor, clusters: int, config: CalibrationConfig, place: Place, known: Plain
) -> kmeans.Clustering:
    key = (clusters, place.cut_into, config.seed, config.max_iterations)
    if key in known:
        return known[key]
    found = kmeans.fit(
        coding.plain_vectors(weights, place.coding),
        clusters,
        seed=config.seed,
        max_iterations=config.max_iterations,
        by=place.kmeans,
        memory=config.memory,
    )
    if (len(known) + 1) * len(found.labels) <= _KEPT:
        known[key] = found
    return found


def _inputs(weights: Tensor, how: Coding | None) -> np.ndarray:
    """Number of the input of each packed edge, (n,)."""
    out, inputs, _ = weights.shape
    found = np.tile(np.arange(inputs), out)
    return found if how is None else found[how.packed.reshape(-1).numpy()]


def _on_grid(
    layer: Solvable, clusters: int, config: CalibrationConfig, place: Place
) -> kmeans.Clustering:
    """k-means of functions, its centroids as they are stored."""
    assert isinstance(layer, EdgeLayer)  # `Place.grid` is for those alone
    found = grid.cluster(
        layer,
        clusters,
        dtype=place.dtype,
        seed=config.seed,
        max_iterations=config.max_iterations,
    )
    return _rounded(found, place.dtype)


def _rounded(found: kmeans.Clustering, dtype: torch.dtype) -> kmeans.Clustering:
    centroids = rounded(torch.from_numpy(found.centroids), dtype).double().numpy()
    return kmeans.canonical(
        centroids,
        found.labels,
        inertia=found.inertia,
        iterations=found.iterations,
        exact=found.exact,
        repaired=found.repaired,
    )


def _stored(labels: Tensor, problem: Problem, place: Place, codebook: Tensor) -> Tensor:
    """A codebook of the problem's numbers, rounded as the layer's own will be stored.

    Centroids that no edge uses are zeros: what is left out of the file has no say in the scales of
    what is stored.
    """
    packed = labels if place.coding is None else labels[place.coding.packed.to(labels.device)]
    unused = torch.ones(len(codebook), dtype=torch.bool, device=labels.device)
    unused[packed.reshape(-1)] = False
    own = scaling.times_two_to(codebook.masked_fill(unused[:, None], 0.0), problem.exponent)
    return scaling.times_two_to(rounded(own, place.dtype).float(), -problem.exponent)


def _clustering(codebook: Tensor, found: Solution, how: Coding | None) -> kmeans.Clustering:
    """The solution in the canonical order, centroids without edges left out."""
    labels = found.labels.reshape(-1).cpu()
    if how is not None:
        labels = labels[how.packed.reshape(-1)]
    used, labels = torch.unique(labels, return_inverse=True)
    return kmeans.canonical(
        codebook.cpu()[used].double().numpy(),
        labels.numpy(),
        inertia=0.0,
        iterations=found.iterations,
        exact=False,
        repaired=found.repaired,
    )


def _batches(layer: Solvable, weights: Tensor, rows: Streams, place: Place) -> Batches:
    """Features of the packed stream and outputs of the dense layer, without its bias.

    weights : (out, m, d), cut as the place says
    """
    parts = place.cut_into
    matrix = weights.transpose(1, 2).flatten(1)
    packed = place.rounded or layer
    same = packed is layer and rows.dense is rows.packed
    device = weights.device

    def walk() -> Iterator[tuple[Tensor, Tensor]]:
        with torch.no_grad():
            for part in _parts(layer, rows.dense):
                places = _places(layer, rows.dense[part], rows.places, part.start).to(device)
                x = rows.packed[part].to(device)
                features = cut_features(packed.columns(x, places).float(), parts)
                if same:
                    yield features, features.flatten(1) @ matrix.T
                    continue
                dense = rows.dense[part].to(device)
                own = cut_features(layer.columns(dense, places).float(), parts)
                targets = own.flatten(1) @ matrix.T
                beside = layer.beside(dense, places), packed.beside(x, places)
                if beside[0] is not None and beside[1] is not None:
                    targets += beside[0] - beside[1]
                yield features, targets

    return walk


def _features(
    layer: Solvable, rows: Streams, place: Place, device: torch.device, every: int
) -> Iterator[Tensor]:
    """Features of the same rows in the same order without targets, of one block in so many."""
    packed = place.rounded or layer
    with torch.no_grad():
        for part in _parts(layer, rows.dense)[::every]:
            places = _places(layer, rows.dense[part], rows.places, part.start).to(device)
            x = rows.packed[part].to(device)
            yield cut_features(packed.columns(x, places).float(), place.cut_into)


def _parts(layer: Solvable, x: Tensor) -> list[slice]:
    """The rows a block at a time."""
    step = IMAGES if layer.maps else STEP
    return [slice(start, start + step) for start in range(0, len(x), step)]


def _places(layer: Solvable, x: Tensor, most: int, seed: int) -> Tensor:
    """Numbers of the sums of each row that are looked at, (rows, at most so many)."""
    count = layer.places(x)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(len(x), count, generator=generator).argsort(1)
    return order[:, :most]


def output_errors(
    layer: Solvable,
    weights: Tensor,
    rows: Streams,
    candidates: list[tuple[kmeans.Clustering, Tensor | None]],
    place: Place,
) -> list[float]:
    """Squared errors of the sums over the edges, as `relative` has them.

    candidates : clusterings, each with the bias (out,) that goes with it
    """
    own = 0.0 if layer.bias is None else layer.bias.detach().cpu().double()
    matrices = [
        coding.coefficients(c, weights, place.coding).transpose(1, 2).flatten(1).T
        for c, _ in candidates
    ]
    shifts = [(0.0 if bias is None else bias.double()) - own for _, bias in candidates]
    errors = [0.0] * len(candidates)
    outputs = []
    for features, targets in _batches(layer, weights, rows, place)():
        flat, wanted = features.flatten(1), targets.cpu().double()
        for number, (matrix, shift) in enumerate(zip(matrices, shifts, strict=True)):
            gap = (flat @ matrix).cpu().double() + shift - wanted
            errors[number] += float(gap.square().sum())
        outputs.append(wanted)
    scale = _scale(torch.cat(outputs))
    return [error / scale for error in errors]


def through(layer: EdgeLayer, x: Tensor, coefficients: Tensor, bias: Tensor | None) -> Tensor:
    """The layer with other coefficients and another bias, a block of rows at a time on the device
    of the coefficients."""
    device = coefficients.device
    bias = None if bias is None else bias.to(device)
    with torch.no_grad():
        parts = [layer.run(x[p].to(device), coefficients, bias).cpu() for p in _parts(layer, x)]
    return torch.cat(parts)


# Outputs whose spread is below this share of their squares are equal but for rounding.
_EQUAL = 1e-10


def relative(outputs: Tensor, targets: Tensor) -> float:
    """Squared distance of outputs from targets, relative to the spread of the targets.

    Where the targets are the same for all rows it is relative to their squares, and where they are
    zero it is the squared distance itself.
    """
    wide = targets.double()
    return float((outputs.double() - wide).square().sum()) / _scale(wide)


def _scale(targets: Tensor) -> float:
    """What squared errors are compared with; (rows, ...) float64."""
    spread = float((targets - targets.mean(0)).square().sum())
    return scale_of(spread, float(targets.square().sum()))


def scale_of(spread: float, squares: float) -> float:
    """The same from the targets' spread around their means and the sum of their squares."""
    return spread if spread > _EQUAL * squares else squares or 1.0
