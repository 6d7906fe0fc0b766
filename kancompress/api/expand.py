"""`expand`: a packed file with all its coefficients again."""

from __future__ import annotations

from kancompress.api.records import packed_record
from kancompress.models.files import Input
from kancompress.models.records import Checkpoint
from kancompress.models.restoration import Restored, restore
from kancompress.packing.native import expand as _expand


def expand(
    source: Input, *, name: str | None = None, any_size: bool = False
) -> Checkpoint | Restored:
    """The dense checkpoint of a packed native network, or another library's state dict again.

    any_size : expand a file that stands for more than 10,000 times its bytes and a gigabyte
    """
    model = packed_record(source, name, any_size=any_size)
    return _expand(model) if model.restore is None else restore(model)
