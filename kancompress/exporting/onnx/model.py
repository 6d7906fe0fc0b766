"""A network as an ONNX model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from kancompress.config import OnnxOptions, Weights
from kancompress.errors import KancompressError, UsageError
from kancompress.exporting.onnx.edges import Codebooks
from kancompress.exporting.onnx.graph import IR, OPSET, Graph, library
from kancompress.exporting.onnx.layers import Layers
from kancompress.exporting.record import Exported
from kancompress.runtime.program import Layer, Program
from kancompress.version import __version__

# Bytes that a message of protobuf may have.
_MOST = (1 << 31) - 1
_INPUT, _OUTPUT = "x", "y"


def encode(program: Program, options: OnnxOptions) -> Exported:
    """The model, its bytes by their parts, and what there is to say of it.

    Raises UsageError for options that the network cannot have, KancompressError without the
    package `onnx` and for a model that is too large.
    """
    _check(program, options)
    graph, notes = Graph(), [f"opset {OPSET}, IR {IR}"]
    model = _model(graph, program, options, notes)
    library().checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    parts = {part: count for part, count in graph.bytes.items() if part != "graph"}
    parts["graph"] = len(data) - sum(parts.values())
    details = {
        "opset": OPSET,
        "ir_version": IR,
        "inputs": {_INPUT: _input_shape(program)},
        "outputs": {_OUTPUT: _output_shape(program)},
        "normalisation": options.with_normalisation,
        "softmax": options.with_softmax,
        "weights": options.weights.value,
    }
    return Exported(
        data=data,
        format="onnx",
        source_bytes=program.file_bytes,
        parts=parts,
        details=details,
        notes=tuple(notes),
    )


def size(program: Program, options: OnnxOptions) -> int:
    """Bytes of the model, without writing it."""
    _check(program, options)
    return int(_model(Graph(), program, options, []).ByteSize())


def _model(graph: Graph, program: Program, options: OnnxOptions, notes: list[str]) -> Any:
    layers = Layers(graph, Codebooks(graph, {}), options.weights is Weights.TABLE)
    value = _INPUT
    if options.with_normalisation:
        value = _normalised(graph, program, value)
    for layer in program.layers:
        value = layers.of(layer, value)
    if program.head is not None:
        value = layers.head(program.head, value)
    if options.with_softmax:
        value = graph.node("Softmax", value, axis=-1)
    if options.weights is Weights.TABLE:
        notes.extend(_dense_ones(program, layers))
    ends = ([(_INPUT, _input_shape(program))], [(_OUTPUT, _output_shape(program))])
    return graph.model(*ends, value, {"kancompress": _facts(program, options)})


def _input_shape(program: Program) -> list[str | int]:
    return ["batch", program.inputs, *(("height", "width") if program.is_conv else ())]


def _output_shape(program: Program) -> list[str | int]:
    is_map = program.is_conv and program.head is None
    return ["batch", program.outputs, *(("rows", "columns") if is_map else ())]


def _check(program: Program, options: OnnxOptions) -> None:
    """Refuse what cannot be written."""
    data = program.data
    if options.with_softmax and data is not None and data.is_regression:
        raise UsageError(
            f"{program.where} predicts numbers, not classes; leave `with_softmax` out.",
            where=program.where,
            fields=("with_softmax",),
        )
    if options.with_normalisation and data is None:
        raise UsageError(
            f"{program.where} does not say how its data were normalised; leave `with_normalisation`"
            " out, and give rows as the network takes them.",
            where=program.where,
            fields=("with_normalisation",),
        )
    dense = sum(layer.edges.table.nbytes for layer in program.layers)
    if dense > _MOST:
        raise KancompressError(
            f"{program.where} has {dense:,} bytes of weights, and an ONNX file may have {_MOST:,};"
            " pack it first, with: kancompress cluster FILE -o PACKED",
            where=program.where,
        )


def _dense_ones(program: Program, layers: Layers) -> list[str]:
    """What to say of layers that have dense weights, although none were asked for."""
    names = [layer.name for layer in program.layers if not layers.picks(layer)]
    if not names:
        return []
    which = f"layer {names[0]}" if len(names) == 1 else f"layers {', '.join(names)}"
    return [f"{which}: dense weights, for lack of a codebook, for a map, or for cut factors"]


def _normalised(graph: Graph, program: Program, x: str) -> str:
    """Rows as the data set has them, as the network takes them."""
    data = program.data
    assert data is not None
    mean, std = (np.array(one, np.float32) for one in (data.mean, data.std))
    if not mean.size or (not mean.any() and (std == 1).all()):
        return x
    channels = len(mean)
    if len(std) != channels or not std.all():
        raise UsageError(
            f"{program.where} has no deviation for each mean of its data, or one of 0; leave"
            " `with_normalisation` out, and give rows as the network takes them.",
            where=program.where,
            fields=("with_normalisation",),
        )
    if program.inputs % channels or (program.is_conv and program.inputs != channels):
        raise UsageError(
            f"{program.where} has {program.inputs} inputs, and its data {channels} channels, so"
            " that it is not clear which belong together; leave `with_normalisation` out.",
            where=program.where,
            fields=("with_normalisation",),
        )
    as_it_is = program.is_conv or channels == 1
    planes = x if as_it_is else graph.node("Reshape", x, graph.ints(0, channels, -1))
    beside = (channels, *((1, 1) if program.is_conv else () if as_it_is else (1,)))
    away = graph.node("Sub", planes, graph.constant(mean.reshape(beside)))
    scaled = graph.node("Div", away, graph.constant(std.reshape(beside)))
    return scaled if as_it_is else graph.node("Flatten", scaled)


def _facts(program: Program, options: OnnxOptions) -> str:
    """What the model says of itself, as JSON."""
    record: dict[str, Any] = {"version": __version__}
    if program.data is not None:
        record["data"] = program.data.to_json()
    record["layers"] = [_facts_of(layer) for layer in program.layers]
    record["source_bytes"] = program.file_bytes
    record |= {"normalisation": options.with_normalisation, "softmax": options.with_softmax}
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _facts_of(layer: Layer) -> dict[str, Any]:
    edges = layer.edges
    found: dict[str, Any] = {"name": layer.name, "shape": list(edges.shape), "size": edges.size}
    if edges.rows is not None:
        found["clusters"] = edges.clusters
    if edges.parts > 1:
        found["parts"] = edges.parts
    if edges.owner:
        found["shares"] = edges.owner
    return found
