"""pykan, MatrixKAN on top of it, and pykan 0.0: inputs come first, symbolic tensors are (out, in).

Sources: KindXiaoming/pykan, kan/MultKAN.py, KANLayer.py, Symbolic_KANLayer.py (0.1 and later) and
its version 0.0.5; MatrixKAN. Pruned and symbolic edges keep stale coefficients behind a mask of 0,
so they are no part of clustering; the masks stay as they are.
"""

from __future__ import annotations

from kancompress.libraries.checks import basis_matrix, extended_grid, plain_grid
from kancompress.libraries.records import Beside, Layout, Piece, Scale, Veil

# What pykan's own config tells; without it the user should know.
UNTOLD = (
    "The tensors do not tell the base function, multiplication nodes, names of symbolic"
    " functions, nor input_id.",
)
_PIECES = (
    Piece(name="act_fun.*.coef", axes="in out coef"),
    Piece(name="act_fun.*.scale_base", axes="in out"),
)
_SCALES = (Scale(name="act_fun.*.scale_sp", axes="in out"),)
_VEILS = (
    Veil(name="act_fun.*.mask", axes="in out", required=True),
    Veil(name="symbolic_fun.*.mask", axes="out in", live=False),
)
_BESIDE = (
    Beside(name="act_fun.*.grid", axes="in knots", required=True),
    Beside(name="symbolic_fun.*.affine", axes="out in four"),
    Beside(name="node_bias_*"),
    Beside(name="node_scale_*"),
    Beside(name="subnode_bias_*", axes="out"),
    Beside(name="subnode_scale_*", axes="out"),
)

LAYOUTS = (
    Layout(
        name="matrixkan",
        pieces=_PIECES,
        scales=_SCALES,
        veils=_VEILS,
        beside=(
            *_BESIDE,
            Beside(
                name="act_fun.*.basis_matrix",
                axes="order_plus_one order_plus_one_too",
                required=True,
            ),
            Beside(name="act_fun.*.grid_range", axes="in two"),
            Beside(name="act_fun.*.grid_intervals", axes="in"),
        ),
        checks=(basis_matrix,),
        label="act_fun.*",
        notes=UNTOLD,
    ),
    Layout(
        name="pykan",
        pieces=_PIECES,
        scales=_SCALES,
        veils=_VEILS,
        beside=_BESIDE,
        forbidden=("act_fun.*.basis_matrix",),
        checks=(extended_grid,),
        label="act_fun.*",
        notes=UNTOLD,
    ),
    Layout(
        name="pykan-0.0",
        pieces=(
            Piece(name="act_fun.*.coef", axes="(out in) coef"),
            Piece(name="act_fun.*.scale_base", axes="(out in)"),
        ),
        scales=(Scale(name="act_fun.*.scale_sp", axes="(out in)"),),
        veils=(
            Veil(name="act_fun.*.mask", axes="(out in)", required=True),
            Veil(name="symbolic_fun.*.mask", axes="out in", live=False, required=True),
        ),
        beside=(
            Beside(name="act_fun.*.grid", axes="(out in) knots", required=True),
            Beside(name="symbolic_fun.*.affine", axes="out in four"),
            Beside(name="biases.*.weight"),
        ),
        checks=(plain_grid,),
        label="act_fun.*",
        notes=UNTOLD,
    ),
)
