"""CVKAN: radial functions of a complex input, with real and imaginary weights an edge.

Source: M-Wolff/CVKAN, src/cvkan/models/CVKAN.py: `realweights` and `complexweights` (in, out, G, G)
on a grid of G by G points, `grid` (G), and a complex base branch, `silu_weight`, that stays as it
is.
"""

from __future__ import annotations

from kancompress.libraries.forms import Forms
from kancompress.libraries.records import Beside, Layout, Piece

LAYOUTS = (
    Layout(
        name="cvkan",
        pieces=(
            Piece(name="realweights", axes="in out coef_u coef_v"),
            Piece(name="complexweights", axes="in out coef_u coef_v"),
        ),
        beside=(
            Beside(name="grid", axes="coef_u", required=True),
            Beside(name="silu_weight"),
            Beside(name="silu_bias"),
        ),
    ),
)

FORMS = Forms(unknown={"cvkan": "its inputs and outputs are complex numbers"})
