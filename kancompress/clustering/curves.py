"""What clustering each layer alone costs at the network's output, for some numbers of centroids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kancompress.clustering.allocation import PROBES, Curve
from kancompress.clustering.flow import Flow
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import Place, Solvable, naming, pose, solve_layer
from kancompress.config import CalibrationConfig, Method
from kancompress.layers.stored import scale_bytes

# Curves need no last polish: one start, fewer rounds, no sweeps.
_ROUNDS = 2

TellProbe = Callable[[str, int, float], None]


def measure_curves(
    flow: Flow,
    config: CalibrationConfig,
    *,
    most_bytes: int | None,
    tell: TellProbe | None = None,
) -> tuple[dict[str, Curve], Problem | None]:
    """Curves of all layers, errors on the held-out rows, and the first layer's problem.

    flow       : nothing of it settled; it is restarted in the end
    most_bytes : numbers of centroids that alone would take more are not tried
    """
    quick = replace(
        config, rounds=_ROUNDS if config.rounds is None else min(_ROUNDS, config.rounds), starts=1
    )
    if config.method is Method.SWEEPS:
        quick = replace(quick, method=Method.FEEDBACK)
    curves: dict[str, Curve] = {}
    first: Problem | None = None
    for name, layer in flow.layers.items():
        streams, place = flow.seen(name), flow.places[name]
        with naming(name):
            problem = pose(layer, streams[0], quick, place)
        first = first or problem
        curves[name] = _curve(layer, problem, place)
        errors: dict[int, float] = {}
        for k in _probes(curves[name], most_bytes):
            with naming(name):
                found = solve_layer(layer, streams, k, quick, place, problem)
            errors[k] = flow.alone(name, found, quick)
            if tell:
                tell(name, k, errors[k])
        curves[name] = replace(curves[name], errors=errors)
        flow.settle(name, None)
    flow.restart()
    return curves, first


def _curve(layer: Solvable, problem: Problem, place: Place) -> Curve:
    coding = place.coding
    edges = problem.out * problem.inputs if coding is None else coding.edges + coding.masked
    return Curve(
        edges=edges,
        masked=0 if coding is None else coding.masked,
        coefficients=problem.d,
        itemsize=place.dtype.itemsize,
        scale=scale_bytes(place.dtype),
        dense_bytes=edges * problem.d * place.dense_itemsize,
        errors={},
    )


def _probes(curve: Curve, most_bytes: int | None) -> list[int]:
    """Numbers of centroids to try: below the edges, smaller than dense, within the budget."""
    found = [
        k
        for k in PROBES
        if k < curve.edges - curve.masked and curve.bytes_at(k) < curve.dense_bytes
    ]
    if most_bytes is not None:
        # the fewest stay, so that a budget out of reach is told the smallest file there is
        found = [k for k in found if k == found[0] or curve.bytes_at(k) <= most_bytes]
    return found
