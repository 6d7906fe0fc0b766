"""Which inputs of a layer are taken together where not all can be: those that go together.

Inputs are nodes of a graph. Two are as near as their features correlate, |E f_i f_j^T|^2 of
features whose squares sum to one, on a few rows. The graph is bisected along its second
eigenvector, and each half again. No edge of the graph is ever written down: a product with it is
two products with the features.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Steps of the power iteration. Halves hardly change after twenty.
_STEPS = 30


def bisected(features: Tensor, sizes: list[int]) -> list[Tensor]:
    """Groups of inputs of these sizes, each by rising number.

    features : (in, rows, d) of some rows, around their means; sizes : sum up to the inputs
    """
    lengths = features.flatten(1).norm(dim=1)
    features = features / lengths.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
    numbers = torch.arange(len(features), device=features.device)
    return _cut(features, numbers, sizes)


def _cut(features: Tensor, members: Tensor, sizes: list[int]) -> list[Tensor]:
    if len(sizes) == 1:
        return [members]
    half = len(sizes) // 2
    place = _along(features[members]).argsort(stable=True)
    parts = torch.split(place, [sum(sizes[:half]), sum(sizes[half:])])
    return [
        group
        for part, own in zip(parts, (sizes[:half], sizes[half:]), strict=True)
        for group in _cut(features, members[part.sort().values], own)
    ]


def _along(features: Tensor) -> Tensor:
    """The second eigenvector of the graph, (in,), each degree divided out.

    The first is known: the roots of the degrees.
    """
    count, rows, d = features.shape
    flat = features.transpose(0, 1).reshape(rows, count * d)

    def times(values: Tensor) -> Tensor:
        gathered = (flat * values.repeat_interleave(d)) @ flat.T
        return ((gathered @ flat) * flat).sum(0).view(count, d).sum(1)

    roots = times(torch.ones_like(flat[0, ::d])).clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    first = roots / roots.norm()
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(count, generator=generator).to(flat)
    for _ in range(_STEPS):
        vector = times(vector / roots) / roots
        vector -= (vector @ first) * first
        vector /= vector.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return vector / roots
