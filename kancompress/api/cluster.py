"""`kancompress.cluster`: from a checkpoint, in whatever it lies, to its packed model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.api import given
from kancompress.clustering.asked import AskedLayer, ask
from kancompress.clustering.cuts import number_of
from kancompress.clustering.kept import Kept
from kancompress.clustering.layer import Solvable
from kancompress.clustering.network import Calibrated
from kancompress.clustering.user_flow import Modules, find_modules, misfit
from kancompress.config import (
    RUN_FIELDS,
    CalibrationConfig,
    ClusterConfig,
    Device,
    Machine,
    RunOptions,
    Target,
)
from kancompress.data import datasets
from kancompress.errors import TooSmallError, UsageError
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.foreign import refuse_drop, refuse_state, without
from kancompress.formats.packed.forms import OWN_CLASS, FormRecord
from kancompress.formats.storage import called, is_native, once
from kancompress.frozen import dataclass
from kancompress.libraries.told import refuse_options, with_layouts
from kancompress.models.files import Input, read_foreign, sized
from kancompress.models.foreign import KnownLayers, dense_network
from kancompress.models.records import ForeignCheckpoint, PackedModel
from kancompress.models.user_module import as_taken, load_into, read_module, read_state
from kancompress.packing.by_outputs import (
    Hooks,
    Runs,
    choose,
    foreign_runs,
    model_runs,
    native_runs,
    pack_by_outputs,
)
from kancompress.packing.foreign import ForeignSource, open_foreign
from kancompress.packing.native import NativeSource
from kancompress.packing.pack import (
    Compression,
    LayerClustering,
    pack,
    pack_within,
    plain_clusterer,
)
from kancompress.packing.source import check
from kancompress.specs import DataOptions, DataSpec
from kancompress.system import devices

Clusterable = Input | Mapping[str, Tensor] | nn.Module
Rows = Tensor | np.ndarray | given.Data


def cluster(
    source: Clusterable,
    config: ClusterConfig | None = None,
    *,
    rows: Rows | None = None,
    calibration: CalibrationConfig | None = None,
    target: Target | None = None,
    layouts: Mapping[str, str] | None = None,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    keep_scaler: bool = False,
    keep_extra: bool = False,
    state: str | None = None,
    drop: Sequence[str] = (),
    name: str | None = None,
    report: Callable[[LayerClustering], None] | None = None,
    hooks: Hooks | None = None,
    **settings: Any,
) -> Compression:
    """Cluster the edge vectors of a checkpoint and pack it (stage 2 of the MetaCluster paper).

    Without rows, k-means compares edge vectors (or functions: `config.metric`). With rows, layers
    are clustered by what they put out on them.

    >>> import kancompress, torch
    >>> state = {
    ...     "layers.0.spline_weight": torch.randn(20, 30, 8),
    ...     "layers.0.base_weight": torch.randn(20, 30),
    ...     "layers.0.grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(30, 1),
    ... }
    >>> packed = kancompress.cluster(state, clusters=8)
    >>> packed.layers[0].edges, packed.layers[0].clusters
    (600, 8)
    >>> packed.state_dict()["layers.0.spline_weight"].shape
    torch.Size([20, 30, 8])

    source      : path or bytes of a dense or meta checkpoint of ours or of a file that another KAN
                  library saved; a `Checkpoint`; a state dict; or a live module of any architecture,
                  whose KAN layers are recognised by names and shapes, and which is not changed
    rows        : some thousands of unlabelled inputs, (n, in), of convolutions (n, channels, rows,
                  columns), of a module (n, ...); or a data set's name or a file with an array x
    calibration : how far to go with rows
    target      : chooses the number of clusters of each layer instead of `config`, and the price of
                  a bit where that has none; without rows one number for all layers, in bytes or as
                  a ratio
    layouts     : of another library's layers, where names and shapes do not tell: layer name or
                  stem ("" for all) to the name of a layout, or to one in the notation of
                  docs/reference/layouts.md; goes before those of `options`
    options     : what the tensors of another library's file do not tell of its forward
    model       : with rows, the module whose state dict the source is, to run another library's
                  file in; it is left with the source's tensors
    machine     : with rows, where to compute; `auto` is cuda where there is one, else the CPU. A
                  module of the user's own is moved to a device that was asked for, else the work
                  goes where it is. Without rows, only cuda: layers of a million edges and more
    keep_scaler : leave factors of whole edges as tensors of their own instead of folding them
    keep_extra  : keep what a torch file holds beside the model (optimizer, settings), for `expand`
    state       : of a torch file with several state dicts, such as an average of the model (EMA),
                  the one that is meant: its keys with dots between them, or the last of them
    drop        : patterns of names, whole or behind a dot, of tensors to leave out: "total_*"
    name        : what messages call the source, its path when None
    report      : told of each layer as it is packed; `hooks` also of layers as they are solved
    settings    : fields of ClusterConfig in place of those of `config`, such as `clusters=8`
    Raises one error for all that is wrong, before any work: InvalidFileError where a file is
    damaged or its layers hold NaN or infinity, else UsageError (packed already, no layer
    recognised, layouts that fit nothing or have to be chosen, unknown names of layers, numbers out
    of range, rows that do not fit). KancompressError where every layer and the whole file would
    grow, where a target is out of reach, and where a file changes while it is read.
    """
    given.check(calibration=calibration, target=target)
    given.check(options=options, machine=machine, model=model)
    if rows is None and (calibration or model or (target and target.error is not None)):
        raise UsageError(
            "A calibration, a module to run the layers in, and a target that is an error of the"
            " outputs need rows to measure on; give them with rows=."
        )
    work = Work(
        config=given.clustering("cluster", config, settings),
        calibration=calibration,
        options=with_layouts(options, layouts),
        machine=machine,
        hooks=replace(hooks or Hooks(), report=report) if report else hooks or Hooks(),
        keep_scaler=keep_scaler,
        keep_extra=keep_extra,
        state=state,
        drop=drop,
    )
    if rows is None:
        return work.plain(work.open(source, name), target)
    return work.with_rows(source, rows, model, name, target)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Running:
    """A source whose layers run, the rows that they run on, and what the user should know."""

    runs: Runs
    rows: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Work:
    """The settings of one call."""

    config: ClusterConfig
    calibration: CalibrationConfig | None = None
    options: RunOptions
    machine: Machine | None = None
    hooks: Hooks
    keep_scaler: bool = False
    keep_extra: bool = False
    state: str | None = None
    drop: Sequence[str] = ()

    def open(self, source: Clusterable, name: str | None) -> NativeSource | ForeignSource:
        """The source, read as far as it has to be."""
        if self.keep_extra and isinstance(source, nn.Module | Mapping):
            raise UsageError(
                "Only a torch file holds something beside the model; leave keep_extra out for what"
                " is in memory."
            )
        if isinstance(source, nn.Module | Mapping):
            refuse_state(self.state, "what is in memory")
        if isinstance(source, nn.Module):
            return self._foreign(without(read_module(source), self.drop))
        if isinstance(source, Mapping):
            read = read_state(source, name or "The state dict")
            return self._foreign(without(read, self.drop))
        found = given.record(source)
        if found is None and not isinstance(source, str | os.PathLike | bytes):
            raise UsageError(
                f"A checkpoint cannot be had from {type(source).__name__}; a path, bytes, a"
                " Checkpoint, a state dict or a torch.nn.Module was expected."
            )
        opened, name = once(found or source, name)
        if isinstance(opened, str | os.PathLike | bytes) and not is_native(opened):
            return self._foreign(read_foreign(opened, name, state=self.state, drop=self.drop))
        beside = self.keep_scaler or self.keep_extra or self.config.keep_masked
        if self.options.layouts or beside:
            raise UsageError(
                "Layouts, scalers, masks and extras belong to other libraries' files; this one is"
                " ours."
            )
        refuse_options(self.options)
        refuse_state(self.state, called(opened, name))
        refuse_drop(self.drop, called(opened, name))
        size, record = sized(opened, name, stored=True)
        where = called(opened, name)
        if isinstance(record, PackedModel):
            raise UsageError(
                f"{where} is packed already. To cluster it anew: kancompress expand FILE -o DENSE",
                where=where,
            )
        return NativeSource(
            checkpoint=record, file_bytes=size, side_dtype=self.config.side_dtype, where=where
        )

    def _foreign(self, checkpoint: ForeignCheckpoint) -> ForeignSource:
        return open_foreign(
            checkpoint,
            self.options.layouts,
            keep_scaler=self.keep_scaler,
            keep_extra=self.keep_extra,
            keep_masked=self.config.keep_masked,
        )

    def settled(self, source: NativeSource | ForeignSource) -> ClusterConfig:
        """The configuration with the number of clusters that convolutions of ours have."""
        conv = isinstance(source, NativeSource) and source.checkpoint.conv is not None
        return self.config.settled(conv=conv)

    def _without_target(self, source: NativeSource | ForeignSource) -> ClusterConfig:
        """The same for layers that are solved on rows, where a `Target` says how large to be."""
        return replace(self.settled(source), target_bytes=None)

    def plain(
        self, source: NativeSource | ForeignSource, target: Target | None = None
    ) -> Compression:
        """Cluster without rows."""
        config = self.settled(source)
        if isinstance(source, ForeignSource):
            source = source.saying(self.options)
        device = self._plain_device()
        clusterer, told = plain_clusterer(source, config, self.options, self.hooks.share, device)
        report = self.hooks.report
        if target is None:
            packed = pack(source, clusterer, config, report=report)
        else:
            budget = target.bytes_of(source.used_bytes)
            packed = pack_within(source, clusterer, config, budget, report=report)
        return replace(packed, notes=(*source.notes, *told, *packed.notes))

    def by_outputs(
        self, running: Running, target: Target | None, kept: Kept | None = None
    ) -> Compression:
        """Cluster by what layers put out; `config.target_bytes` is a target, too.

        kept : of earlier calls with the same source and rows
        """
        if target is None and self.config.target_bytes is not None:
            target = Target(bytes=self.config.target_bytes)
        return pack_by_outputs(
            running.runs,
            running.rows,
            self._calibration,
            target=target,
            hooks=self.hooks,
            notes=running.notes,
            kept=kept,
        )

    def with_rows(
        self,
        source: Clusterable,
        rows: Rows,
        model: nn.Module | None,
        name: str | None,
        target: Target | None,
    ) -> Compression:
        """Cluster on rows, or without them where nothing else fits into the target."""
        source, name = once(source, name)
        running = self.running(source, rows, model, name)
        try:
            return self.by_outputs(running, target)
        except TooSmallError as error:
            return self.instead(self.open(source, name), target, error)

    def instead(
        self, source: NativeSource | ForeignSource, target: Target | None, error: TooSmallError
    ) -> Compression:
        """What fits into a target that no choice by outputs does: plain k-means, which adds no
        biases and goes down to one centroid.

        Raises what `plain` does, so that a target out of reach is told the same smallest file with
        rows and without.
        """
        packed = self.plain(source, target or Target(bytes=self.config.target_bytes))
        note = f"clustered without rows, by plain k-means: {error.clause}"
        return replace(packed, notes=(*packed.notes, note), calibrated=_chosen(packed))

    def choose(self, running: Running, target: Target) -> Calibrated:
        """The numbers of clusters for a target."""
        return choose(
            running.runs, running.rows, self._calibration, target=target, hooks=self.hooks
        )

    @property
    def _calibration(self) -> CalibrationConfig:
        return self.calibration or CalibrationConfig(seed=self.config.seed)

    def running(
        self,
        source: Clusterable,
        rows: Rows,
        model: nn.Module | None,
        name: str | None,
    ) -> Running:
        """A source whose layers run on rows."""
        rows = given_rows(rows)
        if isinstance(source, nn.Module):
            refuse_state(self.state, "a module in memory")
            return self._live(source, rows, model)
        opened = self.open(source, name)
        if isinstance(source, Mapping) and isinstance(opened, ForeignSource) and model is not None:
            opened = replace(opened, checkpoint=_copied(opened.checkpoint))
        return self.running_of(opened, rows, model)

    def running_of(
        self,
        opened: NativeSource | ForeignSource,
        rows: Tensor | DataOptions,
        model: nn.Module | None,
    ) -> Running:
        """A source that is open already, as it runs on rows."""
        if isinstance(opened, ForeignSource):
            if model is None:
                return self._by_itself(opened, _inputs(rows, None))
            devices.move(model, self.machine)
            x = _as_given(rows)
            names = load_into(model, opened.checkpoint.tensors, opened.where)
            return self._in_model(opened, model, x, names)
        if model is not None:
            raise UsageError(
                f"{opened.where} holds a network of kancompress's own, which runs by"
                " itself; leave `model` out.",
                where=opened.where,
                fields=("model",),
            )
        runs = native_runs(opened, self._without_target(opened), self._device())
        record = opened.checkpoint
        images = record.conv is not None
        return Running(runs=runs, rows=_inputs(rows, record.data, images=images), notes=())

    def _live(
        self, module: nn.Module, rows: Tensor | DataOptions, model: nn.Module | None
    ) -> Running:
        """A live module, which runs its own layers."""
        if model is not None:
            raise UsageError("A live module runs its own layers; leave the other model out.")
        devices.move(module, self.machine)
        checkpoint = _copied(without(read_module(module), self.drop))
        x = _as_given(rows)
        return self._in_model(self._foreign(checkpoint), module, x, {})

    def _device(self) -> torch.device:
        """Where networks that kancompress builds run; sums in float64 make `mps` a slow default."""
        return devices.find((self.machine or Machine()).device, auto=(Device.CUDA,))

    def _plain_device(self) -> torch.device | None:
        """Where large layers are clustered without rows: on cuda where it was asked for, as the CPU
        gives the same bits on every machine."""
        if self.machine is None or self.machine.device != Device.CUDA:
            return None
        return devices.find(Device.CUDA)

    def _by_itself(self, source: ForeignSource, rows: Tensor) -> Running:
        """A checkpoint whose tensors determine the whole forward."""
        config = self._without_target(source)
        check(source, config)
        network = dense_network(source.checkpoint, self.options).eval()
        device = self._device()
        devices.put(network, device)
        layers = {str(layer.name): layer for layer in network.kan_layers()}
        runs = foreign_runs(replace(source, forms=network.forms), layers, config, device)
        return Running(runs=runs, rows=rows, notes=_notes(runs, network.notes))

    def _in_model(
        self,
        source: ForeignSource,
        model: nn.Module,
        rows: Tensor,
        names: Mapping[str, str],
    ) -> Running:
        """A checkpoint whose layers run in a module that holds its tensors.

        names : of the checkpoint's tensors to the module's, where they differ
        """
        config = self._without_target(source)
        check(source, config)
        rows, taken = as_taken(model, rows)
        own_paths = {layer.name: _path(layer, names) for layer in source.found.layers}
        modules = dict(model.named_modules())
        known = source.known_layers(self.options, lambda name: modules.get(own_paths[name]))
        paths, sums = (
            {name: ".".join(filter(None, (own_paths[name], some.get(name, "")))) for name in names}
            for some, names in ((known.modules, own_paths), (known.sums, known.sums))
        )
        device = devices.of(model)
        found = find_modules(model, paths, sums, rows)
        layers, apart = _solvable(source, known, found, model, names, device)
        if not layers:
            first = min(apart)
            raise UsageError(
                f"No KAN layer of the model can be clustered by what it puts out; {first}:"
                f" {apart[first]}. Leave `rows` out for plain k-means.",
                where=source.where,
                layer=first,
                fields=("rows", *RUN_FIELDS),
            )
        asked = [name for name, layer in layers.items() if isinstance(layer, AskedLayer)]
        forms = {**known.forms, **dict.fromkeys(asked, FormRecord(layout=OWN_CLASS))}
        runs = model_runs(
            replace(source, forms=forms),
            layers,
            config,
            device,
            calibration=self._calibration,
            model=model,
            modules={name: found.there[name] for name in layers},
            apart=apart,
        )
        notes = [*_notes(runs, known.notes), *taken]
        if asked:
            notes.append(f"features asked of the model's own modules: {', '.join(asked)}")
        return Running(runs=runs, rows=rows, notes=tuple(notes))


def _chosen(packed: Compression) -> Calibrated:
    """The numbers of clusters of what was packed, as calibration tells them."""
    clusters = {
        layer.name: None if layer.clusters is None else number_of(layer.clusters, layer.parts)
        for layer in packed.layers
    }
    return Calibrated(clusters=clusters, curves={}, predicted=None, solution=None)


def _solvable(
    source: ForeignSource,
    known: KnownLayers,
    found: Modules,
    model: nn.Module,
    names: Mapping[str, str],
    device: torch.device,
) -> tuple[dict[str, Solvable], dict[str, str]]:
    """Layers that can be solved in the model, in the order in which they run, and why others
    cannot.

    names : of the checkpoint's tensors to the module's, where they differ
    """
    layers: dict[str, Solvable] = {}
    apart = dict(found.apart)
    own = {
        name: tensor
        for name, tensor in model.state_dict(keep_vars=True).items()
        if isinstance(tensor, Tensor)
    }
    there = {name: names.get(name, name) for name in source.checkpoint.tensors}
    tensors = {name: own[other] for name, other in there.items() if other in own}
    by_name = {layer.name: layer for layer in source.found.layers}
    for name, module in found.there.items():
        form = known.layers.get(name)
        reason = known.refused.get(name, "")
        if form is not None:
            devices.put(form, device)
            reason = misfit(form, found.seen[name])
            if not reason:
                layers[name] = form
                continue
        edges = source.dense_edges(name)
        if edges is None:
            apart[name] = reason
            continue
        devices.put(edges, device)
        asked = ask(module, found.seen[name], by_name[name], edges, tensors)
        if isinstance(asked, AskedLayer):
            layers[name] = asked
        else:
            apart[name] = f"{asked}; {reason}" if reason else asked
    return layers, apart


def _copied(checkpoint: ForeignCheckpoint) -> ForeignCheckpoint:
    """A checkpoint that shares no memory with a module, which holds packed tensors for a while."""
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    return replace(checkpoint, tensors=tensors)


def given_rows(rows: object) -> Tensor | DataOptions:
    """Rows as a tensor, or where they lie. Raises UsageError for anything else."""
    if isinstance(rows, str | os.PathLike):
        return cast(DataOptions, given.data(rows, "rows"))
    if isinstance(rows, Tensor | DataOptions):
        return rows
    try:
        if isinstance(rows, np.ndarray):
            return torch.as_tensor(rows)
    except TypeError:  # strings and the like
        pass
    what = f"an array of {rows.dtype}" if isinstance(rows, np.ndarray) else type(rows).__name__
    raise UsageError(
        f"`rows` is {what}; a tensor or array (n, ...) of numbers, or DataOptions, was expected, or"
        " a data set's name or the path of a file with an array x.",
        fields=("rows",),
    )


def _as_given(rows: Tensor | DataOptions) -> Tensor:
    """Rows as they go into a module of the user's own."""
    if not isinstance(rows, DataOptions):
        return rows
    return datasets.load_inputs(None, rows, whole=rows.shape in (None, ()))


def _inputs(rows: Tensor | DataOptions, spec: DataSpec | None, *, images: bool = False) -> Tensor:
    """Rows of features, as for training, or images where the network takes them."""
    if not isinstance(rows, DataOptions):
        return rows.float()  # in which layers compute
    x = datasets.load_inputs(spec, replace(rows, images=images))
    return x if images else x.flatten(1)


def _path(layer: FoundLayer, names: Mapping[str, str]) -> str:
    """Name of a layer's module in the model."""
    tensor = layer.tensors[0]
    below = tensor.removeprefix(layer.name).removeprefix(".")
    return names.get(tensor, tensor).removesuffix(below).removesuffix(".")


def _notes(runs: Runs, assumed: Sequence[str]) -> tuple[str, ...]:
    """What was recognised and assumed, and layers without a bias or left to plain k-means."""
    notes = [*runs.source.notes, *(f"assumed {note}" for note in assumed)]
    solved = {name: place for name, place in runs.places.items() if name not in runs.apart}
    without = [name for name, place in solved.items() if not place.biased]
    if without:
        notes.append(
            f"{len(without)} of {len(solved)} layers have no bias, so there the mean error"
            " is not taken up"
        )
    by_reason: dict[str, list[str]] = {}
    for name, reason in sorted(runs.apart.items()):
        by_reason.setdefault(reason, []).append(name)
    notes += [
        f"clustered by plain k-means: {', '.join(names)}; {reason.removesuffix('.')}"
        for reason, names in by_reason.items()
    ]
    return tuple(notes)


__all__ = ["Clusterable", "Rows", "Work", "cluster"]
