"""fast-kan and faster-kan: `spline_linear.weight` (out, in * K), column i * K + b.

Sources: ZiyaoLi/fast-kan, fastkan/fastkan.py; AthanasiosDelis/faster-kan, which saves
`rbf.inv_denominator` besides and has no base weights.
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

LAYOUTS = (
    Layout(
        name="faster-kan",
        pieces=(_SPLINE,),
        beside=(*_BESIDE, Beside(name="rbf.inv_denominator", required=True)),
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
    return Switches(ends(centres), setting.hold("rbf.grid", centres))


FORMS = Forms(
    chains={
        "fast-kan": Form(
            basis=gaussians("rbf.grid"), before=LayerNorm("layernorm"), bias="base_linear.bias"
        ),
        "faster-kan": Form(basis=_switches, before=LayerNorm("layernorm")),
    }
)
