"""How far a work is, told to whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# What is at hand, as in "network 2 of at most 9"; the share of it that is done, from 0 to 1; and
# what of it was done last.
TellShare = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Progress:
    """A part of a work, from one share of the whole to another.

    tell : told of every step, nobody when None; work : what is at hand; what : which part of it
    """

    tell: TellShare | None = None
    work: str = ""
    what: str = ""
    first: float = 0.0
    last: float = 1.0

    def at(self, share: float, what: str = "") -> None:
        """So much of this part is done."""
        if self.tell is not None:
            share = min(max(share, 0.0), 1.0)
            told = ", ".join(filter(None, (self.what, what)))
            self.tell(self.work, self.first + share * (self.last - self.first), told)

    def part(self, first: float, last: float, what: str = "") -> Progress:
        """A part of this part."""
        width = self.last - self.first
        return Progress(
            tell=self.tell,
            work=self.work,
            what=", ".join(filter(None, (self.what, what))),
            first=self.first + first * width,
            last=self.first + last * width,
        )

    def parts(self, costs: Sequence[float]) -> list[Progress]:
        """Parts one after another, as long as these costs are to each other."""
        total, done = sum(costs) or 1.0, 0.0
        found = []
        for cost in costs:
            found.append(self.part(done / total, (done + cost) / total))
            done += cost
        return found


NOBODY = Progress()


class Passes:
    """Counts the passes of a solution, of which it is known how many there are at the most."""

    def __init__(self, progress: Progress, most: int) -> None:
        self._progress = progress
        self._most = max(1, most)
        self._done = 0

    def done(self) -> None:
        """One more."""
        self._done += 1
        self._progress.at(self._done / self._most, f"pass {self._done} of at most {self._most}")
