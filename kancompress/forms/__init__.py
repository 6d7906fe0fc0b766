"""What other libraries' fully connected layers compute, and networks of them."""

from __future__ import annotations

from kancompress.forms.building import KnownLayers, dense_network, known_layers, packed_network
from kancompress.forms.catalogue import FORMS
from kancompress.forms.layers import FormLayer, FormNetwork

__all__ = [
    "FORMS",
    "FormLayer",
    "FormNetwork",
    "KnownLayers",
    "dense_network",
    "known_layers",
    "packed_network",
]
