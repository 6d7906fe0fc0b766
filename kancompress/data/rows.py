"""Arrays of rows in files, and rows as a network takes them: numpy alone, no torch."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import Flaw, InvalidFileError, UsageError, shortened
from kancompress.formats import safetensors as containers
from kancompress.runtime.inputs import normalised as by_record
from kancompress.runtime.inputs import white_of
from kancompress.specs import DataSpec
from kancompress.system import inputs
from kancompress.system.inputs import Data

Numbers = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"
_SHOWN = 60  # characters of an array's name that a message shows

# --- files ---------------------------------------------------------------------------------


def read_arrays(data: Data, where: str, *, npy: bool = False) -> dict[str, Numbers]:
    """The arrays of an npz or safetensors file, by name.

    npy   : take a file of one array, too, and call it x
    where : what messages call the file
    Raises InvalidFileError.
    """
    give = "numpy.savez(FILE, x=x)" if npy else "numpy.savez(FILE, x=x, y=y)"
    if not len(data):
        raise InvalidFileError(
            Flaw.EMPTY, f"{where} is empty; write the arrays with {give}.", where=where
        )
    begin = bytes(data[: len(_NPY)])
    if begin.startswith(_ZIP):
        return _read_npz(data[:], where)
    if npy and begin == _NPY:
        return {"x": _read_npy(data[:], where)}
    try:
        arrays = containers.parse(data, where).arrays()
    except InvalidFileError as error:
        if error.flaw not in (Flaw.NOT_SAFETENSORS, Flaw.TOO_SHORT):
            raise
        known = "none of npz, npy and safetensors" if npy else "neither safetensors nor npz"
        raise bad(where, f"is {known}; write the arrays with {give} and name the .npz") from None
    return {
        name: np.require(array.values(), requirements=["A", "W"]) for name, array in arrays.items()
    }


def _read_npz(data: memoryview, where: str) -> dict[str, Numbers]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
        if any(name.endswith("/data.pkl") for name in names):
            raise bad(where, "is a torch.save file; safetensors or npz was expected")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = dict(arrays.items())
    except InvalidFileError:
        raise
    except Exception as error:  # zlib, zipfile and numpy each have their own
        raise _unreadable(where, "npz", error) from None
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise bad(where, f"holds {name!r}, which is no array")
    return found


def _read_npy(data: memoryview, where: str) -> Numbers:
    try:
        array: Numbers = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy has several
        raise _unreadable(where, "npy", error) from None
    return array


def _unreadable(where: str, kind: str, error: Exception) -> InvalidFileError:
    text = " ".join(str(error).split()) or type(error).__name__
    return bad(where, f"is not a readable {kind} file ({text})")


def read_x(source: str | os.PathLike[str] | bytes, name: str | None = None) -> tuple[Numbers, str]:
    """The array x of a file (npz, safetensors, or npy with one array), and what messages call it.

    source : a path, or the bytes of the file; name : what messages call it
    Raises InvalidFileError for what is no such file, or has no x of numbers (rows, ...).
    """
    _, where, data = inputs.opened(source, name, "The file of rows")
    arrays = read_arrays(data, where, npy=True)
    if "x" not in arrays:
        raise lacking(where, "x", arrays, "rows x (rows, features) were expected")
    return arrays["x"], where


def bad(where: str, message: str) -> InvalidFileError:
    """The error of arrays that do not fit."""
    return InvalidFileError(Flaw.BAD_ARRAYS, f"{where} {message}.", where=where)


def lacking(
    where: str, name: str, arrays: Mapping[str, Numbers], expected: str
) -> InvalidFileError:
    """The error of a file that lacks an array: which it has, and what was expected."""
    have = [shortened(repr(other), _SHOWN) for other in sorted(arrays)]
    among = f" among {inputs.listed(have)}" if have else ", and no other"
    way = f" (rename one with numpy.savez(NEW, {name}=...))" if have else ""
    return bad(where, f"has no array {name!r}{among}; {expected}{way}")


# --- rows ----------------------------------------------------------------------------------


def check_numbers(x: Numbers, where: str) -> None:
    """Refuse what is no rows of numbers."""
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "fiub":
        what = f"has x of shape {list(x.shape)} and type {x.dtype}"
        raise bad(where, f"{what}; numbers (rows, features) were expected")


def as_floats(x: Numbers, where: str, name: str = "x") -> Floats:
    """Numbers as float32. Raises InvalidFileError where any is not finite."""
    with np.errstate(over="ignore"):
        floats = x.astype(np.float32)
    if not np.isfinite(floats).all():
        raise bad(
            where,
            f"has NaN, infinity or numbers beyond float32 in {name}; finite numbers were expected."
            " Leave such rows out",
        )
    return floats


def shaped(x: Numbers, width: int, where: str, *, images: bool) -> Numbers:
    """Rows (rows, width), or of a network of convolutions (rows, width, height, width).

    width : inputs of the network, or channels
    Raises UsageError where the rows are others.
    """
    if images:
        if x.ndim != 4:
            raise UsageError(
                "Convolutions take images, an x of shape (rows, channels, height, width);"
                f" {where} has {list(x.shape)}.",
                where=where,
            )
        if x.shape[1] != width:
            raise UsageError(
                f"The network takes images of {width} channels, but {where} has rows of the shape"
                f" {list(x.shape[1:])}.",
                where=where,
            )
        return x
    found = math.prod(x.shape[1:])
    if found != width:
        raise UsageError(
            f"The network takes {width} inputs, but {where} has {found} numbers a row.",
            where=where,
            hint="" if x.ndim == 2 else "Bring the images to the size that it was trained on.",
        )
    return x.reshape(len(x), width)


def normalised(x: Numbers, data: DataSpec | None, where: str) -> Floats:
    """Rows as a data set has them, as a network takes them: (x - mean) / std of each channel.

    x     : (rows, channels * pixels) or (rows, channels, height, width), a channel's pixels one
            after another: real numbers from 0 to 1, or whole numbers up to 255, those of digits up
            to 16. Of data without mean and std the rows are taken as they are
    data  : what the network was trained on
    where : what messages call x
    Raises UsageError where the data or its channels are not known, InvalidFileError for pixels
    beyond 0 and 1.
    """
    if data is None:
        raise UsageError(
            "`raw` normalises rows as the network's data were, and its file names none; leave it"
            " out, and give the rows as the network takes them.",
            fields=("raw",),
        )
    values = as_floats(x, where)
    if not data.mean:
        return values
    whole = x.dtype.kind in "iu"
    white = white_of(data) if whole else 1
    if x.min() < 0 or x.max() > white:
        raise bad(
            where,
            f"has numbers from {x.min():g} to {x.max():g} in x; raw pixels are real numbers from 0"
            f" to 1, or whole numbers up to {white_of(data)}",
        )
    if len(data.std) != len(data.mean) or not all(data.std):
        raise UsageError(
            "`raw` cannot normalise by the mean and deviation in the file: a deviation for each"
            " mean was expected, and none of 0.",
            fields=("raw",),
        )
    return by_record(x if whole else values, data).astype(np.float32, copy=False)
