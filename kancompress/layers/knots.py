"""Knots of B-splines: whether they are equidistant, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]


def uniform(knots: Numbers, degree: int) -> tuple[Numbers, Numbers] | None:
    """Lower end of the grid and distance of the knots for each input, (in,) each in their type.

    None where some input's knots (in, t) are not equidistant up to the rounding of their type.
    """
    wide = knots.astype(np.float64)
    step = (wide[:, -1:] - wide[:, :1]) / (wide.shape[1] - 1)
    even = wide[:, :1] + step * np.arange(wide.shape[1], dtype=np.float64)
    rounding = 4 * float(np.finfo(knots.dtype).eps) * np.abs(wide).max(1, keepdims=True)
    if not (np.abs(wide - even) <= np.maximum(1e-5 * step, rounding)).all() or step.min() <= 0:
        return None
    low = wide[:, 0] + degree * step[:, 0]
    return low.astype(knots.dtype), step[:, 0].astype(knots.dtype)
