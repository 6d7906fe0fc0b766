"""What an index costs: bits, by classes of inputs.

Inputs that matter need many different centroids, others hardly any. Each of a few classes of inputs
has its own distribution over the centroids, and an index costs -log2 of its share in the class of
its input. With that in the assignment bits go where they count: the better a centroid is known to
the class, the less it has to gain to be chosen (entropy-constrained vector quantisation; Chou,
Lookabaugh and Gray 1989).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Classes that are tried; alternations between inputs and distributions, at most.
CLASSES = (1, 2, 4, 8, 16)
_PASSES = 24
# Added to the count of every centroid in every class, so that none is impossible.
_HAIR = 0.05
# What a class's table takes for a centroid that it has, in bits.
_ENTRY = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Bits of an index into each centroid, by input.

    bits    : (in, k) float32
    classes : (in,) of every input; total : of all indices, tables and classes, in bits
    """

    bits: Tensor
    classes: Tensor
    total: float


def counts_of(labels: Tensor, clusters: int, used: Tensor | None = None) -> Tensor:
    """How often each input has each centroid, (in, k) float64.

    labels : (out, in); used : (out, in), which edges have an index, all when None
    """
    inputs = labels.shape[1]
    cells = labels + torch.arange(inputs, device=labels.device) * clusters
    cells = cells if used is None else cells[used.to(cells.device)]
    found = torch.bincount(cells.reshape(-1).cpu(), minlength=inputs * clusters)
    return found.view(inputs, clusters).double()


def prices_of(counts: Tensor) -> Prices:
    """Prices of the centroids to every input, with as many classes as cost least.

    counts : (in, k) as of `counts_of`
    """
    best: Prices | None = None
    for number in CLASSES:
        if number > max(1, len(counts) // 2):
            break
        found = _with_classes(counts, number)
        if best is not None and found.total >= best.total:
            break
        best = found
    assert best is not None
    return best


def _with_classes(counts: Tensor, number: int) -> Prices:
    inputs, k = counts.shape
    # From the inputs with the least different indices to those with the most.
    order = _entropies(counts).argsort(stable=True)
    classes = torch.empty(inputs, dtype=torch.int64)
    classes[order] = torch.arange(inputs) * number // max(1, inputs)
    for _ in range(_PASSES):
        bits = _bits(counts, classes, number)
        chosen = (counts @ bits.T).argmin(1)
        if torch.equal(chosen, classes):
            break
        classes = chosen
    bits = _bits(counts, classes, number)
    members = torch.zeros(number, k, dtype=torch.float64).index_add_(0, classes, counts)
    tables = _ENTRY * float((members > 0).sum())
    side = inputs * (number - 1).bit_length()
    total = float((counts * bits[classes]).sum()) + tables + side
    return Prices(bits[classes].float(), classes, total)


def _bits(counts: Tensor, classes: Tensor, number: int) -> Tensor:
    """-log2 of the share of each centroid in each class, (classes, k) float64."""
    k = counts.shape[1]
    sums = torch.zeros(number, k, dtype=torch.float64).index_add_(0, classes, counts) + _HAIR
    return -torch.log2(sums / sums.sum(1, keepdim=True))


def _entropies(counts: Tensor) -> Tensor:
    """Entropy of every input's own indices."""
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    found: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return found
