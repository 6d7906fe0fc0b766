"""Seeds that are made of several numbers."""

from __future__ import annotations

import numpy as np


def mixed(*numbers: int) -> int:
    """One seed, from 0 to 2^63 - 1, from several numbers; close ones give unlike seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
