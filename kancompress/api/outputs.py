"""Checkpoints clustered by what their layers put out: the library's functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kancompress.api.commands import Compression
from kancompress.api.modules import Compressed
from kancompress.clustering.network import Calibrated
from kancompress.clustering.user_flow import match_modules
from kancompress.config import CalibrationConfig, ClusterConfig, Device, Machine, RunOptions, Target
from kancompress.data import datasets
from kancompress.errors import UsageError
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.foreign import ForeignCheckpoint, read_foreign
from kancompress.formats.packed import PackedModel
from kancompress.formats.storage import Input, called, is_native, once, sized
from kancompress.libraries import Recognition, recognise
from kancompress.models.foreign import dense_network, known_layers
from kancompress.models.user_module import load_into, read_module
from kancompress.packing.by_outputs import (
    Hooks,
    OwnModel,
    Subject,
    choose,
    foreign_subject,
    native_subject,
    pack_calibrated,
)
from kancompress.packing.foreign import check_all
from kancompress.packing.notes import source_notes
from kancompress.specs import DataOptions, DataSpec
from kancompress.system import devices


def cluster_by_outputs(
    source: Input,
    rows: Tensor | DataOptions,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    target: Target | None = None,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    name: str | None = None,
    hooks: Hooks | None = None,
) -> Compression:
    """Cluster a checkpoint by what its layers put out on unlabelled rows, and pack it.

    source  : a dense or meta checkpoint of ours, or a file of another KAN library whose forward the
              tensors determine
    rows    : (n, in) inputs of the network, or where they lie; some thousands are enough
    target  : chooses the number of clusters of each layer instead of `config`
    options : what the tensors of another library's file do not tell
    model   : the module whose state dict the source is, to run another library's file in; it is
              left with the source's tensors. Rows then keep their shape (n, ...)
    machine : where to compute; `auto` is cuda where there is one, else the CPU. A module of the
              user's own is moved to a device that was asked for, else the work goes where it is
    name    : what messages call the source, its path when None
    hooks   : whom to tell of progress
    Raises as `cluster`, UsageError for rows that do not fit, and KancompressError for a target out
    of reach.
    """
    work = _Work(config, calibration, options, machine, hooks)
    opened = work.open(source, rows, model, name)
    return work.pack(opened, target)


def choose_clusters(
    source: Input,
    rows: Tensor | DataOptions,
    target: Target,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    name: str | None = None,
    hooks: Hooks | None = None,
) -> Calibrated:
    """The numbers of clusters that `cluster_by_outputs` would choose; packs nothing."""
    work = _Work(config, calibration, options, machine, hooks)
    opened = work.open(source, rows, model, name)
    return choose(
        opened.subject,
        opened.rows,
        work.config,
        work.calibration,
        target=target,
        hooks=work.hooks,
    )


def compress_by_outputs(
    model: nn.Module,
    rows: Tensor,
    config: ClusterConfig | None = None,
    calibration: CalibrationConfig | None = None,
    *,
    target: Target | None = None,
    options: RunOptions | None = None,
    machine: Machine | None = None,
    hooks: Hooks | None = None,
) -> Compressed:
    """`compress` by what the KAN layers of a live module put out on unlabelled rows.

    model : any architecture; hooks on its KAN layers see what they are called with. Its tensors
            are as before in the end
    rows  : (n, ...) inputs of the model, some thousands; they go in with the device and the
            floating point type of its first parameter
    The rest is as for `cluster_by_outputs`. Layers whose outputs cannot be had (a layout whose
    basis is not known, a module that computes something else or is called more than once) are
    clustered by plain k-means; `notes` says which and why.
    Raises UsageError where that holds for all of them.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"compress_by_outputs takes a torch.nn.Module and was given {type(model).__name__};"
            " files and checkpoints go to cluster_by_outputs."
        )
    work = _Work(config, calibration, options, machine, hooks)
    devices.move(model, machine)
    source = read_module(model)
    # Copies: the module holds packed tensors for a while, and may go on learning in place.
    source = replace(source, tensors={name: t.clone() for name, t in source.tensors.items()})
    done = work.pack(work.in_model(source, model, rows, {}), target)
    return Compressed(
        model=done.model, layers=done.layers, notes=done.notes, calibrated=done.calibrated
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Opened:
    """What is to be clustered, the rows that it runs on, and what the user should know."""

    subject: Subject
    rows: Tensor
    notes: tuple[str, ...] = ()


class _Work:
    """The settings of one call."""

    def __init__(
        self,
        config: ClusterConfig | None,
        calibration: CalibrationConfig | None,
        options: RunOptions | None,
        machine: Machine | None,
        hooks: Hooks | None,
    ) -> None:
        self.config = config or ClusterConfig()
        self.calibration = calibration or CalibrationConfig(seed=self.config.seed)
        self.options = options or RunOptions()
        self.machine = machine
        self.hooks = hooks or Hooks()

    def open(
        self,
        source: Input,
        rows: Tensor | DataOptions,
        model: nn.Module | None,
        name: str | None,
    ) -> _Opened:
        source, name = once(source, name)
        if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
            foreign = read_foreign(source, name)
            if model is None:
                return self._by_itself(foreign, _inputs(rows, None))
            devices.move(model, self.machine)
            x = datasets.load_inputs(None, rows) if isinstance(rows, DataOptions) else rows
            return self.in_model(
                foreign, model, x, load_into(model, foreign.tensors, foreign.where)
            )
        if model is not None:
            raise UsageError(
                f"{called(source, name)} holds a network of kancompress's own, which runs by"
                " itself; leave --model out."
            )
        size, record = sized(source, name)
        if isinstance(record, PackedModel):
            raise UsageError(
                f"{called(source, name)} is packed already. To cluster it anew:"
                " kancompress expand FILE -o DENSE"
            )
        images = record.conv is not None
        self.config = self.config.settled(conv=images)
        subject = native_subject(
            record,
            self.config,
            source_file_bytes=size,
            device=self._device(),
            hooks=self.hooks,
        )
        return _Opened(subject=subject, rows=_inputs(rows, record.data, images=images))

    def _device(self) -> torch.device:
        """Where networks that kancompress builds run; sums in float64 make `mps` a slow default."""
        return devices.find((self.machine or Machine()).device, auto=(Device.CUDA,))

    def _by_itself(self, source: ForeignCheckpoint, rows: Tensor) -> _Opened:
        """A checkpoint whose tensors determine the whole forward."""
        found = recognise(source.tensors, self.options.layouts)
        check_all(source, found, self.config)
        network = dense_network(source, self.options).eval()
        device = self._device()
        devices.put(network, device)
        layers = {str(layer.name): layer for layer in network.kan_layers()}
        subject = foreign_subject(
            source,
            found,
            layers,
            self.config,
            device=device,
            hooks=self.hooks,
            forms=network.forms,
        )
        return _Opened(
            subject=subject, rows=rows, notes=_notes(source, found, subject, network.notes)
        )

    def in_model(
        self,
        source: ForeignCheckpoint,
        model: nn.Module,
        rows: Tensor,
        names: Mapping[str, str],
    ) -> _Opened:
        """A checkpoint whose layers run in a module that holds its tensors.

        names : of the checkpoint's tensors to the module's, where they differ
        """
        found = recognise(source.tensors, self.options.layouts)
        check_all(source, found, self.config)
        own_paths = {layer.name: _path(layer, names) for layer in found.layers}
        modules = dict(model.named_modules())
        known = known_layers(source, found, self.options, lambda name: modules.get(own_paths[name]))
        paths, sums = (
            {name: ".".join(filter(None, (own_paths[name], below))) for name, below in some.items()}
            for some in (known.modules, known.sums)
        )
        device = devices.of(model)
        for layer in known.layers.values():
            devices.put(layer, device)
        matched = match_modules(model, known.layers, paths, sums, rows)
        apart = {**known.refused, **matched.apart}
        if not matched.modules:
            first = min(apart)
            raise UsageError(
                f"No KAN layer of the model can be clustered by what it puts out; {first}:"
                f" {apart[first]}. Leave --calibrate out for plain k-means."
            )
        own = OwnModel(model=model, modules=matched.modules, apart=apart)
        layers = {name: known.layers[name] for name in matched.modules}
        subject = foreign_subject(
            source,
            found,
            layers,
            self.config,
            device=device,
            hooks=self.hooks,
            forms=known.forms,
            own=own,
        )
        return _Opened(
            subject=subject, rows=rows, notes=_notes(source, found, subject, known.notes)
        )

    def pack(self, opened: _Opened, target: Target | None) -> Compression:
        packed, found = pack_calibrated(
            opened.subject,
            opened.rows,
            self.config,
            self.calibration,
            target=target,
            hooks=self.hooks,
        )
        model, layers = packed
        return Compression(model=model, layers=layers, notes=opened.notes, calibrated=found)


def _inputs(rows: Tensor | DataOptions, spec: DataSpec | None, *, images: bool = False) -> Tensor:
    """Rows of features, as for training, or images where the network takes them."""
    if not isinstance(rows, DataOptions):
        return rows
    x = datasets.load_inputs(spec, replace(rows, images=images))
    return x if images else x.flatten(1)


def _path(layer: FoundLayer, names: Mapping[str, str]) -> str:
    """Name of a layer's module in the model."""
    tensor = layer.tensors[0]
    return names.get(tensor, tensor).removesuffix(tensor.removeprefix(layer.name))


def _notes(
    source: ForeignCheckpoint, found: Recognition, subject: Subject, assumed: Sequence[str]
) -> tuple[str, ...]:
    """What was recognised and assumed, and layers without a bias or left to plain k-means."""
    notes = [*source_notes(source, found), *(f"assumed {note}" for note in assumed)]
    solved = {name: place for name, place in subject.places.items() if name not in subject.apart}
    without = [name for name, place in solved.items() if not place.biased]
    if without:
        notes.append(
            f"{len(without)} of {len(solved)} layers have no bias, so there the mean error"
            " is not taken up"
        )
    by_reason: dict[str, list[str]] = {}
    for name, reason in sorted(subject.apart.items()):
        by_reason.setdefault(reason, []).append(name)
    notes += [
        f"clustered by plain k-means: {', '.join(names)}; {reason.removesuffix('.')}"
        for reason, names in by_reason.items()
    ]
    return tuple(notes)


__all__ = ["choose_clusters", "cluster_by_outputs", "compress_by_outputs"]
