"""Every exception that kancompress raises on purpose.

    KancompressError            exit code 1   the work could not be done
    ├── TooSmallError           exit code 1   a target of bytes that no file fits into
    ├── ClosedPipeError         exit code 141 the reader of a pipe that is written has gone
    ├── UsageError              exit code 2   an option or argument does not fit
    ├── InvalidFileError        exit code 3   a file that cannot be read or lies; has a `flaw`
    └── MissedError             exit code 4   a score or a size that a gate does not let pass

Each message is one or two sentences: what was found, where, what was expected, what to try. It has
at most 500 characters, however long the names in a file; `together` joins several. What the error
is about is told by its attributes, too: the sentence is for people, and no code reads it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

# Most characters of a sentence; names in files have no limit of their own.
MOST_CHARACTERS = 500
# Most problems that one error tells.
MOST_SENTENCES = 50


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """`text` without its middle where it is longer than `most`."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def spoken(text: str, fields: Sequence[str], option: Callable[[str], str]) -> str:
    """`text` with the names of these parameters, in backticks, as another surface has them.

    option : as of `KancompressError.spoken`
    """
    if not fields:
        return text
    names = "|".join(map(re.escape, fields))
    return re.sub(
        f'`({names})(?:=("?)([^`]*?)\\2)?`',
        lambda mark: " ".join(filter(None, (option(mark[1]), mark[3]))),
        text,
    )


class KancompressError(Exception):
    """Base of all errors; its text is meant to be shown to the user as it is, and has at most
    `MOST_CHARACTERS`.

    where  : the file, or what messages call the source
    layer  : name of the layer
    tensor : name of the tensor
    fields : parameters that the message speaks of, as in `ClusterConfig.codebook_dtype`. There they
             stand in backticks, perhaps with a value: `side_dtype="float32"`
    hint   : what to try, the last sentence of the text; `finding` is the text without it
    None, () or "", where the error is about no such thing.
    """

    exit_code = 1

    def __init__(
        self,
        message: str = "",
        *,
        where: str | None = None,
        layer: str | None = None,
        tensor: str | None = None,
        fields: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        whole = f"{message} {hint}" if hint else message
        super().__init__(shortened(whole))
        self.where = where
        self.layer = layer
        self.tensor = tensor
        self.fields = tuple(fields)
        self.hint = hint
        self._finding = message
        # Unshortened where names of fields, which may be longer elsewhere, are to be replaced.
        self._message = whole if fields else shortened(whole)

    problems: tuple[KancompressError, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles: another process may raise it again."""
        return _again, (type(self), self.args, self.__dict__)

    def followed(self, text: str) -> KancompressError:
        """The same error with another sentence at its end."""
        error = copy.copy(self)
        error.hint = f"{self.hint} {text}" if self.hint else text
        error._message = f"{self._message} {text}"
        error.args = (shortened(error._message),)
        return error

    @property
    def finding(self) -> str:
        """The text without its hint, for another error or note that has its own, or none."""
        if self.problems:
            return "\n".join(problem.finding for problem in self.problems)
        return shortened(self._finding)

    @property
    def clause(self) -> str:
        """The finding without its full stop, to stand within another sentence."""
        return self.finding.removesuffix(".")

    @property
    def sentences(self) -> tuple[str, ...]:
        """What went wrong; more than one text where `together` has joined errors."""
        return tuple(map(str, self.problems)) or (str(self),)

    def spoken(self, option: Callable[[str], str]) -> tuple[str, ...]:
        """`sentences` in the words of another surface than Python.

        option : the name that a parameter has there; of `side_dtype="float32"` in backticks
                 comes `--side-dtype float32`, where it gives `--side-dtype`
        """
        if self.problems:
            return tuple(text for problem in self.problems for text in problem.spoken(option))
        return (shortened(spoken(self._message, self.fields, option)),)


def _again(
    kind: type[KancompressError], args: tuple[Any, ...], state: dict[str, Any]
) -> KancompressError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ClosedPipeError(KancompressError):
    """Whoever read standard output, or a named pipe, has closed it."""

    exit_code = 141


class NoScoreError(KancompressError):
    """A network whose outputs have no score: some are NaN, or infinite."""


class UsageError(KancompressError):
    """An option or argument that does not fit the others, or the file."""

    exit_code = 2


class TooSmallError(KancompressError):
    """A target of bytes that no file fits into."""


class MissedError(KancompressError):
    """A score or a size that a gate, such as `eval --min-accuracy`, does not let pass."""

    exit_code = 4


class Flaw(StrEnum):
    """What is wrong with a file; the value is the flaw's stable name."""

    MISSING = "missing"
    NOT_A_FILE = "not-a-file"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    NOT_SAFETENSORS = "not-safetensors"
    GIT_LFS_POINTER = "git-lfs-pointer"
    HTML = "html"
    TORCH_PICKLE = "torch-pickle"
    TOO_SHORT = "too-short"
    HEADER_TOO_LARGE = "header-too-large"
    HEADER_TRUNCATED = "header-truncated"
    HEADER_NOT_UTF8 = "header-not-utf8"
    HEADER_NOT_JSON = "header-not-json"
    HEADER_NOT_OBJECT = "header-not-object"
    DUPLICATE_KEY = "duplicate-key"
    METADATA_NOT_STRINGS = "metadata-not-strings"
    TENSOR_RECORD = "tensor-record"
    UNKNOWN_DTYPE = "unknown-dtype"
    BAD_SHAPE = "bad-shape"
    BAD_OFFSETS = "bad-offsets"
    SIZE_MISMATCH = "size-mismatch"
    OVERLAP = "overlap"
    HOLE = "hole"
    TRAILING_BYTES = "trailing-bytes"
    TRUNCATED = "truncated"
    MISALIGNED = "misaligned"
    TENSOR_ORDER = "tensor-order"
    BAD_TENSOR_NAME = "bad-tensor-name"
    NOT_KANCOMPRESS = "not-kancompress"
    EXTRA_METADATA = "extra-metadata"
    DOCUMENT_NOT_JSON = "document-not-json"
    DOCUMENT_NOT_CANONICAL = "document-not-canonical"
    UNKNOWN_KEY = "unknown-key"
    MISSING_KEY = "missing-key"
    BAD_VALUE = "bad-value"
    LATER_VERSION = "later-version"
    WRONG_KIND = "wrong-kind"
    UNKNOWN_ENCODING = "unknown-encoding"
    UNKNOWN_MODEL = "unknown-model"
    UNKNOWN_ROLE = "unknown-role"
    UNKNOWN_LAYER = "unknown-layer"
    UNEXPLAINED_TENSOR = "unexplained-tensor"
    MISSING_TENSOR = "missing-tensor"
    CONFLICTING_TENSORS = "conflicting-tensors"
    WRONG_DTYPE = "wrong-dtype"
    WRONG_SHAPE = "wrong-shape"
    TOO_MANY_CENTROIDS = "too-many-centroids"
    INDEX_LENGTH = "index-length"
    INDEX_RANGE = "index-range"
    INDEX_PADDING = "index-padding"
    BAD_CODEBOOK_REFERENCE = "bad-codebook-reference"
    KEPT_POSITIONS = "kept-positions"
    NOT_FINITE = "not-finite"
    BAD_CHECKSUM_FORM = "bad-checksum-form"
    CHECKSUM_MISMATCH = "checksum-mismatch"
    BAD_ARRAYS = "bad-arrays"
    UNKNOWN_FORMAT = "unknown-format"
    BAD_ZIP = "bad-zip"
    TORCHSCRIPT = "torchscript"
    BAD_PICKLE = "bad-pickle"
    UNSAFE_PICKLE = "unsafe-pickle"
    NO_TENSORS = "no-tensors"
    UNSUPPORTED_TENSOR = "unsupported-tensor"
    BAD_INDEX = "bad-index"
    MISSING_SHARD = "missing-shard"
    BAD_LAYOUTS = "bad-layouts"
    TOO_COSTLY = "too-costly"
    TOO_LARGE = "too-large"


class InvalidFileError(KancompressError):
    """A file that cannot be read or breaks a rule of its format, which `flaw` names."""

    exit_code = 3

    def __init__(
        self,
        flaw: Flaw,
        message: str,
        *,
        where: str | None = None,
        layer: str | None = None,
        tensor: str | None = None,
        fields: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, where=where, layer=layer, tensor=tensor, fields=fields, hint=hint)
        self.flaw = flaw


def together(problems: Sequence[KancompressError]) -> KancompressError:
    """One error that says all of `problems` (at least one), a line each, and has them as its own.

    It is an InvalidFileError where a file is at fault, for then no other option helps; else of the
    first one's class.
    """
    # Each sentence is bounded, not all of them together.
    single = [part for problem in problems for part in (problem.problems or (problem,))]
    by_text: dict[str, KancompressError] = {}
    for part in single:
        by_text.setdefault(str(part), part)
    different = list(by_text.values())
    if len(different) == 1:
        return problems[0]
    if len(different) > MOST_SENTENCES:
        more = KancompressError(f"And {len(different) - MOST_SENTENCES:,} more like these.")
        different = [*different[:MOST_SENTENCES], more]
    invalid = [problem for problem in problems if isinstance(problem, InvalidFileError)]
    error = InvalidFileError(invalid[0].flaw, "") if invalid else type(problems[0])("")
    error.problems = tuple(different)
    error.fields = tuple(dict.fromkeys(name for part in different for name in part.fields))
    error.args = ("\n".join(error.sentences),)
    return error
