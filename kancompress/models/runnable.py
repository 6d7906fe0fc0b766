"""A runnable network from any record: of ours, or of another library where its forward is known."""

from __future__ import annotations

from dataclasses import dataclass, field

from kancompress.config import RunOptions
from kancompress.formats.checkpoint import HEAD, width_of
from kancompress.layers.network import ForeignNetwork, Network
from kancompress.libraries.told import Forms, refuse_options
from kancompress.models.foreign import dense_network, packed_network
from kancompress.models.native import build
from kancompress.models.records import Checkpoint, ForeignCheckpoint, PackedModel
from kancompress.specs import DataSpec

Runnable = Checkpoint | PackedModel | ForeignCheckpoint


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Running:
    """A network, its widths, the data it was trained for if the file says, and assumptions.

    forms : what another library's layers compute beyond their tensors, by their names
    conv : whether it takes images (channels, rows, columns); `inputs` are then channels
    """

    network: Network
    inputs: int
    outputs: int
    data: DataSpec | None = None
    notes: tuple[str, ...] = ()
    forms: Forms = field(default_factory=dict)
    conv: bool = False


def run(record: Runnable, options: RunOptions | None = None, forms: Forms | None = None) -> Running:
    """Build the network that `record` holds.

    options : what the tensors of another library's file do not tell
    forms   : what the packed file of another library's dense checkpoint says of it
    Raises UsageError where the forward is not known, or an option means nothing for the file.
    """
    if isinstance(record, ForeignCheckpoint):
        return _foreign(dense_network(record, options, forms))
    if isinstance(record, PackedModel) and record.restore is not None:
        return _foreign(packed_network(record, options))
    refuse_options(options or RunOptions())
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


def _foreign(network: ForeignNetwork) -> Running:
    inputs, outputs = network.widths
    return Running(
        network=network, inputs=inputs, outputs=outputs, notes=network.notes, forms=network.forms
    )
