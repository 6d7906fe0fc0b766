"""What torch-conv-kan's convolutions compute; stride and padding are the user's module's.

Source: IvanDrokin/torch-conv-kan, kan_convs/kan_conv.py, fast_kan_conv.py, kagn_conv.py. Their
tensors do not tell stride and padding, so these layers run in the user's model alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from kancompress.config import Activation
from kancompress.layers.window import Window
from kancompress.libraries.forms.catalogue import FORMS
from kancompress.libraries.forms.records import Form, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvForm:
    """What a convolution computes before its normalisation.

    form   : of what each pixel is expanded to
    sums   : the module below the layer's own that is called with the sums over the edges; the
             layer's own puts them out where this is empty
    before : the module below the layer's own through which the basis sees the input, or none
    """

    form: Form
    sums: str = ""
    before: str = ""


CONV_FORMS: dict[str, ConvForm] = {
    "kagn-conv": ConvForm(
        form=Form(
            expansion=FORMS["torch-conv-kan-gram"].expansion,
            before=FORMS["torch-conv-kan-gram"].before,
        ),
        sums="layer_norm.0",
    ),
    "kan-conv": ConvForm(
        form=Form(expansion=FORMS["torch-conv-kan-fc"].expansion, activation=Activation.GELU),
        sums="layer_norm.0",
    ),
    "fastkan-conv": ConvForm(
        form=Form(expansion=FORMS["fast-kan"].expansion), before="layer_norm.0"
    ),
}

# The module of a layer by the layer's name, None where there is none.
FindModule = Callable[[str], nn.Module | None]


def window_of(setting: Setting, module: nn.Module) -> Window:
    """How the edges lie over a map, as the first convolution of a layer's module has it."""
    found = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if found is None:
        setting.refuse("its module holds no torch.nn.Conv2d that tells stride and padding")
    plain = found.groups == 1 and setting.found.groups == 1 and set(found.dilation) == {1}
    padding = found.padding
    square = isinstance(padding, tuple) and len({*found.stride}) == len({*padding}) == 1
    if not plain or not square or found.padding_mode != "zeros":
        setting.refuse(
            "its module's groups, dilation, stride or padding are others than one group, dilation 1"
            " and zeros, equal in both directions"
        )
    rows, columns = setting.found.shape[2:]
    return Window(kernel=(rows, columns), stride=int(found.stride[0]), padding=int(padding[0]))


def step_of(module: nn.Module, name: str) -> nn.Module:
    """A copy of a module below a layer's own, for evaluation."""
    return copy.deepcopy(module.get_submodule(name)).eval()
