"""Stage 1: train a plain or a meta network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from kancompress.config import CHANNELS, HIDDEN, Machine, TrainConfig, default_training
from kancompress.data import augmentation
from kancompress.data.datasets import Dataset, check_rows
from kancompress.errors import UsageError
from kancompress.layers.edges import MetaEdges
from kancompress.layers.network import Network
from kancompress.models import lines
from kancompress.models.native import initialise, to_checkpoint
from kancompress.models.records import Checkpoint
from kancompress.specs import (
    BasisSpec,
    ConvSpec,
    MetaSpec,
    ModelName,
    ModelSpec,
    SpecError,
    default_basis,
    default_conv,
    default_meta,
)
from kancompress.system import devices
from kancompress.system.compilation import compiled
from kancompress.training import loop as fitting
from kancompress.training import state as states
from kancompress.training.history import Epoch, Score, best_epoch, table_rows
from kancompress.training.loop import OnBatch, OnEpoch, Schedule
from kancompress.training.state import Facts
from kancompress.training.state_file import StateFile
from kancompress.training.statistics import renewal


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Training:
    """Result of `train`: what to save, the history, and the scores of the saved state.

    history    : epoch 0 is the network as it was drawn; the last with `best` is the one saved
    validation : score on the rows that chose the epoch; test : on those that chose nothing

    >>> import kancompress
    >>> config = kancompress.TrainConfig(lr=1e-3, epochs=1)
    >>> trained = kancompress.train("kan", config=config, hidden=(4,))
    >>> [epoch.number for epoch in trained.history], trained.test.examples
    ([0, 1], 360)
    >>> trained.checkpoint
    <Checkpoint: dense kan, layers 4 x 64, 10 x 4, 10,656 bytes of tensors>
    """

    checkpoint: Checkpoint
    history: list[Epoch]
    validation: Score
    test: Score

    def __repr__(self) -> str:
        name = self.checkpoint.model.to_json()["name"]
        epochs = lines.counted(len(self.history) - 1, "epoch")
        best = f"best {best_epoch(self.history)}"
        return lines.line(
            "Training", f"{self.checkpoint.kind} {name}", epochs, best, f"test {self.test}"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the network's layers and bytes, and the loss of every epoch."""
        head = ("epoch", "training loss", "validation")
        history = lines.table(repr(self)[1:-1], head, table_rows(self.history))
        return f"{history}{self.checkpoint._repr_html_()}"


def fit_network(
    model: ModelName,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    basis: BasisSpec | None = None,
    hidden: tuple[int, ...] | None = None,
    meta: MetaSpec | None = None,
    conv: ConvSpec | None = None,
    machine: Machine | None = None,
    state: StateFile | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Training:
    """Train a network on `data` and keep its best validation epoch (section 4.1 of the paper).

    The defaults are the recipe of Tables 4 to 7 for `model`; `config.epochs == 0` gives the
    freshly drawn network.

    hidden  : units, or channels of convolutions, of each layer
    machine : where to compute
    state   : where the run keeps its state, and the one it goes on from
    Raises UsageError for data that does not fit, and for a network that no file could hold.
    """
    check_rows(data.train.x, model.is_conv)
    config = config or default_training(model)
    design = _Design.of(model, basis, hidden, meta, conv)
    machine = machine or Machine()
    device = devices.find(machine.device)
    network = design.network(data, config.seed).to(device)
    history = fitting.fit(
        network,
        parameter_groups(network, config),
        data.train,
        Schedule(
            epochs=config.epochs,
            patience=config.patience,
            batch_size=config.batch_size,
            seed=config.seed,
            decay=config.decay,
            precision=config.precision,
            augment=augmentation.is_wanted(config.augment, data.train, conv=model.is_conv),
        ),
        measure=lambda: fitting.score(network, data.validation),
        settle=renewal(network, data.train, config.seed),
        step=compiled(network) if config.compile else None,
        keeper=states.keeper(state, lambda: design.facts(data, config, network), device),
        workers=machine.workers,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )
    return Training(
        checkpoint=to_checkpoint(network, design.basis, data.spec, design.conv),
        history=history,
        validation=min((epoch.validation for epoch in history), key=Score.key),
        test=fitting.score(network, data.test),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Design:
    """What is trained: the defaults of its model where nothing else was asked for."""

    model: ModelName
    basis: BasisSpec
    hidden: tuple[int, ...]
    meta: MetaSpec | None
    conv: ConvSpec | None

    @classmethod
    def of(
        cls,
        model: ModelName,
        basis: BasisSpec | None,
        hidden: tuple[int, ...] | None,
        meta: MetaSpec | None,
        conv: ConvSpec | None,
    ) -> _Design:
        """Raises UsageError for a network that no file could hold."""
        hidden = hidden or (CHANNELS if model.is_conv else HIDDEN)
        made = cls(
            model=model,
            basis=basis or default_basis(model.family, conv=model.is_conv),
            hidden=hidden,
            meta=(meta or default_meta(conv=model.is_conv)) if model.is_meta else None,
            conv=(conv or default_conv(len(hidden))) if model.is_conv else None,
        )
        _check(made.spec, len(hidden))
        return made

    @property
    def spec(self) -> ModelSpec:
        """As files have it."""
        return ModelSpec(basis=self.basis, conv=self.conv)

    def network(self, data: Dataset, seed: int) -> Network:
        """The freshly drawn network."""
        widths = (data.features, *self.hidden, data.spec.outputs)
        return initialise(self.basis, widths, self.meta, seed, conv=self.conv)

    def facts(self, data: Dataset, config: TrainConfig, network: Network) -> Facts:
        """What a run that goes on has to have in common with the one before."""
        return {
            "command": "train",
            "model": self.model.value,
            "basis": self.spec.to_json(),
            "hidden": list(self.hidden),
            "meta": self.meta and asdict(self.meta),
            **states.options_of(config),
            "the data": states.fingerprint(data.tensors()),
            "the new network": states.fingerprint(network.state_dict()),
        }


def _check(spec: ModelSpec, layers: int) -> None:
    """Refuse now what could not be read again after training."""
    try:
        ModelSpec.from_json(spec.to_json())
    except SpecError as error:
        raise UsageError(f"Such a network cannot be stored: {error}.") from None
    if spec.conv is not None and len(spec.conv.strides) != layers:
        raise UsageError(
            f"There are {len(spec.conv.strides)} strides for {layers} layers of convolutions; give"
            " each layer one."
        )


def parameter_groups(network: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate: one group for a plain network; for a meta network the
    meta-learner, the rest where it has a rate of its own, and the embeddings."""
    sources = [layer.edges for layer in network.kan_layers()]
    embeddings = [edges.embedding for edges in sources if isinstance(edges, MetaEdges)]
    learners = [edges.learner for edges in sources if isinstance(edges, MetaEdges)][:1]
    apart = {id(parameter) for parameter in embeddings}
    others = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    made: list[tuple[list[nn.Parameter], float]] = [(others, config.lr)]
    if learners and config.lr_rest is not None:
        own = {id(parameter) for parameter in learners[0].parameters()}
        made = [
            ([parameter for parameter in others if id(parameter) in own], config.lr),
            ([parameter for parameter in others if id(parameter) not in own], config.lr_rest),
        ]
    if embeddings:
        rate = config.lr if config.lr_embedding is None else config.lr_embedding
        made.append((embeddings, rate))
    return [
        {"params": params, "lr": lr, "weight_decay": config.weight_decay} for params, lr in made
    ]


__all__ = ["Training", "fit_network", "parameter_groups"]
