"""torch.compile where a C++ compiler is there, and a clear word where not."""

from __future__ import annotations

import os
import shutil
import warnings

import torch
from torch import nn

from kancompress.warnings import CompileFallbackWarning


def compiled(network: nn.Module) -> nn.Module | None:
    """A compiled twin that shares the network's parameters, or None with a warning."""
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if not any(name and shutil.which(name) for name in candidates):
        warnings.warn(
            "torch.compile needs a C++ compiler (g++ or clang++) and found none; training goes on"
            " without it. Install one, or leave --compile out.",
            CompileFallbackWarning,
            stacklevel=2,
        )
        return None
    twin = torch.compile(network, dynamic=False)
    assert isinstance(twin, nn.Module)
    return twin
