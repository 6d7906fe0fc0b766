"""`expand`: a packed file with all its coefficients again."""

from __future__ import annotations

from kancompress.api import given
from kancompress.api.records import packed_record
from kancompress.models.files import Input
from kancompress.models.native import expand as _expand
from kancompress.models.records import Checkpoint
from kancompress.models.restoration import Restored, restore


def expand(
    source: Input, *, name: str | None = None, any_size: bool = False
) -> Checkpoint | Restored:
    """Write out all coefficients of a packed file: a dense checkpoint, or another library's again.

    source   : a packed file, its bytes, or its record
    name     : what messages call the source, its path when None
    any_size : expand a file that stands for more than 10,000 times its bytes and a gigabyte
    Returns a `Checkpoint` for a network of ours, which `save` takes; for another library's file a
    `Restored`, with the names, shapes and types of its tensors, whose `encode` gives the file.
    Raises UsageError for a file that is not packed, InvalidFileError for one that is damaged or
    stands for too much.

    >>> import kancompress
    >>> dense = kancompress.expand("packed.safetensors")
    >>> dense.kind
    'dense'
    >>> kancompress.save(dense, "dense.safetensors") > 0
    True
    """
    model = packed_record(given.source(source, "expand"), name, any_size=any_size)
    return _expand(model) if model.restore is None else restore(model)
