"""Rows through a network with torch: what `predict` runs unless numpy was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kancompress.api.records import own_tensors, runnable_record
from kancompress.config import Machine, RunOptions
from kancompress.data.rows import Numbers
from kancompress.errors import UsageError
from kancompress.formats.storage import called
from kancompress.frozen import dataclass
from kancompress.models import runnable as running
from kancompress.models.files import Input
from kancompress.models.runnable import Running
from kancompress.specs import DataSpec
from kancompress.system import devices
from kancompress.training import loop as fitting
from kancompress.training.loop import OnBatch
from kancompress.training.user_module import predict_module


@dataclass(frozen=True, slots=True, eq=False)
class TorchNetwork:
    """A network that torch runs; as `kancompress.api.predict.RowNetwork`."""

    running: Running

    @property
    def inputs(self) -> int:
        """Numbers of a row, or channels of an image."""
        return self.running.inputs

    @property
    def conv(self) -> bool:
        """Whether it takes images."""
        return self.running.conv

    @property
    def data(self) -> DataSpec | None:
        """What it was trained on, where its file says."""
        return self.running.data

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for granted that the file does not tell."""
        return self.running.notes

    def run(self, x: Numbers, batch: int, on_batch: OnBatch | None = None) -> Numbers:
        """Outputs (rows, width) of rows."""
        given = torch.from_numpy(x)
        outputs: Numbers = fitting.predict(self.running.network, given, batch, on_batch).numpy()
        return outputs


def network(
    source: Input,
    name: str | None,
    options: RunOptions | None,
    machine: Machine | None,
    state: str | None,
    drop: Sequence[str] = (),
) -> TorchNetwork:
    """The network of a file, on its device."""
    ready = running.run(runnable_record(source, name, state, drop), options)
    devices.put(ready.network, devices.find((machine or Machine()).device))
    return TorchNetwork(ready)


class OwnNetwork:
    """The user's own module with the tensors of another library's file.

    notes : what is to be told, once it has run
    """

    def __init__(
        self,
        source: Input,
        model: nn.Module,
        name: str | None,
        options: RunOptions | None,
        machine: Machine | None,
        state: str | None,
        drop: Sequence[str] = (),
    ) -> None:
        self._where = called(source, name)
        record = runnable_record(source, name, state, drop)
        self._tensors = own_tensors(record, options, self._where)
        self._model = model
        self._shape: tuple[int, ...] = ()
        self.notes: tuple[str, ...] = ()
        devices.move(model, machine)

    def run(self, x: Numbers, batch: int, on_batch: OnBatch | None = None) -> Numbers:
        """Outputs (rows, width): maps and sequences are made flat."""
        given = torch.from_numpy(x)
        found = predict_module(self._model, self._tensors, given, self._where, batch, on_batch)
        outputs, self._shape, self.notes = found
        flat: Numbers = outputs.numpy()
        return flat

    def check_classes(self) -> None:
        """Refuse classes of outputs that are maps or sequences."""
        if len(self._shape) != 1:
            raise UsageError(
                f"The model gives outputs of shape {list(self._shape)} for a row, of which no class"
                " can be told; leave `classes` out.",
                fields=("classes",),
            )
