"""What makes the user's own module, as `package.module:factory` or `file.py:factory`."""

from __future__ import annotations

from pathlib import Path

from kancompress.errors import UsageError

SCRIPT = ".py"


def split(target: str) -> tuple[str, str]:
    """Name of the module, or path of its file, and the path within it. Raises UsageError for
    anything else."""
    module, mark, path = target.rpartition(":")
    if not mark and target.endswith(SCRIPT):
        raise UsageError(
            f"`model={target}` names a file and nothing in it; write {target}:FACTORY, with the"
            " name of the function or class that gives the model.",
            fields=("model",),
        )
    names = [path] if module.endswith(SCRIPT) else [module, path]
    if not mark or not all(part.isidentifier() for part in ".".join(names).split(".")):
        raise UsageError(
            f"`model={target}` names no callable; write package.module:factory,"
            " as in models:make_net, or file.py:factory.",
            fields=("model",),
        )
    return module, path


def script(module: str) -> Path | None:
    """The file that is meant in place of a module; None where that is named as usual."""
    return Path(module) if module.endswith(SCRIPT) else None
