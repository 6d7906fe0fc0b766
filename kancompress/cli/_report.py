"""What a command says of a file: one headline, and tables below it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._options import option_of
from kancompress.config import RUN_FIELDS
from kancompress.errors import KancompressError, spoken
from kancompress.reporting import told
from kancompress.system import torchrun as launch


def words(text: str) -> str:
    """A sentence of a report in the words of the command line."""
    return spoken(text, (*told.SPOKEN, *RUN_FIELDS), option_of)


def in_words(report: Mapping[str, Any]) -> told.Told:
    """A report in the words of the command line."""
    return told.told(report).in_words(words)


def show(report: Mapping[str, Any], name: str) -> None:
    """All that `inspect` says of a file, on standard output."""
    found = in_words(report)
    _output.result(f"{name}: {report['kind']}, {found.headline}")
    if found.kind:
        _output.result(found.kind)
    _output.gap(to_stdout=True)
    sheets = (found.ratios, found.layers, found.unshrunk, found.parts, *found.others)
    for sheet in (sheet for sheet in sheets if sheet is not None):
        _output.sheet(sheet, to_stdout=True)
    for note in found.notes:
        _output.result(note)


def tell_packed(
    record: kancompress.PackedModel,
    output: str,
    *,
    more: str = "",
    why: bool = False,
    unused: int = 0,
) -> None:
    """What `cluster` and `finetune` say of the file that they wrote, on standard error.

    more   : what is said behind the headline
    why    : whether it is said what did not shrink, and why
    unused : bytes of the source's file that no tensor uses
    """
    if not _output.speaks() or not launch.is_first():
        return
    is_file = output != _files.DASH and Path(output).is_file()
    source = Path(output) if is_file else kancompress.encode(record)
    try:
        report = kancompress.inspect(source)
        if unused:
            report["source"]["unused"] = unused
        found = in_words(report)
    except KancompressError:  # such as for a file that stands for too many bytes to be read
        _output.note(f"{_called(output)}: written{more}")
        return
    _output.note(f"{_called(output)}: {found.headline}{more}")
    _output.gap()
    for sheet in (found.ratios, found.unshrunk if why else None):
        if sheet is not None:
            _output.sheet(sheet)


def _called(output: str) -> str:
    return "standard output" if output == _files.DASH else output
