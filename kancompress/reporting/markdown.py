"""Markdown: tables, blocks and names from files, and a report as a page of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kancompress.reporting.told import ADVICE, PARAMETER, PARTS, Sheet, Told

if TYPE_CHECKING:
    from kancompress.reporting.plotting.curves import Curves

_BAR = 40
_LEVELS = "▁▂▃▄▅▆▇█"
# Points of a curve in a line of text, and centroids of a layer that are drawn.
_POINTS, _MOST = 24, 8


def page(
    told: Told,
    report: Mapping[str, Any],
    title: str,
    *,
    curves: Sequence[Curves] = (),
    pictures: Sequence[tuple[str, str]] = (),
) -> str:
    """A report in Markdown: bytes as bars, ratios, layers, what did not shrink, and curves.

    pictures : what they show, and where they lie beside the page
    """
    parts = [
        f"# {text(title)}\n",
        f"{text(report['kind'])}, {text(told.headline)}\n",
        f"{text(told.kind)}\n" if told.kind else "",
        _section("Bytes", [_bars(report), sheet(told.parts)]),
        _section("Ratios", [sheet(told.ratios)]),
        _section("Layers", [sheet(told.layers)]),
        _section("What did not shrink", [sheet(told.unshrunk)]),
        _section("Functions of the centroids", [_curves(one) for one in curves]),
        _section("Pictures", [f"![{text(what)}](<{path}>)\n" for what, path in pictures]),
        _section("More", [sheet(one) for one in told.others]),
        _section("Notes", ["".join(f"- {words(note)}\n" for note in told.notes)]),
    ]
    return "\n".join(part for part in parts if part)


def _section(title: str, parts: Sequence[str]) -> str:
    found = [part for part in parts if part]
    return "\n".join([f"## {title}\n", *found]) if found else ""


def sheet(one: Sheet | None) -> str:
    """A sheet as a table; words are to the left, numbers to the right."""
    if one is None:
        return ""
    advice = [head == ADVICE for head in one.heads]
    rows = [
        [
            words(cell) if is_advice else text(cell)
            for cell, is_advice in zip(row, advice, strict=True)
        ]
        for row in one.rows
    ]
    rule = ["---" if head in one.texts else "---:" for head in one.heads]
    return _lines([one.heads, rule, *rows])


def _bars(report: Mapping[str, Any]) -> str:
    """Each part as a bar of its share of the file."""
    size = max(1, report["file_bytes"])
    width = max(len(PARTS[name]) for name in report["parts"])
    lines = []
    for name, count in report["parts"].items():
        bar = "█" * round(_BAR * count / size)
        lines.append(f"{PARTS[name]:<{width}} {bar:<{_BAR}} {count / size:6.1%} {count:>13,}")
    return block("text", lines)


def _curves(layer: Curves) -> str:
    """The most used centroids of a layer, each as a line of its function."""
    total = max(1, int(layer.edges.sum()))
    count = min(len(layer.y), _MOST)
    low, high = float(layer.y[:count].min()), float(layer.y[:count].max())
    rows = [
        [f"{edges:,}", f"{edges / total:.1%}", f"`{_line(values, low, high)}`"]
        for edges, values in zip(layer.edges[:count].tolist(), layer.y[:count], strict=True)
    ]
    heads = ["edges", "share", f"{layer.input} from {layer.x[0]:g} to {layer.x[-1]:g}"]
    shape = " x ".join(map(str, layer.shape))
    more = f", the {count} most used of {len(layer.y)}" if count < len(layer.y) else ""
    note = f"; {layer.note}" if layer.note else ""
    span = f"values from {low:.3g} to {high:.3g}{layer.unit}{note}"
    named = f"Layer {code(layer.name)} ({shape}{more}), {span}:\n"
    return f"{named}\n{_lines([heads, ['---:', '---:', '---'], *rows])}"


def _line(values: Any, low: float, high: float) -> str:
    """A curve in one line of signs."""
    chosen = values[:: max(1, len(values) // _POINTS)]
    scale = (len(_LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(_LEVELS[round((float(value) - low) * scale)] for value in chosen)


# --- pieces ---------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return _lines([heads, rule, *rows])


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def block(language: str, lines: Iterator[str] | Sequence[str]) -> str:
    """A block of lines that stay as they are."""
    return "\n".join([f"```{language}", *lines, "```\n"])


def code(name: object) -> str:
    """A name from a file between backticks, in a table as well."""
    return f"`{shown(str(name)).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def text(name: str) -> str:
    """Words, or a name from a file, as plain words."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", shown(name))


def words(told: str) -> str:
    """Words in which parameters stand in backticks, which stay there."""
    parts = PARAMETER.split(shown(told))
    return "".join(part if number % 2 else text(part) for number, part in enumerate(parts))


def shown(name: str) -> str:
    """A name without characters that do not print."""
    return "".join(sign if sign.isprintable() else "�" for sign in name)
