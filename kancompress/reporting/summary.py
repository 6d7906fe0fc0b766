"""What stands beside a score: a file's bytes, its ratio, and its numbers of centroids. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from kancompress.formats import document as documents
from kancompress.formats.storage import Source, is_native, once, open_container
from kancompress.frozen import dataclass
from kancompress.reporting import inspection
from kancompress.system import inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A file in a few numbers.

    file_bytes : None where it is no single file
    ratio      : bytes of the dense network's file over those of this one; None where this one is
                 not packed. Dense is the twin without a meta-learner where the source had one, else
                 the source
    clusters   : centroids of each layer of a packed file, None where a layer is dense
    unused_bytes : those of `file_bytes` that no tensor uses, where a torch file has some and was
                   looked at
    """

    file_bytes: int | None
    ratio: float | None = None
    clusters: Mapping[str, int | None] | None = None
    unused_bytes: int = 0


def summary(source: Source, name: str | None = None) -> Summary:
    """The numbers of a file. Raises InvalidFileError for a damaged packed file."""
    source, name = once(source, name)
    size = inputs.size_of(source)
    if size is None or not is_native(source):
        return Summary(file_bytes=size)
    container = open_container(source, name)
    if documents.read(container).get("kind") != "packed":
        return Summary(file_bytes=container.file_size)
    told = inspection.describe(container)
    ratios = told["ratios"]
    return Summary(
        file_bytes=told["file_bytes"],
        ratio=ratios.get("dense_file", ratios["file"]),
        clusters={layer["name"]: layer["clusters"] for layer in told["layers"]},
    )
