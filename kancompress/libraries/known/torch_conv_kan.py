"""Convolutions and fully connected layers of torch-conv-kan (IvanDrokin).

Sources: kan_convs/kan_conv.py, fast_kan_conv.py, kagn_conv.py, kaln_conv.py, kajn_conv.py,
kabn_conv.py, kacn_conv.py, kagn_conv_v2.py, kagn_bottleneck_conv.py, relukan_bottleneck_conv.py,
kans/layers.py. Convolutions keep one weight for each group, or one with the groups first. The
channels of the basis run `in coef` in KANConv, FastKAN, KACN, KABN and ReLUKAN, but `coef in` in
KAGN, KALN and KAJN. KALN, KAJN and KABN have the same names and shapes, so the user must say which
it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kancompress.forward import Activation
from kancompress.layers.forms import Basis, Series, Splines
from kancompress.libraries.forms import (
    Form,
    Forms,
    LayerNorm,
    MinMax,
    PReLU,
    Setting,
    Shared,
    gaussians,
    polynomials,
)
from kancompress.libraries.records import Beside, Layout, Piece

_BASE = Piece(name="base_conv.#.weight", axes="out in kh kw")
_NORM_OUT = (Beside(name="layer_norm.#.weight", axes="out"), Beside(name="layer_norm.**"))
_NORM_IN = (Beside(name="layer_norm.#.weight", axes="in"), Beside(name="layer_norm.**"))
_BETA = Beside(name="beta_weights", axes="coef", required=True)
_SPLINE = Piece(name="spline_conv.#.weight", axes="out (in coef) kh kw")
_DEGREE_MAJOR = Piece(name="poly_weights", axes="group out (coef in) kh kw")
_INPUT_MAJOR = Piece(name="poly_weights", axes="group out (in coef) kh kw")
_BUMPS = Piece(name="relukan_conv.#.weight", axes="out (in coef) kh kw")
_PHASES = (
    Beside(name="phase_low", axes="1 in coef 1 1", required=True),
    Beside(name="phase_high", axes="1 in coef 1 1", required=True),
)
# A bottleneck's edges lie between two projections; base weights and norm have its outer widths.
_AROUND = (
    Beside(name="inner_proj.#.weight", axes="in inputs 1 1", required=True),
    Beside(name="out_proj.#.weight", axes="outputs out 1 1", required=True),
    Beside(name="base_conv.#.weight", axes="outputs inputs kh kw"),
    Beside(name="layer_norm.#.weight", axes="outputs"),
    Beside(name="layer_norm.**"),
)
_ONE_GROUP = (
    "With groups > 1 this class mixes inputs across groups, which the tensors do not tell;"
    " one group is assumed.",
)
_ALIKE = ("kaln-conv", "kajn-conv", "kabn-conv")


def _alike(name: str, piece: Piece) -> Layout:
    return Layout(
        name=name,
        pieces=(piece, _BASE),
        beside=_NORM_OUT,
        forbidden=("beta_weights", "inner_proj.0.weight"),
        rivals=tuple(other for other in _ALIKE if other != name),
    )


def _turned(layout: Layout, suffix: str, kernel: str) -> Layout:
    """The layout of the class of another dimension, with these axes in the place of `kh kw`.

    Of one dimension, the layer's shape has kw = 1.
    """
    ones = " 1" * len(kernel.split())

    def turned(axes: str) -> str:
        axes = axes.replace("kh kw", kernel)
        return axes.removesuffix(" 1 1") + ones if axes.endswith(" 1 1") else axes

    return replace(
        layout,
        name=layout.name + suffix,
        pieces=tuple(replace(piece, axes=turned(piece.axes)) for piece in layout.pieces),
        beside=tuple(replace(item, axes=turned(item.axes)) for item in layout.beside),
        rivals=tuple(name + suffix for name in layout.rivals),
    )


_CONVOLUTIONS = (
    Layout(
        name="fastkan-conv",
        pieces=(_SPLINE, _BASE),
        beside=(*_NORM_IN, Beside(name="rbf.grid", axes="coef", required=True)),
        forbidden=("prelus.0.weight",),
    ),
    Layout(
        name="kan-conv",
        pieces=(_SPLINE, _BASE),
        beside=(
            *_NORM_OUT,
            Beside(name="prelus.0.weight", required=True),
            Beside(name="prelus.**"),
        ),
        forbidden=("rbf.grid",),
        notes=("The tensors do not tell the grid, nor the spline order.",),
    ),
    Layout(
        name="kagn-bottleneck",
        pieces=(_DEGREE_MAJOR,),
        beside=(_BETA, *_AROUND),
    ),
    Layout(
        name="kagn-expert",
        pieces=(_DEGREE_MAJOR,),
        beside=(_BETA,),
        forbidden=("inner_proj.0.weight", "base_conv.0.weight"),
        notes=("An expert's base weights and projections are those of its mixture, not its own.",),
    ),
    Layout(
        name="relukan-bottleneck",
        pieces=(_BUMPS,),
        beside=(*_PHASES, *_AROUND),
    ),
    Layout(
        name="kagn-conv",
        pieces=(_DEGREE_MAJOR, _BASE),
        beside=(_BETA, *_NORM_OUT),
        forbidden=("inner_proj.0.weight",),
    ),
    Layout(
        name="kagn-conv-v2",
        pieces=(
            Piece(name="poly_conv.weight", axes="out (coef in) kh kw"),
            Piece(name="base_conv.weight", axes="out in kh kw"),
        ),
        beside=(_BETA, Beside(name="layer_norm.**")),
        notes=_ONE_GROUP,
    ),
    Layout(
        name="kacn-conv",
        pieces=(Piece(name="poly_conv.#.weight", axes="out (in coef) kh kw"),),
        beside=(Beside(name="arange", axes="1 1 coef 1 1", required=True), *_NORM_OUT),
    ),
    Layout(
        name="relukan-conv",
        pieces=(_BUMPS, _BASE),
        beside=(*_PHASES, Beside(name="layer_norm.**")),
        forbidden=("inner_proj.0.weight",),
    ),
    _alike("kaln-conv", _DEGREE_MAJOR),
    _alike("kajn-conv", _DEGREE_MAJOR),
    _alike("kabn-conv", _INPUT_MAJOR),
)

_FULLY_CONNECTED = (
    Layout(
        name="torch-conv-kan-fc",
        pieces=(
            Piece(name="spline_weight", axes="out in coef"),
            Piece(name="base_weight", axes="out in"),
        ),
        beside=(
            Beside(name="layer_norm.weight", axes="out", required=True),
            Beside(name="layer_norm.bias", axes="out"),
            Beside(name="prelu.weight", required=True),
        ),
        forbidden=("grid", "grid_starts", "spline_scaler"),
        notes=("The tensors do not tell the grid, nor the spline order.",),
    ),
    Layout(
        name="torch-conv-kan-kaln-fc",
        pieces=(
            Piece(name="poly_weight", axes="out (in coef)"),
            Piece(name="base_weight", axes="out in"),
        ),
        beside=(Beside(name="layer_norm.weight", axes="out"), Beside(name="layer_norm.bias")),
    ),
)

LAYOUTS = (
    *_CONVOLUTIONS,
    *(_turned(layout, "1d", "kh") for layout in _CONVOLUTIONS),
    *(_turned(layout, "3d", "kd kh kw") for layout in _CONVOLUTIONS),
    *_FULLY_CONNECTED,
)


def _assumed_grid(setting: Setting) -> Basis:
    """B-splines of a uniform grid that is not saved."""
    order = setting.told("spline_order", 3)
    intervals = setting.size - order
    if intervals < 1:
        setting.refuse(f"{setting.size} coefficients do not go with splines of order {order}")
    low, high = setting.told("grid_range", (-1.0, 1.0))
    if not {"grid_range", "spline_order"} <= setting.said:
        setting.notes.append(
            f"{setting.found.layout}: a grid from {low:g} to {high:g} (`grid_range`) and splines of"
            f" order {order} (`spline_order`)"
        )
    steps = np.arange(-order, intervals + order + 1, dtype=np.float64)
    knots = low + steps * ((high - low) / intervals)
    rows = np.tile(knots.astype(setting.dtype), (setting.found.shape[1], 1))
    return Splines(order, setting.hold("knots", rows))


# The maps' forms are those before their normalisation; sources: kan_conv.py, fast_kan_conv.py.
FORMS = Forms(
    chains={
        "torch-conv-kan-fc": Form(
            basis=_assumed_grid,
            activation=Activation.GELU,
            after=(LayerNorm("layer_norm"), PReLU("prelu.weight")),
        ),
        "torch-conv-kan-kaln-fc": Form(
            basis=polynomials(Series.LEGENDRE),
            before=MinMax(),
            after=(LayerNorm("layer_norm"), Shared()),
        ),
    },
    maps={
        "kan-conv": Form(basis=_assumed_grid, activation=Activation.GELU, sums="layer_norm.0"),
        "fastkan-conv": Form(basis=gaussians("rbf.grid"), norm="layer_norm.0"),
    },
)
