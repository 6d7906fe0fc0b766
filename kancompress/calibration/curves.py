"""What clustering each layer alone costs at the network's output, for some numbers of centroids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from kancompress.calibration.allocation import PROBES, Curve
from kancompress.calibration.layer import Problem
from kancompress.calibration.network import (
    LayerSolution,
    Place,
    Streams,
    advance,
    pose,
    relative,
    solve_layer,
    start,
)
from kancompress.nn.layer import EdgeLayer
from kancompress.recipes import CalibrationConfig, Method

# Curves need no last polish: fewer rounds, no sweeps.
_ROUNDS = 2

TellProbe = Callable[[str, int, float], None]


def measure_curves(
    layers: Mapping[str, EdgeLayer],
    rows: Tensor,
    held_out: Tensor,
    config: CalibrationConfig,
    places: Mapping[str, Place],
    *,
    most_bytes: int | None,
    tell: TellProbe | None = None,
) -> tuple[dict[str, Curve], Problem | None]:
    """Curves of all layers, errors on the held-out rows, and the first layer's problem.

    most_bytes : numbers of centroids that alone would take more are not tried
    """
    quick = replace(config, rounds=min(_ROUNDS, config.rounds))
    if config.method is Method.SWEEPS:
        quick = replace(quick, method=Method.FEEDBACK)
    streams = start(rows, held_out)
    names = list(layers)
    ends = _outputs(layers, held_out)
    curves: dict[str, Curve] = {}
    first: Problem | None = None
    for number, (name, layer) in enumerate(layers.items()):
        problem = pose(layer, streams[0], quick, places[name])
        first = first or problem
        curves[name] = _curve(layer, problem, config, places[name])
        errors: dict[int, float] = {}
        for k in _probes(curves[name], most_bytes):
            found = solve_layer(layer, streams, k, quick, places[name], problem)
            errors[k] = _at_the_end(layers, names[number:], streams[1], found, ends)
            if tell:
                tell(name, k, errors[k])
        curves[name] = replace(curves[name], errors=errors)
        streams = (advance(layer, streams[0], None), advance(layer, streams[1], None))
    return curves, first


def _curve(layer: EdgeLayer, problem: Problem, config: CalibrationConfig, place: Place) -> Curve:
    edges = problem.out * problem.inputs
    return Curve(
        edges=edges,
        coefficients=problem.d,
        itemsize=place.dtype.itemsize,
        dense_bytes=edges * problem.d * place.dense_itemsize,
        errors={},
    )


def _probes(curve: Curve, most_bytes: int | None) -> list[int]:
    """Numbers of centroids to try: below the edges, smaller than dense, within the budget."""
    found = [k for k in PROBES if k < curve.edges and curve.bytes_at(k) < curve.dense_bytes]
    if most_bytes is not None:
        # the fewest stay, so that a budget out of reach is told the smallest file there is
        found = [k for k in found if k == found[0] or curve.bytes_at(k) <= most_bytes]
    return found


def _outputs(layers: Mapping[str, EdgeLayer], x: Tensor) -> Tensor:
    stream = Streams(dense=x, packed=x)
    for layer in layers.values():
        stream = advance(layer, stream, None)
    return stream.dense


def _at_the_end(
    layers: Mapping[str, EdgeLayer],
    names: list[str],
    rows: Streams,
    found: LayerSolution,
    ends: Tensor,
) -> float:
    """Error of the network's output with the first of `names` clustered."""
    for number, name in enumerate(names):
        rows = advance(layers[name], rows, found if number == 0 else None)
    return relative(rows.packed, ends)
