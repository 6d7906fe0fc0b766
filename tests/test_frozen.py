"""Frozen classes: as the standard library's, by everything that can be asked of them."""

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, field
from typing import Any, Generic, TypeVar

import pytest

from kancompress.frozen import dataclass
from kancompress.specs import DataSpec

T = TypeVar("T")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "slots": {"slots": True},
    "keywords": {"slots": True, "kw_only": True},
    "identity": {"slots": True, "eq": False},
    "weakly": {"slots": True, "weakref_slot": True},
}


def classes(make: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """A class and one that inherits from it, made by one of the two decorators."""

    @make(frozen=True, **options)
    class Base(Generic[T]):
        """What is first."""

        first: int
        second: T
        names: list[str] = field(default_factory=list)
        aside: float = field(default=1.5, compare=False, repr=False)

    @make(frozen=True, **options)
    class Inner(Base[str]):
        last: str = "z"
        length: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "length", len(self.last))

    return Base, Inner


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_classes_are_as_the_standard_librarys(options: dict[str, Any]) -> None:
    ours, theirs = classes(dataclass, options), classes(dataclasses.dataclass, options)
    for own, standard in zip(ours, theirs, strict=True):
        assert str(inspect.signature(own)) == str(inspect.signature(standard))
        assert own.__init__.__annotations__ == standard.__init__.__annotations__
        assert own.__match_args__ == standard.__match_args__
        assert getattr(own, "__slots__", None) == getattr(standard, "__slots__", None)
        names = [one.name for one in dataclasses.fields(own)]
        assert names == [one.name for one in dataclasses.fields(standard)]
        made = [kind(first=1, second="b", aside=2.0) for kind in (own, standard)]
        again = [kind(first=1, second="b") for kind in (own, standard)]
        assert repr(made[0]) == repr(made[1])
        assert (made[0] == again[0], made[0] == 5) == (made[1] == again[1], made[1] == 5)
        assert made[0] != made[1]
        assert made[0].names is not again[0].names
        for one in made:
            changed = dataclasses.replace(one, first=2)
            assert (changed.first, changed.second, changed.aside) == (2, "b", 2.0)
            with pytest.raises(TypeError, match="first"):
                type(one)(second="b")


def test_nothing_is_set_or_deleted() -> None:
    spec = DataSpec(name="digits", classes=10)
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'name'"):
        spec.name = "mnist"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'name'"):
        del spec.name


def test_copies_and_hashes() -> None:
    spec = DataSpec(name="digits", classes=10, mean=(0.5,), std=(1.0,))
    for other in (copy.copy(spec), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert other == spec
        assert hash(other) == hash(spec)
    assert len({spec, DataSpec(name="digits", classes=10, mean=(0.5,), std=(1.0,))}) == 1
    assert hash(spec) == hash(tuple(getattr(spec, one.name) for one in dataclasses.fields(spec)))


def test_what_is_not_frozen_is_the_standard_librarys() -> None:
    @dataclass(slots=True)
    class Counter:
        count: int = 0

    counter = Counter()
    counter.count += 1
    assert counter == Counter(1)
