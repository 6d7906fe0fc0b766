"""Sources whose layers run on rows: clustered by what they put out, and packed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kancompress.clustering import scaling
from kancompress.clustering.clusterer import ByCoefficients, ByOutputs, Clusterer, Known
from kancompress.clustering.curves import TellProbe
from kancompress.clustering.cuts import Number, number_of, split
from kancompress.clustering.flow import Chain, Flow, check_rows
from kancompress.clustering.kept import Kept
from kancompress.clustering.layer import LayerSolution, Place, Solvable
from kancompress.clustering.network import Calibrated, Clusters, Tell, TellTry, calibrate
from kancompress.clustering.progress import TellShare
from kancompress.clustering.user_flow import Hooked
from kancompress.config import (
    RUN_FIELDS,
    CalibrationConfig,
    ClusterConfig,
    Metric,
    StoredDtype,
    Target,
)
from kancompress.errors import UsageError
from kancompress.formats.packed.encodings import layer_bytes
from kancompress.formats.safetensors import shown
from kancompress.layers.layer import EdgeLayer
from kancompress.layers.stored import encoding_of, in_memory, scale_bytes
from kancompress.models.native import build
from kancompress.models.records import sizes
from kancompress.packing.encoded import bounding
from kancompress.packing.foreign import ForeignSource
from kancompress.packing.lossless import smallest, ways
from kancompress.packing.native import NativeSource, side_dtype_of
from kancompress.packing.pack import Compression, GrowthError, Report, pack, so_far
from kancompress.packing.source import (
    Coded,
    Source,
    SourceLayer,
    blank,
    check,
    codebook_dtype,
    coded_for,
    most_clusters,
)
from kancompress.specs import MAX_CLUSTERS
from kancompress.system import devices

_SHARED = "its edges share their centroids with another layer's"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Hooks:
    """Whom to tell of layers as they are packed, as they are solved, and of probes for curves; of
    whole networks that a search for a target tried; and of how far the work is: what is at hand,
    the share of it that is done, and what of it was done last."""

    report: Report | None = None
    solved: Tell | None = None
    probed: TellProbe | None = None
    tried: TellTry | None = None
    share: TellShare | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Runs(ABC):
    """A source and its layers as they run on rows.

    layers    : in the order in which they run; places : what their packed forms can hold
    device    : where they are
    otherwise : clusters layers that are not solved
    apart     : name of a layer that is clustered without rows all the same, to the reason why
    told      : gets what the user should know of the rows
    """

    source: Source
    config: ClusterConfig
    layers: Mapping[str, Solvable]
    places: Mapping[str, Place]
    device: torch.device
    otherwise: Clusterer
    apart: Mapping[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @abstractmethod
    def flow(self, rows: Tensor, held_out: Tensor) -> Flow:
        """Rows to calibrate on and held-out rows on their way through the network."""

    def solved(self, solutions: Mapping[str, LayerSolution]) -> ByOutputs:
        """The clusterer of solutions; layers that run and have none stay dense."""
        solved = {name: solutions.get(name) for name in self.layers if name not in self.apart}
        return ByOutputs(solved=solved, otherwise=self.otherwise)

    def clusters(self) -> Clusters:
        """Numbers of clusters as the configuration has them, None where layers do not shrink."""
        return {
            name: None if name in self.apart else self.shrinking(name, self.config.of(name))
            for name in self.layers
        }

    def growing(self) -> frozenset[str]:
        """Names of the layers that do not shrink so, of those that run."""
        return frozenset(
            name
            for name, clusters in self.clusters().items()
            if clusters is None and name not in self.apart and self._packed[name].edges
        )

    def shrinking(self, name: str, clusters: int) -> Number | None:
        """So many centroids, None where the layer would be no smaller for them."""
        layer = self._packed[name]
        place = self.places[name]
        parts = place.parts or 1
        clusters = min(clusters, most_clusters(layer))
        edges, rows = layer.edges + layer.masked, clusters + (1 if layer.masked else 0)
        packed = layer_bytes(
            edges,
            layer.coefficients,
            place.dtype.itemsize,
            rows,
            scale=scale_bytes(place.dtype),
            parts=parts,
        )
        dense = edges * layer.coefficients * place.dense_itemsize
        shrinks = packed < dense or self.config.force_pack
        return number_of(clusters, parts) if shrinks and layer.edges else None

    @property
    def _packed(self) -> Mapping[str, SourceLayer]:
        return {layer.name: layer for layer in self.source.layers}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ChainRuns(Runs):
    """Layers that feed each other; head : what follows the last, or None."""

    layers: Mapping[str, EdgeLayer]
    head: nn.Module | None = None

    def flow(self, rows: Tensor, held_out: Tensor) -> Flow:
        """As of `Runs`."""
        return Chain(self.layers, self.places, rows, held_out, head=self.head)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ModelRuns(Runs):
    """Layers that run in the user's module, which holds the tensors of the checkpoint.

    modules     : of the layers, by their names
    calibration : how rows run through it
    """

    source: ForeignSource
    otherwise: Known
    model: nn.Module
    modules: Mapping[str, nn.Module]
    calibration: CalibrationConfig

    def flow(self, rows: Tensor, held_out: Tensor) -> Flow:
        """As of `Runs`."""
        dense = self.source.checkpoint.tensors
        return Hooked(
            self.model,
            self.layers,
            self.modules,
            self.places,
            self.state,
            dense,
            rows,
            held_out,
            self.calibration,
            self.told.append,
        )

    def state(self, solutions: Mapping[str, LayerSolution]) -> Mapping[str, Tensor]:
        """The state dict of the packed model with some layers solved, else the dense one."""
        model = so_far(self.source, self.solved(solutions), self.config)
        return self.source.checkpoint.tensors if model is None else model.state_dict()


def native_runs(source: NativeSource, config: ClusterConfig, device: torch.device) -> ChainRuns:
    """A checkpoint of ours, to run on `device`; its packed layers may have biases."""
    network = build(source.checkpoint).eval()
    devices.put(network, device)
    layers: dict[str, EdgeLayer] = {str(n): x for n, x in enumerate(network.kan_layers())}
    dtype = codebook_dtype(config, torch.float32)
    place = Place(dtype=dtype, biased=True, kmeans=config.kmeans, grid=config.metric is Metric.GRID)
    places = {name: replace(place, parts=config.given_parts(name)) for name in layers}
    if config.side_dtype is not StoredDtype.SOURCE:
        rounded = build(source.with_stored_sides()).eval()
        devices.put(rounded, device)
        for name, layer in zip(layers, rounded.kan_layers(), strict=True):
            side_dtype = side_dtype_of(torch.zeros(1), "bias", config.side_dtype)
            places[name] = replace(places[name], side_dtype=side_dtype, rounded=layer)
    return ChainRuns(
        source=source,
        config=config,
        layers=layers,
        places=places,
        device=device,
        otherwise=ByCoefficients.of(config, source.layers),
        head=network.head,
    )


def foreign_runs(
    source: ForeignSource,
    layers: Mapping[str, EdgeLayer],
    config: ClusterConfig,
    device: torch.device,
) -> ChainRuns:
    """Another library's checkpoint whose layers, all of them, feed each other on `device`."""
    config = coded_for(source, config)
    apart = {name: _SHARED for name in layers if name not in source.alone}
    source, places = _placed(source, layers, apart, config)
    return ChainRuns(
        source=source,
        config=config,
        layers=layers,
        places=places,
        device=device,
        otherwise=_found(source, apart, layers, config),
        apart=apart,
    )


def model_runs(
    source: ForeignSource,
    layers: Mapping[str, Solvable],
    config: ClusterConfig,
    device: torch.device,
    *,
    calibration: CalibrationConfig,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    apart: Mapping[str, str],
) -> ModelRuns:
    """Another library's checkpoint in the user's module.

    layers, modules : that can be solved, on `device`, in the order in which they run
    apart           : other layers, to why they cannot
    """
    config = coded_for(source, config)
    apart = {**apart, **{name: _SHARED for name in layers if name not in source.alone}}
    solved = {name: layer for name, layer in layers.items() if name not in apart}
    source, places = _placed(source, solved, {}, config)
    return ModelRuns(
        source=source,
        config=config,
        layers=solved,
        places=places,
        device=device,
        otherwise=_found(source, apart, solved, config),
        apart=apart,
        model=model,
        modules=modules,
        calibration=calibration,
    )


def _placed(
    source: ForeignSource,
    layers: Mapping[str, Solvable],
    apart: Mapping[str, str],
    config: ClusterConfig,
) -> tuple[ForeignSource, Mapping[str, Place]]:
    """The source with the tensors that take biases, and what packed layers can hold."""
    bias_names = {
        name: tensor
        for name, layer in layers.items()
        if name not in apart
        for tensor, parameter in layer.sides().items()
        if parameter is layer.bias and tensor in source.checkpoint.tensors
    }
    stored = {layer.name: layer.stored_dtype for layer in source.layers}
    whole = {layer.name for layer in source.layers if layer.whole}
    dtypes = {name: stored.get(name, torch.float32) for name in layers}
    places = {
        name: Place(
            dtype=codebook_dtype(config, dtype),
            biased=name in bias_names,
            dense_itemsize=dtype.itemsize,
            coding=source.coding(name) if name in source.alone else None,
            kmeans=config.kmeans,
            parts=config.given_parts(name),
            grid=config.metric is Metric.GRID
            and name in whole
            and isinstance(layers[name], EdgeLayer),
        )
        for name, dtype in dtypes.items()
    }
    return replace(source, bias_names=bias_names), places


def _found(
    source: ForeignSource,
    apart: Mapping[str, str],
    layers: Mapping[str, Solvable],
    config: ClusterConfig,
) -> Known:
    """Clusterings of the layers that are not solved, found once."""
    plain = ByCoefficients.of(config, source.layers)
    return Known(
        {
            layer.name: plain.cluster(
                layer.name,
                layer.in_parts().cut(config.parts_of(layer.name)),
                config.of(layer.name),
            )
            for layer in source.layers
            if layer.edges and (layer.name in apart or layer.name not in layers)
        }
    )


def pack_by_outputs(
    runs: Runs,
    rows: Tensor,
    calibration: CalibrationConfig,
    *,
    target: Target | None,
    hooks: Hooks,
    notes: Sequence[str] = (),
    kept: Kept | None = None,
) -> Compression:
    """Cluster and pack; with a target the numbers of clusters are chosen for it.

    kept : of earlier calls with the same source and rows, as of `calibrate`
    Raises one error with all that is wrong with the source and with `runs.config`, before any work;
    UsageError for rows that do not fit; and KancompressError when a target is out of reach or no
    layer would shrink.
    """
    found = _calibrated(runs, rows, calibration, target, hooks, dry_run=False, kept=kept)
    assert found.solution is not None
    config = replace(runs.config, price=found.price)
    made = pack(
        runs.source,
        runs.solved(found.solution.layers),
        config,
        report=hooks.report,
        growing=runs.growing() if target is None else (),
    )
    told = [*notes, *dict.fromkeys(runs.told), *made.notes]
    if runs.config.price and not found.price:
        told.append(
            "plain k-means in no more bytes was better on the held-out rows than what the price led"
            " to, so its numbers of clusters were taken"
        )
    return replace(made, notes=tuple(told), calibrated=found)


def choose(
    runs: Runs,
    rows: Tensor,
    calibration: CalibrationConfig,
    *,
    target: Target,
    hooks: Hooks,
) -> Calibrated:
    """Choose numbers of clusters for a target, and solve nothing but what tells the choice."""
    found = _calibrated(runs, rows, calibration, target, hooks, dry_run=True)
    return found if target.error is not None else replace(found, solution=None)


def _calibrated(
    runs: Runs,
    rows: Tensor,
    calibration: CalibrationConfig,
    target: Target | None,
    hooks: Hooks,
    *,
    dry_run: bool,
    kept: Kept | None = None,
) -> Calibrated:
    check(runs.source, runs.config)
    if isinstance(runs, ChainRuns):
        check_rows(runs.layers, rows)  # as they were given, before some are held out
    for name, layer in runs.layers.items():
        beyond = scaling.beyond(layer.edges())
        if beyond:
            raise UsageError(
                f"Layer {shown(name)} has {beyond}, which float32 cannot hold, and calibration"
                " computes in it. Leave `rows` out.",
                where=runs.source.where,
                layer=name,
                fields=("rows",),
            )
    if target is not None and runs.apart:
        raise UsageError(
            f"The layer {shown(min(runs.apart))} is clustered by plain k-means"
            f" ({runs.apart[min(runs.apart)]}), so numbers of clusters cannot be chosen; give"
            " them with `clusters`.",
            where=runs.source.where,
            layer=min(runs.apart),
            fields=("clusters", *RUN_FIELDS),
        )
    if target is not None and target.ratio is not None:
        target = Target(bytes=target.bytes_of(runs.source.used_bytes))

    with devices.repeatable(runs.device):
        return calibrate(
            runs.flow,
            rows,
            runs.clusters() if target is None else None,
            calibration,
            files=_Scales(runs),
            price=runs.config.price if runs.config.searches_price else runs.config.price or 0.0,
            target=target,
            dry_run=dry_run,
            tell=hooks.solved,
            tell_probe=hooks.probed,
            tell_try=hooks.tried,
            tell_share=hooks.share,
            # a module of the user's own holds what was packed last, so its rows run anew
            kept=kept if isinstance(runs, ChainRuns) else None,
        )


class _Scales:
    """Tells what files of many choices weigh; `Files` of `calibrate`."""

    def __init__(self, runs: Runs) -> None:
        self._outline = runs.source.outline()
        self._layers = {layer.name: layer for layer in runs.source.layers}
        self._runs = runs
        self._lossless: int | None = None

    def weigh(self, clusters: Clusters, *, priced: bool = False) -> int | None:
        """Bytes of the packed file, or no less than they will be where indices are entropy-coded;
        None where no layer would be packed and the file would be larger than the source.

        priced : with the header that it has where bits have a price
        """
        chosen = {name: k for name, k in clusters.items() if k is not None}
        chosen |= {n: 0 for n, layer in self._layers.items() if layer.masked and not layer.edges}
        model = self._outline.assemble({name: self._coded(name, k) for name, k in chosen.items()})
        if model is None:
            return self._whole()
        config = self._runs.config
        config = replace(config, price=1.0) if priced else config
        return sum(sizes(replace(model, header=config.header_form)))

    def _whole(self) -> int | None:
        """Bytes of the file of which no layer is packed as it could be chosen."""
        if self._lossless is None:
            found = smallest(self._outline, {}, {n: ways(x) for n, x in self._layers.items()})
            self._lossless = -1 if found is None else found[1]
        fits = 0 <= self._lossless <= self._runs.source.file_bytes
        return self._lossless if fits else None

    def measure(self, solutions: Mapping[str, LayerSolution]) -> int | None:
        """As of `Files`."""
        config = replace(self._runs.config, price=1.0)
        try:
            packed = pack(self._runs.source, self._runs.solved(solutions), config)
        except GrowthError:
            return None
        return sum(sizes(packed.model))

    def largest_plain(self, nbytes: int) -> Clusters | None:
        """As of `Files`."""
        low, high = 0, MAX_CLUSTERS + 1  # the first fits, or is none; the second does not
        while high - low > 1:
            middle = (low + high) // 2
            size = self.weigh(self._common(middle))
            low, high = (middle, high) if size is not None and size <= nbytes else (low, middle)
        return self._common(low) if low else None

    def _common(self, clusters: int) -> Clusters:
        """So many centroids for each layer that is smaller for it; the others stay dense."""
        return {name: self._runs.shrinking(name, clusters) for name in self._runs.layers}

    def _coded(self, name: str, number: Number) -> Coded:
        clusters, parts = split(number)
        layer = self._layers[name]
        rows, width = clusters + (1 if layer.masked else 0), layer.coefficients // parts
        if not clusters:
            return Coded(codebook=blank((rows, width), layer.stored_dtype), labels=None)
        place = self._runs.places[name]
        outputs = self._runs.layers[name].edges().shape[0]
        return Coded(
            codebook=blank((rows, width), in_memory(place.dtype)),
            labels=None,
            bias=blank((outputs,), torch.float32) if place.biased else None,
            encoding=bounding(self._runs.config.coding),
            numbers=encoding_of(place.dtype),
        )
