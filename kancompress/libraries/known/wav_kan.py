"""Wav-KAN: an edge is the weight, the scale and the translation of a wavelet, each in a tensor.

Source: zavareh1/Wav-KAN, KAN.py, and its copies in torch-conv-kan (kans/layers.py), FC_KAN,
KAN4TSF, X-KANeRF and All-KAN. `weight1` takes no part in the forward. The wavelet is not saved, and
the output is not linear in scale and translation.
"""

from __future__ import annotations

from kancompress.libraries.forms import Forms
from kancompress.libraries.records import Beside, Layout, Piece

LAYOUTS = (
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
        notes=("The tensors do not tell the wavelet.",),
    ),
)

FORMS = Forms(unknown={"wav-kan": "its tensors do not tell the wavelet"})
