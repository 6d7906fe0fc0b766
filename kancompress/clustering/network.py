"""From a network and unlabelled rows to a clustering of all its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from kancompress.clustering import allocation, price_search
from kancompress.clustering.allocation import Choice, Curve
from kancompress.clustering.curves import TellProbe, measure_curves
from kancompress.clustering.cuts import Number, split, times_as_many
from kancompress.clustering.flow import Flow
from kancompress.clustering.kept import Kept
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import LayerSolution, Size, naming, pose, solve_layer
from kancompress.clustering.price_search import MOST_TRIES, Solve, Tried, price_for
from kancompress.clustering.progress import NOBODY, Progress, TellShare
from kancompress.config import CalibrationConfig, Method, Target
from kancompress.errors import KancompressError, TooSmallError, UsageError
from kancompress.models import lines

# The share of rows that are held out, and the most of them.
_HELD_OUT, _MOST_HELD_OUT = 8, 2048
# Attempts at reaching an error that was asked for.
_ATTEMPTS = 5
# Choices whose promised error is more than so many times the wanted one are not tried.
_HOPE = 2.0
# Layers whose numbers of centroids one line shows.
_MOST_TOLD = 4

Clusters = Mapping[str, Number | None]
Tell = Callable[[str, LayerSolution], None]
# Numbers of centroids, the price of a bit, the file's bytes, and the error on held-out rows.
TellTry = Callable[[Clusters, float, int, float], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NetworkSolution:
    """Solutions by layer name, and the error of the network's outputs.

    error, held_out : as in LayerSolution, of the network's outputs
    plain, plain_held_out : the same with plain k-means in all layers, None where they were not
                      measured; `held_out` is never more but where bits had a price

    >>> import kancompress
    >>> quick = kancompress.CalibrationConfig(method="kmeans", samples=200)
    >>> packed = kancompress.cluster("digits.safetensors", rows="digits", calibration=quick)
    >>> solution = packed.calibrated.solution
    >>> list(solution.layers), 0 < solution.held_out < 1
    (['0', '1'], True)
    """

    layers: Mapping[str, LayerSolution]
    error: float
    held_out: float
    plain: float | None = None
    plain_held_out: float | None = None

    def __repr__(self) -> str:
        layers = lines.counted(len(self.layers), "layer")
        errors = f"error of the outputs {self.error:.3g}, {self.held_out:.3g} on held-out rows"
        return lines.line("NetworkSolution", layers, errors)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Calibrated:
    """Result of `calibrate`: clusters by layer, what was chosen from, and the solutions.

    clusters  : centroids of each layer, a `Cut` where edges are cut into parts, None where the
                layer stays dense
    predicted : error of the network's outputs that the curves promised, None without curves
    price     : of a bit, as of `ClusterConfig`
    solution  : None where only the choice was asked for

    >>> import kancompress
    >>> quick = kancompress.CalibrationConfig(method="kmeans", samples=200)
    >>> packed = kancompress.cluster(
    ...     "digits.safetensors", rows="digits", calibration=quick, clusters=4
    ... )
    >>> packed.calibrated.clusters
    {'0': 4, '1': 4}
    """

    clusters: Clusters
    curves: Mapping[str, Curve]
    predicted: float | None
    solution: NetworkSolution | None
    price: float = 0.0

    def __repr__(self) -> str:
        told = [f"{name}: {k if k is not None else 'dense'}" for name, k in self.clusters.items()]
        most = ", ".join(told[:_MOST_TOLD])
        more = f" and {len(told) - _MOST_TOLD:,} more" if len(told) > _MOST_TOLD else ""
        error = None if self.predicted is None else f"predicted error {self.predicted:.3g}"
        if self.solution is not None:
            error = f"error of the outputs {self.solution.held_out:.3g}"
        return lines.line("Calibrated", f"centroids {most}{more}", error)


def sample(rows: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to calibrate on and rows to check on, drawn at random without replacement.

    They are on the CPU. Raises UsageError for too few rows and for rows that are not finite.
    """
    if len(rows) < 2 * _HELD_OUT:
        raise UsageError(
            f"Calibration needs at least {2 * _HELD_OUT} rows, and some thousands to be of use;"
            f" there are {len(rows)}."
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    order = order.to(rows.device)
    held = min(_MOST_HELD_OUT, len(rows) // _HELD_OUT)
    chosen = [rows[order[held : held + count]].cpu(), rows[order[:held]].cpu()]
    for part in chosen:
        if not part.isfinite().all():
            raise UsageError("The rows to calibrate on hold NaN or infinity; leave them out.")
    return chosen[0], chosen[1]


def solve_network(
    flow: Flow,
    clusters: Clusters,
    config: CalibrationConfig,
    *,
    price: float = 0.0,
    first: Problem | None = None,
    tell: Tell | None = None,
    progress: Progress = NOBODY,
) -> NetworkSolution:
    """Cluster layers one after another; those whose number of clusters is None stay dense.

    Where the network's outputs come nearer to the dense ones on held-out rows with plain k-means
    in all layers, that is the result, but where bits have a price: then it takes more bytes.
    Raises KancompressError where neither puts out numbers.

    flow  : restarted first
    price : of a bit, as of `ClusterConfig`
    first : the first layer's problem, where it is at hand
    progress : told of every pass of every layer
    """
    flow.restart()
    solutions: dict[str, LayerSolution] = {}
    parts = _parts(flow, clusters, config, first, progress)
    for number, (name, layer) in enumerate(flow.layers.items()):
        k = clusters[name]
        if k is not None:
            own = first if number == 0 else None
            parts[name].at(0.0)
            with naming(name):
                solutions[name] = solve_layer(
                    layer,
                    flow.seen(name),
                    k,
                    config,
                    flow.places[name],
                    own,
                    price=price,
                    known=flow.plain(name),
                    progress=parts[name],
                )
            if tell:
                tell(name, solutions[name])
        flow.settle(name, solutions.get(name))
    best = _measured(flow, solutions)
    if any(solution.fallback is not None for solution in solutions.values()):
        plain = {name: solution.fallback or solution for name, solution in solutions.items()}
        flow.restart()
        for name in flow.layers:
            flow.settle(name, plain.get(name))
        other = _measured(flow, plain)
        best = min(best, other, key=_finite_held_out)
        if math.isfinite(other.error + other.held_out):
            best = replace(best, plain=other.error, plain_held_out=other.held_out)
    if not math.isfinite(best.error + best.held_out):
        raise KancompressError(
            "The packed network puts out infinite numbers or NaN on some rows, where the dense one"
            " does not. Take more clusters, or leave `rows` out.",
            fields=("clusters", "rows"),
        )
    return best


def _parts(
    flow: Flow,
    clusters: Clusters,
    config: CalibrationConfig,
    first: Problem | None,
    progress: Progress,
) -> dict[str, Progress]:
    """The parts of a solution, by the layers that are clustered."""
    numbers = {name: k for name in flow.layers if (k := clusters[name]) is not None}
    if progress.tell is None:
        return dict.fromkeys(numbers, progress)
    begin = next(iter(flow.layers))
    taken = [
        sum(
            Size.of(flow.layers[name]).costs(
                split(number).clusters, config, posed=name == begin and first is not None
            )
        )
        for name, number in numbers.items()
    ]
    parts = zip(numbers, progress.parts(taken), strict=True)
    return {name: part.part(0.0, 1.0, f"layer {name}") for name, part in parts}


def _finite_held_out(solution: NetworkSolution) -> float:
    return solution.held_out if math.isfinite(solution.held_out) else math.inf


def _measured(flow: Flow, solutions: Mapping[str, LayerSolution]) -> NetworkSolution:
    error, held_out = flow.errors()
    return NetworkSolution(layers=solutions, error=error, held_out=held_out)


class Files(Protocol):
    """What is asked of the packed files that a choice leads to."""

    def weigh(self, clusters: Clusters, *, priced: bool = False) -> int | None:
        """Bytes with so many centroids, or no less than they will be; None where no layer would be
        packed but one has to be.

        priced : with what is beside the layers where bits have a price
        """

    def measure(self, solutions: Mapping[str, LayerSolution]) -> int | None:
        """Bytes with solutions, indices in the encodings that a price of bits gives them; None
        where no layer would be packed but one has to be."""

    def largest_plain(self, nbytes: int) -> Clusters | None:
        """The largest common number of centroids with which the file has at most so many bytes,
        indices of one width; None where there is none."""


def calibrate(
    open_flow: Callable[[Tensor, Tensor], Flow],
    rows: Tensor,
    clusters: Clusters | None,
    config: CalibrationConfig,
    *,
    files: Files,
    price: float | None = 0.0,
    target: Target | None = None,
    dry_run: bool = False,
    tell: Tell | None = None,
    tell_probe: TellProbe | None = None,
    tell_try: TellTry | None = None,
    tell_share: TellShare | None = None,
    kept: Kept | None = None,
) -> Calibrated:
    """Cluster the layers of a network in their order by what they put out.

    open_flow : makes the flow of rows to calibrate on and rows that are held out
    rows      : (n, ...) inputs of the network
    clusters  : centroids of each layer, None where it stays dense; or None to choose them for
                `target`
    price     : of a bit, as of `ClusterConfig`; None is searched for the target
    dry_run   : choose only; where a price or an error is asked for, that takes solving
    kept      : of earlier calls for the same network and rows, whose result this does not change
    With a price the result is no worse on the held-out rows than plain k-means in a file of at most
    as many bytes. Raises UsageError for rows that do not fit, KancompressError for a target out of
    reach.
    """
    flow = _opened(open_flow, rows, config, kept)
    if clusters is not None:
        progress = Progress(tell=tell_share)
        first = None if kept is None else _first(flow, clusters, config, kept, progress)
        solution = solve_network(
            flow, clusters, config, price=price or 0.0, first=first, tell=tell, progress=progress
        )
        found = Calibrated(
            clusters=clusters, curves={}, predicted=None, solution=solution, price=price or 0.0
        )
        return _checked(found, flow, files, config)
    if target is None:
        raise UsageError("To choose numbers of clusters, a target is needed: bytes or an error.")
    dry_run = dry_run and price is not None  # a price is known once all is solved
    most, priced_to = target.bytes, None
    if most is not None and price is None:
        most, priced_to = _RICHEST * most, most
    curves, first = measure_curves(
        flow,
        config,
        most_bytes=most,
        priced_to=priced_to,
        tell=tell_probe,
        progress=Progress(tell=tell_share, work="curves of single layers"),
        kept=kept,
    )
    solve = _Solver(
        flow=flow,
        config=config,
        curves=curves,
        first=first,
        wanted=not dry_run or target.error is not None,  # an error is known when it is measured
        tell=tell,
        tell_share=tell_share,
        most=_most_networks(target, price),
    )
    choices = allocation.frontier(list(curves.values()))
    search = _Search(list(curves.values()), choices, list(curves), files, solve, tell_try)
    if target.bytes is not None:
        found = search.within(target.bytes, price)
    else:
        assert target.error is not None
        found = search.reaching(target.error, price)
    return _checked(found, flow, files, config)


def _most_networks(target: Target, price: float | None) -> int:
    """How many networks a search for a target solves at the most."""
    without = 1 if target.bytes is not None else 2 * _ATTEMPTS
    return without + (MOST_TRIES if price is None else 0)


@dataclass(slots=True, eq=False, kw_only=True)
class _Solver:
    """Solves the network with the numbers of centroids of a choice.

    first  : the first layer's problem
    wanted : whether anything is solved, or the choice alone is asked for
    tell   : of each layer; tell_share: how far the search is
    most   : networks that are solved; count: that were so far
    """

    flow: Flow
    config: CalibrationConfig
    curves: Mapping[str, Curve]
    first: Problem | None
    wanted: bool
    tell: Tell | None
    tell_share: TellShare | None
    most: int
    count: int = 0

    def __call__(self, choice: Choice, price: float) -> Calibrated:
        """The choice at a price of a bit."""
        chosen = dict(zip(self.curves, choice.clusters, strict=True))
        solution = None
        if self.wanted:
            solution = solve_network(
                self.flow,
                chosen,
                self.config,
                price=price,
                first=self.first,
                tell=self.tell,
                progress=self._next(),
            )
        return Calibrated(
            clusters=chosen,
            curves=self.curves,
            predicted=choice.error,
            solution=solution,
            price=price,
        )

    def _next(self) -> Progress:
        """The part of the search that the next network is."""
        self.count += 1
        if self.most == 1:
            return Progress(tell=self.tell_share)
        whole = Progress(tell=self.tell_share, work=f"networks, at most {self.most}")
        before = (self.count - 1) / self.most
        return whole.part(before, self.count / self.most, f"network {self.count}")


def _opened(
    open_flow: Callable[[Tensor, Tensor], Flow],
    rows: Tensor,
    config: CalibrationConfig,
    kept: Kept | None,
) -> Flow:
    """The flow at its start, that of earlier calls where there is one."""
    if kept is not None and kept.flow is not None:
        kept.flow.restart()
        return kept.flow
    flow = open_flow(*sample(rows, config.samples, config.seed))
    if kept is not None:
        kept.flow = flow
    return flow


def _first(
    flow: Flow, clusters: Clusters, config: CalibrationConfig, kept: Kept, progress: Progress
) -> Problem | None:
    """The first layer's problem, whose moments are measured once for all numbers of clusters."""
    name, layer = next(iter(flow.layers.items()))
    number = clusters[name]
    if number is None or config.method is Method.KMEANS:
        return None
    if kept.first is None:
        place = flow.places[name].cut(split(number).parts)
        with naming(name):
            told = progress.part(0.0, 0.0, f"layer {name}")
            kept.first = pose(layer, flow.seen(name)[0], config, place, told)
    return kept.first


def _checked(found: Calibrated, flow: Flow, files: Files, config: CalibrationConfig) -> Calibrated:
    """The result, where bits had a price no worse than plain k-means of as many bytes."""
    if not found.price or found.solution is None:
        return found
    size = files.measure(found.solution.layers)
    return found if size is None else no_worse(found, size, flow, files, config)


# The share of their bits at which priced indices of a layer are about as good as others, and how
# many times as many centroids are tried in those bits.
_DISCOUNT, _MORE = 0.55, (1.0, 1.6, 2.6)
# Layers of less than this share of the edges of the largest are not taken to get cheaper: as a rule
# all of their inputs matter.
_LARGE = 0.1
# Shares of an error that centroids without a price may make, and prices to start at.
_FINER = ((0.4, 1.0), (0.15, 4.0))
# How many times the budget a layer without a price may take.
_RICHEST = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """For numbers of centroids, and a price, that meet a target.

    curves  : of the layers `names`; choices : of their numbers, by rising bytes
    solve   : a choice at a price; tell: of what that gave
    """

    curves: list[Curve]
    choices: list[Choice]
    names: list[str]
    files: Files
    solve: Callable[[Choice, float], Calibrated]
    tell: TellTry | None

    def within(self, budget: int, price: float | None) -> Calibrated:
        """The least error in at most so many bytes."""

        def sized(share: float) -> Choice:
            return _within(self.choices, self.names, int(share * budget), self.files.weigh)

        if price is not None:
            return self.solve(sized(1.0), price)
        first = refused = None
        try:
            first = self._tried(self.solve(sized(1.0), 0.0))
        except TooSmallError as error:  # a price may still bring it down
            refused = error
        richer = self._others(first, self._discounted(budget))
        found = price_search.least_error(budget, first, richer)
        if found is None:
            assert refused is not None
            raise refused
        return found.found

    def _discounted(self, budget: int) -> dict[float, Choice | None]:
        """The best choice where indices of large layers are cheaper by `_DISCOUNT`, and the same
        with more centroids in those; by the price that should bring them down to as many bytes."""
        most = max(curve.edges for curve in self.curves)
        large = [curve.edges >= _LARGE * most for curve in self.curves]
        curves = [
            curve.discounted(_DISCOUNT) if is_large else curve
            for curve, is_large in zip(self.curves, large, strict=True)
        ]
        base = self._best_discounted(budget, curves)
        if base is None:
            return {}
        packed = [
            split(number).clusters
            for number, is_large in zip(base.clusters, large, strict=True)
            if is_large and number is not None
        ]
        found: dict[float, Choice | None] = {}
        for times in _MORE if packed else _MORE[:1]:
            numbers = tuple(
                times_as_many(number, times) if is_large else number
                for number, is_large in zip(base.clusters, large, strict=True)
            )
            if any(
                curve.bytes_of(number) > curve.dense_bytes
                for curve, number in zip(curves, numbers, strict=True)
            ):
                break
            k = max(packed, default=2)
            share = _DISCOUNT * math.log(k) / math.log(times * k)
            found[price_for(share)] = replace(base, clusters=numbers)
        return found

    def _best_discounted(self, budget: int, curves: list[Curve]) -> Choice | None:
        for choice in sorted(allocation.frontier(curves), key=lambda choice: choice.error):
            clusters = dict(zip(self.names, choice.clusters, strict=True))
            size = self.files.weigh(clusters, priced=True)
            if size is None:
                continue
            saved = sum(
                curve.bytes_of(number) - own.bytes_of(number)
                for curve, own, number in zip(self.curves, curves, choice.clusters, strict=True)
            )
            if size - saved <= budget:
                return choice
        return None

    def reaching(self, error: float, price: float | None) -> Calibrated:
        """The fewest bytes with at most so much error."""
        weigh = self.files.weigh
        packable = [
            choice
            for choice in self.choices
            if weigh(dict(zip(self.names, choice.clusters, strict=True))) is not None
        ]

        def measured(choice: Choice) -> Calibrated:
            tried = self.solve(choice, price or 0.0)
            self._tried(tried)
            return tried

        found = reach(packable, error, measured)
        if price is not None or not error:
            return found
        finer = {price: allocation.smallest(packable, share * error) for share, price in _FINER}
        first = self._sized(found)
        assert first is not None  # only choices that are packed are tried
        richer = self._others(first, finer)
        return price_search.fewest_bytes(error, first, richer).found

    def _others(
        self, first: Tried[Calibrated] | None, choices: Mapping[float, Choice | None]
    ) -> list[tuple[float, Solve[Calibrated]]]:
        """Solves of choices that are not the first one, each once, with prices to start at.

        choices : by those prices
        """
        done = set() if first is None else {tuple(first.found.clusters.values())}
        found: list[tuple[float, Solve[Calibrated]]] = []
        for price, choice in choices.items():
            if choice is not None and choice.clusters not in done:
                done.add(choice.clusters)
                found.append((price, partial(self._priced, choice)))
        return found

    def _priced(self, choice: Choice, price: float) -> Tried[Calibrated] | None:
        return self._tried(self.solve(choice, price))

    def _tried(self, found: Calibrated) -> Tried[Calibrated] | None:
        """The same with its bytes, told; None where no layer would be packed."""
        tried = self._sized(found)
        if tried is not None and self.tell:
            self.tell(found.clusters, found.price, tried.bytes, tried.error)
        return tried

    def _sized(self, found: Calibrated) -> Tried[Calibrated] | None:
        assert found.solution is not None
        size = self.files.weigh(found.clusters)
        if found.price or size is None:
            size = self.files.measure(found.solution.layers)
        return None if size is None else Tried(found, size, found.solution.held_out)


def _within(
    choices: list[Choice], names: list[str], budget: int, weigh: Callable[[Clusters], int | None]
) -> Choice:
    """The best choice whose whole file takes at most `budget` bytes."""
    small = [choice for choice in choices if choice.bytes <= budget]
    for choice in sorted(small, key=lambda choice: choice.error):
        size = weigh(dict(zip(names, choice.clusters, strict=True)))
        if size is not None and size <= budget:
            return choice
    sizes = (weigh(dict(zip(names, choice.clusters, strict=True))) for choice in choices)
    least = next((size for size in sizes if size is not None), None)
    if least is None:
        raise KancompressError(
            "Every layer would grow at any number of clusters, and so would the whole file without"
            " loss, so no packed file can be made.",
            fields=("target.bytes", "target.ratio"),
        )
    raise TooSmallError(
        f"No choice of clusters by outputs gives a file of at most {budget:,} bytes; the smallest"
        f" has {least:,}.",
        hint="Raise `target.bytes` to that, or lower `target.ratio`.",
        fields=("target.bytes", "target.ratio"),
    )


def plain_network(
    flow: Flow, clusters: Clusters, config: CalibrationConfig, tell: Tell | None = None
) -> NetworkSolution:
    """The same by plain k-means of the edges."""
    return solve_network(flow, clusters, replace(config, method=Method.KMEANS), tell=tell)


def no_worse(
    found: Calibrated, size: int, flow: Flow, files: Files, config: CalibrationConfig
) -> Calibrated:
    """What was found at a price, or plain k-means in a file of at most as many bytes, whichever
    puts out less error on the held-out rows.

    size : bytes of what was found
    """
    k = files.largest_plain(size)
    if k is None:
        return found
    plain = plain_network(flow, k, config)
    assert found.solution is not None
    if not plain.held_out < found.solution.held_out:
        return found
    return replace(found, clusters=k, solution=plain, price=0.0)


def reach(choices: list[Choice], error: float, solve: Callable[[Choice], Calibrated]) -> Calibrated:
    """The smallest choice whose measured error is at most `error`.

    choices : by rising bytes and falling error, as the curves promise them

    The curves promise an error; where the measured one is larger, the aim is lowered, and at last
    the choice of least error is tried. Then smaller choices are tried, halving what lies between
    the largest that failed, or that the curves leave no hope for, and the smallest that did not.
    """
    aim, failed, best, least = error, -1, None, math.inf
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        choice = None if last else allocation.smallest(choices, aim)
        found = solve(choice or choices[-1])
        reached = _held_out(found)
        least = min(least, reached)
        if reached <= error:
            best = found
            break
        if choice is None:
            break
        failed = choices.index(choice)
        aim *= 0.7 * error / reached
    if best is None:
        tries = f", of {attempt + 1} networks that were tried" if attempt else ""
        raise KancompressError(
            f"No choice of clusters has an output error of at most {error:g}; the least has"
            f" {least:.3g}{tries}. Allow more with `target.error`.",
            fields=("target.error",),
        )
    passed = choices.index(choice or choices[-1])
    hopeless = sum(choice.error > _HOPE * error for choice in choices) - 1
    failed = max(failed, min(hopeless, passed - 1))
    for _ in range(_ATTEMPTS):
        if passed - failed <= 1:
            break
        middle = (passed + failed) // 2
        found = solve(choices[middle])
        if _held_out(found) <= error:
            best, passed = found, middle
        else:
            failed = middle
    return best


def _held_out(found: Calibrated) -> float:
    assert found.solution is not None
    return found.solution.held_out


__all__ = [
    "Calibrated",
    "Clusters",
    "NetworkSolution",
    "Tell",
    "TellTry",
    "calibrate",
    "sample",
    "solve_network",
]
