"""Which encoding each tensor of a packed file has (docs/packed-format.md, section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.packed.encodings import PLAIN, names_for
from kancompress.formats.packed.record import ROLES
from kancompress.formats.safetensors import Entry, shown


def read_encodings(
    document: Mapping[str, Any],
    entries: Mapping[str, Entry],
    others: Collection[str],
    where: str,
) -> dict[str, str]:
    """The encoding of each tensor, by name.

    others : names of the tensors that belong to no layer, which are bytes of the source as they
             were
    Raises InvalidFileError for encodings that are not known, or that do not name each role of the
    file once.
    """
    of_role = _encoding_of_role(document, entries, others, where)
    exceptions = document.get("exceptions", {})
    if not isinstance(exceptions, dict) or ("exceptions" in document and not exceptions):
        raise _fail(where, Flaw.BAD_VALUE, "exceptions should be an object that is not empty.")
    if strangers := sorted(exceptions.keys() - entries.keys()):
        raise _fail(
            where, Flaw.BAD_VALUE, f"exceptions names {shown(strangers[0])}, which is no tensor."
        )
    found: dict[str, str] = {}
    known: tuple[str, ...]
    for name in entries:
        role = name.rpartition(".")[2]
        if name in others:
            usual, known = PLAIN.name, (PLAIN.name,)
        elif role in of_role:
            usual, known = of_role[role], names_for(role)
        else:
            raise _fail(where, Flaw.MISSING_KEY, f"encodings has none for the role {shown(role)}.")
        encoding = exceptions.get(name, usual)
        if encoding not in known:
            raise _fail(
                where,
                Flaw.UNKNOWN_ENCODING,
                f"tensor {shown(name)} has the encoding {shown(encoding)}, which this"
                f" kancompress does not read ({', '.join(map(repr, known))} is known). Upgrade it"
                " with: pip install --upgrade kancompress",
            )
        if name in exceptions and (encoding == usual or usual not in known):
            raise _fail(
                where,
                Flaw.BAD_VALUE,
                f"exceptions names {shown(name)}, whose encoding is the usual one.",
            )
        found[name] = encoding
    return found


def told_encodings(chosen: Mapping[str, str]) -> dict[str, Any]:
    """The document's `encodings` and `exceptions`, of tensors by name: of each role the encoding
    that most of its tensors have, and the tensors that have another."""
    counts: dict[str, Counter[str]] = {}
    for name, encoding in chosen.items():
        counts.setdefault(name.rpartition(".")[2], Counter())[encoding] += 1
    usual = {role: min(found, key=lambda e: (-found[e], e)) for role, found in counts.items()}
    roles = {
        encoding: sorted(role for role in usual if usual[role] == encoding)
        for encoding in usual.values()
    }
    exceptions = {
        name: encoding
        for name, encoding in chosen.items()
        if encoding != usual[name.rpartition(".")[2]]
    }
    return {"encodings": roles} | ({"exceptions": exceptions} if exceptions else {})


def _encoding_of_role(
    document: Mapping[str, Any],
    entries: Mapping[str, Entry],
    others: Collection[str],
    where: str,
) -> dict[str, str]:
    encodings = document["encodings"]
    if not isinstance(encodings, dict):
        raise _fail(where, Flaw.BAD_VALUE, "encodings should be an object.")
    present = {name.rpartition(".")[2] for name in entries if name not in others}
    of_role: dict[str, str] = {}
    for encoding, roles in encodings.items():
        if (
            not isinstance(roles, list)
            or not roles
            or not all(isinstance(role, str) for role in roles)
            or sorted(set(roles) - of_role.keys()) != roles
        ):
            raise _fail(
                where,
                Flaw.BAD_VALUE,
                f"encodings gives {shown(encoding)} to {shown(roles)}; a sorted list of roles"
                " that have no other encoding was expected.",
            )
        if idle := sorted(set(roles) - present):
            raise _fail(
                where,
                Flaw.BAD_VALUE if idle[0] in ROLES else Flaw.UNKNOWN_ROLE,
                f"encodings names the role {shown(idle[0])}, which no tensor has.",
            )
        of_role |= dict.fromkeys(roles, encoding)
    return of_role


def _fail(where: str, flaw: Flaw, message: str) -> InvalidFileError:
    return InvalidFileError(flaw, f"{where}: {message}")
