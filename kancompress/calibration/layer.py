"""One layer clustered by what it puts out: the rungs of the ladder, each on top of the last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kancompress import devices
from kancompress.calibration import metric, quadratic
from kancompress.calibration.moments import Moments
from kancompress.calibration.quadratic import Form
from kancompress.recipes import CalibrationConfig, Method


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Solution:
    """Codebook (k, d) float32, labels (out, in), and the rounds that it took."""

    codebook: Tensor
    labels: Tensor
    iterations: int


class Problem:
    """A layer's weights and moments, prepared once for any number of clusters.

    weights : (out, in, d); moments : of its features, aiming at the targets they were taken with
    follow  : whether the targets are other than what the weights put out on these features, as
              behind layers that are packed already; the weights then aim at the targets
    """

    def __init__(
        self, weights: Tensor, moments: Moments, config: CalibrationConfig, *, follow: bool
    ) -> None:
        self.moments = moments
        self.config = config
        self.out, self.inputs, self.d = weights.shape
        self.order = torch.cat([group.inputs for group in moments.groups])
        self.forms: list[Form] = []
        self.factors: list[Tensor] = []
        self.weights = weights.float()
        for group in moments.groups:
            own = self.weights[:, group.inputs]
            damping = config.damping if config.damping is not None else self._damping(group.hessian)
            if follow and len(moments.groups) == 1:
                own = self._aimed(own, group.hessian, group.cross, damping)
            hessian = quadratic.damped(group.hessian, damping)
            self.forms.append(Form(own, hessian))

    def _damping(self, hessian: Tensor) -> float:
        """1 % of the mean diagonal, 5 % where the rows do not outnumber the dimensions."""
        return 0.01 if self.moments.rows > 2 * len(hessian) else 0.05

    def _aimed(self, weights: Tensor, hessian: Tensor, cross: Tensor, damping: float) -> Tensor:
        """Weights whose outputs come nearest to the targets, held to the given ones by damping."""
        flat = devices.wide(weights.flatten(1))
        square = devices.wide(hessian)
        ridge = quadratic.damped(square.clone(), damping)
        moved = torch.linalg.solve(ridge, (devices.wide(cross) - flat @ square).T).T
        aimed: Tensor = (flat + moved).float()
        return aimed.to(weights.device).view_as(weights)

    def solve(self, clusters: int, method: Method) -> Solution:
        """Cluster into at most `clusters` centroids by `method`."""
        weights = torch.cat([form.weights for form in self.forms], dim=1)
        blocks = torch.cat([form.blocks for form in self.forms])
        seed, iterations = self.config.seed, self.config.max_iterations
        codebook = metric.start(weights, blocks, clusters, seed=seed, iterations=iterations)
        codebook, labels = metric.lloyd(weights, blocks, codebook, iterations=iterations)
        found = self._cut(labels)
        rounds = 0
        if method in (Method.FEEDBACK, Method.SWEEPS):
            codebook, found, rounds = self._alternate(codebook, found)
        if method is Method.SWEEPS:
            for _ in range(self.config.sweeps):
                found = [
                    quadratic.sweep(form, codebook, chosen)
                    for form, chosen in zip(self.forms, found, strict=True)
                ]
                codebook = quadratic.refit(self.forms, codebook, found)
                rounds += 1
        labels = torch.empty_like(torch.cat(found, dim=1))
        labels[:, self.order] = torch.cat(found, dim=1)
        return Solution(codebook=codebook, labels=labels, iterations=rounds)

    def _cut(self, labels: Tensor) -> list[Tensor]:
        return list(torch.split(labels, [form.weights.shape[1] for form in self.forms], dim=1))

    def _alternate(
        self, codebook: Tensor, labels: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], int]:
        """Refit and feedback in turn; the best round is kept."""
        if not self.factors:
            self.factors = [quadratic.lower_factor(form.hessian) for form in self.forms]
        codebook = quadratic.refit(self.forms, codebook, labels)
        best = (self._error(codebook, labels), codebook, labels)
        for _ in range(self.config.rounds):
            labels = [
                quadratic.feedback(form, factor, codebook)
                for form, factor in zip(self.forms, self.factors, strict=True)
            ]
            codebook = quadratic.refit(self.forms, codebook, labels)
            error = self._error(codebook, labels)
            if error < best[0]:
                best = (error, codebook, labels)
        return best[1], best[2], self.config.rounds

    def _error(self, codebook: Tensor, labels: list[Tensor]) -> float:
        return sum(f.error(codebook, c) for f, c in zip(self.forms, labels, strict=True))

    def bias(self, codebook: Tensor, labels: Tensor) -> Tensor | None:
        """What the mean of the outputs lacks, (out,); None where nothing was centred."""
        if not self.moments.centred:
            return None
        sums = torch.zeros_like(self.moments.target)
        for q in range(0, self.inputs, 256):
            part = devices.wide(codebook[labels[:, q : q + 256]])
            sums += torch.einsum("oid,id->o", part, self.moments.mean[q : q + 256])
        return self.moments.target - sums
