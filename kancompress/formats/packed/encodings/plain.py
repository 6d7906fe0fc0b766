"""Numbers as they are: the tensor in the file has their type and shape."""

from __future__ import annotations

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.arrays import REAL, Array, Outline
from kancompress.formats.safetensors import Entry, shown


class Plain:
    """Numbers as they are."""

    name = "plain"
    roles = ("codebook", "kept_at", "kept", "coefficients", "bias", "norm", "beta", "slope")

    def written(self, claim: Outline, role: str) -> Outline:
        """The numbers themselves."""
        return claim

    def read(self, claim: Outline, role: str) -> Outline:
        """The numbers themselves."""
        return claim

    def check(self, entry: Entry, role: str, where: str) -> None:
        """As of `TensorEncoding`."""
        if role != "kept_at" and entry.dtype not in REAL:
            raise InvalidFileError(
                Flaw.WRONG_DTYPE,
                f"{where}: tensor {shown(entry.name)} has the dtype {entry.dtype};"
                f" one of {', '.join(REAL)} was expected.",
            )

    def encode(self, array: Array, name: str) -> Array:
        """The numbers themselves."""
        return array

    def decode(self, array: Array, name: str, where: str) -> Array:
        """The numbers themselves."""
        return array
