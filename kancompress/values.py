"""Values of settings: a record whose fields cannot be meant is refused when it is made.

A rule takes a value and gives it back, in the type of its field; it raises ValueError with what it
expected. `settle` holds the fields of a record against their rules.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum, StrEnum
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from kancompress.errors import UsageError, shortened, together

Rule = Callable[[Any], Any]
Kind = TypeVar("Kind")
Word = TypeVar("Word", bound=StrEnum)

# Characters of a value that a message shows.
_SHOWN = 60


class NoWordError(ValueError):
    """A value that is none of the words that this lists."""


def settle(record: object, **rules: Rule) -> None:
    """Hold fields of a frozen record against their rules, and let them have their own types.

    Raises one UsageError for all that cannot be meant.
    """
    wrong: list[UsageError] = []
    for name, rule in rules.items():
        value = getattr(record, name)
        try:
            own = rule(value)
        except ValueError as error:
            wrong.append(impossible(name, value, error))
            continue
        if own is not value:
            object.__setattr__(record, name, own)
    if wrong:
        raise together(wrong)


def named(cls: type[Kind]) -> type[Kind]:
    """A class of settings that refuses names of no field by the nearest that there is.

    Its signature stays. UsageError is raised where Python would raise a TypeError.
    """
    made: Any = cls
    inner = made.__init__
    known = list(made.__dataclass_fields__)

    @wraps(inner)
    def init(self: Kind, *args: Any, **given: Any) -> None:
        if unknown := given.keys() - set(known):
            name = min(unknown)
            raise UsageError(
                f"{cls.__name__} has no setting {name!r}; known are {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
        inner(self, *args, **given)

    made.__init__ = init
    return cls


def settled(name: str, value: object, rule: Rule) -> Any:
    """An argument as a rule gives it. Raises UsageError where it cannot be meant."""
    try:
        return rule(value)
    except ValueError as error:
        raise impossible(name, value, error) from None


def chosen(name: str, value: object, kind: type[Word]) -> Word:
    """One of the words of an enumeration that an argument is. Raises UsageError."""
    found: Word = settled(name, value, word(kind))
    return found


def impossible(name: str, value: object, error: ValueError) -> UsageError:
    """That a value of a field cannot be meant, by what a rule says of it."""
    if isinstance(error, NoWordError):
        shown = shortened(str(value), _SHOWN).replace("`", "'")
        return UsageError(f"`{name}={shown}` is none of {error}.", fields=(name,))
    return UsageError(
        f"`{name}={told(value)}` is not possible; {error} was expected.", fields=(name,)
    )


def told(value: object) -> str:
    """A value as messages show it: numbers and words as they are, other things by their type."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, str | list | tuple | dict):
        return shortened(repr(value).replace("`", "'"), _SHOWN)
    if value is None or isinstance(value, Real):
        return shortened(str(value), _SHOWN)
    return f"<{type(value).__name__}>"


def expect(name: str, value: object, kind: type[Kind], example: str) -> None:
    """Refuse an argument that is neither None nor of `kind`.

    example : what to write in its place
    """
    if value is None or isinstance(value, kind):
        return
    raise UsageError(
        f"`{name}` is {article(value)}; {article(kind)} was expected, as in {example}.",
        fields=(name,),
    )


def article(value: object) -> str:
    """A type, or that of a value, with its article."""
    name = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The known word that is nearest, as a sentence with a space before it; "" where none is."""
    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {found[0]}?" if found else ""


# --- rules --------------------------------------------------------------------------------------


def whole(low: int, high: int | None = None) -> Rule:
    """A whole number from `low` to `high`."""
    span = f"from {low} on" if high is None else f"from {low} to {high}"

    def rule(value: Any) -> Any:
        integral = isinstance(value, Integral) and not isinstance(value, bool)
        if not integral or value < low or (high is not None and value > high):
            raise ValueError(f"a whole number {span}")
        return value if type(value) is int else int(value)

    return rule


def number(low: float = 0.0, high: float = math.inf, *, above: bool = False) -> Rule:
    """A finite number from `low` on, or above it, and at most `high`."""
    span = f"above {low:g}" if above else f"from {low:g} on"
    if high < math.inf:
        span = f"{span} and at most {high:g}" if above else f"from {low:g} to {high:g}"

    def rule(value: Any) -> Any:
        real = isinstance(value, Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"a finite number {span}")
        if above and value == low:
            raise ValueError(f"a finite number {span}")
        return value if type(value) in (int, float) else float(value)

    return rule


def flag(value: Any) -> Any:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def text(value: Any) -> Any:
    """A text."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def word(kind: type[Enum]) -> Rule:
    """One of the words of an enumeration, or its member."""

    def rule(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        words = [str(member.value) for member in kind]
        if not isinstance(value, str) or value not in words:
            raise NoWordError(", ".join(words))
        return kind(value)

    return rule


def path(value: Any) -> Any:
    """A path; a text becomes one."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise ValueError("a path")
    if not os.fspath(value):
        raise ValueError("the path of a file")
    return Path(value)


def paths(value: Any) -> Any:
    """Paths, of which a single one is none."""
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        raise ValueError("a list of paths")
    return [path(one) for one in value]


def nothing(expected: str) -> Rule:
    """None and nothing else, for which messages say `expected`."""

    def rule(value: Any) -> Any:
        if value is not None:
            raise ValueError(expected)

    return rule


def maybe(rule: Rule) -> Rule:
    """None, or what a rule takes."""

    def optional(value: Any) -> Any:
        return None if value is None else rule(value)

    return optional


def each(rule: Rule, expected: str, *, length: int | None = None) -> Rule:
    """A tuple of what a rule takes, for which messages say `expected`; a list becomes one."""

    def rules(value: Any) -> Any:
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            raise ValueError(expected)
        try:
            own = tuple(map(rule, value))
        except ValueError:
            raise ValueError(expected) from None
        changed = any(one is not other for one, other in zip(own, value, strict=True))
        return own if changed or type(value) is not tuple else value

    return rules


def by_layer(rule: Rule, expected: str) -> Rule:
    """A mapping from names of layers to what a rule takes, for which messages say `expected`."""

    def rules(value: Any) -> Any:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise ValueError(expected)
        try:
            own = {name: rule(one) for name, one in value.items()}
        except ValueError:
            raise ValueError(expected) from None
        return value if all(own[name] is value[name] for name in own) else own

    return rules


def instance(kind: type) -> Rule:
    """An object of a class."""

    def rule(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(article(kind))
        return value

    return rule
