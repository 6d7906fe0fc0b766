"""Rows of numbers as a network takes them: their shape checked, and raw ones normalised."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import UsageError
from kancompress.runtime.activations import Numbers
from kancompress.specs import DatasetName, DataSpec

_WHITE = 255
_WHITE_OF_DIGITS = 16


def white_of(data: DataSpec) -> int:
    """The whole number that is white, of raw pixels that are whole numbers."""
    return _WHITE_OF_DIGITS if data.name == DatasetName.DIGITS else _WHITE


def normalised(x: npt.ArrayLike, data: DataSpec | None) -> Numbers:
    """Raw rows as the record of the data set says: (pixel - mean) / std, channel by channel.

    x    : (rows, features) with the channels one after another, or (rows, channels, height, width).
           Real numbers are pixels from 0 to 1; whole numbers are pixels up to 255 (digits: to 16)
    data : of the file; where it has no mean and std, numbers stay as they are
    Returns float32, or float64 where x is. Raises UsageError.
    """
    if data is None:
        raise UsageError(
            "The file does not say on which data its network was trained, so raw rows cannot be"
            " normalised; give rows as the network takes them."
        )
    raw = array_of(x)
    values = _floats(raw)
    if not data.mean:
        return values
    if raw.dtype.kind in "iu":
        values = values / white_of(data)
    channels = len(data.mean)
    if values.ndim < 2 or (
        values.shape[1] % channels if values.ndim == 2 else values.shape[1] != channels
    ):
        raise UsageError(
            f"Raw rows have the shape {list(values.shape)}; rows with {channels} channels were"
            " expected, as the file's mean and std have them."
        )
    planes = values.reshape(len(values), channels, -1)
    mean, std = (np.asarray(one, values.dtype)[:, None] for one in (data.mean, data.std))
    return ((planes - mean) / std).reshape(values.shape)


def array_of(x: Any) -> npt.NDArray[Any]:
    """What numpy makes of rows. Raises UsageError where they are of several lengths."""
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "x is no array of numbers, or its rows have several lengths; numbers (rows, inputs)"
            " were expected.",
            fields=("x",),
        ) from error


def _floats(x: npt.NDArray[Any]) -> Numbers:
    if x.dtype.kind not in "fiub":
        raise UsageError(f"Rows are of the type {x.dtype}; numbers were expected.")
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32)


def checked(x: npt.ArrayLike, inputs: int, dtype: np.dtype[Any], *, images: bool) -> Numbers:
    """Rows in the type of the computation.

    Raises UsageError where they are not (rows, inputs), or (rows, channels, height, width) for
    convolutions, and where a number is not finite.
    """
    values = _floats(array_of(x))
    if images and (values.ndim != 4 or values.shape[1] != inputs):
        raise UsageError(
            f"x has the shape {list(values.shape)}; images (rows, {inputs}, height, width) were"
            " expected."
        )
    if not images and (values.ndim != 2 or values.shape[1] != inputs):
        raise UsageError(
            f"x has the shape {list(values.shape)}; rows of {inputs} numbers, (rows, {inputs}),"
            " were expected."
        )
    with np.errstate(over="ignore"):
        values = values.astype(dtype, copy=False)
    if not np.isfinite(values).all():
        raise UsageError(
            f"x has NaN, infinity or numbers beyond {dtype}; finite numbers were expected. Leave"
            " such rows out.",
            fields=("x",),
        )
    return values
