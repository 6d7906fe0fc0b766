"""Which price of a bit, and how many centroids, meet a target best.

More centroids than fit into the target without a price are tried; the price that brings them down
to it is searched where bytes and error are taken to be powers of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """What was found at a price, the whole file's bytes, and the error."""

    found: T
    bytes: int
    error: float


# Solves at a price, of a number of centroids; None where no layer would be packed.
Solve = Callable[[float], Tried[T] | None]

# Most prices that are tried for a number of centroids, and for all of them together.
_PRICES, MOST_TRIES = 6, 8
# The share of a budget that a file should use, and of an error that is allowed.
FULL, _NEAR = 0.98, 0.93
# Indices of trained networks take about this share of their bytes at one width at a price of 1, and
# it falls with this power of the price.
_SHARE, _FALL = 0.55, 0.3
# Least and most price that is tried, and the least amount whose logarithm is looked at.
_LEAST, _MOST, _TINY = 1e-4, 1e4, 1e-30
# How the logarithm of a file's bytes falls with that of the price, and how that of the error rises:
# least, usual and most.
_FALLS, _RISES = (-0.15, -0.33, -0.6), (0.2, 0.6, 1.2)
# About the power of its bytes that the error of priced networks falls with.
_TRADE = 3.0


def least_error(
    budget: int, best: Tried[T] | None, richer: Iterable[tuple[float, Solve[T]]]
) -> Tried[T] | None:
    """The least error in at most so many bytes; None where nothing fits.

    best   : without a price, within the budget; None where nothing is
    richer : of more and more centroids, each with the price to start at
    """
    return _searched(
        best,
        richer,
        amount=lambda tried: tried.bytes / budget,
        worth=_error,
        near=FULL,
        slopes=_FALLS,
        trade=_TRADE,
    )


def fewest_bytes(
    error: float, best: Tried[T], richer: Iterable[tuple[float, Solve[T]]]
) -> Tried[T]:
    """The fewest bytes with at most so much error, above 0.

    best   : without a price, within the error
    richer : of more and more centroids, each with the price to start at
    """
    found = _searched(
        best,
        richer,
        amount=lambda tried: min(max(_error(tried) / error, _TINY), 1 / _TINY),
        worth=lambda tried: tried.bytes,
        near=_NEAR,
        slopes=_RISES,
        trade=1 / _TRADE,
    )
    assert found is not None
    return found


@dataclass(slots=True)
class _Line(Generic[T]):
    """Numbers of centroids at the prices that were tried: logarithms of prices and of amounts, and
    what the first is worth where its amount is brought to 1."""

    solve: Solve[T]
    known: list[tuple[float, float]]
    promise: float


def _searched(
    best: Tried[T] | None,
    richer: Iterable[tuple[float, Solve[T]]],
    *,
    amount: Callable[[Tried[T]], float],
    worth: Callable[[Tried[T]], float],
    near: float,
    slopes: tuple[float, float, float],
    trade: float,
) -> Tried[T] | None:
    """The best of those whose amount is at most 1.

    amount : what has a target, in that target; above 0
    worth  : the less the better
    near   : amounts from here to 1 end the search of a number of centroids
    slopes : of the amount over the price, as of `next_price`
    trade  : the power of the amount that the worth falls with

    Numbers of centroids are solved at their first prices as long as they promise more and more;
    where one misses the target, the prices of the next ones move by what would have met it. From
    there the most promising is brought to its target, and the next one as long as it promises more
    than was found.
    """
    tries = 0

    def tried_at(price: float, solve: Solve[T]) -> tuple[float, float] | None:
        """Amount and worth."""
        nonlocal best, tries
        tries += 1
        tried = solve(price)
        if tried is None:
            return None
        own = amount(tried)
        if own <= 1 and (best is None or worth(tried) < worth(best)):
            best = tried
        return own, worth(tried)

    aim = math.log((1 + near) / 2)
    lines: list[_Line[T]] = []
    moved = 0.0  # by how much the logarithms of first prices moved
    for start, solve in richer:
        price = _tried_at(math.log(start) + moved)
        first = tried_at(price, solve)
        if first is None:
            break
        moved += min(aim - math.log(first[0]), 0.0) / slopes[1]
        known = [(math.log(price), math.log(first[0]))]
        lines.append(_Line(solve, known, first[1] * first[0] ** trade))
        if len(lines) > 1 and lines[-1].promise > lines[-2].promise:
            break  # still more centroids are no better
    for line in sorted(lines, key=lambda line: line.promise):
        if best is not None and line.promise >= worth(best):
            break
        while not math.log(near) <= line.known[-1][1] <= 0:
            if tries >= MOST_TRIES or len(line.known) >= _PRICES:
                break
            price = next_price(line.known, aim, slopes)
            further = tried_at(price, line.solve)
            if further is None:
                break
            line.known.append((math.log(price), math.log(further[0])))
    return best


def price_for(share: float) -> float:
    """About the price at which indices take a share of their bytes at one width."""
    return float((_SHARE / share) ** (1 / _FALL))


def _error(tried: Tried[T]) -> float:
    return tried.error if math.isfinite(tried.error) else math.inf


def next_price(
    known: list[tuple[float, float]], aim: float, slopes: tuple[float, float, float]
) -> float:
    """The price at which a quantity should meet its aim, within those that are tried.

    known  : logarithms of prices and of the quantity, in what it should be at the most
    slopes : of the one over the other: least, usual and most
    """
    above = [point for point in known if point[1] > aim]
    below = [point for point in known if point[1] <= aim]
    (x, y), (least, slope, most) = known[-1], slopes
    if len(known) > 1 and known[-2][0] != x:
        a, b = known[-2]
        low, high = sorted((least, most))
        slope = min(high, max(low, (y - b) / (x - a)))
    beyond = x + (aim - y) / slope
    if not (above and below):
        return _tried_at(beyond)
    (x, y), (a, b) = min(above, key=lambda p: p[1]), max(below, key=lambda p: p[1])
    if (known[-1][1] > aim) == (known[-2][1] > aim) and min(x, a) < beyond < max(x, a):
        return _tried_at(beyond)  # the line between the two is bent
    return _tried_at(x + (a - x) * (y - aim) / (y - b))


def _tried_at(logarithm: float) -> float:
    return math.exp(min(max(logarithm, math.log(_LEAST)), math.log(_MOST)))
