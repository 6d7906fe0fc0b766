"""Gram polynomials with learnt recurrence weights, as torch-conv-kan's GRAMLayer defines them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def recurrence_factor(m: int) -> float:
    """The fixed factor before beta[m - 1] in P_m = z P_{m-1} - beta'_m P_{m-2}, m >= 2."""
    n = m - 1
    return (m + n) * (m - n) * n**2 / (m**2 / (4.0 * n**2 - 1.0))


def polynomials(z: Tensor, degree: int, beta: Tensor) -> Tensor:
    """P_b(z) for b = 0 ... degree.

    z : (batch, in) in [-1, 1]; beta : (degree + 1,); returns (batch, degree + 1, in).
    """
    found = [torch.ones_like(z), z]
    for m in range(2, degree + 1):
        weight = recurrence_factor(m) * beta[m - 1]
        found.append(z * found[-1] - weight * found[-2])
    return torch.stack(found[: degree + 1], dim=1)


def planes(z: Tensor, degree: int, beta: Tensor) -> Tensor:
    """silu(P_b(z)) for b = 0 ... degree, shapes as for `polynomials`."""
    return functional.silu(polynomials(z, degree, beta))
