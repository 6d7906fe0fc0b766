"""Peak memory of a command in a process of its own, as the kernel counts it (ru_maxrss)."""

from __future__ import annotations

import subprocess
import sys

# Runs a command and prints its peak. What a parent holds when it starts a child counts for the
# child, so the parent is a Python that has imported next to nothing.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def run(command: list[str]) -> tuple[int, str]:
    """Most bytes that the command held, and what it printed. Ends the program where it fails."""
    measure = [sys.executable, "-c", _MEASURE, *command]
    done = subprocess.run(measure, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {done.returncode}")
    *printed, most = done.stdout.splitlines()
    return int(most) * (1 if sys.platform == "darwin" else 1024), "\n".join(printed)
