"""Accuracy, loss and predictions of dense, meta and packed networks, ours and others'."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kancompress.data.datasets import Dataset, check_rows
from kancompress.errors import NoScoreError, UsageError
from kancompress.models import lines
from kancompress.models.runnable import Running
from kancompress.specs import DataSpec
from kancompress.training import loop as fitting
from kancompress.training.history import Score
from kancompress.training.loop import OnBatch


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evaluation:
    """A score on the test rows, the outputs behind it (rows, width), and the seconds they took.

    notes : for another library's file, what was taken for granted that its tensors do not tell

    >>> import kancompress
    >>> found = kancompress.evaluate("packed.safetensors")
    >>> found.score.examples, tuple(found.outputs.shape)
    (360, (360, 10))
    """

    score: Score
    outputs: Tensor
    seconds: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return lines.line("Evaluation", str(self.score), f"{self.score.examples:,} examples")

    def _repr_html_(self) -> str:
        """For notebooks: the score, and what was taken for granted."""
        score = self.score
        rows = [(name, value) for name, value in _measures(score) if value is not None]
        return lines.table(repr(self)[1:-1], ("measure", "value"), rows, self.notes)


def _measures(score: Score) -> list[tuple[str, object]]:
    share = None if score.accuracy is None else lines.percent(score.accuracy)
    loss = "divergence" if score.soft else "loss"
    return [
        ("accuracy", share),
        ("rmse", score.rmse),
        (loss, score.loss),
        ("examples", score.examples),
    ]


class Ready(Protocol):
    """A network that can be scored, whatever runs it; its parts are those of `Running`."""

    @property
    def inputs(self) -> int: ...  # noqa: D102
    @property
    def outputs(self) -> int: ...  # noqa: D102
    @property
    def conv(self) -> bool: ...  # noqa: D102
    @property
    def data(self) -> DataSpec | None: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102


def evaluate_running(ready: Running, data: Dataset, on_batch: OnBatch | None = None) -> Evaluation:
    """Run a network over the test rows. Raises UsageError when the data does not fit it."""
    return evaluate_with(
        lambda x: fitting.predict(ready.network, x, on_batch=on_batch), ready, data
    )


def evaluate_with(run: Callable[[Tensor], Tensor], ready: Ready, data: Dataset) -> Evaluation:
    """Score what `run` gives for the test rows. Raises UsageError when they do not fit."""
    check_fit(ready, data)
    start = time.perf_counter()
    outputs = run(data.test.x)
    seconds = time.perf_counter() - start
    return Evaluation(
        score=scored(outputs, data),
        outputs=outputs,
        seconds=seconds,
        notes=ready.notes,
    )


def scored(outputs: Tensor, data: Dataset) -> Score:
    """Score of outputs on the test rows.

    Raises NoScoreError where they have none: NaN of classes, or numbers that are not finite of
    a regression. Infinite outputs of a classification (masked logits) order the classes.
    """
    bad = ~outputs.isfinite() if data.spec.is_regression else outputs.isnan()
    rows = int(bad.any(1).sum())
    if rows:
        what = "NaN or infinity" if data.spec.is_regression else "NaN"
        raise NoScoreError(
            f"The network puts out {what} for {rows:,} of {len(outputs):,} test rows, so it has no"
            " score. Look for NaN in its tensors, and for rows far from those it was trained on."
        )
    return fitting.score_outputs(outputs, data.test.y)


def check_fit(ready: Ready, data: Dataset) -> None:
    """Refuse data whose width, channels or classes are not the network's."""
    check_rows(data.train.x, ready.conv)
    if ready.conv and data.features != ready.inputs:
        raise UsageError(
            f"The network takes images of {ready.inputs} channels, but the data has rows of the"
            f" shape {list(data.train.x.shape[1:])}."
        )
    if data.features != ready.inputs:
        raise UsageError(
            f"The network takes {ready.inputs} inputs, but the data has {data.features} features a"
            " row."
        )
    if ready.data is not None and ready.data.is_regression != data.spec.is_regression:
        kinds = ("classification", "regression")
        raise UsageError(
            f"The network was trained for {kinds[ready.data.is_regression]}, but y holds"
            f" {kinds[data.spec.is_regression]} targets."
        )
    if data.spec.is_regression and data.spec.outputs != ready.outputs:
        raise UsageError(
            f"The network has {ready.outputs} outputs, but y has {data.spec.outputs} targets a row."
        )
    if data.spec.outputs > ready.outputs:
        raise UsageError(
            f"The network tells {ready.outputs} classes apart, but y has {data.spec.outputs}."
        )
