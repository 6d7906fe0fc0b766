"""What a training run tells of itself: scores, and the epochs behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
    """One line of a run's history; epoch 0 is the network as it was given.

    rates   : learning rate of each group of parameters in this epoch
    seconds : that it took, validation included
    """

    number: int
    train_loss: float | None
    validation: Score
    best: bool
    rates: tuple[float, ...] = ()
    seconds: float = 0.0


def best_epoch(history: list[Epoch]) -> int:
    """Number of the epoch that is kept."""
    return max(epoch.number for epoch in history if epoch.best)
