"""pykan, MatrixKAN on top of it, and pykan 0.0: inputs come first, symbolic tensors are (out, in).

Sources: KindXiaoming/pykan, kan/MultKAN.py, KANLayer.py, Symbolic_KANLayer.py (0.1 and later) and
its version 0.0.5; MatrixKAN. Pruned and symbolic edges keep stale coefficients behind a mask of 0,
so they are no part of clustering; the masks stay as they are.
"""

from __future__ import annotations

import numpy as np

from kancompress.layers.forms import Basis, Splines
from kancompress.libraries.checks import basis_matrix, extended_grid, plain_grid
from kancompress.libraries.forms import Form, Forms, Scaled, Setting, splines
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

# KANLayer in a network of the user's own, without the names that MultKAN gives it.
_BELOW_MULTKAN = r"(?:^|\.)act_fun\.\d+\.$"
_ALONE = Layout(
    name="pykan-layer",
    pieces=(Piece(name="coef", axes="in out coef"), Piece(name="scale_base", axes="in out")),
    scales=(Scale(name="scale_sp", axes="in out", required=True),),
    veils=(Veil(name="mask", axes="in out", required=True),),
    beside=(Beside(name="grid", axes="in knots", required=True),),
    foreign_stems=_BELOW_MULTKAN,
    checks=(extended_grid,),
    notes=("The tensors do not tell the base function.",),
)
# Of its 0.0 all edges are in one axis, output by output, and nothing tells where one ends.
_ALONE_0 = Layout(
    name="pykan-layer-0.0",
    pieces=(Piece(name="coef", axes="out coef"), Piece(name="scale_base", axes="out")),
    scales=(Scale(name="scale_sp", axes="out", required=True),),
    veils=(Veil(name="mask", axes="out", required=True),),
    beside=(Beside(name="grid", axes="out knots", required=True),),
    foreign_stems=_BELOW_MULTKAN,
    checks=(plain_grid,),
    notes=("The tensors do not tell outputs from inputs: out counts all edges.",),
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
    _ALONE,
    _ALONE_0,
)


def _unextended(setting: Setting) -> Basis:
    """pykan 0.0: the knots of each edge without the k on either side, which it adds itself."""
    out, inputs = setting.found.shape[:2]
    name = "act_fun.*.grid"
    rows = setting.array(name).reshape(out, inputs, -1)
    if not (rows == rows[:1]).all():
        setting.refuse(f"{setting.full(name)} differs between edges of one input")
    knots = rows[0]
    degree = setting.size - knots.shape[1] + 1
    step = (knots[:, -1:] - knots[:, :1]) / knots.dtype.type(knots.shape[1] - 1)
    outside = np.arange(1, degree + 1, dtype=knots.dtype) * step
    extended = [knots[:, :1] - outside[:, ::-1], knots, knots[:, -1:] + outside]
    return Splines(degree, setting.hold(name, np.concatenate(extended, axis=1)))


_AFTER = (
    Scaled(scale="subnode_scale_*", shift="subnode_bias_*"),
    Scaled(scale="node_scale_*", shift="node_bias_*"),
)

FORMS = Forms(
    chains={
        "pykan": Form(basis=splines("act_fun.*.grid"), after=_AFTER),
        "matrixkan": Form(basis=splines("act_fun.*.grid"), after=_AFTER),
        "pykan-0.0": Form(basis=_unextended, bias="biases.*.weight"),
        "pykan-layer": Form(basis=splines("grid")),
    },
    unknown={"pykan-layer-0.0": "its tensors do not tell outputs from inputs"},
)
