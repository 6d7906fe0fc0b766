"""Files that live modules and state dicts would be saved to, for what tells of files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kancompress.models.user_module import read_module, read_state


def of_module(model: nn.Module) -> bytes:
    """What `torch.save(model.state_dict(), path)` writes. Raises UsageError for tensors that no
    checkpoint can hold."""
    return _saved(read_module(model).tensors)


def of_state(state: Mapping[str, Any]) -> bytes:
    """The same of a state dict; what is no tensor is left out."""
    return _saved(read_state(state, "The state dict").tensors)


def _saved(tensors: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    return buffer.getvalue()
