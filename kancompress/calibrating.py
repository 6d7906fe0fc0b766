"""Checkpoints clustered by what their layers put out, and packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kancompress import bits, kmeans
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
from kancompress.errors import UsageError
from kancompress.foreign import ForeignCheckpoint
from kancompress.forms import FormNetwork
from kancompress.generation import write_out
from kancompress.layouts import Recognition
from kancompress.nn.layer import EdgeLayer
from kancompress.nn.network import build
from kancompress.packed import PackedModel
from kancompress.packed.writer import sizes
from kancompress.recipes import CalibrationConfig, ClusterConfig, Target
from kancompress.repacking import group_layers, repack

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
    pack       : makes the packed model
    weigh      : bytes of its file; None where no layer would be packed but one has to be
    file_bytes : of the source
    apart      : layers that are clustered by k-means all the same, as some of their edges are kept
                 or shared
    bias_names : tensors that hold the biases of another library's layers
    """

    layers: Mapping[str, EdgeLayer]
    places: Mapping[str, Place]
    pack: Pack
    weigh: Callable[[Mapping[str, Given | None]], int | None]
    file_bytes: int
    apart: frozenset[str] = frozenset()
    bias_names: Mapping[str, str] = field(default_factory=dict)


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
        weigh=lambda given: sum(sizes(pack(given=given)[0])),
        file_bytes=source_file_bytes,
    )


def foreign_subject(
    source: ForeignCheckpoint,
    found: Recognition,
    network: FormNetwork,
    config: ClusterConfig,
    *,
    hooks: Hooks,
) -> Subject:
    """Another library's checkpoint, whose forward is known; biases go where layers have them."""
    layers = {layer.name: layer for layer in network.form_layers()}
    groups = {group.name: group for group in group_layers(*write_out(source, found))}
    packed = {name: group.vectors() for name, group in groups.items() if name in layers}
    apart = {
        name
        for name in layers
        if name not in groups
        or len(groups[name].layers) > 1
        or len(packed[name]) < layers[name].edges().shape[:2].numel()
    }
    bias_names = {
        name: tensor
        for name, layer in layers.items()
        for tensor, parameter in layer.sides().items()
        if parameter is layer.bias and tensor in source.tensors
    }
    types = {name: packed[name].dtype if name in packed else torch.float32 for name in layers}
    places = {
        name: Place(
            dtype=codebook_dtype(config, dtype),
            biased=name in bias_names,
            dense_itemsize=dtype.itemsize,
        )
        for name, dtype in types.items()
    }

    def pack(given: Mapping[str, Given | None], report: Report | None) -> Packed:
        own = {name: value for name, value in given.items() if name not in apart}
        return repack(source, found, config, given=own, report=report)

    def weigh(given: Mapping[str, Given | None]) -> int | None:
        packs = apart or any(value is not None for value in given.values())
        return sum(sizes(pack(given, None)[0])) if packs else None

    return Subject(
        layers=layers,
        places=places,
        pack=lambda given: pack(given, hooks.report),
        weigh=weigh,
        file_bytes=source.file_bytes,
        apart=frozenset(apart),
        bias_names=bias_names,
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
    given = {
        name: _given(solved[name], subject.bias_names.get(name)) if name in solved else None
        for name in subject.layers
    }
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
            name: _shrinking(layer, config.of(name), subject, config, name)
            if name not in subject.apart
            else None
            for name, layer in subject.layers.items()
        }
    elif subject.apart:
        raise UsageError(
            f"The layer {min(subject.apart)!r} keeps some of its edges or shares them, so numbers"
            " of clusters cannot be chosen; give them with --clusters."
        )
    elif target.ratio is not None:
        target = Target(bytes=int(subject.file_bytes / target.ratio))
    return calibrate(
        subject.layers,
        rows,
        subject.places,
        clusters,
        calibration,
        target=target,
        weigh=lambda choice: subject.weigh(_pretended(subject, choice)),
        dry_run=dry_run,
        tell=hooks.solved,
        tell_probe=hooks.probed,
    )


def _given(solution: LayerSolution, bias_name: str | None) -> Given:
    return Given(clustering=solution.clustering, bias=solution.bias, bias_name=bias_name)


def _shrinking(
    layer: EdgeLayer, clusters: int, subject: Subject, config: ClusterConfig, name: str
) -> int | None:
    """The number of clusters, None where the packed layer would be no smaller than the dense."""
    out, inputs, d = layer.edges().shape
    place = subject.places[name]
    packed = bits.layer_bytes(out * inputs, d, place.dtype.itemsize, clusters)
    shrinks = packed < out * inputs * d * place.dense_itemsize
    return clusters if shrinks or config.force_pack else None


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
