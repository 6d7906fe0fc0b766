"""Hold one layout against one stem of a file: do all names and shapes agree?"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Generic, TypeVar

from kancompress.formats.arrays import Described, dtype_name
from kancompress.formats.edges.axes import (
    EDGE,
    KERNEL,
    Claim,
    Sizes,
    coefficient_runs,
    completed,
    parse_axes,
    solve,
)
from kancompress.formats.edges.found import FoundLayer, Gain, Mask, Part
from kancompress.frozen import dataclass
from kancompress.libraries.checks import real_type
from kancompress.libraries.notation import entries
from kancompress.libraries.records import Beside, Layout, Misfit, Scale, Veil

_NUMBER = r"(?:0|[1-9]\d*)"


@lru_cache(maxsize=512)
def _anchor(name: str) -> re.Pattern[str]:
    pattern = re.escape(name.replace("#", "0")).replace(r"\*", f"(?P<number>{_NUMBER})", 1)
    return re.compile(rf"(?P<stem>(?:.+\.)?){pattern}", re.DOTALL)


def find_stem(layout: Layout, tensor: str) -> tuple[str, str] | None:
    """Stem (with its dot) and layer number if the tensor's name is that of the anchor."""
    found = _anchor(layout.pieces[0].name).fullmatch(tensor)
    if found is None:
        return None
    return found["stem"], found.groupdict().get("number") or ""


@lru_cache(maxsize=512)
def _ending(name: str) -> re.Pattern[str] | str:
    """What the names of a layout's anchors have behind their last dot."""
    front, _, last = name.replace("#", "0").rpartition(".")
    if "*" in front or "*" not in last:
        return last
    return re.compile(re.escape(last).replace(r"\*", _NUMBER, 1))


T = TypeVar("T", bound=Described)
T_co = TypeVar("T_co", covariant=True)


class Named(Mapping[str, T_co]):
    """Tensors whose names below a prefix are found without a look at all others."""

    def __init__(self, tensors: Mapping[str, T_co]) -> None:
        self._tensors = tensors
        self._places = {name: place for place, name in enumerate(tensors)}
        self._sorted = sorted(tensors)
        self._by_ending: dict[str, list[str]] = {}
        for name in tensors:
            self._by_ending.setdefault(name.rpartition(".")[2], []).append(name)

    def __getitem__(self, name: str) -> T_co:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def below(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, in the order of the file."""
        names = self._sorted
        first = last = bisect_left(names, prefix)
        while last < len(names) and names[last].startswith(prefix):
            last += 1
        return sorted(names[first:last], key=self._places.__getitem__)

    def may_be(self, anchor: str) -> list[str]:
        """Names that end as a layout's anchor does, in the order of the file."""
        ending = _ending(anchor)
        if isinstance(ending, str):
            return self._by_ending.get(ending, [])
        met = [names for end, names in self._by_ending.items() if ending.fullmatch(end)]
        return sorted(chain.from_iterable(met), key=self._places.__getitem__)


@dataclass(frozen=True, slots=True)
class Scene(Generic[T]):
    """One stem of a file: how the relative names of a layout become those of tensors."""

    stem: str
    number: str
    tensors: Mapping[str, T]

    def full(self, name: str) -> str:
        """Full name; `**` and `#` stay as they are."""
        return self.stem + re.sub(r"(?<!\*)\*(?!\*)", self.number, name)

    def names(self, name: str) -> list[str]:
        """Full names of the tensors that exist."""
        full = self.full(name)
        if name.endswith("**") and isinstance(self.tensors, Named):
            return self.tensors.below(full[:-2])
        if name.endswith("**"):
            return [other for other in self.tensors if other.startswith(full[:-2])]
        if "#" in name:
            return list(self._numbered(full.removeprefix(self.stem)))
        return [full] if full in self.tensors else []

    def _numbered(self, name: str) -> Iterator[str]:
        group = 0
        while (full := self.stem + name.replace("#", str(group))) in self.tensors:
            yield full
            group += 1

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor by its full name."""
        return tuple(self.tensors[name].shape)


def match(
    layout: Layout, stem: str, number: str, tensors: Mapping[str, Described]
) -> FoundLayer | Misfit:
    """The layer at `stem` as the layout reads it, or why it does not fit."""
    if layout.finder is not None:
        return layout.finder(layout, stem, number, tensors)
    if layout.foreign_stems and re.search(layout.foreign_stems, stem):
        return Misfit(reason="another layout has such layers", rank=0)
    scene = Scene(stem, number, tensors)
    misfit = _names_misfit(layout, scene)
    if misfit is not None:
        return misfit
    sizes = Sizes()
    misfit = _sizes_misfit(layout, scene, sizes)
    if misfit is not None:
        return misfit
    if reason := _lacking(layout, scene, sizes.known):
        return Misfit(reason=reason, rank=2)
    for check in layout.checks:
        if reason := check(sizes.known):
            return Misfit(reason=reason, rank=2)
    return _build(layout, scene, sizes.known)


def _names_misfit(layout: Layout, scene: Scene[Described]) -> Misfit | None:
    for name in layout.forbidden:
        if scene.names(name):
            return Misfit(reason=f"{scene.full(name)} does not belong to it", rank=0)
    wanted = [piece.name for piece in layout.pieces if not piece.optional]
    wanted += [item.name for item in _others(layout) if item.required]
    missing = [scene.full(name) for name in wanted if not scene.names(name)]
    if missing:
        present = len(wanted) - len(missing)
        # One name alone is no sign of a layer.
        rank = present / len(wanted) if present > 1 else 0.0
        return Misfit(reason=f"{missing[0].replace('#', '0')} is missing", rank=rank)
    return None


def _others(layout: Layout) -> tuple[Scale | Veil | Beside, ...]:
    return (*layout.scales, *layout.veils, *layout.beside)


def _sizes_misfit(layout: Layout, scene: Scene[Described], sizes: Sizes) -> Misfit | None:
    items = [(piece.name, piece.axes) for piece in layout.pieces]
    items += [(item.name, item.axes) for item in _others(layout) if item.axes]
    claims: list[Claim] = []
    for name, axes in items:
        found = scene.names(name)
        if "#" in name and found:
            label = f"{found[-1]}, the last of {scene.full(name)},"
            if reason := sizes.bind("group", len(found), label):
                return Misfit(reason=reason, rank=2)
        claims += [Claim(full, scene.shape(full), parse_axes(axes)) for full in found]
    for piece in layout.pieces:
        for full in scene.names(piece.name):
            if reason := real_type(full, scene.tensors[full].dtype):
                return Misfit(reason=reason, rank=2)
    reason = solve(claims, sizes)
    return Misfit(reason=reason, rank=2 if claims[0].has_rank else 1) if reason else None


def _lacking(layout: Layout, scene: Scene[Described], sizes: Mapping[str, int]) -> str:
    """Why a tensor does not hold coefficients of every edge; "" where all do."""
    edge = {name for name in KERNEL if name in sizes}
    edge |= {name for name in EDGE if sizes.get(name, 1) > 1}
    for piece in layout.pieces:
        named = {*parse_axes(piece.memory or piece.axes).names}
        named |= {"group"} if "#" in piece.name else set()
        if (found := scene.names(piece.name)) and (absent := sorted(edge - named)):
            return f"{found[0]} ({piece.axes}) has no axis {absent[0]}, which others have"
    return ""


def _build(layout: Layout, scene: Scene[Described], sizes: Mapping[str, int]) -> FoundLayer:
    parts, coefficients, scaled = _parts(layout, scene, sizes)
    gains = tuple(
        Gain(
            tensor=full,
            axes=scale.axes,
            first=0,
            last=scaled,
            shape=scene.shape(full),
            dtype=dtype_name(scene.tensors[full].dtype),
        )
        for scale in layout.scales
        for full in scene.names(scale.name)
    )
    masks = tuple(
        Mask(tensor=full, axes=veil.axes, live=veil.live)
        for veil in layout.veils
        for full in scene.names(veil.name)
    )
    taken = {part.tensor for part in parts} | {gain.tensor for gain in gains}
    untouched = [mask.tensor for mask in masks]
    untouched += [full for item in layout.beside for full in scene.names(item.name)]
    groups = sizes.get("group", 1)
    shape: tuple[int, ...] = (groups * sizes["out"], sizes.get("in", 1))
    if "kh" in sizes or "kd" in sizes:
        shape += (sizes["kd"],) if "kd" in sizes else ()
        shape += (sizes.get("kh", 1), sizes.get("kw", 1))
    return FoundLayer(
        name=layer_name(layout, scene.stem, scene.number),
        layout=layout.name,
        shape=shape,
        groups=groups,
        coefficients=coefficients,
        parts=parts,
        gains=gains,
        mask=next((mask.tensor for mask in masks if mask.live), None),
        masks=masks,
        untouched=tuple(dict.fromkeys(name for name in untouched if name not in taken)),
        codebook_group=scene.stem + layout.pool if layout.pool else None,
        notes=fold_notes(gains) + layout.notes,
        entries=entries(layout),
    )


def _parts(
    layout: Layout, scene: Scene[Described], sizes: Mapping[str, int]
) -> tuple[tuple[Part, ...], int, int]:
    """The parts, the length of the edge vector, and how much of its start scales multiply."""
    parts: list[Part] = []
    first = scaled = 0
    kernel = [name for name in KERNEL if name in sizes]
    whole = KERNEL if "kd" in kernel else KERNEL[1:] if kernel else ()
    missing = [name for name in ("in", *whole) if name not in sizes]
    for piece in layout.pieces:
        found = scene.names(piece.name)
        if not found:
            continue
        runs = coefficient_runs(parse_axes(piece.memory or piece.axes))
        last = first + math.prod(sizes[name] for run in runs for name in run)
        scaled = last if runs else scaled
        axes = completed(piece.memory or piece.axes, missing)
        for group, full in enumerate(found):
            part = Part(
                tensor=full,
                axes=axes,
                first=first,
                last=last,
                shape=scene.shape(full),
                dtype=dtype_name(scene.tensors[full].dtype),
                group=group if "#" in piece.name and len(found) > 1 else None,
            )
            parts.append(part)
        first = last
    return tuple(parts), first, scaled


def fold_notes(gains: tuple[Gain, ...]) -> tuple[str, ...]:
    """What the user should know of a layer's factors where they are folded."""
    if not gains:
        return ()
    names = ", ".join(gain.tensor for gain in gains)
    return (
        f"{names} is folded into the coefficients and restored as ones:"
        " the same function in other numbers.",
    )


def layer_name(layout: Layout, stem: str, number: str) -> str:
    """Name of a layer as the user knows it."""
    return (stem + layout.label.replace("*", number)).rstrip(".")
