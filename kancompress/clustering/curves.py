"""What clustering each layer alone costs at the network's output, for some numbers of centroids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kancompress.clustering.allocation import PROBES, Curve
from kancompress.clustering.cuts import Number, divisors, number_of, split
from kancompress.clustering.flow import Flow
from kancompress.clustering.kept import Kept
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import (
    Place,
    Size,
    Solvable,
    is_small,
    naming,
    pose,
    solve_layer,
)
from kancompress.clustering.progress import NOBODY, Progress
from kancompress.config import CalibrationConfig, Method
from kancompress.formats.packed.encodings import index_bytes
from kancompress.layers.stored import scale_bytes

# Curves need no last polish: one start, fewer rounds, no sweeps.
_ROUNDS = 2
# Centroids whose codebook is compared with the indices, to tell layers whose edges are worth
# cutting; numbers of parts that are tried there at the most, and numbers of centroids of parts.
_USUAL, _MOST_CUTS, _PROBES_OF_PARTS = 16, 3, (4, 16, 64, 256)

TellProbe = Callable[[str, Number, float], None]


def measure_curves(
    flow: Flow,
    config: CalibrationConfig,
    *,
    most_bytes: int | None,
    priced_to: int | None = None,
    tell: TellProbe | None = None,
    progress: Progress = NOBODY,
    kept: Kept | None = None,
) -> tuple[dict[str, Curve], Problem | None]:
    """Curves of all layers, errors on the held-out rows, and the first layer's problem.

    flow       : nothing of it settled; it is restarted in the end
    most_bytes : numbers of centroids that alone would take more are not tried
    priced_to  : every other of those that would take more than this is not tried either
    progress   : told of blocks of rows and of passes
    kept       : what was measured already, and gets what is
    """
    quick = replace(
        config, rounds=_ROUNDS if config.rounds is None else min(_ROUNDS, config.rounds), starts=1
    )
    if config.method is Method.SWEEPS:
        quick = replace(quick, method=Method.FEEDBACK)
    curves: dict[str, Curve] = {}
    kept = kept or Kept()

    budgets = most_bytes, priced_to
    wanted = {
        name: _wanted(layer, flow.places[name], budgets) for name, layer in flow.layers.items()
    }
    parts = _parts(flow, wanted, quick, kept, progress)

    def posed(name: str, layer: Solvable, cut: int, known: Problem | None) -> Problem:
        if known is not None:
            return known
        with naming(name):
            place, part = flow.places[name].cut(cut), parts[name, cut][0]
            problem = pose(layer, flow.seen(name)[0], quick, place, part)
        kept.first = kept.first or problem
        return problem

    def measured(name: str, layer: Solvable, cut: int, known: Problem | None = None) -> Curve:
        place, held = flow.places[name], flow.seen(name)[1]
        numbers = wanted[name][cut]
        missing = [number for number in numbers.values() if (name, number) not in kept.probes]
        if missing or not numbers:
            known = posed(name, layer, cut, known)
        for number, part in zip(missing, parts[name, cut][1:], strict=True):
            with naming(name):
                # Only what is held out tells here.
                plain, both = flow.plain(name), (held, held)
                found = solve_layer(
                    layer, both, number, quick, place, known, known=plain, progress=part
                )
            kept.probes[name, number] = flow.alone(name, found, quick)
            if tell:
                tell(name, number, kept.probes[name, number])
        errors = {k: kept.probes[name, number] for k, number in numbers.items()}
        return replace(_curve(layer, place, cut), errors=errors)

    for name, layer in flow.layers.items():
        given, *others = wanted[name]
        whole = measured(name, layer, given, None if curves else kept.first)
        shorter = tuple(measured(name, layer, cut) for cut in others)
        curves[name] = replace(whole, shorter=shorter)
        flow.settle(name, None)
    flow.restart()
    return curves, kept.first


# Of a layer: numbers of parts to numbers of centroids that are tried, each with its parts.
Wanted = Mapping[int, Mapping[int, Number]]


def _wanted(layer: Solvable, place: Place, budgets: tuple[int | None, int | None]) -> Wanted:
    """What is tried of a layer."""
    return {
        cut: {k: number_of(k, cut) for k in _probes(_curve(layer, place, cut), *budgets)}
        for cut in _cuts(layer, place)
    }


def _parts(
    flow: Flow,
    wanted: Mapping[str, Wanted],
    config: CalibrationConfig,
    kept: Kept,
    progress: Progress,
) -> dict[tuple[str, int], list[Progress]]:
    """Of a layer in so many parts: the moments, and each number of centroids that is missing."""
    named: dict[tuple[str, int], list[str]] = {}
    taken: list[float] = []
    at_hand = kept.first is not None
    for name, cuts in wanted.items():
        size = Size.of(flow.layers[name])
        for cut, numbers in cuts.items():
            told = f"layer {name}"
            missing = [k for k in numbers.values() if (name, k) not in kept.probes]
            posed = at_hand or bool(numbers and not missing)
            moments = 0.0 if posed else size.costs(2, config, posed=False)[1]
            wholes = (size.costs(split(k).clusters, config, posed=True) for k in missing)
            taken += [moments, *map(sum, wholes)]
            named[name, cut] = [told, *(f"{told} at k = {split(k).clusters}" for k in missing)]
            at_hand = False
    parts = iter(progress.parts(taken))
    return {
        key: [next(parts).part(0.0, 1.0, what) for what in whats] for key, whats in named.items()
    }


def _curve(layer: Solvable, place: Place, parts: int) -> Curve:
    dense, coding = layer.edges(), place.coding
    d = dense.shape[-1]
    edges = dense.numel() // d if coding is None else coding.edges + coding.masked
    return Curve(
        edges=edges,
        masked=0 if coding is None else coding.masked,
        coefficients=d,
        itemsize=place.dtype.itemsize,
        scale=scale_bytes(place.dtype),
        dense_bytes=edges * d * place.dense_itemsize,
        errors={},
        parts=parts,
    )


def _cuts(layer: Solvable, place: Place) -> list[int]:
    """Numbers of parts to try: those that were asked for, or whole edges and some more where the
    codebook of those would outweigh the indices and a solution takes but a moment."""
    if place.parts is not None:
        return [place.parts]
    whole = _curve(layer, place, 1)
    indices = index_bytes(whole.edges, _USUAL)
    if whole.bytes_at(_USUAL) - indices < indices or not is_small(layer):
        return [1]
    found = divisors(whole.coefficients)[1:]
    step = max(1, -(-len(found) // _MOST_CUTS))
    return [1, *reversed(found[::-1][::step])]


def _probes(curve: Curve, most_bytes: int | None, priced_to: int | None) -> list[int]:
    """Numbers of centroids to try: below the edges, smaller than dense, within the budget."""
    vectors = (curve.edges - curve.masked) * curve.parts
    numbers = PROBES if curve.parts == 1 else _PROBES_OF_PARTS
    found = [k for k in numbers if k < vectors and curve.bytes_at(k) < curve.dense_bytes]
    if most_bytes is not None:
        # the fewest stay, so that a budget out of reach is told the smallest file there is
        found = [k for k in found if k == found[0] or curve.bytes_at(k) <= most_bytes]
    if priced_to is not None:
        within = [k for k in found if k == found[0] or curve.bytes_at(k) <= priced_to]
        found = [*within, *found[len(within) :][1::2]]
    return found
