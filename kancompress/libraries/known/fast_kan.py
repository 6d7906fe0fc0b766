"""fast-kan and faster-kan: `spline_linear.weight` (out, in * K), column i * K + b.

Sources: ZiyaoLi/fast-kan, fastkan/fastkan.py; AthanasiosDelis/faster-kan, which saves
`rbf.inv_denominator` besides, does not use it, and has no base weights. Its first versions and
their copies (chenziwenhaoshuai/Vision-KAN) save no `rbf.inv_denominator` and divide by 0.33: they
have the names and shapes of a fast-kan layer without base, so the user must say which it is where
the forward matters.
"""

from __future__ import annotations

from kancompress.layers.forms import Basis, Switches
from kancompress.libraries.forms import Form, Forms, LayerNorm, Setting, ends, gaussians
from kancompress.libraries.records import Beside, Layout, Piece

_SPLINE = Piece(name="spline_linear.weight", axes="out (in coef)")
_BESIDE = (
    Beside(name="rbf.grid", axes="coef", required=True),
    Beside(name="layernorm.weight", axes="in"),
    Beside(name="layernorm.bias", axes="in"),
)
_EARLY_WIDTH = 0.33  # of faster-kan before it saved `rbf.inv_denominator`

LAYOUTS = (
    Layout(
        name="fast-kan-no-base",
        pieces=(_SPLINE,),
        beside=_BESIDE,
        forbidden=("base_linear.weight", "rbf.inv_denominator"),
        notes=("The tensors do not tell fast-kan without base weights from an early faster-kan.",),
    ),
    Layout(
        name="faster-kan",
        pieces=(_SPLINE,),
        beside=(*_BESIDE, Beside(name="rbf.inv_denominator")),
        forbidden=("base_linear.weight",),
    ),
    Layout(
        name="fast-kan",
        pieces=(_SPLINE, Piece(name="base_linear.weight", axes="out in", optional=True)),
        beside=(*_BESIDE, Beside(name="base_linear.bias", axes="out")),
        forbidden=("rbf.inv_denominator",),
        notes=("The tensors do not tell a custom denominator of the radial functions.",),
    ),
)


def _switches(setting: Setting) -> Basis:
    centres = setting.array("rbf.grid")
    width = 1.0
    if setting.find("rbf.inv_denominator") is None:
        width = _EARLY_WIDTH
        setting.notes.append(
            f"{setting.found.layout}: switches of width {width}, as before it saved"
            " rbf.inv_denominator"
        )
    return Switches(ends(centres), setting.hold("rbf.grid", centres), width)


FORMS = Forms(
    chains={
        "fast-kan": Form(
            basis=gaussians("rbf.grid"), before=LayerNorm("layernorm"), bias="base_linear.bias"
        ),
        "faster-kan": Form(basis=_switches, before=LayerNorm("layernorm")),
    },
    unknown={
        "fast-kan-no-base": "its tensors do not tell fast-kan without base weights from a"
        " faster-kan that divides by 0.33"
    },
    rivals={"fast-kan-no-base": ("fast-kan", "faster-kan")},
)
