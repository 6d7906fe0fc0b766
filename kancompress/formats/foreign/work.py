"""How much work a file may ask for."""

from __future__ import annotations

from kancompress.errors import Flaw, InvalidFileError

# What every file may ask for, and for each byte of its pickle: honest ones take a tenth of it.
_FREE, _EACH = 1_000_000, 4


class Work:
    """A budget of work: values that are copied or looked at, and characters of names.

    size : bytes of the pickle that is read, or of the file where it has no length of its own; the
           budget grows with it
    """

    def __init__(self, size: int, where: str) -> None:
        self._left = _FREE + _EACH * size
        self._size = size
        self._where = where

    def spend(self, amount: int) -> None:
        """Take work from the budget. Raises InvalidFileError where it is used up."""
        self._left -= amount
        if self._left < 0:
            raise InvalidFileError(
                Flaw.TOO_COSTLY,
                f"{self._where} asks for more work than a pickle of {self._size:,} bytes can need:"
                " it names the same modules, lists or tensors again and again. Load it where it was"
                " made and save its state dict alone.",
            )
