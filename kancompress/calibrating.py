"""Checkpoints clustered by what their layers put out, and packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kancompress import kmeans
from kancompress.calibration.curves import TellProbe
from kancompress.calibration.network import LayerSolution, Place, Tell
from kancompress.calibration.run import Calibrated, Clusters, Target, calibrate
from kancompress.checkpoint import Checkpoint
from kancompress.compression import (
    Given,
    LayerClustering,
    Report,
    check_numbers,
    codebook_dtype,
    compress,
)
from kancompress.nn.layer import EdgeLayer
from kancompress.nn.network import build
from kancompress.packed import PackedModel
from kancompress.packed.writer import sizes
from kancompress.recipes import CalibrationConfig, ClusterConfig

Packed = tuple[PackedModel, list[LayerClustering]]
# Packs with clusterings that were found already; None stands for layers that stay dense.
Pack = Callable[[Mapping[str, Given | None]], Packed]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Hooks:
    """Whom to tell of layers as they are packed, as they are solved, and of probes for curves."""

    report: Report | None = None
    solved: Tell | None = None
    probed: TellProbe | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Subject:
    """A network whose layers can be clustered by what they put out, and how it is packed.

    layers : in the order in which they run; places : what their packed forms can hold
    """

    layers: Mapping[str, EdgeLayer]
    places: Mapping[str, Place]
    pack: Pack


def native_subject(
    checkpoint: Checkpoint, config: ClusterConfig, *, source_file_bytes: int, hooks: Hooks
) -> Subject:
    """A checkpoint of ours; its packed layers may have biases."""
    network = build(checkpoint).eval()
    layers: dict[str, EdgeLayer] = {str(n): x for n, x in enumerate(network.kan_layers())}
    place = Place(dtype=codebook_dtype(config, torch.float32), biased=True)

    def pack(given: Mapping[str, Given | None]) -> Packed:
        return compress(
            checkpoint,
            config,
            source_file_bytes=source_file_bytes,
            given=given,
            report=hooks.report,
        )

    return Subject(layers=layers, places=dict.fromkeys(layers, place), pack=pack)


def pack_calibrated(
    subject: Subject,
    rows: Tensor,
    config: ClusterConfig,
    calibration: CalibrationConfig,
    *,
    target: Target | None,
    dry_run: bool,
    hooks: Hooks,
) -> tuple[Packed | None, Calibrated]:
    """Cluster and pack; with a target the numbers of clusters are chosen for it.

    Raises as `calibrate` and `check_numbers` do. `dry_run` chooses only and packs nothing.
    """
    check_numbers(config, list(subject.layers))
    quiet = Subject(layers=subject.layers, places=subject.places, pack=subject.pack)
    clusters = None
    if target is None:
        clusters = {
            name: _shrinking(layer, config.layers.get(name, config.clusters), subject, config, name)
            for name, layer in subject.layers.items()
        }
    found = calibrate(
        subject.layers,
        rows,
        subject.places,
        clusters,
        calibration,
        target=target,
        weigh=lambda choice: sum(sizes(quiet.pack(_pretended(subject, choice))[0])),
        dry_run=dry_run,
        tell=hooks.solved,
        tell_probe=hooks.probed,
    )
    if found.solution is None:
        return None, found
    solved = found.solution.layers
    given = {name: _given(solved[name]) if name in solved else None for name in subject.layers}
    return subject.pack(given), found


def _given(solution: LayerSolution) -> Given:
    return Given(clustering=solution.clustering, bias=solution.bias)


def _shrinking(
    layer: EdgeLayer, clusters: int, subject: Subject, config: ClusterConfig, name: str
) -> int | None:
    """The number of clusters, None where the packed layer would be no smaller than the dense."""
    out, inputs, d = layer.edges().shape
    itemsize = subject.places[name].dtype.itemsize
    packed = clusters * d * itemsize + out * inputs * (clusters - 1).bit_length() / 8
    return clusters if packed < out * inputs * d * 4 or config.force_pack else None


def _pretended(subject: Subject, clusters: Clusters) -> dict[str, Given | None]:
    """Clusterings of the right size and no meaning, to weigh the file that they would make."""
    made: dict[str, Given | None] = {}
    for name, layer in subject.layers.items():
        k = clusters[name]
        out, inputs, d = layer.edges().shape
        if k is None:
            made[name] = None
            continue
        clustering = kmeans.Clustering(
            centroids=np.zeros((k, d)),
            labels=np.arange(out * inputs, dtype=np.int64) % k,
            inertia=0.0,
            iterations=0,
            exact=False,
            repaired=0,
        )
        bias = torch.zeros(out) if subject.places[name].biased else None
        made[name] = Given(clustering=clustering, bias=bias)
    return made
