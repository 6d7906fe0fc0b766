"""Live `torch.nn.Module`s packed: a door to `kancompress.cluster`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kancompress.api import given
from kancompress.api.cluster import cluster
from kancompress.config import ClusterConfig, RunOptions
from kancompress.errors import UsageError
from kancompress.packing.pack import Compression, LayerClustering

# What `compress` gave before it gave the same as `cluster`.
Compressed = Compression


def compress(
    model: nn.Module,
    config: ClusterConfig | None = None,
    *,
    layouts: Mapping[str, str] | None = None,
    options: RunOptions | None = None,
    keep_scaler: bool = False,
    report: Callable[[LayerClustering], None] | None = None,
    **settings: Any,
) -> Compression:
    """Cluster the edge vectors of a live module's KAN layers and pack its state dict.

    model    : any architecture; its KAN layers are recognised by the names and shapes of its state
               dict, as a file's are. It is not changed
    settings : fields of ClusterConfig in place of `config`, such as `clusters=16`
    The rest is as for `cluster`. The packed model restores as a torch file; its source's file size
    is what `torch.save` of the state dict would weigh.
    Raises UsageError when no KAN layer is recognised or a tensor cannot be stored,
    KancompressError when every layer and the whole file would grow.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"compress takes a torch.nn.Module and was given {type(model).__name__}; files and"
            " checkpoints go to cluster."
        )
    return cluster(
        model,
        given.clustering("compress", config, settings),
        layouts=layouts,
        options=options,
        keep_scaler=keep_scaler,
        report=report,
    )
