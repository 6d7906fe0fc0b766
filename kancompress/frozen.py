"""`dataclass` as in `dataclasses`, whose frozen classes are made in a fraction of the time.

The standard one compiles six methods for each frozen class whenever Python starts; that was half
of what a start took here. This one compiles `__init__` alone, and all classes share the others.
What is not frozen goes to the standard one, and `field`, `fields` and `replace` are its own.

A class that inherits from one of these has to be one of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen=False, eq=True, **options):
        """As `dataclasses.dataclass`, with options by name alone."""
        if not frozen:
            return dataclasses.dataclass(eq=eq, **options)
        return lambda cls: _frozen(cls, eq, options)


class _Factory:
    """The default that signatures show where a function makes it."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY = _Factory()


def _frozen(cls: type[Any], eq: bool, options: dict[str, Any]) -> type[Any]:
    cls.__doc__ = cls.__doc__ or cls.__name__  # else the signature would be found, for this alone
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, **options)(cls)
    methods: dict[str, Any] = {"__repr__": _repr}
    if eq:
        methods |= {"__eq__": _eq, "__hash__": _hash}
        made.__compared__ = tuple(one.name for one in fields(made) if one.compare)
    if options.get("slots"):
        methods |= {"__getstate__": _state, "__setstate__": _restore}
    for name, method in methods.items():
        if name not in cls.__dict__:
            setattr(made, name, method)
    made.__init__ = _initialiser(made)
    made.__setattr__ = _refuse_to_set
    made.__delattr__ = _refuse_to_delete
    return made  # type: ignore[no-any-return]


def _initialiser(cls: Any) -> Callable[..., None]:
    """`__init__`, with the parameters and annotations that `dataclasses` gives it."""
    given = [one for one in fields(cls) if one.init]
    names: dict[str, Any] = {"_set": object.__setattr__, "_FACTORY": _FACTORY}
    keywords = [_parameter(one, names) for one in given if one.kw_only]
    places = [_parameter(one, names) for one in given if not one.kw_only]
    parameters = ["self", *places, *(["*", *keywords] if keywords else [])]
    body = [f" _set(self, {one.name!r}, {_value(one)})" for one in given]
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()")
    exec("\n".join([f"def __init__({', '.join(parameters)}):", *(body or [" pass"])]), names)
    made: Callable[..., None] = names["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    made.__module__ = cls.__module__
    made.__annotations__ = {one.name: one.type for one in given} | {"return": None}
    return made


def _parameter(one: Field[Any], names: dict[str, Any]) -> str:
    if one.default is not MISSING:
        names[f"_of_{one.name}"] = one.default
        return f"{one.name}=_of_{one.name}"
    if one.default_factory is not MISSING:
        names[f"_of_{one.name}"] = one.default_factory
        return f"{one.name}=_FACTORY"
    return one.name


def _value(one: Field[Any]) -> str:
    if one.default_factory is MISSING:
        return one.name
    return f"_of_{one.name}() if {one.name} is _FACTORY else {one.name}"


def _repr(self: Any) -> str:
    told = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr)
    return f"{type(self).__qualname__}({', '.join(told)})"


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__compared__])


def _eq(self: Any, other: object) -> Any:
    return _compared(self) == _compared(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for one, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)


def _refuse_to_set(self: Any, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete field {name!r}")
