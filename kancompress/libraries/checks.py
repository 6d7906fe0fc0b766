"""Conditions on the sizes and types of a layer that its tensors' names alone do not promise."""

from __future__ import annotations

from collections.abc import Mapping

from kancompress.formats.arrays import DTYPES, REAL, dtype_name


def real_type(name: str, dtype: object) -> str:
    """Coefficients are computed with, which 8 bits are not made for."""
    known = dtype_name(dtype)
    if known in REAL:
        return ""
    called = f"torch.{DTYPES[known].torch}" if known else dtype
    return f"{name} has the type {called}, not a real one of 16 to 64 bits"


def extended_grid(sizes: Mapping[str, int]) -> str:
    """A B-spline of order k on G intervals: G + 2k + 1 knots, G + k coefficients."""
    knots, coef = sizes["knots"], sizes["coef"]
    order = knots - coef - 1
    intervals = 2 * coef - knots + 1
    if order < 0 or intervals < 1:
        return (
            f"a grid of {knots} knots does not go with {coef} coefficients"
            f" (spline order {order}, {intervals} intervals)"
        )
    return ""


def clamped_grid(sizes: Mapping[str, int]) -> str:
    """FlashKAN of order k on G intervals: G + 2k - 1 knots, G + k - 1 splines and a base weight."""
    knots, coef = sizes["knots"], sizes["coef"]
    order = knots - coef + 1
    intervals = coef - order
    if order < 2 or intervals < 1:
        return (
            f"{knots} knots do not go with {coef} coefficients"
            f" (spline order {order}, {intervals} intervals)"
        )
    return ""


def plain_grid(sizes: Mapping[str, int]) -> str:
    """pykan 0.0: G + 1 knots without the extension, G + k coefficients."""
    knots, coef = sizes["knots"], sizes["coef"]
    if knots < 2 or coef < knots - 1:
        return f"a grid of {knots} knots does not go with {coef} coefficients"
    return ""


def one_output(sizes: Mapping[str, int]) -> str:
    """A little layer of Convolutional-KANs has one output."""
    return "" if sizes["out"] == 1 else f"it has {sizes['out']} outputs where 1 was expected"


def two_halves(sizes: Mapping[str, int]) -> str:
    """A Fourier layer has cosines and sines."""
    return "" if sizes["half"] == 2 else f"the first axis has {sizes['half']} where 2 was expected"


def basis_matrix(sizes: Mapping[str, int]) -> str:
    """MatrixKAN: the matrix has k + 1 rows."""
    order = sizes["knots"] - sizes["coef"] - 1
    if sizes["order_plus_one"] != order + 1:
        return f"basis_matrix has {sizes['order_plus_one']} rows where {order + 1} were expected"
    return extended_grid(sizes)
