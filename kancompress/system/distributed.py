"""One run on several processes, by torch.distributed; in a single process all this is nothing.

The rows of a global batch are those that one process would take, in the same order; each process
takes consecutive ones, and the gradient is that of the mean loss over all of them. Batch
normalisation sees the global batch, too.
"""

from __future__ import annotations

import atexit
import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kancompress.errors import KancompressError
from kancompress.system import torchrun as launch

_joined = False
# How torch's backends word that a process at the other end has gone.
_SEVERED = ("connection", "peer", "nccl", "gloo", "socket", "timed out")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Share training, fine-tuning and clustering with the other processes of torchrun.

    Raises KancompressError where another process does not come or goes away.
    """
    global _joined
    if launch.processes() == 1 or _joined:
        yield
        return
    import torch.distributed as dist

    with _watched():
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(_leave)
        _joined = True
        try:
            yield
            dist.barrier()
        finally:
            _joined = False


def _leave() -> None:
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError, AssertionError):
        dist.destroy_process_group()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error).lower() for word in _SEVERED):
            raise KancompressError(
                "Another process of this run has ended or does not answer, so this one ends, too."
            ) from error
        raise


def count() -> int:
    """Number of processes that share the work; 1 outside of `joined`."""
    return launch.processes() if _joined else 1


def number() -> int:
    """Number of this process among them."""
    return launch.number() if _joined else 0


# --- training ------------------------------------------------------------------------------


def part(rows: Tensor) -> tuple[Tensor, float]:
    """This process's rows of a global batch (n,), and their share of its mean.

    Where there are fewer rows than processes, each takes all of them for an equal share.
    """
    if count() == 1:
        return rows, 1.0
    if len(rows) < count():
        return rows, 1 / count()
    own = torch.tensor_split(rows, count())[number()]
    return own, len(own) / len(rows)


def parallel(network: nn.Module, twin: nn.Module, sample: Tensor) -> nn.Module:
    """`twin` as a module whose backward pass gives the mean of all processes' gradients.

    twin   : the network, or a compiled module that shares its parameters
    sample : rows to see which parameters the outputs depend on
    """
    if count() == 1:
        return twin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of broadcast_buffers, from torch 2.14 on
        return nn.parallel.DistributedDataParallel(
            twin,
            device_ids=[sample.device] if sample.device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=_has_unused(network.eval(), sample),
        )


def _has_unused(network: nn.Module, sample: Tensor) -> bool:
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(network(sample).sum(), learning, allow_unused=True)
    return any(slope is None for slope in slopes)


def weighted(loss: Tensor, share: float) -> Tensor:
    """What to differentiate for a loss that is `share` of the global mean: `parallel` takes a mean
    of the gradients."""
    return loss if count() == 1 else loss * (share * count())


def forward_pass() -> contextlib.AbstractContextManager[object]:
    """Within it, batch normalisation in training takes the statistics of the global batch."""
    return contextlib.nullcontext() if count() == 1 else _GlobalStatistics()


class _GlobalStatistics(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` with the statistics of all processes' rows."""
    if not training:
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    x = input.float()
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
    rows = _Summed.apply(x.new_tensor([x.numel() / x.shape[1]]))
    mean = _Summed.apply(x.sum(axes)) / rows
    centred = x - mean.view(shape)
    variance = _Summed.apply(centred.square().sum(axes)) / rows
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (rows / (rows - 1).clamp_min(1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    result = centred * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        result = result * weight.view(shape)
    if bias is not None:
        result = result + bias.view(shape)
    normalised: Tensor = result.to(input.dtype)
    return normalised


class _Summed(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return summed(value.detach().clone())

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return summed(grads[0].clone())


def own(tasks: int) -> range:
    """Numbers of the tasks, of those from 0 on, that this process does."""
    return range(number(), tasks, count())


def gathered(done: Mapping[int, Tensor], rows: Sequence[int]) -> Tensor:
    """Matrices that all processes' tasks gave, below each other in the tasks' order, everywhere.

    done : number of a task to its matrix, for the tasks of this process (`own`)
    rows : of each task's matrix
    """
    if count() == 1:
        return torch.cat([done[task] for task in range(len(rows))])
    kind = done[0] if number() == 0 else torch.empty(0, 0)
    width, wide = from_first([kind.shape[1], float(kind.dtype == torch.float64)])
    whole = torch.zeros(sum(rows), int(width), dtype=torch.float64 if wide else torch.float32)
    for task, block in enumerate(torch.split(whole, list(rows))):
        if task in done:
            block.copy_(done[task])
    return summed(whole)


def owners(sizes: Sequence[int]) -> list[int]:
    """Which process does each task, so that all have about as much to do; the same everywhere."""
    loads = [0] * count()
    chosen = [0] * len(sizes)
    for task in sorted(range(len(sizes)), key=lambda task: (-sizes[task], task)):
        chosen[task] = loads.index(min(loads))
        loads[chosen[task]] += sizes[task]
    return chosen


def from_owner(value: Tensor, owner: int) -> Tensor:
    """The tensor that process `owner` has, in place; the others' has its shape and type."""
    if count() > 1:
        import torch.distributed as dist

        own = value.contiguous()
        dist.broadcast(own, owner)
        if own is not value:
            value.copy_(own)
    return value


# --- what all processes know ---------------------------------------------------------------


def summed(value: Tensor) -> Tensor:
    """The sum of the processes' tensors, in place."""
    if count() > 1:
        import torch.distributed as dist

        dist.all_reduce(value)
    return value


def from_first(numbers: Sequence[float]) -> list[float]:
    """The first process's numbers, as many as each has."""
    value = torch.tensor(numbers, dtype=torch.float64)
    if count() > 1:
        import torch.distributed as dist

        dist.broadcast(value, 0)
    return [float(number) for number in value]


def bytes_from_first(data: bytes | memoryview | None) -> memoryview:
    """The first process's bytes; the others' are not looked at."""
    if count() == 1:
        assert data is not None
        return memoryview(data)
    import torch.distributed as dist

    own = b"" if data is None or number() else data
    size = int(from_first([len(own)])[0])
    value = torch.empty(size, dtype=torch.uint8)
    if number() == 0:
        value = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    dist.broadcast(value, 0)
    return value.numpy().data
