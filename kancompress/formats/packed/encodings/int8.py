"""Numbers of a byte each, with a float16 scale for every row (docs/packed-format.md, section 4.2).

A row of a codebook is a coefficient of all centroids, so the tensor in the file is the transposed
one; a row of a bias or a normalisation is its last axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats.arrays import Array, Outline, from_numpy
from kancompress.formats.safetensors import Entry, shown

F64 = npt.NDArray[np.float64]

MOST = 127
SCALE_BYTES = 2
# Every finite float16 from 0 on, by its bits, and the largest number that it reaches as a scale.
SCALES: F64 = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
REACHES: F64 = MOST * SCALES


class Int8:
    """A byte for every number, and a scale for every row."""

    name = "int8"
    roles = ("codebook", "bias", "norm")

    def written(self, claim: Outline, role: str) -> Outline:
        """The tensor that is written: a row of bytes for each row."""
        *rows, length = reversed(claim.shape) if role == "codebook" else claim.shape
        return Outline("U8", (*rows, length + SCALE_BYTES))

    def read(self, claim: Outline, role: str) -> Outline:
        """The numbers that a tensor of the file holds, in float32."""
        *rows, length = claim.shape
        shape = (*rows, length - SCALE_BYTES)
        return Outline("F32", shape[::-1] if role == "codebook" else shape)

    def check(self, entry: Entry, role: str, where: str) -> None:
        """As of `TensorEncoding`."""
        if entry.dtype != "U8":
            raise InvalidFileError(
                Flaw.WRONG_DTYPE,
                f"{where}: tensor {shown(entry.name)} has the dtype {entry.dtype}; U8 was expected,"
                f" as its encoding is {self.name}.",
            )
        fits = len(entry.shape) == (1 if role == "bias" else 2) and entry.shape[-1] > SCALE_BYTES
        if not fits or (role == "norm" and entry.shape[0] != 2):
            expected = {"bias": "[2 + out]", "norm": "[2, 2 + features]"}
            raise InvalidFileError(
                Flaw.WRONG_SHAPE,
                f"{where}: tensor {shown(entry.name)} has the shape {shown(list(entry.shape))};"
                f" {expected.get(role, '[coefficients, 2 + clusters]')} was expected, as its"
                f" encoding is {self.name}.",
            )

    def encode(self, array: Array, name: str) -> Array:
        """As of `TensorEncoding`. Raises UsageError for numbers that are not rounded to it."""
        values = array.values().astype(np.float64)
        rows = _transposed(values, name)
        largest = np.abs(rows).max(axis=-1, keepdims=True)
        bits = np.searchsorted(REACHES, largest)
        scales = SCALES[np.minimum(bits, len(SCALES) - 1)]
        whole = np.rint(np.divide(rows, scales, out=np.zeros_like(rows), where=scales > 0))
        if bits.max() >= len(SCALES) or not np.array_equal(whole * scales, rows):
            raise UsageError(
                f"Tensor {shown(name)} has numbers that {self.name} cannot hold exactly: whole"
                f" multiples, up to {MOST}, of a float16 that its row has. Round it first.",
                tensor=name,
            )
        heads = np.ascontiguousarray(bits.astype("<u2")).view(np.uint8)
        return from_numpy(np.concatenate([heads, whole.astype(np.int8).view(np.uint8)], axis=-1))

    def decode(self, array: Array, name: str, where: str) -> Array:
        """As of `TensorEncoding`."""
        rows = array.numpy()
        bits = np.ascontiguousarray(rows[..., :SCALE_BYTES]).view("<u2")
        whole = rows[..., SCALE_BYTES:].view(np.int8)
        wrong = _wrong(bits, whole)
        if wrong:
            flaw, what = wrong
            raise InvalidFileError(flaw, f"{where}: tensor {shown(name)} {what}.")
        values = np.empty(self.read(Outline(array.dtype, array.shape), _role(name)).shape, "f4")
        np.multiply(whole, SCALES[bits].astype("f4"), out=_transposed(values, name))
        return from_numpy(values)


def _role(name: str) -> str:
    return name.rpartition(".")[2]


def _transposed(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Rows of numbers as the file has them, or back; the same memory."""
    return values.T if _role(name) == "codebook" else values


def _wrong(bits: npt.NDArray[np.uint16], whole: npt.NDArray[np.int8]) -> tuple[Flaw, str] | None:
    """What is wrong with scales and whole numbers that are not the one form of some numbers."""
    if bool(((bits & 0x7C00) == 0x7C00).any()):
        return Flaw.NOT_FINITE, "has a scale that is NaN or infinite; a finite one was expected"
    if bool((bits >= 0x8000).any()):
        return Flaw.BAD_VALUE, "has a negative scale; 0 or more was expected"
    least = whole.min(axis=-1, keepdims=True).astype(np.int64)
    if bool((least < -MOST).any()):
        return Flaw.BAD_VALUE, f"has the number -128; -{MOST} to {MOST} were expected"
    largest = np.maximum(whole.max(axis=-1, keepdims=True), -least)
    found = np.searchsorted(REACHES, SCALES[bits] * largest)
    if bool((found != bits).any()) or bool(((bits == 0) & (largest > 0)).any()):
        return Flaw.BAD_VALUE, "has a scale that is not the smallest for the numbers of its row"
    return None
