"""The packed file (docs/packed-format.md): its record, its writer and its reader."""

from kancompress.formats.packed.forms import FormRecord
from kancompress.formats.packed.model import PackedLayer, PackedModel
from kancompress.formats.packed.reader import decode
from kancompress.formats.packed.writer import encode

__all__ = ["FormRecord", "PackedLayer", "PackedModel", "decode", "encode"]
