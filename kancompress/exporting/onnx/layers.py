"""Layers as ONNX nodes: steps, features, sums over the edges."""

from __future__ import annotations

import numpy as np

from kancompress.exporting.onnx.bases import Features, activated
from kancompress.exporting.onnx.edges import Codebooks, can_pick, picked, weights
from kancompress.exporting.onnx.graph import Graph
from kancompress.frozen import dataclass
from kancompress.layers import forms
from kancompress.layers.forms import Step, Window
from kancompress.runtime.program import Head, Layer, Numbers

# Of torch's normalisations.
_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a network, in one graph.

    table : whether layers that can have no dense weights
    """

    graph: Graph
    codebooks: Codebooks
    table: bool

    def of(self, layer: Layer, x: str) -> str:
        """What a layer makes of x: (batch, in) -> (batch, out), or maps."""
        z = x
        for step in layer.form.before:
            z = self._applied(step, z, layer)
        x = z if layer.form.inner else x
        y = self._sums(layer, z, x)
        for step in layer.form.after:
            y = self._applied(step, y, layer)
        return y

    def picks(self, layer: Layer) -> bool:
        """Whether a layer has the graph without dense weights."""
        return self.table and layer.form.window is None and can_pick(layer.edges)

    def head(self, head: Head, x: str) -> str:
        """The dense layer behind convolutions."""
        graph = self.graph
        pooled = graph.node("Flatten", graph.node("GlobalAveragePool", x))
        matrix, bias = (graph.numbers(one, "others") for one in (head.weight, head.bias))
        return graph.node("Gemm", pooled, matrix, bias, transB=1)

    # --- sums --------------------------------------------------------------------------------

    def _sums(self, layer: Layer, z: str, x: str) -> str:
        graph, form, window = self.graph, layer.form, layer.form.window
        made = Features(graph, layer.arrays, window is not None)
        features = made.of(form.basis, z, x, form.base)
        bias = [] if layer.bias is None else [graph.numbers(layer.bias)]
        table = None if layer.edges.rows is None else self.codebooks.of(layer)
        if table is not None and self.picks(layer):
            sums = picked(graph, layer, table, features)
            return graph.node("Add", sums, *bias) if bias else sums
        values = weights(graph, layer, table)
        if window is not None:
            return self._convolved(layer, window, features, values, bias)
        matrix = graph.node("Reshape", values, graph.ints(layer.outputs, -1))
        return graph.node("Gemm", graph.node("Flatten", features), matrix, *bias, transB=1)

    def _convolved(
        self, layer: Layer, window: Window, features: str, values: str, bias: list[str]
    ) -> str:
        """A convolution of the map of features; around the map these count as zero."""
        graph, size = self.graph, layer.edges.size
        out, channels, *taps = layer.edges.shape
        sizes = graph.node("Shape", features, start=3)
        shape = graph.node("Concat", graph.ints(0, channels * size), sizes, axis=0)
        planes = graph.node("Reshape", features, shape)
        whole = graph.node("Reshape", values, graph.ints(*layer.edges.shape, size))
        turned = graph.node("Transpose", whole, perm=[0, 1, 4, 2, 3])
        kernel = graph.node("Reshape", turned, graph.ints(out, channels * size, *taps))
        return graph.node(
            "Conv", planes, kernel, *bias,
            strides=[window.stride] * 2, pads=[window.padding] * 4,
        )  # fmt: skip

    # --- steps -------------------------------------------------------------------------------

    def _applied(self, step: Step, y: str, layer: Layer) -> str:
        graph, arrays = self.graph, layer.arrays
        match step:
            case forms.Act(name):
                return activated(graph, name, y)
            case forms.Norm(rows, running):
                scale, shift = arrays[rows]
                if running not in arrays:
                    return self._normalised(y, scale, shift)
                mean, variance = (one.astype(np.float64) for one in arrays[running])
                factor = scale / np.sqrt(variance + _EPSILON)
                return self._scaled(y, layer, factor, shift - mean * factor)
            case forms.LayerNorm(weight, bias):
                return self._normalised(y, arrays[weight], arrays.get(bias))
            case forms.Slope(weight):
                return graph.node("PRelu", y, self._channels(arrays[weight], layer))
            case forms.Affine(scale, shift):
                return self._scaled(y, layer, arrays.get(scale), arrays.get(shift))
            case forms.MinMax():
                return self._stretched(y)
            case forms.Dropout():
                return y

    def _normalised(self, y: str, scale: Numbers, shift: Numbers | None) -> str:
        more = [] if shift is None else [self.graph.numbers(shift)]
        return self.graph.node("LayerNormalization", y, self.graph.numbers(scale), *more)

    def _scaled(self, y: str, layer: Layer, scale: Numbers | None, shift: Numbers | None) -> str:
        if scale is not None:
            y = self.graph.node("Mul", y, self._channels(scale, layer))
        return y if shift is None else self.graph.node("Add", y, self._channels(shift, layer))

    def _channels(self, values: Numbers, layer: Layer) -> str:
        """Numbers of the channels, or of the features of a row, to stand beside them."""
        more = (1, 1) if layer.form.window is not None else ()
        return self.graph.numbers(values.reshape(*values.shape, *more))

    def _stretched(self, y: str) -> str:
        """The whole batch scaled to -1 ... 1."""
        node, two = self.graph.node, self.graph.number(2)
        low, high = node("ReduceMin", y, keepdims=0), node("ReduceMax", y, keepdims=0)
        share = node("Div", node("Mul", two, node("Sub", y, low)), node("Sub", high, low))
        return node("Sub", share, self.graph.number(1))
