"""What other libraries' fully connected layers compute, and networks of them."""

from __future__ import annotations

from kancompress.forms.building import dense_network, packed_network
from kancompress.forms.catalogue import FORMS
from kancompress.forms.layers import FormLayer, FormNetwork

__all__ = ["FORMS", "FormLayer", "FormNetwork", "dense_network", "packed_network"]
