"""Checkpoints clustered by what their layers put out, and packed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.clustering import kmeans, scaling
from kancompress.clustering.curves import TellProbe
from kancompress.clustering.flow import Chain, Flow
from kancompress.clustering.layer import LayerSolution, Place
from kancompress.clustering.network import Calibrated, Clusters, Tell, calibrate
from kancompress.clustering.user_flow import Hooked
from kancompress.config import CalibrationConfig, ClusterConfig, StoredDtype, Target
from kancompress.errors import UsageError
from kancompress.formats.checkpoint import Checkpoint
from kancompress.formats.foreign import ForeignCheckpoint
from kancompress.formats.packed import PackedModel
from kancompress.formats.packed.encodings import bits
from kancompress.formats.packed.forms import FormRecord
from kancompress.formats.packed.writer import sizes
from kancompress.formats.safetensors import shown
from kancompress.layers.layer import EdgeLayer
from kancompress.libraries import Recognition
from kancompress.models.native import build
from kancompress.packing.foreign import group_layers, repack, whole_vectors
from kancompress.packing.generated import write_out
from kancompress.packing.native import (
    Given,
    LayerClustering,
    Report,
    check_numbers,
    codebook_dtype,
    compress,
    plainly,
    stored_side,
    with_stored_sides,
)
from kancompress.system import devices

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
    device     : where they are
    flow       : of rows to calibrate on and of held-out rows through the network
    pack       : makes the packed model
    weigh      : bytes of its file; None where no layer would be packed but one has to be
    file_bytes : of the source
    apart      : name of a layer that is clustered by k-means all the same, to the reason why
    bias_names : tensors that hold the biases of another library's layers
    """

    layers: Mapping[str, EdgeLayer]
    places: Mapping[str, Place]
    device: torch.device
    flow: Callable[[Tensor, Tensor], Flow]
    pack: Pack
    weigh: Callable[[Mapping[str, Given | None]], int | None]
    file_bytes: int
    apart: Mapping[str, str] = field(default_factory=dict)
    bias_names: Mapping[str, str] = field(default_factory=dict)


def native_subject(
    checkpoint: Checkpoint,
    config: ClusterConfig,
    *,
    source_file_bytes: int,
    device: torch.device,
    hooks: Hooks,
) -> Subject:
    """A checkpoint of ours, to run on `device`; its packed layers may have biases."""
    network = build(checkpoint).eval()
    devices.put(network, device)
    layers: dict[str, EdgeLayer] = {str(n): x for n, x in enumerate(network.kan_layers())}
    dtype = codebook_dtype(config, torch.float32)
    places = dict.fromkeys(layers, Place(dtype=dtype, biased=True))
    if config.side_dtype is not StoredDtype.SOURCE:
        rounded = build(with_stored_sides(checkpoint, config)).eval()
        devices.put(rounded, device)
        for name, layer in zip(layers, rounded.kan_layers(), strict=True):
            side_dtype = stored_side(torch.zeros(()), name, config).dtype
            places[name] = replace(places[name], side_dtype=side_dtype, rounded=layer)
    pack = partial(compress, checkpoint, config, source_file_bytes=source_file_bytes)
    return Subject(
        layers=layers,
        places=places,
        device=device,
        flow=partial(Chain, layers, places, head=network.head),
        pack=lambda given: pack(given=given, report=hooks.report),
        weigh=lambda given: sum(sizes(pack(given=given)[0])),
        file_bytes=source_file_bytes,
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OwnModel:
    """The user's module, in which a checkpoint's layers run.

    modules : of the layers, by their names; apart : other layers, to why they have none
    """

    model: nn.Module
    modules: Mapping[str, nn.Module]
    apart: Mapping[str, str]


def foreign_subject(
    source: ForeignCheckpoint,
    found: Recognition,
    layers: Mapping[str, EdgeLayer],
    config: ClusterConfig,
    *,
    device: torch.device,
    hooks: Hooks,
    forms: Mapping[str, FormRecord],
    own: OwnModel | None = None,
) -> Subject:
    """Another library's checkpoint; biases go where layers have them.

    layers : whose forms are known, on `device`, in the order in which they run: all of them
             without `own`, where each feeds the next
    forms  : what the packed file is to say of the layers
    own    : the module that runs them, which holds the source's tensors
    """
    written = write_out(source, found)
    packed = {group.name: group.vectors() for group in group_layers(*written)}
    whole = whole_vectors(*written)
    apart = {
        name: "some of its edges are kept, or share their centroids with another layer's"
        for name in layers
        if name not in whole
    }
    solved = {name: layer for name, layer in layers.items() if name not in apart}
    running = layers if own is None else solved
    bias_names = {
        name: tensor
        for name, layer in solved.items()
        for tensor, parameter in layer.sides().items()
        if parameter is layer.bias and tensor in source.tensors
    }
    places = {
        name: Place(
            dtype=codebook_dtype(config, dtype),
            biased=name in bias_names,
            dense_itemsize=dtype.itemsize,
        )
        for name in running
        for dtype in [packed[name].dtype if name in packed else torch.float32]
    }
    rest = {
        name: Given(clustering=plainly(vectors, config.of(name), config))
        for name, vectors in packed.items()
        if name not in solved and len(vectors)
    }

    def pack(given: Mapping[str, Given | None], report: Report | None = None) -> Packed:
        model, done = repack(source, found, config, given={**given, **rest}, report=report)
        return replace(model, forms=forms), done

    def weigh(given: Mapping[str, Given | None]) -> int | None:
        packs = rest or any(value is not None for value in given.values())
        return sum(sizes(pack(given)[0])) if packs else None

    def state(solutions: Mapping[str, LayerSolution]) -> Mapping[str, Tensor]:
        given = {
            name: _given(solutions[name], bias_names.get(name)) if name in solutions else None
            for name in solved
        }
        return pack(given)[0].state_dict() if rest or solutions else source.tensors

    flow: Callable[[Tensor, Tensor], Flow] = partial(Chain, layers, places)
    if own is not None:
        flow = partial(Hooked, own.model, solved, own.modules, places, state, source.tensors)
    return Subject(
        layers=running,
        places=places,
        device=device,
        flow=flow,
        pack=lambda given: pack(given, hooks.report),
        weigh=weigh,
        file_bytes=source.file_bytes,
        apart={**(own.apart if own else {}), **apart},
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
    for name, layer in subject.layers.items():
        beyond = scaling.beyond(layer.edges())
        if beyond:
            raise UsageError(
                f"Layer {shown(name)} has {beyond}, which float32 cannot hold, and calibration"
                " computes in it. Leave --calibrate out."
            )
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
            f"The layer {shown(min(subject.apart))} is clustered by plain k-means"
            f" ({subject.apart[min(subject.apart)]}), so numbers of clusters cannot be chosen; give"
            " them with --clusters."
        )
    elif target.ratio is not None:
        target = Target(bytes=int(subject.file_bytes / target.ratio))
    with devices.repeatable(subject.device):
        return calibrate(
            subject.flow,
            rows,
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
    *shape, d = layer.edges().shape
    place, edges = subject.places[name], math.prod(shape)
    packed = bits.layer_bytes(edges, d, place.dtype.itemsize, clusters)
    shrinks = packed < edges * d * place.dense_itemsize
    return clusters if shrinks or config.force_pack else None


def _pretended(subject: Subject, clusters: Clusters) -> dict[str, Given | None]:
    """Clusterings of the right size and no meaning, to weigh the file that they would make."""
    made: dict[str, Given | None] = {}
    for name, layer in subject.layers.items():
        k = clusters[name]
        *shape, d = layer.edges().shape
        if k is None:
            made[name] = None
            continue
        clustering = kmeans.Clustering(
            centroids=np.zeros((k, d)),
            labels=np.arange(math.prod(shape), dtype=np.int64) % k,
            inertia=0.0,
            iterations=0,
            exact=False,
            repaired=0,
        )
        bias = torch.zeros(shape[0]) if subject.places[name].biased else None
        made[name] = Given(clustering=clustering, bias=bias)
    return made
