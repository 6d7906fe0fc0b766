"""Coefficients of a fully connected layer's edges from their embeddings, block by block in scratch.

    M(z) = W2 relu(W1 z + b1) + b2

Written as two linear maps, the hidden units of all edges are several tensors that are many times
the coefficients. Here they exist for a block of edges at a time, and the backward pass computes
them again. Both passes hold embeddings as columns: matrix products then have edges along their
long side, and the coefficients come out as the layer's product takes them, with nothing to copy.

Biases are columns of the weights: a row of ones stands below the embeddings, and one unit more,
which is always 1, below the hidden ones. So every step over a block is one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kancompress.layers.bases.kernels import FAST_TYPES, scratch

# Numbers of hidden units of a block, 1.6 MB in float32: smaller ones would stay nearer to the core,
# but every block costs a dozen calls.
_BLOCK = 1 << 19
_BLOCK_ON_DEVICE = 1 << 26


def planes(embedding: Tensor, *weights: Tensor) -> Tensor:
    """Coefficients (coefficient, in, out), contiguous, of embeddings (out, in, embedding).

    weights : W1, b1, W2, b2
    """
    if not _is_fast(embedding):
        return formula(embedding, *weights)
    found: Tensor
    if torch.compiler.is_compiling():
        # a compiler for a CPU would take fresh memory for the hidden units of all edges
        on_cpu = embedding.device.type == "cpu"
        found = made(embedding, *weights)[0] if on_cpu else formula(embedding, *weights)
    else:
        found = _Planes.apply(embedding, *weights)
    return found


def _is_fast(embedding: Tensor) -> bool:
    """Whether products in the embedding's own type are wanted, and worth it."""
    if torch.is_autocast_enabled(embedding.device.type):
        return False
    return embedding.dtype in FAST_TYPES


def formula(embedding: Tensor, *weights: Tensor) -> Tensor:
    """`planes` as linear maps, differentiable as often as needed."""
    w1, b1, w2, b2 = weights
    out, inputs, size = embedding.shape
    flat = embedding.transpose(0, 1).reshape(-1, size)
    hidden = relu(functional.linear(flat, w1, b1))  # (in * out, hidden)
    return torch.addmm(b2[:, None], w2, hidden.T).view(-1, inputs, out)


def relu(x: Tensor) -> Tensor:
    """relu(x). torch.compile keeps its mask as bytes for the backward pass, at a multiple of the
    time of everything else here; (x + |x|) / 2 needs none. It is the same but where x + |x|
    overflows, and in its gradient where x is 0."""
    return 0.5 * (x + x.abs()) if torch.compiler.is_compiling() else functional.relu(x)


class _Planes(torch.autograd.Function):
    """`planes`, with nothing of the size of the hidden units kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, *weights: Tensor) -> Tensor:
        planes, columns = _values(embedding, *weights)
        ctx.save_for_backward(columns, embedding, *weights)
        return planes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        columns, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have one itself
            wanted = [t for t, need in zip(inputs, ctx.needs_input_grad, strict=True) if need]
            again = torch.autograd.grad(formula(*inputs), wanted, grads[0], create_graph=True)
            found = iter(again)
            return tuple(next(found) if need else None for need in ctx.needs_input_grad)
        by_columns, *others = _gradients(columns, grads[0], *inputs[1:])
        return by_columns.permute(2, 1, 0), *others


def _values(embedding: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """The planes (coefficient, in, out), and the embeddings as columns."""
    columns = _columns(embedding)
    first, second = _with_biases(*weights)
    planes = columns.new_empty(len(second), columns.shape[1])
    for part, hidden, _ in _blocks(columns, len(first)):
        torch.mm(first, columns[:, part], out=hidden).clamp_min_(0)
        torch.mm(second, hidden, out=planes[:, part])
    out, inputs, _ = embedding.shape
    return planes.view(-1, inputs, out), columns


def _gradients(columns: Tensor, gradient: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Of the embeddings, (embedding, in, out), and of W1, b1, W2, b2, from that of the planes."""
    first, second = _with_biases(*weights)
    size = len(columns) - 1
    _, inputs, out = gradient.shape
    gradient = gradient.reshape(len(gradient), -1)
    by_second, by_first = torch.zeros_like(second), first.new_zeros(first.T.shape)
    by_columns = columns.new_empty(size, columns.shape[1])
    back, slopes = second.T, first[:, :size].T
    for part, hidden, by_hidden in _blocks(columns, len(first)):
        block, given = columns[:, part], gradient[:, part]
        torch.mm(first, block, out=hidden).clamp_min_(0)
        by_second.addmm_(given, hidden.T)
        torch.mm(back, given, out=by_hidden)
        torch.ops.aten.threshold_backward.grad_input(by_hidden, hidden, 0, grad_input=by_hidden)
        by_first.addmm_(block, by_hidden.T)
        torch.mm(slopes, by_hidden, out=by_columns[:, part])
    by_first = by_first[:, :-1]
    return (
        by_columns.view(size, inputs, out),
        by_first[:size].T,
        by_first[size],
        by_second[:, :-1],
        by_second[:, -1],
    )


def _columns(embedding: Tensor) -> Tensor:
    """(out, in, embedding) to (embedding + 1, in * out), the last row of ones."""
    out, inputs, size = embedding.shape
    columns = embedding.new_ones(size + 1, inputs * out)
    columns[:size].view(size, inputs, out).copy_(embedding.permute(2, 1, 0))
    return columns


def _with_biases(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps with their biases as last columns, and the first with the unit that is always 1."""
    hidden, size = w1.shape
    first = w1.new_zeros(hidden + 1, size + 1)
    first[:hidden, :size], first[:hidden, size], first[hidden, size] = w1, b1, 1
    return first, torch.cat([w2, b2[:, None]], dim=1)


def _blocks(columns: Tensor, hidden: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Columns a block at a time, and scratch for two tensors (hidden, columns of the block)."""
    count = columns.shape[1]
    most = _BLOCK if columns.device.type == "cpu" else _BLOCK_ON_DEVICE
    block = -(-count // max(1, -(-count * hidden // most)))  # of equal size, but for the last
    kept = scratch(columns, 2 * hidden * block)
    for start in range(0, count, max(1, block)):
        stop = min(count, start + block)
        one, other = kept[: 2 * hidden * (stop - start)].view(2, hidden, -1)
        yield slice(start, stop), one, other


# --- the same for torch.compile, as operations that it does not look into -------------------------


@torch.library.custom_op("kancompress::meta_planes", mutates_args=())
def made(
    embedding: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> tuple[Tensor, Tensor]:
    """The planes, and the embeddings as columns."""
    return _values(embedding, w1, b1, w2, b2)


@torch.library.custom_op("kancompress::meta_gradients", mutates_args=())
def _made_gradients(
    columns: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_columns, *others = _gradients(columns, gradient, w1, b1, w2, b2)
    # views of one another, which results must not be
    a, b, c, d = (one.clone(memory_format=torch.contiguous_format) for one in others)
    return by_columns, a, b, c, d


@made.register_fake
def _(embedding: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    out, inputs, size = embedding.shape
    planes = embedding.new_empty(len(w2), inputs, out)
    return planes, embedding.new_empty(size + 1, inputs * out)


@_made_gradients.register_fake
def _(
    columns: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    by_columns = columns.new_empty(len(columns) - 1, *gradient.shape[1:])
    a, b, c, d = (one.new_empty(one.shape) for one in (w1, b1, w2, b2))
    return by_columns, a, b, c, d


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[1:])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    by_columns, *others = _made_gradients(*ctx.saved_tensors, gradient)
    return by_columns.permute(2, 1, 0), *others


made.register_autograd(_backward, setup_context=_keep)
