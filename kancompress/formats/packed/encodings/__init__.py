"""The ways to write indices and numbers, by name (docs/packed-format.md, section 4).

A new one is a module beside these, its line here, and a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.formats.arrays import Outline
from kancompress.formats.packed.encodings.bits import Bits
from kancompress.formats.packed.encodings.int8 import Int8
from kancompress.formats.packed.encodings.plain import Plain
from kancompress.formats.packed.encodings.protocol import (
    IndexEncoding,
    Indices,
    Size,
    TensorEncoding,
    index_type,
)
from kancompress.formats.packed.encodings.rans import Rans

BITS = Bits()
INT8 = Int8()
PLAIN = Plain()
RANS = Rans()

OF_INDICES: Mapping[str, IndexEncoding] = {one.name: one for one in (BITS, RANS)}
OF_NUMBERS: Mapping[str, TensorEncoding] = {one.name: one for one in (PLAIN, INT8)}


# What indices are written in where nothing else is chosen (`LayerRecord.encoding`).
USUAL: IndexEncoding = BITS


def index_bytes(count: int, clusters: int, encoding: str = USUAL.name) -> int:
    """Bytes of so many indices into a codebook, or no less than they will have."""
    return OF_INDICES[encoding].size(Indices("index", count, clusters)).nbytes


def measured(name: str, indices: npt.NDArray[np.integer[Any]], claim: Indices) -> int:
    """Bytes of indices in the encoding of this name, exactly; they are encoded where none less
    tells."""
    size = OF_INDICES[name].size(claim)
    if size.exact:
        return size.nbytes
    array = OF_INDICES[name].encode(indices, claim)
    return 0 if array is None else array.nbytes


def smallest(indices: npt.NDArray[np.integer[Any]], claim: Indices) -> str:
    """Name of the encoding in which indices take least, the usual one of equals."""
    fitting = [one.name for one in (USUAL, RANS) if one.fits(claim)]
    return min(fitting, key=lambda name: measured(name, indices, claim))


def number_bytes(claim: Outline, role: str, encoding: str) -> int:
    """Bytes of numbers in the encoding of this name, exactly."""
    return OF_NUMBERS[encoding].written(claim, role).nbytes


def layer_bytes(
    edges: int, coefficients: int, itemsize: int, clusters: int, *, scale: int = 0, parts: int = 1
) -> int:
    """Bytes of a packed layer: the indices of its edges, and a codebook of its own.

    scale : bytes that each coefficient of the codebook has beside its numbers
    parts : of each edge, with an index each
    """
    codebook = (clusters * itemsize + scale) * (coefficients // parts)
    return index_bytes(edges * parts, clusters) + codebook


def names_for(role: str) -> tuple[str, ...]:
    """Names of the encodings that tensors of a role may have, the usual one first."""
    if role == "index":
        return tuple(OF_INDICES)
    return tuple(one.name for one in OF_NUMBERS.values() if role in one.roles)


__all__ = [
    "BITS",
    "INT8",
    "OF_INDICES",
    "OF_NUMBERS",
    "PLAIN",
    "RANS",
    "USUAL",
    "IndexEncoding",
    "Indices",
    "Size",
    "TensorEncoding",
    "index_bytes",
    "index_type",
    "layer_bytes",
    "measured",
    "names_for",
    "number_bytes",
    "smallest",
]
