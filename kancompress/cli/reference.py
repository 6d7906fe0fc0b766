"""Writes the command line's reference from its own help.

python -m kancompress.cli.reference > docs/cli.md
"""

from __future__ import annotations

import os

from typer.testing import CliRunner

from kancompress.cli.main import app

COMMANDS = (
    "train",
    "cluster",
    "sweep",
    "finetune",
    "eval",
    "compare",
    "predict",
    "inspect",
    "expand",
    "repack",
    "export",
)
_HEAD = """# Command line

This page is written by the program (`python -m kancompress.cli.reference > docs/cli.md`).

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unreadable or invalid input, 4 a gate of `eval` is
missed, 130 interrupted, 141 the reader of standard output has gone. The keys of `--json` are
listed in [json.md](json.md).
"""


def reference() -> str:
    """The page: the help of the program and of every command, 90 columns wide."""
    os.environ["COLUMNS"] = "92"
    parts = [_HEAD]
    for command in ((), *((name,) for name in COMMANDS)):
        shown = CliRunner().invoke(app, [*command, "--help"], prog_name="kancompress")
        lines = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        parts.append(f"## {' '.join(('kancompress', *command))}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
