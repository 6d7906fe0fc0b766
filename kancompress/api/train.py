"""`train`: a network from data (stage 1)."""

from __future__ import annotations

from dataclasses import replace

from kancompress.api import given
from kancompress.api.given import Data
from kancompress.config import Machine, TrainConfig
from kancompress.data import datasets
from kancompress.errors import UsageError
from kancompress.specs import BasisSpec, ConvSpec, DataOptions, MetaSpec, ModelName
from kancompress.training.loop import OnBatch, OnEpoch
from kancompress.training.state_file import StateFile
from kancompress.training.train import Training, fit_network
from kancompress.values import did_you_mean, each, settled, whole


def train(
    model: str | ModelName = ModelName.METAFASTKAN,
    data: Data | None = None,
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
    """Train a network (stage 1); `Training.checkpoint` is what `save` takes.

    model    : `kan`, `fastkan`, `gramkan`, with `meta` before it for a meta-learner and `conv`
               behind it for convolutions, or `mlp`
    data     : named set, or file of arrays: its name, its path, or DataOptions; digits when None
    config   : the recipe of the MetaCluster paper's Tables 4 to 7 when None; its seed also divides
               the data
    basis    : grid and degree of the edges' functions; those of the paper when None
    hidden   : units of each hidden layer, or channels of convolutions; 32, or 32, 64, 128, 256,
               when None
    meta     : embedding and width of the meta-learner; those of the paper when None
    conv     : strides and dropout of convolutions; those of the paper when None
    machine  : where to compute; cuda, else mps, else the CPU when None
    state    : where the run keeps its state, and the one it goes on from
    on_epoch : called with each `Epoch` when it has ended
    on_batch : called after every batch with the number of batches done, and of all in the epoch
    Raises UsageError for options that do not fit the network or the data, InvalidFileError for data
    that cannot be read, and KancompressError where the loss of the first epoch is not finite.

    >>> import kancompress
    >>> config = kancompress.TrainConfig(lr=1e-3, epochs=1)
    >>> trained = kancompress.train("fastkan", config=config, hidden=(8,))
    >>> trained.checkpoint.shapes  # of each layer, (outputs, inputs)
    ((8, 64), (10, 8))
    >>> trained.test.examples
    360
    """
    given.check(config, TrainConfig, basis=basis, meta=meta, conv=conv, machine=machine)
    name = _model_name(model)
    if hidden is not None:
        hidden = settled("hidden", hidden, each(whole(1), "a tuple of widths, such as (32,),"))
    seed = config.seed if config else 0
    found = replace(given.data(data) or DataOptions(), images=name.is_conv)
    rows = datasets.load_for_training(found, seed=seed)
    return fit_network(
        name,
        rows,
        config,
        basis=basis,
        hidden=hidden,
        meta=meta,
        conv=conv,
        machine=machine,
        state=state,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )


def _model_name(model: str) -> ModelName:
    try:
        return ModelName(model)
    except ValueError:
        raise UsageError(
            f"There is no model {model!r}; known are {', '.join(ModelName)}."
            f"{did_you_mean(str(model), list(ModelName))}"
        ) from None
