"""Packed checkpoints of other libraries, given back tensor by tensor.

docs/packed-format.md, section 8.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kancompress.errors import UsageError
from kancompress.formats.foreign import skeletons
from kancompress.formats.packed import FormRecord
from kancompress.models import lines
from kancompress.models.records import PackedModel
from kancompress.models.tensors import all_to_arrays, pieces


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Restored:
    """Another library's state dict given back: names in the source's order, ties one tensor.

    container : `safetensors`, `torch-zip`, `torch-legacy` or `torch-module`, as the source was
    path      : dictionary keys under which the state dict lay
    metadata  : a safetensors source's own
    skeleton  : the torch file without these tensors, where it was kept
    forms     : what its layers compute that these tensors do not tell, by their names
    config    : text of the config that pykan's `loadckpt` reads beside the state, where a state
                with its config was packed

    >>> import kancompress, torch
    >>> state = {
    ...     "layers.0.spline_weight": torch.randn(20, 30, 8),
    ...     "layers.0.base_weight": torch.randn(20, 30),
    ...     "layers.0.grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(30, 1),
    ... }
    >>> restored = kancompress.expand(kancompress.cluster(state, clusters=8))
    >>> restored.container, list(restored.tensors) == list(state)
    ('torch-zip', True)
    >>> kancompress.save(restored, "restored.pt") > 0
    True
    """

    tensors: dict[str, Tensor]
    container: str
    path: tuple[str, ...]
    metadata: dict[str, str]
    skeleton: bytes | None = None
    forms: Mapping[str, FormRecord] = field(default_factory=dict)
    config: str | None = None

    def __repr__(self) -> str:
        size = sum(tensor.nbytes for tensor in self.tensors.values())
        count = lines.counted(len(self.tensors), "tensor")
        return lines.line("Restored", self.container, count, f"{size:,} bytes of tensors")

    def encode(self, *, torch_file: bool | None = None) -> bytes:
        """The file in the source's own kind of container, or in the one that is asked for.

        A torch file nests the state dict as the source did; a whole pickled module comes back
        as a state dict. Where the rest of the source was kept it comes back, too, in a torch file.
        Raises InvalidFileError when the rest is damaged or belongs to another model.
        """
        return b"".join(self.pieces(torch_file=torch_file))

    def pieces(self, *, torch_file: bool | None = None) -> Sequence[bytes | memoryview]:
        """What `encode` gives, in pieces that follow one another; the tensors of a safetensors file
        are not copied."""
        if torch_file is None:
            torch_file = self.container != "safetensors"
        if not torch_file:
            return pieces(self.tensors, self.metadata)
        if self.skeleton is not None:
            tensors = all_to_arrays(self.tensors)
            return [skeletons.fill(self.skeleton, tensors, self.path, "the packed file")]
        content: Any = dict(self.tensors)
        for key in reversed(self.path if self.container != "torch-module" else ()):
            content = {key: content}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return [buffer.getbuffer()]


def empty_cache() -> bytes:
    """The file of pykan's last batch of inputs where there is none."""
    buffer = io.BytesIO()
    torch.save(None, buffer)
    return buffer.getvalue()


def restore(model: PackedModel) -> Restored:
    """Give a packed checkpoint of another library back (docs/packed-format.md, section 8)."""
    if model.restore is None:
        raise UsageError("This packed file holds a native network, no other library's tensors.")
    restore = model.restore
    return Restored(
        tensors=model.state_dict(),
        container=restore.container,
        path=restore.path,
        metadata=dict(restore.metadata or {}),
        skeleton=None
        if restore.opaque is None
        else model.tensors[restore.opaque].numpy().tobytes(),
        forms=model.forms,
        config=None if restore.pykan is None else restore.pykan.text,
    )
