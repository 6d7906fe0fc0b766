"""Find the KAN layers of a file: every layout against every stem, most specific first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from kancompress.errors import UsageError
from kancompress.layouts.catalogue import LAYOUTS
from kancompress.layouts.matching import find_stem, layer_name, match
from kancompress.layouts.notation import parse_layout
from kancompress.layouts.records import FoundLayer, Layout, Misfit, Recognition

_EVERYWHERE = ""


@dataclass(slots=True)
class _Search:
    """What has been found so far."""

    tensors: Mapping[str, Tensor]
    layers: list[FoundLayer] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    problems: dict[str, str] = field(default_factory=dict)
    misfits: dict[str, tuple[float, str]] = field(default_factory=dict)

    def take(self, anchor: str, layer: FoundLayer) -> None:
        """Add a layer, unless another has its tensors; those beside it may be shared."""
        twice = self.taken.intersection(layer.tensors) - set(layer.untouched)
        if twice:
            self.problems[anchor] = (
                f"{_shown(layer.name)} has names and shapes of the layout {layer.layout}, but"
                f" {min(twice)} already belongs to another layer."
            )
            return
        self.layers.append(layer)
        self.taken.update(layer.tensors)

    def is_free(self, anchor: str) -> bool:
        """Whether no layer and no problem has this tensor yet."""
        return anchor not in self.taken and anchor not in self.problems


def recognise(
    tensors: Mapping[str, Tensor],
    choices: Mapping[str, str] | None = None,
    *,
    layouts: Sequence[Layout] = LAYOUTS,
) -> Recognition:
    """Find all KAN layers by names and shapes; values are not read, so meta tensors will do.

    `choices` maps a layer's name or stem ("" for all that fit) to the name of a layout, or to one
    written by hand (see `kancompress.layouts.notation`). Raises UsageError for a choice that
    fits nothing.
    """
    search = _Search(tensors)
    wanted = {stem: _chosen(text, layouts) for stem, text in (choices or {}).items()}
    for stem, chosen in wanted.items():
        if stem != _EVERYWHERE:
            _apply_choice(search, stem, chosen)
    if _EVERYWHERE in wanted:
        _apply_choice(search, _EVERYWHERE, wanted[_EVERYWHERE])
    for layout in layouts:
        _try(search, layout)
    search.problems |= {
        anchor: text for anchor, (_, text) in search.misfits.items() if search.is_free(anchor)
    }
    order = {name: position for position, name in enumerate(tensors)}
    layers = sorted(search.layers, key=lambda layer: min(order[name] for name in layer.tensors))
    return Recognition(
        layers=tuple(layers),
        problems=tuple(
            search.problems[name] for name in sorted(search.problems, key=order.__getitem__)
        ),
        others=tuple(name for name in tensors if name not in search.taken),
    )


def _anchors(search: _Search, layout: Layout) -> Iterable[tuple[str, str, str]]:
    for tensor in search.tensors:
        found = find_stem(layout, tensor)
        if found is not None and search.is_free(tensor):
            yield tensor, *found


def _try(search: _Search, layout: Layout) -> None:
    for anchor, stem, number in _anchors(search, layout):
        result = match(layout, stem, number, search.tensors)
        name = layer_name(layout, stem, number)
        if isinstance(result, Misfit):
            rank, _ = search.misfits.get(anchor, (0, ""))
            if result.rank > rank:
                search.misfits[anchor] = (result.rank, _misfit_text(name, layout, result))
        elif layout.rivals:
            search.problems[anchor] = _rival_text(name, layout)
        else:
            search.take(anchor, result)


def _shown(name: str) -> str:
    return name or "The top level"


def _misfit_text(name: str, layout: Layout, misfit: Misfit) -> str:
    return (
        f"{_shown(name)} has names of the layout {layout.name} but was not taken"
        f" for it: {misfit.reason}."
    )


def _rival_text(name: str, layout: Layout) -> str:
    candidates = ", ".join((layout.name, *layout.rivals))
    return (
        f"{_shown(name)} has the names and shapes of several layouts with different"
        f" orders of coefficients ({candidates}); choose with"
        f" --layout {name}={layout.name}, or another of them in its place."
    )


def _chosen(text: str, layouts: Sequence[Layout]) -> Layout:
    if ":" in text:
        return parse_layout(text)
    for layout in layouts:
        if layout.name == text:
            return layout
    raise UsageError(
        f"No layout is called {text!r}; known are {', '.join(item.name for item in layouts)}."
        " One can be written by hand, as in 'coef=spline_weight:out in coef'."
    )


def _apply_choice(search: _Search, stem: str, layout: Layout) -> None:
    reasons: list[str] = []
    count = 0
    for anchor, found, number in _anchors(search, layout):
        name = layer_name(layout, found, number)
        if stem not in (_EVERYWHERE, name, found.rstrip(".")):
            continue
        result = match(layout, found, number, search.tensors)
        if isinstance(result, Misfit):
            reasons.append(f"{name or 'the top level'}: {result.reason}")
        else:
            count += 1
            search.take(anchor, result)
    if count and (stem == _EVERYWHERE or not reasons):
        return
    where = f"of {stem!r} " if stem else ""
    why = reasons[0] if reasons else f"no tensor is called {layout.pieces[0].name} there"
    raise UsageError(f"The layout {layout.name} does not fit any layer {where}({why}).")
