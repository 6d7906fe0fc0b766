"""All that is printed: data on stdout, everything else on stderr; rich is imported here alone.

On a terminal there are bars and tables, elsewhere plain lines. Names from files are printed
with their control characters escaped and are never read as markup.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from kancompress.cli import _sheets, _streams
from kancompress.errors import KancompressError, shortened
from kancompress.reporting.told import Sheet

if TYPE_CHECKING:
    from rich.console import Console

# control characters, half characters of undecodable names, and what turns or breaks lines
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
# Most characters of a cell of a table; lines have at most MOST_CHARACTERS, JSON is never shortened.
_CELL = 160
# Seconds without a line after which a step is worth one, where there is no bar.
_NOW_AND_THEN = 5.0
# Seconds from which on what is left is told in minutes.
_IN_MINUTES = 300.0
# Seconds from which on it is told at all.
_KNOWN = 0.5
_quiet = _silent = False
# What the command warned of so far, which it says no second time.
_warned: set[str] = set()


def set_quiet(quiet: bool) -> None:
    """Begin a command; with `quiet` silence progress and notes: with --json stderr must stay clean
    for what reads it."""
    global _quiet
    _quiet = quiet
    _warned.clear()


def set_silent(silent: bool) -> None:
    """Silence all but errors: one of several processes prints."""
    global _silent
    _silent = silent


def speaks() -> bool:
    """Whether notes and tables on stderr are printed."""
    return not (_quiet or _silent)


def printable(text: str) -> str:
    """`text` with control characters escaped, safe for a terminal."""
    return _UNSAFE.sub(lambda match: _escaped(ord(match.group())), text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _write(text: str, stream: TextIO, *, needed: bool = False, is_error: bool = False) -> None:
    def action() -> None:
        stream.write(text)
        stream.flush()

    if _silent and not is_error:
        return
    if stream is sys.stdout:
        _streams.guarded(action)
        return
    try:
        action()
    except OSError:
        _streams.silence(stream)
        if needed:
            raise KancompressError("Standard error could not be written.") from None


def flush() -> None:
    """Flush stdout now, where a failure can still be told."""
    _streams.guarded(sys.stdout.flush)


def _line(text: str, stream: TextIO) -> str:
    """A line; on a terminal it goes on in the next one between words."""
    if stream.isatty():
        text = "\n".join(_sheets.in_lines(text, shutil.get_terminal_size().columns))
    return f"{text}\n"


def warn(text: str) -> None:
    """A warning on stderr, once."""
    note(f"Warning: {text}")
    _warned.add(text)


def note(text: str) -> None:
    """One line on stderr, unless it was a warning already."""
    if not _quiet and text.removeprefix("Warning: ") not in _warned:
        _write(_line(shortened(printable(text)), sys.stderr), sys.stderr)


def gap(*, to_stdout: bool = False) -> None:
    """On a terminal an empty line, as below tables; elsewhere nothing."""
    stream = sys.stdout if to_stdout else sys.stderr
    if stream.isatty() and (to_stdout or not _quiet):
        _write("\n", stream)


def error(text: str) -> None:
    """The sentence of an error, on stderr."""
    line = shortened(printable(text))
    _write(_line(f"kancompress: {line}", sys.stderr), sys.stderr, is_error=True)


def result(text: str) -> None:
    """One line of data on stdout."""
    _write(_line(shortened(printable(text)), sys.stdout), sys.stdout)


def lines(text: str) -> None:
    """Lines of data on stdout."""
    _write("".join(f"{printable(line)}\n" for line in text.splitlines()), sys.stdout)


def document(content: Mapping[str, Any], *, to_stderr: bool = False) -> None:
    """The JSON document of a command; numbers that are not finite become null."""
    _write(json_text(content) + "\n", sys.stderr if to_stderr else sys.stdout, needed=True)


def json_text(content: Mapping[str, Any], indent: int | None = 2) -> str:
    """A document as text; numbers that are not finite become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, to_stdout: bool = False
) -> None:
    """A table; the first column is text, the others are numbers."""
    found = Sheet(heads=tuple(columns), rows=tuple(map(tuple, rows)), texts=tuple(columns[:1]))
    sheet(found, to_stdout=to_stdout)


def sheet(table: Sheet, *, to_stdout: bool = False) -> None:
    """A table, as wide as a terminal is or whole; what has no room there is said."""
    if _quiet and not to_stdout:
        return
    stream = sys.stdout if to_stdout else sys.stderr
    rows = tuple(tuple(shortened(printable(cell), _CELL) for cell in row) for row in table.rows)
    table = replace(table, rows=rows)
    if not stream.isatty():
        _write("\n".join(_sheets.whole(table).lines) + "\n", stream)
        return
    console = _console(stream)
    found = _sheets.fitted(table, console.width)
    with console.capture() as capture:
        for number, line in enumerate(found.lines):
            style = "bold" if number < found.head else ""
            console.print(line, style=style, no_wrap=True, overflow="ignore", crop=False)
            if number == found.head - 1:
                rule = "─" * max(map(_sheets.cells, found.lines))
                console.print(rule, style="dim", no_wrap=True, overflow="ignore", crop=False)
        if found.left_out:
            words = f"left out: {', '.join(found.left_out)}; a wider terminal or a pipe shows them"
            console.print(words, style="dim")
        console.print()
    _write(capture.get(), stream)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


class Bar:
    """Progress within an epoch; without a terminal it shows nothing.

    most : epochs, if it is known
    """

    def __init__(self, progress: Any = None, most: int | None = None) -> None:
        self._progress = progress
        self._most = most
        self._task = progress.add_task("", total=None, left="") if progress else None
        self._epoch = 1
        self._begin: tuple[float, float] | None = None  # when, and epochs that were done then

    def batch(self, done: int, total: int) -> None:
        """Called after every batch."""
        if self._progress:
            self._progress.update(
                self._task,
                description=f"epoch {self._epoch}",
                completed=done,
                total=total,
                left=self.left(self._epoch - 1 + done / max(1, total)),
            )

    def left(self, epochs: float) -> str:
        """What all epochs may still take, as it may end before, once so many are done."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = now, epochs
        begin, first = self._begin
        if self._most is None or epochs <= first or now - begin < _KNOWN:
            return ""
        left = left_of((now - begin) / (epochs - first) * (self._most - epochs))
        return f"at most {left.removeprefix('; ')}"

    def epoch(self, number: int, text: str) -> None:
        """Called after every epoch: its line, above the bar on a terminal."""
        self._epoch = number + 1
        if self._progress:
            self._progress.console.print(text)
        else:
            note(text)


@contextmanager
def bar(most: int | None = None) -> Iterator[Bar]:
    """A progress bar on stderr while a command trains; most : epochs, if it is known."""
    if _quiet or _silent or not sys.stderr.isatty():
        yield Bar()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=_console(sys.stderr),
        transient=True,
    )
    with progress:
        yield Bar(progress, most)


class Steps:
    """How far a command is: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, progress: Any = None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1.0, left="") if progress else None
        self._last = time.monotonic()

    def at(self, share: float, text: str, left: str = "") -> None:
        """Told after every step: the share of all work that is done, what is at hand, and what is
        left, which has its place where a narrow terminal does not cut it."""
        if self._progress:
            about = left.removeprefix("; ")
            self._progress.update(
                self._task, description=printable(text), completed=share, left=about
            )
        elif share < 1.0 and time.monotonic() - self._last >= _NOW_AND_THEN:
            self.line(text + left)

    def line(self, text: str) -> None:
        """A line that stays, above the bar on a terminal."""
        self._last = time.monotonic()
        if self._progress:
            self._progress.console.print(shortened(printable(text)))
        else:
            note(text)


class Shares:
    """How far works are, one after another, and how long what is left of each may take."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._work: str | None = None

    def __call__(self, work: str, share: float, what: str) -> None:
        """Told after every step: what is at hand, how much of it is done, and what was last."""
        now = time.monotonic()
        if work != self._work:
            self._work, self._begin, self._first = work, now, share
        done, taken = share - self._first, now - self._begin
        known = done > 0 and taken >= _KNOWN
        left = left_of(taken / done * (1 - share)) if known else ""
        self._steps.at(share, ": ".join(filter(None, (work, what))), left)

    def batch(self, done: int, total: int) -> None:
        """Told after every batch of rows that a network runs over."""
        if done == 1:  # perhaps of another network than before
            self._work = None
        self("rows", done / total, f"batch {done:,} of {total:,}")


def left_of(seconds: float) -> str:
    """What is said of the time that is left."""
    whole = max(1.0, seconds)
    minutes = f"{seconds / 60:.0f} min" if seconds >= _IN_MINUTES else f"{whole:.0f} s"
    return f"; about {minutes} left"


@contextmanager
def shares() -> Iterator[Shares]:
    """A bar on stderr while a command does works of which it says how far they are."""
    with steps() as found:
        found.at(0.0, "reading")
        yield Shares(found)


@contextmanager
def steps() -> Iterator[Steps]:
    """A bar on stderr while a command goes through steps of which it says how far they lead."""
    if _quiet or _silent or not sys.stderr.isatty():
        yield Steps()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    progress = Progress(
        BarColumn(12),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False),
        console=_console(sys.stderr),
        transient=True,
    )
    with progress:
        yield Steps(progress)


def size(count: float) -> str:
    """Bytes with thousands separators."""
    return f"{count:,.0f}"


def percent(share: float) -> str:
    """A share as percent."""
    return f"{100 * share:.2f} %"
