"""Numbers as they are: the tensor in the file has their type and shape."""

from __future__ import annotations

from kancompress.formats.arrays import Array, Outline
from kancompress.formats.packed.encodings.protocol import Size


class Plain:
    """Numbers as they are."""

    name = "plain"

    def size(self, claim: Outline) -> Size:
        """Bytes of the numbers, exactly."""
        return Size(claim.nbytes)

    def encode(self, array: Array) -> Array:
        """The numbers themselves."""
        return array

    def decode(self, array: Array) -> Array:
        """The numbers themselves."""
        return array
