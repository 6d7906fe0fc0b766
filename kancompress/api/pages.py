"""A report of a file as a page that can be published: HTML, or Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kancompress.api.inspect import inspect
from kancompress.config import PlotConfig, RunOptions
from kancompress.errors import KancompressError, UsageError
from kancompress.formats.storage import Source, called, once
from kancompress.reporting import markdown, page
from kancompress.reporting.told import Told, told
from kancompress.system import inputs

if TYPE_CHECKING:
    from kancompress.reporting.plotting.curves import Curves

Pictures = Sequence[str | os.PathLike[str]]
# Types of pictures that a page can show.
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
# What reads the tensors of a packed file, and draws its centroids; they need torch.
_FILES, _CURVES = "kancompress.models.files", "kancompress.reporting.plotting.curves"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Found:
    """What pages are made of."""

    report: Mapping[str, Any]
    told: Told
    title: str
    curves: Sequence[Curves]


def html_report(
    source: Source,
    *,
    pictures: Pictures = (),
    layouts: Mapping[str, str] | None = None,
    clusters: int | None = None,
    state: str | None = None,
    name: str | None = None,
    words: Callable[[str], str] | None = None,
) -> str:
    """What `inspect` tells of a file as one page of HTML without scripts: bytes as bars, ratios,
    layers, what did not shrink and why, and the functions of a packed file's centroids.

    source   : any file that `inspect` takes, or its bytes
    pictures : .png and .svg files that the page shall hold, as `plot_edges` draws them
    layouts, clusters, state, name : as for `inspect`
    words    : gives sentences that speak of parameters, in backticks, other words
    Raises UsageError for a picture of another kind, InvalidFileError for one that cannot be read,
    and what `inspect` raises.

    >>> import kancompress
    >>> kancompress.html_report("packed.safetensors").splitlines()[0]
    '<!DOCTYPE html>'
    """
    held = [(_caption(path), _type(path), bytes(inputs.read(Path(path))[:])) for path in pictures]
    found = _found(source, layouts, clusters, state, name, words)
    return page.page(found.told, found.report, found.title, curves=found.curves, pictures=held)


def markdown_report(
    source: Source,
    *,
    pictures: Pictures = (),
    layouts: Mapping[str, str] | None = None,
    clusters: int | None = None,
    state: str | None = None,
    name: str | None = None,
    words: Callable[[str], str] | None = None,
) -> str:
    """The same as `html_report` in Markdown; bytes and functions are drawn with characters.

    pictures : files to which the page links, as they are called from where it lies
    source, layouts, clusters, state, name, words : as for `html_report`
    Raises what `inspect` raises.

    >>> import kancompress
    >>> kancompress.markdown_report("packed.safetensors").splitlines()[0]
    '# packed.safetensors'
    """
    linked = [(_caption(path), Path(path).as_posix()) for path in pictures]
    found = _found(source, layouts, clusters, state, name, words)
    return markdown.page(
        found.told, found.report, found.title, curves=found.curves, pictures=linked
    )


def _found(
    source: Source,
    layouts: Mapping[str, str] | None,
    clusters: int | None,
    state: str | None,
    name: str | None,
    words: Callable[[str], str] | None,
) -> _Found:
    source, name = once(source, name)
    report = inspect(source, name, clusters=clusters, layouts=layouts, state=state)
    curves, note = _curves(source, name) if report["kind"] == "packed" else ([], "")
    said = told(report)
    said = replace(said, notes=(*said.notes, *filter(None, [note])))
    path = isinstance(source, str | os.PathLike)
    where = called(source, name) if path or name else f"A {report['kind']} network"
    return _Found(
        report=report,
        told=said if words is None else said.in_words(words),
        title=Path(where).name or where,
        curves=curves,
    )


def _curves(source: Source, name: str | None) -> tuple[Sequence[Curves], str]:
    """The functions of a packed file's centroids, or why there are none."""
    try:
        record = import_module(_FILES).sized(source, name, stored=True)[1]
        return import_module(_CURVES).centroid_curves(record, PlotConfig(), RunOptions()), ""
    except KancompressError as error:
        return (), f"The functions of the centroids are not drawn. {error.finding}"


def _caption(path: str | os.PathLike[str]) -> str:
    return Path(path).name


def _type(path: str | os.PathLike[str]) -> str:
    kind = _TYPES.get(Path(path).suffix.lower())
    if kind is None:
        raise UsageError(
            f"{path} cannot be shown in a page; a .png or .svg file was expected.",
            where=str(path),
            fields=("pictures",),
        )
    return kind
