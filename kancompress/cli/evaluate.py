"""`kancompress eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _output, _scores
from kancompress.cli._options import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    DataFileOption,
    DebugOption,
    DownloadOption,
    ForceOption,
    InputArgument,
    JsonOption,
    TestSplitOption,
    data_options,
)
from kancompress.cli._run import command


@command
def evaluate(
    source: InputArgument,
    data: DataFileOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    download: DownloadOption = False,
    test_split: TestSplitOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the outputs (and classes) of the test rows: .safetensors or .npz.",
            show_default=False,
        ),
    ] = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Score a dense, meta or packed file on the test rows of its data set.

    Packed files run from codebooks and indices. The data set is the one the file names.

    \b
    Examples:
      kancompress eval packed.safetensors
      kancompress eval mnist.safetensors --data-dir ~/data --json
      kancompress eval mine.safetensors --data my.npz --predictions outputs.npz
    """
    found = _files.given(source)
    kept = [*found.paths, *([data] if data else [])]
    if predictions:
        kancompress.check_predictions_target(predictions, force=force, inputs=kept)
    done = kancompress.evaluate(found.source, data_options(data, data_dir, download, test_split))
    if predictions:
        kancompress.save_predictions(done, predictions, force=force)
    if json_:
        _output.document(_scores.score_json(done.score) | {"seconds": done.seconds})
        return
    _output.result(
        f"{_scores.score_text(done.score)}, {done.score.examples} examples, {done.seconds:.2f} s"
    )
