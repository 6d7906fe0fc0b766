"""What lies beside the model in another library's checkpoint, kept in the packed file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from kancompress.errors import UsageError
from kancompress.formats.foreign import Skeleton, read_skeleton
from kancompress.formats.safetensors import shown
from kancompress.libraries import Recognition
from kancompress.models.records import ForeignCheckpoint, PackedModel


def find_extra(foreign: ForeignCheckpoint, found: Recognition, unfit: list[str]) -> Skeleton | None:
    """What `keep_extra` keeps; where that cannot be, the reason is added to `unfit`."""
    if any(layer.generator for layer in found.layers):
        unfit.append(
            f"{foreign.where} has generated layers, which come back as other tensors; --keep-extra"
            " cannot put those into the source's structure."
        )
        return None
    try:
        skeleton = read_skeleton(foreign)
    except UsageError as error:
        unfit.append(str(error))
        return None
    if skeleton is None and foreign.dropped:
        unfit.append(
            f"{foreign.where} is an index of shards, of which only the model's tensors can be kept."
            " Leave --keep-extra out."
        )
    return skeleton


def keep_extra(
    model: PackedModel, skeleton: Skeleton | None, gains: Collection[str], where: str
) -> PackedModel:
    """The packed model with the rest of its source (docs/packed-format.md, section 8).

    gains : tensors that were folded, and come back in other numbers as the packed ones may
    Raises UsageError where a packed tensor shares its numbers with another: the source's structure
    could not hold different ones.
    """
    if skeleton is None or model.restore is None:
        return model
    for tensor in model.restore.tensors:
        if tensor.name in skeleton.shared and (tensor.pieces or tensor.name in gains):
            raise UsageError(
                f"{where}: tensor {shown(tensor.name)} is packed and lies over another tensor, or"
                " over itself, in the same storage; --keep-extra cannot give both their own"
                " numbers. Leave it out, or save copies of the tensors."
            )
    target = "extra"
    while target in model.named_tensors():
        target += "'"
    data = torch.frombuffer(bytearray(skeleton.data), dtype=torch.uint8)
    return replace(
        model,
        tensors={**model.tensors, target: data},
        restore=replace(model.restore, opaque=target),
    )
