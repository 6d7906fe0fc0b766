"""The house: packages import one way, functions are short, public names are there."""

import ast
import re
from functools import cache, reduce
from pathlib import Path

import kancompress

PACKAGE = Path(kancompress.__file__).parent

# Each imports only from those before it (and from itself).
ORDER = (
    "errors", "warnings", "version", "values", "frozen", "forward", "specs", "config", "system",
    "formats", "layers", "libraries", "runtime", "exporting", "models", "data",
    "training", "clustering", "packing", "reporting", "api", "", "cli", "__main__",
)  # fmt: skip


@cache
def parsed(path: Path) -> ast.Module:
    """What a file says; it is read once."""
    return ast.parse(path.read_text())


@cache
def modules() -> dict[str, Path]:
    """Modules by their names without the package's; '' is the package itself."""
    result = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return result


@cache
def imports(tree: ast.AST) -> set[str]:
    """Modules and names of ours that a file imports when it runs, without the package's name."""
    found: set[str] = set()
    only_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in only_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {
        name.removeprefix("kancompress").removeprefix(".")
        for name in found
        if name.split(".")[0] == "kancompress"
    }


def package_of(module: str) -> str:
    first = module.split(".")[0]
    return first if first in ORDER else ""


def test_packages_import_one_way() -> None:
    for module, path in modules().items():
        if not module:  # which names the homes of what it exports
            continue
        for target in imports(parsed(path)):
            assert ORDER.index(package_of(target)) <= ORDER.index(package_of(module)), (
                f"{module} imports {target or 'kancompress'}"
            )


def test_every_package_has_its_place() -> None:
    first = {module.split(".")[0] for module in modules()}
    assert first == set(ORDER)


def test_modules_of_a_package_import_one_way() -> None:
    """No two modules need each other, in whatever package they are."""
    known = modules()
    needs = {
        module: {
            target if target in known else target.rpartition(".")[0]
            for target in imports(parsed(path))
        }
        - {module}
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"{' imports '.join((*way, module))}"
        if module not in done:
            for target in sorted(needs[module]):
                visit(target, (*way, module))
            done.add(module)

    for module in known:
        if module:
            visit(module, ())


def test_no_import_of_ours_hides_in_a_function() -> None:
    for module, path in modules().items():
        for function in ast.walk(parsed(path)):
            if isinstance(function, ast.FunctionDef) and any(
                isinstance(inner, ast.Import | ast.ImportFrom) for inner in ast.walk(function)
            ):
                assert not imports(function), f"{module}.{function.name}"


# Options of other programs, a command that a model card shows, and the head and questions of a
# file that is made for `--layout`.
# Commands of other programs, and those that a model card writes out.
NAMED = (
    "pip install --upgrade", "torchrun --nproc-per-node", "--data rows.npz -o outputs.npz",
    " --pykan-config mark_config.yml",
)  # fmt: skip
LAYOUT_FILE = "libraries.layout_files"


def test_the_library_names_no_options_of_the_command_line() -> None:
    for name, path in modules().items():
        if name.partition(".")[0] == "cli" or name == LAYOUT_FILE:
            continue
        tree = parsed(path)
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docs:
                text = reduce(lambda text, known: text.replace(known, ""), NAMED, node.value)
                assert not re.search(r"(?<![\w-])--($|[a-z])", text), (path, node.lineno, text)


def test_functions_stay_readable() -> None:
    for path in modules().values():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.body[0].lineno + 1
                assert length <= 70, f"{path}: {node.name} has {length} lines"


def test_public_names_are_listed_sorted_and_there() -> None:
    names = [name for name in kancompress.__all__ if not name.startswith("__")]
    classes = [name for name in names if name[0].isupper()]
    functions = [name for name in names if name[0].islower()]
    assert names == sorted(classes) + sorted(functions)
    for name in kancompress.__all__:
        assert getattr(kancompress, name) is not None
