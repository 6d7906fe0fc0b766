"""What a file holds. Only where the size of a packed file is asked for, torch is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kancompress.api import given
from kancompress.config import ClusterConfig
from kancompress.errors import UsageError
from kancompress.formats import storage
from kancompress.formats.storage import Source, called, is_native, once, open_container
from kancompress.reporting import inspection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kancompress.models.records import Checkpoint, PackedModel

# What reads and recognises other libraries' files; our own need neither.
_FOREIGN, _LIBRARIES = "kancompress.formats.foreign", "kancompress.libraries"
# What computes the size of a packed file before it exists; it needs torch.
_SIZES = "kancompress.api.predicted_sizes"


def inspect(
    source: Source | Checkpoint | PackedModel | nn.Module | Mapping[str, Tensor],
    name: str | None = None,
    *,
    check: bool = False,
    clusters: int | None = None,
    layouts: Mapping[str, str] | None = None,
    state: str | None = None,
    drop: Sequence[str] = (),
) -> dict[str, Any]:
    """What a file holds, byte by byte; the keys are listed in docs/json.md.

    source   : any safetensors file, a torch file of another KAN library, or bytes of one; or a
               record, a live module or a state dict, of which the file is told that it would make
    name     : what messages call the source, its path when None
    check    : only verify structure and checksum; the report is then `kind` and `sound`
    clusters : also the size of the packed file at this k, where the file is not packed yet
    layouts  : of another library's layers: layer name or stem ("" for all) to the name of a layout,
               or to one written as `ROLE=NAME:AXES; ...`
    state    : of a torch file with several state dicts, such as an average of the model (EMA), the
               one that is meant: its keys with dots between them, or the last of them
    drop     : patterns of the names of tensors that are left out, as for `cluster`
    Raises InvalidFileError for a damaged file, UsageError for layouts that fit nothing, and for
    `clusters` of a file that is packed already.

    >>> import kancompress
    >>> report = kancompress.inspect("packed.safetensors")
    >>> report["kind"], report["layers"][0]["clusters"], report["layers"][0]["index_bits"]
    ('packed', 16, 4)
    >>> kancompress.inspect("packed.safetensors", check=True)
    {'kind': 'packed', 'sound': True}
    """
    file, called_so = given.file(source, "inspect")
    return _told(file, name or called_so, check, clusters, layouts, state, drop)


def _told(
    source: Source,
    name: str | None,
    check: bool,
    clusters: int | None,
    layouts: Mapping[str, str] | None,
    state: str | None,
    drop: Sequence[str],
) -> dict[str, Any]:
    if check:
        _refuse_state(state, called(source, name))
        _refuse_drop(drop, called(source, name))
        return {"kind": storage.check(source, name), "sound": True}
    config = None if clusters is None else ClusterConfig(clusters=clusters)
    source, name = once(source, name)
    if is_native(source):
        if layouts:
            raise UsageError(
                "Layouts belong to other libraries' files; this one is ours.",
                where=called(source, name),
                fields=("layouts",),
            )
        _refuse_state(state, called(source, name))
        _refuse_drop(drop, called(source, name))
        container = open_container(source, name)
        sizes = None if config is None else import_module(_SIZES).of_native(container, config)
        return inspection.describe(container, sizes)
    record = import_module(_FOREIGN).read_record(source, name, state=state, drop=drop)
    found = import_module(_LIBRARIES).recognise(record.tensors, layouts)
    sizes = (
        None
        if config is None
        else import_module(_SIZES).of_foreign(record, found, config, layouts or {})
    )
    return inspection.describe_foreign(record, found, sizes)


def _refuse_state(state: str | None, where: str) -> None:
    if state is not None:
        import_module(_FOREIGN).refuse_state(state, where)


def _refuse_drop(drop: Sequence[str], where: str) -> None:
    if drop:
        import_module(_FOREIGN).refuse_drop(drop, where)
