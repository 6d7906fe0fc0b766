"""What an encoding does: one way to write indices or numbers as a tensor of a packed file."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kancompress.formats.arrays import Array, Outline
from kancompress.formats.safetensors import Entry
from kancompress.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a tensor before it exists; `exact`, or no more than these."""

    nbytes: int
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Indices:
    """What the header says of the indices in a tensor: how many, and below which number.

    shape   : of the layer, (out, in) or (out, in, rows, columns), and the parts of an edge behind
              it where there are several; () where all edges have one input
    groups  : of the layer
    kept_at : positions in the shape without an index, strictly ascending, once they are read
    """

    name: str
    count: int
    clusters: int
    shape: tuple[int, ...] = ()
    groups: int = 1
    kept_at: npt.NDArray[np.integer[Any]] | None = field(default=None, compare=False)

    def cut(self, parts: int) -> Indices:
        """The indices of the same edges, each in so many parts."""
        if parts == 1:
            return self
        kept_at = self.kept_at
        if kept_at is not None:
            kept_at = (kept_at[:, None] * parts + np.arange(parts)).reshape(-1)
        shape = (*self.shape, parts) if self.shape else ()
        return replace(self, count=self.count * parts, shape=shape, kept_at=kept_at)


class IndexEncoding(Protocol):
    """One way to write indices."""

    @property
    def name(self) -> str:
        """As the document calls it."""

    def fits(self, claim: Indices) -> bool:
        """Whether such indices can be written so."""

    def size(self, claim: Indices) -> Size:
        """Bytes of the indices, where they fit."""

    def check(self, entry: Entry | None, claim: Indices, where: str) -> None:
        """Refuse what cannot be right, before anything is allocated. Raises InvalidFileError."""

    def encode(self, indices: npt.NDArray[np.integer[Any]], claim: Indices) -> Array | None:
        """The bytes (U8) of indices (count,); None where one centroid leaves nothing to say."""

    def decode(
        self, array: Array | None, claim: Indices, where: str
    ) -> npt.NDArray[np.integer[Any]] | None:
        """Indices (count,) of `index_type`; None where the tensor is not needed.

        array : what `check` has let pass
        Raises InvalidFileError for bytes that are not the one form of some indices.
        """


class TensorEncoding(Protocol):
    """One way to write numbers."""

    @property
    def name(self) -> str:
        """As the document calls it."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the tensors that may be written so."""

    def written(self, claim: Outline, role: str) -> Outline:
        """Type and shape of the tensor in the file, of numbers with a type and shape."""

    def read(self, claim: Outline, role: str) -> Outline:
        """Type and shape of the numbers, of a tensor in the file that `check` has let pass."""

    def check(self, entry: Entry, role: str, where: str) -> None:
        """Refuse what cannot be right, before anything is allocated. Raises InvalidFileError."""

    def encode(self, array: Array, name: str) -> Array:
        """The tensor that is written under a name, `<layer>.<role>`."""

    def decode(self, array: Array, name: str, where: str) -> Array:
        """The numbers of a tensor.

        Raises InvalidFileError for bytes that are not the one form of some numbers.
        """


def index_type(clusters: int) -> np.dtype[np.integer[Any]]:
    """The type of indices in memory."""
    return np.dtype(np.uint8 if clusters <= 256 else np.uint16)
