"""Files of the Hugging Face hub, fetched through huggingface_hub into its own cache.

Token, endpoint, cache and offline mode are huggingface_hub's, with the variables it reads:
HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE. This module is loaded only where a source begins
with `hf://`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.frozen import dataclass
from kancompress.system import inputs
from kancompress.system.files import HUB
from kancompress.version import __version__

_NAME = re.compile(
    r"(?:(?P<kind>models|datasets)/)?(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<early>refs/(?:pr/\d+|convert/[\w.-]+)|[^/@]+))?"
    r"(?:/(?P<file>[^@]+))?(?:@(?P<late>[^@]+))?",
    re.ASCII,
)
_OTHERS = ("spaces", "buckets", "kernels")
_KINDS = ("models", "datasets")
_PREFERRED = "model.kc.safetensors"
_SAFETENSORS = (".safetensors", ".safetensors.index.json")
# What pykan's `saveckpt` writes beside its state.
_STATE, _CONFIG = "_state", "_config.yml"
_MOST_SHARDS = 1000
_CALLER: dict[str, Any] = {"library_name": "kancompress", "library_version": __version__}


@dataclass(frozen=True, slots=True)
class Place:
    """A name on the hub: a repository, and perhaps a file of it at a revision."""

    kind: str
    repository: str
    file: str | None
    revision: str | None

    def __str__(self) -> str:
        kind = "" if self.kind == "model" else f"{self.kind}s/"
        file = f"/{self.file}" if self.file else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB}{kind}{self.repository}{file}{revision}"


def parse(name: str) -> Place:
    """The parts of `hf://OWNER/NAME[/FILE][@REVISION]`, or of huggingface_hub's own order,
    `hf://OWNER/NAME[@REVISION][/FILE]`; `datasets/` before the owner is a repository of data.

    Raises UsageError for what is none.
    """
    text = name.removeprefix(HUB).removesuffix("/")
    found = _NAME.fullmatch(text)
    file = found["file"] if found else None
    steps = [] if file is None else file.split("/")
    twice = found and found["early"] and found["late"]
    if not found or twice or any(step in ("", ".", "..") for step in steps):
        raise UsageError(
            f"{name} is no name on the Hugging Face hub; {HUB}OWNER/NAME,"
            f" {HUB}OWNER/NAME/FILE or {HUB}OWNER/NAME/FILE@REVISION was expected.",
            where=name,
        )
    owner = found["repository"].split("/")[0]
    if not found["kind"] and owner in _KINDS:
        raise UsageError(
            f"{name} says {owner} and then no repository; {HUB}{owner}/OWNER/NAME/FILE was"
            " expected.",
            where=name,
        )
    if not found["kind"] and owner in _OTHERS:
        raise UsageError(
            f"{name} is of no repository of models or data; files are read from these alone.",
            where=name,
        )
    return Place(
        kind="dataset" if found["kind"] == "datasets" else "model",
        repository=found["repository"],
        file=file,
        revision=found["early"] or found["late"],
    )


def fetched(name: str) -> tuple[Path, str]:
    """Where a file of the hub lies in the cache, and its whole name.

    Where `name` is a repository, the file is the one that holds its weights. With an index of
    shards come the shards, with a state of pykan's `saveckpt` its config. Raises UsageError for
    what is no name, InvalidFileError for what cannot be had, KancompressError without
    huggingface_hub.
    """
    place = parse(name)
    _check_installed(name)
    with _quiet(), _told(place):
        if place.file is None:
            place = replace(place, file=_only_weights(place))
        path = _download(place)
    with _quiet():
        _download_beside(place, path)
    return path, str(place)


def _check_installed(name: str) -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise KancompressError(
            f"{name} needs huggingface_hub, which is not installed; get it with:"
            " pip install 'kancompress[hub]'",
            where=name,
        ) from None


def _download(place: Place) -> Path:
    from huggingface_hub import hf_hub_download

    path: str = hf_hub_download(
        place.repository,
        str(place.file),
        repo_type=place.kind,
        revision=place.revision,
        **_CALLER,
    )
    return Path(path)


def _names(place: Place) -> list[str]:
    """The files of a repository; those in the cache where the hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi(**_CALLER).repo_info(
            place.repository, repo_type=place.kind, revision=place.revision
        )
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and _status(error) < 500:
            raise
        if names := _cached(place):
            return names
        raise
    return [file.rfilename for file in info.siblings or () if _is_plain(file.rfilename)]


def _cached(place: Place) -> list[str]:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            place.repository,
            repo_type=place.kind,
            revision=place.revision,
            local_files_only=True,
        )
    except Exception as error:  # of what is known to lack files, the folder is told
        folder = getattr(error, "snapshot_path", "")
    if not folder:
        return []
    return [
        file.relative_to(folder).as_posix() for file in Path(folder).rglob("*") if file.is_file()
    ]


def _only_weights(place: Place) -> str:
    """The file with a repository's weights. Raises InvalidFileError where it cannot be told."""
    names = inputs.candidates(_names(place))
    if _PREFERRED in names:
        return _PREFERRED
    whole = [name for name in names if name.endswith(_SAFETENSORS)] or names
    if len(whole) == 1:
        return whole[0]
    if not whole:
        raise InvalidFileError(
            Flaw.MISSING,
            f"{place} has no file of weights (.safetensors, .pt, .pth, .bin or .ckpt).",
            where=str(place),
        )
    raise InvalidFileError(
        Flaw.NOT_A_FILE,
        f"{place} has several files of weights; name one, as in"
        f" {replace(place, file=whole[0])}: {inputs.listed(whole)}.",
        where=str(place),
    )


def _download_beside(place: Place, path: Path) -> None:
    """Fetch the files that are read together with one: shards, which must be there, and a config,
    which may."""
    file = str(place.file)
    folder = file.rpartition("/")[0]
    for name in _shards(path) if inputs.is_index(file) else ():
        beside = replace(place, file=f"{folder}/{name}" if folder else name)
        with _told(beside):
            _download(beside)
    if file.endswith(_STATE):
        beside = replace(place, file=file.removesuffix(_STATE) + _CONFIG)
        with contextlib.suppress(InvalidFileError), _told(beside):
            _download(beside)


def _shards(index: Path) -> list[str]:
    """Names of the files that an index names beside it."""
    try:
        names = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # whoever reads the index tells what is wrong
    return sorted(name for name in names if _is_plain(name) and "/" not in name)[:_MOST_SHARDS]


def _is_plain(name: str) -> bool:
    """Whether a name that others chose stays within its folder."""
    steps = name.split("/")
    return "\\" not in name and not any(step in ("", ".", "..") for step in steps)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no lines of huggingface_hub's but on a terminal, or where they are asked for."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from huggingface_hub.utils import logging as hub_logging

    log = hub_logging.get_logger("huggingface_hub")
    level = log.level
    asked = os.environ.get("HF_HUB_VERBOSITY") or os.environ.get("HF_DEBUG")
    bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    is_watched = sys.stderr.isatty()
    hide = bars and not is_watched
    if not (asked or is_watched):
        log.setLevel(logging.CRITICAL)
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if hide:
            enable_progress_bars()


@contextlib.contextmanager
def _told(place: Place) -> Iterator[None]:
    """Errors of huggingface_hub, and of the network below it, as one sentence each."""
    try:
        yield
    except (KancompressError, MemoryError):
        raise
    except Exception as error:  # the network's have no base in common
        flaw, finding, hint = _words(error, place)
        raise InvalidFileError(flaw, f"{place} {finding}.", where=str(place), hint=hint) from None


def _words(error: Exception, place: Place) -> tuple[Flaw, str, str]:
    """What is wrong: the flaw, the rest of the sentence, and what to try."""
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    if isinstance(error, errors.GatedRepoError):
        ask = f"Ask for access at {endpoint}/{place.repository}, then {_LOG_IN}"
        return Flaw.UNREADABLE, "is open only to those who were granted access", ask
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = f"Check the name; for a private one {_LOG_IN}"
        return Flaw.MISSING, f"is in no repository that {endpoint} shows", hint
    if isinstance(error, errors.RevisionNotFoundError):
        hint = "Name a branch, a tag or a commit."
        return Flaw.MISSING, f"is not there: the repository has no revision {place.revision}", hint
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            hint = "Fetch it once without HF_HUB_OFFLINE."
            return Flaw.MISSING, "is not in the cache, and HF_HUB_OFFLINE is set", hint
        return _of_network(cause or error, endpoint)
    if isinstance(error, errors.EntryNotFoundError):
        return Flaw.MISSING, "is not there: the repository has no such file", _there(place)
    if isinstance(error, errors.HFValidationError):
        return Flaw.MISSING, f"is no name that the hub takes: {_line(error)}", ""
    return _of_network(error, endpoint)


# What the disk says, and not the network.
_OF_THE_CACHE = (
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
)  # fmt: skip
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN."


def _of_network(error: BaseException, endpoint: str) -> tuple[Flaw, str, str]:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, OSError) and error.errno in _OF_THE_CACHE:
        hint = "Free some space, or set HF_HOME to a directory that can be written to."
        return Flaw.UNREADABLE, f"cannot be kept in the cache: {error.strerror}", hint
    if isinstance(error, HfHubHTTPError):
        status = _status(error)
        if status in (401, 403):
            hint = f"Give a token that may read it: {_LOG_IN}"
            return Flaw.UNREADABLE, f"is refused by {endpoint} ({status})", hint
        return Flaw.UNREADABLE, f"cannot be had: {endpoint} answers {status}", "Try it again later."
    hint = "Check the connection, HF_ENDPOINT and the proxy."
    return Flaw.UNREADABLE, f"cannot be had from {endpoint}: {_line(error)}", hint


def _status(error: Any) -> int:
    return int(error.response.status_code)


_SYSTEM = re.compile(r"\[Errno -?\d+\] [\w ]+")


def _line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if cause := _SYSTEM.search(text):  # within the words of layers above it
        text = cause[0]
    return text.removesuffix(".") or type(error).__name__


def _there(place: Place) -> str:
    """The files that may be meant instead."""
    try:
        names = inputs.candidates(_names(place))
    except Exception:
        return ""
    return f"It has {inputs.listed(names)}." if names else ""
