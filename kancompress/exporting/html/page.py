"""The page: one file with styles, scripts and the packed network inside."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib import resources
from typing import Any

from kancompress.config import HtmlOptions
from kancompress.errors import UsageError
from kancompress.exporting.html import told
from kancompress.exporting.record import Exported
from kancompress.formats import document as documents
from kancompress.formats import storage
from kancompress.formats.packed import PackedRecord
from kancompress.runtime.program import Program
from kancompress.version import __version__

_FILES = resources.files("kancompress.exporting.html") / "assets"
# Strings of a script, which stay as they are. No string of ours has the other's quotes in it.
_STRINGS = re.compile(r'("(?:[^"\\\n]|\\.)*"|`[^`]*`)')


def encode(program: Program, options: HtmlOptions, data: bytes) -> Exported:
    """The page of a packed file.

    data : the packed file, which the page holds and its scripts read
    Raises UsageError for a file that is not packed, and for labels that are not as many as outputs.
    """
    container = storage.open_container(data, program.where)
    record = storage.read_record(container, any_size=True)
    if not isinstance(record, PackedRecord):
        raise UsageError(
            f"{program.where} is not packed, and a page holds a packed file. Pack it with:"
            " kancompress cluster FILE -o PACKED"
        )
    if options.labels and len(options.labels) != program.outputs:
        raise UsageError(
            f"`labels` has {len(options.labels)} names; the network has {program.outputs} outputs,"
            " each of which takes one.",
            fields=("labels",),
        )
    image = told.image_of(program)
    known: dict[str, Any] = {
        "file": "network.safetensors",
        "labels": _labels(program, options),
        "image": image,
    }
    if record.model is None:
        known["layers"] = told.layers_of(program, record)
    if program.notes:
        known["notes"] = list(program.notes)
    names = _names(documents.read(container), image is not None)
    return _page(program, options, data, known, names)


def _labels(program: Program, options: HtmlOptions) -> list[str]:
    name = program.data.name if program.data else ""
    usual = told.LABELS.get(name, ())
    return list(options.labels or (usual if len(usual) == program.outputs else ()))


def _names(document: dict[str, Any], draws: bool) -> list[str]:
    """The scripts that this file needs."""
    coded = "rans" in document or "rans" in document.get("encodings", {})
    coded = coded or "rans" in document.get("exceptions", {}).values()
    needed = {
        "reader": True,
        "short": "clusters" in document,
        "rans": coded,
        "forward": True,
        "libraries": "restore" in document,
        "drawing": draws,
        "canvas": draws,
        "sliders": not draws,
        "page": True,
    }
    return [name for name, is_needed in needed.items() if is_needed]


def _page(
    program: Program, options: HtmlOptions, data: bytes, known: dict[str, Any], names: list[str]
) -> Exported:
    script, style = "\n".join(small_script(name) for name in names), small_style()
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    usual = told.TITLES.get(program.data.name if program.data else "", "A packed network")
    # A script ends where `</script` stands, whatever JSON says.
    text = json.dumps(known, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    network = base64.b64encode(data).decode()
    places = {
        "policy": policy,
        "version": __version__,
        "title": html.escape(options.title or usual),
        "style": style,
        "script": script,
        "told": text,
        "packed": network,
    }
    page = re.sub(r"{{(\w+)}}", lambda found: places[found[1]], _read("page.html")).encode()
    parts = {"network": len(network), "facts": len(text), "scripts": len(script.encode())}
    return Exported(
        data=page,
        format="html",
        source_bytes=len(data),
        parts={**parts, "page": len(page) - sum(parts.values())},
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _read(name: str) -> str:
    return (_FILES / name).read_text("utf-8")


@cache
def small_script(name: str) -> str:
    """A script without its comments, which have lines of their own, and without needless spaces."""
    lines = (line.strip() for line in _read(f"{name}.js").splitlines())
    text = "\n".join(line for line in lines if line and not line.startswith("//"))
    pieces = _STRINGS.split(text)
    for at in range(0, len(pieces), 2):
        code = re.sub(r" *([{}()\[\],;:=<>?&|*%!]) *", r"\1", pieces[at])
        pieces[at] = re.sub(r"([{(\[,;])\n", r"\1", code)
    return "".join(pieces)


@cache
def small_style() -> str:
    """The styles without spaces that they can do without."""
    text = re.sub(r"\n\s*", " ", _read("page.css").strip())
    return re.sub(r" *([{};,]) *|(:) ", r"\1\2", text)
