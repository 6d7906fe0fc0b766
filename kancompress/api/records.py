"""The records that several commands ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from torch import Tensor

from kancompress.config import RUN_FIELDS, RunOptions
from kancompress.errors import UsageError
from kancompress.formats.foreign import refuse_drop, refuse_state
from kancompress.formats.storage import called, is_native, once
from kancompress.models.files import Input, read_foreign, sized
from kancompress.models.records import Checkpoint, ForeignCheckpoint, PackedModel
from kancompress.models.runnable import Runnable


def packed_record(source: Input, name: str | None = None, *, any_size: bool = False) -> PackedModel:
    """The packed model in `source`. Raises UsageError for other kinds."""
    record = sized(source, name, any_size=any_size)[1]
    if isinstance(record, Checkpoint):
        raise UsageError(
            f"{called(source, name)} is a {record.kind} checkpoint; a packed one was expected."
            " Pack it with: kancompress cluster FILE -o PACKED",
            where=called(source, name),
        )
    return record


def runnable_record(
    source: Input, name: str | None, state: str | None = None, drop: Sequence[str] = ()
) -> Runnable:
    """A record of ours, or another library's checkpoint, of which `state` is meant, without the
    tensors that patterns of `drop` fit."""
    source, name = once(source, name)
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        return read_foreign(source, name, state=state, drop=drop)
    refuse_state(state, called(source, name))
    refuse_drop(drop, called(source, name))
    return sized(source, name)[1]


def check_own_model(record: Runnable, options: RunOptions | None, where: str) -> None:
    """Refuse what does not go with a module of the user's own."""
    if isinstance(record, Checkpoint | PackedModel) and getattr(record, "restore", None) is None:
        raise UsageError(
            f"{where} holds a network of kancompress's own, which runs by itself; leave `model`"
            " out.",
            where=where,
            fields=("model",),
        )
    if options is not None and (options.layouts or options.given or options.layers):
        raise UsageError(
            "`model` runs the model's own forward; leave out what tells kancompress's (`layouts`,"
            " `base_activation`, `rbf_denominator`, `grid_range`, `spline_order`).",
            where=where,
            fields=("model", *RUN_FIELDS),
        )


def own_tensors(record: Runnable, options: RunOptions | None, where: str) -> Mapping[str, Tensor]:
    """The state dict of another library's checkpoint, for the user's own module."""
    check_own_model(record, options, where)
    return record.tensors if isinstance(record, ForeignCheckpoint) else record.state_dict()
