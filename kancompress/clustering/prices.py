"""What an index costs: bits, by classes of inputs.

Inputs that matter need many different centroids, others hardly any. Each of a few classes of inputs
has its own distribution over the centroids, and an index costs -log2 of its share in the class of
its input: what the encoding `rans` will take for it. With that in the assignment bits go where they
count (entropy-constrained vector quantisation; Chou, Lookabaugh and Gray 1989).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kancompress.formats.packed.encodings.classes import Symbols, ladder


def prices_of(labels: Tensor, clusters: int, used: Tensor | None = None) -> Tensor:
    """Bits of an index into each centroid by input, (in, k) float32 on the CPU.

    labels : (out, in); used : (out, in), which edges have an index, all when None
    """
    by_input = labels.T.contiguous().cpu()
    lengths = None
    if used is not None:
        there = used.T.cpu()
        lengths = there.sum(1).numpy()
        by_input = by_input[there]
    symbols = Symbols(by_input.reshape(-1).numpy(), labels.shape[1], lengths)
    *_, last = ladder(symbols, clusters)
    found = last.whole(symbols)
    return torch.from_numpy(found.prices()[found.of_input]).float()
