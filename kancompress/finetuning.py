"""Stage 3: tune the codebooks of a packed network, assignments fixed (section 3.3 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor, nn

from kancompress import fitting
from kancompress.compilation import compiled
from kancompress.datasets import Dataset, Split
from kancompress.errors import UsageError
from kancompress.fitting import Epoch, OnBatch, OnEpoch, Schedule, Score
from kancompress.nn.edges import CodebookEdges
from kancompress.nn.network import Network, build
from kancompress.packed import PackedModel
from kancompress.parametrization import rounded
from kancompress.recipes import FinetuneConfig

GROUPS = ("norms",)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Finetuning:
    """Result of `tune`: scores before and after, on the rounded codebooks that are stored."""

    model: PackedModel
    history: list[Epoch]
    validation_before: Score
    validation: Score
    test_before: Score
    test: Score


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
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Finetuning:
    """Optimise the codebooks for the task loss; the result is never worse on validation rows.

    Every epoch is measured with the codebooks rounded to their stored type. Raises UsageError
    when there is nothing to tune.
    """
    config = config or FinetuneConfig()
    if model.basis is None:
        raise UsageError("This packed file holds no native network; it cannot be fine-tuned yet.")
    native = _Native(model, config.also)
    return tune_codebooks(native, data, config, on_epoch=on_epoch, on_batch=on_batch)


def tune_codebooks(
    tunable: Tunable,
    data: Dataset,
    config: FinetuneConfig,
    *,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Finetuning:
    """Tune any network and leave it in the state of its best epoch. Raises as `tune`."""
    if not tunable.parameters:
        raise UsageError("No layer of this file is packed, so there is no codebook to fine-tune.")
    test_before = fitting.score(tunable.network, data.test)
    group = {
        "params": tunable.parameters,
        "lr": config.lr,
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
        ),
        measure=lambda: tunable.score(data.validation),
        step=compiled(tunable.network) if config.compile else None,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )
    return Finetuning(
        model=tunable.stored(),
        history=history,
        validation_before=history[0].validation,
        validation=tunable.score(data.validation),
        test_before=test_before,
        test=tunable.score(data.test),
    )


class _Native:
    """A network of kancompress's own."""

    def __init__(self, model: PackedModel, also: tuple[str, ...]) -> None:
        self.model = model
        network = build(model)
        self.network: nn.Module = network
        self._running = network
        self.parameters = _select(network, also)

    def stored(self) -> PackedModel:
        """As `Tunable.stored`."""
        return _stored(self.model, self._running)

    def score(self, rows: Split) -> Score:
        """As `Tunable.score`."""
        return fitting.score(build(self.stored()), rows)


def check_groups(also: tuple[str, ...]) -> None:
    """Refuse an unknown group of `FinetuneConfig.also`."""
    if unknown := set(also) - set(GROUPS):
        raise UsageError(f"--also {min(unknown)} is not known; known are {', '.join(GROUPS)}.")


def _select(network: Network, also: tuple[str, ...]) -> list[nn.Parameter]:
    """Freeze all parameters but the codebooks and the groups in `also`."""
    check_groups(also)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    chosen = [
        layer.edges.codebook.centroids
        for layer in network.kan_layers()
        if isinstance(layer.edges, CodebookEdges)
    ]
    if chosen and "norms" in also:
        chosen += [p for name, p in network.sides().items() if not name.endswith(".bias")]
    unique = list({id(parameter): parameter for parameter in chosen}.values())
    for parameter in unique:
        parameter.requires_grad_(True)
    return unique


def _stored(model: PackedModel, network: Network) -> PackedModel:
    """`model` with the network's codebooks and sides, rounded to their stored types."""
    sides = network.sides()
    layers = []
    for packed, running in zip(model.layers, network.kan_layers(), strict=True):
        changes: dict[str, Any] = {"sides": _rounded(packed.sides, packed.name, sides)}
        if packed.codebook is not None:
            assert isinstance(running.edges, CodebookEdges)
            changes["codebook"] = rounded(running.edges.codebook.centroids, packed.codebook)
        layers.append(replace(packed, **changes))
    return replace(model, layers=tuple(layers))


def _rounded(
    stored: Mapping[str, Tensor], layer: str, current: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {role: rounded(current[f"{layer}.{role}"], tensor) for role, tensor in stored.items()}
