"""The documents say what the program does: they are run, or written by it."""

import doctest
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest

import kancompress
from command import done
from conftest import fresh
from kancompress.cli.reference import COMMANDS, reference
from tests import packages, python_reference, ways

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MEASUREMENTS = ROOT / "tests" / "benchmarks" / "measurements"
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted(MEASUREMENTS.glob("*.md")),
]


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_command_line_reference_is_fresh() -> None:
    assert (DOCS / "cli.md").read_text() == reference(), (
        "stale; write it with: python -m kancompress.cli.reference > docs/cli.md"
    )


def test_every_command_has_examples() -> None:
    page = reference()
    for command in COMMANDS:
        section = page.split(f"## kancompress {command}\n")[1].split("\n## ")[0]
        assert "Examples:" in section
        assert f"    kancompress {command}" in section


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.split()[0])
def test_shell_snippets_run(block: str, tmp_path: Path) -> None:
    # What installs or runs the tests is what runs this.
    lines = [
        line for line in block.splitlines() if not line.startswith(("pip ", "python -m pytest"))
    ]
    script = "\n".join(lines)
    if not script.strip():
        pytest.skip("nothing but the installation")
    run_script(script, tmp_path)


def run_script(script: str, tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    launcher = binaries / "kancompress"
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kancompress "$@"\n')
    launcher.chmod(0o755)
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path, env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0])
def test_python_snippets_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "kancompress" in names


# Results that are shown without an example: the other name of one that has it, and what is called.
WITHOUT_EXAMPLE = {"Compressed", "Hooks"}


def with_examples() -> list[str]:
    """The public names whose docstrings have examples, and their methods."""
    names = [name for name in kancompress.__all__ if not name.startswith("_")]
    methods = ["Checkpoint.module", "PackedModel.module"]
    return [
        name
        for name in (*names, *methods)
        if ">>>" in (attrgetter(name)(kancompress).__doc__ or "")
    ]


def test_what_commands_give_has_an_example() -> None:
    given = {*python_reference.SECTIONS["Results"], *python_reference.SECTIONS["Commands"]}
    assert given | {"PackedModel", "PackedLayer", "Checkpoint", "Restored"} <= {
        *with_examples(),
        *WITHOUT_EXAMPLE,
    }


@pytest.mark.parametrize("name", with_examples())
def test_examples_of_functions_run(
    name: str,
    trained: kancompress.Checkpoint,
    packed: kancompress.PackedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    kancompress.save(trained, "digits.safetensors")
    kancompress.save(packed, "packed.safetensors")
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(attrgetter(name)(kancompress), name, globs={})
    assert example.examples
    told: list[str] = []
    doctest.DocTestRunner().run(example, out=told.append)
    assert not told, "".join(told)


@pytest.mark.slow
def test_the_page_on_your_own_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "guides" / "your-own-model.md").read_text()
    models, *snippets = blocks("python", page)
    (tmp_path / models.split()[1]).write_text(models)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    try:
        for number, snippet in enumerate(snippets):
            exec(compile(snippet, f"your-own-model.md, snippet {number}", "exec"), names)
    finally:
        sys.modules.pop("models", None)
    for block in blocks("bash", page):
        run_script(block, tmp_path)


@pytest.mark.slow
def test_the_page_on_training_runs(tmp_path: Path) -> None:
    page = (DOCS / "guides" / "long-training.md").read_text()
    run_script(blocks("bash", page)[0], tmp_path)


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "quick-start.md").read_text()
    run_script("\n".join(blocks("bash", page)), tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in blocks("python", page):
        exec(compile(block, "quick-start.md", "exec"), {})


def test_json_keys_are_documented(tmp_path: Path) -> None:
    page = (DOCS / "json.md").read_text()
    path = tmp_path / "packed.safetensors"
    kancompress.save(kancompress.cluster(fresh("metafastkan")).model, path)
    report = kancompress.inspect(path)
    documented = set(re.findall(r"`([a-z_]+)`", page))
    keys = {
        *report,
        *report["totals"],
        *report["ratios"],
        *report["layers"][0],
        *report["other"][0],
    }
    assert keys <= documented
    assert json.loads(json.dumps(report)) == report


def keys_of(document: object) -> Iterator[str]:
    """All keys in a JSON document but those that are names of layers or settings of the network."""
    if isinstance(document, list):
        for item in document:
            yield from keys_of(item)
    elif isinstance(document, dict):
        for key, value in document.items():
            yield key
            if key not in ("model", "data", "clusters", "parts", "curves", "curves_of_parts"):
                by_name = isinstance(value, dict) and key == "layers"
                yield from keys_of(list(value.values()) if by_name else value)


def test_json_keys_of_every_command_are_documented(tmp_path: Path) -> None:
    dense, packed, tuned, back, log = (tmp_path / name for name in ("d", "p", "t", "b", "log"))
    digits = ("--calibrate", "digits", "--samples", "64", "-k", "4")
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.zeros((3, 1, 8, 8)))
    run = ("--model", "gramkanconv", "--hidden", "2,3", "--epochs", "1", "--batch-size", "512")
    documents = [
        done("train", *run, "-o", dense, "--log", log, "--json").stdout,
        done("cluster", dense, *digits, "-o", packed, "--json").stdout,
        done("finetune", packed, "--epochs", "1", "-o", tuned, "--json").stdout,
        done("eval", tuned, "--json").stdout,
        done("eval", tuned, "--data", rows, "--predictions", tmp_path / "o.npz", "--json").stdout,
        done("predict", tuned, "--data", rows, "-o", tmp_path / "o.csv", "--json").stdout,
        done("expand", tuned, "-o", back, "--json").stdout,
        done("inspect", dense, "--clusters", "4", "--json").stdout,
        done("inspect", tuned, "--json").stdout,
        done("inspect", tuned, "--check", "--json").stdout,
        *log.read_text().splitlines(),
    ]
    documented = set(re.findall(r"`([a-z_]+)`", (DOCS / "json.md").read_text()))
    for document in documents:
        assert set(keys_of(json.loads(document))) <= documented


def test_version_is_one_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == kancompress.__version__
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert re.fullmatch(rf"{re.escape(kancompress.__version__)} - \d{{4}}-\d\d-\d\d", released[0])


def anchors(page: Path) -> set[str]:
    """What `#...` may name in a page, as GitHub makes it from the headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_documents_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        if "://" not in target:
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_the_index_lists_every_page() -> None:
    index = DOCS / "index.md"
    listed = {
        (DOCS / target).resolve() for target in re.findall(r"\]\(([^)#]+)", index.read_text())
    }
    assert {page.resolve() for page in DOCS.rglob("*.md")} - {index.resolve()} <= listed


def test_pages_that_the_sources_name_are_there() -> None:
    sources = [
        *ROOT.glob("*.md"),
        *(ROOT / "kancompress").rglob("*.py"),
        *ROOT.glob("tests/**/*.py"),
    ]
    for source in sources:
        for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|svg|png)", source.read_text()):
            assert (ROOT / name).exists(), f"{source.relative_to(ROOT)}: {name}"


def measured() -> set[str]:
    """All numbers of the laboratory book, of the page of libraries, and of the results behind."""
    pages = [*sorted(MEASUREMENTS.glob("*.md")), DOCS / "libraries.md"]
    found = {number for page in pages for number in numbers(page.read_text())}
    for results in sorted((MEASUREMENTS.parent / "results").glob("*.jsonl")):
        # Shares as they are printed.
        shares = re.findall(r"\b0\.\d+\b", results.read_text())
        found |= {f"{100 * float(share):.2f}" for share in shares}
    return found


def numbers(text: str) -> list[str]:
    """Measured numbers: those with decimals, and those of thousands."""
    return re.findall(r"-?\d+\.\d+|\d{1,3}(?:,\d{3})+", text)


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_numbers_in_tables_of_results_were_measured(page: str) -> None:
    known = measured()
    rows = re.findall(r"^\|.*\|$", (ROOT / page).read_text(), re.MULTILINE)
    assert sum(len(numbers(row)) for row in rows) > 50
    for row in rows:
        assert not set(numbers(row)) - known, row


def test_the_python_reference_is_fresh() -> None:
    assert (DOCS / "reference" / "python.md").read_text() == python_reference.reference(), (
        "stale; write it with: python -m tests.python_reference > docs/reference/python.md"
    )


def test_the_picture_of_the_packages_is_fresh() -> None:
    page = packages.PAGE.read_text()
    assert page == packages.written(page), (
        "stale; write it with: PYTHONPATH=tests python -m tests.packages"
    )
    for _, text in packages.parts():
        assert text in page


def test_the_ways_of_a_checkpoint_name_what_is_there() -> None:
    found = ways.listed(packages.PAGE.read_text())
    assert len(found) > 40
    for file, function in found:
        assert (packages.PACKAGE / file).is_file(), f"{file}: {ways.STALE}"
        assert function in ways.functions(file), f"{file}: {function}: {ways.STALE}"
