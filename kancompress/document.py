"""The JSON document in a file's metadata: one key, sorted, the same bytes for the same content.

docs/packed-format.md, rule 1.4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kancompress.container import Container, strict_json
from kancompress.errors import Flaw, InvalidFileError
from kancompress.specs import SpecError

KEY = "kancompress"
VERSION = 1

T = TypeVar("T")


def dump(document: Mapping[str, Any]) -> str:
    """The document's one text form."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def metadata(document: Mapping[str, Any]) -> dict[str, str]:
    """The `__metadata__` that holds `document`."""
    return {KEY: dump(document)}


def read(container: Container) -> dict[str, Any]:
    """The document of a file that kancompress wrote.

    Raises InvalidFileError when there is none, or one that this version cannot read.
    """
    where = container.where
    if KEY not in container.metadata:
        raise InvalidFileError(
            Flaw.NOT_KANCOMPRESS,
            f"{where} is a safetensors file, but kancompress did not write it (no metadata key"
            f" {KEY!r}).",
        )
    if len(container.metadata) > 1:
        extra = sorted(container.metadata.keys() - {KEY})
        raise InvalidFileError(
            Flaw.EXTRA_METADATA, f"{where}: unexpected metadata keys {extra!r} beside {KEY!r}."
        )
    text = container.metadata[KEY]
    document = strict_json(text, where, Flaw.DOCUMENT_NOT_JSON, "the kancompress document")
    if not isinstance(document, dict):
        raise InvalidFileError(
            Flaw.DOCUMENT_NOT_JSON, f"{where}: the kancompress document should be a JSON object."
        )
    _check_version(document, where)
    if dump(document) != text:
        raise InvalidFileError(
            Flaw.DOCUMENT_NOT_CANONICAL,
            f"{where}: the kancompress document is not in its canonical form"
            " (sorted keys, no white space). Another tool has rewritten it.",
        )
    return document


def _check_version(document: Mapping[str, Any], where: str) -> None:
    version = document.get("version")
    if type(version) is not int or version < 1:
        raise InvalidFileError(
            Flaw.BAD_VALUE,
            f"{where}: version is {version!r}; a positive whole number was expected.",
        )
    if version > VERSION:
        raise InvalidFileError(
            Flaw.LATER_VERSION,
            f"{where} has format version {version}; this kancompress reads up to {VERSION}."
            " Upgrade with: pip install --upgrade kancompress",
        )


def check_keys(
    record: Mapping[str, Any], required: set[str], optional: set[str], where: str, what: str
) -> None:
    """Refuse unknown and missing keys of `record`, called `what` in the message."""
    if unknown := sorted(record.keys() - required - optional):
        raise InvalidFileError(
            Flaw.UNKNOWN_KEY, f"{where}: {what} has the unknown key {unknown[0]!r}."
        )
    if missing := sorted(required - record.keys()):
        raise InvalidFileError(Flaw.MISSING_KEY, f"{where}: {what} lacks the key {missing[0]!r}.")


def spec(read_json: Callable[[object], T], record: object, where: str) -> T:
    """Read a record of `kancompress.specs`, naming the file in the error."""
    try:
        return read_json(record)
    except SpecError as error:
        flaw = Flaw.UNKNOWN_MODEL if error.key == "model.name" else Flaw.BAD_VALUE
        raise InvalidFileError(flaw, f"{where}: {error}.") from None
