"""From a network and unlabelled rows to a clustering of all its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kancompress.clustering import allocation
from kancompress.clustering.allocation import Choice, Curve
from kancompress.clustering.curves import TellProbe, measure_curves
from kancompress.clustering.cuts import Number
from kancompress.clustering.flow import Flow
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import LayerSolution, naming, solve_layer
from kancompress.config import CalibrationConfig, Method, Target
from kancompress.errors import KancompressError, UsageError

# The share of rows that are held out, and the most of them.
_HELD_OUT, _MOST_HELD_OUT = 8, 2048
# Attempts at reaching an error that was asked for.
_ATTEMPTS = 5
# Choices whose promised error is more than so many times the wanted one are not tried.
_HOPE = 2.0

Clusters = Mapping[str, Number | None]
Tell = Callable[[str, LayerSolution], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NetworkSolution:
    """Solutions by layer name, and the error of the network's outputs.

    error, held_out : as in LayerSolution, of the network's outputs
    """

    layers: Mapping[str, LayerSolution]
    error: float
    held_out: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Calibrated:
    """Result of `calibrate`: clusters by layer, what was chosen from, and the solutions.

    clusters  : centroids of each layer, a `Cut` where edges are cut into parts, None where the
                layer stays dense
    predicted : error of the network's outputs that the curves promised, None without curves
    price     : of a bit, as of `CalibrationConfig`
    solution  : None where only the choice was asked for
    """

    clusters: Clusters
    curves: Mapping[str, Curve]
    predicted: float | None
    solution: NetworkSolution | None
    price: float = 0.0


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
    first: Problem | None = None,
    tell: Tell | None = None,
) -> NetworkSolution:
    """Cluster layers one after another; those whose number of clusters is None stay dense.

    Where the network's outputs come nearer to the dense ones on held-out rows with plain k-means
    in all layers, that is the result. Raises KancompressError where neither puts out numbers.

    flow  : restarted first
    first : the first layer's problem, where it is at hand
    """
    flow.restart()
    solutions: dict[str, LayerSolution] = {}
    for number, (name, layer) in enumerate(flow.layers.items()):
        k = clusters[name]
        if k is not None:
            own = first if number == 0 else None
            with naming(name):
                solutions[name] = solve_layer(
                    layer, flow.seen(name), k, config, flow.places[name], own
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
        best = min(best, _measured(flow, plain), key=_finite_held_out)
    if not math.isfinite(best.error + best.held_out):
        raise KancompressError(
            "The packed network puts out infinite numbers or NaN on some rows, where the dense one"
            " does not. Take more clusters, or leave `rows` out.",
            fields=("clusters", "rows"),
        )
    return best


def _finite_held_out(solution: NetworkSolution) -> float:
    return solution.held_out if math.isfinite(solution.held_out) else math.inf


def _measured(flow: Flow, solutions: Mapping[str, LayerSolution]) -> NetworkSolution:
    error, held_out = flow.errors()
    return NetworkSolution(layers=solutions, error=error, held_out=held_out)


def calibrate(
    open_flow: Callable[[Tensor, Tensor], Flow],
    rows: Tensor,
    clusters: Clusters | None,
    config: CalibrationConfig,
    *,
    target: Target | None = None,
    weigh: Callable[[Clusters], int | None] | None = None,
    measured: Callable[[Mapping[str, LayerSolution]], int] | None = None,
    dry_run: bool = False,
    tell: Tell | None = None,
    tell_probe: TellProbe | None = None,
) -> Calibrated:
    """Cluster the layers of a network in their order by what they put out.

    open_flow : makes the flow of rows to calibrate on and rows that are held out
    rows      : (n, ...) inputs of the network
    clusters  : centroids of each layer, None where it stays dense; or None to choose them for
                `target`, with `weigh` telling the bytes of the file for any choice
    measured  : tells the bytes of the file with solutions, indices in the encoding that is
                smallest; with it a price of bits is searched, too, where `config` has none
    dry_run   : choose only
    Raises UsageError for rows that do not fit, KancompressError for a target out of reach.
    """
    check_price(config)
    flow = open_flow(*sample(rows, config.samples, config.seed))
    if clusters is not None:
        solution = solve_network(flow, clusters, config, tell=tell)
        return Calibrated(
            clusters=clusters,
            curves={},
            predicted=None,
            solution=solution,
            price=config.price or 0.0,
        )
    if target is None or weigh is None:
        raise UsageError("To choose numbers of clusters, a target is needed: bytes or an error.")
    curves, first = measure_curves(flow, config, most_bytes=target.bytes, tell=tell_probe)
    choices = allocation.frontier(list(curves.values()))
    names = list(curves)

    def solve(choice: Choice, price: float | None = config.price) -> Calibrated:
        chosen = dict(zip(names, choice.clusters, strict=True))
        solution = None
        if not dry_run or target.error is not None:  # an error is known when it is measured
            own = replace(config, price=price)
            solution = solve_network(flow, chosen, own, first=first, tell=tell)
        return Calibrated(
            clusters=chosen,
            curves=curves,
            predicted=choice.error,
            solution=solution,
            price=price or 0.0,
        )

    if (budget := target.bytes) is not None:

        def within(share: float) -> Choice:
            return _within(choices, names, int(share * budget), weigh)

        found = solve(within(1.0))
        if measured is None or dry_run or config.price is not None or not has_price(config):
            return found
        return best_price(found, budget, within, solve, measured)
    assert target.error is not None
    packable = [c for c in choices if weigh(dict(zip(names, c.clusters, strict=True))) is not None]
    return reach(packable, target.error, lambda choice: solve(choice))


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
    least = next(size for size in sizes if size is not None)
    raise KancompressError(
        f"No choice of clusters gives a file of at most {budget} bytes; the smallest has {least}."
        " Raise `target.bytes` to that, or lower `target.ratio`.",
        fields=("target.bytes", "target.ratio"),
    )


def has_price(config: CalibrationConfig) -> bool:
    """Whether the method can count bits: those that assign an edge by what others leave."""
    return config.method in (Method.FEEDBACK, Method.SWEEPS)


def check_price(config: CalibrationConfig) -> None:
    """Refuse a price that is none, or that the method does not count. Raises UsageError."""
    if config.price is None:
        return
    if not 0 <= config.price < math.inf:
        raise UsageError(
            f"`price={config.price:g}` is no price; a finite number from 0 on was expected.",
            fields=("price",),
        )
    if config.price and not has_price(config):
        raise UsageError(
            f"`method={config.method}` counts no bits; take `method=feedback` or `method=sweeps`,"
            " or leave `price` out.",
            fields=("price", "method"),
        )


# Shares of the budget that indices of one width may take before they are priced down to it; solves
# for each; the share of the budget that a file should use.
_RICHER, _PRICES, _FULL = (1.4, 2.0), 4, 0.98
# How the logarithm of a file's bytes falls with that of the price: least, usual and most.
_SLOPES = (-0.15, -0.33, -0.6)


def best_price(
    unpriced: Calibrated,
    budget: int,
    richer: Callable[[float], Choice],
    solve: Callable[[Choice, float | None], Calibrated],
    measured: Callable[[Mapping[str, LayerSolution]], int],
) -> Calibrated:
    """The best of what fits into so many bytes: more centroids, and bits at a price.

    unpriced : the best that fits without a price
    richer   : the best choice of centroids without a price in a share of the budget
    """
    best, tried = unpriced, {tuple(unpriced.clusters.values())}
    price = 1.0
    for share in _RICHER:
        choice = richer(share)
        if choice.clusters in tried:
            continue
        tried.add(choice.clusters)
        points: list[tuple[float, float]] = []
        for _ in range(_PRICES):
            found = solve(choice, price)
            assert found.solution is not None
            size = measured(found.solution.layers)
            points.append((math.log(price), math.log(size / budget)))
            if size <= budget and _held_out(found) < _held_out(best):
                best = found
            if _FULL * budget <= size <= budget:
                break
            price = _next_price(points)
        if tuple(best.clusters.values()) != choice.clusters:
            break  # still more centroids are no better
    return best


def _next_price(points: list[tuple[float, float]]) -> float:
    """Where the bytes should meet the budget, a hair below it.

    points : logarithms of prices, and of the bytes that they gave in budgets
    """
    aim = math.log((1 + _FULL) / 2)
    above = [point for point in points if point[1] > aim]
    below = [point for point in points if point[1] <= aim]
    if above and below:  # between the two that are nearest
        (x, y), (a, b) = min(above, key=lambda point: point[1]), max(below, key=lambda p: p[1])
        return math.exp(x + (a - x) * (y - aim) / (y - b))
    (x, y), (least, slope, most) = points[-1], _SLOPES
    if len(points) > 1 and points[-2][0] != x:
        a, b = points[-2]
        slope = min(least, max(most, (y - b) / (x - a)))
    return math.exp(x + (aim - y) / slope)


def reach(choices: list[Choice], error: float, solve: Callable[[Choice], Calibrated]) -> Calibrated:
    """The smallest choice whose measured error is at most `error`.

    choices : by rising bytes and falling error, as the curves promise them

    The curves promise an error; where the measured one is larger, the aim is lowered, and at last
    the choice of least error is tried. Then smaller choices are tried, halving what lies between
    the largest that failed, or that the curves leave no hope for, and the smallest that did not.
    """
    aim, failed, best = error, -1, None
    for attempt in range(_ATTEMPTS):
        last = attempt == _ATTEMPTS - 1
        choice = None if last else allocation.smallest(choices, aim)
        found = solve(choice or choices[-1])
        reached = _held_out(found)
        if reached <= error:
            best = found
            break
        if choice is None:
            break
        failed = choices.index(choice)
        aim *= 0.7 * error / reached
    if best is None:
        raise KancompressError(
            f"No choice of clusters has an output error of at most {error:g}; the least has"
            f" {reached:.3g}. Allow more with `target.error`.",
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
    "calibrate",
    "sample",
    "solve_network",
]
