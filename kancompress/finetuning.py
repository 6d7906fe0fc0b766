"""Stage 3: tune the codebooks of a packed network, assignments fixed (section 3.3 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from kancompress import fitting
from kancompress.compilation import compiled
from kancompress.datasets import Dataset
from kancompress.errors import KancompressError, UsageError
from kancompress.fitting import Epoch, OnBatch, OnEpoch, Schedule, Score
from kancompress.nn.edges import CodebookEdges
from kancompress.nn.network import Network, build
from kancompress.packed import PackedModel
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
    network = build(model)
    parameters = _select(network, config.also)
    if not parameters:
        raise UsageError("No layer of this file is packed, so there is no codebook to fine-tune.")
    test_before = fitting.score(network, data.test)
    history = fitting.fit(
        network,
        [{"params": parameters, "lr": config.lr, "weight_decay": config.weight_decay}],
        data.train,
        Schedule(
            epochs=config.epochs,
            patience=config.patience,
            batch_size=config.batch_size,
            seed=config.seed,
        ),
        measure=lambda: fitting.score(build(_stored(model, network)), data.validation),
        step=compiled(network) if config.compile else None,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )
    tuned = _stored(model, network)
    final = build(tuned)
    return Finetuning(
        model=tuned,
        history=history,
        validation_before=history[0].validation,
        validation=fitting.score(final, data.validation),
        test_before=test_before,
        test=fitting.score(final, data.test),
    )


def _select(network: Network, also: tuple[str, ...]) -> list[nn.Parameter]:
    """Freeze all parameters but the codebooks and the groups in `also`."""
    if unknown := set(also) - set(GROUPS):
        raise UsageError(f"--also {min(unknown)} is not known; known are {', '.join(GROUPS)}.")
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
            changes["codebook"] = _round(running.edges.codebook.centroids, packed.codebook)
        layers.append(replace(packed, **changes))
    return replace(model, layers=tuple(layers))


def _rounded(
    stored: Mapping[str, Tensor], layer: str, current: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {role: _round(current[f"{layer}.{role}"], tensor) for role, tensor in stored.items()}


def _round(value: Tensor, like: Tensor) -> Tensor:
    # A copy: the network goes on learning in place.
    rounded = value.detach().to(like.dtype, copy=True)
    if not rounded.isfinite().all():
        raise KancompressError(
            f"Fine-tuning left the range of {str(like.dtype).removeprefix('torch.')};"
            " try a lower learning rate (--lr)."
        )
    return rounded
