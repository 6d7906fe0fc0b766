"""What is loaded when: nothing heavy before it is used."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_repacking import efficient_kan

import kancompress
from command import ENVIRONMENT
from conftest import fresh

HEAVY = ("torch", "numpy", "sklearn", "torchvision", "rich", "scipy", "matplotlib")


def loaded(code: str, depth: int = 1) -> set[str]:
    """Names that are loaded after `code`: of packages, or of modules as many levels down."""
    report = (
        "import json; print(json.dumps(sorted({'.'.join(name.split('.')[:n])"
        f" for name in sys.modules for n in range(1, {depth + 1})}})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{report}"],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_nothing() -> None:
    assert loaded("import kancompress").isdisjoint({*HEAVY, "typer", "click"})


@pytest.mark.slow
def test_every_name_can_be_had_without_the_command_line() -> None:
    code = "import kancompress\n[getattr(kancompress, name) for name in kancompress.__all__]"
    assert loaded(code).isdisjoint(
        {"sklearn", "torchvision", "rich", "typer", "click", "matplotlib"}
    )


def test_writing_files_needs_no_torch() -> None:
    assert loaded("import kancompress.system.files, kancompress.errors").isdisjoint(HEAVY)


LIGHT = [
    "--help", "-h", "--version", "", "nonsense", "train", "train --help", "cluster --help",
    "finetune --help", "eval --help", "predict --help", "inspect --help", "expand --help",
    "repack --help", "export --help",
    "train --epochs -1 -o x", "cluster x -o x -k x",
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


def test_a_command_loads_no_other() -> None:
    """Nor is anything of the other commands loaded to say what they are called."""
    code = (
        "from kancompress.cli.main import main\n"
        "for line in ('inspect --help', 'nonsense', ''):\n"
        "    sys.argv = ['kancompress', *line.split()]\n"
        "    try:\n        main()\n"
        "    except SystemExit:\n        pass\n"
    )
    names = loaded(code, depth=3)
    assert "kancompress.cli.inspect" in names
    assert names.isdisjoint({"kancompress.cli.cluster", "kancompress.cli.train", "numpy"})


def test_export_loads_no_torch(tmp_path: Path) -> None:
    """Not even where it says that the package for ONNX models is missing."""
    kancompress.save(kancompress.cluster(fresh("kan", (6, 5, 4))).model, tmp_path / "p.st")
    code = (
        "sys.modules['onnx'] = None\n"
        "from kancompress.cli.main import main\n"
        f"sys.argv = ['kancompress', 'export', {str(tmp_path / 'p.st')!r}, '-o', 'm.onnx']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 1\n"
    )
    assert loaded(code).isdisjoint({"torch", "sklearn", "scipy", "torchvision"})


REFUSALS = {
    "train --data missing.npz -o out": 3,
    "train -o there.st": 2,
    "train -o no/such/out": 2,
    "train --model resnet -o out": 2,
    "train --test-split 0.5 -o out": 2,
    "train --resume missing.state -o out": 3,
    "cluster missing.st -o out": 3,
    "cluster in.st -o there.st": 2,
    "cluster in.st -o in.st": 2,
    "cluster in.st -o out -k 3 --target-bytes 9": 2,
    "cluster in.st -o out --layout @missing.toml": 3,
    "cluster in.st -o out --calibrate missing.npz": 2,
    "finetune missing.st -o out": 3,
    "finetune in.st -o there.st": 2,
    "finetune in.st -o stopped.st": 2,
    "finetune in.st --data missing.npz -o out": 3,
    "finetune in.st --distill missing.st -o out": 3,
    "eval missing.st": 3,
    "eval directory": 3,
    "eval in.st --data missing.npz": 3,
    "eval in.st --dataset digits --test-split 0.5": 2,
    "eval in.st --predictions there.npz": 2,
    "eval in.st --model nonsense": 2,
    "predict missing.st --data in.st -o out.npz": 3,
    "predict in.st --data missing.npz -o out.npz": 3,
    "predict in.st --data in.st -o out.txt": 2,
    "predict in.st --data in.st -o there.npz": 2,
    "predict in.st --data in.st -o out.npz --runtime numpy --threads 1": 2,
    "inspect missing.st": 3,
    "inspect missing.st --check": 3,
    "inspect in.st --plot there.png": 2,
    "inspect in.st --plot-functions picture.gif": 2,
    "inspect in.st --print-layout --json": 2,
    "expand missing.st -o out": 3,
    "expand in.st -o there.st": 2,
}


def test_refusals_that_need_no_tensor_load_nothing_heavy(tmp_path: Path) -> None:
    for name in ("in.st", "there.st", "there.npz", "there.png"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "directory").mkdir()
    (tmp_path / "stopped.st.state").write_bytes(
        bytes(8) + b'{"__metadata__":{"kancompress.state":"'
    )
    code = f"""
import os
from kancompress.cli.main import main
os.chdir({str(tmp_path)!r})
for line, code in {REFUSALS!r}.items():
    sys.argv = ["kancompress", *line.split()]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == code, (line, stop.code)
    for name in {HEAVY!r}:
        assert name == "rich" or name not in sys.modules, (line, name)
"""
    loaded(code)


@pytest.mark.parametrize(
    "command",
    [
        "evaluate",
        pytest.param("expand", marks=pytest.mark.slow),
        pytest.param("train", marks=pytest.mark.slow),
    ],
)
def test_commands_load_no_clustering_that_do_none(command: str) -> None:
    names = loaded(f"import kancompress.api.{command}", depth=2)
    assert "torch" in names
    assert names.isdisjoint({"kancompress.clustering", "sklearn", "scipy", "pandas"})


@pytest.mark.slow
def test_digits_are_read_without_scikit_learn() -> None:
    code = (
        "from kancompress.data import datasets\nfrom kancompress.specs import DataOptions\n"
        "datasets.load_for_training(DataOptions(), seed=0)"
    )
    assert loaded(code).isdisjoint({"sklearn", "scipy", "pandas"})


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


def test_the_runtime_loads_what_it_needs() -> None:
    """Beside numpy, the formats and the layers: no options of training, and no random numbers."""
    found = loaded("import kancompress.runtime", depth=3)
    assert found.isdisjoint(
        {
            *(set(HEAVY) - {"numpy"}), "typer", "random", "secrets", "zipfile", "tempfile",
            "socket", "kancompress.config", "kancompress.libraries", "kancompress.formats.foreign",
            "kancompress.data",
        }
    )  # fmt: skip


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


def test_predict_with_numpy_needs_no_torch(tmp_path: Path) -> None:
    kancompress.save(kancompress.cluster(fresh("kan", (6, 5, 4))).model, tmp_path / "packed")
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 6)))
    options = ["--classes", "--runtime", "numpy", "-o", str(tmp_path / "out.csv")]
    arguments = ["predict", str(tmp_path / "packed"), "--data", str(tmp_path / "x.npz"), *options]
    code = (
        "from kancompress.cli.main import main\n"
        f"sys.argv = ['kancompress', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code"
    )
    assert loaded(code).isdisjoint({*HEAVY} - {"numpy"})


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = kancompress.nonsense
    assert "train" in dir(kancompress)
