"""Convolutional-KANs: one little efficient-kan layer for each pair of channels.

Source: AntonioTepsich/Convolutional-KANs, kan_convolutional/KANConv.py. Layer m = out * channels +
in has the positions of the kernel as inputs and one output. The little layers of one convolution
share a codebook, which would else outweigh the edges.
"""

from __future__ import annotations

from kancompress.libraries.checks import extended_grid, one_output
from kancompress.libraries.forms import Forms
from kancompress.libraries.records import Beside, Layout, Piece, Scale

LAYOUTS = (
    Layout(
        name="convolutional-kans",
        pieces=(
            Piece(name="convs.*.conv.spline_weight", axes="out in coef"),
            Piece(name="convs.*.conv.base_weight", axes="out in"),
        ),
        scales=(Scale(name="convs.*.conv.spline_scaler", axes="out in"),),
        beside=(Beside(name="convs.*.conv.grid", axes="in knots", required=True),),
        checks=(extended_grid, one_output),
        label="convs.*",
        pool="convs",
    ),
)

FORMS = Forms()
