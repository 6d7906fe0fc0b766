"""The forms of all layouts whose forward is known, by the layout's name."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from kancompress.config import Activation
from kancompress.layers.bases import bspline, gram, polynomials, radial
from kancompress.layers.expansions import ACTIVATIONS, BSplines, Expansion, Planes, Sum
from kancompress.libraries.forms.records import (
    Fixed,
    Form,
    LayerNorm,
    MinMax,
    PReLU,
    Scaled,
    Setting,
    Shared,
)

# --- expansions -----------------------------------------------------------------------------


def _splines(grid: str) -> Callable[[Setting], Expansion]:
    """B-splines on the knots that the file holds, (in, G + 2k + 1)."""

    def make(setting: Setting) -> Expansion:
        knots = setting.tensor(grid)
        return BSplines(knots, knots.shape[1] - setting.size - 1)

    return make


def _unscaled(expansion: Callable[[Setting], Expansion]) -> Callable[[Setting], Expansion]:
    """LKAN's layers without scales of their own multiply all splines by one number, 1."""

    def make(setting: Setting) -> Expansion:
        if not (setting.tensor("scale_spline") == 1).all():
            setting.refuse(f"{setting.scene.full('scale_spline')} is not 1")
        return expansion(setting)

    return make


def _unextended(setting: Setting) -> Expansion:
    """pykan 0.0: the knots of each edge without the k on either side, which it adds itself."""
    out, inputs = setting.found.shape[:2]
    name = "act_fun.*.grid"
    rows = setting.tensor(name).reshape(out, inputs, -1)
    if not (rows == rows[:1]).all():
        setting.refuse(f"{setting.scene.full(name)} differs between edges of one input")
    knots = rows[0]
    degree = setting.size - knots.shape[1] + 1
    step = (knots[:, -1:] - knots[:, :1]) / (knots.shape[1] - 1)
    outside = torch.arange(1, degree + 1, dtype=knots.dtype) * step
    extended = [knots[:, :1] - outside.flip(1), knots, knots[:, -1:] + outside]
    return BSplines(torch.cat(extended, dim=1), degree)


def _assumed_grid(setting: Setting) -> Expansion:
    """B-splines of torch-conv-kan, whose grid is not saved."""
    order = setting.told("spline_order", 3)
    intervals = setting.size - order
    if intervals < 1:
        setting.refuse(f"{setting.size} coefficients do not go with splines of order {order}")
    low, high = setting.told("grid_range", (-1.0, 1.0))
    if not {"grid_range", "spline_order"} <= setting.said:
        setting.notes.append(
            f"{setting.found.layout}: a grid from {low:g} to {high:g} (--grid-range) and splines of"
            f" order {order} (--spline-order)"
        )
    knots = bspline.knots((low, high, intervals), order, setting.dtype)
    return BSplines(knots.expand(setting.found.shape[1], -1), order)


def _starts(setting: Setting) -> Expansion:
    """flashkan and inkan: cubic splines, told by where their supports begin."""
    starts = setting.tensor("grid_starts")
    if len(starts) < 4:
        setting.refuse(f"{len(starts)} splines are too few for cubic ones")
    step = (starts[-1] - starts[0]) / (len(starts) - 1)
    knots = starts[0] + step * torch.arange(len(starts) + 4, dtype=starts.dtype)
    return BSplines(knots.expand(setting.found.shape[1], -1), 3)


def _gaussians(grid: str) -> Callable[[Setting], Expansion]:
    """Gaussians around the centres that the file holds."""

    def make(setting: Setting) -> Expansion:
        centres = setting.tensor(grid)
        distance = 0.0
        if len(centres) > 1:
            distance = float((centres.max() - centres.min()) / (len(centres) - 1))
        width = setting.told("rbf_denominator", distance)
        if setting.options.rbf_denominator is None and len(centres) < 2:
            setting.refuse("one centre tells no width; give it with --rbf-denominator")
        if "rbf_denominator" in setting.assumed:
            setting.notes.append(
                f"{setting.found.layout}: radial functions of width {width:.6g}, the distance of"
                " their centres (--rbf-denominator)"
            )
        return Planes(partial(radial.gaussians, width=width), centres, span=_ends(centres))

    return make


def _splines_and_gaussians(setting: Setting) -> Expansion:
    return Sum(_splines("grid")(setting), _gaussians("rbf.grid")(setting))


def _switches(setting: Setting) -> Expansion:
    centres = setting.tensor("rbf.grid")
    return Planes(radial.switches, centres, span=_ends(centres))


def _ends(centres: Tensor) -> tuple[float, float]:
    return float(centres.min()), float(centres.max())


def _polynomials(planes: Callable[..., Tensor]) -> Callable[[Setting], Expansion]:
    """Polynomials up to the degree that the number of coefficients tells."""

    def make(setting: Setting) -> Expansion:
        return Planes(partial(planes, degree=setting.size - 1))

    return make


def _jacobi(setting: Setting) -> Expansion:
    setting.notes.append(f"{setting.found.layout}: alpha and beta of the polynomials are 1")
    return Planes(partial(polynomials.jacobi, degree=setting.size - 1))


def _gottlieb(setting: Setting) -> Expansion:
    alpha = setting.parameter("alpha")
    if alpha is None:
        setting.refuse(f"{setting.scene.full('alpha')} is missing")
    degree = setting.size - 1
    return Planes(lambda z, a: polynomials.gottlieb(z, degree, a), alpha, span=(0.0, 1.0))


def _beta(setting: Setting) -> nn.Parameter:
    beta = setting.parameter("beta_weights")
    if beta is None:
        setting.refuse(f"{setting.scene.full('beta_weights')} is missing")
    return beta


def _gram(setting: Setting) -> Expansion:
    degree = setting.size - 1
    return Planes(lambda z, beta: gram.polynomials(z, degree, beta), _beta(setting))


def _activated_gram(setting: Setting) -> Expansion:
    """torch-conv-kan passes the polynomials through the layer's activation."""
    degree = setting.size - 1
    act = ACTIVATIONS[setting.shared_activation()]
    return Planes(lambda z, beta: act(gram.polynomials(z, degree, beta)), _beta(setting))


def _waves(setting: Setting) -> Expansion:
    return Planes(partial(radial.waves, count=setting.size // 2), span=(-math.pi, math.pi))


def _bumps(high: str) -> Callable[[Setting], Expansion]:
    """relu_kan: the bumps' height 4 g^2 / (k + 1)^2 is not saved, but g + k and the phases are."""

    def make(setting: Setting) -> Expansion:
        low, top = setting.tensor("phase_low"), setting.tensor(high)
        g = _intervals(low, top)
        k = setting.size - g
        setting.notes.append(f"{setting.found.layout}: g = {g} and k = {k}, told from the phases")
        factor = 4 * g * g / (k + 1) ** 2
        return Planes(partial(radial.relu_bumps, factor=factor), low, top, span=(0.0, 1.0))

    return make


def _intervals(low: Tensor, high: Tensor) -> int:
    """The g whose first phases, -k/g ... (g-1)/g and (k+1)/g more, lie nearest to the file's."""
    size = low.shape[1]

    def distance(g: int) -> float:
        start = torch.arange(g - size, g, dtype=low.dtype) / g
        stop = start + (size - g + 1) / g
        return float((low - start).square().sum() + (high - stop).square().sum())

    return min(range(1, size + 1), key=distance)


# --- forms ----------------------------------------------------------------------------------

_TANH = Fixed(Activation.TANH)
_OUT = (LayerNorm("norm"), Shared())
_PYKAN_AFTER = (
    Scaled(scale="subnode_scale_*", shift="subnode_bias_*"),
    Scaled(scale="node_scale_*", shift="node_bias_*"),
)
_KALN = Form(
    expansion=_polynomials(polynomials.legendre),
    before=MinMax(),
    after=(LayerNorm("layer_norms.*"), Shared()),
)


def _orthogonal(planes: Callable[..., Tensor]) -> Form:
    return Form(expansion=_polynomials(planes), before=_TANH)


FORMS: dict[str, Form] = {
    "efficient-kan": Form(expansion=_splines("grid")),
    "kanele": Form(expansion=_splines("grid")),
    "metakan": Form(expansion=_splines("layers.*.grid")),
    "pykan": Form(expansion=_splines("act_fun.*.grid"), after=_PYKAN_AFTER),
    "matrixkan": Form(expansion=_splines("act_fun.*.grid"), after=_PYKAN_AFTER),
    "pykan-0.0": Form(expansion=_unextended, bias="biases.*.weight"),
    "fast-kan": Form(
        expansion=_gaussians("rbf.grid"), before=LayerNorm("layernorm"), bias="base_linear.bias"
    ),
    "faster-kan": Form(expansion=_switches, before=LayerNorm("layernorm")),
    "rbf-kan": Form(expansion=_gaussians("rbf_linear.grid"), bias="base_linear.bias"),
    "bsrbf-kan": Form(expansion=_splines_and_gaussians, before=LayerNorm("layernorm"), inner=True),
    "cheby-kan": _orthogonal(polynomials.chebyshev),
    "orthogpoly-cheby2": _orthogonal(polynomials.chebyshev2),
    "orthogpoly-legendre": _orthogonal(polynomials.legendre),
    "orthogpoly-hermite": _orthogonal(polynomials.hermite),
    "orthogpoly-bessel": _orthogonal(polynomials.bessel),
    "gottlieb-kan": Form(expansion=_gottlieb, before=Fixed(Activation.SIGMOID)),
    "gramkan": Form(expansion=_gram, before=_TANH),
    "torch-conv-kan-gram": Form(expansion=_activated_gram, before=_TANH, after=_OUT),
    "torch-conv-kan-jacobi": Form(expansion=_jacobi, before=_TANH, after=_OUT),
    "torch-conv-kan-bernstein": Form(expansion=_polynomials(polynomials.bernstein), after=_OUT),
    "torch-conv-kan-fc": Form(
        expansion=_assumed_grid,
        activation=Activation.GELU,
        after=(LayerNorm("layer_norm"), PReLU("prelu.weight")),
    ),
    "torch-conv-kan-kaln-fc": Form(
        expansion=_polynomials(polynomials.legendre),
        before=MinMax(),
        after=(LayerNorm("layer_norm"), Shared()),
    ),
    "torch-conv-kan-relu-fc": Form(expansion=_bumps("phase_high"), bias="equal_size_conv.bias"),
    "relu-kan": Form(expansion=_bumps("phase_height"), bias="equal_size_conv.bias"),
    "fourier-kan": Form(expansion=_waves, bias="bias"),
    "lkan": Form(expansion=_splines("grid"), bias="bias"),
    "lkan-unscaled": Form(expansion=_unscaled(_splines("grid")), bias="bias"),
    "torchkan": Form(
        expansion=_splines("grid_*"),
        activation=Activation.GELU,
        after=(LayerNorm("layer_norms.*"), PReLU("prelus.*.weight")),
    ),
    "torchkan-legendre": _KALN,
    "torchkan-chebyshev": Form(
        expansion=_polynomials(polynomials.chebyshev), before=_KALN.before, after=_KALN.after
    ),
    "flashkan": Form(expansion=_starts),
    "inkan": Form(expansion=_starts),
}


def _patch_splines(setting: Setting) -> Expansion:
    """convkan: a KAN layer that is called with the patches of each group."""
    if setting.found.groups > 1:
        setting.refuse("the groups of a convolution see different inputs")
    knots = setting.tensor("kan_layer.grid").flatten(0, -2)
    return BSplines(knots, knots.shape[1] - setting.size - 1)


_PATCHES = Form(expansion=_patch_splines, module="kan_layer")

# Layers of convolutions whose own module is called with patches: they are no chain by themselves,
# and run in the user's model alone.
PATCH_FORMS: dict[str, Form] = {"convkan": _PATCHES, "convkan-ungrouped": _PATCHES}

_LKAN_FFT = "versions of its class read the axes of coeff in different orders"

# Why other layouts of fully connected layers have no form.
UNDETERMINED: dict[str, str] = {
    "torchkan-poly": "its tensors do not tell KAL_Net from KAC_Net; say it with"
    " --layout torchkan-legendre or --layout torchkan-chebyshev",
    "fc-kan": "it multiplies branches that share coefficients, which is no sum over edges",
    "orthogpoly-jacobi": "its tensors do not tell alpha and beta of the polynomials",
    "orthogpoly-gegenbauer": "its tensors do not tell alpha of the polynomials",
    "orthogpoly-laguerre": "its tensors do not tell alpha of the polynomials",
    "orthogpoly-fib": "versions of its class normalise the polynomials differently",
    "orthogpoly-lucas": "versions of its class normalise the polynomials differently",
    "lkan-fft": _LKAN_FFT,
    "lkan-fft-unscaled": _LKAN_FFT,
    "by-hand": "a layout written by hand says where the edges lie, not what they compute",
}
