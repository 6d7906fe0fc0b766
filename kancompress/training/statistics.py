"""Running statistics of batch normalisation, taken anew after every epoch.

Dropout changes the moments of what a normalisation sees in training: values spread (the variance
shift of Li et al., arXiv 1801.05134), and since a basis function of 0 is not 0, means move, too.
Statistics that run along in training describe that, not what evaluation has. A pass over some rows
without dropout gives those (as precise batch normalisation does, Wu and Johnson,
arXiv 2105.07576).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from kancompress.data.datasets import Split
from kancompress.layers.network import Network
from kancompress.system import devices, distributed

# Images of the training set, whose maps are all in memory at a time; of larger ones than 32 x 32
# fewer are taken, as each gives more values.
_IMAGES, _FEWEST = 1024, 16
_PIXELS = _IMAGES * 32 * 32


def renewal(network: nn.Module, train: Split, seed: int) -> Callable[[], None] | None:
    """What takes the running statistics of `network` anew; None where it keeps none.

    train : images of which a seeded sample is looked at, always the same one and not augmented
    """
    if not isinstance(network, Network) or not network.has_statistics():
        return None
    order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(seed))
    count = max(_FEWEST, min(_IMAGES, _PIXELS // math.prod(train.x.shape[2:])))
    rows, _ = distributed.part(order[:count])

    def renew() -> None:
        with distributed.forward_pass():
            network.renew_statistics(train.x[rows].to(devices.of(network)))

    return renew
