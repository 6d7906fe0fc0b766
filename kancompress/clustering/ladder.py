"""One layer clustered by what it puts out: the rungs of the ladder, each on top of the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kancompress.clustering import kmeans, metric, quadratic, scaling
from kancompress.clustering.coding import Coding, plain_vectors
from kancompress.clustering.joint import Joint, Spread
from kancompress.clustering.moments import Moments
from kancompress.clustering.prices import prices_of
from kancompress.clustering.progress import NOBODY, Passes, Progress
from kancompress.clustering.quadratic import Form
from kancompress.config import CalibrationConfig, KMeans, Method
from kancompress.formats.packed.encodings.rans import MOST_CLUSTERS
from kancompress.system import devices


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Solution:
    """Codebook (k, d) float32, labels (out, in), and what they took.

    iterations : passes over all edges, of k-means, feedback and sweeps
    repaired   : centroids that no edge used and that were moved to edges that were worst off
    slope      : the share of its error that it would lose by one more kilobyte of indices; None
                 where bits had no price
    """

    codebook: Tensor
    labels: Tensor
    iterations: int
    repaired: int
    slope: float | None = None


# What all starts of a layer may take together: outputs times coefficients of an output times these
# or the centroids, whichever are more. A second or two; where one start takes more, there is one.
_STARTS_CELLS = 1 << 28
# Labels of what was found that are kept, at most.
_KEPT = 1 << 24
# Without a number, passes go on while each lowers the error by this share, at most so often.
_WORTH, _MOST = 0.01, 8
# How often the coefficients that are not rounded yet take up what is lost, and in how many steps.
_ROUNDED, _ROUNDED_STEPS = 8, 2
# Rounds of feedback with prices; how many times as much sweeps pay at first, how many of them, and
# those that pay what is asked for.
_PRICED, _EAGER, _EAGER_SWEEPS, _PRICED_SWEEPS = 3, 4.0, 8, 4
# Rounds with prices in the metric of each input alone.
_PRICED_ALONE = 8
# How many times as much may be paid with a centroid at zero, how many times as much before sweeps
# that lower it, and those sweeps.
_ZERO, _ZERO_HOPE, _ZERO_SWEEPS = 1.01, 1.2, 2
_KILOBYTE = 8000  # bits
# Between the seeds of a layer's starts, so that those of small seeds have none in common.
_SEEDS_APART = 1 << 20


# From weights (out, in, d) and the inputs of a group to the second moments (out, m * d) of what the
# weights leave of the targets and the group's features.
Gaps = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """Where one start led: labels (out, m) by group, passes over all edges, repairs."""

    codebook: Tensor
    labels: list[Tensor]
    passes: int
    repaired: int


@dataclass(frozen=True, slots=True, eq=False)
class _Priced:
    """A trial where indices had a price, their bits by input (inputs of all groups, k), and what a
    bit cost in squared errors."""

    trial: _Trial
    bits: Tensor
    scale: float


def starts_of(out: int, size: int, clusters: int, most: int) -> int:
    """How often a layer is solved, whose outputs have so many coefficients each."""
    cells = out * size * max(size, clusters)
    return max(1, min(most, _STARTS_CELLS // max(1, cells)))


class Problem:
    """A layer's weights and moments, prepared once for any number of clusters.

    weights : (out, in, d); moments : of its features, aiming at the targets they were taken with
    damping : as of `CalibrationConfig`
    follow  : whether the targets are other than what the weights put out on these features, as
              behind layers that are packed already; the weights then aim at the targets
    exponent : the layer's own weights are these times 2^exponent, and so are its codebooks
    coding   : how edges follow from centroids, for a `CodedProblem`
    by       : whose k-means solutions start from
    gaps     : measures what weights leave of the targets; needed to follow with several groups
    spread   : what groups do to each other by all rows, and by some of them; without it they are
               solved as if that were nothing
    """

    def __init__(
        self,
        weights: Tensor,
        moments: Moments,
        damping: float | None,
        *,
        follow: bool,
        exponent: int = 0,
        coding: Coding | None = None,
        by: KMeans = KMeans.OWN,
        gaps: Gaps | None = None,
        spread: tuple[Spread, Spread] | None = None,
    ) -> None:
        self.exponent = exponent
        self.coding = coding
        self.by = by
        self.moments = moments
        self.out, self.inputs, self.d = weights.shape
        self.order = torch.cat([group.inputs for group in moments.groups])
        self.forms: list[Form] = []
        ridges: list[float] = []
        self._found: dict[tuple[int, CalibrationConfig], _Trial] = {}
        self._starts: dict[tuple[int, int, int], tuple[Tensor, int]] = {}
        self._passes = Passes(NOBODY, 1)
        self.weights = weights.float()
        moved = self.weights.clone()  # group after group, each with those before it in place
        for group in moments.groups:
            own = self.weights[:, group.inputs]
            share = self._damping(group.hessian) if damping is None else damping
            if follow and len(moments.groups) == 1:
                gap = devices.wide(group.cross) - self._product(own, group.hessian)
                own = self._aimed(own, group.hessian, gap, share)
            elif follow and gaps is not None:
                gap = devices.wide(gaps(moved, group.inputs))
                moved[:, group.inputs] = own = self._aimed(own, group.hessian, gap, share)
            ridges.append(quadratic.ridge(group.hessian, share))
            hessian = quadratic.damped(group.hessian, share)
            self.forms.append(self._form(own, hessian, group.inputs))
        members = [group.inputs for group in moments.groups]
        whole, sampled = spread if spread is not None and len(members) > 1 else (None, None)
        self.joint = Joint(self.forms, whole, sampled, members, ridges)
        if self.joint.spread is not None and follow and gaps is not None:
            self._leave(moved, gaps)

    def _form(self, weights: Tensor, hessian: Tensor, inputs: Tensor) -> Form:
        """The form of a group of inputs."""
        return Form(weights, hessian)

    def _leave(self, moved: Tensor, gaps: Gaps) -> None:
        """Tell what weights that follow group after group leave, as later ones move too."""
        slopes = []
        for number, group in enumerate(self.moments.groups):
            change = (moved - self.weights)[:, group.inputs].flatten(1)
            slopes.append(gaps(moved, group.inputs) - self.joint.ridges[number] * change)
        self.joint.left = slopes

    @property
    def aimed(self) -> Tensor:
        """Weights (out, in, d) that the codebook should stand for."""
        weights = self.weights.clone()
        weights[:, self.order] = torch.cat([form.weights for form in self.forms], dim=1)
        return weights

    def _damping(self, hessian: Tensor) -> float:
        """1 % of the mean diagonal, 5 % where the rows do not outnumber the dimensions."""
        return 0.01 if self.moments.rows > 2 * len(hessian) else 0.05

    def _product(self, weights: Tensor, hessian: Tensor) -> Tensor:
        return devices.wide(weights.flatten(1)) @ devices.wide(hessian)

    def _aimed(self, weights: Tensor, hessian: Tensor, gap: Tensor, damping: float) -> Tensor:
        """Weights whose outputs come nearest to the targets, held to the given ones by damping.

        gap : (out, m * d), moments of the features and what the weights leave of the targets
        """
        flat = devices.wide(weights.flatten(1))
        ridge = quadratic.damped(devices.wide(hessian).clone(), damping)
        moved = torch.linalg.solve(ridge, gap.T).T
        aimed: Tensor = (flat + moved).float()
        return aimed.to(weights.device).view_as(weights)

    def solve(
        self,
        clusters: int,
        config: CalibrationConfig,
        start: kmeans.Clustering | None = None,
        *,
        price: float = 0.0,
        progress: Progress = NOBODY,
    ) -> Solution:
        """Cluster into at most `clusters` centroids by the method of `config`.

        Where that takes but a moment it starts several times, and the least error is kept; once
        more from `start`, a clustering of the layer's own numbers, where it is given.

        price : of a bit, as of `ClusterConfig`; progress : told of every pass
        """
        is_priced = bool(price) and clusters <= MOST_CLUSTERS
        self._passes = Passes(progress, self._most_passes(clusters, config, start, is_priced))
        slope = None
        if is_priced:
            priced = self._priced(self._without_prices(clusters, config, start), config, price)
            best = priced.trial
            codebook, labels = best.codebook, self.all_labels(best.codebook, best.labels)
            # Inputs that never change share the centroid that costs least.
            labels[:, self.moments.still] = int(priced.bits.amin(0).argmin())
            error = self._error(best.codebook, best.labels)
            slope = min(1.0, _KILOBYTE * priced.scale / error) if error > 0 else 0.0
        else:
            best = self._known(clusters, config, start)
            codebook = self._with_spare(best.codebook, clusters, config)
            labels = self.all_labels(codebook, best.labels)
        return Solution(
            codebook=codebook,
            labels=labels,
            iterations=best.passes,
            repaired=best.repaired,
            slope=slope,
        )

    def _most_passes(
        self,
        clusters: int,
        config: CalibrationConfig,
        start: kmeans.Clustering | None,
        is_priced: bool,
    ) -> int:
        """Passes at the most: of each start one to begin with, rounds of feedback, and sweeps; and
        those with prices, which follow the best of all starts."""
        one = 1
        if config.method in (Method.FEEDBACK, Method.SWEEPS):
            one += _MOST if config.rounds is None else config.rounds
        if config.method is Method.SWEEPS and not is_priced:
            one += _MOST if config.sweeps is None else config.sweeps
        starts = self.starts(clusters, config.starts) + (start is not None)
        priced = {
            Method.FEEDBACK: _PRICED,
            Method.SWEEPS: _EAGER_SWEEPS + self._priced_most(config) + _ZERO_SWEEPS,
        }.get(config.method, _PRICED_ALONE)
        return starts * one + (priced if is_priced else 0)

    def _priced_most(self, config: CalibrationConfig) -> int:
        """Sweeps that pay the price that is asked for."""
        if config.method is not Method.SWEEPS:
            return 0
        return _PRICED_SWEEPS if config.sweeps is None else config.sweeps

    def _best(
        self, clusters: int, config: CalibrationConfig, start: kmeans.Clustering | None
    ) -> _Trial:
        """Where the best of all starts led."""
        trials = [
            self._from_start(clusters, replace(config, seed=config.seed + number * _SEEDS_APART))
            for number in range(self.starts(clusters, config.starts))
        ]
        if start is not None:
            trials.append(self._from_codebook(self._scaled(start), start.iterations, config))
        return min(trials, key=lambda trial: self._error(trial.codebook, trial.labels))

    def _without_prices(
        self, clusters: int, config: CalibrationConfig, start: kmeans.Clustering | None
    ) -> _Trial:
        """From where prices are paid; the same for all of them, so it is found once."""
        follows = config.method in (Method.FEEDBACK, Method.SWEEPS)
        free = replace(config, method=Method.FEEDBACK) if follows else config
        return self._known(clusters, replace(free, sweeps=None) if follows else free, start)

    def _known(
        self, clusters: int, config: CalibrationConfig, start: kmeans.Clustering | None
    ) -> _Trial:
        """What `_best` gives, found once: targets and prices come back to the same numbers.

        start : follows from the other two
        """
        key = (clusters, config)
        if key in self._found:
            return self._found[key]
        found = self._best(clusters, config, start)
        if (len(self._found) + 1) * self.out * self.inputs <= _KEPT:
            self._found[key] = found
        return found

    def starts(self, clusters: int, most: int) -> int:
        """How often the layer is solved: at least once, and `most` times where it is small."""
        size = sum(len(form.hessian) for form in self.forms)
        return starts_of(self.out, size, clusters, most)

    def all_labels(self, codebook: Tensor, labels: list[Tensor]) -> Tensor:
        """Labels (out, in) of all inputs from those (out, m) by group.

        Inputs that no group has take their nearest centroids, as the other inputs see them on the
        average, in case that they do change elsewhere.
        """
        result = torch.empty(self.out, self.inputs, dtype=torch.int64, device=codebook.device)
        result[:, self.order] = torch.cat(labels, dim=1)
        weights, blocks = self._still()
        result[:, self.moments.still] = metric.assign(weights, blocks, codebook)
        return result

    def _still(self) -> tuple[Tensor, Tensor]:
        """Weights (out, s, d) of the inputs that no group has, and the mean metric for each."""
        still = self.moments.still
        mean = torch.cat([form.blocks for form in self.forms]).mean(0)
        return self.weights[:, still], mean.expand(len(still), -1, -1)

    def _with_spare(self, codebook: Tensor, clusters: int, config: CalibrationConfig) -> Tensor:
        """The codebook, centroids that its inputs did not need given to those that no group has."""
        spare = clusters - len(codebook)
        if not spare or not len(self.moments.still):
            return codebook
        seed, iterations = config.seed, config.max_iterations
        more, _ = metric.start(*self._still(), spare, seed=seed, iterations=iterations)
        return torch.cat([codebook, more])

    def _from_start(self, clusters: int, config: CalibrationConfig) -> _Trial:
        """The rungs of the method, one on top of the other, from one start."""
        seed, iterations = config.seed, config.max_iterations
        edges = self._edges()
        key = (clusters, seed, iterations)
        if key not in self._starts:
            self._starts[key] = metric.start(
                *edges,
                clusters,
                seed=seed,
                iterations=iterations,
                by=self.by,
                memory=config.memory,
            )
        return self._from_codebook(*self._starts[key], config)

    def _scaled(self, start: kmeans.Clustering) -> Tensor:
        """Centroids of the layer's own numbers as centroids of the problem's weights."""
        codebook = scaling.times_two_to(torch.from_numpy(start.centroids), -self.exponent)
        return codebook.float().to(self.weights.device)

    def _from_codebook(self, codebook: Tensor, passes: int, config: CalibrationConfig) -> _Trial:
        """The same from a codebook that took so many passes."""
        found = metric.lloyd(*self._edges(), codebook, iterations=config.max_iterations)
        labels = self._cut(found.labels)
        trial = _Trial(found.codebook, labels, passes + found.iterations, found.repaired)
        self._passes.done()
        return self._climbed(trial, config)

    def _climbed(self, trial: _Trial, config: CalibrationConfig) -> _Trial:
        """Feedback and sweeps on top of the metric, as far as the method goes."""
        if config.method in (Method.FEEDBACK, Method.SWEEPS):
            trial = self._alternate(trial, config.rounds)
        if config.method is Method.SWEEPS:
            trial = self._swept(trial, config.sweeps)
        return trial

    def _priced(self, trial: _Trial, config: CalibrationConfig, price: float) -> _Priced:
        """The method's passes with every index at its price, that of the labels before it."""
        edges = self.out * len(self.order) if self.coding is None else self.coding.edges
        alone = config.method in (Method.METRIC, Method.CENTRED)
        least = self._alone(trial) if alone else self._error(trial.codebook, trial.labels)
        scale = price * least / edges
        climb = self._priced_alone if alone else self._priced_together
        trial = climb(trial, config, scale)
        bits = self._bits(trial.codebook, trial.labels)
        if not alone:
            trial, bits = self._with_zero(trial, bits, scale)
        return _Priced(trial, bits, scale)

    def _priced_together(self, trial: _Trial, config: CalibrationConfig, scale: float) -> _Trial:
        """Feedback, or sweeps whose prices are too high at first.

        Prices follow from the indices that were chosen last: without prices all centroids cost
        much the same, and no index has a reason to move. At higher prices they move soon.
        """
        sweeps = self._priced_most(config)
        if not sweeps:  # what was moved at higher prices has to come back
            return self._priced_feedback(trial, scale)
        moved = self._priced_sweeps(trial, scale * _EAGER, _EAGER_SWEEPS)
        return self._priced_sweeps(moved, scale, sweeps)

    def _priced_feedback(self, trial: _Trial, scale: float) -> _Trial:
        """Feedback and refit in turn, indices at the prices of those before."""
        codebook, labels = trial.codebook, trial.labels
        for _ in range(_PRICED):
            self._passes.done()
            price = self._scaled_prices(codebook, labels, scale)
            labels = self.joint.feedback(codebook, price)
            codebook = self.joint.refit(codebook, labels)
        return _Trial(codebook, labels, trial.passes + _PRICED, trial.repaired)

    def _priced_sweeps(self, trial: _Trial, scale: float, sweeps: int) -> _Trial:
        """Coordinate descent and refit in turn, the same way."""
        codebook, labels = trial.codebook, trial.labels
        for _ in range(sweeps):
            self._passes.done()
            price = self._scaled_prices(codebook, labels, scale)
            labels = self.joint.sweep(codebook, labels, price)
            codebook = self.joint.refit(codebook, labels)
        return _Trial(codebook, labels, trial.passes + sweeps, trial.repaired)

    def _with_zero(self, trial: _Trial, bits: Tensor, scale: float) -> tuple[_Trial, Tensor]:
        """The same with the centroid that most edges have at exactly zero, where that costs next to
        nothing: those edges then compute nothing. With the bits of its indices."""
        labels = trial.labels
        whole = torch.cat(labels, dim=1).cpu()
        if self.coding is not None:
            whole = whole[self.coding.packed[:, self.order.cpu()]]
        zero = int(torch.bincount(whole.reshape(-1)).argmax())
        codebook = trial.codebook.clone()
        codebook[zero] = 0
        others = (torch.arange(len(codebook), device=codebook.device) != zero)[:, None]
        codebook = self.joint.refit(codebook, labels, free=others)
        own, paid = bits, self._paid(trial, bits, scale)
        moved = _Trial(codebook, labels, trial.passes, trial.repaired)
        if self._paid(moved, bits, scale) > _ZERO_HOPE * paid:
            return trial, bits
        for _ in range(_ZERO_SWEEPS):
            price = list(torch.split((own * scale).to(codebook.device), self._widths))
            labels = self.joint.sweep(codebook, labels, price)
            codebook = self.joint.refit(codebook, labels, free=others)
            own = self._bits(codebook, labels)
        moved = _Trial(codebook, labels, trial.passes + _ZERO_SWEEPS, trial.repaired)
        return (trial, bits) if self._paid(moved, own, scale) > _ZERO * paid else (moved, own)

    def _paid(self, trial: _Trial, bits: Tensor, scale: float) -> float:
        """What is minimised: the error, and all indices at their prices."""
        total = bits.gather(1, torch.cat(trial.labels, dim=1).T.cpu()).sum()
        return self._error(trial.codebook, trial.labels) + scale * float(total)

    def _priced_alone(self, trial: _Trial, config: CalibrationConfig, scale: float) -> _Trial:
        """Assignment and update with the metric of each input alone."""
        codebook, labels, passes = trial.codebook, torch.cat(trial.labels, dim=1), trial.passes
        edges = self._edges()
        for _ in range(_PRICED_ALONE):
            passes += 1
            self._passes.done()
            price = self._scaled_prices(codebook, self._cut(labels), scale)
            labels = metric.assign(*edges, codebook, torch.cat(price))
            codebook = metric.update(*edges, codebook, labels)
        return _Trial(codebook, self._cut(labels), passes, trial.repaired)

    def _alone(self, trial: _Trial) -> float:
        """The error in the metric of each input alone."""
        return metric.error(*self._edges(), trial.codebook, torch.cat(trial.labels, dim=1))

    def _bits(self, codebook: Tensor, labels: list[Tensor]) -> Tensor:
        """What indices cost that are distributed as these are, (inputs of all groups, k)."""
        used = None
        if self.coding is not None:
            used = self.coding.packed[:, self.order.cpu()]
        return prices_of(torch.cat(labels, dim=1), len(codebook), used)

    def _scaled_prices(self, codebook: Tensor, labels: list[Tensor], scale: float) -> list[Tensor]:
        """The same in squared errors, (m, k) by group."""
        bits = (self._bits(codebook, labels) * scale).to(codebook.device)
        return list(torch.split(bits, self._widths))

    @property
    def _widths(self) -> list[int]:
        """Inputs of each group."""
        return [form.weights.shape[1] for form in self.forms]

    def _edges(self) -> tuple[Tensor, Tensor]:
        """Weights (out, m, d) and metrics (m, d, d) of the inputs of all groups."""
        weights = torch.cat([form.weights for form in self.forms], dim=1)
        return weights, torch.cat([form.blocks for form in self.forms])

    def _cut(self, labels: Tensor) -> list[Tensor]:
        return list(torch.split(labels, self._widths, dim=1))

    def _error(self, codebook: Tensor, labels: list[Tensor]) -> float:
        return self.joint.error(codebook, labels)

    def _repair(self, codebook: Tensor, labels: list[Tensor]) -> tuple[Tensor, int]:
        """The codebook for the next pass, centroids that no edge uses put where they may help."""
        whole = torch.cat(labels, dim=1)
        if int(torch.bincount(whole.reshape(-1), minlength=len(codebook)).min()):
            return codebook, 0
        return metric.repair(*self._edges(), codebook, whole)

    def _alternate(self, trial: _Trial, rounds: int | None) -> _Trial:
        """Refit and feedback in turn; the best round is kept."""
        self.joint.factorise()
        labels, repaired = trial.labels, trial.repaired
        codebook = self.joint.refit(trial.codebook, labels)
        best, least = (codebook, labels), self._error(codebook, labels)
        passes = trial.passes
        for _ in range(_MOST if rounds is None else rounds):
            passes += 1
            self._passes.done()
            codebook, moved = self._repair(codebook, labels)
            repaired += moved
            labels = self.joint.feedback(codebook)
            codebook = self.joint.refit(codebook, labels)
            error, enough = self._error(codebook, labels), least * (1 - _WORTH)
            if error < least:
                best, least = (codebook, labels), error
            if rounds is None and not error < enough:
                break
        return _Trial(*best, passes, repaired)

    def _swept(self, trial: _Trial, sweeps: int | None) -> _Trial:
        """Coordinate descent over the labels and refit in turn; neither raises the error."""
        codebook, labels, repaired = trial.codebook, trial.labels, trial.repaired
        passes = trial.passes
        error = self._error(codebook, labels) if sweeps is None else 0.0
        for _ in range(_MOST if sweeps is None else sweeps):
            passes += 1
            self._passes.done()
            before = codebook, labels
            codebook, moved = self._repair(codebook, labels)
            repaired += moved
            labels = self.joint.sweep(codebook, labels)
            codebook = self.joint.refit(codebook, labels)
            if sweeps is None:
                least, error = error, self._error(codebook, labels)
                if self.joint.spread is not None and error > least:
                    codebook, labels = before  # groups are refitted by some of the rows
                if not error < least * (1 - _WORTH):
                    break
        return _Trial(codebook, labels, passes, repaired)

    def rounded(self, found: Solution, to: Callable[[Tensor], Tensor]) -> Solution:
        """A solution whose codebook is rounded a few coefficients at a time, the largest first; the
        others take up what each rounding costs.

        to : rounds every coefficient of a codebook by itself
        """
        labels = self._cut(found.labels[:, self.order])
        codebook = found.codebook
        moves = codebook.any(dim=1, keepdim=True)  # a centroid at zero stays there
        free = torch.ones(self.d, dtype=torch.bool, device=codebook.device)
        order = codebook.abs().amax(0).argsort(descending=True, stable=True)
        groups = order.tensor_split(min(self.d, _ROUNDED))
        normal = None
        alone = self.joint.spread is None
        if alone and all(form.is_summed(len(codebook), len(groups) - 1) for form in self.forms):
            normal = quadratic.normal(self.forms, codebook, labels)
        for some in groups:
            codebook = codebook.clone()
            codebook[:, some] = to(codebook)[:, some]
            free[some] = False
            if not free.any():
                break
            if normal is not None:
                codebook = normal.solved(codebook, moves & free)
            else:
                codebook = self.joint.refit(
                    codebook, labels, steps=_ROUNDED_STEPS, free=moves & free
                )
        return replace(found, codebook=codebook)

    def bias(self, codebook: Tensor, labels: Tensor) -> Tensor | None:
        """What the mean of the outputs lacks, (out,); None where nothing was centred.

        codebook : in the layer's own numbers, as is the bias
        """
        if not self.moments.centred:
            return None
        sums = torch.zeros_like(self.moments.target)
        for q in range(0, self.inputs, 256):
            part = devices.wide(codebook[labels[:, q : q + 256]])
            sums += torch.einsum("oid,id->o", part, self.moments.mean[q : q + 256])
        return scaling.times_two_to(self.moments.target, self.exponent) - sums


class CodedProblem(Problem):
    """The same where edges are centroids times factors, and some are no centroid's.

    Those stay as they are: what the others should stand for is aimed at with them in place.
    """

    def _form(self, weights: Tensor, hessian: Tensor, inputs: Tensor) -> Form:
        assert self.coding is not None
        packed, factors = self.coding.to(weights.device)
        kept = ~packed[:, inputs]
        target = weights.clone()
        target[kept] -= self.weights[:, inputs][kept]
        return Form(target, hessian, factors[:, inputs])

    def _from_start(self, clusters: int, config: CalibrationConfig) -> _Trial:
        """From plain k-means of the vectors as the file has them, labels by the mean metric."""
        assert self.coding is not None
        points = plain_vectors(self.weights, self.coding)
        found = kmeans.fit(
            points,
            clusters,
            seed=config.seed,
            max_iterations=config.max_iterations,
            by=self.by,
            memory=config.memory,
        )
        trial = self._by_inputs(self._scaled(found), found, config)
        self._passes.done()
        return self._climbed(trial, config)

    def _by_inputs(
        self, codebook: Tensor, found: kmeans.Clustering, config: CalibrationConfig
    ) -> _Trial:
        """Assignment and refit in turn with the metric of each input alone."""
        assert self.coding is not None
        packed, _ = self.coding.to(codebook.device)
        whole = torch.zeros(packed.shape, dtype=torch.int64, device=codebook.device)
        whole[packed] = torch.from_numpy(found.labels).to(codebook.device)
        labels = self._cut(whole[:, self.order])
        forms = [form.by_inputs() for form in self.forms]
        passes = found.iterations
        for _ in range(config.max_iterations):
            passes += 1
            codebook = quadratic.refit(forms, codebook, labels)
            before = labels
            labels = [
                quadratic.sweep(f, codebook, chosen)
                for f, chosen in zip(forms, labels, strict=True)
            ]
            if all(torch.equal(a, b) for a, b in zip(before, labels, strict=True)):
                break
        return _Trial(codebook, labels, passes, found.repaired)

    def _priced_alone(self, trial: _Trial, config: CalibrationConfig, scale: float) -> _Trial:
        """As of `Problem`."""
        codebook, labels, passes = trial.codebook, trial.labels, trial.passes
        forms = [form.by_inputs() for form in self.forms]
        for _ in range(_PRICED_ALONE):
            passes += 1
            self._passes.done()
            price = self._scaled_prices(codebook, labels, scale)
            labels = [
                quadratic.sweep(form, codebook, chosen, own)
                for form, chosen, own in zip(forms, labels, price, strict=True)
            ]
            codebook = quadratic.refit(forms, codebook, labels)
        return _Trial(codebook, labels, passes, trial.repaired)

    def _alone(self, trial: _Trial) -> float:
        """As of `Problem`."""
        forms = [form.by_inputs() for form in self.forms]
        return sum(f.error(trial.codebook, c) for f, c in zip(forms, trial.labels, strict=True))

    def _paid(self, trial: _Trial, bits: Tensor, scale: float) -> float:
        """As of `Problem`, of the edges that have an index."""
        assert self.coding is not None
        labels, packed = torch.cat(trial.labels, dim=1), self.coding.packed[:, self.order.cpu()]
        total = bits.gather(1, labels.T.cpu())[packed.T].sum()
        return self._error(trial.codebook, trial.labels) + scale * float(total)

    def _repair(self, codebook: Tensor, labels: list[Tensor]) -> tuple[Tensor, int]:
        """Centroids that no edge uses stay where they are, and are left out in the end."""
        return codebook, 0

    def all_labels(self, codebook: Tensor, labels: list[Tensor]) -> Tensor:
        """As of `Problem`."""
        result = torch.empty(self.out, self.inputs, dtype=torch.int64, device=codebook.device)
        result[:, self.order] = torch.cat(labels, dim=1)
        assert self.coding is not None
        _, factors = self.coding.to(codebook.device)
        weights, blocks = self._still()
        roots = torch.linalg.cholesky(blocks)
        for q, number in enumerate(self.moments.still.tolist()):
            points = weights[:, q] @ roots[q]
            result[:, number] = quadratic.nearest_scaled(
                points, codebook, factors[:, number], roots[q]
            )
        return result

    def _with_spare(self, codebook: Tensor, clusters: int, config: CalibrationConfig) -> Tensor:
        """Inputs that never change share the centroids of the others."""
        return codebook

    def bias(self, codebook: Tensor, labels: Tensor) -> Tensor | None:
        """As of `Problem`."""
        if not self.moments.centred:
            return None
        assert self.coding is not None
        packed, factors = self.coding.to(codebook.device)
        own = scaling.times_two_to(self.weights, self.exponent)
        edges = torch.where(packed[..., None], codebook[labels] * factors, own)
        sums = torch.einsum("oid,id->o", devices.wide(edges), self.moments.mean)
        return scaling.times_two_to(self.moments.target, self.exponent) - sums
