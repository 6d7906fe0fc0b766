"""A network of KAGN convolutions whose state dict is that of torch-conv-kan's `SimpleConvKAGN`.

Source of names, shapes and formula: IvanDrokin/torch-conv-kan (kans/kagn_conv, and
models/baselines/conv_kan_baseline.py, whose regularised layers put `.module.` inside the keys).
Without its dropout, which does nothing in evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.layers.bases import gram

STRIDES = (1, 2, 2, 1)


class KagnConv(nn.Module):
    """silu(BatchNorm(conv(silu(x)) + conv(silu(Gram polynomials of tanh(x))))), kernel 3 x 3."""

    def __init__(self, inputs: int, outputs: int, degree: int, stride: int) -> None:
        super().__init__()
        self.degree, self.stride = degree, stride
        self.base_conv = nn.ModuleList(
            [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)]
        )
        self.layer_norm = nn.ModuleList([nn.BatchNorm2d(outputs)])
        shape = (1, outputs, inputs * (degree + 1), 3, 3)
        self.poly_weights = nn.Parameter(torch.empty(shape))
        self.beta_weights = nn.Parameter(torch.empty(degree + 1))
        nn.init.kaiming_uniform_(self.base_conv[0].weight, nonlinearity="linear")
        nn.init.kaiming_uniform_(self.poly_weights[0], nonlinearity="linear")
        nn.init.normal_(self.beta_weights, std=1 / (9 * inputs * (degree + 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, inputs, height, width) -> (rows, outputs, height / stride, width / stride)."""
        planes = gram.planes(torch.tanh(x), self.degree, self.beta_weights).flatten(1, 2)
        curve = functional.conv2d(planes, self.poly_weights[0], stride=self.stride, padding=1)
        return functional.silu(self.layer_norm[0](self.base_conv[0](functional.silu(x)) + curve))


class _Regularised(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class SimpleConvKagn(nn.Module):
    """Four convolutions, the mean over all positions, and a linear layer."""

    def __init__(
        self,
        widths: tuple[int, ...] = (8, 16, 32, 32),
        channels: int = 1,
        classes: int = 10,
        degree: int = 3,
    ) -> None:
        super().__init__()
        steps = zip((channels, *widths), widths, STRIDES, strict=False)
        first, *rest = (KagnConv(i, o, degree, stride) for i, o, stride in steps)
        self.layers = nn.ModuleList([first, *map(_Regularised, rest)])
        self.output = nn.Sequential(nn.Identity(), nn.Linear(widths[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels, height, width) -> (rows, classes)."""
        for layer in self.layers:
            x = layer(x)
        return self.output(x.mean((2, 3)))
