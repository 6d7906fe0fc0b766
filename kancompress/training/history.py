"""What a training run tells of itself: scores, and the epochs behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kancompress.models.lines import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well a network does on some rows.

    loss     : mean cross-entropy, mean squared error for regression, or mean divergence (in nats)
               from another network's classes
    accuracy : share of rows whose class is right, 0 to 1; None for the other two
    soft     : whether the loss is a divergence

    >>> import kancompress
    >>> print(kancompress.Score(loss=0.25, accuracy=0.9333, examples=360))
    accuracy 93.33 %, loss 0.2500
    >>> kancompress.Score(loss=0.25, accuracy=None, examples=360).rmse
    0.5
    """

    loss: float
    accuracy: float | None
    examples: int
    soft: bool = False

    def __str__(self) -> str:
        """In words, as in "accuracy 93.33 %, loss 0.2150"."""
        if self.accuracy is not None:
            return f"accuracy {percent(self.accuracy)}, loss {self.loss:.4f}"
        if self.soft:
            return f"divergence from the dense model {self.loss:.6g}"
        return f"rmse {self.rmse:.6g}, loss {self.loss:.6g}"

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

    >>> import kancompress
    >>> config = kancompress.FinetuneConfig(epochs=1)
    >>> first = kancompress.finetune("packed.safetensors", config=config).history[0]
    >>> first.number, first.train_loss, first.validation.examples
    (0, None, 144)
    """

    number: int
    train_loss: float | None
    validation: Score
    best: bool
    rates: tuple[float, ...] = ()
    seconds: float = 0.0


def table_rows(history: list[Epoch]) -> list[tuple[object, ...]]:
    """A history as rows of a table for notebooks: epoch, training loss, validation."""
    return [
        (
            epoch.number,
            epoch.train_loss,
            f"{epoch.validation}{', best' if epoch.best else ''}",
        )
        for epoch in history
    ]


def best_epoch(history: list[Epoch]) -> int:
    """Number of the epoch that is kept."""
    return max(epoch.number for epoch in history if epoch.best)
