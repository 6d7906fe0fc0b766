"""The ways to write indices and numbers, by name (docs/packed-format.md, section 4).

A new one is a module beside these, its line here, and a test.
"""

from __future__ import annotations

from collections.abc import Mapping

from kancompress.formats.packed.encodings.bits import Bits
from kancompress.formats.packed.encodings.plain import Plain
from kancompress.formats.packed.encodings.protocol import (
    IndexEncoding,
    Indices,
    Size,
    TensorEncoding,
    index_type,
)

BITS = Bits()
PLAIN = Plain()

OF_INDICES: Mapping[str, IndexEncoding] = {one.name: one for one in (BITS,)}
OF_NUMBERS: Mapping[str, TensorEncoding] = {one.name: one for one in (PLAIN,)}


def names_for(role: str) -> tuple[str, ...]:
    """Names of the encodings that tensors of a role may have, the usual one first."""
    return tuple(OF_INDICES if role == "index" else OF_NUMBERS)


__all__ = [
    "BITS",
    "OF_INDICES",
    "OF_NUMBERS",
    "PLAIN",
    "IndexEncoding",
    "Indices",
    "Size",
    "TensorEncoding",
    "index_type",
    "names_for",
]
