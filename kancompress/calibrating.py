"""Checkpoints clustered by what their layers put out, and packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kancompress import kmeans
from kancompress.calibration.curves import TellProbe
from kancompress.calibration.network import LayerSolution, Place, Tell
from kancompress.calibration.run import Calibrated, Clusters, calibrate
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
from kancompress.recipes import CalibrationConfig, ClusterConfig, Target

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

    layers     : in the order in which they run; places : what their packed forms can hold
    pack       : makes the packed model, weigh the same without telling anybody
    file_bytes : of the source
    """

    layers: Mapping[str, EdgeLayer]
    places: Mapping[str, Place]
    pack: Pack
    weigh: Pack
    file_bytes: int


def native_subject(
    checkpoint: Checkpoint, config: ClusterConfig, *, source_file_bytes: int, hooks: Hooks
) -> Subject:
    """A checkpoint of ours; its packed layers may have biases."""
    network = build(checkpoint).eval()
    layers: dict[str, EdgeLayer] = {str(n): x for n, x in enumerate(network.kan_layers())}
    place = Place(dtype=codebook_dtype(config, torch.float32), biased=True)

    pack = partial(compress, checkpoint, config, source_file_bytes=source_file_bytes)
    return Subject(
        layers=layers,
        places=dict.fromkeys(layers, place),
        pack=lambda given: pack(given=given, report=hooks.report),
        weigh=lambda given: pack(given=given),
        file_bytes=source_file_bytes,
    )


def pack_calibrated(
    subject: Subject,
    rows: Tensor,
    config: ClusterConfig,
    calibration: CalibrationConfig,
    *,
    target: Target | None,
    hooks: Hooks,
) -> tuple[Packed, Calibrated]:
    """Cluster and pack; with a target the numbers of clusters are chosen for it.

    Raises as `calibrate` and `check_numbers` do.
    """
    found = _calibrated(subject, rows, config, calibration, target, hooks, dry_run=False)
    assert found.solution is not None
    solved = found.solution.layers
    given = {name: _given(solved[name]) if name in solved else None for name in subject.layers}
    return subject.pack(given), found


def choose(
    subject: Subject,
    rows: Tensor,
    config: ClusterConfig,
    calibration: CalibrationConfig,
    *,
    target: Target,
    hooks: Hooks,
) -> Calibrated:
    """Choose numbers of clusters for a target, and solve nothing."""
    return _calibrated(subject, rows, config, calibration, target, hooks, dry_run=True)


def _calibrated(
    subject: Subject,
    rows: Tensor,
    config: ClusterConfig,
    calibration: CalibrationConfig,
    target: Target | None,
    hooks: Hooks,
    *,
    dry_run: bool,
) -> Calibrated:
    check_numbers(config, list(subject.layers))
    clusters = None
    if target is None:
        clusters = {
            name: _shrinking(layer, config.layers.get(name, config.clusters), subject, config, name)
            for name, layer in subject.layers.items()
        }
    elif target.ratio is not None:
        target = Target(bytes=int(subject.file_bytes / target.ratio))
    return calibrate(
        subject.layers,
        rows,
        subject.places,
        clusters,
        calibration,
        target=target,
        weigh=lambda choice: sum(sizes(subject.weigh(_pretended(subject, choice))[0])),
        dry_run=dry_run,
        tell=hooks.solved,
        tell_probe=hooks.probed,
    )


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
