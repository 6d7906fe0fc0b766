"""Where a run computes: the device, and the number format of its training passes."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from kancompress import launch
from kancompress.errors import UsageError
from kancompress.recipes import Device, Precision


def find(device: Device) -> torch.device:
    """The device that is meant; `auto` is cuda, else mps, else cpu, whichever there is.

    Of the processes that torchrun starts on a machine each has a CUDA device of its own.
    Raises UsageError for a device that is not there.
    """
    number = launch.local_number()
    if device == Device.AUTO:
        available = [d for d in (Device.CUDA, Device.MPS) if _is_there(d)]
        device = available[0] if available else Device.CPU
    elif not _is_there(device):
        raise UsageError(
            f"--device {device} was asked for, but this torch ({torch.__version__}) finds none;"
            " take --device auto or cpu, or install a torch that fits this machine."
        )
    if device != Device.CUDA:
        return torch.device(device)
    if number >= torch.cuda.device_count():
        raise UsageError(
            f"Process {number} of this machine has no CUDA device of its own; there are"
            f" {torch.cuda.device_count()}. Start as many processes (torchrun --nproc-per-node)."
        )
    return torch.device(device, number)


def _is_there(device: Device) -> bool:
    if device == Device.CUDA:
        return torch.cuda.is_available()
    return device != Device.MPS or (torch.backends.mps.is_available() and launch.processes() == 1)


def use_threads(count: int) -> None:
    """Let this process, and those it starts, compute with so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)  # what `nearest` goes by
    torch.set_num_threads(count)
    threadpool_limits(count)


def of(network: nn.Module) -> torch.device:
    """The device of a network's first tensor; the CPU where it has none."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return torch.device("cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Training passes in `precision` on `device`: matrix products in it, sums in float32."""
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == Precision.BFLOAT16
    )
