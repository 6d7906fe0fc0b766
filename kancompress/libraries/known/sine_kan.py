"""SineKAN: sines of learnt frequencies and fixed phases, which all edges of an input share.

Source: ereinha/SineKAN, sine_kan.py: `amplitudes` (out, in, K), `freq` (1, 1, 1, K), `phase`
(1, 1, in, K), `bias` (1, out).
"""

from __future__ import annotations

from kancompress.libraries.forms import Forms
from kancompress.libraries.records import Beside, Layout, Piece

LAYOUTS = (
    Layout(
        name="sine-kan",
        pieces=(Piece(name="amplitudes", axes="out in coef"),),
        beside=(
            Beside(name="freq", axes="1 1 1 coef", required=True),
            Beside(name="phase", axes="1 1 in coef"),
            Beside(name="bias", axes="1 out"),
        ),
    ),
)

FORMS = Forms()
