"""`model_card`: the page that a file goes to the Hugging Face hub with. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from kancompress.api import given
from kancompress.api.export import FORMATS
from kancompress.api.inspect import inspect
from kancompress.errors import KancompressError, UsageError
from kancompress.formats.storage import Source, called, once
from kancompress.reporting.card import CardOptions, card, read_scores
from kancompress.runtime.program import Program, read
from kancompress.system import files
from kancompress.system import inputs as reading
from kancompress.values import maybe, paths, settled, text


def model_card(
    source: Source,
    *,
    scores: Source | Mapping[str, Any] | None = None,
    base_model: str | None = None,
    license: str | None = None,
    exported: Sequence[str | os.PathLike[str]] = (),
    name: str | None = None,
) -> str:
    """A model card for the Hugging Face hub: front matter in YAML, then a page in Markdown.

    source     : a packed, dense or meta file of kancompress's, or its bytes
    scores     : what `eval` printed as JSON: the record, a file, or its bytes
    base_model : repository on the hub, OWNER/NAME, of the network that was packed
    license    : identifier of the licence, as `mit`; none is told without it
    exported   : files that were exported from it, which lie beside it
    name       : what messages call the source and the page calls the file, its path when None
    Sizes are those of `inspect`. Raises InvalidFileError for a damaged file, and for scores that
    are none; UsageError for another program's file, and for a licence or a repository that the hub
    would not take.

    >>> import kancompress
    >>> page = kancompress.model_card("packed.safetensors", license="mit")
    >>> page.splitlines()[:3]
    ['---', 'library_name: "kancompress"', 'license: "mit"']
    """
    for option, value in (("base_model", base_model), ("license", license), ("name", name)):
        settled(option, value, maybe(text))
    options = CardOptions(
        scores=_read_scores(scores),
        base_model=base_model,
        license=license,
        exported=[path.name for path in settled("exported", exported, paths)],
        formats=[one.suffix for one in FORMATS.values()],
    )
    options.check()
    source, called_so = given.file(source, "model_card")
    source, name = once(source, name or called_so)
    report = inspect(source, name)
    scored = (options.scores or {}).get("file_bytes")
    if scored not in (None, report["file_bytes"]):
        raise UsageError(
            f"The scores are of a file of {scored} bytes, and this one has {report['file_bytes']};"
            " score this file.",
            fields=("scores",),
        )
    program = _program(source, name)
    widths = None if program is None or program.is_conv else (program.inputs, program.outputs)
    options = replace(options, runs=program is not None, widths=widths)
    return card(report, _file_name(source, name), options)


def _read_scores(scores: Source | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if scores is None or isinstance(scores, Mapping):
        return scores
    _, where, data = reading.opened(scores, None, "The scores")
    return read_scores(bytes(data[:]), where)


def _file_name(source: Source, name: str | None) -> str:
    """The file's own name; that of what has none is invented."""
    where = called(source, name)
    if isinstance(source, bytes) and not Path(where).suffix:
        return "model.safetensors"
    if files.hub_name(where):
        return PurePosixPath(where.rpartition("@")[0] or where).name
    return Path(where).name


def _program(source: Source, name: str | None) -> Program | None:
    """The network, where it can be run and exported without the module that it was trained in."""
    _, where, data = reading.opened(source, name, "The input")
    try:
        return read(bytes(data[:]), where)
    except KancompressError:
        return None
