"""The JSON document in a file's metadata: one key, sorted, the same bytes for the same content.

docs/packed-format.md, rule 1.4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.safetensors import Container, shown, strict_json
from kancompress.specs import DataSpec, SpecError

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
            Flaw.EXTRA_METADATA, f"{where}: unexpected metadata keys {shown(extra)} beside {KEY!r}."
        )
    text = container.metadata[KEY]
    document = strict_json(text, where, Flaw.DOCUMENT_NOT_JSON, "the kancompress document")
    if not isinstance(document, dict):
        raise InvalidFileError(
            Flaw.DOCUMENT_NOT_JSON, f"{where}: the kancompress document should be a JSON object."
        )
    _check_version(document, where)
    check_keys(document, {"kind"}, set(document), where, "the document")
    if dump(document) != text:
        raise InvalidFileError(
            Flaw.DOCUMENT_NOT_CANONICAL,
            f"{where}: the kancompress document is not in its canonical form"
            " (sorted keys, no white space). Another tool has rewritten it.",
        )
    return document


def _check_version(document: Mapping[str, Any], where: str) -> None:
    check_keys(document, {"version"}, set(document), where, "the document")
    version = document["version"]
    if type(version) is not int or version < 1:
        raise InvalidFileError(
            Flaw.BAD_VALUE,
            f"{where}: version is {shown(version)}; a positive whole number was expected.",
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
            Flaw.UNKNOWN_KEY,
            f"{where}: {what} has the unknown key {shown(unknown[0])}."
            " A later kancompress may have written the file; upgrade with:"
            " pip install --upgrade kancompress",
        )
    if missing := sorted(required - record.keys()):
        raise InvalidFileError(Flaw.MISSING_KEY, f"{where}: {what} lacks the key {missing[0]!r}.")


def spec(read_json: Callable[[object], T], record: object, where: str) -> T:
    """Read a record of `kancompress.specs`, naming the file in the error."""
    try:
        return read_json(record)
    except SpecError as error:
        flaw = Flaw.UNKNOWN_MODEL if error.key == "model.name" else Flaw.BAD_VALUE
        # Keys of the record stand in the text as they are.
        plain = str(error).isprintable() and len(str(error)) < 300
        text = str(error) if plain else shown(str(error))
        raise InvalidFileError(flaw, f"{where}: {text}.") from None


def data(document: Mapping[str, Any], where: str) -> DataSpec | None:
    """The document's `data`, None where it has none. Raises InvalidFileError."""
    if "data" not in document:
        return None
    found = spec(DataSpec.from_json, document["data"], where)
    if found.classes is not None and found.targets is not None:
        raise InvalidFileError(Flaw.BAD_VALUE, f"{where}: data names both classes and targets.")
    if len(found.mean) != len(found.std) or min(found.std, default=1) <= 0:
        raise InvalidFileError(
            Flaw.BAD_VALUE,
            f"{where}: data.mean and data.std should have one number for each colour channel,"
            " and each std should be positive.",
        )
    return found
