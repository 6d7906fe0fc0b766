"""B-splines: a closed form on uniform grids, the Cox-de Boor recursion on any other.

On uniform knots all basis functions are shifts of one cardinal B-spline, which depends on the
distance v from its centre alone (de Boor, A Practical Guide to Splines, ch. IX; v in intervals):

    M_p(v) = 1/p! sum_j (-1)^j C(p+1, j) max(0, (p+1)/2 - v - j)^p,     0 <= v

Only j <= (p+1)/2 contribute, for cubics two terms: (max(0, 2-v)^3 - 4 max(0, 1-v)^3) / 6.
Outside the extended grid every function is zero, as in efficient-kan and pykan.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from kancompress.frozen import dataclass
from kancompress.layers.bases.kernels import features

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

    x, z : (batch, in); returns (batch, G + degree + 1, in).
    """
    if degree == 3:
        return features(_Cubic(grid), x, z)
    return torch.cat([uniform_planes(z, grid, degree), functional.silu(x)[:, None]], dim=1)


@dataclass(frozen=True, slots=True)
class _Cubic:
    """Cubics on a uniform grid as a kernel, in intervals over the cube root of 6, which saves the
    division of the cubes."""

    grid: tuple[float, float, int]
    buffers, reads_planes = (1, 3), False

    @property
    def size(self) -> int:
        return self.grid[2] + 3

    def formula(self, z: Tensor) -> Tensor:
        return uniform_planes(z, self.grid, 3)

    def scaled(self, z: Tensor) -> Tensor:
        return (z - self.grid[0]).mul_(self._scale)

    def fill(self, scaled: Tensor, planes: Tensor, *scratch: Tensor) -> None:
        (nearer,) = scratch
        self._reaches(scaled, planes, planes, nearer)
        planes.pow_(3).sub_(nearer.pow_(3), alpha=4)

    def slopes(
        self, scaled: Tensor, planes: Tensor | None, gradient: Tensor, out: Tensor, *scratch: Tensor
    ) -> None:
        # 6 M_3'(v) = -3 (max(0, 2-v)^2 - 4 max(0, 1-v)^2)
        offset, near, nearer = scratch
        self._reaches(scaled, offset, near, nearer)
        near.mul_(near).addcmul_(nearer, nearer, value=-4)
        near.mul_(offset.sign_()).mul_(gradient)
        torch.sum(near, 1, out=out).mul_(-3 * self._scale)

    @property
    def _scale(self) -> float:
        low, high, size = self.grid
        return _ROOT * size / (high - low)

    def _reaches(self, scaled: Tensor, offset: Tensor, near: Tensor, nearer: Tensor) -> None:
        """Write the offsets from the centres, max(0, 2 - v) and max(0, 1 - v); `offset` and `near`
        may be one tensor."""
        kind = scaled.dtype, scaled.device
        torch.sub(scaled, _scaled_centres(self.grid[2], *kind), out=offset)
        torch.abs(offset, out=near)
        torch.sub(_reach(*kind), near, out=near).clamp_min_(0)
        torch.ops.aten.softshrink.out(near, _ROOT, out=nearer)  # max(0, near - _ROOT)


@lru_cache(maxsize=64)
def _scaled_centres(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return ((torch.arange(size + 3, dtype=dtype, device=device) - 1) * _ROOT)[:, None]


@lru_cache(maxsize=64)
def _reach(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(2 * _ROOT, dtype=dtype, device=device)
