"""What lies beside the model in another library's checkpoint, kept in the packed file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from kancompress.container import shown
from kancompress.errors import UsageError
from kancompress.foreign import Skeleton
from kancompress.packed import PackedModel
from kancompress.packed.restore import pieces_of


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
    for name, _, _, origin in model.restore["tensors"]:
        if name in skeleton.shared and (pieces_of(origin) or name in gains):
            raise UsageError(
                f"{where}: tensor {shown(name)} is packed and lies over another tensor, or over"
                " itself, in the same storage; --keep-extra cannot give both their own numbers."
                " Leave it out, or save copies of the tensors."
            )
    target = "extra"
    while target in model.named_tensors():
        target += "'"
    data = torch.frombuffer(bytearray(skeleton.data), dtype=torch.uint8)
    return replace(
        model,
        tensors={**model.tensors, target: data},
        restore={**model.restore, "opaque": target},
    )
