"""A runnable network from any record: of ours, or of another library where its forward is known."""

from __future__ import annotations

from dataclasses import dataclass, fields

from kancompress.config import RunOptions
from kancompress.errors import UsageError
from kancompress.formats.checkpoint import HEAD, width_of
from kancompress.layers.forms import FormNetwork
from kancompress.layers.network import Network
from kancompress.models.foreign import dense_network, packed_network
from kancompress.models.native import build
from kancompress.models.records import Checkpoint, ForeignCheckpoint, PackedModel
from kancompress.specs import DataSpec

Runnable = Checkpoint | PackedModel | ForeignCheckpoint


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Running:
    """A network, its widths, the data it was trained for if the file says, and assumptions.

    conv : whether it takes images (channels, rows, columns); `inputs` are then channels
    """

    network: Network
    inputs: int
    outputs: int
    data: DataSpec | None = None
    notes: tuple[str, ...] = ()
    conv: bool = False


def run(record: Runnable, options: RunOptions | None = None) -> Running:
    """Build the network that `record` holds.

    options : what the tensors of another library's file do not tell
    Raises UsageError where the forward is not known, or an option means nothing for the file.
    """
    if isinstance(record, ForeignCheckpoint):
        return _foreign(dense_network(record, options))
    if isinstance(record, PackedModel) and record.restore is not None:
        return _foreign(packed_network(record, options))
    _refuse(options or RunOptions())
    if isinstance(record, PackedModel):
        shapes = tuple(layer.shape for layer in record.layers)
    else:
        shapes = record.shapes
    beside = {name: tuple(record.tensors[name].shape) for name in HEAD if name in record.tensors}
    return Running(
        network=build(record),
        inputs=shapes[0][1],
        outputs=width_of(shapes, beside),
        data=record.data,
        conv=record.conv is not None,
    )


def _foreign(network: FormNetwork) -> Running:
    inputs, outputs = network.widths
    return Running(network=network, inputs=inputs, outputs=outputs, notes=network.notes)


def _refuse(options: RunOptions) -> None:
    """Options that only other libraries' files need."""
    for option in fields(options):
        if getattr(options, option.name) != option.default and getattr(options, option.name):
            name = "layout" if option.name == "layouts" else option.name.replace("_", "-")
            raise UsageError(
                f"--{name} belongs to other libraries' files; this one says itself what it"
                " computes."
            )
