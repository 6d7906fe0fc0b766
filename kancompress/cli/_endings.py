"""How a training run ended, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kancompress.cli import _files, _output
from kancompress.training.history import best_epoch

if TYPE_CHECKING:
    from kancompress.training.history import Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A run that has ended.

    before : what epoch 0 is, as in "the input"
    """

    history: Sequence[Epoch]
    epochs: int
    patience: int
    output: str
    written: int
    before: str

    def sentences(self) -> Iterator[str]:
        """Which file was written, after how long, why no epoch followed, and what to try."""
        last, best = self.history[-1].number, best_epoch(list(self.history))
        seconds = sum(epoch.seconds for epoch in self.history)
        epochs = f"{last} epoch{'' if last == 1 else 's'}"
        where = "standard output" if self.output == _files.DASH else self.output
        yield (
            f"{where}: {_output.size(self.written)} bytes, written after {epochs} in"
            f" {_duration(seconds)}; {self._reason(last, best)}"
        )
        if not best and last:
            yield f"no epoch was better on the validation rows, so that the output is {self.before}"
        elif last and best == last == self.epochs:
            yield "the last epoch was the best one: it was still improving; raise --epochs"

    def _reason(self, last: int, best: int) -> str:
        if last >= self.epochs:
            return f"that was all of --epochs {self.epochs}"
        if last - best >= self.patience:
            waited = f"{self.patience} epoch{'' if self.patience == 1 else 's'}"
            return f"stopped as no better epoch came within {waited} (--patience)"
        return "stopped as the loss was no finite number; a lower --lr may help"


def tell(ending: Ending) -> None:
    """Say how a run ended, on standard error."""
    for sentence in ending.sentences():
        _output.note(sentence)


def _duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s, 2 h 3 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
