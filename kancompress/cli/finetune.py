"""`kancompress finetune`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import kancompress
from kancompress.cli import _endings, _files, _output, _report, _scores
from kancompress.cli._bundles import bundle
from kancompress.cli._options import (
    ForeignFile,
    InputArgument,
    ModelData,
    OutputOption,
    OwnModel,
    Shown,
    check_finite,
    noted,
)
from kancompress.cli._run import shared_command
from kancompress.cli._training import Batches, LongRun, TrainingMachine, conducted
from kancompress.config import FinetuneConfig, default_rate
from kancompress.training.history import best_epoch

if TYPE_CHECKING:
    from kancompress import Finetuning

_DEFAULTS = FinetuneConfig()


class Also(StrEnum):
    """What can learn beside the codebooks."""

    NORMS = "norms"
    BIASES = "biases"
    HEAD = "head"


def _rate(*, conv: bool) -> str:
    return f"{default_rate(conv=conv):.0e}".replace("e-0", "e-")


@bundle("Fine-tuning")
class Schedule:
    """What learns, from what, how fast and how long."""

    distill: Annotated[
        Path | None,
        typer.Option(
            metavar="DENSE",
            readable=False,
            help="Learn from the outputs of this dense checkpoint instead of labels.",
            show_default=False,
        ),
    ] = None
    also: Annotated[
        list[Also] | None,
        typer.Option(
            help="What else learns: norms (scales, shifts, betas), biases, the head behind"
            " convolutions; repeatable. With --distill all do.",
            show_default=False,
        ),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            help=f"Learning rate (default {_rate(conv=False)}, convolutions {_rate(conv=True)}).",
            show_default=False,
        ),
    ] = _DEFAULTS.lr
    epochs: Annotated[int, typer.Option(min=0, help="Most epochs.")] = _DEFAULTS.epochs
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better one.")] = (
        _DEFAULTS.patience
    )

    def check(self) -> None:
        """Refuse numbers that are not finite."""
        check_finite(lr=self.lr)

    def config(self, batches: Batches, machine: TrainingMachine) -> FinetuneConfig:
        """The library's record of these options and of how it learns otherwise."""
        return FinetuneConfig(
            lr=self.lr,
            epochs=self.epochs,
            patience=self.patience,
            batch_size=batches.batch_size,
            weight_decay=batches.weight_decay,
            seed=batches.seed,
            also=tuple(self.also or (tuple(Also) if self.distill else ())),
            compile=machine.compile_,
            precision=machine.precision,
            augment=batches.augment,
        )


@shared_command
def finetune(
    source: InputArgument,
    output: OutputOption,
    schedule: Schedule,
    batches: Batches,
    data: ModelData,
    machine: TrainingMachine,
    run: LongRun,
    own: OwnModel,
    foreign: ForeignFile,
    shown: Shown,
) -> None:
    """Tune the codebooks of a packed file for a few epochs, assignments fixed (stage 3).

    The file is measured first, and nothing worse on the validation rows is ever written. Packed
    files of other KAN libraries name no data set, so they need --data or --dataset. --state and
    --drop are for the file of --distill.

    \b
    Examples:
      kancompress finetune packed.safetensors -o tuned.safetensors
      kancompress finetune packed.safetensors --also norms --epochs 3 -o tuned.safetensors
      kancompress finetune packed.safetensors --distill dense.safetensors -o tuned.safetensors
      kancompress finetune packed.safetensors --data-dir ~/data --json -o tuned.safetensors
      kancompress finetune packed.safetensors --model models:Net --data my.npz -o tuned.safetensors
    """
    schedule.check()
    batches.check()
    rows = data.options(own.row_shape())
    options = foreign.options()
    config = schedule.config(batches, machine)
    kept = _files.inputs(source, data.data, schedule.distill)
    with conducted(run.wishes(output, force=shown.force), kept, config.epochs) as conduct:
        found = _files.given(source)
        _files.check_there(data.data, schedule.distill)
        where = machine.machine()
        with conduct.bar() as bar, own.made() as module:
            done = kancompress.finetune(
                found.source,
                rows,
                config,
                options=options,
                model=module,
                teacher=schedule.distill,
                teacher_state=foreign.state,
                teacher_drop=foreign.drop or (),
                name=found.name,
                machine=where,
                state=conduct.state,
                on_epoch=conduct.on_epoch,
                on_batch=bar.batch,
            )
        for note in done.notes:
            _output.note(f"assumed {noted(note)}")
        written = _files.write_record(done.model, output, force=shown.force, inputs=kept)
        conduct.finish()
    _report.tell_packed(done.model, output)
    _tell(done)
    _endings.tell(
        _endings.Ending(
            history=done.history,
            epochs=config.epochs,
            patience=config.patience,
            output=output,
            written=written,
            before="the input",
        )
    )
    if shown.json_:
        _print(done, output, written)


def _tell(done: Finetuning) -> None:
    """Print a table of the scores."""
    _output.table(
        ["", "validation", "test"],
        [
            ["before", *map(_scores.text_of, (done.validation_before, done.test_before))],
            [
                f"epoch {best_epoch(done.history)}",
                *map(_scores.text_of, (done.validation, done.test)),
            ],
        ],
    )


def _print(done: Finetuning, output: str, written: int) -> None:
    """Print the JSON document."""
    _output.document(
        {
            "output": output,
            "file_bytes": written,
            "best_epoch": best_epoch(done.history),
            "validation_before": _scores.score_json(done.validation_before),
            "validation": _scores.score_json(done.validation),
            "test_before": _scores.json_of(done.test_before),
            "test": _scores.json_of(done.test),
            "notes": list(map(noted, done.notes)),
            "history": _scores.history_json(done.history),
        },
        to_stderr=output == _files.DASH,
    )
