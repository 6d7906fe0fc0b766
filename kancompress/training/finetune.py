"""Stage 3: tune the codebooks of a packed network, assignments fixed (section 3.3 of the paper)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kancompress.config import FinetuneConfig, Machine, RunOptions, default_rate
from kancompress.data import augmentation
from kancompress.data.datasets import Dataset, Split
from kancompress.errors import UsageError
from kancompress.formats.checkpoint import HEAD
from kancompress.layers.network import Network
from kancompress.models import lines
from kancompress.models import runnable as running
from kancompress.models.files import encode
from kancompress.models.parametrization import rounded, with_tensors
from kancompress.models.records import PackedLayer, PackedModel
from kancompress.system import devices
from kancompress.system.compilation import compiled
from kancompress.training import loop as fitting
from kancompress.training import state as states
from kancompress.training.evaluation import check_fit
from kancompress.training.history import Epoch, Score, best_epoch, table_rows
from kancompress.training.loop import OnBatch, OnEpoch, Schedule
from kancompress.training.state import Facts
from kancompress.training.state_file import StateFile
from kancompress.training.statistics import renewal

GROUPS = ("norms", "biases", "head")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Finetuning:
    """Result of `finetune`: the packed model, and scores before and after, on the rounded codebooks
    that are stored.

    test_before, test : None where no rows test, as with data without labels
    notes : for another library's file, what was taken for granted that its tensors do not tell

    >>> import kancompress
    >>> config = kancompress.FinetuneConfig(epochs=1)
    >>> tuned = kancompress.finetune("packed.safetensors", config=config)
    >>> tuned.validation.key() <= tuned.validation_before.key()  # never worse
    True
    """

    model: PackedModel
    history: list[Epoch]
    validation_before: Score
    validation: Score
    test_before: Score | None
    test: Score | None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        before, after = self.validation_before, self.validation
        scores = f"validation {before} before, {after} after"
        if self.test_before is not None and self.test is not None:
            scores = f"test {self.test_before} before, {self.test} after"
        epochs = lines.counted(len(self.history) - 1, "epoch")
        return lines.line("Finetuning", epochs, f"best {best_epoch(self.history)}", scores)

    def _repr_html_(self) -> str:
        """For notebooks: the loss of every epoch, and the layers, bytes and ratio of the file."""
        head = ("epoch", "training loss", "validation")
        history = lines.table(repr(self)[1:-1], head, table_rows(self.history), self.notes)
        return f"{history}{self.model._repr_html_()}"


class Tunable(Protocol):
    """A network as `tune_codebooks` sees it.

    network    : runs, and its state dict has everything that tuning changes
    parameters : what learns
    """

    network: nn.Module
    parameters: list[nn.Parameter]

    def stored(self) -> PackedModel:
        """The packed model as it now is, rounded to its stored types."""

    def score(self, rows: Split) -> Score:
        """Score of what `stored` gives."""


def tune(
    model: PackedModel,
    data: Dataset,
    config: FinetuneConfig | None = None,
    *,
    options: RunOptions | None = None,
    teacher: nn.Module | None = None,
    machine: Machine | None = None,
    state: StateFile | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Finetuning:
    """Optimise the codebooks for the task loss; the result is never worse on validation rows.

    Every epoch is measured with the codebooks rounded to their stored type. Dropout and batch
    normalisation work as in training (section 3.3 of the paper), and the running statistics are
    those of what the packed layers put out.

    teacher : a network whose outputs take the place of labels, in training and validation
    options : what the tensors of another library's file do not tell
    machine : where to compute
    state   : where the run keeps its state, and the one it goes on from
    Raises UsageError when there is nothing to tune, the data does not fit, or the forward is not
    known.
    """
    config = config or FinetuneConfig()
    ready = running.run(model, options)
    if model.restore is not None:
        model = replace(model, forms=ready.forms)  # with what the options tell
    check_fit(ready, data)
    if config.lr is None:
        config = replace(config, lr=default_rate(conv=ready.conv))
    machine = machine or Machine()
    device = devices.find(machine.device)
    devices.put(ready.network, device)
    tunable = _Running(model, ready.network, config.also, options)
    if teacher is not None:
        devices.put(teacher, device)
        data = taught(data, teacher)
    augment = augmentation.is_wanted(config.augment, data.train, conv=ready.conv)
    config = replace(config, augment=augment)
    done = tune_codebooks(
        tunable,
        data,
        config,
        state=state,
        workers=machine.workers,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )
    return replace(done, notes=ready.notes)


def taught(data: Dataset, teacher: nn.Module) -> Dataset:
    """The data with a network's outputs in place of labels; test rows stay as they are.

    Raises UsageError where the outputs do not go with the data's targets, or are not finite.
    """
    train, validation = (
        Split(x=part.x, y=fitting.predict(teacher, part.x), soft=not data.spec.is_regression)
        for part in (data.train, data.validation)
    )
    if not (train.y.isfinite().all() and validation.y.isfinite().all()):
        raise UsageError(
            "The dense model gives NaN or infinity for some rows, so nothing can be learnt from it;"
            " look for NaN in its tensors and in the rows."
        )
    if data.spec.is_regression and train.y.shape != data.train.y.shape:
        raise UsageError(
            f"The dense model has {train.y.shape[1]} outputs, but y has {data.spec.outputs} targets"
            " a row."
        )
    return replace(data, train=train, validation=validation)


def tune_codebooks(
    tunable: Tunable,
    data: Dataset,
    config: FinetuneConfig,
    *,
    state: StateFile | None = None,
    workers: int = 0,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Finetuning:
    """Tune any network and leave it in the state of its best epoch.

    Raises UsageError when there is no codebook to tune, or the state is of another run.
    """
    if not tunable.parameters:
        raise UsageError("No layer of this file is packed, so there is no codebook to fine-tune.")
    test_before = fitting.score(tunable.network, data.test) if len(data.test) else None

    def facts() -> Facts:
        return {
            "command": "finetune",
            **states.options_of(config),
            "the packed file": f"sha256:{hashlib.sha256(encode(tunable.stored())).hexdigest()}",
            "the data": states.fingerprint(data.tensors()),
            "the network": states.fingerprint(tunable.network.state_dict()),
        }

    group = {
        "params": tunable.parameters,
        "lr": default_rate() if config.lr is None else config.lr,
        "weight_decay": config.weight_decay,
    }
    history = fitting.fit(
        tunable.network,
        [group],
        data.train,
        Schedule(
            epochs=config.epochs,
            patience=config.patience,
            batch_size=config.batch_size,
            seed=config.seed,
            precision=config.precision,
            augment=augmentation.is_wanted(config.augment, data.train, conv=False),
        ),
        measure=lambda: tunable.score(data.validation),
        settle=renewal(tunable.network, data.train, config.seed),
        step=compiled(tunable.network) if config.compile else None,
        keeper=states.keeper(state, facts, devices.of(tunable.network)),
        workers=workers,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )
    return Finetuning(
        model=tunable.stored(),
        history=history,
        validation_before=history[0].validation,
        validation=tunable.score(data.validation),
        test_before=test_before,
        test=tunable.score(data.test) if len(data.test) else None,
    )


class _Running:
    """A network that this package runs itself, of its own or another library's."""

    def __init__(
        self,
        model: PackedModel,
        network: Network,
        also: tuple[str, ...],
        options: RunOptions | None,
    ) -> None:
        self.model = model
        self.network: nn.Module = network
        self._network = network
        self._options = options
        self.parameters = _select(network, also)
        _round_straight_through(model, network)

    def stored(self) -> PackedModel:
        """As `Tunable.stored`."""
        return _stored(self.model, self._network)

    def score(self, rows: Split) -> Score:
        """As `Tunable.score`."""
        network = running.run(self.stored(), self._options).network
        return fitting.score(network.to(devices.of(self.network)), rows)


def check_groups(also: tuple[str, ...]) -> None:
    """Refuse an unknown group of `FinetuneConfig.also`."""
    if unknown := set(also) - set(GROUPS):
        raise UsageError(
            f"`also={min(unknown)}` is not known; known are {', '.join(GROUPS)}.", fields=("also",)
        )


def _select(network: Network, also: tuple[str, ...]) -> list[nn.Parameter]:
    """Freeze all parameters but the codebooks and the groups in `also`."""
    check_groups(also)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    chosen: list[nn.Parameter] = [book.centroids for book in network.codebooks.values()]
    if chosen and "norms" in also:
        chosen += network.norms()
    if chosen and "biases" in also:
        chosen += [layer.bias for layer in network.kan_layers() if layer.bias is not None]
    if chosen and "head" in also and network.head is not None:
        chosen += network.head.parameters()
    unique = list({id(parameter): parameter for parameter in chosen}.values())
    for parameter in unique:
        parameter.requires_grad_(True)
    return unique


def _stored(model: PackedModel, network: Network) -> PackedModel:
    """`model` with the network's codebooks and sides, rounded to their stored types."""
    sides = network.sides()
    layers = []
    for packed in model.layers:
        changes: dict[str, Any] = {"sides": _rounded(packed, sides)}
        if packed.codebook is not None:
            book = network.codebooks[packed.name]
            changes["codebook"] = rounded(book.centroids, packed.stored("codebook"))
        layers.append(replace(packed, **changes))
    head = {name: tensor for name, tensor in model.tensors.items() if name in HEAD}
    beside = {name: rounded(sides[name], tensor.dtype) for name, tensor in head.items()}
    tuned = replace(model, layers=tuple(layers), tensors=dict(model.tensors) | beside)
    return tuned if model.restore is None else with_tensors(tuned, _changed(model, sides))


def _changed(model: PackedModel, sides: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors beside the edges of another library's file that are not what the file has."""
    beside = model.outline()
    values = {
        name: rounded(side, beside[name].dtype).reshape(beside[name].shape)
        for name, side in sides.items()
    }
    return {name: t for name, t in values.items() if not torch.equal(t, beside[name])}


def _rounded(layer: PackedLayer, current: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        role: rounded(current[f"{layer.name}.{role}"], layer.stored(role), role)
        for role in layer.sides
    }


def _round_straight_through(model: PackedModel, network: Network) -> None:
    """Let codebooks and sides of bytes learn as they will be stored; the step of a byte is too wide
    to be left to the end."""
    for packed in model.layers:
        if packed.codebook is not None and packed.stored("codebook") == torch.int8:
            network.codebooks[packed.name].stored = torch.int8
    if model.restore is not None:
        return
    for packed, layer in zip(model.layers, network.kan_layers(), strict=True):
        layer.stored = {
            role: torch.int8 for role in packed.sides if packed.stored(role) == torch.int8
        }
