"""`kancompress eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _output, _scores
from kancompress.cli._bundles import bundle
from kancompress.cli._options import (
    Compute,
    Foreign,
    InputArgument,
    ModelData,
    OwnModel,
    Shown,
    noted,
)
from kancompress.cli._run import command
from kancompress.errors import UsageError


@bundle("Results")
class Outputs:
    """What is written beside the score."""

    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Write the outputs (and classes) of the test rows: .safetensors or .npz.",
            show_default=False,
        ),
    ] = None


@command
def evaluate(
    source: InputArgument,
    data: ModelData,
    outputs: Outputs,
    machine: Compute,
    own: OwnModel,
    foreign: Foreign,
    shown: Shown,
) -> None:
    """Score a dense, meta or packed file on the test rows of its data set.

    Packed files run from codebooks and indices. The data set is the one the file names. Files of
    other KAN libraries, packed or not, name none, so they need --data or --dataset.

    \b
    Examples:
      kancompress eval packed.safetensors
      kancompress eval mnist.safetensors --data-dir ~/data --json
      kancompress eval mine.safetensors --data my.npz --predictions outputs.npz
      kancompress eval efficient_kan.pt --dataset mnist --base-activation gelu
      kancompress eval packed.safetensors --model models:Net --data images.npz
    """
    rows = data.options(own.row_shape())
    options = foreign.options()
    predictions = outputs.predictions
    if str(predictions) == _files.DASH:
        raise UsageError("--predictions names a file; standard output holds the score.")
    if predictions:
        kept = _files.inputs(source, data.data)
        kancompress.check_predictions_target(predictions, force=shown.force, inputs=kept)
    found = _files.given(source)
    _files.check_there(data.data)
    where = machine.machine()
    with own.made() as module:
        done = kancompress.evaluate(
            found.source,
            rows,
            options=options,
            model=module,
            machine=where,
            state=foreign.state,
            name=found.name,
        )
    notes = list(map(noted, done.notes))
    for note in notes:
        _output.note(f"assumed {note}")
    if predictions:
        kancompress.save_predictions(done, predictions, force=shown.force)
    if shown.json_:
        record = {"seconds": done.seconds, "notes": notes}
        _output.document(_scores.score_json(done.score) | record)
        return
    _output.result(
        f"{_scores.score_text(done.score)}, {done.score.examples} examples, {done.seconds:.2f} s"
    )
