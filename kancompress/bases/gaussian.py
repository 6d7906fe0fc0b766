"""Gaussian radial basis functions with equidistant centres (FastKAN, arXiv 2405.06721)."""

from __future__ import annotations

import torch
from torch import Tensor


def planes(z: Tensor, grid: tuple[float, float, int]) -> Tensor:
    """exp(-((z - c_b) / s)^2) for the centres c_b of `grid` (low, high, size), s their distance.

    z : (batch, in); returns (batch, size, in).
    """
    low, high, size = grid
    spacing = (high - low) / (size - 1)
    scaled = (z - low).div_(spacing)
    centres = torch.arange(size, dtype=z.dtype, device=z.device)
    return (scaled[:, None] - centres[:, None]).square().neg_().exp_()
