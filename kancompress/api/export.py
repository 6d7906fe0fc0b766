"""`export`: a network written for another program. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from kancompress.api import given
from kancompress.config import COptions, HtmlOptions, OnnxOptions, RunOptions
from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.exporting.c import header as c
from kancompress.exporting.html import page as html
from kancompress.exporting.onnx import model as onnx
from kancompress.exporting.record import Exported
from kancompress.formats import document as documents
from kancompress.formats.packed import ordinary
from kancompress.formats.storage import Recorded, Source, file_of, open_container
from kancompress.frozen import dataclass
from kancompress.runtime.program import Program, read
from kancompress.system import files
from kancompress.system import inputs as reading
from kancompress.values import flag, maybe, paths, settled, text
from kancompress.values import path as a_path

ExportOptions = OnnxOptions | COptions | HtmlOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A form that networks are exported in.

    suffix  : of its files
    what    : it is, as lists of formats say it
    options : class of its options, each with a default
    encode  : from the network, the options, and the bytes of its file
    named   : the options, with what follows from the name of the file that is written
    """

    suffix: str
    what: str
    options: type[Any]
    encode: Callable[[Program, Any, bytes], Exported]
    named: Callable[[Any, Path], Any] = lambda options, _: options

    def options_of(self, asked: Mapping[str, Any]) -> Any:
        """The record of options that are given by their names.

        Raises UsageError for one that means nothing for this format, and for a value of another
        type.
        """
        known = {one.name for one in fields(self.options)}
        strange = tuple(str(name) for name in asked if name not in known)
        if strange:
            names = ", ".join(f"`{name}`" for name in strange)
            raise UsageError(
                f"{names} {'means' if len(strange) == 1 else 'mean'} nothing for {self.what}; leave"
                f" {'it' if len(strange) == 1 else 'them'} out.",
                fields=strange,
            )
        return self.options(**asked)


# By the name that `format` has. A format more is an entry more.
FORMATS: dict[str, Format] = {
    "onnx": Format(
        suffix=".onnx",
        what="an ONNX model (.onnx)",
        options=OnnxOptions,
        encode=lambda program, options, _: onnx.encode(program, options),
    ),
    "c": Format(
        suffix=".h",
        what="a C header (.h)",
        options=COptions,
        encode=lambda program, options, _: c.encode(program, options),
        named=c.named,
    ),
    "html": Format(
        suffix=".html",
        what="a page for a browser (.html)",
        options=HtmlOptions,
        encode=html.encode,
    ),
}


def format_of(path: str | os.PathLike[str] | None, name: str | None = None) -> str:
    """Name of the format of a file, by its suffix, or `name` itself where it is given.

    Raises UsageError, which lists the formats.
    """
    listed = ", ".join(one.what for one in FORMATS.values())
    suffix = "" if path is None else Path(path).suffix.lower()
    if name is not None:
        if name not in list(FORMATS):
            raise UsageError(
                f"`format={name}` is none; the formats are {', '.join(FORMATS)}: {listed}.",
                fields=("format",),
            )
        if suffix != FORMATS[name].suffix and suffix in (one.suffix for one in FORMATS.values()):
            raise UsageError(
                f"{os.fspath(path or '')} says another format than {FORMATS[name].what}, which was"
                f" asked for; name it {FORMATS[name].suffix}.",
                fields=("format",),
            )
        return name
    for found, one in FORMATS.items():
        if one.suffix == suffix:
            return found
    what = "No file is named" if path is None else f"{os.fspath(path)} names no format"
    raise UsageError(
        f"{what}; its suffix says what is written: {listed}. Or say it with `format`.",
        fields=("format",),
    )


def export(
    source: Source | Recorded,
    path: str | os.PathLike[str] | None = None,
    options: ExportOptions | Mapping[str, Any] | None = None,
    *,
    format: str | None = None,
    told: RunOptions | None = None,
    dry_run: bool = False,
    force: bool = False,
    name: str | None = None,
    any_size: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> Exported:
    """Write a packed or dense network for another program, such as an ONNX runtime.

    source   : a packed or dense file, its bytes, or a `PackedModel` or `Checkpoint`
    path     : of the file to write, whose suffix says the format; None writes none
    options  : of the format, as `OnnxOptions`, `COptions` or `HtmlOptions`, or by their names
    format   : where the suffix does not say it: `onnx`, `c` or `html`
    told     : what another library's packed file does not tell of its network
    dry_run  : write nothing, whatever `path` is
    force    : whether `path` may replace a file; it never replaces `source`, nor one of `inputs`
    name     : what messages call the source, its path when None
    any_size : as of `kancompress.load`
    Returns the file, and what its bytes are. Raises InvalidFileError for a file that is damaged or
    none of kancompress's; UsageError for a network that cannot be exported, an unknown format, and
    options of another one; KancompressError for a package that is missing, and where the file
    cannot be written.

    >>> import kancompress
    >>> made = kancompress.export("packed.safetensors", "packed.onnx")
    >>> len(made.data) == sum(made.parts.values())
    True
    """
    given.check(told=told)
    for option, value in (("dry_run", dry_run), ("force", force), ("any_size", any_size)):
        settled(option, value, flag)
    settled("name", name, maybe(text))
    source = given.source(source, "export")
    target = settled("path", path, maybe(a_path))
    kept = settled("inputs", inputs, paths)
    kept += [Path(source)] if isinstance(source, str | os.PathLike) else []
    if target is not None and not dry_run:
        files.check_target(target, force=force, inputs=kept)
    chosen = FORMATS[format_of(target, format or _format_of_options(options))]
    own = _options(options, chosen)
    own = own if target is None else chosen.named(own, target)
    made = _encoded(source, chosen, own, told, name, any_size=any_size)
    if target is not None and not dry_run:
        files.write(target, [made.data], force=force)
    return made


def _options(options: ExportOptions | Mapping[str, Any] | None, chosen: Format) -> Any:
    if options is None or isinstance(options, Mapping):
        return chosen.options_of(options or {})
    if not isinstance(options, chosen.options):
        raise UsageError(
            f"`options` is of the type {type(options).__name__}; {chosen.options.__name__} was"
            f" expected for {chosen.what}, or a mapping.",
            fields=("options",),
        )
    return options


def _encoded(
    source: Source | Recorded,
    chosen: Format,
    options: Any,
    told: RunOptions | None,
    name: str | None,
    *,
    any_size: bool,
) -> Exported:
    raw = file_of(source)
    _, where, content = reading.opened(raw, name, "The input")
    data = bytes(content[:])
    try:
        program = read(data, where, any_size=any_size, options=told)
    except InvalidFileError as error:
        if error.flaw is Flaw.NOT_KANCOMPRESS:
            raise error.followed("Pack it with: kancompress cluster FILE -o PACKED") from None
        raise
    made = chosen.encode(program, options, data)
    more = made.parts.get("indices", 0) - _index_bytes(data, where)
    coded = f"indices take {more:,} bytes more than in the source, which has them in fewer bits"
    notes = (*made.notes, coded) if more > 0 and _is_packed(program) else made.notes
    return replace(made, notes=notes, assumed=program.notes)


def _is_packed(program: Program) -> bool:
    return any(layer.edges.rows is not None for layer in program.layers)


def _index_bytes(data: bytes, where: str) -> int:
    """Bytes of the indices in a file."""
    container = open_container(data, where)
    outline = ordinary(container, documents.read(container)).outline()
    return sum(one.nbytes for name, one in outline.items() if name.endswith(".index"))


def _format_of_options(options: object) -> str | None:
    """The format that has these options, where nothing else says it."""
    for found, one in FORMATS.items():
        if isinstance(options, one.options):
            return found
    return None
