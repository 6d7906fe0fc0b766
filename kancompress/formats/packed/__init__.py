"""The packed file (docs/packed-format.md): its record, its writer and its reader."""

from kancompress.formats.packed.forms import FormRecord
from kancompress.formats.packed.reader import decode, ordinary
from kancompress.formats.packed.record import LayerRecord, PackedRecord
from kancompress.formats.packed.writer import encode, pieces

__all__ = ["FormRecord", "LayerRecord", "PackedRecord", "decode", "encode", "ordinary", "pieces"]
