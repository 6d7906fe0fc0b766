"""Sums over the edges of a layer, from its codebook and the row that each edge has in it.

For a few rows of input each input's features are multiplied with all vectors of the codebook, and
every edge takes its product: in * k * size multiplications and in * out additions. For many rows,
and for maps, coefficients are gathered for some inputs at a time, and multiplied as a matrix. The
coefficients of a whole layer exist only where they are few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.frozen import dataclass
from kancompress.runtime.activations import Numbers
from kancompress.runtime.program import Edges

# Coefficients that exist at a time, 1 MB in float32, and edges whose products do.
_GATHERED = 1 << 18
_PRODUCTS = 1 << 16
# What ways cost for each edge, in nanoseconds, measured with numpy 2.4 on x86-64: a product taken
# for a row; a coefficient gathered; and what a row's features are multiplied with, for a
# multiplication.
_TAKEN, _COEFFICIENT, _MULTIPLIED = 2.4, 0.9, 0.05


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Run:
    """Coefficients that follow one another in an edge, of one part, with the same factors.

    planes  : of the features that they multiply; columns : of the table that they are
    part    : of the edge
    factors : (out, in * taps), or None
    """

    planes: slice
    columns: slice
    part: int
    factors: Numbers | None


class EdgeSums:
    """The edges of one layer, as they are summed.

    index : (out, in, taps, parts) row of the table, None where the layer is dense
    """

    def __init__(self, edges: Edges) -> None:
        out, inputs, *taps = edges.shape
        self.outputs, self.inputs, self.taps = out, inputs, math.prod(taps)
        self.size, self.table = edges.size, edges.table
        self._runs = tuple(_runs_of(edges))
        self.index: npt.NDArray[np.unsignedinteger[Any]] | None = None
        if edges.rows is not None:
            self.index = edges.rows.reshape(out, inputs, self.taps, edges.parts)

    def of_rows(self, features: Numbers) -> Numbers:
        """Sums of a fully connected layer: (rows, size, in) -> (rows, out)."""
        rows = len(features)
        if self.index is not None and self._prefers_products(rows):
            return self._by_products(features)
        if self.index is None and not self._has_factors and rows < self.outputs:
            # Features are fewer to write anew than coefficients.
            wide = features.transpose(0, 2, 1).reshape(rows, self.inputs * self.size)
            return wide @ self.table.reshape(self.outputs, -1).T
        return self.of_tap(features, 0)

    def of_tap(self, features: Numbers, tap: int) -> Numbers:
        """What one place of the kernel adds to the sums: (rows, size, in) -> (rows, out)."""
        step = max(1, _GATHERED // (self.size * self.outputs))
        sums = None
        for first in range(0, self.inputs, step):
            block = slice(first, min(first + step, self.inputs))
            matrix = self._gathered(block, tap).reshape(-1, self.outputs)
            found = features[:, :, block].reshape(len(features), len(matrix)) @ matrix
            sums = found if sums is None else np.add(sums, found, out=sums)
        assert sums is not None
        return sums

    @property
    def _has_factors(self) -> bool:
        return any(run.factors is not None for run in self._runs)

    def _prefers_products(self, rows: int) -> bool:
        """Whether products are cheaper than coefficients for so many rows."""
        edges, vectors = self.inputs * self.outputs, len(self.table)
        products = edges * _TAKEN * len(self._runs)
        products += self.inputs * vectors * self.size * _MULTIPLIED
        return rows * products < edges * self.size * (_COEFFICIENT + rows * _MULTIPLIED)

    def _gathered(self, block: slice, tap: int) -> Numbers:
        """Coefficients (size, inputs of the block, out)."""
        count = block.stop - block.start
        if self.index is None:
            shape = (self.outputs, self.inputs, self.taps, self.size)
            dense = self.table.reshape(shape)[:, block, tap].transpose(2, 1, 0)
            found = np.array(dense, order="C", copy=True)
        else:
            found = np.empty((self.size, count, self.outputs), self.table.dtype)
        for run in self._runs:
            part = found[run.planes]
            if self.index is not None:
                rows = self.index[:, block, tap, run.part].T
                columns = self.table[:, run.columns].T
                np.take(columns, rows, axis=1, out=part, mode="clip")
            if run.factors is not None:
                part *= run.factors.reshape(self.outputs, self.inputs, -1)[:, block, tap].T
        return found

    def _by_products(self, features: Numbers) -> Numbers:
        assert self.index is not None
        sums = np.zeros((len(features), self.outputs), self.table.dtype)
        step = max(1, _PRODUCTS // self.inputs)
        for run in self._runs:
            columns = self.table[:, run.columns]
            products = [columns @ row for row in features[:, run.planes]]  # (vectors, in) each
            for first in range(0, self.outputs, step):
                block = slice(first, first + step)
                places = self.index[block, :, 0, run.part] * np.intp(self.inputs)
                places += np.arange(self.inputs)
                for number, product in enumerate(products):
                    taken = product.reshape(-1).take(places, mode="clip")
                    if run.factors is not None:
                        taken *= run.factors[block]
                    sums[number, block] += taken.sum(axis=1)
        return sums


def _runs_of(edges: Edges) -> Iterator[_Run]:
    """An edge's coefficients, cut where a part or the factors change."""
    width = edges.size // edges.parts
    ends = {part * width for part in range(edges.parts)} | {edges.size}
    ends |= {end for gain in edges.gains for end in (gain.first, gain.last)}
    cuts = sorted(ends)
    for first, last in pairwise(cuts):
        factors: Numbers | None = None
        for gain in edges.gains:
            if gain.first <= first and last <= gain.last:
                own = gain.factors.reshape(edges.shape[0], -1)
                factors = own if factors is None else factors * own
        part = first // width
        start = part * width
        columns = slice(first - start, last - start)
        yield _Run(planes=slice(first, last), columns=columns, part=part, factors=factors)
