"""Wav-KAN: an edge is the weight, the scale and the translation of a wavelet, each in a tensor.

Source: zavareh1/Wav-KAN, KAN.py, and its copies in torch-conv-kan (kans/layers.py), FC_KAN,
KAN4TSF, X-KANeRF and All-KAN. `weight1` takes no part in the forward. The wavelet is not saved, and
the output is not linear in scale and translation. In torch-conv-kan's convolutions (wav_kan.py) a
wavelet belongs to a pair of channels, so the weights of a kernel are one edge.
"""

from __future__ import annotations

from kancompress.libraries.forms import Forms
from kancompress.libraries.records import Beside, Layout, Piece

_NOTES = ("The tensors do not tell the wavelet.",)


def _convolution(suffix: str, kernel: str, *, before: str = "") -> Layout:
    """`before` are the axes between outputs and inputs in a convolution of one dimension more."""
    ones = " 1" * len(kernel.split())
    return Layout(
        name=f"wav-kan-conv{'-plus-one' if before else ''}{suffix}",
        pieces=(
            Piece(name="wavelet_conv.#.wavelet_weights.weight", axes=f"out{before} in {kernel}"),
            Piece(name="wavelet_conv.#.scale", axes=f"1 out in{ones}"),
            Piece(name="wavelet_conv.#.translation", axes=f"1 out in{ones}"),
            Piece(name="base_conv.#.weight", axes=f"out in {kernel}"),
        ),
        beside=(
            Beside(name="wavelet_conv.#.wavelet_out.weight"),
            Beside(name="layer_norm.#.weight", axes="out"),
            Beside(name="layer_norm.**"),
        ),
        notes=_NOTES,
    )


LAYOUTS = (
    _convolution("", "coef_h coef_w"),
    _convolution("1d", "coef_w"),
    _convolution("3d", "coef_d coef_h coef_w"),
    _convolution("", "coef_h coef_w", before=" 1"),
    _convolution("1d", "coef_w", before=" 1"),
    Layout(
        name="wav-kan",
        pieces=tuple(
            Piece(name=name, axes="out in") for name in ("wavelet_weights", "scale", "translation")
        ),
        beside=(
            Beside(name="weight1", axes="out in"),
            Beside(name="bn.weight", axes="out"),
            Beside(name="bn.**"),
        ),
        notes=_NOTES,
    ),
)

FORMS = Forms(unknown={"wav-kan": "its tensors do not tell the wavelet"})
