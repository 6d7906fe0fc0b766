"""`repack`: a packed file written anew, without its source."""

from __future__ import annotations

import os
from pathlib import Path

from kancompress.api import given
from kancompress.api.records import packed_record
from kancompress.config import RepackConfig
from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import document as documents
from kancompress.formats.packed import ordinary
from kancompress.formats.storage import Source, called, once, open_container
from kancompress.frozen import dataclass
from kancompress.models import lines
from kancompress.models.files import encode
from kancompress.models.records import PackedModel
from kancompress.packing.repack import PartBytes, parts, parts_of, repacked
from kancompress.system import files


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Repacked:
    """Result of `repack`.

    model         : the packed model as it is written
    before, after : bytes of the file by its parts
    data          : the file

    >>> import kancompress
    >>> small = kancompress.repack("packed.safetensors")
    >>> small.saved == small.before.file - len(small.data)
    True
    """

    model: PackedModel
    before: PartBytes
    after: PartBytes
    data: bytes

    def __repr__(self) -> str:
        fewer = f"{abs(self.saved):,} {'more' if self.saved < 0 else 'fewer'} than before"
        return lines.line("Repacked", f"{self.after.file:,} bytes", fewer)

    def _repr_html_(self) -> str:
        """For notebooks: the bytes of each part, before and after."""
        parts = ("header", "indices", "codebooks", "others", "file")
        rows = [(part, getattr(self.before, part), getattr(self.after, part)) for part in parts]
        return lines.table(repr(self)[1:-1], ("part", "bytes before", "bytes"), rows)

    @property
    def saved(self) -> int:
        """Bytes that the file is smaller than before; negative where it is larger."""
        return self.before.file - self.after.file

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write the packed file; returns its bytes.

        Raises UsageError when the file exists and `force` is not given, KancompressError when it
        cannot be written.
        """
        target = Path(path)
        files.check_target(target, force=force)
        return files.write(target, [self.data], force=force)


def repack(
    source: Source | PackedModel, config: RepackConfig | None = None, *, name: str | None = None
) -> Repacked:
    """Write a packed file anew, smaller and without its source.

    Every edge keeps its numbers bit for bit, unless `config` asks for a narrower type. Where
    nothing is saved, the file stays as it is; it becomes larger only by a form of header or indices
    that is asked for.

    source : a packed file, its bytes, or its record
    name   : what messages call the source, its path when None
    Raises UsageError for a file that is not packed, and for `side_dtype` of another library's;
    InvalidFileError for one that is damaged; KancompressError for a type that is too narrow.

    >>> import kancompress
    >>> small = kancompress.repack("packed.safetensors")
    >>> small.after.header < small.before.header, small.saved > 0
    (True, True)
    >>> small.save("smaller.safetensors") == small.after.file
    True
    """
    given.check(config, RepackConfig)
    config = config or RepackConfig()
    source, name = once(given.source(source, "repack"), name)
    where = called(source, name)
    model = _packed(source, name)
    if isinstance(source, PackedModel):
        data, before = encode(model), parts_of(model)
    else:
        container = open_container(source, name)
        data = bytes(container.data[:])
        found = ordinary(container, documents.read(container))
        before = parts(container.header_size, found.outline(), model)
    made = repacked(model, config, where)
    raw = encode(made)
    if len(raw) >= len(data) and _is_default(config):
        return Repacked(model=model, before=before, after=before, data=data)
    return Repacked(model=made, before=before, after=parts_of(made), data=raw)


def _packed(source: Source | PackedModel, name: str | None) -> PackedModel:
    try:
        return packed_record(source, name)
    except InvalidFileError as error:
        if error.flaw is Flaw.NOT_KANCOMPRESS:
            raise error.followed("Pack it with: kancompress cluster FILE -o PACKED") from None
        raise


def _is_default(config: RepackConfig) -> bool:
    """Whether no form is asked for that may be larger."""
    usual = RepackConfig()
    return (config.header, config.indices) == (usual.header, usual.indices)
