"""What a page is told beside the packed file: what its scripts cannot know from the file alone."""

from __future__ import annotations

import base64
import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.formats.packed import PackedRecord
from kancompress.layers import forms
from kancompress.runtime.program import Edges, Layer, Program, packed_edges
from kancompress.specs import DatasetName

_CLOTHES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
_THINGS = (
    "aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry",
)  # fmt: skip
# Names of a data set's classes, where they are others than their numbers.
LABELS: dict[str, tuple[str, ...]] = {
    DatasetName.FASHION_MNIST: _CLOTHES,
    DatasetName.CIFAR10: _THINGS,
}
TITLES: dict[str, str] = {
    DatasetName.DIGITS: "Handwritten digits",
    DatasetName.MNIST: "Handwritten digits",
    DatasetName.FASHION_MNIST: "Articles of clothing",
    DatasetName.CIFAR10: "Small pictures",
    DatasetName.CIFAR100: "Small pictures",
}
# How the makers of a data set saw ink: assets/drawing.js says what the words mean. Those of
# scikit-learn's digits fill 8 rows and on average 5.6 columns.
_IMAGES: dict[str, dict[str, Any]] = {
    DatasetName.MNIST: {"channels": 1, "side": 28, "pen": 2.4, "box": 20, "mass": True},
    DatasetName.FASHION_MNIST: {"channels": 1, "side": 28, "pen": 4, "box": 28},
    DatasetName.DIGITS: {"channels": 1, "side": 8, "pen": 1.75, "box": 8, "narrow": 0.85},
    DatasetName.CIFAR10: {"channels": 3, "side": 32, "pen": 3, "ground": 0.5},
    DatasetName.CIFAR100: {"channels": 3, "side": 32, "pen": 3, "ground": 0.5},
}
_LEAST_SIDE = 5


def image_of(program: Program) -> dict[str, Any] | None:
    """The images that a network takes, as the page draws them; None where it takes numbers.

    Fully connected networks whose inputs are those of a square are taken to see images.
    """
    data = program.data
    known = _IMAGES.get(data.name, {}) if data else {}
    inputs, channels = program.inputs, known.get("channels", 1)
    side = known.get("side", 28 if inputs == 1 else 32)
    if program.is_conv:
        if inputs not in (1, 3):
            return None
        channels = inputs
    else:
        found = [each for each in (channels, 3) if _side(inputs, each)]
        if not found:
            return None
        channels = found[0]
        side = _side(inputs, channels)
    mean, std = (list(data.mean), list(data.std)) if data else ([], [])
    return {"pen": 2.5, **known, "channels": channels, "side": side, "mean": mean, "std": std}


def _side(inputs: int, channels: int) -> int:
    """Side of square images of so many numbers, 0 where there is none that is an image."""
    side = math.isqrt(inputs // channels)
    return side if side * side * channels == inputs and side >= _LEAST_SIDE else 0


def layers_of(program: Program, record: PackedRecord[Any]) -> list[dict[str, Any]]:
    """Forms and arrays of another library's layers, which its packed file does not tell."""
    return [_layer(layer, record) for layer in program.layers]


def _layer(layer: Layer, record: PackedRecord[Any]) -> dict[str, Any]:
    shared = _knots(layer.form.basis)
    arrays = {
        role: _array(_one_row(array) if role in shared else array)
        for role, array in layer.arrays.items()
    }
    if layer.bias is not None:
        arrays["bias"] = _array(layer.bias)
    gains = [
        {"first": gain.first, "last": gain.last, "factors": _array(gain.factors)}
        for gain in layer.edges.gains
    ]
    found: dict[str, Any] = {"form": _data(layer.form), "arrays": arrays, "gains": gains}
    stored = _stored(layer.edges, record)
    if stored is not None:
        return {"name": layer.name, "stored": stored, **found}
    return {"name": layer.name, "edges": _edges(layer.edges), **found}


def _stored(edges: Edges, record: PackedRecord[Any]) -> str | None:
    """The packed layer of the file that has these edges, None where no one has them as they are."""
    for other in record.layers:
        if other.shape != edges.shape or other.groups > 1:
            continue
        own = packed_edges(record, other, edges.table.dtype.type)
        if own.rows is None or edges.rows is None or own.parts != edges.parts:
            continue
        if np.array_equal(own.rows, edges.rows) and np.array_equal(own.table, edges.table):
            return other.name
    return None


def _edges(edges: Edges) -> dict[str, Any]:
    rows = None if edges.rows is None else _array(edges.rows)
    return {
        "shape": list(edges.shape),
        "size": edges.size,
        "parts": edges.parts,
        "clusters": edges.clusters,
        "table": _array(edges.table),
        "rows": rows,
    }


def _array(values: npt.NDArray[Any]) -> dict[str, Any]:
    raw = np.ascontiguousarray(values, "<f4").tobytes()
    return {"shape": list(values.shape), "f32": base64.b64encode(raw).decode()}


def _knots(basis: forms.Basis) -> set[str]:
    """Roles of arrays with a row for each input."""
    match basis:
        case forms.Splines(_, knots):
            return {knots}
        case forms.Bumps(_, low, high, _):
            return {low, high}
        case forms.Sum(one, _):
            return {one.knots}
    return set()


def _one_row(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The first row where all are equal: the page takes one for all inputs."""
    return array[:1] if array.ndim == 2 and bool((array == array[:1]).all()) else array


def _data(value: Any) -> Any:
    """A record of `layers.forms` as JSON; `kind` is its class."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: _data(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, **own}
    if isinstance(value, tuple):
        return [_data(one) for one in value]
    return value
