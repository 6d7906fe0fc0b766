"""Inputs that change at a chosen moment of their reading."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kancompress.system import inputs

READ_INTO = inputs._read_into


class Change:
    """Changes a file just after the n-th time that a file has been read."""

    def __init__(self, path: Path, number: int, change: Callable[[Path], None]) -> None:
        self.path, self.left, self.change = path, number, change

    def __call__(self, content: memoryview, file: Any, begin: int) -> int:
        count = READ_INTO(content, file, begin)
        if os.fstat(file.fileno()).st_ino == self.path.stat().st_ino:
            self.left -= 1
            if self.left == 0:
                self.change(self.path)
        return count


def moments(path: Path, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first, second, middle and last but one time that a run reads a file."""
    reads = 0

    def count(content: memoryview, file: Any, begin: int) -> int:
        nonlocal reads
        reads += os.fstat(file.fileno()).st_ino == path.stat().st_ino
        return READ_INTO(content, file, begin)

    monkeypatch.setattr(inputs, "_read_into", count)
    run()
    return sorted({1, 2, (reads + 1) // 2, reads - 1} & set(range(1, reads)))
