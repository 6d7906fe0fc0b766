"""Follows checkpoints through five commands, for docs/contributing/architecture.md.

    PYTHONPATH=tests python -m tests.ways

runs them on small networks and writes the tables of the page anew: the files that the checkpoint
enters, in this order, each with the first function that it enters there. What serves every command
is left out: options and terminal (cli/_*), the machine (system/), errors, settings and records of
what a network is. tests/test_docs.py looks whether the files and functions are there.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from test_architecture import PACKAGE, modules

from command import done
from tests.packages import PAGE, first_sentence

FOREIGN = Path(__file__).parent / "cases" / "efficient_kan_default" / "state.safetensors"
SETTINGS = {"errors.py", "warnings.py", "config.py", "specs.py", "cli/main.py"}
STALE = "stale; write the tables with: PYTHONPATH=tests python -m tests.ways"
Way = dict[str, str]


def is_part(file: str) -> bool:
    """Whether a file belongs to the way of a checkpoint."""
    return not (file in SETTINGS or file.startswith(("cli/_", "system/")))


def followed(*arguments: str | Path) -> Way:
    """The files that a command enters, by their paths in the package, and where it enters them."""
    found: Way = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        path = Path(code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            file = path.relative_to(PACKAGE).as_posix()
            name = code.co_qualname
            if is_part(file) and not re.search(r"(^|\.)_|<", name):
                found.setdefault(file, name)

    threading.setprofile(look)
    sys.setprofile(look)
    try:
        done(*arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


def ways() -> dict[str, Way]:
    """The ways by the titles that the page gives them."""
    for module in modules():
        if module != "__main__":
            importlib.import_module(f"kancompress.{module}".rstrip("."))
    with tempfile.TemporaryDirectory() as name:
        dense, packed, tuned, better = (Path(name) / file for file in ("d", "p", "t", "b"))
        other = Path(name) / "o"
        done("train", "--model", "gramkan", "--epochs", "1", "-o", dense)
        rows = ("--calibrate", "digits", "--samples", "64", "-k", "4")
        return {
            "cluster": followed("cluster", dense, "-o", packed),
            "cluster OTHER": followed("cluster", FOREIGN, "-k", "8", "-o", other),
            "eval": followed("eval", packed),
            "finetune": followed("finetune", packed, "--epochs", "1", "-o", tuned),
            "cluster --calibrate": followed("cluster", dense, *rows, "-o", better),
        }


def table(way: Way) -> str:
    """A way as a table."""
    lines = ["| | file | enters by | what the file is |", "|---|---|---|---|"]
    for number, (file, function) in enumerate(way.items(), start=1):
        lines.append(f"| {number} | `{file}` | `{function}` | {first_sentence(PACKAGE / file)} |")
    return "\n".join(lines)


def written(page: str, found: dict[str, Way]) -> str:
    """The page with its tables as the ways now are."""
    for name, way in found.items():
        page = re.sub(
            rf"(<!-- way: {re.escape(name)} -->\n).*?(<!-- end -->)",
            lambda match, way=way: f"{match[1]}\n{table(way)}\n\n{match[2]}",
            page,
            count=1,
            flags=re.DOTALL,
        )
    return page


def listed(page: str) -> list[tuple[str, str]]:
    """The files and functions of all tables of the page."""
    return re.findall(r"^\| \d+ \| `([\w/.]+)` \| `([\w.]+)` \|", page, re.MULTILINE)


def functions(file: str) -> set[str]:
    """The functions and methods of a file of the package, by their qualified names."""
    found: set[str] = set()

    def visit(node: ast.AST, before: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found.add(before + child.name)
                visit(child, f"{before}{child.name}.")

    visit(ast.parse((PACKAGE / file).read_text()), "")
    return found


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), ways()))
