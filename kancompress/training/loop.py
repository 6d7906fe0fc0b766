"""The one training loop: it serves plain, meta and packed networks.

What differs is the module, the groups of parameters and the state that is kept; the loop does
epochs, early stopping and the choice of the best epoch on the validation rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.config import Precision
from kancompress.data.augmentation import Augmenter
from kancompress.data.batches import Feed
from kancompress.data.datasets import Split
from kancompress.errors import KancompressError, UsageError
from kancompress.system import devices, distributed, seeds
from kancompress.training.history import Epoch, Score, best_epoch
from kancompress.training.state import Keeper, State

EVALUATION_BATCH = 1024


OnEpoch = Callable[[Epoch], None]
OnBatch = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to train: at most `epochs`, and `patience` more after the best one.

    decay   : factor of all learning rates after every epoch
    augment : whether the rows are images to be augmented (`augmentation`)
    """

    epochs: int
    patience: int
    batch_size: int
    seed: int
    decay: float = 1.0
    precision: Precision = Precision.FLOAT32
    augment: bool = False


def loss_of(output: Tensor, y: Tensor, *, soft: bool = False) -> Tensor:
    """Mean cross-entropy for classes (int64), squared error for real targets.

    soft : y are outputs for the same classes; the Kullback-Leibler divergence from them
    """
    if soft:
        wanted, given = functional.log_softmax(y, dim=1), functional.log_softmax(output, dim=1)
        return functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
    if y.is_floating_point():
        return functional.mse_loss(output, y)
    return functional.cross_entropy(output, y)


def predict(
    network: nn.Module,
    x: Tensor,
    batch: int = EVALUATION_BATCH,
    on_batch: OnBatch | None = None,
) -> Tensor:
    """Outputs for all rows of `x` on the CPU, in batches on the network's device, without
    gradients."""
    network.eval()
    device = devices.of(network)
    with torch.no_grad():  # what a module keeps for later must be fit for training
        blocks = torch.split(x, batch)
        mine = list(distributed.own(len(blocks)))
        own = {}
        for done, number in enumerate(mine, 1):
            own[number] = network(blocks[number].to(device)).cpu()
            if on_batch:
                on_batch(done, len(mine))
    return distributed.gathered(own, [len(block) for block in blocks])


def score_outputs(output: Tensor, y: Tensor, *, soft: bool = False) -> Score:
    """Score of outputs (rows, width) against targets."""
    targets = y.double() if y.is_floating_point() else y
    loss = float(loss_of(output.double(), targets, soft=soft))
    accuracy = None
    if not y.is_floating_point():
        accuracy = int((output.argmax(1) == y).sum()) / len(y)
    return Score(loss=loss, accuracy=accuracy, examples=len(y), soft=soft)


def score(network: nn.Module, rows: Split) -> Score:
    """Score of a network on some rows."""
    return score_outputs(predict(network, rows.x), rows.y, soft=rows.soft)


def fit(
    network: nn.Module,
    groups: Iterable[dict[str, Any]],
    train: Split,
    schedule: Schedule,
    *,
    measure: Callable[[], Score],
    settle: Callable[[], None] | None = None,
    step: nn.Module | None = None,
    keeper: Keeper | None = None,
    workers: int = 0,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> list[Epoch]:
    """Train `network` on its device and leave it in the state of its best epoch, epoch 0 included.

    groups  : parameter groups for AdamW, each with its learning rate
    measure : gives the validation score of the network as it now stands
    settle  : makes the network ready for evaluation after an epoch, before it is measured
    step    : a compiled twin of `network` for the training passes, sharing its parameters
    keeper  : keeps the state after every epoch, and gives the one to go on from; its own meanwhile
    workers : processes that prepare augmented rows
    What a module draws from torch's own generators, as dropout does, is seeded by epoch; the
    generators are left as they were found.
    Raises KancompressError when the loss becomes NaN before any epoch was better than none.
    """
    device = devices.of(network)
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(forked), keeper.alone() if keeper else nullcontext():
        running = network if step is None else step
        augmenter = Augmenter(train, schedule.seed, workers) if schedule.augment else None
        feed = Feed(train, schedule.batch_size, device, augmenter)
        run = _Run(network, groups, feed, schedule, running)
        run.start(measure, keeper, on_epoch)
        while run.goes_on():
            begin = time.perf_counter()
            mean = run.train(on_batch)
            if not math.isfinite(mean):
                if len(run.history) == 1:
                    raise KancompressError(
                        f"The loss became {mean} in the first epoch; try a lower learning rate"
                        " (`lr`).",
                        fields=("lr",),
                    )
                break
            if settle:
                settle()
            run.judge(mean, _agreed(measure()), begin)
            if keeper and distributed.number() == 0:
                keeper.save(run.state())
            _tell(on_epoch, run.history[-1])
    network.load_state_dict(run.best)
    return run.history


class _Run:
    """A training run: all that changes from epoch to epoch."""

    def __init__(
        self,
        network: nn.Module,
        groups: Iterable[dict[str, Any]],
        feed: Feed,
        schedule: Schedule,
        running: nn.Module,
    ) -> None:
        self.network = network
        self.schedule = schedule
        self.history: list[Epoch] = []
        self.best = _copied(network.state_dict())
        self._optimizer = torch.optim.AdamW(groups, fused=True)
        self._parameters = [p for g in self._optimizer.param_groups for p in g["params"]]
        self._generator = torch.Generator().manual_seed(schedule.seed)
        self._running = distributed.parallel(network, running, feed.sample)
        self._feed = feed
        self._rates = self._current_rates()

    def start(
        self, measure: Callable[[], Score], keeper: Keeper | None, on_epoch: OnEpoch | None
    ) -> None:
        """Measure the network as it was given, or go on from a state."""
        state = keeper.load(self._like()) if keeper else None
        if state is None:
            found = _agreed(measure())
            self.history = [Epoch(number=0, train_loss=None, validation=found, best=True)]
            _tell(on_epoch, self.history[-1])
        elif keeper:
            self._restore(state)
            keeper.tell(state)

    def goes_on(self) -> bool:
        """Whether another epoch is due."""
        last = self.history[-1].number
        since_best = last - best_epoch(self.history)
        return last < self.schedule.epochs and since_best < self.schedule.patience

    def train(self, on_batch: OnBatch | None) -> float:
        """One pass over the rows in random order; returns the mean loss."""
        self.network.train()
        number = len(self.history)
        torch.manual_seed(seeds.mixed(self.schedule.seed, number, distributed.number()))
        self._rates = self._current_rates()
        order = torch.randperm(len(self._feed), generator=self._generator)
        total = torch.zeros((), device=self._feed.device)
        for batch, (x, y, rows, share) in enumerate(self._feed.epoch(number, order), 1):
            self._optimizer.zero_grad()
            precision = devices.autocast(self._feed.device, self.schedule.precision)
            with precision, distributed.forward_pass():
                output = self._running(x)
            loss = loss_of(_wide(output), y.to(output.device), soft=self._feed.soft)
            distributed.weighted(loss, share).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            total += loss.detach() * (share * rows)
            if on_batch:
                on_batch(batch, self._feed.batches)
        for group in self._optimizer.param_groups:
            group["lr"] *= self.schedule.decay
        return float(distributed.summed(total)) / len(self._feed)

    def judge(self, train_loss: float, found: Score, begin: float) -> None:
        """Write down an epoch, and keep its network where it is the best so far."""
        best = self.history[best_epoch(self.history)].validation
        better = found.key() < best.key()
        if better:
            self.best = _copied(self.network.state_dict())
        self.history.append(
            Epoch(
                number=len(self.history),
                train_loss=train_loss,
                validation=found,
                best=better,
                rates=self._rates,
                seconds=time.perf_counter() - begin,
            )
        )

    def state(self) -> State:
        """All that the next epoch depends on."""
        return State(
            history=self.history,
            rates=self._current_rates(),
            network=self.network.state_dict(),
            best=self.best,
            optimizer={
                f"{number}.{name}": moment
                for number, parameter in enumerate(self._parameters)
                for name, moment in self._optimizer.state[parameter].items()
            },
            order=self._generator.get_state(),
        )

    def _current_rates(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for group in self._optimizer.param_groups)

    def _like(self) -> State:
        """A state of this run, moments included, for its shapes."""
        moments: dict[str, Tensor] = {}
        for number, parameter in enumerate(self._parameters):
            moments[f"{number}.step"] = torch.zeros(())
            moments[f"{number}.exp_avg"] = moments[f"{number}.exp_avg_sq"] = parameter
        return replace(self.state(), optimizer=moments)

    def _restore(self, state: State) -> None:
        done = state.history[-1].number
        if done > self.schedule.epochs:
            raise UsageError(
                f"The state has {done} epochs behind it, but `epochs` asks for"
                f" {self.schedule.epochs}; ask for {done} or more.",
                fields=("epochs",),
            )
        self.history = list(state.history)
        self.network.load_state_dict(dict(state.best))
        self.best = _copied(self.network.state_dict())
        self.network.load_state_dict(dict(state.network))
        for group, rate in zip(self._optimizer.param_groups, state.rates, strict=True):
            group["lr"] = rate
        for name, moment in state.optimizer.items():
            number, _, key = name.partition(".")
            parameter = self._parameters[int(number)]
            # in the parameter's own order of axes, which the optimizer's kernels take for granted
            own = torch.empty_like(parameter if moment.dim() else moment, device=parameter.device)
            self._optimizer.state[parameter][key] = own.copy_(moment)
        self._generator.set_state(state.order)


def _tell(on_epoch: OnEpoch | None, epoch: Epoch) -> None:
    if on_epoch:
        on_epoch(epoch)


def _agreed(score: Score) -> Score:
    """The first process's score, so that all decide the same."""
    loss, accuracy = distributed.from_first([score.loss, score.accuracy or 0.0])
    return replace(score, loss=loss, accuracy=None if score.accuracy is None else accuracy)


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _wide(output: Tensor) -> Tensor:
    """Outputs in float32 at least."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
