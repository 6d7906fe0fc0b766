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
        env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
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


@pytest.mark.parametrize(
    "arguments",
    [
        "--help", "-h", "--version", "", "nonsense", "train", "train --help", "cluster --help",
        "finetune --help", "eval --help", "inspect --help", "expand --help",
        "train --epochs -1 -o x", "cluster x -o x -k x",
    ],
)  # fmt: skip
def test_help_and_usage_errors_load_nothing_heavy(arguments: str) -> None:
    code = (
        f"sys.argv = ['kancompress', *{arguments.split()!r}]\n"
        "from kancompress.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    assert loaded(code).isdisjoint({*HEAVY} - {"rich"})  # older typers load rich


def test_unknown_names_are_attribute_errors() -> None:
    import kancompress

    with pytest.raises(AttributeError, match="nonsense"):
        _ = kancompress.nonsense
    assert "train" in dir(kancompress)


def test_formats_need_no_torch() -> None:
    modules = (
        "specs", "config", "formats.storage", "formats.foreign", "formats.packed.state",
        "libraries", "reporting.inspection", "api.inspect",
    )  # fmt: skip
    code = "\n".join(f"import kancompress.{name}" for name in modules)
    assert loaded(code).isdisjoint({*HEAVY} - {"numpy"})
