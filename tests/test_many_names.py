"""Files of many names: what is looked up in an index is what a look at every name gives."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kancompress.libraries import recognise
from kancompress.libraries.matching import Named, find_stem
from kancompress.libraries.records import Layout, Piece
from kancompress.packing.foreign import _safe_names
from kancompress.reporting import unshrunk

names = st.lists(st.text("ab.", max_size=6), unique=True, max_size=12)


@given(names, st.text("ab.", max_size=4))
def test_names_below_a_prefix(found: list[str], prefix: str) -> None:
    named = Named({name: torch.empty(0) for name in found})
    assert named.below(prefix) == [name for name in found if name.startswith(prefix)]
    assert list(named) == found
    assert all(name in named for name in found)


@settings(max_examples=40)
@given(st.lists(st.text("ab0.", max_size=6), unique=True, max_size=12), st.integers(0, 5))
def test_names_that_may_be_an_anchors(found: list[str], which: int) -> None:
    anchor = ("a", "a.b", "*", "a.*", "*.b", "a#")[which]
    layout = Layout(name="", pieces=(Piece(name=anchor, axes="out in"),))
    fitting = [name for name in found if find_stem(layout, name) is not None]
    candidates = Named({name: torch.empty(0) for name in found}).may_be(anchor)
    assert [name for name in candidates if find_stem(layout, name) is not None] == fitting
    assert candidates == [name for name in found if name in set(candidates)]


@settings(max_examples=40)
@given(names, names)
def test_names_below_any_of_some_stems(found: list[str], stems: list[str]) -> None:
    below = [name for name in found if unshrunk._is_below(name, unshrunk._apart(stems))]
    assert below == [name for name in found if name.startswith(tuple(stems))]


def test_layers_whose_names_become_the_same_stay_apart() -> None:
    tensors = {}
    stems = ["a b", "a-b", "a_b", "a_b_", "a+b", "a/b"]
    for stem in stems:
        tensors[f"{stem}.base_weight"] = torch.ones(2, 3)
        tensors[f"{stem}.spline_weight"] = torch.ones(2, 3, 8)
        tensors[f"{stem}.grid"] = torch.ones(3, 12)
    layers = recognise(tensors).layers
    assert [layer.name for layer in layers] == stems
    made = list(_safe_names(layers).values())
    assert made == ["a_b", "a_b_", "a_b__", "a_b___", "a_b____", "a_b_____"]


def test_as_many_looks_at_names_as_there_are_layers() -> None:
    class Counted(dict):  # type: ignore[type-arg]
        looks = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            for name in super().__iter__():
                Counted.looks += 1
                yield name

    looks = []
    for count in (20, 40):
        tensors = Counted()
        for number in range(count):
            tensors[f"layers.{number}.base_weight"] = torch.ones(2, 3)
            tensors[f"layers.{number}.spline_weight"] = torch.ones(2, 3, 8)
            tensors[f"layers.{number}.grid"] = torch.ones(3, 12)
        Counted.looks = 0
        assert len(recognise(tensors).layers) == count
        looks.append(Counted.looks)
    assert looks[1] <= 2 * looks[0]
