"""relu_kan: a convolution over the whole (K, in) plane, whose numbers are really (in, K).

Sources: quiqi/relu_kan, relu_kan/torch_relu_kan.py (`phase_height`); kans/layers.py of
torch-conv-kan (`phase_high`). The forward reshapes activations (batch, in, K) to (batch, 1, K, in)
without a transpose, so the weight (out, 1, K, in) is in memory (out, in, K).
"""

from __future__ import annotations

import numpy as np

from kancompress.layers.forms import Basis, Bumps
from kancompress.libraries.forms import Array, Form, Forms, Setting, Tell
from kancompress.libraries.records import Beside, Layout, Piece


def _relu_kan(name: str, high: str) -> Layout:
    return Layout(
        name=name,
        pieces=(
            Piece(
                name="equal_size_conv.weight",
                axes="out 1 coef in",
                memory="(out in coef)",
            ),
        ),
        beside=(
            Beside(name="phase_low", axes="in coef", required=True),
            Beside(name=high, axes="in coef", required=True),
            Beside(name="equal_size_conv.bias", axes="out"),
        ),
    )


LAYOUTS = (
    _relu_kan("relu-kan", "phase_height"),
    _relu_kan("torch-conv-kan-relu-fc", "phase_high"),
)

_MOST_BUMPS = 1000  # of an input, among which g is looked for


def _bumps(high: str) -> Tell:
    """The bumps' height 4 g^2 / (k + 1)^2 is not saved, but g + k and the phases are."""

    def tell(setting: Setting) -> Basis:
        low, top = setting.array("phase_low"), setting.array(high)
        if setting.size > _MOST_BUMPS:
            setting.refuse(f"an input has more than {_MOST_BUMPS:,} functions")
        g = _intervals(low, top)
        k = setting.size - g
        setting.notes.append(f"{setting.found.layout}: g = {g} and k = {k}, told from the phases")
        factor = 4 * g * g / (k + 1) ** 2
        return Bumps(factor, setting.hold("phase_low", low), setting.hold(high, top))

    return tell


def _intervals(low: Array, high: Array) -> int:
    """The g whose first phases, -k/g ... (g-1)/g and (k+1)/g more, lie nearest to the file's."""
    size = low.shape[1]

    def distance(g: int) -> float:
        start = np.arange(g - size, g, dtype=low.dtype) / low.dtype.type(g)
        stop = start + low.dtype.type((size - g + 1) / g)
        return float(np.square(low - start).sum() + np.square(high - stop).sum())

    return min(range(1, size + 1), key=distance)


FORMS = Forms(
    chains={
        "relu-kan": Form(basis=_bumps("phase_height"), bias="equal_size_conv.bias"),
        "torch-conv-kan-relu-fc": Form(basis=_bumps("phase_high"), bias="equal_size_conv.bias"),
    }
)
