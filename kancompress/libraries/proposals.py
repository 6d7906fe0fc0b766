"""Lines of layouts for tensors that no layout knows but that look like edges' coefficients.

A line is proposed, never used: shapes that share two axes are a hint, and which of them counts
outputs is a guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kancompress.errors import UsageError
from kancompress.formats.arrays import REAL, Described, Stored, dtype_name
from kancompress.frozen import dataclass
from kancompress.libraries.matching import match
from kancompress.libraries.notation import BY_HAND, parse_layout
from kancompress.libraries.records import Misfit, Recognition

Shapes = Mapping[str, tuple[int, ...]]

_SPECIAL = frozenset("*#:;'\"?= ")
_LETTERS = "abcdefgh"
_MOST = 200  # characters of a line that a message quotes
_MOST_TENSORS = 16  # of a line
_MOST_AXES = 8  # of a tensor


@dataclass(frozen=True, slots=True)
class Proposal:
    """One line, and the layers that it fits, by name; "" is the one at the top level."""

    entries: tuple[str, ...]
    layers: tuple[str, ...]

    @property
    def line(self) -> str:
        """As `--layout` takes it."""
        return "; ".join(self.entries)


def proposals(tensors: Mapping[str, Described], found: Recognition) -> tuple[Proposal, ...]:
    """Layouts that would fit tensors which belong to no layer, those that fit most of them first.

    Tensors below one stem that share two axes are the edges of one layer: one of three axes or
    more, or several of two.
    """
    if isinstance(tensors, Stored):
        tensors = tensors.outline
    below: dict[str, dict[str, tuple[int, ...]]] = {}
    for full in found.others:
        stem, dot, name = full.rpartition(".")
        shape = tuple(tensors[full].shape)
        if not name or _SPECIAL.intersection(name) or len(shape) > _MOST_AXES:
            continue
        if dtype_name(tensors[full].dtype) in REAL:
            below.setdefault(stem + dot, {})[name] = shape
    layers: dict[tuple[str, ...], list[str]] = {}
    equal = _equal_axes(below.values())
    for stem, shapes in below.items():
        entries = _entries(shapes, equal)
        if entries and _fits(entries, stem, tensors):
            layers.setdefault(entries, []).append(stem.rstrip("."))
    made = [Proposal(entries, tuple(names)) for entries, names in layers.items()]
    return tuple(sorted(made, key=lambda one: -len(one.layers)))


def way_on(tensors: Mapping[str, Described], found: Recognition) -> str:
    """What to do where no layer was recognised, as a sentence that speaks of parameters."""
    if found.hints:
        return " ".join(found.hints)
    made = [one for one in proposals(tensors, found) if _is_quotable(one.line)]
    if not made:
        return "Describe the layers with `layouts`."
    more = len(made) - 1
    others = f"; `print_layouts` has {more} more" if more else ""
    return f"Describe the layers with `layouts`, perhaps with `layouts` '{made[0].line}'{others}."


def _is_quotable(line: str) -> bool:
    return line.isprintable() and len(line) <= _MOST


def _fits(entries: tuple[str, ...], stem: str, tensors: Mapping[str, Described]) -> bool:
    try:
        layout = parse_layout("; ".join(entries))
    except UsageError:
        return False
    assert layout.name == BY_HAND
    return not isinstance(match(layout, stem, "", tensors), Misfit)


def _equal_axes(layers: Iterable[Shapes]) -> dict[str, int]:
    """Of tensors with three axes by name, the one whose size is the same in all layers."""
    by_name: dict[str, set[tuple[int, ...]]] = {}
    for shapes in layers:
        for name, shape in shapes.items():
            by_name.setdefault(name, set()).add(shape)
    equal: dict[str, int] = {}
    for name, found in by_name.items():
        if len(found) > 1 and {len(shape) for shape in found} == {3}:
            same = [i for i in range(3) if len({shape[i] for shape in found}) == 1]
            equal |= {name: same[0]} if len(same) == 1 else {}
    return equal


def _entries(shapes: Shapes, equal: Mapping[str, int]) -> tuple[str, ...]:
    """The line for the tensors of one stem; () where none is likely.

    equal : as of `_equal_axes`
    """
    pair = _pair(shapes, equal)
    if pair is None:
        return ()
    first, second = pair
    flat = {shape[0] for shape in shapes.values() if len(shape) == 1}
    # a bias or a norm has the width of the outputs, or else the first axis is theirs
    is_turned = second in flat and first not in flat
    named = {first: "out", second: "in"} if not is_turned else {first: "in", second: "out"}
    places = {name: found for name, shape in shapes.items() if (found := _places(shape, pair))}
    if len(places) > _MOST_TENSORS:
        return ()
    if len(places) < 2 and not any(len(shapes[name]) > 2 for name in places):
        return ()
    if first == second:
        axes = {name: dict(zip(at, ("out", "in"), strict=True)) for name, at in places.items()}
    else:
        axes = {name: {i: named[shapes[name][i]] for i in at} for name, at in places.items()}
    rest = {
        name: [size for i, size in enumerate(shapes[name]) if i not in at and size > 1]
        for name, at in places.items()
    }
    vectors = [tuple(sizes) for sizes in rest.values() if sizes]
    own = [] if len(set(vectors)) == 1 and len(vectors[0]) == 1 else _named(vectors)
    made = [
        _entry(name, shapes[name], axes[name], rest[name], own)
        for name in sorted(places, key=lambda name: not rest[name])
    ]
    return tuple(made)


def _pair(shapes: Shapes, equal: Mapping[str, int]) -> tuple[int, int] | None:
    """Sizes of the two axes that most tensors share, in the order of one with the most axes."""
    counts: Counter[tuple[int, int]] = Counter()
    for shape in shapes.values():
        counts.update({(min(a, b), max(a, b)) for a, b, _ in _pairs(shape) if a > 1 and b > 1})
    if shared := [pair for pair, count in counts.items() if count > 1]:
        # of pairs that are shared equally often: first axes, or what leaves few numbers an edge
        leading = {(min(s[:2]), max(s[:2])) for s in shapes.values() if len(s) > 1}
        pair = max(shared, key=lambda pair: (counts[pair], pair in leading, pair[0] * pair[1]))
        widest = max((s for s in shapes.values() if _places(s, pair)), key=len)
        first, second = sorted(_places(widest, pair) or ())
        return widest[first], widest[second]
    cubes = [(name, s) for name, s in shapes.items() if len(s) == 3 and sorted(s)[1] > 1]
    if len(cubes) != 1 or min(cubes[0][1]) < 1:
        return None
    name, shape = cubes[0]
    coef = equal.get(name, 2)  # of most libraries the last axis
    before, after = (size for i, size in enumerate(shape) if i != coef)
    return (before, after) if before > 1 and after > 1 else None


def _pairs(shape: tuple[int, ...]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    for j in range(1, len(shape)):
        for i in range(j):
            yield shape[i], shape[j], (i, j)


def _places(shape: tuple[int, ...], pair: tuple[int, int]) -> tuple[int, int] | None:
    """Where a shape has the two sizes, in this order, or else in the other."""
    for wanted in (pair, pair[::-1]):
        for a, b, at in _pairs(shape):
            if (a, b) == wanted:
                return at
    return None


def _named(vectors: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Sizes of coefficients' axes, each with which of that size it is in its tensor."""
    known: list[tuple[int, int]] = []
    for sizes in vectors:
        for place, size in enumerate(sizes):
            key = (size, sizes[:place].count(size))
            if key not in known:
                known.append(key)
    return known


def _entry(
    name: str,
    shape: tuple[int, ...],
    edge: Mapping[int, str],
    sizes: Sequence[int],
    own: Sequence[tuple[int, int]],
) -> str:
    tokens: list[str] = []
    seen: list[int] = []
    for i, size in enumerate(shape):
        if i in edge:
            tokens.append(edge[i])
        elif size == 1:
            tokens.append("1")
        elif not own:
            tokens.append("coef")
        else:
            number = own.index((size, seen.count(size)))
            tokens.append(f"coef_{_LETTERS[number % len(_LETTERS)]}")
            seen.append(size)
    return f"{'coef' if sizes else 'base'}={name}:{' '.join(tokens)}"
