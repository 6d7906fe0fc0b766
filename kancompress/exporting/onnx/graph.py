"""An ONNX graph while it is made: nodes in their order, constants once, numbers stored narrow."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import KancompressError
from kancompress.formats.packed.encodings.int8 import MOST, REACHES, SCALES
from kancompress.runtime.program import Numbers

OPSET, IR = 21, 10
Array = npt.NDArray[Any]

# ONNX's numbers of types (TensorProto.DataType).
FLOAT, UINT8, INT8, UINT16, INT32, INT64, FLOAT16, UINT32, BFLOAT16, UINT4 = (
    1, 2, 3, 4, 6, 7, 10, 12, 16, 21,
)  # fmt: skip
_TYPES = {
    "float32": FLOAT, "uint8": UINT8, "int8": INT8, "uint16": UINT16, "int32": INT32,
    "int64": INT64, "float16": FLOAT16, "uint32": UINT32,
}  # fmt: skip
# What a node that widens numbers weighs in the file, or more.
_NODE = 48


def library() -> Any:
    """The package `onnx`. Raises KancompressError where it is not installed."""
    try:
        return import_module("onnx")
    except ImportError:
        raise KancompressError(
            "ONNX models need onnx, which is not installed; get it with:"
            " pip install 'kancompress[onnx]'"
        ) from None


class Graph:
    """Nodes and constants, in the order in which they are asked for.

    Values are spoken of by their names. `bytes` counts what constants hold, by what they are.
    """

    def __init__(self) -> None:
        self._onnx = library()
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._known: dict[tuple[int, tuple[int, ...], bytes], str] = {}
        self._derived: dict[tuple[Any, ...], str] = {}
        self._count = 0
        self.bytes: Counter[str] = Counter()

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """The name of what an operator makes of its inputs."""
        name = self._name()
        self._nodes.append(self._onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def once(self, op: str, *inputs: str, **attributes: Any) -> str:
        """As `node`, but what was made of the same inputs before is taken again."""
        key = (op, inputs, tuple(sorted(attributes.items())))
        if key not in self._derived:
            self._derived[key] = self.node(op, *inputs, **attributes)
        return self._derived[key]

    def raw(self, data: bytes, kind: int, shape: tuple[int, ...], part: str = "graph") -> str:
        """A constant from its bytes; one that is there already is taken again."""
        key = (kind, shape, data)
        if key not in self._known:
            name = self._known[key] = self._name()
            tensor = self._onnx.TensorProto(name=name, data_type=kind, dims=shape, raw_data=data)
            self._constants.append(tensor)
            self.bytes[part] += len(data)
        return self._known[key]

    def constant(self, array: Array, part: str = "graph") -> str:
        """A constant as it is."""
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        return self.raw(little.tobytes(), _TYPES[array.dtype.name], array.shape, part)

    def ints(self, *values: int) -> str:
        """Whole numbers, as shapes and places of slices are."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A single number."""
        return self.constant(np.array(value, np.float32))

    def numbers(self, values: Numbers, part: str = "others") -> str:
        """Numbers in float32, stored in the narrowest type that holds them exactly."""
        wide = values.astype(np.float32)
        kind, data = _narrowest(wide)
        name = self.raw(data, kind, wide.shape, part)
        return name if kind == FLOAT else self.once("Cast", name, to=FLOAT)

    def table(self, values: Numbers) -> str:
        """A codebook (k, d) in float32, stored as `numbers`, or as bytes with a scale for each
        column where these hold it exactly."""
        kind, data = _narrowest(values.astype(np.float32))
        scaled = _in_bytes(values)
        weight = len(data) + (0 if kind == FLOAT else _NODE)
        if scaled is None or sum(one.nbytes for one in scaled) + 4 * _NODE > weight:
            return self.numbers(values, "codebooks")
        wide = [self.once("Cast", self.constant(one, "codebooks"), to=FLOAT) for one in scaled]
        return self.once("Mul", *wide)

    def model(self, inputs: list[Any], outputs: list[Any], last: str, facts: dict[str, str]) -> Any:
        """The model.

        inputs, outputs : name and shape of each; numbers of axes, or names of free ones
        last            : the value that becomes the only output
        facts           : what the model says of itself
        """
        helper = self._onnx.helper
        self._nodes[-1].output[0] = outputs[0][0]
        assert last == self._last, "the last node makes the output"
        told = [
            [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in values]
            for values in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, "kan", *told, self._constants)
        model = helper.make_model(
            graph, ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name="kancompress",
        )  # fmt: skip
        helper.set_model_props(model, facts)
        return model

    def _name(self) -> str:
        self._last = f"t{self._count}"
        self._count += 1
        return self._last


def _narrowest(wide: Array) -> tuple[int, bytes]:
    """The type that holds these float32 exactly in the fewest bytes of the file, and the bytes."""
    little = np.ascontiguousarray(wide).astype("<f4", copy=False)
    bits = little.view("<u4")
    with np.errstate(over="ignore"):
        half = little.astype("<f2")
    if bool((np.abs(wide) <= MOST).all()) and np.array_equal(np.rint(wide), wide):
        kind, data = INT8, wide.astype(np.int8).tobytes()
    elif np.array_equal(half.astype(np.float32), wide):
        kind, data = FLOAT16, half.tobytes()
    elif not (bits & 0xFFFF).any():  # bfloat16 is the upper half of a float32
        kind, data = BFLOAT16, (bits >> 16).astype("<u2").tobytes()
    else:
        kind, data = FLOAT, b""
    return (kind, data) if data and len(data) + _NODE < wide.nbytes else (FLOAT, little.tobytes())


def _in_bytes(values: Numbers) -> tuple[Array, Array] | None:
    """Whole numbers (k, d) and a float16 scale for each column whose products in float32 these are,
    as the encoding `int8` has them; None where they are not."""
    largest = np.abs(values.astype(np.float64)).max(axis=0)
    places = np.searchsorted(REACHES, largest)
    if not values.size or places.max() >= len(SCALES):
        return None
    scales = SCALES[places]
    ratios = np.divide(values, scales, out=np.zeros(values.shape), where=scales > 0)
    whole = np.rint(ratios).clip(-MOST, MOST).astype(np.int8)
    exact = whole.astype(np.float32) * scales.astype(np.float32)
    return (whole, scales.astype("<f2")) if np.array_equal(exact, values) else None
