"""FCN-KAN: an edge is a small network of one hidden layer, in four tensors.

Source: Zhangyanbo/FCN-KAN, kan_layer.py: `W1` (in, out, hidden, features), `W2` (in, out, 1,
hidden), `B1` (in, out, hidden), `B2` (in, out, 1). The output is not linear in W1 and B1.
"""

from __future__ import annotations

from kancompress.libraries.forms import Forms
from kancompress.libraries.records import Layout, Piece

LAYOUTS = (
    Layout(
        name="fcn-kan",
        pieces=(
            Piece(name="W1", axes="in out coef_hidden coef_feature"),
            Piece(name="W2", axes="in out 1 coef_hidden"),
            Piece(name="B1", axes="in out coef_hidden"),
            Piece(name="B2", axes="in out 1"),
        ),
    ),
)

FORMS = Forms(unknown={"fcn-kan": "its edges are networks of their own"})
