"""Where a run computes: the device, and the number format of its training passes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from kancompress.config import Device, Machine, Precision
from kancompress.errors import UsageError
from kancompress.system import torchrun as launch
from kancompress.values import chosen


def find(device: Device, *, auto: Sequence[Device] = (Device.CUDA, Device.MPS)) -> torch.device:
    """The device that is meant; with `auto` the first of these that is there, else the CPU.

    Of the processes that torchrun starts on a machine each has a CUDA device of its own.
    Raises UsageError for a device that is not there, and for what is none.
    """
    device = chosen("device", device, Device)
    number = launch.local_number()
    if device == Device.AUTO:
        available = [d for d in auto if _is_there(d)]
        device = available[0] if available else Device.CPU
    elif not _is_there(device):
        raise UsageError(
            f"`device={device}` was asked for, but this torch ({torch.__version__}) finds none;"
            " take `device=auto` or cpu, or install a torch that fits this machine.",
            fields=("device",),
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


def put(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device. Raises UsageError where it is float64 and the device has none."""
    tensors = (*network.parameters(), *network.buffers())
    if not has_float64(device) and any(tensor.dtype == torch.float64 for tensor in tensors):
        raise UsageError(
            f"The network computes in float64, which `device={device.type}` does not have; take"
            " `device=cpu`.",
            fields=("device",),
        )
    network.to(device)


def move(model: nn.Module, machine: Machine | None) -> None:
    """Move a module of the user's own, but only where a device was asked for."""
    if machine is not None and machine.device != Device.AUTO:
        put(model, find(machine.device))


# --- float64 where there is none, and the same bits every time -------------------------------


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64; Apple's does not."""
    return device.type != "mps"


def wide(values: Tensor) -> Tensor:
    """The numbers in float64, where they are, or on the CPU where their device has no float64."""
    return (values if has_float64(values.device) else values.cpu()).double()


def wide_sum(values: Tensor, dim: int | None = None) -> Tensor:
    """Sum in float64, over one axis or all, where `wide` would have it."""
    home = values if has_float64(values.device) else values.cpu()
    return home.sum(dim, dtype=torch.float64)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within it equal work on a CUDA device gives equal bits, at the full precision of float32.

    On CPUs it does so anyway, with as many threads.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    # cuBLAS, of which it warns only, differs where several streams run; there is one here.
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with (
            warnings.catch_warnings(),
            torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
        ):
            warnings.filterwarnings("ignore", message=".*deterministic.*", category=UserWarning)
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Training passes in `precision` on `device`: matrix products in it, sums in float32."""
    return torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=precision == Precision.BFLOAT16
    )
