"""What only the user's own module tells of a convolution: how its edges lie over a map."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from kancompress.layers.forms import Window
from kancompress.libraries.forms import Setting

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
