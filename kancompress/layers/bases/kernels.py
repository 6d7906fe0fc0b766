"""Features written in place, block by block in scratch that stays in cache.

Written as formulas, a basis makes several tensors of the size of its features, and autograd keeps
most of them. Here a forward pass makes the features alone, and the backward pass computes again
what their gradient needs. A `Kernel` says how, for one kind of basis.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

# Numbers of a block of scratch, 4 MB in float32: small enough for the caches, large enough that
# the calls do not count.
_SCRATCH = 1 << 20
# Other devices want few large kernels instead.
_SCRATCH_ON_DEVICE = 1 << 24
_FAST_TYPES = (torch.float32, torch.float64)


class Kernel(Protocol):
    """A basis whose functions are shifts of one function."""

    @property
    def size(self) -> int:
        """Number of basis functions."""
        ...

    @property
    def buffers(self) -> tuple[int, int]:
        """Scratch tensors (rows, size, in) that `fill` takes, and that `slopes` takes."""
        ...

    @property
    def reads_planes(self) -> bool:
        """Whether `slopes` reads the planes, which then live until the backward pass."""
        ...

    def formula(self, z: Tensor) -> Tensor:
        """The planes (rows, size, in) of z (rows, in), differentiable as often as needed."""
        ...

    def scaled(self, z: Tensor) -> Tensor:
        """z (rows, in) in the kernel's own units."""
        ...

    def fill(self, scaled: Tensor, planes: Tensor, *scratch: Tensor) -> None:
        """Write the planes (rows, size, in) of scaled inputs (rows, 1, in)."""
        ...

    def slopes(
        self, scaled: Tensor, planes: Tensor | None, gradient: Tensor, out: Tensor, *scratch: Tensor
    ) -> None:
        """Write the gradient (rows, in) by z, from the planes' own (rows, size, in), and from the
        planes themselves where it reads them."""
        ...


def features(kernel: Kernel, x: Tensor, z: Tensor) -> Tensor:
    """Planes of z and silu(x) as one tensor.

    x, z : (batch, in); returns (batch, size + 1, in). Under torch.compile, and for types other than
    float32 and float64, the formula is taken.
    """
    if torch.compiler.is_compiling() or x.dtype not in _FAST_TYPES or z.dtype != x.dtype:
        return _formula(kernel, x, z)
    found: Tensor = _Features.apply(kernel, x, z)
    return found


def _formula(kernel: Kernel, x: Tensor, z: Tensor) -> Tensor:
    return torch.cat([kernel.formula(z), functional.silu(x)[:, None]], dim=1)


class _Features(torch.autograd.Function):
    """`features` by the kernel's own passes."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, x: Tensor, z: Tensor) -> Tensor:
        rows, width = x.shape
        out = x.new_empty(rows, kernel.size + 1, width)
        scaled = kernel.scaled(z)
        for part, scratch in _blocks(z, kernel.size, kernel.buffers[0]):
            kernel.fill(scaled[part, None], out[part, :-1], *scratch)
        torch.ops.aten.silu.out(x, out=out[:, -1])
        ctx.kernel = kernel
        ctx.save_for_backward(x, z, out if kernel.reads_planes else None)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grads
        x, z, out = ctx.saved_tensors
        kernel: Kernel = ctx.kernel
        needs = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # the gradient is to have one itself
            x, z = x.view_as(x), z.view_as(z)  # two variables, where they are one tensor
            wanted = [t for t, need in zip((x, z), needs, strict=True) if need]
            whole = _formula(kernel, x, z)
            found = iter(torch.autograd.grad(whole, wanted, gradient, create_graph=True))
            return None, *(next(found) if need else None for need in needs)
        grad_x = torch.ops.aten.silu_backward(gradient[:, -1], x) if needs[0] else None
        grad_z = None
        if needs[1]:
            grad_z, scaled = torch.empty_like(z), kernel.scaled(z)
            for part, scratch in _blocks(z, kernel.size, kernel.buffers[1]):
                planes = None if out is None else out[part, :-1]
                kernel.slopes(
                    scaled[part, None], planes, gradient[part, :-1], grad_z[part], *scratch
                )
        return None, grad_x, grad_z


def _blocks(z: Tensor, size: int, buffers: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of z (rows, in), a block at a time, and scratch (buffers, rows, size, in) for them."""
    rows, width = z.shape
    most = _SCRATCH if z.device.type == "cpu" else _SCRATCH_ON_DEVICE
    count = -(-rows * size * width // most)
    block = -(-rows // max(1, count))  # of equal size, but for the last
    kept = _scratch(z, buffers * block * size * width).view(buffers, block, size, width)
    for start in range(0, rows, max(1, block)):
        stop = min(rows, start + block)
        yield slice(start, stop), kept[:, : stop - start]


class _Kept(threading.local):
    """Scratch that a thread keeps from call to call: fresh memory costs more than the sums."""

    buffer: Tensor | None = None


_kept = _Kept()


def _scratch(like: Tensor, count: int) -> Tensor:
    """`count` numbers of undefined value, of the type and on the device of `like`."""
    kept = _kept.buffer
    if (
        kept is None
        or len(kept) < count
        or kept.dtype != like.dtype
        or kept.device != like.device
        or kept.is_inference() != torch.is_inference_mode_enabled()
    ):
        kept = _kept.buffer = torch.empty(count, dtype=like.dtype, device=like.device)
    return kept[:count]
