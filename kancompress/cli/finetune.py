"""`kancompress finetune`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _model, _output, _scores
from kancompress.cli._options import (
    DEFAULT_DATA_DIR,
    BaseActivationOption,
    BatchOption,
    CompileOption,
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
    OutputOption,
    PrecisionOption,
    RbfDenominatorOption,
    SeedOption,
    SplineOrderOption,
    TestSplitOption,
    ThreadsOption,
    check_finite,
    data_options,
    run_options,
    use_threads,
)
from kancompress.cli._run import shared_command
from kancompress.cli._training import (
    AugmentOption,
    Keep,
    KeepStateOption,
    LogOption,
    ResumeOption,
    Wishes,
    WorkersOption,
    conducted,
    worker_count,
)
from kancompress.config import Device, FinetuneConfig, Machine, Precision
from kancompress.training.history import best_epoch


class Also(StrEnum):
    """What can learn beside the codebooks."""

    NORMS = "norms"
    BIASES = "biases"
    HEAD = "head"


@shared_command
def finetune(
    source: InputArgument,
    output: OutputOption,
    model: ModuleOption = None,
    input_shape: InputShapeOption = None,
    data: DataFileOption = None,
    dataset: DatasetOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    download: DownloadOption = False,
    test_split: TestSplitOption = None,
    distill: Annotated[
        Path | None,
        typer.Option(
            metavar="DENSE",
            readable=False,
            help="Learn from the outputs of this dense checkpoint instead of labels.",
            show_default=False,
        ),
    ] = None,
    also: Annotated[
        list[Also] | None,
        typer.Option(
            help="What else learns: norms (scales, shifts, betas), biases, the head behind"
            " convolutions; repeatable. With --distill all do.",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Learning rate (default 1e-4, convolutions 1e-5).",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Most epochs.")] = 5,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better one.")] = 3,
    batch_size: BatchOption = 128,
    weight_decay: Annotated[float, typer.Option(min=0, help="AdamW's weight decay.")] = 0.01,
    seed: SeedOption = 0,
    compile_: CompileOption = False,
    augment: AugmentOption = None,
    workers: WorkersOption = None,
    precision: PrecisionOption = Precision.FLOAT32,
    device: DeviceOption = Device.AUTO,
    threads: ThreadsOption = None,
    resume: ResumeOption = None,
    keep_state: KeepStateOption = Keep.STOPPED,
    log: LogOption = None,
    layout: LayoutOption = None,
    base_activation: BaseActivationOption = None,
    rbf_denominator: RbfDenominatorOption = None,
    grid_range: GridRangeOption = None,
    spline_order: SplineOrderOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Tune the codebooks of a packed file for a few epochs, assignments fixed (stage 3).

    The file is measured first, and nothing worse on the validation rows is ever written. Packed
    files of other KAN libraries name no data set, so they need --data or --dataset.

    \b
    Examples:
      kancompress finetune packed.safetensors -o tuned.safetensors
      kancompress finetune packed.safetensors --also norms --epochs 3 -o tuned.safetensors
      kancompress finetune packed.safetensors --distill dense.safetensors -o tuned.safetensors
      kancompress finetune packed.safetensors --data-dir ~/data --json -o tuned.safetensors
      kancompress finetune packed.safetensors --model models:Net --data my.npz -o tuned.safetensors
    """
    check_finite(lr=lr, weight_decay=weight_decay)
    shape = _model.row_shape(model, input_shape)
    rows = data_options(data, data_dir, download, test_split, dataset, shape)
    options = run_options(layout, base_activation, rbf_denominator, grid_range, spline_order)
    kept = _files.inputs(source, data, distill)
    wishes = Wishes(output=output, resume=resume, keep=keep_state, log=log, force=force)
    config = FinetuneConfig(
        lr=lr,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        weight_decay=weight_decay,
        seed=seed,
        also=tuple(also or (tuple(Also) if distill else ())),
        compile=compile_,
        precision=precision,
        augment=augment,
    )
    with conducted(wishes, kept, epochs) as conduct:
        found = _files.given(source)
        _files.check_there(data, distill)
        use_threads(threads)
        with conduct.bar() as bar, _model.own_model(model) as module:
            done = kancompress.finetune(
                found.source,
                rows,
                config,
                options=options,
                model=module,
                teacher=distill,
                name=found.name,
                machine=Machine(device=device, workers=worker_count(workers)),
                state=conduct.state,
                on_epoch=conduct.on_epoch,
                on_batch=bar.batch,
            )
        for note in done.notes:
            _output.note(f"assumed {note}")
        written = _files.write_record(done.model, output, force=force, inputs=kept)
        conduct.finish()
    best = best_epoch(done.history)
    _output.table(
        ["", "validation", "test"],
        [
            ["before", *map(_scores.text_of, (done.validation_before, done.test_before))],
            [f"epoch {best}", *map(_scores.text_of, (done.validation, done.test))],
        ],
    )
    if json_:
        _output.document(
            {
                "output": output,
                "file_bytes": written,
                "best_epoch": best,
                "validation_before": _scores.score_json(done.validation_before),
                "validation": _scores.score_json(done.validation),
                "test_before": _scores.json_of(done.test_before),
                "test": _scores.json_of(done.test),
                "notes": list(done.notes),
                "history": _scores.history_json(done.history),
            },
            to_stderr=output == _files.DASH,
        )
