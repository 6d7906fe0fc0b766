"""relu_kan: a convolution over the whole (K, in) plane, whose numbers are really (in, K).

Sources: quiqi/relu_kan, relu_kan/torch_relu_kan.py (`phase_height`); kans/layers.py of
torch-conv-kan (`phase_high`). The forward reshapes activations (batch, in, K) to (batch, 1, K, in)
without a transpose, so the weight (out, 1, K, in) is in memory (out, in, K).
"""

from __future__ import annotations

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
