"""torch.compile where a C++ compiler is there, and a clear word where not."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kancompress.warnings import CompileFallbackWarning


def compiled(network: nn.Module) -> nn.Module | None:
    """A compiled twin that shares the network's parameters, or None with a warning."""
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if not any(name and shutil.which(name) for name in candidates):
        _warn(
            "torch.compile needs a C++ compiler (g++ or clang++) and found none; training goes on"
            " without it. Install one, or leave `compile` out."
        )
        return None
    try:
        torch.compile(_probe, dynamic=False)(torch.ones(16))
    except Exception as error:  # of the compiler, the cache, torch: there is no common type
        first = next(iter(str(error).splitlines()), "")
        _warn(
            f"torch.compile does not work here ({type(error).__name__}: {first}); training goes on"
            " without it. Mend the C++ compiler, or leave `compile` out."
        )
        return None
    twin = torch.compile(network, dynamic=False)
    assert isinstance(twin, nn.Module)
    return twin


def _probe(x: Tensor) -> Tensor:
    return torch.sin(x) + 1


def _warn(sentence: str) -> None:
    warnings.warn(sentence, CompileFallbackWarning, stacklevel=3)


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Within it what torch.compile has wrapped runs eagerly, so that hooks on its parts are seen.

    Nothing is wrapped where the compiler was never loaded, which takes seconds.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
