"""Coefficients whose squares would leave float32, times a power of two.

Clusters are the same after it, and centroids come back exactly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Coefficients between these powers of two are left as they are: their squares, and sums of many,
# stay within float32.
_HIGH, _LOW = 40, -40


def moderate(weights: Tensor) -> tuple[Tensor, int]:
    """The weights times 2^-exponent, and the exponent; 0 where they are used as they are."""
    largest = float(weights.detach().abs().max()) if weights.numel() else 0.0
    exponent = math.frexp(largest)[1] if math.isfinite(largest) and largest else 0
    if _LOW <= exponent <= _HIGH:
        return weights, 0
    return times_two_to(weights, -exponent), exponent


def times_two_to(values: Tensor, exponent: int) -> Tensor:
    """values * 2^exponent, also where 2^exponent itself is no number of their type."""
    half = exponent // 2
    return values * 2.0**half * 2.0 ** (exponent - half) if exponent else values


def beyond(weights: Tensor) -> str:
    """What of a layer's coefficients float32 cannot hold, empty where it holds them."""
    largest = float(weights.detach().abs().max()) if weights.numel() else 0.0
    if largest > torch.finfo(torch.float32).max:
        return f"coefficients of up to {largest:.3g}"
    if 0 < largest < torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps:
        return f"coefficients of at most {largest:.3g}"
    return ""
