"""Layers that the benchmarks measure against, written for that purpose alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.layers.edges import MetaLearner


class CoxDeBoorLayer(nn.Module):
    """A cubic B-spline layer whose basis is the recursion over all knots, as efficient-kan's is.

    With a meta-learner the coefficients (out, in, 9) come from embeddings through its two linear
    maps, row after row as MetaKAN has it; without, they are parameters: spline weights, a scaler
    for each edge, and base weights.
    """

    def __init__(self, inputs: int, out: int, learner: MetaLearner | None = None) -> None:
        super().__init__()
        width = 2 / 5
        knots = torch.arange(-3, 9) * width - 1
        self.grid: Tensor
        self.register_buffer("grid", knots.repeat(inputs, 1))
        self.learner = learner
        if learner is None:
            self.base = nn.Parameter(torch.randn(out, inputs) / inputs**0.5)
            self.spline = nn.Parameter(torch.randn(out, inputs, 8) * 0.05)
            self.scaler = nn.Parameter(torch.ones(out, inputs))
        else:
            self.embedding = nn.Parameter(torch.randn(out, inputs, 1) * 0.05)

    def basis(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, in, 8)."""
        grid, x = self.grid, x.unsqueeze(-1)
        values = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for order in range(1, 4):
            left = (x - grid[:, : -(order + 1)]) / (grid[:, order:-1] - grid[:, : -(order + 1)])
            right = (grid[:, order + 1 :] - x) / (grid[:, order + 1 :] - grid[:, 1:-order])
            values = left * values[:, :, :-1] + right * values[:, :, 1:]
        return values.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out)."""
        if self.learner is None:
            base, spline = self.base, self.spline * self.scaler.unsqueeze(-1)
        else:
            hidden = functional.relu(self.learner.hidden(self.embedding))
            coefficients: Tensor = self.learner.output(hidden)
            spline, base = coefficients[:, :, :-1], coefficients[:, :, -1]
        branch = functional.linear(functional.silu(x), base)
        return branch + functional.linear(self.basis(x).flatten(1), spline.flatten(1))


class EagerConvolution(nn.Module):
    """A convolution of cubic B-splines, expanded as torch-conv-kan's KANConv expands it: the
    recursion over the whole map in eager mode, then one convolution of the splines and one of the
    base branch; batch normalisation, PReLU, dropout. Padding 1, grid -3 ... 3 with 5 intervals.
    """

    def __init__(self, inputs: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.base = nn.Conv2d(inputs, out, 3, stride, 1, bias=False)
        self.spline = nn.Conv2d(8 * inputs, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.knots: Tensor
        self.register_buffer("knots", (torch.arange(-3, 9).double() * (6 / 5) - 3).float())

    def basis(self, x: Tensor) -> Tensor:
        """(batch, in, rows, columns) -> (batch, in, rows, columns, 8)."""
        # a row of knots for every pixel, as there
        grid = self.knots.expand(*x.shape[1:], -1).contiguous()
        x = x.unsqueeze(-1)
        values = ((x >= grid[..., :-1]) & (x < grid[..., 1:])).to(x.dtype)
        for order in range(1, 4):
            low, high = grid[..., : -(order + 1)], grid[..., order:-1]
            after, behind = grid[..., order + 1 :], grid[..., 1:-order]
            left = (x - low) / (high - low) * values[..., :-1]
            values = left + (after - x) / (after - behind) * values[..., 1:]
        return values.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, rows, columns) -> (batch, out, rows, columns)."""
        planes = self.basis(x).movedim(-1, 2).flatten(1, 2)
        y = self.base(functional.silu(x)) + self.spline(planes)
        return self.dropout(self.activation(self.norm(y)))


class FloorLayer(nn.Module):
    """The matrix product over 9 features an input, with no basis at all: the floor of any KAN."""

    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, 9 * inputs) * 0.05)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, 9 in) -> (batch, out)."""
        return functional.linear(features, self.weight)
