"""Bumps of other libraries at given centres, as planes (batch, centres, in)."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussians(z: Tensor, centres: Tensor, width: float) -> Tensor:
    """exp(-((z - c) / width)^2), as in fast-kan. z : (batch, in); centres : (K,)."""
    return torch.exp(-((z[:, None] - centres[:, None]) / width).square())


def switches(z: Tensor, centres: Tensor, width: float = 1.0) -> Tensor:
    """1 - tanh((z - c) / width)^2, the reflectional switch of faster-kan."""
    distance = z[:, None] - centres[:, None]
    return 1 - torch.tanh(distance if width == 1 else distance / width).square()


def relu_bumps(z: Tensor, low: Tensor, high: Tensor, factor: float) -> Tensor:
    """(relu(z - low) relu(high - z) factor)^2, as in relu_kan. low, high : (in, K)."""
    x = z[:, None]
    return (torch.relu(x - low.T) * torch.relu(high.T - x) * factor).square()


def waves(z: Tensor, count: int) -> Tensor:
    """cos z ... cos(count z), then the sines: FourierKAN's planes, (batch, 2 count, in)."""
    steps = torch.arange(1, count + 1, dtype=z.dtype, device=z.device)[:, None]
    phase = z[:, None] * steps
    return torch.cat([phase.cos(), phase.sin()], dim=1)
