"""Scores and records in words and in JSON, the same for every command."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kancompress.cli import _output

if TYPE_CHECKING:
    from kancompress.training.history import Epoch, Score


def score_json(score: Score) -> dict[str, Any]:
    """`accuracy`, `loss`, `examples`; `rmse` for regression, `divergence` with a teacher."""
    record: dict[str, Any] = {"loss": score.loss, "examples": score.examples}
    if score.accuracy is not None:
        return {"accuracy": score.accuracy} | record
    return {"divergence": score.loss} | record if score.soft else {"rmse": score.rmse} | record


def score_cells(score: Score) -> tuple[str, str]:
    """Accuracy or root mean squared error, and the loss, for a table."""
    if score.accuracy is not None:
        return _output.percent(score.accuracy), f"{score.loss:.4f}"
    return f"{score.rmse:.6g}", f"{score.loss:.6g}"


def score_keys(score: Score) -> tuple[str, ...]:
    """Names of what `score_cells` has."""
    return ("accuracy" if score.accuracy is not None else "rmse"), "loss"


def json_of(score: Score | None) -> dict[str, Any] | None:
    """`score_json`, where there is a score."""
    return None if score is None else score_json(score)


def text_of(score: Score | None) -> str:
    """A score in words, where there is one."""
    return "no labels" if score is None else str(score)


def error_text(error: float) -> str:
    """An error of outputs with its name and unit; its root is in the unit of the outputs."""
    return f"relative squared error {error:.3g}: {_share(error)} of the outputs' spread"


def _share(error: float) -> str:
    """The root of a relative squared error in percent, in two digits."""
    percent = 100 * math.sqrt(max(0.0, error))
    return f"{percent:.0f} %" if percent >= 9.5 else f"{percent:.2g} %"


def epoch_text(epoch: Epoch, total: int) -> str:
    """One line of the history."""
    star = "  best" if epoch.best else ""
    if epoch.train_loss is None:
        return f"epoch 0/{total}  validation {epoch.validation}"
    return (
        f"epoch {epoch.number}/{total}  train loss {epoch.train_loss:.4f}"
        f"  validation {epoch.validation}{star}"
    )


def history_json(history: list[Epoch]) -> list[dict[str, Any]]:
    """The history, one object an epoch."""
    return [epoch_json(epoch) for epoch in history]


def epoch_json(epoch: Epoch) -> dict[str, Any]:
    """One epoch of the history."""
    return {
        "epoch": epoch.number,
        "train_loss": epoch.train_loss,
        "validation": score_json(epoch.validation),
        "best": epoch.best,
    }
