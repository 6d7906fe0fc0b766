"""How many bytes a packed file may stand for (docs/packed-format.md, 8.3)."""

from __future__ import annotations

from collections.abc import Iterable

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.arrays import DTYPES
from kancompress.formats.packed.origins import LayerClaim
from kancompress.formats.safetensors import shown

# For each byte of the file, and for every file.
EACH, FREE = 10_000, 1_000_000_000


def check_bounds(
    layers: Iterable[tuple[LayerClaim, str]], restored: int, file_size: int, where: str
) -> None:
    """Refuse what would take memory without measure once it is written out.

    layers   : what the header claims of each layer, and the type of its coefficients
    restored : bytes of the tensors that `restore` gives back
    Raises InvalidFileError (too-large).
    """
    written_out = sum(
        claim.edges * claim.coefficients * DTYPES[dtype].itemsize for claim, dtype in layers
    )
    totals = {
        "its layers' coefficients": written_out,
        "the tensors that it restores": restored,
    }
    for what, total in totals.items():
        if total > EACH * file_size + FREE:
            raise InvalidFileError(
                Flaw.TOO_LARGE,
                f"{where}: {what} would have {shown(total)} bytes, more than {EACH:,} times the"
                f" file's {file_size:,} and {FREE:,} more. Where that is meant, read it with"
                " any_size=True, or expand it with `any_size`.",
                where=where,
                fields=("any_size",),
            )
