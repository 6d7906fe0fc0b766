"""The documents say what the program does: they are run, or written by it."""

import doctest
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import kancompress
from command import done
from conftest import fresh
from kancompress.cli.reference import COMMANDS, reference

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_command_line_reference_is_fresh() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), (
        "stale; write it with: python -m kancompress.cli.reference > docs/cli.md"
    )


def test_every_command_has_examples() -> None:
    page = reference()
    for command in COMMANDS:
        section = page.split(f"## kancompress {command}\n")[1].split("\n## ")[0]
        assert "Examples:" in section
        assert f"    kancompress {command}" in section


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
        cwd=tmp_path, env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "2"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0])
def test_python_snippets_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert "kancompress" in names


@pytest.mark.parametrize(
    "name", ["cluster", "evaluate", "expand", "finetune", "inspect", "load", "save", "train"]
)
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
    (example,) = finder.find(getattr(kancompress, name), name, globs={})
    assert example.examples
    told: list[str] = []
    doctest.DocTestRunner().run(example, out=told.append)
    assert not told, "".join(told)


def test_the_page_on_your_own_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "your-model.md").read_text()
    models, *snippets = blocks("python", page)
    (tmp_path / models.split()[1]).write_text(models)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    try:
        for number, snippet in enumerate(snippets):
            exec(compile(snippet, f"your-model.md, snippet {number}", "exec"), names)
    finally:
        sys.modules.pop("models", None)
    for block in blocks("bash", page):
        run_script(block, tmp_path)


def test_the_page_on_training_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    run_script(blocks("bash", page)[0], tmp_path)


def test_json_keys_are_documented(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "json.md").read_text()
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
            if key not in ("model", "data", "clusters", "curves"):
                by_name = isinstance(value, dict) and key == "layers"
                yield from keys_of(list(value.values()) if by_name else value)


def test_json_keys_of_every_command_are_documented(tmp_path: Path) -> None:
    dense, packed, tuned, back, log = (tmp_path / name for name in ("d", "p", "t", "b", "log"))
    digits = ("--calibrate", "digits", "--samples", "64", "-k", "4")
    run = ("--model", "gramkanconv", "--hidden", "2,3", "--epochs", "1", "--batch-size", "512")
    documents = [
        done("train", *run, "-o", dense, "--log", log, "--json").stdout,
        done("cluster", dense, *digits, "-o", packed, "--json").stdout,
        done("finetune", packed, "--epochs", "1", "-o", tuned, "--json").stdout,
        done("eval", tuned, "--json").stdout,
        done("expand", tuned, "-o", back, "--json").stdout,
        done("inspect", dense, "--clusters", "4", "--json").stdout,
        done("inspect", tuned, "--json").stdout,
        done("inspect", tuned, "--check", "--json").stdout,
        *log.read_text().splitlines(),
    ]
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "json.md").read_text()))
    for document in documents:
        assert set(keys_of(json.loads(document))) <= documented


def test_version_is_one_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == kancompress.__version__
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_links_in_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
