"""Tensors of another library's checkpoint that are left out because the user says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from kancompress.errors import UsageError
from kancompress.formats.arrays import Stored
from kancompress.formats.foreign.checkpoint import ForeignRecord
from kancompress.formats.pykan_config import is_own
from kancompress.formats.safetensors import shown
from kancompress.values import did_you_mean

T = TypeVar("T")
Record = TypeVar("Record", bound=ForeignRecord[Any])

_MOST_TOLD = 200  # names that are told one by one


def without(record: Record, drop: Sequence[str]) -> Record:
    """A checkpoint without the tensors whose names fit a pattern, and what was left out told.

    drop : patterns of the shell (`*`, `?`, `[...]`) for whole names, or for what stands behind a
           dot in them: `total_ops` is `total_ops` and `layers.0.total_ops`
    Raises UsageError for a pattern that fits no name, and where no tensor is left.
    """
    if not drop:
        return record
    if isinstance(drop, str):
        drop = (drop,)
    names = list(record.tensors)
    fitting = {pattern: [name for name in names if fits(name, pattern)] for pattern in drop}
    for pattern, found in fitting.items():
        if not found:
            raise _fits_nothing(pattern, names, record.where)
    gone = {name for found in fitting.values() for name in found}
    if len(gone) == len(names):
        raise UsageError(
            f"`drop` leaves no tensor of {record.where}; give patterns that fit fewer names.",
            where=record.where,
            fields=("drop",),
        )
    ties = _ties(record.ties, gone, names)
    tensors = _kept(record.tensors, gone, ties)
    known = tensors.outline if isinstance(tensors, Stored) else tensors
    missed = [name for name in names if name in gone and is_own(name)]
    if record.pykan is not None and missed:
        told = f"{missed[0]}" + (f" and {len(missed) - 1:,} more" if len(missed) > 1 else "")
        note = f"pykan's config stays out of the packed file: its loadckpt needs {told}"
        record = replace(record, pykan=None, notes=(*record.notes, note))
    return replace(
        record,
        tensors=tensors,
        ties=ties,
        tensor_bytes=sum(one.nbytes for name, one in known.items() if name not in ties),
        dropped=(*record.dropped, *_told([name for name in names if name in gone])),
    )


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern means a tensor of this name."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def refuse_drop(drop: Sequence[str], where: str) -> None:
    """Refuse patterns for a file of kancompress's own."""
    if drop:
        raise UsageError(
            f"`drop` is for other libraries' files, and {where} is none; leave it out.",
            where=where,
            fields=("drop",),
        )


def _fits_nothing(pattern: str, names: Sequence[str], where: str) -> UsageError:
    last = [name.rpartition(".")[2] for name in names]
    near = did_you_mean(pattern, list(dict.fromkeys([*names, *last]))).strip()
    return UsageError(
        f"`drop` {shown(pattern)} fits no tensor of {where}.",
        where=where,
        fields=("drop",),
        hint=near if near.isprintable() else "",
    )


def _told(names: Sequence[str]) -> list[str]:
    """Names as notes tell what was left out."""
    told = list(names[:_MOST_TOLD])
    more = len(names) - _MOST_TOLD
    return [*told, f"and {more:,} more"] if more > 0 else told


def _ties(ties: Mapping[str, str], gone: set[str], names: Sequence[str]) -> dict[str, str]:
    """Names to the earlier ones that they are the same as, among those that stay."""
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in names:
        if name in gone:
            continue
        anchor = ties.get(name, name)
        if anchor in first:
            found[name] = first[anchor]
        else:
            first[anchor] = name
    return found


def _kept(tensors: Mapping[str, T], gone: set[str], ties: Mapping[str, str]) -> Mapping[str, T]:
    """The tensors that stay; those of a file are read when they are asked for, as before."""
    if isinstance(tensors, Stored):
        outline = {name: one for name, one in tensors.outline.items() if name not in gone}
        return type(tensors)(outline, tensors.__getitem__, ties, tensors.part)
    return {name: one for name, one in tensors.items() if name not in gone}
