"""What callers give, held against what was expected: anything else ends in one sentence.

A check takes the name of a parameter and its value, and gives the value that is meant, which
`fill` puts into a record. Checks raise UsageError.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from kancompress.errors import UsageError, shortened

Check = Callable[[str, Any], Any]
Choice = TypeVar("Choice", bound=StrEnum)
Kind = TypeVar("Kind")

_MOST_SHOWN = 60


def refuse(name: str, value: object, expected: str) -> NoReturn:
    """Raise the UsageError that says what was given in place of what."""
    try:
        shown = shortened(" ".join(repr(value).split()), _MOST_SHOWN).replace("`", "'")
    except Exception:  # of a class that is not ours
        shown = type(value).__name__
    raise UsageError(f"`{name}={shown}` was given; {expected} was expected.", fields=(name,))


def flag(name: str, value: object) -> bool:
    """Whether or not: a word or a number is neither."""
    if not isinstance(value, bool):
        refuse(name, value, "True or False")
    return value


def text(name: str, value: object) -> str:
    """A text."""
    if not isinstance(value, str):
        refuse(name, value, "a text")
    return value


def texts(name: str, value: object) -> tuple[str, ...]:
    """Texts in a list or tuple; one text alone is none of them."""
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        refuse(name, value, "a tuple of texts")
    return tuple(value)


def _whole(value: object) -> int | None:
    """A whole number, None for what is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def count(name: str, value: object) -> int:
    """A whole number from 1."""
    number = _whole(value)
    if number is None or number < 1:
        refuse(name, value, "a whole number from 1")
    return number


def sizes(name: str, value: object) -> tuple[int, ...]:
    """Whole numbers from 1, in a list or tuple."""
    if not isinstance(value, list | tuple):
        refuse(name, value, "a tuple of whole numbers")
    return tuple(count(name, one) for one in value)


def pair(name: str, value: object) -> tuple[int, int]:
    """Two whole numbers."""
    numbers = [_whole(one) for one in value] if isinstance(value, list | tuple) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        refuse(name, value, "a tuple of two whole numbers")
    return numbers[0], numbers[1]


def choice(kind: type[Choice]) -> Callable[[str, object], Choice]:
    """A check for one of the choices, or the word for one."""

    def check(name: str, value: object) -> Choice:
        if not isinstance(value, str) or value not in list(kind):
            shown = shortened(str(value), _MOST_SHOWN).replace("`", "'")
            raise UsageError(f"`{name}={shown}` is none of {', '.join(kind)}.", fields=(name,))
        return kind(value)

    return check


def optional(check: Check) -> Check:
    """The same check, and None stays None."""
    return lambda name, value: None if value is None else check(name, value)


def record(name: str, value: Kind | None, kind: type[Kind]) -> Kind | None:
    """A record of a class, or None."""
    if value is not None and not isinstance(value, kind):
        refuse(name, value, kind.__name__)
    return value


def path(name: str, value: object) -> Path:
    """A path, as a text or an object that is one."""
    try:
        return Path(value)  # type: ignore[arg-type]
    except TypeError:
        refuse(name, value, "a path")


def paths(name: str, value: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Several paths; a single one is not taken for its letters."""
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        refuse(name, value, "a list of paths")
    return [path(name, one) for one in value]


def fill(record: object, **checks: Check) -> None:
    """Put into a frozen record what its fields mean, by the check of each."""
    for name, check in checks.items():
        object.__setattr__(record, name, check(name, getattr(record, name)))
