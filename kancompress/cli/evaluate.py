"""`kancompress eval`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output, _scores
from kancompress.cli._bundles import bundle
from kancompress.cli._gates import Gates
from kancompress.cli._options import (
    ForeignFile,
    InputArgument,
    ModelData,
    OwnModel,
    Running,
    Shown,
    noted,
)
from kancompress.cli._run import command
from kancompress.errors import UsageError
from kancompress.frozen import dataclass
from kancompress.system import inputs as reading

# What reads a file once more, for JSON alone.
_SUMMARY = "kancompress.reporting.summary"


@bundle("Results")
class Outputs:
    """What is written beside the score."""

    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Write the outputs (and classes) of the test rows: .safetensors or .npz. A --data"
            " file without labels y has no score, and all of its rows are test rows.",
            show_default=False,
        ),
    ] = None


@command
def evaluate(
    source: InputArgument,
    data: ModelData,
    outputs: Outputs,
    gates: Gates,
    machine: Running,
    own: OwnModel,
    foreign: ForeignFile,
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
      kancompress eval packed.safetensors --min-accuracy 0.93 --max-bytes 5000
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
    size = reading.size_of(found.source)
    gates.check(sized=size is not None)
    where = machine.machine()
    unlabelled = bool(predictions and data.data) and not kancompress.has_labels(rows)
    run = _predicted if unlabelled else _scored
    with own.made() as module, _output.shares() as share:
        told = run(
            found.source,
            rows,
            predictions,
            gates,
            force=shown.force,
            options=options,
            model=module,
            machine=where,
            runtime=machine.runtime,
            state=foreign.state,
            drop=foreign.drop or (),
            name=found.name,
            on_batch=share.batch,
        )
    notes = list(map(noted, told.notes))
    for note in notes:
        _output.note(f"assumed {note}")
    if shown.json_:
        _output.document(told.record | _file(found) | {"notes": notes})
    elif told.result is not None:
        _output.result(told.result)
    else:
        _output.note(f"no labels, so no score; outputs of {told.record['examples']:,} rows")
    gates.pass_or_end(told.score, size)


def _file(found: _files.Given) -> dict[str, Any]:
    """The file that was scored, which tells whose score this is."""
    told = import_module(_SUMMARY).summary(found.source, found.name)
    return {
        "file": found.name,
        "file_bytes": told.file_bytes,
        "ratio": told.ratio,
        "clusters": told.clusters,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What is told in the end: a line, or None without a score; the JSON document; notes."""

    result: str | None
    record: dict[str, Any]
    notes: tuple[str, ...]
    score: kancompress.Score | None = None


def _scored(
    source: Path | bytes,
    rows: kancompress.DataOptions,
    predictions: Path | None,
    gates: Gates,
    *,
    force: bool,
    **how: Any,
) -> _Told:
    done = kancompress.evaluate(source, rows, **how)
    gates.check_score(done.score)
    if predictions:
        kancompress.save_predictions(done, predictions, force=force)
    text = str(done.score)
    return _Told(
        result=f"{text}, {done.score.examples} examples, {done.seconds:.2f} s",
        record=_scores.score_json(done.score) | {"seconds": done.seconds},
        notes=done.notes,
        score=done.score,
    )


def _predicted(
    source: Path | bytes,
    rows: kancompress.DataOptions,
    predictions: Path | None,
    gates: Gates,
    *,
    force: bool,
    **how: Any,
) -> _Told:
    """The outputs of all rows, which have no labels."""
    gates.check_score(None)
    if rows.test_split is not None:
        raise UsageError(
            f"{rows.file} has no labels, so all of its rows are test rows; leave --test-split out."
        )
    assert rows.file is not None
    assert predictions is not None
    shape = rows.shape or None
    done = kancompress.predict(source, rows.file, classes=None, shape=shape, **how)
    done.save(predictions, force=force)
    record = {"labels": False, "loss": None, "examples": len(done.outputs)}
    return _Told(result=None, record=record, notes=done.notes)
