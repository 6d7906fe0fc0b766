"""What makes the user's own module, as `package.module:factory`."""

from __future__ import annotations

from kancompress.errors import UsageError


def split(target: str) -> tuple[str, str]:
    """Name of the module and path within it. Raises UsageError for anything else."""
    module, mark, path = target.partition(":")
    if not mark or not all(part.isidentifier() for part in f"{module}.{path}".split(".")):
        raise UsageError(
            f"`model={target}` names no callable; write package.module:factory,"
            " as in models:make_net.",
            fields=("model",),
        )
    return module, path
