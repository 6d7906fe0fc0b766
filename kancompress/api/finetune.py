"""`finetune`: the codebooks of a packed file, tuned (stage 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from kancompress.api import given
from kancompress.api.given import Data
from kancompress.api.records import check_own_model, own_tensors, packed_record, runnable_record
from kancompress.config import FinetuneConfig, Machine, RunOptions
from kancompress.data import datasets
from kancompress.data.datasets import Dataset
from kancompress.errors import UsageError
from kancompress.formats.storage import called
from kancompress.models import runnable as running
from kancompress.models.files import Input
from kancompress.models.records import PackedModel
from kancompress.models.runnable import Running
from kancompress.specs import DataOptions
from kancompress.system import devices
from kancompress.training.finetune import Finetuning, tune
from kancompress.training.loop import OnBatch, OnEpoch
from kancompress.training.state_file import StateFile
from kancompress.training.user_module import taught_by, tune_module


def finetune(
    source: Input,
    data: Data | None = None,
    config: FinetuneConfig | None = None,
    *,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    teacher: Input | None = None,
    machine: Machine | None = None,
    state: StateFile | None = None,
    teacher_state: str | None = None,
    teacher_drop: Sequence[str] = (),
    name: str | None = None,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Finetuning:
    """Tune the codebooks of a packed file (stage 3).

    The index of each edge stays, so that the file keeps its size. What is measured and kept is the
    network with its centroids rounded to their stored type; it is never worse on the validation
    rows than before.

    source   : a packed file, its bytes, or its record
    data     : a data set's name, the path of a file with arrays x, y, or DataOptions. It is needed
               when the file names no data set, or one of the user's own
    config   : learning rate, epochs and so on; 5 epochs of the paper's rate when None
    options  : what the tensors of another library's file do not tell
    model    : the module whose state dict was packed, to run another library's file in; it is left
               with the result
    teacher  : the dense checkpoint, whose outputs take the place of labels (distillation), run in
               `model` where that is given; data in a file needs no y then
    machine  : where to compute; cuda, else mps, else the CPU when None. A module of the user's own
               is moved there unless it is `auto`
    state    : where the run keeps its state, and the one it goes on from
    teacher_state, teacher_drop : of the teacher's file, as `state` and `drop` of `evaluate`
    name     : what messages call the source, its path when None
    on_epoch : called with each `Epoch` when it has ended
    on_batch : called after every batch with the number of batches done, and of all in the epoch
    Raises UsageError for a file that is not packed, for data or a teacher that do not fit it and
    where its tensors do not tell what it computes; InvalidFileError for files that cannot be read;
    KancompressError where the loss is not finite or the centroids leave the range of their type.

    >>> import kancompress
    >>> config = kancompress.FinetuneConfig(epochs=1)
    >>> tuned = kancompress.finetune("packed.safetensors", config=config)
    >>> [epoch.number for epoch in tuned.history]  # 0 is the file as it was
    [0, 1]
    >>> kancompress.save(tuned.model, "tuned.safetensors") > 0
    True
    """
    given.check(config, FinetuneConfig, options=options, machine=machine, model=model)
    source, found = given.source(source, "finetune"), given.data(data)
    packed = packed_record(source, name)
    _check_teacher(teacher, teacher_state=teacher_state, teacher_drop=teacher_drop)
    if model is not None:
        check_own_model(packed, options, called(source, name))
        devices.move(model, machine)
        return tune_module(
            model,
            packed,
            _rows(model, found, teacher, teacher_state, teacher_drop),
            config,
            state=state,
            workers=machine.workers if machine else 0,
            on_epoch=on_epoch,
            on_batch=on_batch,
        )
    found = replace(found or DataOptions(), images=packed.conv is not None)
    dense = _teacher(teacher, teacher_state, teacher_drop, packed, options)
    if dense is not None and not datasets.has_labels(found):
        rows = datasets.load_unlabelled(packed.data, found, dense.outputs)
    else:
        rows = datasets.load_for_model(packed.data, found)
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


def _rows(
    model: nn.Module,
    data: DataOptions | None,
    teacher: Input | None,
    state: str | None,
    drop: Sequence[str],
) -> Dataset:
    """What a module of the user's own learns from: the data, or outputs of the dense tensors."""
    if teacher is None:
        return datasets.load_for_model(None, data)
    where = called(teacher, None)
    tensors = own_tensors(runnable_record(teacher, None, state, drop), None, where)
    return taught_by(model, tensors, where, data)


def _check_teacher(teacher: Input | None, **told: object) -> None:
    """Refuse what is told of a teacher where there is none."""
    for name in (name for name, value in told.items() if value and teacher is None):
        raise UsageError(f"`{name}` goes with a teacher.", fields=(name,))


def _teacher(
    source: Input | None,
    state: str | None,
    drop: Sequence[str],
    packed: PackedModel,
    options: RunOptions | None,
) -> Running | None:
    """The network to learn from. Raises UsageError where its widths are others."""
    if source is None:
        return None
    source = given.source(source, "finetune with a teacher")
    own = running.run(packed, options)
    other = running.run(runnable_record(source, None, state, drop), options, packed.forms)
    if (own.inputs, own.outputs) != (other.inputs, other.outputs):
        raise UsageError(
            f"{called(source, None)} has {other.inputs} inputs and {other.outputs} outputs, the"
            f" packed network {own.inputs} and {own.outputs}; give the checkpoint it was packed"
            " from."
        )
    return other
