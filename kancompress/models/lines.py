"""Results as one line, and as a table for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

# Most rows of a table; networks may have thousands of layers.
_MOST_ROWS = 40


def line(name: str, *parts: str | None) -> str:
    """A result in one line: its class, and what is to be said of it."""
    return f"<{name}: {', '.join(filter(None, parts))}>"


def counted(number: int, noun: str) -> str:
    """A number and its noun, as in "1 layer" and "2 layers"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """A share from 0 to 1, as in "93.33 %"."""
    return f"{share * 100:.2f} %"


def smaller(size: int, before: int, what: str, more: str = "") -> str | None:
    """How many times smaller than `what`, which has `before` bytes; None where that is unknown."""
    if not before or not size:
        return None
    return f"{before / size:.1f} times smaller than {what} ({before:,}{more})"


def without(unused: int) -> str:
    """What follows a number of bytes that leaves out so many of a file."""
    return f" without {unused:,} that no tensor uses" if unused else ""


def by(shape: Sequence[int]) -> str:
    """A shape as in "32 x 64"."""
    return " x ".join(map(str, shape))


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], notes: Iterable[str] = ()
) -> str:
    """A table in HTML: its caption, a row for each layer, and sentences below.

    Numbers stand right; names are escaped, whatever a file calls its layers.
    """
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    shown = [f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        more = f"and {len(rows) - _MOST_ROWS:,} more"
        shown.append(f'<tr><td colspan="{len(head)}">{more}</td></tr>')
    below = "".join(f"<div>{escape(note)}</div>" for note in notes if note)
    return (
        f"<div><table><caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>"
        f"<tbody>{''.join(shown)}</tbody></table>{below}</div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f'<td style="text-align: right">{value:,}</td>'
    if isinstance(value, float):
        return f'<td style="text-align: right">{value:.3g}</td>'
    return f"<td>{escape('' if value is None else str(value))}</td>"
