"""The library's front door: one typed function for each command of the CLI."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from kancompress.clustering.network import Calibrated
from kancompress.config import ClusterConfig, FinetuneConfig, Machine, RunOptions, TrainConfig
from kancompress.data import datasets
from kancompress.errors import UsageError
from kancompress.formats.storage import called, is_native, once
from kancompress.libraries import recognise
from kancompress.models import runnable as running
from kancompress.models.files import Input, read_foreign, sized
from kancompress.models.records import Checkpoint, ForeignCheckpoint, PackedModel
from kancompress.models.restoration import Restored, restore
from kancompress.models.runnable import Runnable, Running
from kancompress.packing import extras, sizing
from kancompress.packing.gridded import foreign_given, native_given
from kancompress.packing.native import LayerClustering
from kancompress.packing.native import expand as _expand
from kancompress.packing.notes import source_notes
from kancompress.specs import BasisSpec, ConvSpec, DataOptions, MetaSpec, ModelName
from kancompress.system import devices
from kancompress.training.evaluation import Evaluation, evaluate_running
from kancompress.training.finetune import Finetuning, tune
from kancompress.training.loop import OnBatch, OnEpoch
from kancompress.training.state import StateFile
from kancompress.training.train import Training, fit_network
from kancompress.training.user_module import evaluate_module, taught_by, tune_module


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compression:
    """Result of `cluster`: the packed model, what was done to each layer, what to know of it."""

    model: PackedModel
    layers: list[LayerClustering]
    notes: tuple[str, ...] = ()
    calibrated: Calibrated | None = None


def train(
    model: str | ModelName = ModelName.METAFASTKAN,
    data: DataOptions | None = None,
    config: TrainConfig | None = None,
    *,
    basis: BasisSpec | None = None,
    hidden: tuple[int, ...] | None = None,
    meta: MetaSpec | None = None,
    conv: ConvSpec | None = None,
    machine: Machine | None = None,
    state: StateFile | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Training:
    """Train a network (stage 1); `Training.checkpoint` is what `save` takes.

    model  : `kan`, `fastkan`, `gramkan`, with `meta` before it for a meta-learner and `conv` behind
             it for convolutions, or `mlp`
    data   : digits when None
    config : the recipe of the paper's Tables 4 to 7 when None; its seed also divides the data
    hidden : units, or channels of convolutions; 32, or 32, 64, 128, 256, when None
    machine : where to compute
    state   : where the run keeps its state, and the one it goes on from (docs/training.md)
    """
    name = _model_name(model)
    seed = config.seed if config else 0
    data = replace(data or DataOptions(), images=name.is_conv)
    rows = datasets.load_for_training(data, seed=seed)
    return fit_network(
        name,
        rows,
        config,
        basis=basis,
        hidden=hidden,
        meta=meta,
        conv=conv,
        machine=machine,
        state=state,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )


def _model_name(model: str) -> ModelName:
    try:
        return ModelName(model)
    except ValueError:
        raise UsageError(
            f"There is no model {model!r}; known are {', '.join(ModelName)}."
        ) from None


def cluster(
    source: Input,
    config: ClusterConfig | None = None,
    *,
    layouts: Mapping[str, str] | None = None,
    keep_scaler: bool = False,
    keep_extra: bool = False,
    name: str | None = None,
    report: Callable[[LayerClustering], None] | None = None,
) -> Compression:
    """Cluster the edge vectors of a checkpoint and pack it (stage 2).

    source      : a dense or meta checkpoint of ours, or a file that another KAN library saved
    layouts     : for the latter: layer name or stem ("" for all) to the name of a layout, or to one
                  in the notation of docs/layouts.md, where names and shapes do not tell
    keep_scaler : leave factors of whole edges as tensors of their own instead of folding them
    keep_extra  : keep what a torch file holds beside the model (optimizer, settings), for `expand`
    name        : what messages call the source, its path when None
    Raises UsageError for a file that is packed already, and one error for all that is wrong with a
    file of another library: InvalidFileError where its layers hold NaN or infinity, else UsageError
    (no layer recognised, layouts that fit nothing or have to be chosen, unknown names of layers).
    """
    config = config or ClusterConfig()
    source, name = once(source, name)
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        foreign = read_foreign(source, name)
        unfit: list[str] = []
        found = recognise(foreign.tensors, layouts, unfit=unfit)
        skeleton = extras.find_extra(foreign, found, unfit) if keep_extra else None
        given_of, told = foreign_given(
            foreign, found, config, layouts=layouts, keep_scaler=keep_scaler
        )
        gains = {gain.tensor for layer in found.layers for gain in layer.gains}
        model, layers = sizing.pack_foreign(
            foreign,
            found,
            config,
            keep_scaler=keep_scaler,
            unfit=unfit,
            report=report,
            given_of=given_of,
            finish=lambda model: extras.keep_extra(model, skeleton, gains, foreign.where),
        )
        notes = source_notes(foreign, found, kept=skeleton is not None)
        return Compression(model=model, layers=layers, notes=(*notes, *told))
    if layouts or keep_scaler or keep_extra:
        raise UsageError(
            "Layouts, scalers and extras belong to other libraries' files; this one is ours."
        )
    size, record = sized(source, name, stored=True)
    if isinstance(record, PackedModel):
        raise UsageError(
            f"{called(source, name)} is packed already. To cluster it anew:"
            " kancompress expand FILE -o DENSE"
        )
    given = native_given(record)
    model, layers = sizing.pack_native(
        record, config, source_file_bytes=size, report=report, given_of=given
    )
    return Compression(model=model, layers=layers)


def finetune(
    source: Input,
    data: DataOptions | None = None,
    config: FinetuneConfig | None = None,
    *,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    teacher: Input | None = None,
    machine: Machine | None = None,
    state: StateFile | None = None,
    name: str | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Finetuning:
    """Tune the codebooks of a packed file, assignments fixed (stage 3).

    data    : where the data set lies that the file names; needed when it was the user's own, and
              for other libraries' files, which name none
    options : what the tensors of another library's file do not tell
    model   : the module whose state dict was packed, to run another library's file in; it is left
              with the result
    teacher : the dense checkpoint, whose outputs take the place of labels (distillation), run in
              `model` where that is given; data in a file needs no y then
    machine : where to compute; a module of the user's own is moved there unless it is `auto`
    state   : where the run keeps its state, and the one it goes on from (docs/training.md)
    name    : what messages call the source, its path when None
    """
    packed = packed_record(source, name)
    if model is not None:
        _check_own_model(packed, options, called(source, name))
        devices.move(model, machine)
        if teacher is None:
            rows = datasets.load_for_model(None, data)
        else:
            where = called(teacher, None)
            tensors = _own_tensors(_runnable(teacher, None), options, where)
            rows = taught_by(model, tensors, where, data)
        return tune_module(
            model,
            packed,
            rows,
            config,
            state=state,
            workers=machine.workers if machine else 0,
            on_epoch=on_epoch,
            on_batch=on_batch,
        )
    data = replace(data or DataOptions(), images=packed.conv is not None)
    dense = None if teacher is None else _teacher(teacher, packed, options)
    if dense is not None and not datasets.has_labels(data):
        rows = datasets.load_unlabelled(packed.data, data, dense.outputs)
    else:
        rows = datasets.load_for_model(packed.data, data)
    return tune(
        packed,
        rows,
        config,
        options=options,
        teacher=None if dense is None else dense.network,
        machine=machine,
        state=state,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )


def _teacher(source: Input, packed: PackedModel, options: RunOptions | None) -> Running:
    """The network to learn from. Raises UsageError where its widths are others."""
    own, other = running.run(packed, options), running.run(_runnable(source, None), options)
    if (own.inputs, own.outputs) != (other.inputs, other.outputs):
        raise UsageError(
            f"{called(source, None)} has {other.inputs} inputs and {other.outputs} outputs, the"
            f" packed network {own.inputs} and {own.outputs}; give the checkpoint it was packed"
            " from."
        )
    return other


def _runnable(source: Input, name: str | None) -> Runnable:
    """A record of ours, or another library's checkpoint."""
    source, name = once(source, name)
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        return read_foreign(source, name)
    return sized(source, name)[1]


def evaluate(
    source: Input,
    data: DataOptions | None = None,
    *,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    name: str | None = None,
) -> Evaluation:
    """Score a network on the test rows of its data set: one of ours, or another library's.

    source : a dense, meta or packed file, or a checkpoint that another KAN library saved
    model  : a module for another library's state dict, which is loaded into it
    data, options, machine, name : as for `finetune`
    Raises UsageError where the tensors do not determine what the network computes.
    """
    record = _runnable(source, name)
    if model is not None:
        where = called(source, name)
        tensors = _own_tensors(record, options, where)
        rows = datasets.load_for_model(None, data)
        devices.move(model, machine)
        return evaluate_module(model, tensors, rows, where)
    ready = running.run(record, options)
    devices.put(ready.network, devices.find((machine or Machine()).device))
    data = replace(data or DataOptions(), images=ready.conv)
    return evaluate_running(ready, datasets.load_for_model(ready.data, data))


def expand(
    source: Input, *, name: str | None = None, any_size: bool = False
) -> Checkpoint | Restored:
    """The dense checkpoint of a packed native network, or another library's state dict again.

    any_size : expand a file that stands for more than 10,000 times its bytes and a gigabyte
    """
    model = packed_record(source, name, any_size=any_size)
    return _expand(model) if model.restore is None else restore(model)


def packed_record(source: Input, name: str | None = None, *, any_size: bool = False) -> PackedModel:
    """The packed model in `source`. Raises UsageError for other kinds."""
    record = sized(source, name, any_size=any_size)[1]
    if isinstance(record, Checkpoint):
        raise UsageError(
            f"{called(source, name)} is a {record.kind} checkpoint; a packed one was expected."
            " Pack it with: kancompress cluster FILE -o PACKED"
        )
    return record


def _check_own_model(record: Runnable, options: RunOptions | None, where: str) -> None:
    """Refuse what does not go with a module of the user's own."""
    if isinstance(record, Checkpoint | PackedModel) and getattr(record, "restore", None) is None:
        raise UsageError(
            f"{where} holds a network of kancompress's own, which runs by itself; leave --model"
            " out."
        )
    if options not in (None, RunOptions()):
        raise UsageError(
            "--model runs the model's own forward; leave out what tells kancompress's (--layout,"
            " --base-activation, --rbf-denominator, --grid-range, --spline-order)."
        )


def _own_tensors(record: Runnable, options: RunOptions | None, where: str) -> Mapping[str, Tensor]:
    """The state dict of another library's checkpoint, for the user's own module."""
    _check_own_model(record, options, where)
    return record.tensors if isinstance(record, ForeignCheckpoint) else record.state_dict()


__all__ = [
    "Compression",
    "cluster",
    "evaluate",
    "expand",
    "finetune",
    "packed_record",
    "train",
]
