"""Peak memory and time of a command in a process of its own, as the kernel counts them."""

from __future__ import annotations

import subprocess
import sys
from typing import NamedTuple

# Runs a command and prints its peak and its seconds. What a parent holds when it starts a child
# counts for the child, so the parent is a Python that has imported next to nothing.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
sys.exit(done.returncode)
"""


class Cost(NamedTuple):
    """Most bytes that a command held (ru_maxrss), seconds of processors, and what it printed."""

    peak: int
    seconds: float
    printed: str


def cost(command: list[str]) -> Cost:
    """What a command costs. Ends the program where it fails."""
    measure = [sys.executable, "-c", _MEASURE, *command]
    done = subprocess.run(measure, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {done.returncode}")
    *printed, last = done.stdout.splitlines()
    most, seconds = last.split()
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(int(most) * unit, float(seconds), "\n".join(printed))


def run(command: list[str]) -> tuple[int, str]:
    """Most bytes that the command held, and what it printed. Ends the program where it fails."""
    found = cost(command)
    return found.peak, found.printed
