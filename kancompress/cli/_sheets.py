"""Tables as lines of text, whole for a pipe, and as wide as a terminal is.

In a terminal no number and no name is cut: columns that matter least go first, words go on in the
next line, and where even that is too wide each row has its name in a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kancompress.reporting.told import Sheet

_GAP = "  "
# Columns of words are not narrower than this as long as another column can go.
_COMFORT = 18
_INDENT = 4


@dataclass(frozen=True, slots=True)
class Lines:
    """A table as lines: `head` of them are its headings; `left_out` columns had no room."""

    lines: tuple[str, ...]
    head: int
    left_out: tuple[str, ...] = ()


def whole(sheet: Sheet) -> Lines:
    """The whole table, a line a row."""
    return Lines(tuple(_drawn(sheet, _natural(sheet))), 1)


def fitted(sheet: Sheet, width: int) -> Lines:
    """The table in lines of at most `width` characters."""
    least = [head for head in sheet.least if head in sheet.heads]
    for count in range(len(least) + 1):
        shown = _without(sheet, least[:count])
        widths = _widths(shown, width, _COMFORT)
        if widths is not None:
            return Lines(tuple(_drawn(shown, widths)), 1, _in_order(sheet, least[:count]))
    smallest = _without(sheet, least)
    widths = _widths(smallest, width, 1)
    if widths is not None:
        return Lines(tuple(_drawn(smallest, widths)), 1, _in_order(sheet, least))
    return _stacked(sheet, width)


def _stacked(sheet: Sheet, width: int) -> Lines:
    """Each row in two lines or more: its name, and below it the other columns."""
    if len(sheet.heads) == 1:
        return whole(sheet)
    rest = replace(
        sheet, heads=sheet.heads[1:], rows=tuple(row[1:] for row in sheet.rows), title=""
    )
    found = fitted(rest, width - _INDENT)
    each = (len(found.lines) - found.head) // max(1, len(sheet.rows))
    if found.head + each * len(sheet.rows) != len(found.lines):  # rows of several lines
        found = whole(rest)
        each = 1
    indented = [f"{' ' * _INDENT}{line}" for line in found.lines]
    lines = [sheet.heads[0], *indented[: found.head]]
    for number, row in enumerate(sheet.rows):
        at = found.head + number * each
        lines += [row[0], *indented[at : at + each]]
    return Lines(tuple(lines), 1 + found.head, found.left_out)


def _in_order(sheet: Sheet, heads: Sequence[str]) -> tuple[str, ...]:
    return tuple(head for head in sheet.heads if head in heads)


def _without(sheet: Sheet, left_out: Sequence[str]) -> Sheet:
    kept = [number for number, head in enumerate(sheet.heads) if head not in left_out]
    return replace(
        sheet,
        heads=tuple(sheet.heads[number] for number in kept),
        rows=tuple(tuple(row[number] for number in kept) for row in sheet.rows),
    )


def _natural(sheet: Sheet) -> list[int]:
    """Width of each column where nothing is broken."""
    columns = zip(sheet.heads, *sheet.rows, strict=True)
    return [max(map(cells, column)) for column in columns]


def _widths(sheet: Sheet, width: int, comfort: int) -> list[int] | None:
    """Width of each column in lines of `width`, None where they do not fit."""
    widths = _natural(sheet)
    gaps = len(_GAP) * (len(widths) - 1)
    wrapped = [number for number, head in enumerate(sheet.heads) if head in sheet.wraps]
    most = {number: widths[number] for number in wrapped}
    for number in wrapped:
        column = (sheet.heads[number], *(row[number] for row in sheet.rows))
        words = max(cells(word) for text in column for word in text.split() or [""])
        widths[number] = min(most[number], max(words, comfort))
    room = width - gaps - sum(widths)
    if room < 0:
        return None
    while room and (narrow := [n for n in wrapped if widths[n] < most[n]]):
        for number in sorted(narrow, key=lambda n: most[n] - widths[n], reverse=True):
            if room:
                widths[number] += 1
                room -= 1
    return widths


def _drawn(sheet: Sheet, widths: Sequence[int]) -> Iterator[str]:
    texts = [head in sheet.texts for head in sheet.heads]
    for row in (sheet.heads, *sheet.rows):
        broken = [_broken(cell, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(map(len, broken))):
            parts = [lines[number] if number < len(lines) else "" for lines in broken]
            yield _GAP.join(
                _padded(part, width, left=text)
                for part, width, text in zip(parts, widths, texts, strict=True)
            ).rstrip()


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cells(text))
    return text + space if left else space + text


def _broken(text: str, width: int) -> list[str]:
    """A cell in lines of at most `width`, broken between words alone."""
    if cells(text) <= width:
        return [text]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cells(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def cells(text: str) -> int:
    """Columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
