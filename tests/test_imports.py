"""What is loaded when: nothing heavy before it is used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_repacking import efficient_kan

import kancompress
from command import ENVIRONMENT
from conftest import fresh

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


def test_files_are_read_without_torch() -> None:
    """Bytes to records and what is recognised in them: every module, numpy alone."""
    package = Path(kancompress.__file__).parent
    modules = ["specs", "config", "reporting.inspection", "api.inspect"]
    for path in (*package.glob("formats/**/*.py"), *package.glob("libraries/**/*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if "forms" not in parts:
            modules.append(".".join(parts).removesuffix(".__init__"))
    code = "\n".join(f"import kancompress.{name}" for name in modules)
    assert len(modules) > 50
    assert loaded(code).isdisjoint({*HEAVY} - {"numpy"})


def test_inspect_needs_no_torch(tmp_path: Path) -> None:
    """Neither for kancompress's own files nor for another library's."""
    dense = fresh("kan", (6, 5, 4))
    kancompress.save(dense, tmp_path / "dense")
    kancompress.save(fresh("metafastkan", (6, 5, 4)), tmp_path / "meta")
    kancompress.save(kancompress.cluster(dense).model, tmp_path / "packed")
    save_file(efficient_kan(), tmp_path / "foreign")
    torch.save(efficient_kan(), tmp_path / "torch")
    calls = [
        *([name] for name in ("dense", "meta", "packed", "foreign", "torch")),
        *([name, "--check"] for name in ("dense", "packed", "foreign")),
        ["foreign", "--print-layout"],
    ]
    arguments = [["inspect", str(tmp_path / name), *options] for name, *options in calls]
    code = (
        "from kancompress.cli.main import main\n"
        f"for arguments in {arguments!r}:\n"
        "    sys.argv = ['kancompress', *arguments]\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert not end.code, arguments"
    )
    assert loaded(code).isdisjoint({*HEAVY} - {"numpy", "rich"})


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = kancompress.nonsense
    assert "train" in dir(kancompress)
