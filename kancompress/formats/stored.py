"""Tensors of a file, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from weakref import WeakValueDictionary

import torch
from torch import Tensor


class StoredTensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for, and again once nobody holds it any more.

    outline : their shapes and types, as meta tensors, in the order of the file
    read    : gives one of them, in memory of its own
    ties    : name to the earlier name of which it is the same tensor
    """

    def __init__(
        self,
        outline: Mapping[str, Tensor],
        read: Callable[[str], Tensor],
        ties: Mapping[str, str] | None = None,
    ) -> None:
        self.outline = dict(outline)
        self._read = read
        self._ties = ties or {}
        self._held: WeakValueDictionary[str, Tensor] = WeakValueDictionary()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.outline:
            raise KeyError(name)
        name = self._ties.get(name, name)
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

    def __or__(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A dictionary of all of them, read, and of others."""
        return {**self, **others}


def outline(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors of which shape and type alone are wanted, so that nothing has to be read."""
    return tensors.outline if isinstance(tensors, StoredTensors) else tensors


def without_numbers(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor that has a shape and a type alone."""
    return torch.empty(shape, dtype=dtype, device="meta")
