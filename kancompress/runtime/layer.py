"""One layer as numpy runs it: what its form says, with its arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kancompress.layers import forms
from kancompress.layers.forms import Step, Window
from kancompress.runtime.activations import ACTIVATIONS, Numbers
from kancompress.runtime.bases import fill_of
from kancompress.runtime.edges import EdgeSums
from kancompress.runtime.program import Layer

# Numbers of features that exist at a time, 4 MB in float32, which caches hold.
_FEATURES = 1 << 20
# Those that are made at a time: what a basis writes in between then stays in a core's own cache.
_SCRATCH = 1 << 16
# Added to variances, as torch does.
_EPS = 1e-5


class RunningLayer:
    """A layer that runs. Maps are channels-last: (images, rows, columns, channels)."""

    def __init__(self, layer: Layer) -> None:
        self._form, self._arrays, self._bias = layer.form, layer.arrays, layer.bias
        self._dtype = layer.edges.table.dtype
        self._edges = EdgeSums(layer.edges)
        self._fill = fill_of(layer.form.basis, layer.arrays, self._dtype)
        self._size = layer.edges.size

    def __call__(self, x: Numbers) -> Numbers:
        """(rows, in) -> (rows, out), or a map to a map."""
        x = x.astype(self._dtype, copy=False)
        z = x
        for step in self._form.before:
            z = self._applied(step, z)
        x = z if self._form.inner else x
        window = self._form.window
        parts = self._row_sums(x, z) if window is None else self._map_sums(window, x, z)
        found = list(parts)
        y = found[0] if len(found) == 1 else np.concatenate(found)
        if self._bias is not None:
            y += self._bias
        for step in self._form.after:
            y = self._applied(step, y)
        return y

    def _features(self, x: Numbers, z: Numbers) -> Numbers:
        """Basis of z and base branch of x, each (rows, in), as planes (rows, size, in)."""
        base = self._form.base
        planes = np.empty((len(z), self._size, z.shape[1]), self._dtype)
        functions = self._size - (base is not None)
        step = max(1, _SCRATCH // (self._size * z.shape[1]))
        for first in range(0, len(z), step):
            rows = slice(first, first + step)
            self._fill(z[rows, None], planes[rows, :functions])
        if base is not None:
            planes[:, functions] = ACTIVATIONS[base](x)
        return planes

    def _row_sums(self, x: Numbers, z: Numbers) -> Iterator[Numbers]:
        """Sums over the edges, for as many rows at a time as there may be features."""
        step = max(1, _FEATURES // (self._size * x.shape[1]))
        for first in range(0, max(1, len(x)), step):
            rows = slice(first, first + step)
            yield self._edges.of_rows(self._features(x[rows], z[rows]))

    def _map_sums(self, window: Window, x: Numbers, z: Numbers) -> Iterator[Numbers]:
        """The same of a convolution, for some images at a time.

        Every place of the kernel sees the expanded map, moved, and adds a product of matrices.
        """
        height, width, channels = x.shape[1:]
        rows, columns = window.places(height, width)
        pad, stride = window.padding, window.stride
        around = (height + 2 * pad, width + 2 * pad, self._size, channels)
        step = max(1, _FEATURES // (self._size * channels * height * width))
        for first in range(0, max(1, len(x)), step):
            part, own = x[first : first + step], z[first : first + step]
            flat = self._features(part.reshape(-1, channels), own.reshape(-1, channels))
            padded = np.zeros((len(part), *around), self._dtype)
            inside = padded[:, pad : pad + height, pad : pad + width]
            inside[...] = flat.reshape(inside.shape)
            sums = None
            for tap in range(window.kernel[0] * window.kernel[1]):
                down, right = divmod(tap, window.kernel[1])
                seen = padded[:, down:, right:][:, ::stride, ::stride][:, :rows, :columns]
                taken = seen.reshape(-1, self._size, channels)
                found = self._edges.of_tap(taken, tap)
                sums = found if sums is None else np.add(sums, found, out=sums)
            assert sums is not None
            yield sums.reshape(len(part), rows, columns, self._edges.outputs)

    def _applied(self, step: Step, y: Numbers) -> Numbers:
        """What a step before or after the sum makes of all inputs, or of all sums."""
        arrays = self._arrays
        match step:
            case forms.Act(name):
                return ACTIVATIONS[name](y)
            case forms.Norm(rows, running):
                scale, shift = arrays[rows]
                if running not in arrays:
                    return _affine(_normalised(y), scale, shift)
                mean, variance = arrays[running]
                return _affine(y - mean, scale / np.sqrt(variance + _EPS), shift)
            case forms.LayerNorm(weight, bias):
                return _affine(_normalised(y), arrays[weight], arrays.get(bias))
            case forms.Slope(weight):
                return np.where(y > 0, y, y * arrays[weight])
            case forms.Affine(scale_role, shift_role):
                return _affine(y, arrays.get(scale_role), arrays.get(shift_role))
            case forms.MinMax():
                if not y.size:
                    return y
                low, high = y.min(), y.max()
                scaled: Numbers = 2 * (y - low) / (high - low) - 1
                return scaled
            case forms.Dropout():
                return y


def _normalised(y: Numbers) -> Numbers:
    """Over the features of each row, to mean 0 and variance 1."""
    centred: Numbers = y - y.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    variance[np.isinf(variance)] = np.nan  # else the row would be zeros; torch has NaN here, too
    centred /= np.sqrt(variance + _EPS)
    return centred


def _affine(y: Numbers, scale: Numbers | None, shift: Numbers | None) -> Numbers:
    y = y if scale is None else y * scale
    return y if shift is None else y + shift
