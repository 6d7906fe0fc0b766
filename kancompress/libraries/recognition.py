"""Find the KAN layers of a file: every layout against every stem, most specific first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import TypeVar

from kancompress.errors import UsageError, shortened, together
from kancompress.formats.arrays import Described, Stored
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.libraries.catalogue import LAYOUTS
from kancompress.libraries.hints import hints, ordinary
from kancompress.libraries.matching import Named, find_stem, layer_name, match
from kancompress.libraries.notation import parse_layout
from kancompress.libraries.records import Layout, Misfit, Recognition

_EVERYWHERE = ""
_TOP = "."
_NONE = "none"


# Layers with one reason, from which on they are one sentence; and those that it names.
_MANY = 3
_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A layer that was not taken for one of a layout: why, or "" where rivals fit as well."""

    name: str
    layout: Layout
    reason: str = ""
    rank: float = 0.0

    @property
    def kind(self) -> tuple[str, str]:
        """Equal for layers of which the same is to be said."""
        apart = self.reason.replace(self.name, "") if self.name else self.reason
        return self.layout.name, re.sub(r"-?\d+", "#", apart)


@dataclass(slots=True)
class _Search:
    """What has been found so far."""

    tensors: Named[Described]
    layers: list[FoundLayer] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    misfits: dict[str, _Doubt] = field(default_factory=dict)
    undecided: dict[str, _Doubt] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    claimed: set[str] = field(default_factory=set)

    def take(self, anchor: str, layer: FoundLayer) -> None:
        """Add a layer, unless another has its tensors; those beside it may be shared."""
        twice = self.taken.intersection(layer.tensors) - set(layer.untouched)
        if twice:
            self.problems[anchor] = (
                f"{cut(layer.name)} has names and shapes of the layout {layer.layout}, but"
                f" {min(twice)} already belongs to another layer."
            )
            return
        self.layers.append(layer)
        self.taken.update(layer.tensors)

    def is_free(self, anchor: str) -> bool:
        """Whether no layer and no problem has this tensor yet, and the user did not except it."""
        others = (self.taken, self.problems, self.undecided, self.skipped)
        if any(anchor in names for names in others):
            return False
        dots = (place for place, letter in enumerate(anchor, start=1) if letter == ".")
        return not (self.claimed and any(anchor[:place] in self.claimed for place in dots))


def recognise(
    tensors: Mapping[str, Described],
    choices: Mapping[str, str] | None = None,
    *,
    layouts: Sequence[Layout] = LAYOUTS,
    unfit: list[UsageError] | None = None,
) -> Recognition:
    """Find all KAN layers by names and shapes; values are not read, so outlines
    or meta tensors will do.

    `choices` maps a layer's name or stem ("" for all that fit, "." for the top level) to the name
    of a layout, to one written by hand (see `kancompress.libraries.notation`), or to "none", which
    leaves its tensors alone. What is wrong with the choices is added to `unfit` where that is
    given; else UsageError says all of it.
    """
    if isinstance(tensors, Stored):
        tensors = tensors.outline  # nothing has to be read
    search = _Search(Named(tensors))
    wrong: list[UsageError] = []
    for text, stems in _by_text(choices or {}):
        try:
            chosen = None if text == _NONE else _chosen(text, layouts)
        except UsageError as error:
            wrong.append(error)
            continue
        if chosen is None:
            wrong += _except(search, stems, layouts)
        else:
            wrong += _apply_choices(search, stems, chosen)
    if wrong and unfit is None:
        raise together(wrong)
    if unfit is not None:
        unfit += wrong
    for layout in layouts:
        _try(search, layout)
    order = {name: position for position, name in enumerate(tensors)}
    misfits = {name: doubt for name, doubt in search.misfits.items() if search.is_free(name)}
    texts = search.problems | _together(misfits, order, _misfit_text)
    questions = _together(search.undecided, order, _question)
    texts |= {name: str(question) for name, question in questions.items()}
    layers = sorted(search.layers, key=lambda layer: min(order[name] for name in layer.tensors))
    others = tuple(name for name in tensors if name not in search.taken)
    said = hints(tensors, others)
    if not layers and not texts and not said:
        said = tuple(filter(None, (ordinary(tensors),)))
    return Recognition(
        layers=tuple(layers),
        problems=tuple(texts[name] for name in sorted(texts, key=order.__getitem__)),
        others=others,
        hints=said,
        ambiguous=tuple(questions.values()),
        undecided=tuple(doubt.name for doubt in search.undecided.values()),
    )


T = TypeVar("T")


def _together(
    doubts: Mapping[str, _Doubt],
    order: Mapping[str, int],
    say: Callable[[Sequence[_Doubt]], T],
) -> dict[str, T]:
    """What is said of doubts, by the first anchor; once of many layers of which it is the same."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for anchor in sorted(doubts, key=order.__getitem__):
        kinds.setdefault(doubts[anchor].kind, []).append(anchor)
    said: dict[str, T] = {}
    for anchors in kinds.values():
        groups = [anchors] if len(anchors) >= _MANY else [[anchor] for anchor in anchors]
        for group in groups:
            said[group[0]] = say([doubts[anchor] for anchor in group])
    return {name: said[name] for name in sorted(said, key=order.__getitem__)}


def _by_text(choices: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Each layout with the stems for which it was chosen; that for all the rest comes last."""
    by_text: dict[str, list[str]] = {}
    for stem, text in choices.items():
        if stem != _EVERYWHERE:
            by_text.setdefault(text, []).append(stem)
    found = list(by_text.items())
    if _EVERYWHERE in choices:
        found.append((choices[_EVERYWHERE], [_EVERYWHERE]))
    # what is left alone is so for every layout
    return sorted(found, key=lambda item: item[0] != _NONE)


def _anchors(search: _Search, layout: Layout) -> Iterable[tuple[str, str, str]]:
    for tensor in search.tensors.may_be(layout.pieces[0].name):
        found = find_stem(layout, tensor)
        if found is not None and search.is_free(tensor):
            yield tensor, *found


def _try(search: _Search, layout: Layout) -> None:
    for anchor, stem, number in _anchors(search, layout):
        result = match(layout, stem, number, search.tensors)
        name = layer_name(layout, stem, number)
        if isinstance(result, Misfit):
            before = search.misfits.get(anchor)
            if result.rank > (before.rank if before else 0):
                search.misfits[anchor] = _Doubt(name, layout, result.reason, result.rank)
            if result.claims:
                search.claimed.add(result.claims)
        elif layout.rivals:
            search.undecided[anchor] = _Doubt(name, layout)
        else:
            search.take(anchor, result)


def cut(name: str) -> str:
    """A layer's name as messages begin with it."""
    return shortened(name, 120) or "The top level"


def _listed(doubts: Sequence[_Doubt]) -> str:
    """The names of layers, as messages begin with them."""
    first = ", ".join(shortened(doubt.name or _TOP, 60) for doubt in doubts[:_NAMED])
    return f"{first} and {len(doubts) - _NAMED} more" if len(doubts) > _NAMED else first


def _misfit_text(doubts: Sequence[_Doubt]) -> str:
    one = doubts[0]
    if len(doubts) == 1:
        return (
            f"{cut(one.name)} has names of the layout {one.layout.name} but was not taken"
            f" for it: {one.reason}."
        )
    return (
        f"{_listed(doubts)} have names of the layout {one.layout.name} but were not taken"
        f" for it. Of the first: {one.reason}."
    )


def _question(doubts: Sequence[_Doubt]) -> UsageError:
    one = doubts[0]
    candidates = ", ".join((one.layout.name, *one.layout.rivals))
    orders = "the names and shapes of several layouts with different orders of coefficients"
    name = shortened(one.name or _TOP, 120)
    if len(doubts) == 1:
        return UsageError(
            f"{cut(one.name)} has {orders} ({candidates}); choose with"
            f" `layouts` {name}={one.layout.name}, or another of them in its place.",
            layer=one.name,
            fields=("layouts",),
        )
    return UsageError(
        f"{_listed(doubts)} have {orders} ({candidates}); choose for all with"
        f" `layouts` {one.layout.name}, or another of them in its place, or for each as in"
        f" `layouts` {name}={one.layout.name}.",
        fields=("layouts",),
    )


def _chosen(text: str, layouts: Sequence[Layout]) -> Layout:
    if ":" in text:
        return parse_layout(text)
    for layout in layouts:
        if layout.name == text:
            return layout
    raise UsageError(
        f"No layout is called {text!r}; known are {', '.join(item.name for item in layouts)}"
        f" and {_NONE}."
        " One can be written by hand, as in 'coef=spline_weight:out in coef'."
    )


def _stems(stem: str, name: str) -> set[str]:
    """How a user may call the layer `name` below `stem`."""
    return {found or _TOP for found in (name, stem.rstrip("."))} | {_EVERYWHERE}


def _except(search: _Search, stems: Sequence[str], layouts: Sequence[Layout]) -> list[UsageError]:
    """Leave the tensors of these layers alone; returns what is wrong with that."""
    met: set[str] = set()
    for layout in layouts:
        for anchor, found, number in list(_anchors(search, layout)):
            hit = _stems(found, layer_name(layout, found, number)).intersection(stems)
            met |= hit
            if hit:
                search.skipped.add(anchor)
    return [
        UsageError(
            f"There is nothing like a KAN layer {f'at {shown(stem)} ' if stem else ''}to leave"
            " alone.",
            layer=stem or None,
        )
        for stem in stems
        if stem not in met
    ]


def _apply_choices(search: _Search, stems: Sequence[str], layout: Layout) -> list[UsageError]:
    """Take the layers of these stems as `layout` reads them; returns what is wrong with that."""
    reasons: dict[str, list[str]] = {stem: [] for stem in stems}
    counts = dict.fromkeys(stems, 0)
    for anchor, found, number in list(_anchors(search, layout)):
        name = layer_name(layout, found, number)
        hits = _stems(found, name).intersection(stems)
        if not hits:
            continue
        result = match(layout, found, number, search.tensors)
        if not isinstance(result, Misfit):
            search.take(anchor, result)
        for stem in hits:
            if isinstance(result, Misfit):
                reasons[stem].append(f"{shortened(name, 120) or 'the top level'}: {result.reason}")
            else:
                counts[stem] += 1
    return [
        _unfit(layout, stem, reasons[stem])
        for stem in stems
        if not counts[stem] or (reasons[stem] and stem != _EVERYWHERE)
    ]


def _unfit(layout: Layout, stem: str, reasons: Sequence[str]) -> UsageError:
    where = f"of {shown(stem)} " if stem else ""
    why = reasons[0] if reasons else f"no tensor is called {layout.pieces[0].name} there"
    return UsageError(
        f"The layout {layout.name} does not fit any layer {where}({why}).", layer=stem or None
    )
