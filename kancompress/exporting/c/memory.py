"""What a header takes of the machine: constant arrays in flash, and scratch in RAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.frozen import dataclass

Values = npt.NDArray[Any]

_WIDTH = 100
_TYPES = {"u1": "uint8_t", "u2": "uint16_t", "u4": "uint32_t", "f4": "float", "f8": "double"}
_BYTES = {"uint8_t": 1, "uint16_t": 2, "uint32_t": 4, "float": 4, "double": 8}


@dataclass(frozen=True, slots=True)
class Real:
    """The type of the computation: `float`, or `double` where coefficients are stored in it."""

    double: bool = False

    @property
    def name(self) -> str:
        """As C calls it."""
        return "double" if self.double else "float"

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """As numpy calls it."""
        return np.float64 if self.double else np.float32

    @property
    def suffix(self) -> str:
        """Behind literals, and behind functions of math.h."""
        return "" if self.double else "f"

    def literal(self, value: float) -> str:
        """A number rounded to the type; C reads back every bit of it."""
        exact = float(self.dtype(value))
        plain = abs(exact) < 1 << 12 and (exact * 1024).is_integer()
        return (repr(exact) if plain else _shortest(exact)) + self.suffix


def _shortest(value: float) -> str:
    """A number in hexadecimal, without zeros at the end of its fraction."""
    digits, exponent = value.hex().split("p")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return f"{digits}p{exponent}"


def _wrapped(words: Sequence[str]) -> str:
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > _WIDTH:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return "\n".join([*lines, line])


@dataclass(slots=True)
class Flash:
    """Constant arrays; equal ones are one."""

    prefix: str
    real: Real
    nbytes: int = 0
    _names: dict[tuple[str, bytes], str] = field(default_factory=dict)
    _texts: list[str] = field(default_factory=list)

    def add(self, name: str, values: Values) -> str:
        """The C name of an array of these values, flattened; floats in the type of the computation.

        name : what it holds; the header's prefix comes before it
        """
        flat = np.ascontiguousarray(values).reshape(-1)
        if flat.dtype.kind == "f":
            flat = flat.astype(self.real.dtype)
        key = flat.dtype.str[1:], flat.tobytes()
        if key not in self._names:
            self._names[key] = f"{self.prefix}_{name}"
            self.nbytes += flat.nbytes
            if flat.dtype.kind == "f":
                words = [_shortest(value) + self.real.suffix for value in flat.tolist()]
            else:
                words = [f"{value}u" for value in flat.tolist()]
            kind = _TYPES[key[0]]
            self._texts.append(
                f"static const {kind} {self._names[key]}[{len(flat)}] = {{\n{_wrapped(words)}\n}};"
            )
        return self._names[key]

    def text(self) -> str:
        """Their definitions."""
        return "\n\n".join(self._texts)


@dataclass(slots=True)
class Scratch:
    """Arrays of the structure that the caller gives; each as long as its longest use."""

    _fields: dict[str, tuple[str, int]] = field(default_factory=dict)

    def want(self, name: str, kind: str, count: int) -> str:
        """How a function that has the structure as `s` reaches an array of so many elements."""
        known, most = self._fields.get(name, (kind, 0))
        widest = max(known, kind, key=_BYTES.__getitem__)
        self._fields[name] = widest, max(most, count)
        return f"s->{name}"

    def kind(self, name: str) -> str:
        """The type of an array's elements, once all uses are known."""
        return self._fields[name][0]

    @property
    def _ordered(self) -> list[tuple[str, str, int]]:
        rows = [(kind, name, count) for name, (kind, count) in self._fields.items()]
        return sorted(rows, key=lambda row: (-_BYTES[row[0]], row[1]))

    @property
    def nbytes(self) -> int:
        """Bytes of the structure, with what aligns it."""
        total = sum(_BYTES[kind] * count for kind, _, count in self._ordered)
        widest = max((_BYTES[kind] for kind, _, _ in self._ordered), default=1)
        return -(-total // widest) * widest

    def text(self) -> str:
        """Its members, the widest types first, so that there are no holes."""
        return "\n".join(f"    {kind} {name}[{count}];" for kind, name, count in self._ordered)
