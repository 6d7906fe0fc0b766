"""Checkpoints whose plain k-means compares functions on their grid instead of coefficients."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kancompress.config import ClusterConfig, Metric, RunOptions
from kancompress.errors import UsageError, shortened
from kancompress.layers.layer import EdgeLayer
from kancompress.libraries import Recognition
from kancompress.models.foreign import known_layers
from kancompress.models.native import build
from kancompress.models.records import Checkpoint, ForeignCheckpoint
from kancompress.packing.foreign import whole_vectors
from kancompress.packing.generated import write_out
from kancompress.packing.grid import cluster_on_grid
from kancompress.packing.native import Given
from kancompress.packing.sizing import GivenOf


def native_given(checkpoint: Checkpoint) -> GivenOf:
    """Clusterings of a checkpoint of ours for any configuration; None by coefficients."""

    def given(config: ClusterConfig) -> dict[str, Given | None] | None:
        if config.metric is not Metric.GRID:
            return None
        layers = {str(number): x for number, x in enumerate(build(checkpoint).kan_layers())}
        return {**cluster_on_grid(layers, dict.fromkeys(layers, torch.float32), config)}

    return given


def foreign_given(
    source: ForeignCheckpoint,
    found: Recognition,
    config: ClusterConfig,
    *,
    layouts: Mapping[str, str] | None = None,
    keep_scaler: bool = False,
) -> tuple[GivenOf | None, tuple[str, ...]]:
    """The same of another library's checkpoint, and what to say of it.

    Layers whose basis is not known, and those that keep some of their edges or share a codebook,
    are compared by coefficients. Raises UsageError where the basis of no layer is known.
    """
    if config.metric is not Metric.GRID or not found.layers:
        return None, ()
    if keep_scaler:
        raise UsageError("--metric grid measures whole edges; leave --keep-scaler out.")
    known = known_layers(source, found, RunOptions(layouts=layouts or {}))
    if not known.layers:
        raise UsageError(
            "--metric grid needs a layer whose basis is known."
            f" {next(iter(known.refused.values()))}"
        )
    types = {name: t.dtype for name, t in whole_vectors(*write_out(source, found)).items()}
    layers: dict[str, EdgeLayer] = {n: x for n, x in known.layers.items() if n in types}
    notes = [f"assumed {note}" for note in known.notes]
    notes += [
        f"compared by coefficients: {layer.name}"
        + (f"; {known.refused[layer.name]}" if layer.name in known.refused else "")
        for layer in found.layers
        if layer.name not in layers
    ]
    return lambda chosen: cluster_on_grid(layers, types, chosen), tuple(map(shortened, notes))
