"""What is loaded when: nothing heavy before it is used."""

import json
import subprocess
import sys

import pytest

from command import ENVIRONMENT

HEAVY = ("torch", "numpy", "sklearn", "torchvision", "rich", "scipy", "matplotlib")


def loaded(code: str) -> set[str]:
    """Names of the packages that are loaded after `code`."""
    report = "import json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{report}"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing() -> None:
    assert loaded("import kancompress").isdisjoint({*HEAVY, "typer", "click"})


def test_every_name_can_be_had_without_the_command_line() -> None:
    code = "import kancompress\n[getattr(kancompress, name) for name in kancompress.__all__]"
    assert loaded(code).isdisjoint(
        {"sklearn", "torchvision", "rich", "typer", "click", "matplotlib"}
    )


def test_writing_files_needs_no_torch() -> None:
    assert loaded("import kancompress.system.files, kancompress.errors").isdisjoint(HEAVY)


LIGHT = [
    "--help", "-h", "--version", "", "nonsense", "train", "train --help", "cluster --help",
    "finetune --help", "eval --help", "inspect --help", "expand --help", "train --epochs -1 -o x",
    "cluster x -o x -k x",
]  # fmt: skip


def test_help_and_usage_errors_load_nothing_heavy() -> None:
    """One after another in one process: what one of them loaded would stay."""
    code = (
        "from kancompress.cli.main import main\n"
        f"for line in {LIGHT!r}:\n"
        "    sys.argv = ['kancompress', *line.split()]\n"
        "    try:\n        main()\n"
        "    except SystemExit:\n        pass\n"
        f"    heavy = sorted({set(HEAVY) - {'rich'}!r} & set(sys.modules))\n"  # old typers load it
        "    assert not heavy, f'{line!r} loads {heavy}'"
    )
    assert loaded(code).isdisjoint({*HEAVY} - {"rich"})


def test_unknown_names_are_attribute_errors() -> None:
    import kancompress

    with pytest.raises(AttributeError, match="nonsense"):
        _ = kancompress.nonsense
    assert "train" in dir(kancompress)
