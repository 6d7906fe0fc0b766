"""Points of a sweep, and the folder that keeps them, so that a sweep that was stopped goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kancompress.api.cluster import Work
from kancompress.errors import KancompressError, UsageError
from kancompress.formats.foreign import saveckpt
from kancompress.models import lines
from kancompress.models.records import Checkpoint
from kancompress.specs import DataOptions
from kancompress.system import files
from kancompress.system import inputs as reading
from kancompress.training.history import Score
from kancompress.version import __version__

RECORD = "sweep.json"
_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a point is asked for: a number of centroids, or most bytes of the file.

    >>> import kancompress
    >>> kancompress.Asked(clusters=4).text, kancompress.Asked(target_bytes=5000).file_name
    ('k = 4', 'bytes5000.safetensors')
    """

    clusters: int | None = None
    target_bytes: int | None = None

    @property
    def text(self) -> str:
        """In words."""
        if self.clusters is not None:
            return f"k = {self.clusters}"
        return f"at most {self.target_bytes:,} bytes"

    @property
    def file_name(self) -> str:
        """Of its packed file."""
        if self.clusters is not None:
            return f"k{self.clusters}.safetensors"
        return f"bytes{self.target_bytes}.safetensors"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Point:
    """One packed file of a sweep, and what it is worth.

    asked         : what it was asked for
    file_bytes    : of the packed file; ratio : bytes of the dense network's file over these
    clusters      : centroids of each layer, None where it stays dense
    score         : on the test rows
    error         : squared difference of its outputs from the dense network's over their spread
    equal_classes : share of rows that both give the same class; None for regression
    notes         : what packing had to say
    seconds       : that packing and scoring took
    path          : of the file, where it is kept; else `raw` has its bytes
    resumed       : whether it was there already
    problem       : why there is no such file; all else is then None

    >>> import kancompress
    >>> [point] = kancompress.sweep("digits.safetensors", clusters=[4]).points
    >>> point.file_bytes == len(point.raw), point.problem
    (True, None)
    """

    asked: Asked
    file_bytes: int | None = None
    ratio: float | None = None
    clusters: Mapping[str, int | None] | None = None
    score: Score | None = None
    error: float | None = None
    equal_classes: float | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    path: Path | None = None
    raw: bytes = field(default=b"", repr=False)
    resumed: bool = False
    problem: str | None = None

    def __repr__(self) -> str:
        size = None if self.file_bytes is None else f"{self.file_bytes:,} bytes"
        told = self.problem if self.score is None else str(self.score)
        return lines.line("Point", self.asked.text, size, told)

    @property
    def label(self) -> str:
        """What a picture writes beside it: its number of centroids, or the bytes that it has."""
        if self.asked.clusters is not None or self.file_bytes is None:
            return self.asked.text
        return f"{self.file_bytes:,} bytes"


class Folder:
    """Where the packed files of a sweep lie, and `sweep.json`, which tells what they were made of.

    told : what the files depend on, beside what a point asks for
    """

    def __init__(self, path: Path, told: Mapping[str, str], *, force: bool) -> None:
        self._path = path
        self._told = dict(told)
        self._force = force
        self._points: dict[str, dict[str, Any]] = {}

    @classmethod
    def of(
        cls, path: Path, told: Mapping[str, str], asked: Sequence[Asked], *, force: bool
    ) -> Folder:
        """Open a folder, or make it. Raises UsageError where it holds something else."""
        folder = cls(path, told, force=force)
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise KancompressError(
                f"The folder {path} could not be made: {error.strerror or error}."
            ) from None
        if (path / RECORD).exists():
            folder._read()
        elif not force:
            for one in asked:
                files.check_target(path / one.file_name, force=False)
        if not folder._points:
            folder._write()
        return folder

    def point(self, asked: Asked) -> Point | None:
        """A point that is there already. Raises UsageError where its file was changed."""
        found = self._points.get(asked.file_name)
        path = self._path / asked.file_name
        if found is None or not path.is_file():
            return None
        if _sum_of(path) != found["sha256"]:
            if self._force:
                return None
            raise UsageError(
                f"{path} is not what this sweep wrote. Move it away, or replace it with `force`.",
                fields=("force",),
            )
        return replace(_point(asked, found), path=path, resumed=True)

    def keep(self, point: Point, raw: bytes) -> Point:
        """Write a new point's file, then its record. Raises UsageError for another file there."""
        path = self._path / point.asked.file_name
        digest = hashlib.sha256(raw).hexdigest()
        # one of an interrupted sweep may lie there without its record
        same = path.is_file() and _sum_of(path) == digest
        if not same:
            files.write(path, [raw], force=self._force)
        self._points[point.asked.file_name] = _record(point) | {"sha256": digest}
        self._write()
        return replace(point, path=path)

    def _read(self) -> None:
        path = self._path / RECORD
        try:
            found = json.loads(bytes(reading.read(path)[:]))
            told, points = dict(found["told"]), dict(found["points"])
            for name, one in points.items():
                _point(Asked(), one)
                assert isinstance(one["sha256"], str), name
        except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
            told, points = {}, {}
        others = sorted(
            key for key in self._told.keys() | told.keys() if self._told.get(key) != told.get(key)
        )
        if not others:
            self._points = points
        elif not self._force:
            what = f"a sweep with another {' and another '.join(others)}" if told else "no sweep"
            raise UsageError(
                f"{path} tells of {what}. Name another folder with `output`, or give `force` to"
                " begin anew.",
                fields=("output", "force"),
            )

    def _write(self) -> None:
        text = json.dumps({"told": self._told, "points": self._points}, indent=1, sort_keys=True)
        files.write(self._path / RECORD, [f"{text}\n".encode()], force=True)


def _record(point: Point) -> dict[str, Any]:
    assert point.score is not None
    assert point.clusters is not None
    return {
        "file_bytes": point.file_bytes,
        "ratio": point.ratio,
        "clusters": dict(point.clusters),
        "score": {
            "loss": point.score.loss,
            "accuracy": point.score.accuracy,
            "examples": point.score.examples,
        },
        "error": point.error,
        "equal_classes": point.equal_classes,
        "notes": list(point.notes),
        "seconds": point.seconds,
    }


def _point(asked: Asked, record: Mapping[str, Any]) -> Point:
    """Raises KeyError and TypeError for what is no record of a point."""
    score = record["score"]
    return Point(
        asked=asked,
        file_bytes=int(record["file_bytes"]),
        ratio=float(record["ratio"]),
        clusters=dict(record["clusters"]),
        score=Score(
            loss=score["loss"], accuracy=score["accuracy"], examples=int(score["examples"])
        ),
        error=float(record["error"]),
        equal_classes=record["equal_classes"],
        notes=tuple(map(str, record["notes"])),
        seconds=float(record["seconds"]),
    )


# --- what the files depend on ----------------------------------------------------------------


def told(
    source: str | os.PathLike[str] | bytes | Checkpoint,
    work: Work,
    rows: Tensor | DataOptions | None,
    data: DataOptions | None,
    model: torch.nn.Module | None,
) -> dict[str, str]:
    """What the packed files of a sweep and their scores depend on, as text that can be compared."""
    config = replace(work.config, clusters=None, target_bytes=None)
    options = (config, work.options, work.keep_scaler, work.keep_extra, work.state)
    found = {
        "version": __version__,
        "source": _source(source),
        "set of options": _text(options),
        "test data": _rows(data),
    }
    if work.drop:
        found["set of dropped tensors"] = _text(list(work.drop))
    if rows is not None:
        found |= {
            "calibration": _text(work.calibration),
            "set of calibration rows": _rows(rows),
            "number of threads": str(torch.get_num_threads()),
            "device": _text(work.machine),
        }
    if model is not None:
        found["model"] = f"{type(model).__module__}.{type(model).__qualname__}"
    return found


def _text(value: object) -> str:
    def plain(one: object) -> object:
        if dataclasses.is_dataclass(one) and not isinstance(one, type):
            return {item.name: getattr(one, item.name) for item in dataclasses.fields(one)}
        return dict(one) if isinstance(one, Mapping) else str(one)

    return json.dumps(value, default=plain, sort_keys=True)


def _source(source: str | os.PathLike[str] | bytes | Checkpoint) -> str:
    if isinstance(source, Checkpoint):
        source = source.encode()
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    path, _ = reading.found(source)
    return " ".join(map(_sum_of, _with_beside(path)))


def _with_beside(path: Path) -> Iterator[Path]:
    """A file, and those that are read with it: shards of an index, pykan's config."""
    yield path
    if reading.is_index(path.name):
        names = json.loads(bytes(reading.read(path)[:]))["weight_map"].values()
        yield from (path.parent / name for name in sorted(set(names)))
    config = saveckpt.config_of(path)
    if config is not None and config.is_file():
        yield config


def _rows(rows: Tensor | DataOptions | None) -> str:
    if rows is None:
        return "as the file names it"
    if isinstance(rows, Tensor):
        whole = rows.detach().cpu().contiguous()
        digest = hashlib.sha256(whole.numpy().tobytes()).hexdigest()
        return f"{whole.dtype} {list(whole.shape)} {digest}"
    digest = "" if rows.file is None else _sum_of(reading.found(rows.file)[0])
    return f"{rows.name} {digest} {rows.test_split} {rows.shape}"


def _sum_of(path: Path) -> str:
    data = reading.read(path)
    digest = hashlib.sha256()
    for start in range(0, len(data), _AT_ONCE):
        digest.update(data[start : start + _AT_ONCE])
    return digest.hexdigest()
