"""What pip builds and installs is the checkout, whole, and runs without it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from command import ENVIRONMENT

ROOT = Path(__file__).parent.parent
SITE = Path(sysconfig.get_path("purelib"))

# What needs files beside the modules, and what comes before it.
LINES = [
    "train --hidden 8 --epochs 1 -o d.st",
    "cluster d.st -k 4 -o p.st",
    "inspect p.st --html p.html --markdown p.md",
    "export p.st -o p.page.html",
    "export p.st -o p.h",
]
RUN = """
import json, sys
from pathlib import Path
import kancompress
from kancompress.cli.main import main
assert Path(kancompress.__file__).parent.parent == Path(sys.argv[1]), kancompress.__file__
for line in json.loads(sys.argv[2]):
    sys.argv = ["kancompress", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, line
"""


def content(package: Path) -> dict[str, bytes]:
    """The files of the package in a folder, but what Python keeps there for itself."""
    return {
        path.relative_to(package).as_posix(): path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_same(found: dict[str, bytes]) -> None:
    expected = content(ROOT / "kancompress")
    assert len(expected) > 250
    assert {"py.typed", "reporting/assets/report.css", "exporting/html/assets/page.js"} < set(found)
    assert sorted(found) == sorted(expected)
    assert [name for name, data in expected.items() if found[name] != data] == []


def check_runs(place: Path, folder: Path, **environment: str) -> None:
    """The package that lies in a folder runs in `place`, with nothing of the checkout."""
    known = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), json.dumps(LINES)],
        cwd=place, env=known | {"PYTHONSAFEPATH": "1"} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    asked = {"d.st", "p.st", "p.html", "p.md", "p.page.html", "p.h"}
    assert {path.name for path in place.iterdir()} == asked


@pytest.fixture(scope="module")
def site() -> Path:
    """Where an installed package lies, as a wheel brings it."""
    if not (SITE / "kancompress" / "__init__.py").is_file():
        pytest.skip("kancompress is not installed here; pip install .")
    is_the_checkout = content(SITE / "kancompress") == content(ROOT / "kancompress")
    if not is_the_checkout and "CI" not in os.environ:
        pytest.skip("what is installed is not this checkout; pip install .")
    return SITE


def test_what_is_installed_is_the_checkout(site: Path) -> None:
    """So tests of the checkout are tests of what pip built."""
    check_same(content(site / "kancompress"))
    (found,) = metadata.distributions(name="kancompress", path=[str(site)])
    (script,) = found.entry_points
    assert (script.name, script.value) == ("kancompress", "kancompress.cli.main:main")


@pytest.mark.slow
def test_what_is_installed_runs_without_the_checkout(site: Path, tmp_path: Path) -> None:
    check_runs(tmp_path, site)


@pytest.mark.exhaustive
def test_the_wheel_is_the_checkout_and_runs(tmp_path: Path) -> None:
    source, wheels, unpacked, place = (tmp_path / name for name in ("source", "w", "u", "place"))
    source.mkdir()
    place.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kancompress", source / "kancompress", ignore=ignored)
    command = ["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(source)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    (wheel,) = wheels.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    tops = {path.name for path in unpacked.iterdir()}
    assert tops == {"kancompress", f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"}
    check_same(content(unpacked / "kancompress"))
    check_runs(place, unpacked, PYTHONPATH=str(unpacked))
