"""How many elements shapes have, in whole numbers that do not wrap."""

from __future__ import annotations


def element_count(shape: tuple[int, ...]) -> int:
    """Product of a shape in Python integers, which cannot wrap."""
    count = 1
    for length in shape:
        count *= length
    return count


def is_countable(shape: tuple[int, ...]) -> bool:
    """Whether the lengths other than 0 have a product below 2^63, so that strides exist."""
    count = 1
    for length in shape:
        count *= length or 1
        if count >= 1 << 63:
            return False
    return True
