"""Polynomials by their recurrences, as planes (batch, degree + 1, in); sources name the library.

Each function takes z (batch, in) and a degree. ChebyKAN (SynodicMonth) and OrthogPolyKANs
(Boris-73-TA) feed them tanh(x), torchkan's KAL_Net and KAC_Net x scaled to -1 ... 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# P_n from P_{n-1} and P_{n-2}: (n, z, P_{n-1}, P_{n-2}) -> P_n, n >= 2
_Step = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def _recur(z: Tensor, degree: int, first: Tensor, step: _Step) -> Tensor:
    """P_0 = 1, P_1 = `first`, and the rest by `step`."""
    found = [torch.ones_like(z), first]
    for n in range(2, degree + 1):
        found.append(step(n, z, found[-1], found[-2]))
    return torch.stack(found[: degree + 1], dim=1)


def chebyshev(z: Tensor, degree: int) -> Tensor:
    """First kind: T_n = 2 z T_{n-1} - T_{n-2}; equal to cos(n acos(z)) on [-1, 1]."""
    return _recur(z, degree, z, lambda n, z, p, q: 2 * z * p - q)


def chebyshev2(z: Tensor, degree: int) -> Tensor:
    """Second kind: U_1 = 2 z, U_n = 2 z U_{n-1} - U_{n-2}."""
    return _recur(z, degree, 2 * z, lambda n, z, p, q: 2 * z * p - q)


def legendre(z: Tensor, degree: int) -> Tensor:
    """n P_n = (2n - 1) z P_{n-1} - (n - 1) P_{n-2}."""
    return _recur(z, degree, z, lambda n, z, p, q: ((2 * n - 1) * z * p - (n - 1) * q) / n)


def hermite(z: Tensor, degree: int) -> Tensor:
    """The physicists' polynomials: H_n = 2 z H_{n-1} - 2 (n - 1) H_{n-2}."""
    return _recur(z, degree, 2 * z, lambda n, z, p, q: 2 * z * p - 2 * (n - 1) * q)


def bessel(z: Tensor, degree: int) -> Tensor:
    """Bessel polynomials: y_1 = z + 1, y_n = (2n - 1) z y_{n-1} + y_{n-2}."""
    return _recur(z, degree, z + 1, lambda n, z, p, q: (2 * n - 1) * z * p + q)


def jacobi(z: Tensor, degree: int, a: float = 1.0, b: float = 1.0) -> Tensor:
    """Jacobi polynomials P_n^(a, b); torch-conv-kan's default is a = b = 1."""

    def step(n: int, z: Tensor, p: Tensor, q: Tensor) -> Tensor:
        c = 2 * n + a + b
        scale = 2 * n * (n + a + b) * (c - 2)
        slope = (c - 1) * c * (c - 2) / scale
        shift = (c - 1) * (a * a - b * b) / scale
        return (slope * z + shift) * p - 2 * (n + a - 1) * (n + b - 1) * c / scale * q

    return _recur(z, degree, ((a - b) + (a + b + 2) * z) / 2, step)


def gottlieb(z: Tensor, degree: int, alpha: Tensor) -> Tensor:
    """seydi1370/Basis_Functions: g_1 = 2 a z, g_n = 2 (a + n - 1) z g_{n-1} - (a + 2n - 2) g_{n-2}.

    alpha : (1,) learnt
    """
    return _recur(
        z,
        degree,
        2 * alpha * z,
        lambda n, z, p, q: 2 * (alpha + n - 1) * z * p - (alpha + 2 * n - 2) * q,
    )


def bernstein(z: Tensor, degree: int) -> Tensor:
    """torch-conv-kan's Bernstein planes, which are all 1.

    Its scheme starts from planes of ones and replaces each by b_k (1 - z) + b_{k+1} z, which
    leaves ones (kans/layers.py, BernsteinKANLayer).
    """
    return torch.ones_like(z)[:, None].expand(-1, degree + 1, -1)
