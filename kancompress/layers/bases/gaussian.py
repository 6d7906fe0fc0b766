"""Gaussian radial basis functions with equidistant centres (FastKAN, arXiv 2405.06721)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kancompress.frozen import dataclass
from kancompress.layers.bases import kernels


def planes(z: Tensor, grid: tuple[float, float, int]) -> Tensor:
    """exp(-((z - c_b) / s)^2) for the centres c_b of `grid` (low, high, size), s their distance.

    z : (batch, in); returns (batch, size, in).
    """
    return _Bumps(grid).formula(z)


def features(x: Tensor, z: Tensor, grid: tuple[float, float, int]) -> Tensor:
    """The planes of z, and silu(x) as the last one. x, z : (batch, in); (batch, size + 1, in)."""
    return kernels.features(_Bumps(grid), x, z)


@dataclass(frozen=True, slots=True)
class _Bumps:
    """The functions as a kernel, in distances between centres."""

    grid: tuple[float, float, int]
    buffers, reads_planes = (0, 1), True

    @property
    def size(self) -> int:
        return self.grid[2]

    def formula(self, z: Tensor) -> Tensor:
        centres = torch.arange(self.size, dtype=z.dtype, device=z.device)
        return (self.scaled(z)[:, None] - centres[:, None]).square().neg_().exp_()

    def scaled(self, z: Tensor) -> Tensor:
        return (z - self.grid[0]).div_(self._spacing)

    def fill(self, scaled: Tensor, planes: Tensor, *scratch: Tensor) -> None:
        torch.sub(scaled, _centres(self.size, scaled.dtype, scaled.device), out=planes)
        planes.square_().neg_().exp_()

    def slopes(
        self, scaled: Tensor, planes: Tensor | None, gradient: Tensor, out: Tensor, *scratch: Tensor
    ) -> None:
        # d exp(-v^2) = -2 v exp(-v^2) dv
        assert planes is not None
        (offset,) = scratch
        torch.sub(scaled, _centres(self.size, scaled.dtype, scaled.device), out=offset)
        offset.mul_(planes).mul_(gradient)
        torch.sum(offset, 1, out=out).mul_(-2 / self._spacing)

    @property
    def _spacing(self) -> float:
        low, high, size = self.grid
        return (high - low) / (size - 1)


@lru_cache(maxsize=64)
def _centres(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.arange(size, dtype=dtype, device=device)[:, None]
