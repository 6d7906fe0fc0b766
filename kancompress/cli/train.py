"""`kancompress train`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

import kancompress
from kancompress.cli import _endings, _files, _output, _scores
from kancompress.cli._bundles import bundle
from kancompress.cli._options import OutputOption, Shown, TrainingData, check_finite
from kancompress.cli._run import shared_command
from kancompress.cli._training import Batches, LongRun, TrainingMachine, conducted
from kancompress.config import CHANNELS, HIDDEN, TrainConfig, default_training
from kancompress.errors import UsageError
from kancompress.specs import (
    FAMILIES,
    BasisSpec,
    ConvSpec,
    MetaSpec,
    ModelName,
    default_basis,
    default_conv,
    default_meta,
)
from kancompress.training.history import best_epoch

if TYPE_CHECKING:
    from kancompress import Training

_PLAIN, _CONV = default_training(ModelName.METAFASTKAN), default_training(ModelName.METAFASTKANCONV)
_META, _CONV_META = default_meta(conv=False), default_meta(conv=True)
_DROPOUT = default_conv(len(CHANNELS)).dropout


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@bundle("Network")
class Network:
    """Which network."""

    model: Annotated[ModelName, typer.Option(help="Which network.")] = ModelName.METAFASTKAN
    hidden: Annotated[
        str | None,
        typer.Option(
            help=f"Hidden units of each layer, or channels of convolutions (default"
            f" {_listed(HIDDEN)}, or {_listed(CHANNELS)}).",
            show_default=False,
        ),
    ] = None
    grid_low: Annotated[float | None, typer.Option(help="Lower end of the grid.")] = None
    grid_high: Annotated[float | None, typer.Option(help="Upper end of the grid.")] = None
    grid_size: Annotated[
        int | None,
        typer.Option(min=1, max=65_536, help="Grid intervals, or number of RBFs for fastkan."),
    ] = None
    degree: Annotated[
        int | None, typer.Option(min=0, max=16, help="Degree of the splines or polynomials.")
    ] = None
    embedding: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_536,
            help=f"Embedding size of a meta network (default {_META.embedding}, with convolutions"
            f" {_CONV_META.embedding}).",
            show_default=False,
        ),
    ] = None
    meta_hidden: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_536,
            help=f"Hidden units of the meta-learner (default {_META.hidden}).",
            show_default=False,
        ),
    ] = None
    dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Share of channels that convolutions behind the first drop in training (default"
            f" {_DROPOUT[0]:g}).",
            show_default=False,
        ),
    ] = None
    head_dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Share of features that the linear layer behind them drops (default"
            f" {_DROPOUT[1]:g}).",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Refuse numbers that are not finite."""
        check_finite(
            dropout=self.dropout,
            head_dropout=self.head_dropout,
            grid_low=self.grid_low,
            grid_high=self.grid_high,
        )

    def basis(self) -> BasisSpec:
        """The basis of the edges. Raises UsageError for options that it does not have."""
        default = default_basis(self.model.family, conv=self.model.is_conv)
        given = (self.grid_low, self.grid_high, self.grid_size)
        if default.grid is None and given != (None, None, None):
            raise UsageError(f"{self.model} has no grid; leave --grid-low, -high and -size out.")
        if default.degree is None and self.degree is not None:
            raise UsageError(f"{self.model} has no degree; leave --degree out.")
        return BasisSpec(
            family=self.model.family,
            grid=None if default.grid is None else self._grid(default.grid),
            degree=default.degree if self.degree is None else self.degree,
        )

    def _grid(self, default: tuple[float, float, int]) -> tuple[float, float, int]:
        low = default[0] if self.grid_low is None else self.grid_low
        high = default[1] if self.grid_high is None else self.grid_high
        size = default[2] if self.grid_size is None else self.grid_size
        if not low < high:
            raise UsageError(f"The grid from {low} to {high} is empty.")
        fewest = FAMILIES[self.model.family].fewest
        if size < fewest:
            raise UsageError(f"{self.model} needs at least {fewest} RBFs; raise --grid-size.")
        return low, high, size

    def meta(self, schedule: Schedule) -> MetaSpec | None:
        """The meta-learner, if the network has one. Raises UsageError for options of one."""
        if self.model.is_meta:
            default = default_meta(conv=self.model.is_conv)
            return MetaSpec(
                embedding=self.embedding or default.embedding,
                hidden=self.meta_hidden or default.hidden,
            )
        given = (self.embedding, self.meta_hidden, schedule.lr_embedding, schedule.lr_rest)
        if given != (None,) * 4:
            raise UsageError(
                f"{self.model} has no meta-learner; leave --embedding, --meta-hidden,"
                " --lr-embedding and --lr-rest out."
            )
        return None

    def widths(self) -> tuple[int, ...] | None:
        """Hidden units or channels. Raises UsageError for what is no list of them."""
        if self.hidden is None:
            return None
        try:
            widths = tuple(int(part) for part in self.hidden.split(","))
        except ValueError:
            widths = ()
        if not widths or min(widths) < 1 or max(widths) >= 1 << 31:
            raise UsageError(
                f"--hidden {self.hidden} is no list of layer widths; write 32 or 64,32."
            )
        return widths

    def conv(self, widths: tuple[int, ...] | None) -> ConvSpec | None:
        """The convolutions, if the network has them. Raises UsageError for options of theirs."""
        if not self.model.is_conv:
            if (self.dropout, self.head_dropout) != (None, None):
                raise UsageError(
                    f"{self.model} has no dropout; leave --dropout and --head-dropout out."
                )
            return None
        conv = default_conv(len(widths or CHANNELS))
        shares = (
            conv.dropout[0] if self.dropout is None else self.dropout,
            conv.dropout[1] if self.head_dropout is None else self.head_dropout,
        )
        for name, share in zip(("--dropout", "--head-dropout"), shares, strict=True):
            if share >= 1:
                raise UsageError(f"{name} {share:g} would drop everything; take a share below 1.")
        return replace(conv, dropout=shares)


@bundle("Training")
class Schedule:
    """How fast and how long it learns; None is the recipe of the network."""

    lr: Annotated[
        float | None,
        typer.Option(min=0, help="Learning rate; of the meta-learner in a meta network."),
    ] = None
    lr_embedding: Annotated[
        float | None, typer.Option(min=0, help="Learning rate of the embeddings.")
    ] = None
    lr_decay: Annotated[
        float | None, typer.Option(min=0, help="Factor of the learning rates after every epoch.")
    ] = None
    lr_rest: Annotated[
        float | None,
        typer.Option(min=0, help="Learning rate of norms, betas and head of a meta network."),
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"Most epochs (default {_PLAIN.epochs}, with convolutions {_CONV.epochs}); 0"
            " saves the new network.",
            show_default=False,
        ),
    ] = None
    patience: Annotated[int, typer.Option(min=1, help="Epochs to wait for a better one.")] = (
        _PLAIN.patience
    )

    def check(self) -> None:
        """Refuse numbers that are not finite."""
        check_finite(
            lr=self.lr,
            lr_embedding=self.lr_embedding,
            lr_rest=self.lr_rest,
            lr_decay=self.lr_decay,
        )

    def config(self, model: ModelName, batches: Batches, machine: TrainingMachine) -> TrainConfig:
        """The library's record of these options and of how it learns otherwise."""
        default = default_training(model)
        return TrainConfig(
            lr=default.lr if self.lr is None else self.lr,
            lr_embedding=default.lr_embedding if self.lr_embedding is None else self.lr_embedding,
            lr_rest=default.lr_rest if self.lr_rest is None else self.lr_rest,
            decay=default.decay if self.lr_decay is None else self.lr_decay,
            epochs=default.epochs if self.epochs is None else self.epochs,
            patience=self.patience,
            batch_size=batches.batch_size,
            weight_decay=batches.weight_decay,
            seed=batches.seed,
            compile=machine.compile_,
            precision=machine.precision,
            augment=batches.augment,
        )


@shared_command
def train(
    output: OutputOption,
    network: Network,
    data: TrainingData,
    schedule: Schedule,
    batches: Batches,
    machine: TrainingMachine,
    run: LongRun,
    shown: Shown,
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
    for options in (schedule, batches, network):
        options.check()
    rows = data.options()
    basis, meta, widths = network.basis(), network.meta(schedule), network.widths()
    conv = network.conv(widths)
    config = schedule.config(network.model, batches, machine)
    kept = _files.inputs(data.data)
    with conducted(run.wishes(output, force=shown.force), kept, config.epochs) as conduct:
        _files.check_there(data.data)
        where = machine.machine()
        with conduct.bar() as bar:
            done = kancompress.train(
                network.model,
                rows,
                config,
                basis=basis,
                hidden=widths,
                meta=meta,
                conv=conv,
                machine=where,
                state=conduct.state,
                on_epoch=conduct.on_epoch,
                on_batch=bar.batch,
            )
        written = _files.write_record(done.checkpoint, output, force=shown.force, inputs=kept)
        conduct.finish()
    _tell(done, network.model, written)
    _endings.tell(
        _endings.Ending(
            history=done.history,
            epochs=config.epochs,
            patience=config.patience,
            output=output,
            written=written,
            before="the new network as it was drawn",
        )
    )
    if shown.json_:
        _print(done, network.model, output, written)


def _tell(done: Training, model: ModelName, written: int) -> None:
    """Print a table of the result."""
    _output.table(
        ["model", "data", "best epoch", "validation", "test", "bytes"],
        [[
            model.value,
            done.checkpoint.data.name if done.checkpoint.data else "",
            str(best_epoch(done.history)),
            str(done.validation),
            str(done.test),
            _output.size(written),
        ]],
    )  # fmt: skip


def _print(done: Training, model: ModelName, output: str, written: int) -> None:
    """Print the JSON document."""
    _output.document(
        {
            "model": model.value,
            "output": output,
            "file_bytes": written,
            "best_epoch": best_epoch(done.history),
            "validation": _scores.score_json(done.validation),
            "test": _scores.score_json(done.test),
            "history": _scores.history_json(done.history),
        },
        to_stderr=output == _files.DASH,
    )
