"""The header that is being written: its names, its constants, its scratch, its helpers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kancompress.errors import UsageError
from kancompress.exporting.c.helpers import HELPERS
from kancompress.exporting.c.memory import Flash, Real, Scratch
from kancompress.formats.safetensors import shown

Lines = list[str]


@dataclass(slots=True)
class Unit:
    """What the layers of one header share.

    multiplications, additions : of one row, beside those of the basis functions
    """

    prefix: str
    real: Real
    flash: Flash
    scratch: Scratch
    helpers: dict[str, str] = field(default_factory=dict)
    multiplications: int = 0
    additions: int = 0

    @classmethod
    def of(cls, prefix: str, *, double: bool) -> Unit:
        """A header without layers."""
        real = Real(double)
        return cls(prefix, real, Flash(prefix, real), Scratch())

    def helper(self, name: str, text: str = "") -> str:
        """The C name of one of `HELPERS`, or of another one with this text."""
        self.helpers.setdefault(name, text or HELPERS[name])
        return f"{self.prefix}_{name}"

    def literal(self, value: float) -> str:
        """A number in the type of the computation."""
        return self.real.literal(value)

    def math(self, name: str) -> str:
        """A function of math.h, of the type of the computation."""
        return name + self.real.suffix


def unwritten(layer: str, what: str, then: str) -> UsageError:
    """The refusal of a layer that has no form in C yet."""
    return UsageError(f"Layer {shown(layer)} {what}, which is not written as C yet; {then}.")


def indented(lines: Iterable[str], depth: int = 1) -> Lines:
    """Lines of a block."""
    return ["    " * depth + line if line else line for line in lines]


def loop(name: str, count: str, body: Iterable[str]) -> Lines:
    """A loop from 0 to below `count`."""
    return [f"for ({name} = 0; {name} < {count}; ++{name}) {{", *indented(body), "}"]
