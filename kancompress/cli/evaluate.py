"""`kancompress eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _model, _output, _scores
from kancompress.cli._options import (
    DEFAULT_DATA_DIR,
    BaseActivationOption,
    DataDirOption,
    DataFileOption,
    DatasetOption,
    DebugOption,
    DeviceOption,
    DownloadOption,
    ForceOption,
    GridRangeOption,
    InputArgument,
    InputShapeOption,
    JsonOption,
    LayoutOption,
    ModuleOption,
    RbfDenominatorOption,
    SplineOrderOption,
    TestSplitOption,
    ThreadsOption,
    data_options,
    run_options,
    use_threads,
)
from kancompress.cli._run import command
from kancompress.config import Device, Machine
from kancompress.errors import UsageError


@command
def evaluate(
    source: InputArgument,
    model: ModuleOption = None,
    input_shape: InputShapeOption = None,
    data: DataFileOption = None,
    dataset: DatasetOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    download: DownloadOption = False,
    test_split: TestSplitOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Write the outputs (and classes) of the test rows: .safetensors or .npz.",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = None,
    base_activation: BaseActivationOption = None,
    rbf_denominator: RbfDenominatorOption = None,
    grid_range: GridRangeOption = None,
    spline_order: SplineOrderOption = None,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
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
    shape = _model.row_shape(model, input_shape)
    rows = data_options(data, data_dir, download, test_split, dataset, shape)
    options = run_options(layout, base_activation, rbf_denominator, grid_range, spline_order)
    if str(predictions) == _files.DASH:
        raise UsageError("--predictions names a file; standard output holds the score.")
    if predictions:
        kept = _files.inputs(source, data)
        kancompress.check_predictions_target(predictions, force=force, inputs=kept)
    found = _files.given(source)
    _files.check_there(data)
    use_threads(threads)
    with _model.own_model(model) as module:
        done = kancompress.evaluate(
            found.source,
            rows,
            options=options,
            model=module,
            machine=Machine(device=device),
            name=found.name,
        )
    for note in done.notes:
        _output.note(f"assumed {note}")
    if predictions:
        kancompress.save_predictions(done, predictions, force=force)
    if json_:
        record = {"seconds": done.seconds, "notes": list(done.notes)}
        _output.document(_scores.score_json(done.score) | record)
        return
    _output.result(
        f"{_scores.score_text(done.score)}, {done.score.examples} examples, {done.seconds:.2f} s"
    )
