"""One layer clustered by what it puts out: the rungs of the ladder, each on top of the last."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


# A layer starts as often as this is a multiple of its outputs times its second moments, within
# `CalibrationConfig.starts`: some seconds in all.
_STARTS_CELLS = 1 << 28
_SEEDS_APART = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Where one start led: labels by group, and the value of the forms."""

    codebook: Tensor
    labels: list[Tensor]
    error: float
    rounds: int


class Problem:
    """A layer's weights and moments, prepared once for any number of clusters.

    weights : (out, in, d); moments : of its features, aiming at the targets they were taken with
    damping : as of `CalibrationConfig`
    follow  : whether the targets are other than what the weights put out on these features, as
              behind layers that are packed already; the weights then aim at the targets
    """

    def __init__(
        self, weights: Tensor, moments: Moments, damping: float | None, *, follow: bool
    ) -> None:
        self.moments = moments
        self.out, self.inputs, self.d = weights.shape
        self.order = torch.cat([group.inputs for group in moments.groups])
        self.forms: list[Form] = []
        self.factors: list[Tensor] = []
        self.weights = weights.float()
        for group in moments.groups:
            own = self.weights[:, group.inputs]
            share = self._damping(group.hessian) if damping is None else damping
            if follow and len(moments.groups) == 1:
                own = self._aimed(own, group.hessian, group.cross, share)
            hessian = quadratic.damped(group.hessian, share)
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

    def solve(self, clusters: int, config: CalibrationConfig) -> Solution:
        """Cluster into at most `clusters` centroids by the method of `config`.

        Where that takes but a moment it starts several times, and the least error is kept.
        """
        cells = sum(form.weights.shape[0] * form.hessian.numel() for form in self.forms)
        starts = max(1, min(config.starts, _STARTS_CELLS // max(1, cells)))
        tried = (
            self._from_start(clusters, replace(config, seed=config.seed + number * _SEEDS_APART))
            for number in range(starts)
        )
        best = min(tried, key=lambda found: found.error)
        labels = self.whole(best.codebook, best.labels)
        return Solution(codebook=best.codebook, labels=labels, iterations=best.rounds)

    def whole(self, codebook: Tensor, labels: list[Tensor]) -> Tensor:
        """Labels (out, in) from those by group.

        Inputs that never change take their nearest centroids as inputs on the average see them, in
        case that they do change elsewhere.
        """
        result = torch.empty(self.out, self.inputs, dtype=torch.int64, device=codebook.device)
        result[:, self.order] = torch.cat(labels, dim=1)
        still = self.moments.still
        mean = torch.cat([form.blocks for form in self.forms]).mean(0)
        metrics = mean.expand(len(still), -1, -1)
        result[:, still] = metric.assign(self.weights[:, still], metrics, codebook)
        return result

    def _from_start(self, clusters: int, config: CalibrationConfig) -> _Found:
        """The rungs of the method, one on top of the other, from one start."""
        weights = torch.cat([form.weights for form in self.forms], dim=1)
        blocks = torch.cat([form.blocks for form in self.forms])
        seed, iterations = config.seed, config.max_iterations
        codebook = metric.start(weights, blocks, clusters, seed=seed, iterations=iterations)
        codebook, labels = metric.lloyd(weights, blocks, codebook, iterations=iterations)
        found = self._found(codebook, self._cut(labels), 0)
        if config.method in (Method.FEEDBACK, Method.SWEEPS):
            found = self._alternate(found, config.rounds)
        if config.method is Method.SWEEPS:
            found = self._swept(found, config.sweeps)
        return found

    def _cut(self, labels: Tensor) -> list[Tensor]:
        return list(torch.split(labels, [form.weights.shape[1] for form in self.forms], dim=1))

    def _found(self, codebook: Tensor, labels: list[Tensor], rounds: int) -> _Found:
        error = sum(f.error(codebook, c) for f, c in zip(self.forms, labels, strict=True))
        return _Found(codebook, labels, error, rounds)

    def _alternate(self, best: _Found, rounds: int) -> _Found:
        """Refit and feedback in turn; the best round is kept."""
        if not self.factors:
            self.factors = [quadratic.lower_factor(form.hessian) for form in self.forms]
        codebook = quadratic.refit(self.forms, best.codebook, best.labels)
        best = self._found(codebook, best.labels, rounds)
        for _ in range(rounds):
            labels = [
                quadratic.feedback(form, factor, codebook)
                for form, factor in zip(self.forms, self.factors, strict=True)
            ]
            codebook = quadratic.refit(self.forms, codebook, labels)
            best = min(best, self._found(codebook, labels, rounds), key=lambda found: found.error)
        return best

    def _swept(self, found: _Found, sweeps: int) -> _Found:
        """Coordinate descent over the labels and refit in turn; neither raises the error."""
        codebook, labels = found.codebook, found.labels
        for _ in range(sweeps):
            labels = [
                quadratic.sweep(form, codebook, chosen)
                for form, chosen in zip(self.forms, labels, strict=True)
            ]
            codebook = quadratic.refit(self.forms, codebook, labels)
        return self._found(codebook, labels, found.rounds + sweeps)

    def bias(self, codebook: Tensor, labels: Tensor) -> Tensor | None:
        """What the mean of the outputs lacks, (out,); None where nothing was centred."""
        if not self.moments.centred:
            return None
        sums = torch.zeros_like(self.moments.target)
        for q in range(0, self.inputs, 256):
            part = devices.wide(codebook[labels[:, q : q + 256]])
            sums += torch.einsum("oid,id->o", part, self.moments.mean[q : q + 256])
        return self.moments.target - sums
