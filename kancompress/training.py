"""Stage 1: train a plain or a meta network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from kancompress import devices, fitting, states
from kancompress.checkpoint import Checkpoint
from kancompress.compilation import compiled
from kancompress.datasets import Dataset
from kancompress.fitting import OnBatch, OnEpoch, Schedule
from kancompress.history import Epoch, Score
from kancompress.nn.edges import MetaEdges
from kancompress.nn.network import Network, initialise, to_checkpoint
from kancompress.recipes import HIDDEN, Machine, TrainConfig, default_training
from kancompress.specs import BasisSpec, MetaSpec, ModelName, default_basis
from kancompress.states import Facts, StateFile


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Training:
    """Result of `fit_network`: what to save, the history, and the scores of the saved state."""

    checkpoint: Checkpoint
    history: list[Epoch]
    validation: Score
    test: Score


def fit_network(
    model: ModelName,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    basis: BasisSpec | None = None,
    hidden: tuple[int, ...] = HIDDEN,
    meta: MetaSpec | None = None,
    machine: Machine | None = None,
    state: StateFile | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Training:
    """Train a network on `data` and keep its best validation epoch (section 4.1.1 of the paper).

    The defaults are the recipe of Tables 4 and 5 for `model`; `config.epochs == 0` gives the
    freshly drawn network.

    machine : where to compute
    state   : where the run keeps its state, and the one it goes on from
    """
    config = config or default_training(model)
    basis = basis or default_basis(model.family)
    widths = (data.features, *hidden, data.spec.outputs)
    meta = (meta or MetaSpec()) if model.is_meta else None
    device = devices.find((machine or Machine()).device)
    network = initialise(basis, widths, meta, config.seed).to(device)

    def facts() -> Facts:
        return {
            "command": "train",
            "model": model.value,
            "basis": basis.to_json(),
            "hidden": list(hidden),
            "meta": meta and asdict(meta),
            **states.options_of(config),
            "the data": states.fingerprint(data.tensors()),
            "the new network": states.fingerprint(network.state_dict()),
        }

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
        ),
        measure=lambda: fitting.score(network, data.validation),
        step=compiled(network) if config.compile else None,
        keeper=states.keeper(state, facts, device),
        on_epoch=on_epoch,
        on_batch=on_batch,
    )
    return Training(
        checkpoint=to_checkpoint(network, basis, data.spec),
        history=history,
        validation=min((epoch.validation for epoch in history), key=Score.key),
        test=fitting.score(network, data.test),
    )


def parameter_groups(network: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """One group for a plain network; embeddings and the rest apart for a meta network."""
    embeddings: list[nn.Parameter] = []
    for layer in network.kan_layers():
        if isinstance(layer.edges, MetaEdges):
            embeddings.append(layer.edges.embedding)
    known = {id(parameter) for parameter in embeddings}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    groups = [{"params": rest, "lr": config.lr, "weight_decay": config.weight_decay}]
    if embeddings:
        rate = config.lr if config.lr_embedding is None else config.lr_embedding
        groups.append({"params": embeddings, "lr": rate, "weight_decay": config.weight_decay})
    return groups


__all__ = ["Training", "fit_network", "parameter_groups"]
