"""`kancompress sweep`."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _model, _output, _scores
from kancompress.cli._bundles import bundle
from kancompress.cli._calibration import Wishes, tried_text
from kancompress.cli._options import DataDirOption, ForeignFile, InputArgument, Shown, noted
from kancompress.cli._run import command
from kancompress.cli.cluster import ByOutputs, ClusterMachine, Clusters, Stored, config_of, numbers
from kancompress.cli.cluster import check as check_options
from kancompress.config import ClusterConfig, Machine
from kancompress.errors import UsageError
from kancompress.specs import MAX_CLUSTERS, DataOptions, DatasetName
from kancompress.system import files

if TYPE_CHECKING:
    from kancompress.api.sweep import Sweep
    from kancompress.api.sweep_folder import Asked, Point
    from kancompress.clustering.network import Clusters as Numbers
    from kancompress.training.history import Score

_DATA = DataOptions()


@bundle("Points", without=("clusters", "target_bytes", "target_ratio"))
class Points(Clusters):
    """What is packed."""

    centroids: Annotated[
        list[str] | None,
        typer.Option(
            "--clusters",
            "-k",
            metavar="K,K,...|NAME=K",
            help="Numbers of centroids of every layer, each a point; NAME=K is one layer's own, in"
            " all points. Repeatable.",
            show_default=False,
        ),
    ] = None
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--target-bytes",
            metavar="N,N,...",
            help="Sizes of the whole file, each a point: with the largest K that fits, with"
            " --calibrate with a number for each layer. Repeatable.",
            show_default=False,
        ),
    ] = None


@bundle("Clustering by outputs", without=("data_dir", "target_error", "dry_run", "report"))
class Calibration(ByOutputs):
    """What goes with --calibrate."""


@bundle("Data that scores")
class Scored:
    """Where the test rows lie."""

    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Your own arrays x, y (and x_test, y_test): safetensors or npz.",
            show_default=False,
        ),
    ] = None
    dataset: Annotated[
        DatasetName | None,
        typer.Option(help="Data set of a file that names none.", show_default=False),
    ] = None
    data_dir: DataDirOption = _DATA.directory

    def options(self, shape: tuple[int, ...] | None) -> DataOptions:
        """The library's record of these options. Raises UsageError where they contradict."""
        if self.data is not None and self.dataset is not None:
            raise UsageError("--dataset and --data are both given; name one set of data.")
        return DataOptions(name=self.dataset, file=self.data, directory=self.data_dir, shape=shape)


@bundle("Results")
class Results:
    """What is written."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            readable=False,
            help="Folder where the packed files are kept. The same command goes on there where it"
            " was interrupted.",
            show_default=False,
        ),
    ] = None
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Write the table as csv, or - for standard output.",
            show_default=False,
        ),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE",
            help="Draw score and error against bytes, as .png, .svg or .pdf.",
            show_default=False,
        ),
    ] = None

    def check(self, shown: Shown, kept: list[Path]) -> None:
        """Refuse, before any work, what cannot be written."""
        if self.csv == _files.DASH and shown.json_:
            raise UsageError("--csv - and --json both print to standard output; leave one out.")
        if self.csv not in (None, _files.DASH):
            files.check_target(Path(str(self.csv)), force=shown.force, inputs=kept)
        if self.plot is not None:
            kancompress.check_picture_target(self.plot, force=shown.force, inputs=kept)


@command
def sweep(
    source: InputArgument,
    points: Points,
    results: Results,
    scored: Scored,
    stored: Stored,
    by_outputs: Calibration,
    machine: ClusterMachine,
    foreign: ForeignFile,
    shown: Shown,
) -> None:
    """Pack a network to many sizes, and score each: bytes against accuracy.

    All points are packed in one process. Each file is byte for byte what cluster writes with the
    same options.

    \b
    Examples:
      kancompress sweep digits.safetensors -k 2,4,8,16,64
      kancompress sweep digits.safetensors --calibrate digits --target-bytes 3000,5000 -o sizes
      kancompress sweep digits.safetensors -k 4,16 --plot curve.png --csv table.csv
      kancompress sweep efficient_kan.pt --dataset mnist --calibrate mnist -k 8,16,32 --json
    """
    numbers_of_k, layers = _centroids(points.centroids or [])
    sizes = _sizes(points.sizes or [])
    if not numbers_of_k and not sizes:
        raise UsageError("Name the points: --clusters 2,4,8 or --target-bytes 5000,10000.")
    wishes = _wishes(stored, by_outputs, machine, foreign)
    check_options(wishes, by_outputs)
    kept = _files.inputs(source, wishes.file(), scored.data)
    results.check(shown, kept)
    found = _files.given(source)
    _files.check_there(scored.data)
    machine.machine()
    config = _config(points, stored, by_outputs, layers)
    shape = _model.row_shape(wishes.model, wishes.input_shape)
    with (
        _model.own_model(wishes.model) as model,
        _to_go_on(results.output),
        _output.steps() as steps,
    ):
        told = _Told(steps, len({*numbers_of_k}) + len({*sizes}))
        done = kancompress.sweep(
            found.source,
            numbers_of_k,
            sizes,
            scored.options(shape),
            config,
            rows=None if wishes.calibrate is None else wishes.rows(scored.data_dir),
            calibration=None if wishes.calibrate is None else by_outputs.config(points),
            options=wishes.options,
            model=model,
            machine=Machine(device=machine.device),
            keep_scaler=stored.keep_scaler,
            keep_extra=stored.keep_extra,
            state=foreign.state,
            drop=foreign.drop or (),
            name=found.name,
            output=results.output,
            force=shown.force,
            on_point=told,
            on_step=told.step,
            hooks=kancompress.Hooks(tried=told.tried, share=told.within),
        )
    for note in dict.fromkeys(noted(text) for point in done.points for text in point.notes):
        _output.note(note)
    _write(done, results, shown)


def _config(
    points: Points, stored: Stored, by_outputs: Calibration, layers: dict[str, int]
) -> ClusterConfig:
    """What all points have in common."""
    common, layer_parts = numbers("--parts", points.parts or [], "number of parts")
    return replace(
        config_of(points, stored, None, layers, largest=False),
        parts=common,
        layer_parts=layer_parts,
        memory=by_outputs.bytes_of_memory,
    )


def _wishes(
    stored: Stored, by_outputs: Calibration, machine: ClusterMachine, foreign: ForeignFile
) -> Wishes:
    return Wishes(
        options=foreign.options(),
        calibrate=by_outputs.calibrate,
        model=by_outputs.model,
        input_shape=by_outputs.input_shape,
        auto=False,
        target_bytes=None,
        target_ratio=None,
        target_error=None,
        device=machine.device,
        dry_run=False,
        report=None,
        keep_scaler=stored.keep_scaler,
        keep_extra=stored.keep_extra,
        state=foreign.state,
        drop=foreign.drop or (),
    )


def _centroids(values: list[str]) -> tuple[list[int], dict[str, int]]:
    """Numbers of centroids, and those of single layers, from `2,4,8`, `NAME=64`."""
    if "auto" in values:
        raise UsageError("A sweep has points; --target-bytes chooses numbers of centroids.")
    lists = [value for value in values if "=" not in value]
    own = [value for value in values if "=" in value]
    what = "number of clusters; write 2,4,8 or 1=64"
    found = [numbers("--clusters", [one], what, MAX_CLUSTERS)[0] for one in _items(lists)]
    _, layers = numbers("--clusters", own, what, MAX_CLUSTERS)
    return [one for one in found if one is not None], layers


def _sizes(values: list[str]) -> list[int]:
    what = "number of bytes; write 5000,10000"
    found = [numbers("--target-bytes", [one], what)[0] for one in _items(values)]
    if any(not one for one in found):
        raise UsageError("--target-bytes 0 is no size; write 5000,10000.")
    return [one for one in found if one is not None]


def _items(values: list[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",")]


@contextlib.contextmanager
def _to_go_on(output: Path | None) -> Iterator[None]:
    """Within it, what stops the sweep is followed by how to go on."""
    try:
        yield
    except (kancompress.UsageError, kancompress.InvalidFileError):
        raise
    except BaseException:
        if output is not None and (output / "sweep.json").exists():
            _output.note("To go on with the sweep, run the same command again.")
        raise


class _Told:
    """Tells of each point and of the steps within it, and how long the others may take."""

    def __init__(self, steps: _output.Steps, count: int) -> None:
        self._steps = steps
        self._count = count
        self._begin = time.perf_counter()
        self._made = 0  # points that took time
        self._there = 0  # points
        self._taken = 0  # steps of the point at hand, and of the one before
        self._before: int | None = None
        self._at = (0.0, "")  # the share that is done, and what was said of the time that is left

    def step(self, asked: Asked, what: str, done: int, total: int | None) -> None:
        """After a layer, or a point of a layer's curve."""
        self._taken = done
        of = total or (self._before if self._before and done < self._before else None)
        share = min(done / of, 1.0) if of else 0.0
        line = f"{self._there + 1} of {self._count}, {asked.text}: {what}, step {done}"
        line += f" of {total}" if total else ""
        self._at = (self._there + share) / self._count, self._left(share)
        self._steps.at(self._at[0], line + self._at[1])

    def within(self, work: str, share: float, what: str) -> None:
        """Between steps: what is at hand, and of it."""
        line = f"{self._there + 1} of {self._count}: {work or what}"
        line += f", {what}" if work and what else ""
        self._steps.at(self._at[0], line + self._at[1])

    def tried(self, clusters: Numbers, price: float, file_bytes: int, error: float) -> None:
        """After a network that the search for a size went through."""
        line = f"{self._there + 1} of {self._count}: "
        self._steps.line(line + tried_text(clusters, price, file_bytes, error))

    def _left(self, share: float) -> str:
        """What may be left, from what the points so far took and the share of the next."""
        units = self._made + share
        if not units:
            return ""
        left = (time.perf_counter() - self._begin) / units * (self._count - self._there - share)
        return _output.left_of(left)

    def __call__(self, point: Point, number: int, count: int) -> None:
        self._there = number
        self._before, self._taken = self._taken or self._before, 0
        line = f"{number} of {count}, {point.asked.text}: "
        if point.problem is not None:
            self._steps.line(line + noted(point.problem))
            return
        assert point.score is not None
        line += f"{_output.size(point.file_bytes or 0)} bytes, {point.score}"
        if point.resumed:
            self._steps.line(f"{line}, was there")
            return
        self._made += 1
        line += f", {point.seconds:.1f} s"
        self._steps.line(line + (self._left(0.0) if number < count else ""))
        self._at = number / count, ""
        self._steps.at(*self._at)


def _write(done: Sweep, results: Results, shown: Shown) -> None:
    """Table, csv, picture and document."""
    rows = _rows(done)
    if results.csv is not None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        _files.write_bytes(text.getvalue().encode(), results.csv, force=shown.force)
    if results.plot is not None:
        written = done.plot(results.plot, force=shown.force)
        _output.note(f"{results.plot}: picture of the sweep, {_output.size(written)} bytes")
    if shown.json_:
        _output.document(_document(done, results))
        return
    if results.csv != _files.DASH:
        _output.table(*_table(done), to_stdout=True)
    if done.out_of_reach:
        _output.note(f"{done.out_of_reach}; see above for the smallest there is.")


def _table(done: Sweep) -> tuple[list[str], list[list[str]]]:
    scored = _scores.score_keys(done.dense)
    columns = ["asked", "bytes", "ratio", *scored, "relative squared error"]
    cells = _scores.score_cells(done.dense)
    rows = [["dense", _output.size(done.dense_bytes), "1.00", *cells, "0"]]
    for point in done.points:
        if point.score is None:
            rows.append([point.asked.text, *["-"] * (len(columns) - 1)])
            continue
        cells = _scores.score_cells(point.score)
        size, ratio = _output.size(point.file_bytes or 0), f"{point.ratio or 0:.2f}"
        rows.append([point.asked.text, size, ratio, *cells, f"{point.error or 0:.3g}"])
    return columns, rows


def _rows(done: Sweep) -> list[list[object]]:
    """The table as csv has it, a line for the dense network first; nothing is rounded."""
    accuracy = done.dense.accuracy is not None
    head = ["clusters", "target_bytes", "file_bytes", "ratio", *_scores.score_keys(done.dense)]
    rows: list[list[object]] = [[*head, "error", "equal_classes", "file"]]
    dense = _plain_cells(done.dense)
    rows.append(["", "", done.dense_bytes, 1.0, *dense, 0.0, 1.0 if accuracy else "", done.name])
    for point in done.points:
        asked, cells = point.asked, _plain_cells(point.score)
        what = [asked.clusters, asked.target_bytes, point.file_bytes, point.ratio, *cells]
        rows.append([*what, point.error, point.equal_classes, point.path])
    return rows


def _plain_cells(score: Score | None) -> tuple[float | None, float | None]:
    if score is None:
        return None, None
    return (score.rmse if score.accuracy is None else score.accuracy), score.loss


def _document(done: Sweep, results: Results) -> dict[str, Any]:
    return {
        "file": done.name,
        "dense": _scores.score_json(done.dense) | {"file_bytes": done.dense_bytes},
        "points": [_point(point) for point in done.points],
        "output": None if results.output is None else str(results.output),
        "csv": results.csv,
        "plot": None if results.plot is None else str(results.plot),
        "notes": list(map(noted, done.notes)),
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        "asked": {"clusters": point.asked.clusters, "target_bytes": point.asked.target_bytes},
        "file": None if point.path is None else str(point.path),
        "file_bytes": point.file_bytes,
        "ratio": point.ratio,
        "clusters": point.clusters,
        "score": _scores.json_of(point.score),
        "error": point.error,
        "equal_classes": point.equal_classes,
        "seconds": point.seconds,
        "resumed": point.resumed,
        "problem": point.problem,
        "notes": list(map(noted, point.notes)),
    }
