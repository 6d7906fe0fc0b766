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
    return _lines(_blocks(sheet, _natural(sheet)))


def fitted(sheet: Sheet, width: int) -> Lines:
    """The table in lines of at most `width` characters."""
    chosen = _chosen(sheet, width)
    if chosen is not None:
        shown, widths, left_out = chosen
        return _lines(_blocks(shown, widths), left_out)
    return _stacked(sheet, width)


def _chosen(sheet: Sheet, width: int) -> tuple[Sheet, list[int], tuple[str, ...]] | None:
    """The columns that are shown, how wide they are, and those that are left out."""
    least = [head for head in sheet.least if head in sheet.heads]
    tries = [(count, _COMFORT) for count in range(len(least) + 1)] + [(len(least), 1)]
    for count, comfort in tries:
        shown = _without(sheet, least[:count])
        widths = _widths(shown, width, comfort)
        if widths is not None:
            return shown, widths, _in_order(sheet, least[:count])
    return None


def _stacked(sheet: Sheet, width: int) -> Lines:
    """Each row in two lines or more: its name, and below it the other columns."""
    rest = replace(sheet, heads=sheet.heads[1:], rows=tuple(row[1:] for row in sheet.rows))
    names = (sheet.heads[0], *(row[0] for row in sheet.rows))
    if not rest.heads:
        return _lines([[name] for name in names])
    shown, widths, left_out = _chosen(rest, width - _INDENT) or (rest, _natural(rest), ())
    blocks = [
        [name, *(f"{' ' * _INDENT}{line}" for line in block)]
        for name, block in zip(names, _blocks(shown, widths), strict=True)
    ]
    return _lines(blocks, left_out)


def _lines(blocks: Sequence[Sequence[str]], left_out: tuple[str, ...] = ()) -> Lines:
    """Blocks of lines, of which the first are the headings."""
    return Lines(tuple(line for block in blocks for line in block), len(blocks[0]), left_out)


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


def _blocks(sheet: Sheet, widths: Sequence[int]) -> list[list[str]]:
    """The lines of the headings, and those of each row."""
    return [list(_row(sheet, row, widths)) for row in (sheet.heads, *sheet.rows)]


def _row(sheet: Sheet, row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    broken = [in_lines(cell, width) for cell, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, broken))):
        parts = [lines[number] if number < len(lines) else "" for lines in broken]
        yield _GAP.join(
            _padded(part, width, left=head in sheet.texts)
            for head, part, width in zip(sheet.heads, parts, widths, strict=True)
        ).rstrip()


def _padded(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cells(text))
    return text + space if left else space + text


def in_lines(text: str, width: int) -> list[str]:
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
