"""The error of a layer in groups of inputs as one quadratic form.

Moments between groups are not in memory. What the errors of some coefficients do to the slopes of
all of them is taken from the rows: the errors' outputs, times the features. So every group repairs
what the others leave, and the codebook is the best for all of them.

Only the steps of a refit take some of the rows: its direction is then right to a few hundredths,
its start is that of all rows, and so is the error that it leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kancompress.clustering import quadratic
from kancompress.clustering.quadratic import Form
from kancompress.system import devices

# Steps of a refit, each of which goes through some of the rows.
_STEPS = 4

# From errors (out, m, d) of the coefficients of some inputs (m,) to the slopes (out, in, d) that
# they give all inputs.
Spread = Callable[[Tensor, Tensor], Tensor]


@dataclass(slots=True, eq=False)
class Joint:
    """Forms of the groups of a layer, and what is between them.

    spread : by all rows; None where the groups are taken as if nothing were between them
    sampled : the same by some of the rows
    inputs : of each group
    ridges : what damping added to each form's diagonal
    left   : slopes (out, m * d) that each form's own weights leave; none where they leave none
    """

    forms: list[Form]
    spread: Spread | None
    sampled: Spread | None
    inputs: list[Tensor]
    ridges: list[float]
    left: list[Tensor] = field(default_factory=list)
    factors: list[Tensor] = field(default_factory=list)
    # Codebook and labels, and the slopes there, of the last error or pass that asked for them.
    _known: tuple[Tensor, list[Tensor], list[Tensor]] | None = None

    def __post_init__(self) -> None:
        if self.spread is not None and not self.left:
            self.left = [torch.zeros_like(form.weights.flatten(1)) for form in self.forms]

    def error(self, codebook: Tensor, labels: list[Tensor]) -> float:
        """Value of the form, but for a constant where weights leave slopes."""
        if self.spread is None:
            return sum(f.error(codebook, c) for f, c in zip(self.forms, labels, strict=True))
        gaps = self._gaps(codebook, labels)
        slopes = self._slopes(codebook, labels)
        return sum(
            float(devices.wide_sum((slope + left) * gap.flatten(1)))
            for gap, slope, left in zip(gaps, slopes, self.left, strict=True)
        )

    def factorise(self) -> None:
        """Find the factors that `feedback` takes, once."""
        if not self.factors:
            self.factors = [quadratic.lower_factor(form.hessian) for form in self.forms]

    def feedback(self, codebook: Tensor, prices: list[Tensor] | None = None) -> list[Tensor]:
        """Labels anew, group after group, the last first: as `quadratic.feedback`, each repairing
        what those before it left.

        prices : (m, k) of each centroid, by group
        """
        paid = self._paid(prices)
        if self.spread is None:
            return [
                quadratic.feedback(form, factor, codebook, price)
                for form, factor, price in zip(self.forms, self.factors, paid, strict=True)
            ]
        slopes = [left.clone() for left in self.left]
        labels: list[Tensor] = [torch.empty(0)] * len(self.forms)
        for number in reversed(range(len(self.forms))):
            form, factor = self.forms[number], self.factors[number]
            carried = torch.linalg.solve_triangular(factor, slopes[number].T, upper=False).T
            labels[number] = quadratic.feedback(
                form, factor, codebook, paid[number], carried.contiguous()
            )
            self._move(slopes, number, form.gap(codebook, labels[number]))
        self._known = codebook, labels, slopes
        return labels

    def sweep(
        self, codebook: Tensor, labels: list[Tensor], prices: list[Tensor] | None = None
    ) -> list[Tensor]:
        """As `quadratic.sweep`, group after group; never raises the error of all of them."""
        paid = self._paid(prices)
        if self.spread is None:
            return [
                quadratic.sweep(form, codebook, chosen, price)
                for form, chosen, price in zip(self.forms, labels, paid, strict=True)
            ]
        slopes = [slope.clone() for slope in self._slopes(codebook, labels)]
        labels = list(labels)
        for number in reversed(range(len(self.forms))):
            form, before = self.forms[number], labels[number]
            own = slopes[number].clone()
            labels[number] = quadratic.sweep(form, codebook, before, paid[number], own)
            change = form.edges(codebook, before) - form.edges(codebook, labels[number])
            self._move(slopes, number, change)
        self._known = codebook, labels, slopes
        return labels

    def refit(
        self,
        codebook: Tensor,
        labels: list[Tensor],
        *,
        steps: int | None = None,
        free: Tensor | None = None,
    ) -> Tensor:
        """As `quadratic.refit`."""
        if self.spread is None:
            most = quadratic.CG_STEPS if steps is None else steps
            return quadratic.refit(self.forms, codebook, labels, steps=most, free=free)
        return quadratic.refit(
            self.forms,
            codebook,
            labels,
            steps=_STEPS if steps is None else steps,
            free=free,
            between=(self._slopes(codebook, labels), partial(self._spread, self.sampled)),
        )

    def _paid(self, prices: list[Tensor] | None) -> Sequence[Tensor | None]:
        return [None] * len(self.forms) if prices is None else prices

    def _gaps(self, codebook: Tensor, labels: list[Tensor]) -> list[Tensor]:
        return [f.gap(codebook, c) for f, c in zip(self.forms, labels, strict=True)]

    def _slopes(self, codebook: Tensor, labels: list[Tensor]) -> list[Tensor]:
        """Slopes of the form, (out, m * d) by group."""
        if self._known is None or self._known[0] is not codebook or self._known[1] is not labels:
            found = self._spread(self.spread, self._gaps(codebook, labels))
            slopes = [slope + left for slope, left in zip(found, self.left, strict=True)]
            self._known = codebook, labels, slopes
        return self._known[2]

    def _spread(self, spread: Spread | None, errors: list[Tensor]) -> list[Tensor]:
        """The slopes that errors (out, m, d) of all groups give each."""
        assert spread is not None
        whole = spread(torch.cat(errors, dim=1), torch.cat(self.inputs))
        return [
            whole[:, inputs].flatten(1) + ridge * own.flatten(1)
            for own, inputs, ridge in zip(errors, self.inputs, self.ridges, strict=True)
        ]

    def _move(self, slopes: list[Tensor], number: int, change: Tensor) -> None:
        """Add what a change of one group's errors gives all groups, in place."""
        assert self.spread is not None
        whole = self.spread(change, self.inputs[number])
        for slope, inputs in zip(slopes, self.inputs, strict=True):
            slope += whole[:, inputs].flatten(1)
        slopes[number] += self.ridges[number] * change.flatten(1)
