"""`cluster`: edge vectors to centroids and indices (stage 2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kancompress.clustering.network import Calibrated
from kancompress.config import ClusterConfig
from kancompress.errors import UsageError
from kancompress.formats.foreign import read_foreign
from kancompress.formats.packed import PackedModel
from kancompress.formats.storage import Input, called, is_native, once, sized
from kancompress.libraries import recognise
from kancompress.packing import extras, sizing
from kancompress.packing.gridded import foreign_given, native_given
from kancompress.packing.native import LayerClustering
from kancompress.packing.notes import source_notes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compression:
    """Result of `cluster`: the packed model, what was done to each layer, what to know of it."""

    model: PackedModel
    layers: list[LayerClustering]
    notes: tuple[str, ...] = ()
    calibrated: Calibrated | None = None


def cluster(
    source: Input,
    config: ClusterConfig | None = None,
    *,
    layouts: Mapping[str, str] | None = None,
    keep_scaler: bool = False,
    keep_extra: bool = False,
    name: str | None = None,
    report: Callable[[LayerClustering], None] | None = None,
) -> Compression:
    """Cluster the edge vectors of a checkpoint and pack it (stage 2).

    source      : a dense or meta checkpoint of ours, or a file that another KAN library saved
    layouts     : for the latter: layer name or stem ("" for all) to the name of a layout, or to one
                  in the notation of docs/layouts.md, where names and shapes do not tell
    keep_scaler : leave factors of whole edges as tensors of their own instead of folding them
    keep_extra  : keep what a torch file holds beside the model (optimizer, settings), for `expand`
    name        : what messages call the source, its path when None
    Raises UsageError for a file that is packed already, and one error for all that is wrong with a
    file of another library: InvalidFileError where its layers hold NaN or infinity, else UsageError
    (no layer recognised, layouts that fit nothing or have to be chosen, unknown names of layers).

    >>> import kancompress
    >>> packed = kancompress.cluster("digits.safetensors", kancompress.ClusterConfig(clusters=16))
    >>> [(layer.name, layer.edges, layer.clusters) for layer in packed.layers]
    [('0', 2048, 16), ('1', 320, 16)]
    >>> kancompress.save(packed.model, "small.safetensors") > 0
    True
    """
    config = config or ClusterConfig()
    source, name = once(source, name)
    if isinstance(source, str | os.PathLike | bytes) and not is_native(source):
        foreign = read_foreign(source, name)
        unfit: list[str] = []
        found = recognise(foreign.tensors, layouts, unfit=unfit)
        skeleton = extras.find_extra(foreign, found, unfit) if keep_extra else None
        given_of, told = foreign_given(
            foreign, found, config, layouts=layouts, keep_scaler=keep_scaler
        )
        gains = {gain.tensor for layer in found.layers for gain in layer.gains}
        model, layers = sizing.pack_foreign(
            foreign,
            found,
            config,
            keep_scaler=keep_scaler,
            unfit=unfit,
            report=report,
            given_of=given_of,
            finish=lambda model: extras.keep_extra(model, skeleton, gains, foreign.where),
        )
        notes = source_notes(foreign, found, kept=skeleton is not None)
        return Compression(model=model, layers=layers, notes=(*notes, *told))
    if layouts or keep_scaler or keep_extra:
        raise UsageError(
            "Layouts, scalers and extras belong to other libraries' files; this one is ours."
        )
    size, record = sized(source, name, stored=True)
    if isinstance(record, PackedModel):
        raise UsageError(
            f"{called(source, name)} is packed already. To cluster it anew:"
            " kancompress expand FILE -o DENSE"
        )
    given = native_given(record)
    model, layers = sizing.pack_native(
        record, config, source_file_bytes=size, report=report, given_of=given
    )
    return Compression(model=model, layers=layers)
