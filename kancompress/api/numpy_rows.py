"""Rows through a network with numpy: what `predict` and `evaluate` run where it was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kancompress.config import RunOptions
from kancompress.data.rows import Numbers
from kancompress.errors import UsageError
from kancompress.formats.storage import Source, called, file_of, is_native, once
from kancompress.frozen import dataclass
from kancompress.runtime.network import Network
from kancompress.runtime.program import read
from kancompress.specs import DataSpec

if TYPE_CHECKING:
    from torch import nn

    from kancompress.models.records import Checkpoint, PackedModel
    from kancompress.training.loop import OnBatch


def check_numpy(model: nn.Module | None, state: str | None, drop: Sequence[str] = ()) -> None:
    """Refuse what numpy cannot run. Raises UsageError."""
    if model is not None:
        raise UsageError(
            "`model` is run by torch; leave `runtime` out.", fields=("model", "runtime")
        )
    if drop:
        raise UsageError(
            "`drop` is for other libraries' files, which numpy does not run; leave `runtime` out.",
            fields=("drop", "runtime"),
        )
    if state is not None:
        raise UsageError(
            "`state` is for torch files, which numpy does not run; leave `runtime` out.",
            fields=("state", "runtime"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class NumpyNetwork:
    """A network that numpy runs; as `kancompress.api.predict.RowNetwork`."""

    network: Network

    @classmethod
    def of(
        cls,
        source: Source | Checkpoint | PackedModel,
        name: str | None,
        options: RunOptions | None,
    ) -> NumpyNetwork:
        """The network of a file, of its bytes, or of a record.

        Raises UsageError for a file that kancompress did not write.
        """
        source, name = once(source, name)
        source = file_of(source)
        if not is_native(source):
            raise UsageError(
                f"{called(source, name)} was not written by kancompress, and `runtime=numpy` runs"
                " nothing else. Pack another library's file first with: kancompress cluster FILE"
                " -o PACKED",
                where=called(source, name),
                fields=("runtime",),
            )
        return cls(Network(read(source, name, options=options)))

    @property
    def inputs(self) -> int:
        """Numbers of a row, or channels of an image."""
        return self.network.inputs

    @property
    def outputs(self) -> int:
        """Numbers that it puts out for a row."""
        return self.network.outputs

    @property
    def conv(self) -> bool:
        """Whether it takes images."""
        return self.network.program.is_conv

    @property
    def data(self) -> DataSpec | None:
        """What it was trained on, where its file says."""
        return self.network.data

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for granted that the file does not tell."""
        return self.network.notes

    def run(self, x: Numbers, batch: int, on_batch: OnBatch | None = None) -> Numbers:
        """Outputs (rows, width) of rows."""
        starts = range(0, len(x), batch)
        outputs = []
        for done, start in enumerate(starts, 1):
            outputs.append(self.network.run(x[start : start + batch]))
            if on_batch:
                on_batch(done, len(starts))
        return np.concatenate(outputs)
