"""The packed file (docs/packed-format.md): its record, its writer and its reader."""

from kancompress.packed.model import PackedLayer, PackedModel
from kancompress.packed.reader import decode
from kancompress.packed.writer import encode

__all__ = ["PackedLayer", "PackedModel", "decode", "encode"]
