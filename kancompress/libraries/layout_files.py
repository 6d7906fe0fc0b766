"""What was recognised in a file, as a TOML document that can be edited and used again.

Each record lists layers of one layout, its name, and its entries in the notation of
docs/reference/layouts.md. Entries that are those of the named layout mean that layout, with its
checks and notes; others mean a layout written by hand.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeGuard

from kancompress.errors import Flaw, InvalidFileError, spoken
from kancompress.formats.arrays import Described
from kancompress.formats.safetensors import shown
from kancompress.libraries.catalogue import LAYOUTS
from kancompress.libraries.notation import entries
from kancompress.libraries.proposals import proposals
from kancompress.libraries.records import Recognition

_KEYS = {"layers", "layout", "tensors"}
_HEAD = """\
# KAN layers of {where} as kancompress reads them, in the notation of docs/reference/layouts.md.
# Edit what is wrong and pass the file to cluster or inspect with --layout @FILE.
# The layout "none" leaves layers alone; "." is the layer at the top level.
"""
_PROPOSED = """\
# Other tensors share two axes, as those of a layer's edges do. Where they are edges, uncomment the
# record, and see to it that `out` and `in` are what they say.
"""
_NOTHING = """\
# No line is proposed: no tensor has three axes, nor do several below one stem share two.
"""
_TOP = "."
# what TOML wants escaped, and what does a terminal harm
_ESCAPED = re.compile(
    r'["\\\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]'  # control, direction
)


def format_layouts(
    found: Recognition, where: str, tensors: Mapping[str, Described] | None = None
) -> str:
    """The document for what was recognised in the file that messages call `where`.

    tensors : of the file; lines for those that belong to no layer stand in comments
    """
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for layer in found.layers:
        groups.setdefault((layer.layout, layer.entries), []).append(layer.name or _TOP)
    blocks = [_HEAD.format(where=_comment(where))]
    for problem in found.problems:
        told = spoken(problem, ("layouts",), lambda _: "--layout")
        blocks.append(f"# {_comment(told)}\n")
    for (layout, written), names in groups.items():
        lines = ["[[layers]]", *_list("layers", names), f"layout = {_string(layout)}"]
        lines += _list("tensors", written) if written else ["# found by a function; no notation"]
        blocks.append("\n".join(lines) + "\n")
    proposed = proposals(tensors, found) if tensors is not None else ()
    for number, proposal in enumerate(proposed):
        names = [name or _TOP for name in proposal.layers]
        record = ["[[layers]]", *_list("layers", names), *_list("tensors", proposal.entries)]
        head = _PROPOSED if not number else ""
        blocks.append(head + "".join(f"# {_comment(line)}\n" for line in record))
    if tensors is not None and not groups and not proposed:
        blocks.append(_NOTHING)
    return "\n".join(blocks)


def _list(key: str, items: Sequence[str]) -> Iterator[str]:
    yield f"{key} = ["
    yield from (f"  {_string(item)}," for item in items)
    yield "]"


def _string(text: str) -> str:
    def escape(match: re.Match[str]) -> str:
        character = match.group()
        return "\\" + character if character in '"\\' else f"\\u{ord(character):04x}"

    return f'"{_ESCAPED.sub(escape, text)}"'


def _comment(text: str) -> str:
    return _ESCAPED.sub(
        lambda m: m.group() if m.group() in '"\\' else f"\\u{ord(m.group()):04x}", text
    )


def parse_layouts(text: str, where: str) -> dict[str, str]:
    """Layer to layout, as `recognise` takes it, from such a document.

    Raises InvalidFileError for what is no TOML or has other records.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = shown(str(error))[1:-1]
        raise _bad(where, f"it is no TOML ({reason})") from None
    records = document.get("layers")
    if document.keys() != {"layers"} or not isinstance(records, list):
        raise _bad(where, "a list of [[layers]] and nothing else was expected")
    chosen: dict[str, str] = {}
    for number, record in enumerate(records, start=1):
        layers, layout = _record(record, f"[[layers]] number {number}", where)
        for layer in layers:
            if layer in chosen:
                raise _bad(where, f"the layer {shown(layer)} is in it twice")
            chosen[layer] = layout
    return chosen


def _record(record: object, what: str, where: str) -> tuple[list[str], str]:
    if not isinstance(record, dict) or not record.keys() <= _KEYS:
        raise _bad(where, f"{what} should have the keys layers, layout and tensors only")
    layers, name, tensors = record.get("layers"), record.get("layout"), record.get("tensors")
    if not _strings(layers):
        raise _bad(where, f"{what} should list the names of layers")
    if not isinstance(name, str | None) or not (tensors is None or _strings(tensors)):
        raise _bad(where, f"{what} should have a layout that is a text, or tensors that are a list")
    if tensors is None:
        if not name:
            raise _bad(where, f"{what} has neither layout nor tensors")
        return layers, name
    known = next((layout for layout in LAYOUTS if layout.name == name), None)
    if known is not None and entries(known) == tuple(tensors):
        return layers, known.name
    return layers, "; ".join(tensors)


def _strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v for v in value)


def _bad(where: str, message: str) -> InvalidFileError:
    return InvalidFileError(Flaw.BAD_LAYOUTS, f"{where}: {message}.")
