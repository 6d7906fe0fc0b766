"""The one training loop: it serves plain, meta and packed networks.

What differs is the module, the groups of parameters and the state that is kept; the loop does
epochs, early stopping and the choice of the best epoch on the validation rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.datasets import Split
from kancompress.errors import KancompressError

EVALUATION_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well a network does on some rows.

    loss     : mean cross-entropy, mean squared error for regression, or mean divergence (in nats)
               from another network's classes
    accuracy : share of rows whose class is right, 0 to 1; None for the other two
    soft     : whether the loss is a divergence
    """

    loss: float
    accuracy: float | None
    examples: int
    soft: bool = False

    @property
    def rmse(self) -> float | None:
        """Root mean squared error; None where the loss is something else."""
        return math.sqrt(self.loss) if self.accuracy is None and not self.soft else None

    def key(self) -> tuple[float, float]:
        """Smaller is better: the error, and among equal errors the loss."""
        if math.isnan(self.loss):
            return math.inf, math.inf
        return (self.loss if self.accuracy is None else 1 - self.accuracy), self.loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One line of a run's history; epoch 0 is the network as it was given."""

    number: int
    train_loss: float | None
    validation: Score
    best: bool


OnEpoch = Callable[[Epoch], None]
OnBatch = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to train: at most `epochs`, and `patience` more after the best one.

    decay : factor of all learning rates after every epoch
    """

    epochs: int
    patience: int
    batch_size: int
    seed: int
    decay: float = 1.0


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


def predict(network: nn.Module, x: Tensor) -> Tensor:
    """Outputs for all rows of `x`, in batches, without gradients."""
    network.eval()
    with torch.no_grad():  # what a module keeps for later must be fit for training
        parts = [
            network(x[start : start + EVALUATION_BATCH])
            for start in range(0, len(x), EVALUATION_BATCH)
        ]
    return torch.cat(parts)


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
    step: nn.Module | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> list[Epoch]:
    """Train `network` and leave it in the state of its best epoch, epoch 0 included.

    groups  : parameter groups for AdamW, each with its learning rate
    measure : gives the validation score of the network as it now stands
    step    : a compiled twin of `network` for the training passes, sharing its parameters
    Raises KancompressError when the loss becomes NaN before any epoch was better than none.
    """
    optimizer = torch.optim.AdamW(groups, fused=True)
    rates = torch.optim.lr_scheduler.ExponentialLR(optimizer, schedule.decay)
    generator = torch.Generator().manual_seed(schedule.seed)
    best_score = measure()
    best = _state(network)
    history = [Epoch(number=0, train_loss=None, validation=best_score, best=True)]
    _tell(on_epoch, history[-1])
    since_best = 0
    running = network if step is None else step  # a compiled module has no truth value
    for number in range(1, schedule.epochs + 1):
        network.train()
        mean = _epoch(running, optimizer, train, schedule.batch_size, generator, on_batch)
        if not math.isfinite(mean):
            if number == 1:
                raise KancompressError(
                    f"The loss became {mean} in the first epoch; try a lower learning rate (--lr)."
                )
            break
        rates.step()
        found = measure()
        better = found.key() < best_score.key()
        if better:
            best_score, best, since_best = found, _state(network), 0
        else:
            since_best += 1
        history.append(Epoch(number=number, train_loss=mean, validation=found, best=better))
        _tell(on_epoch, history[-1])
        if since_best >= schedule.patience:
            break
    network.load_state_dict(best)
    return history


def _tell(on_epoch: OnEpoch | None, epoch: Epoch) -> None:
    if on_epoch:
        on_epoch(epoch)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Split,
    batch_size: int,
    generator: torch.Generator,
    on_batch: OnBatch | None,
) -> float:
    """One pass over the rows in random order; returns the mean loss."""
    order = torch.randperm(len(train), generator=generator)
    batches = torch.split(order, batch_size)
    total = torch.zeros(())
    for number, rows in enumerate(batches, 1):
        optimizer.zero_grad()
        loss = loss_of(network(train.x[rows]), train.y[rows], soft=train.soft)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.detach() * len(rows)
        if on_batch:
            on_batch(number, len(batches))
    return float(total) / len(train)
