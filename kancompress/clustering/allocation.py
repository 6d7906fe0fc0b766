"""How many centroids each layer should have: what a byte buys at the network's output.

A curve tells for some numbers of centroids what a layer's clustering alone costs at the output,
where a small layer comes next without what that can repair of it; between them log error is taken
to be linear in log k. Errors of layers are taken to add up, which independent errors do. All
choices that no other beats in both bytes and error are built up layer by layer, so the best one for
any budget is found exactly under these assumptions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kancompress.clustering.cuts import Number, number_of, split
from kancompress.formats.packed.encodings import index_bytes, layer_bytes

# Numbers of centroids at which curves are measured.
PROBES = (2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Error at the network's output against k for one layer.

    edges, coefficients, itemsize : of the layer and its stored centroids
    scale        : bytes that each coefficient of the codebook has beside its numbers
    masked       : how many of the edges point to a centroid of their own, which is zero
    dense_bytes  : what the layer weighs unpacked
    errors       : k to relative error, for some k
    parts        : of an edge, each with its own index
    shorter      : the layer's curves with other numbers of parts
    share        : of log2 k bits an index, what indices are taken to have; None: all of one width

    >>> import kancompress
    >>> curve = kancompress.Curve(
    ...     edges=2048, coefficients=9, itemsize=4, dense_bytes=73728, errors={4: 0.2, 16: 0.05}
    ... )
    >>> curve.bytes_at(16)  # 4 bits an index, and 16 centroids of 9 numbers of 4 bytes
    1600
    """

    edges: int
    coefficients: int
    itemsize: int
    dense_bytes: int
    errors: Mapping[int, float]
    scale: int = 0
    masked: int = 0
    parts: int = 1
    shorter: tuple[Curve, ...] = ()
    share: float | None = None

    def __repr__(self) -> str:
        ks = [k for k in self.errors if k]
        span = f"{min(ks)} to {max(ks)} centroids" if ks else "no centroids"
        return f"<Curve: {self.edges:,} edges of {self.coefficients} coefficients, {span}>"

    def bytes_at(self, k: int) -> int:
        """Index and codebook bytes."""
        rows = k + (1 if self.masked else 0)
        whole = layer_bytes(
            self.edges, self.coefficients, self.itemsize, rows, scale=self.scale, parts=self.parts
        )
        if self.share is None:
            return whole
        indices = self.edges * self.parts
        least = math.ceil(self.share * indices * math.log2(rows) / 8)
        return whole - index_bytes(indices, rows) + least

    def bytes_of(self, number: Number | None) -> int:
        """The same of a choice of centroids and parts; of the dense layer where that is None."""
        if number is None:
            return self.dense_bytes
        k, parts = split(number)
        return next(one for one in (self, *self.shorter) if one.parts == parts).bytes_at(k)

    def discounted(self, share: float) -> Curve:
        """The curve where indices take but a share of log2 k bits each."""
        shorter = tuple(curve.discounted(share) for curve in self.shorter)
        return replace(self, share=share, shorter=shorter)

    def error_at(self, k: int) -> float:
        """Error at any k between the measured ones, by interpolation."""
        known = sorted(self.errors)
        if k in self.errors:
            return self.errors[k]
        upper = next((i for i, other in enumerate(known) if other > k), len(known) - 1)
        low, high = known[max(0, upper - 1)], known[max(upper, 1) if len(known) > 1 else 0]
        if low == high:
            return self.errors[low]
        left, right = (math.log(max(self.errors[other], 1e-30)) for other in (low, high))
        share = (math.log(k) - math.log(low)) / (math.log(high) - math.log(low))
        return math.exp(left + share * (right - left))

    def choices(self) -> list[Choice]:
        """Numbers of centroids worth considering, and staying dense."""
        found = self._packed()
        for curve in self.shorter:
            found = _undominated([*found, *curve._packed()])
        return [*found, Choice((None,), self.dense_bytes, 0.0)]

    def _packed(self) -> list[Choice]:
        """Numbers of centroids with which the layer is smaller than dense."""
        known = sorted(self.errors)
        numbers = [k for k in _numbers(known[-1]) if k >= known[0]] if known else []
        found = [
            Choice((number_of(k, self.parts),), self.bytes_at(k), self.error_at(k)) for k in numbers
        ]
        return [choice for choice in found if choice.bytes < self.dense_bytes]


@dataclass(frozen=True, slots=True)
class Choice:
    """Number of centroids of one or more layers (None: dense), their bytes and their error."""

    clusters: tuple[Number | None, ...]
    bytes: int
    error: float


def _numbers(most: int) -> list[int]:
    """Numbers of centroids up to `most`: powers of two and three steps between each two."""
    steps = {2**b * quarter // 4 for b in range(1, 17) for quarter in (4, 5, 6, 7)}
    return sorted(k for k in steps if 2 <= k <= most)


def frontier(curves: Sequence[Curve]) -> list[Choice]:
    """All choices that no other beats in bytes and error, by rising bytes."""
    found = [Choice((), 0, 0.0)]
    for curve in curves:
        own = curve.choices()
        sums = [
            Choice(a.clusters + b.clusters, a.bytes + b.bytes, a.error + b.error)
            for a in found
            for b in own
        ]
        found = _undominated(sums)
    return found


def _undominated(choices: list[Choice]) -> list[Choice]:
    choices.sort(key=lambda choice: (choice.bytes, choice.error))
    kept: list[Choice] = []
    for choice in choices:
        if not kept or choice.error < kept[-1].error:
            kept.append(choice)
    return kept


def within(choices: Sequence[Choice], budget: int) -> Choice | None:
    """The choice of least error that takes at most `budget` bytes."""
    fitting = [choice for choice in choices if choice.bytes <= budget]
    return min(fitting, key=lambda choice: choice.error) if fitting else None


def smallest(choices: Sequence[Choice], error: float) -> Choice | None:
    """The choice of fewest bytes whose error is at most `error`."""
    return next((choice for choice in choices if choice.error <= error), None)
