"""Imports run one way: a module imports only from floors below its own, and at the top."""

import ast
from pathlib import Path

import kancompress

PACKAGE = Path(kancompress.__file__).parent

FLOORS: list[set[str]] = [
    {
        "errors",
        "warnings",
        "specs",
        "recipes",
        "bits",
        "files",
        "inputs",
        "shapes",
        "stored",
        "nearest",
        "parts",
        "history",
        "version",
        "launch",
        "locks",
        "seeds",
    },
    {
        "container",
        "magnitudes",
        "kmeans",
        "bases",
        "bases.bspline",
        "bases.gaussian",
        "bases.gram",
        "bases.kernels",
        "bases.polynomials",
        "bases.radial",
    },
    {"layouts", "foreign"},
    {"document", "distributed"},
    {"checkpoint"},
    {
        "packed",
        "packed.header",
        "packed.bounds",
        "packed.encodings",
        "packed.model",
        "packed.numbers",
        "packed.reader",
        "packed.restore",
        "packed.state",
        "packed.writer",
    },
    {"nn", "nn.edges", "nn.layer", "nn.network", "nn.window"},
    {"compression", "storage", "images"},
    {"datasets"},
    {"calibration", "states", "devices", "augmentation"},
    {"batches"},
    {"restoration", "extras", "generation", "remainder", "notes"},
    {"repacking"},
    {"sizing"},
    {"modules"},
    {"parametrization"},
    {"forms"},
    {"hooked", "gridded"},
    {"calibrating"},
    {"fitting", "compilation", "normalisation", "running"},
    {"training", "finetuning", "evaluation", "inspection"},
    {"usermodel"},
    {"predictions", "api", "plotting"},
    {"live", "outputs"},
    {""},
    {"cli", "__main__"},
]


# Packages that stand on one floor as a whole.
PACKAGES = ("calibration", "cli", "foreign", "forms", "layouts", "plotting")


def floor_of(module: str) -> int:
    first = module.split(".")[0]
    name = first if first in PACKAGES else module
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imports(tree: ast.AST) -> set[str]:
    """Modules of ours that a file imports, without the package's name; '' is the package."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                known = (PACKAGE.parent / whole.replace(".", "/")).with_suffix(".py").exists()
                folder = (PACKAGE.parent / whole.replace(".", "/")).is_dir()
                found.add(whole if known or folder else node.module)
    return {
        name.removeprefix("kancompress").removeprefix(".")
        for name in found
        if name.split(".")[0] == "kancompress"
    }


def modules() -> dict[str, Path]:
    result = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            result[name] = path
    return result


def test_no_import_goes_up() -> None:
    for module, path in modules().items():
        for target in imports(ast.parse(path.read_text())):
            assert floor_of(target) <= floor_of(module), (
                f"{module} imports {target or 'kancompress'}"
            )


def test_no_import_of_ours_hides_in_a_function() -> None:
    for module, path in modules().items():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                assert not imports(function), f"{module}.{function.name}"


def test_files_and_functions_stay_readable() -> None:
    for path in modules().values():
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 420, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "cli" not in path.parts:
                length = (node.end_lineno or 0) - node.body[0].lineno + 1
                assert length <= 70, f"{path}: {node.name} has {length} lines"


def test_public_names_are_listed_sorted_and_there() -> None:
    names = [name for name in kancompress.__all__ if not name.startswith("__")]
    classes = [name for name in names if name[0].isupper()]
    functions = [name for name in names if name[0].islower()]
    assert names == sorted(classes) + sorted(functions)
    for name in kancompress.__all__:
        assert getattr(kancompress, name) is not None
