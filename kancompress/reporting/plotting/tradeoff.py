"""What a picture of a sweep shows: packed files by their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tradeoff:
    """Points of a sweep, one for each packed file.

    sizes, errors  : bytes, and relative squared error of the outputs
    scores         : in `unit`; `dense` is that of the dense network, which has `dense_bytes`
    labels         : what points are called
    note           : what the picture says beside its points
    """

    sizes: Sequence[int]
    scores: Sequence[float]
    errors: Sequence[float]
    labels: Sequence[str]
    unit: str
    dense: float
    dense_bytes: int
    note: str = ""
