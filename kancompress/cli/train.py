"""`kancompress train`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _output, _scores
from kancompress.cli._options import (
    DEFAULT_DATA_DIR,
    BatchOption,
    CompileOption,
    DataDirOption,
    DataFileOption,
    DebugOption,
    DeviceOption,
    DownloadOption,
    ForceOption,
    JsonOption,
    OutputOption,
    PrecisionOption,
    SeedOption,
    TestSplitOption,
    ThreadsOption,
    check_finite,
    data_options,
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
from kancompress.config import CHANNELS, Device, Machine, Precision, TrainConfig, default_training
from kancompress.errors import UsageError
from kancompress.specs import (
    FAMILIES,
    BasisSpec,
    ConvSpec,
    DatasetName,
    MetaSpec,
    ModelName,
    default_basis,
    default_conv,
    default_meta,
)
from kancompress.training.history import best_epoch


@shared_command
def train(
    output: OutputOption,
    model: Annotated[ModelName, typer.Option(help="Which network.")] = ModelName.METAFASTKAN,
    dataset: Annotated[
        DatasetName | None,
        typer.Option(help="Named data set (default digits).", show_default=False),
    ] = None,
    data: DataFileOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    download: DownloadOption = False,
    test_split: TestSplitOption = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Hidden units of each layer, or channels of convolutions (default 32, or"
            " 32,64,128,256).",
            show_default=False,
        ),
    ] = None,
    grid_low: Annotated[float | None, typer.Option(help="Lower end of the grid.")] = None,
    grid_high: Annotated[float | None, typer.Option(help="Upper end of the grid.")] = None,
    grid_size: Annotated[
        int | None,
        typer.Option(min=1, max=65_536, help="Grid intervals, or number of RBFs for fastkan."),
    ] = None,
    degree: Annotated[
        int | None, typer.Option(min=0, max=16, help="Degree of the splines or polynomials.")
    ] = None,
    embedding: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_536,
            help="Embedding size of a meta network (default 1, with convolutions 2).",
            show_default=False,
        ),
    ] = None,
    meta_hidden: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_536,
            help="Hidden units of the meta-learner (default 32).",
            show_default=False,
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Share of channels that convolutions behind the first drop in training (default"
            " 0.25).",
            show_default=False,
        ),
    ] = None,
    head_dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Share of features that the linear layer behind them drops (default 0.5).",
            show_default=False,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(min=0, help="Learning rate; of the meta-learner in a meta network."),
    ] = None,
    lr_embedding: Annotated[
        float | None, typer.Option(min=0, help="Learning rate of the embeddings.")
    ] = None,
    lr_decay: Annotated[
        float | None, typer.Option(min=0, help="Factor of the learning rates after every epoch.")
    ] = None,
    lr_rest: Annotated[
        float | None,
        typer.Option(min=0, help="Learning rate of norms, betas and head of a meta network."),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Most epochs (default 50, with convolutions 150); 0 saves the new network.",
            show_default=False,
        ),
    ] = None,
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better one.")] = 10,
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
    force: ForceOption = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a network and save its best validation epoch (stage 1).

    The defaults of each model are the recipe of the MetaCluster paper. The data set's test rows
    are scored once, at the end.

    \b
    Examples:
      kancompress train -o digits.safetensors
      kancompress train --model metakan --dataset mnist --download -o mnist.safetensors
      kancompress train --model kan --data my.npz --epochs 20 -o mine.safetensors
      kancompress train --resume mnist.safetensors.state --model metakan --dataset mnist -o ...
      kancompress train --model metagramkanconv --dataset cifar10 -o cifar.safetensors
      kancompress train -o - | kancompress cluster - -o packed.safetensors
    """
    check_finite(
        lr=lr,
        lr_embedding=lr_embedding,
        lr_rest=lr_rest,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        dropout=dropout,
        head_dropout=head_dropout,
        grid_low=grid_low,
        grid_high=grid_high,
    )
    options = data_options(data, data_dir, download, test_split, dataset)
    basis = _basis(model, grid_low, grid_high, grid_size, degree)
    meta = _meta(model, embedding, meta_hidden, lr_embedding, lr_rest)
    widths = None if hidden is None else _widths(hidden)
    conv = _conv(model, widths, dropout, head_dropout)
    kept = _files.inputs(data)
    use_threads(threads)
    defaults = default_training(model)
    epochs = defaults.epochs if epochs is None else epochs
    wishes = Wishes(output=output, resume=resume, keep=keep_state, log=log, force=force)
    config = TrainConfig(
        lr=defaults.lr if lr is None else lr,
        lr_embedding=defaults.lr_embedding if lr_embedding is None else lr_embedding,
        lr_rest=defaults.lr_rest if lr_rest is None else lr_rest,
        decay=defaults.decay if lr_decay is None else lr_decay,
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        weight_decay=weight_decay,
        seed=seed,
        compile=compile_,
        precision=precision,
        augment=augment,
    )
    with conducted(wishes, kept, epochs) as conduct:
        with conduct.bar() as bar:
            done = kancompress.train(
                model,
                options,
                config,
                basis=basis,
                hidden=widths,
                meta=meta,
                conv=conv,
                machine=Machine(device=device, workers=worker_count(workers)),
                state=conduct.state,
                on_epoch=conduct.on_epoch,
                on_batch=bar.batch,
            )
        written = _files.write_record(done.checkpoint, output, force=force, inputs=kept)
        conduct.finish()
    best = best_epoch(done.history)
    _output.table(
        ["model", "data", "best epoch", "validation", "test", "bytes"],
        [[
            model.value,
            done.checkpoint.data.name if done.checkpoint.data else "",
            str(best),
            _scores.score_text(done.validation),
            _scores.score_text(done.test),
            _output.size(written),
        ]],
    )  # fmt: skip
    if json_:
        _output.document(
            {
                "model": model.value,
                "output": output,
                "file_bytes": written,
                "best_epoch": best,
                "validation": _scores.score_json(done.validation),
                "test": _scores.score_json(done.test),
                "history": _scores.history_json(done.history),
            },
            to_stderr=output == _files.DASH,
        )


def _meta(
    model: ModelName,
    embedding: int | None,
    hidden: int | None,
    lr_embedding: float | None,
    lr_rest: float | None,
) -> MetaSpec | None:
    if model.is_meta:
        default = default_meta(conv=model.is_conv)
        return MetaSpec(embedding=embedding or default.embedding, hidden=hidden or default.hidden)
    if (embedding, hidden, lr_embedding, lr_rest) != (None,) * 4:
        raise UsageError(
            f"{model.value} has no meta-learner; leave --embedding, --meta-hidden, --lr-embedding"
            " and --lr-rest out."
        )
    return None


def _conv(
    model: ModelName, widths: tuple[int, ...] | None, dropout: float | None, head: float | None
) -> ConvSpec | None:
    if not model.is_conv:
        if (dropout, head) != (None, None):
            raise UsageError(
                f"{model.value} has no dropout; leave --dropout and --head-dropout out."
            )
        return None
    conv = default_conv(len(widths or CHANNELS))
    shares = (
        conv.dropout[0] if dropout is None else dropout,
        conv.dropout[1] if head is None else head,
    )
    for name, share in zip(("--dropout", "--head-dropout"), shares, strict=True):
        if share >= 1:
            raise UsageError(f"{name} {share:g} would drop everything; take a share below 1.")
    return replace(conv, dropout=shares)


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or min(widths) < 1 or max(widths) >= 1 << 31:
        raise UsageError(f"--hidden {text} is no list of layer widths; write 32 or 64,32.")
    return widths


def _basis(
    model: ModelName,
    low: float | None,
    high: float | None,
    size: int | None,
    degree: int | None,
) -> BasisSpec:
    family = model.family
    basis = default_basis(family, conv=model.is_conv)
    if basis.grid is None and (low, high, size) != (None, None, None):
        raise UsageError(f"{model.value} has no grid; leave --grid-low, -high and -size out.")
    if basis.degree is None and degree is not None:
        raise UsageError(f"{model.value} has no degree; leave --degree out.")
    grid = basis.grid
    if grid is not None:
        grid = (
            grid[0] if low is None else low,
            grid[1] if high is None else high,
            grid[2] if size is None else size,
        )
        if not grid[0] < grid[1]:
            raise UsageError(f"The grid from {grid[0]} to {grid[1]} is empty.")
        if grid[2] < FAMILIES[family].fewest:
            raise UsageError(
                f"{model.value} needs at least {FAMILIES[family].fewest} RBFs; raise --grid-size."
            )
    return BasisSpec(family=family, grid=grid, degree=basis.degree if degree is None else degree)
