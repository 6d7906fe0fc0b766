"""B-splines: a closed form on uniform grids, the Cox-de Boor recursion on any other.

On uniform knots all basis functions are shifts of one cardinal B-spline, which depends on the
distance v from its centre alone (de Boor, A Practical Guide to Splines, ch. IX; v in intervals):

    M_p(v) = 1/p! sum_j (-1)^j C(p+1, j) max(0, (p+1)/2 - v - j)^p,     0 <= v

Only j <= (p+1)/2 contribute, for cubics two terms: (max(0, 2-v)^3 - 4 max(0, 1-v)^3) / 6.
Outside the extended grid every function is zero, as in efficient-kan and pykan.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Numbers of a block of scratch, 2 MB in float32: small enough for the caches, large enough that
# the calls do not count.
_SCRATCH = 1 << 19
# Other devices want few large kernels instead.
_SCRATCH_ON_DEVICE = 1 << 24
_ROOT = 6 ** (-1 / 3)


def knots(grid: tuple[float, float, int], degree: int, dtype: torch.dtype) -> Tensor:
    """The extended uniform knots low + (t - degree) h, t = 0 ... G + 2 degree."""
    low, high, size = grid
    steps = torch.arange(-degree, size + degree + 1, dtype=torch.float64)
    return (low + steps * ((high - low) / size)).to(dtype)


def general_planes(z: Tensor, knots: Tensor, degree: int) -> Tensor:
    """All B-splines on any knots by the Cox-de Boor recursion.

    z : (batch, in); knots : (t,) or (in, t), ascending; returns (batch, t - degree - 1, in). The
    intervals are half-open: the last knot belongs to none.
    """
    grid = knots.expand(z.shape[1], -1).T  # (knot, in)
    x = z[:, None]
    basis = ((x >= grid[:-1]) & (x < grid[1:])).to(z.dtype)
    for p in range(1, degree + 1):
        left = _ratio(x - grid[: -(p + 1)], grid[p:-1] - grid[: -(p + 1)])
        right = _ratio(grid[p + 1 :] - x, grid[p + 1 :] - grid[1:-p])
        basis = left * basis[:, :-1] + right * basis[:, 1:]
    return basis


def _ratio(numerator: Tensor, width: Tensor) -> Tensor:
    """numerator / width, and 0 where knots coincide (de Boor's convention 0/0 = 0)."""
    return torch.where(width == 0, 0.0, numerator / torch.where(width == 0, 1.0, width))


def _terms(degree: int) -> list[float]:
    """Weights of max(0, (p+1)/2 - j - v)^p in M_p, for j = 0 ... (p+1)//2."""
    count = (degree + 1) // 2 + 1 if degree % 2 == 0 else (degree + 1) // 2
    return [
        (-1) ** j * math.comb(degree + 1, j) / math.factorial(degree) for j in range(max(count, 1))
    ]


def uniform_planes(z: Tensor, grid: tuple[float, float, int], degree: int) -> Tensor:
    """The G + degree B-splines on a uniform grid in closed form; differentiable.

    z : (batch, in); grid : (low, high, G); returns (batch, G + degree, in).
    """
    low, high, size = grid
    if degree == 0:  # half-open steps have no distance form
        return general_planes(z, knots(grid, 0, z.dtype).to(z.device), 0)
    scaled = (z - low) * (size / (high - low))
    centres = _centres(size, degree, z)
    reach = (degree + 1) / 2 - (scaled[:, None] - centres).abs()
    return _sum_terms(reach, degree)


def _centres(size: int, degree: int, like: Tensor) -> Tensor:
    first = (1 - degree) / 2
    steps = torch.arange(size + degree, dtype=like.dtype, device=like.device)
    return (steps + first)[:, None]


def _sum_terms(reach: Tensor, degree: int) -> Tensor:
    total = None
    for j, weight in enumerate(_terms(degree)):
        part = functional.relu(reach - j) if j else functional.relu(reach)
        power = weight * _power(part, degree)
        total = power if total is None else total + power
    assert total is not None
    return total


def _power(x: Tensor, degree: int) -> Tensor:
    result = x
    for _ in range(degree - 1):
        result = result * x
    return result


def uniform_features(x: Tensor, z: Tensor, grid: tuple[float, float, int], degree: int) -> Tensor:
    """B-splines of z and silu(x) as one tensor of planes.

    x, z : (batch, in); returns (batch, G + degree + 1, in). Eager mode runs a kernel that fills
    the result in place and recomputes what its gradient needs from the input; under
    torch.compile the closed form is left to the compiler.
    """
    if degree != 3 or torch.compiler.is_compiling() or x.dtype not in _FAST_TYPES:
        planes = uniform_planes(z, grid, degree)
        return torch.cat([planes, functional.silu(x)[:, None]], dim=1)
    features: Tensor = _CubicFeatures.apply(x, z, grid)
    return features


_FAST_TYPES = (torch.float32, torch.float64)


@lru_cache(maxsize=64)
def _scaled_centres(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return ((torch.arange(size + 3, dtype=dtype, device=device) - 1) * _ROOT)[:, None]


@lru_cache(maxsize=64)
def _reach(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(2 * _ROOT, dtype=dtype, device=device)


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


class _CubicFeatures(torch.autograd.Function):
    """`uniform_features` for degree 3, block by block in scratch that stays in cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, grid: tuple[float, float, int]) -> Tensor:
        ctx.save_for_backward(x, z)
        ctx.grid = grid
        rows, width = x.shape
        basis = grid[2] + 3
        out = x.new_empty(rows, basis + 1, width)
        for part, _, near, nearer in _distances(z, grid, 2):
            planes = out[part, :basis]
            torch.pow(near, 3, out=planes)
            planes.sub_(nearer.pow_(3), alpha=4)
        torch.ops.aten.silu.out(x, out=out[:, basis])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = grads
        x, z = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to have one itself
            return *_differentiable_slopes(x, z, ctx.grid, gradient, ctx.needs_input_grad), None
        grad_x = grad_z = None
        if ctx.needs_input_grad[1]:
            # 6 M_3'(v) = -3 (max(0, 2-v)^2 - 4 max(0, 1-v)^2)
            low, high, size = ctx.grid
            grad_z = torch.empty_like(z)
            for part, offset, near, nearer in _distances(z, ctx.grid, 3):
                near.mul_(near).addcmul_(nearer, nearer, value=-4)
                near.mul_(offset.sign_()).mul_(gradient[part, :-1])
                torch.sum(near, 1, out=grad_z[part])
            grad_z.mul_(-3 * _ROOT * size / (high - low))
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.silu_backward(gradient[:, -1], x)
        return grad_x, grad_z, None


def _distances(
    z: Tensor, grid: tuple[float, float, int], buffers: int
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Block by block, z's distances from the centres, in intervals over the cube root of 6, which
    saves the division of their cubes: the rows, the offsets, max(0, 2 - v) and max(0, 1 - v), each
    (rows, basis, in). With two `buffers` the offsets are lost.
    """
    low, high, size = grid
    (rows, width), basis = z.shape, size + 3
    scaled = (z - low).mul_(_ROOT * size / (high - low))
    centres = _scaled_centres(size, z.dtype, z.device)
    reach = _reach(z.dtype, z.device)
    most = _SCRATCH if z.device.type == "cpu" else _SCRATCH_ON_DEVICE
    block = min(rows, max(1, most // max(1, basis * width)))
    shape = (buffers, block, basis, width)
    kept = _scratch(z, math.prod(shape)).view(shape)
    for start in range(0, rows, block):
        part = slice(start, min(rows, start + block))
        a, b, *more = kept[:, : part.stop - start]
        offset = more[0] if more else a
        torch.sub(scaled[part, None], centres, out=offset)
        torch.abs(offset, out=a)
        torch.sub(reach, a, out=a).clamp_min_(0)
        torch.sub(a, _ROOT, out=b).clamp_min_(0)
        yield part, offset, a, b


def _differentiable_slopes(
    x: Tensor,
    z: Tensor,
    grid: tuple[float, float, int],
    gradient: Tensor,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of `uniform_features` by x and z that can be differentiated once more."""
    x, z = x.view_as(x), z.view_as(z)  # two variables, where they are one tensor
    features = torch.cat([uniform_planes(z, grid, 3), functional.silu(x)[:, None]], dim=1)
    wanted = [t for t, need in zip((x, z), needs, strict=False) if need]
    found = iter(torch.autograd.grad(features, wanted, gradient, create_graph=True))
    return next(found) if needs[0] else None, next(found) if needs[1] else None
