"""Live `torch.nn.Module`s packed and given their packed coefficients back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from kancompress.clustering.network import Calibrated
from kancompress.config import ClusterConfig
from kancompress.errors import UsageError
from kancompress.libraries import recognise
from kancompress.models import files
from kancompress.models.parametrization import Parametrization
from kancompress.models.records import PackedModel
from kancompress.models.user_module import load_into, read_module
from kancompress.packing.gridded import foreign_given
from kancompress.packing.native import LayerClustering
from kancompress.packing.notes import source_notes
from kancompress.packing.sizing import pack_foreign


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compressed:
    """Result of `compress`: the packed model, what was done to each layer, what to know of it.

    calibrated : what `compress_by_outputs` chose and measured
    """

    model: PackedModel
    layers: list[LayerClustering]
    notes: tuple[str, ...] = ()
    calibrated: Calibrated | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The module's state dict with the packed coefficients; all else is bit-identical."""
        return self.model.state_dict()

    def apply_to(self, model: nn.Module) -> None:
        """Copy the whole state dict into a module of the same architecture, in place.

        The module keeps its dtypes and devices. It may be the one that was compressed; prefixes of
        DistributedDataParallel and torch.compile may differ. Raises UsageError naming the tensors
        that do not fit; the module is then unchanged.
        """
        load_into(model, self.state_dict(), "The compressed model")

    def parametrize(self, model: nn.Module) -> Parametrization:
        """As `apply_to`, but the codebooks become parameters: see `kancompress.parametrize`."""
        return Parametrization(model, self.model)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write the packed file; returns its bytes. Raises as `kancompress.save`."""
        return files.save(self.model, path, force=force)


def compress(
    model: nn.Module,
    config: ClusterConfig | None = None,
    *,
    layouts: Mapping[str, str] | None = None,
    keep_scaler: bool = False,
    report: Callable[[LayerClustering], None] | None = None,
    **settings: Any,
) -> Compressed:
    """Cluster the edge vectors of a live module's KAN layers and pack its state dict.

    model    : any architecture; its KAN layers are recognised by the names and shapes of its state
               dict, as a file's are (docs/layouts.md). It is not changed
    settings : fields of ClusterConfig in place of `config`, such as `clusters=16`
    The rest is as for `cluster`. The packed model restores as a torch file; its source's file size
    is what `torch.save` of the state dict would weigh.
    Raises UsageError when no KAN layer is recognised or a tensor cannot be stored,
    KancompressError when no layer would shrink.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"compress takes a torch.nn.Module and was given {type(model).__name__}; files and"
            " checkpoints go to cluster."
        )
    source = read_module(model)
    found = recognise(source.tensors, layouts)
    config = _config(config, settings)
    given_of, told = foreign_given(source, found, config, layouts=layouts, keep_scaler=keep_scaler)
    packed, layers = pack_foreign(
        source, found, config, keep_scaler=keep_scaler, report=report, given_of=given_of
    )
    # Copies: the module may go on learning in place.
    tensors = {name: tensor.clone() for name, tensor in packed.tensors.items()}
    return Compressed(
        model=replace(packed, tensors=tensors),
        layers=layers,
        notes=(*source_notes(source, found), *told),
    )


def _config(config: ClusterConfig | None, settings: Mapping[str, Any]) -> ClusterConfig:
    if unknown := settings.keys() - ClusterConfig.__dataclass_fields__.keys():
        raise UsageError(
            f"compress has no setting {min(unknown)!r}; known are"
            f" {', '.join(ClusterConfig.__dataclass_fields__)}."
        )
    return replace(config or ClusterConfig(), **settings)
