"""What a score and a file have to be for `eval` to end with 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kancompress.cli import _output
from kancompress.cli._bundles import bundle
from kancompress.cli._options import check_finite
from kancompress.errors import MissedError, UsageError

if TYPE_CHECKING:
    from kancompress.training.history import Score


@bundle("Gates: exit code 4 where one is missed")
class Gates:
    """Bounds, which are looked at once the score is told."""

    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SHARE", help="Least accuracy, 0 to 1.", show_default=False),
    ] = None
    max_rmse: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="ERROR", help="Most root mean squared error.", show_default=False
        ),
    ] = None
    max_bytes: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most bytes of the file.", show_default=False),
    ] = None

    def check(self, *, sized: bool) -> None:
        """Refuse, before any work, bounds that mean nothing.

        sized : whether what is scored is a single file
        """
        check_finite(min_accuracy=self.min_accuracy, max_rmse=self.max_rmse)
        if self.min_accuracy is not None and self.min_accuracy > 1:
            share = f"; for {self.min_accuracy:g} % write {self.min_accuracy / 100:g}"
            raise UsageError(
                f"--min-accuracy {self.min_accuracy:g} is not possible; a share from 0 to 1 was"
                f" expected{share if self.min_accuracy <= 100 else ''}."
            )
        if self.max_bytes is not None and not sized:
            raise UsageError("--max-bytes is for a single file; this input is a folder or several.")

    def check_score(self, score: Score | None) -> None:
        """Refuse bounds of a score of another kind, or of none."""
        if score is None:
            if self.min_accuracy is not None or self.max_rmse is not None:
                raise UsageError(
                    "Rows without labels have no score; leave --min-accuracy and --max-rmse out."
                )
        elif score.accuracy is None and self.min_accuracy is not None:
            raise UsageError("--min-accuracy is for classes, and y holds targets; use --max-rmse.")
        elif score.accuracy is not None and self.max_rmse is not None:
            raise UsageError("--max-rmse is for targets, and y holds classes; use --min-accuracy.")

    def pass_or_end(self, score: Score | None, file_bytes: int | None) -> None:
        """Raise MissedError, with all bounds that are missed, where one is."""
        accuracy, rmse = (None, None) if score is None else (score.accuracy, score.rmse)
        missed = []
        least, most = self.min_accuracy, self.max_rmse
        # what is no number passes no gate
        if accuracy is not None and least is not None and not accuracy >= least:
            missed.append(
                f"accuracy {_output.percent(accuracy)} is below --min-accuracy {least:g},"
                f" which is {_output.percent(least)}"
            )
        if rmse is not None and most is not None and not rmse <= most:
            missed.append(f"rmse {rmse:.6g} is above --max-rmse {most:g}")
        if self.max_bytes is not None and file_bytes is not None and file_bytes > self.max_bytes:
            missed.append(
                f"{_output.size(file_bytes)} bytes are above --max-bytes {self.max_bytes}"
            )
        if missed:
            raise MissedError(f"Gate missed: {'; '.join(missed)}.")
