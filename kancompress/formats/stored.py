"""Tensors of a file, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from kancompress.formats.arrays import Array, Outline

T = TypeVar("T")  # what a tensor is
Shape = TypeVar("Shape")  # what tells its shape and type alone


class Stored(Mapping[str, T], Generic[T, Shape]):
    """Tensors by name, each read when it is asked for, and again once nobody holds it any more.

    outline : their shapes and types, in the order of the file
    read    : gives one of them, in memory of its own
    ties    : name to the earlier name of which it is the same tensor
    """

    def __init__(
        self,
        outline: Mapping[str, Shape],
        read: Callable[[str], T],
        ties: Mapping[str, str] | None = None,
    ) -> None:
        self.outline = dict(outline)
        self.ties = ties or {}
        self._read = read
        self._held: WeakValueDictionary[str, T] = WeakValueDictionary()

    def __getitem__(self, name: str) -> T:
        if name not in self.outline:
            raise KeyError(name)
        name = self.ties.get(name, name)
        found = self._held.get(name)
        if found is None:
            found = self._held[name] = self._read(name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.outline

    def __iter__(self) -> Iterator[str]:
        return iter(self.outline)

    def __len__(self) -> int:
        return len(self.outline)

    def __or__(self, others: Mapping[str, T]) -> dict[str, T]:
        """A dictionary of all of them, read, and of others."""
        return {**self, **others}


StoredArrays = Stored[Array, Outline]
