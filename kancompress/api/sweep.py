"""`sweep`: one network packed to many sizes, each scored, in one process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

from torch import Tensor, nn

from kancompress.api import given, sweep_folder
from kancompress.api.cluster import Rows, Running, Work, given_rows
from kancompress.api.evaluate import Scorer
from kancompress.api.given import Data
from kancompress.api.sweep_folder import Asked, Folder, Point
from kancompress.clustering.cuts import Number, split
from kancompress.clustering.kept import Kept
from kancompress.clustering.layer import LayerSolution, relative
from kancompress.config import CalibrationConfig, ClusterConfig, Machine, RunOptions, Target
from kancompress.errors import KancompressError, TooSmallError, UsageError
from kancompress.formats.storage import called, once
from kancompress.models import lines
from kancompress.models.files import encode
from kancompress.models.records import Checkpoint
from kancompress.packing.by_outputs import Hooks
from kancompress.packing.foreign import ForeignSource
from kancompress.packing.native import NativeSource
from kancompress.packing.pack import Compression
from kancompress.reporting.plotting import drawing
from kancompress.reporting.plotting.tradeoff import Tradeoff
from kancompress.reporting.summary import summary
from kancompress.reporting.targets import check_picture_target
from kancompress.specs import DataOptions
from kancompress.system import files
from kancompress.training.evaluation import Evaluation
from kancompress.training.history import Score

OnPoint = Callable[[Point, int, int], None]
# A point, what was done of it, how many such steps are done, and of how many if that is known.
OnStep = Callable[[Asked, str, int, int | None], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sweep:
    """Result of `sweep`.

    name        : what messages call the source
    dense_bytes : of the source's file without bytes that no tensor uses, or of its dense twin where
                  it has a meta-learner
    dense       : score of the source
    points      : in the order in which they were asked for
    notes       : what was taken for granted

    >>> import kancompress
    >>> found = kancompress.sweep("digits.safetensors", clusters=[4])
    >>> len(found.points), found.dense.examples
    (1, 360)
    """

    name: str
    dense_bytes: int
    dense: Score
    points: list[Point]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        points = lines.counted(len(self.points), "point")
        return lines.line("Sweep", points, f"dense: {self.dense_bytes:,} bytes, {self.dense}")

    def _repr_html_(self) -> str:
        """For notebooks: bytes, ratio, score and error of each point."""
        head = ("asked", "bytes", "ratio", "score", "relative squared error")
        dense = ("dense", self.dense_bytes, 1.0, str(self.dense), 0.0)
        rows = [
            (one.asked.text, one.file_bytes, one.ratio, one.score or one.problem, one.error)
            for one in self.points
        ]
        return lines.table(repr(self)[1:-1], head, [dense, *rows], self.notes)

    @property
    def out_of_reach(self) -> str:
        """In words, which points have no file; empty where all have one.

        >>> import kancompress
        >>> kancompress.sweep("digits.safetensors", target_bytes=[10, 4000]).out_of_reach
        '1 of 2 points has no file: nothing fits into 10 bytes'
        """
        sizes = sorted(point.asked.target_bytes or 0 for point in self.points if point.problem)
        if not sizes:
            return ""
        *others, last = [f"{size:,}" for size in sizes]
        named = f"{', '.join(others)} or {last}" if others else last
        have = "points have" if len(sizes) > 1 else "points has"
        return f"{len(sizes)} of {len(self.points)} {have} no file: nothing fits into {named} bytes"

    def plot(self, path: str | Path, *, force: bool = False) -> int:
        """Draw score and error against bytes, as .png, .svg or .pdf; returns the picture's bytes.

        Raises UsageError for another suffix or a file that exists (unless `force`),
        KancompressError without matplotlib.
        """
        target = check_picture_target(path, force=force)
        figure = drawing.draw_tradeoff(self._tradeoff(), self.name)
        return files.write(target, [drawing.encode(figure, target.suffix.lower())], force=force)

    def _tradeoff(self) -> Tradeoff:
        """What the picture shows."""
        there = [point for point in self.points if point.score is not None]
        return Tradeoff(
            sizes=[point.file_bytes or 0 for point in there],
            scores=[_height(point.score) for point in there],
            errors=[point.error or 0.0 for point in there],
            labels=[point.label for point in there],
            unit="accuracy in %" if self.dense.accuracy is not None else "root mean squared error",
            dense=_height(self.dense),
            dense_bytes=self.dense_bytes,
            note=self.out_of_reach,
        )


def _height(score: Score | None) -> float:
    assert score is not None
    return 100 * score.accuracy if score.accuracy is not None else score.rmse or 0.0


def sweep(
    source: str | Path | bytes | Checkpoint,
    clusters: Sequence[int] | int = (),
    target_bytes: Sequence[int] | int = (),
    data: Data | None = None,
    config: ClusterConfig | None = None,
    *,
    rows: Rows | None = None,
    calibration: CalibrationConfig | None = None,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    keep_scaler: bool = False,
    keep_extra: bool = False,
    state: str | None = None,
    drop: Sequence[str] = (),
    name: str | None = None,
    output: str | Path | None = None,
    force: bool = False,
    on_point: OnPoint | None = None,
    on_step: OnStep | None = None,
    hooks: Hooks | None = None,
) -> Sweep:
    """Pack one network at several numbers of centroids, or to several sizes, and score each.

    Each packed file is byte for byte what `cluster` writes with the same options. The source and
    the rows are read once; with rows the moments of the first layer are measured once, and so is
    each point of the curves that targets are chosen by.

    source       : a checkpoint of ours, or a file that another KAN library saved
    clusters     : numbers of centroids of all layers, each a point, or one
    target_bytes : sizes of the whole file, each a point: without rows with the largest number of
                   centroids that fits, with rows with a number for each layer
    data         : whose test rows tell the scores, a name, a path or DataOptions as for `evaluate`
    output       : folder where the packed files are kept. A sweep that was interrupted goes on
                   there: what is there of the same source and options is taken, once its bytes are
                   verified
    force        : begin anew where the folder holds a sweep of another source or other options
    on_point     : told of each point when it is there, with its number and how many there are
    on_step      : with rows, told of each layer that is solved and of each point of the curves:
                   whose point it is, what was done, how many steps of that point are done, and of
                   how many, None where that is not known
    hooks        : whom else to tell, as for `cluster`: of networks that the search for a size
                   tried, and of how far a point is, too
    The rest is as for `cluster`, and so are the errors. A target out of reach ends no sweep: its
    point says so; where that holds for all points, its error is raised.

    >>> import kancompress
    >>> found = kancompress.sweep("digits.safetensors", clusters=[2, 16])
    >>> [point.clusters["0"] for point in found.points]
    [2, 16]
    >>> found.points[0].file_bytes < found.points[1].file_bytes < found.dense_bytes
    True
    """
    given.check(config, options=options, calibration=calibration, machine=machine, model=model)
    source, found = given.source(source, "sweep"), given.data(data)
    asked = _asked(clusters, target_bytes)
    work = Work(
        config=config or ClusterConfig(),
        calibration=calibration,
        options=options or RunOptions(),
        machine=machine,
        hooks=hooks or Hooks(),
        keep_scaler=keep_scaler,
        keep_extra=keep_extra,
        state=state,
        drop=drop,
    )
    opened, name = once(source, name)
    run = _Run(
        source=opened,
        name=called(opened, name),
        work=work,
        opened=work.open(opened, name),
        rows=None if rows is None else given_rows(rows),
        model=model,
        scorer=Scorer(data=found, options=work.options, model=model, machine=machine),
        kept=Kept(),
        on_step=on_step,
    )
    folder = None
    if output is not None:
        told = sweep_folder.told(opened, work, run.rows, found, model)
        folder = Folder.of(Path(output), told, asked, force=force)
    return run.sweep(asked, folder, on_point)


def _listed(name: str, given: Sequence[int] | int) -> tuple[int, ...]:
    """The numbers of a list, or the one that was given."""
    numbers = (given,) if isinstance(given, Integral) else given
    if isinstance(numbers, str | bytes) or not isinstance(numbers, Iterable):
        raise UsageError(
            f"`{name}` is {given!r}; whole numbers were expected, one or several.", fields=(name,)
        )
    found = tuple(numbers)
    if not all(isinstance(one, Integral) for one in found):
        raise UsageError(
            f"`{name}` is {given!r}; whole numbers were expected, one or several.", fields=(name,)
        )
    return tuple(int(one) for one in found)


def _asked(clusters: Sequence[int] | int, target_bytes: Sequence[int] | int) -> list[Asked]:
    """The points, each once."""
    clusters, target_bytes = _listed("clusters", clusters), _listed("target_bytes", target_bytes)
    if not clusters and not target_bytes:
        raise UsageError(
            "A sweep needs numbers of centroids or sizes; give `clusters` or `target_bytes`.",
            fields=("clusters", "target_bytes"),
        )
    asked = [Asked(clusters=number) for number in clusters]
    asked += [Asked(target_bytes=number) for number in target_bytes]
    return list(dict.fromkeys(asked))


@dataclass(slots=True, eq=False, kw_only=True)
class _Run:
    """One sweep on its way.

    opened : the source, read as far as it has to be
    rows   : to cluster by outputs on, None without
    """

    source: str | Path | bytes | Checkpoint
    name: str
    work: Work
    opened: NativeSource | ForeignSource
    rows: Tensor | DataOptions | None
    model: nn.Module | None
    scorer: Scorer
    kept: Kept
    on_step: OnStep | None

    def sweep(self, asked: list[Asked], folder: Folder | None, on_point: OnPoint | None) -> Sweep:
        """All points."""
        dense, _ = self.scorer.run(self.source, self.name, self.work.state, self.work.drop)
        points: list[Point] = []
        problem: KancompressError | None = None
        for one in asked:
            point = folder.point(one) if folder else None
            try:
                point = point or self._made(one, dense, folder)
            except TooSmallError as error:
                problem = error
                point = Point(asked=one, problem=str(error))
            points.append(point)
            if on_point is not None:
                on_point(point, len(points), len(asked))
        if problem is not None and all(point.problem for point in points):
            raise problem
        return Sweep(
            name=self.name,
            dense_bytes=self._dense_bytes(),
            dense=dense.score,
            points=points,
            notes=dense.notes,
        )

    def _made(self, asked: Asked, dense: Evaluation, folder: Folder | None) -> Point:
        """A point that is not there yet."""
        begin = time.perf_counter()
        packed = self._packed(asked)
        raw = encode(packed.model)
        point = self._point(asked, raw, packed.notes, dense)
        point = replace(point, seconds=time.perf_counter() - begin)
        return folder.keep(point, raw) if folder else replace(point, raw=raw)

    def _packed(self, asked: Asked) -> Compression:
        """What `cluster` makes with the same options."""
        target = None
        config = replace(self.work.config, clusters=asked.clusters)
        if asked.target_bytes is not None and self.rows is None:
            config = replace(config, target_bytes=asked.target_bytes)
        elif asked.target_bytes is not None:
            target = Target(bytes=asked.target_bytes)
        work = replace(self.work, config=config)
        if self.rows is None:
            return work.plain(self.opened)
        running: Running = work.running_of(self.opened, self.rows, self.model)
        if self.model is None:
            self.rows = running.rows
        work = replace(work, hooks=self._hooks(asked, running))
        try:
            return work.by_outputs(running, target, self.kept)
        except TooSmallError as error:
            return work.instead(self.opened, target, error)

    def _hooks(self, asked: Asked, running: Running) -> Hooks:
        """What tells of the steps of a point."""
        tell, given = self.on_step, self.work.hooks
        if tell is None:
            return given
        count = itertools.count(1)
        total = None
        if asked.clusters is not None:
            total = sum(number is not None for number in running.runs.clusters().values())

        def solved(name: str, layer: LayerSolution) -> None:
            tell(asked, f"layer {name}", next(count), total)
            if given.solved is not None:
                given.solved(name, layer)

        def probed(name: str, number: Number, error: float) -> None:
            what = f"layer {name} alone at k = {split(number).clusters}"
            tell(asked, what, next(count), total)
            if given.probed is not None:
                given.probed(name, number, error)

        return replace(given, solved=solved, probed=probed)

    def _point(
        self,
        asked: Asked,
        raw: bytes,
        notes: tuple[str, ...],
        dense: Evaluation,
    ) -> Point:
        """The packed file, scored as `evaluate` scores it."""
        scorer = replace(self.scorer, options=replace(self.work.options, layouts={}))
        found, _ = scorer.run(raw, asked.file_name)
        same = None
        if found.score.accuracy is not None:
            equal = found.outputs.argmax(1) == dense.outputs.argmax(1)
            same = float(equal.double().mean())
        told = summary(raw, asked.file_name)
        return Point(
            asked=asked,
            file_bytes=len(raw),
            ratio=self._dense_bytes() / len(raw),
            clusters=told.clusters,
            score=found.score,
            error=relative(found.outputs, dense.outputs),
            equal_classes=same,
            notes=notes,
        )

    def _dense_bytes(self) -> int:
        """As the packed files tell it."""
        if isinstance(self.opened, NativeSource):
            return self.opened.dense_bytes
        return self.opened.used_bytes


__all__ = ["Asked", "Point", "Sweep", "sweep"]
