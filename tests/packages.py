"""Draws the packages of docs/contributing/architecture.md from the imports.

    PYTHONPATH=tests python -m tests.packages

writes the picture and the table of the page anew; tests/test_docs.py compares. An arrow of the
picture is an import that no other way of arrows implies (the transitive reduction); the table has
every import.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from test_architecture import ORDER, PACKAGE, imports, modules, package_of, parsed

PAGE = Path(__file__).parent.parent / "docs" / "contributing" / "architecture.md"
# What all may import, and what only starts the command line.
LEFT_OUT = ("errors", "warnings", "version", "__main__")
Graph = dict[str, set[str]]


@functools.cache
def graph() -> Graph:
    """Which package imports which; '' is `kancompress` itself, which names what it exports."""
    found: Graph = {name: set() for name in ORDER}
    for module, path in modules().items():
        own = package_of(module)
        targets = imports(parsed(path)) if module else homes()
        found[own] |= {package_of(target) for target in targets} - {own}
    return found


def homes() -> set[str]:
    """The modules from which the package itself takes its public names."""
    text = (PACKAGE / "__init__.py").read_text()
    return set(re.findall(r"from kancompress\.([\w.]+) import", text))


def reduced(whole: Graph) -> Graph:
    """The arrows that no other way implies."""
    return {
        name: {target for target in targets if target not in _behind(whole, targets - {target})}
        for name, targets in whole.items()
    }


def _behind(whole: Graph, names: set[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        more = whole[waiting.pop()] - found
        found |= more
        waiting += more
    return found


def picture() -> str:
    """The packages and their arrows, as a Mermaid graph."""
    whole = {
        name: {target for target in targets if target not in LEFT_OUT}
        for name, targets in graph().items()
        if name not in LEFT_OUT
    }
    lines = ["```mermaid", "flowchart TD"]
    for name, targets in reversed(reduced(whole).items()):
        arrows = sorted(targets, key=ORDER.index, reverse=True)
        lines += [f"    {_shown(name)} --> {_shown(target)}" for target in arrows]
    return "\n".join([*lines, "```"])


def table() -> str:
    """What each package is, by the first sentence of its docstring, and all that it imports."""
    lines = ["| package | what it is | imports |", "|---|---|---|"]
    for name, targets in reversed(graph().items()):
        known = [_shown(target) for target in sorted(targets, key=ORDER.index)]
        imported = ", ".join(f"`{target}`" for target in known) or "nothing of ours"
        lines.append(f"| `{_shown(name)}` | {_said(name)} | {imported} |")
    return "\n".join(lines)


def _shown(name: str) -> str:
    return name or "kancompress"


def _said(name: str) -> str:
    path = PACKAGE / name
    return first_sentence(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def first_sentence(path: Path) -> str:
    """What the docstring of a module says first."""
    text = " ".join((ast.get_docstring(parsed(path)) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)]\.) (?=[A-Z])", text)[0].rstrip(".")


def parts() -> Iterator[tuple[str, str]]:
    """Names of the parts of the page, and what stands there."""
    yield "picture", picture()
    yield "table", table()


def written(page: str) -> str:
    """The page with its picture and table as they now are."""
    for name, text in parts():
        start, end = f"<!-- packages: {name} -->", "<!-- end -->"
        pattern = rf"({re.escape(start)}\n).*?({re.escape(end)})"
        page = re.sub(
            pattern, lambda m, t=text: f"{m[1]}\n{t}\n\n{m[2]}", page, count=1, flags=re.DOTALL
        )
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
