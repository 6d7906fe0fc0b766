"""What `train` and `finetune` share: how they learn, the state of a run, its log, what is told."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output, _scores
from kancompress.cli._bundles import bundle
from kancompress.cli._options import Compute, SeedOption, check_finite, use_threads
from kancompress.config import FinetuneConfig, Machine, Precision
from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.frozen import dataclass
from kancompress.system import files, locks, parts
from kancompress.system import torchrun as launch

if TYPE_CHECKING:
    from kancompress.training.history import Epoch

AUTO = "auto"
# `train` and `finetune` have these defaults in common.
_DEFAULTS = FinetuneConfig()


class Keep(StrEnum):
    """What becomes of the state of a run."""

    STOPPED = "stopped"
    ALWAYS = "always"
    NEVER = "never"


@bundle("Long runs")
class LongRun:
    """How a run goes on after it was stopped, and what it writes down."""

    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="FILE|auto",
            help="Go on with a run that was stopped, from the state OUT.state it left; auto starts"
            " where there is none.",
            show_default=False,
        ),
    ] = None
    keep_state: Annotated[
        Keep,
        typer.Option(
            help="After every epoch the state is saved as OUT.state. It is kept if the run is"
            " stopped, always (to resume with more --epochs), or never saved."
        ),
    ] = Keep.STOPPED
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE",
            readable=False,
            help="Write a line of JSON for each epoch.",
            show_default=False,
        ),
    ] = None

    def wishes(self, output: str, *, force: bool) -> Wishes:
        """These options with those of the output."""
        return Wishes(
            output=output, resume=self.resume, keep=self.keep_state, log=self.log, force=force
        )


@bundle("Training")
class Batches:
    """How a network learns, whatever it learns."""

    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=2**31 - 1, help="Rows of a batch.")
    ] = _DEFAULTS.batch_size
    weight_decay: Annotated[float, typer.Option(min=0, help="AdamW's weight decay.")] = (
        _DEFAULTS.weight_decay
    )
    seed: SeedOption = _DEFAULTS.seed
    augment: Annotated[
        bool | None,
        typer.Option(
            "--augment/--no-augment",
            help="Augment images, as torch-conv-kan does (default: for convolutions).",
            show_default=False,
        ),
    ] = _DEFAULTS.augment

    def check(self) -> None:
        """Refuse numbers that are not finite."""
        check_finite(weight_decay=self.weight_decay)


@bundle("Where to compute")
class TrainingMachine(Compute):
    """Device, threads and processes, and how passes are computed."""

    compile_: Annotated[
        bool, typer.Option("--compile", help="Use torch.compile (needs a C++ compiler).")
    ] = _DEFAULTS.compile
    precision: Annotated[
        Precision,
        typer.Option("--precision", help="Number format of training passes; measuring is float32."),
    ] = _DEFAULTS.precision
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            max=1024,
            help="Processes that prepare augmented images (default: one a core but one, at most"
            " 4).",
            show_default=False,
        ),
    ] = None

    def machine(self) -> Machine:
        """The library's record of device and processes; the threads are set from now on."""
        use_threads(self.threads)
        return Machine(device=self.device, workers=_worker_count(self.workers))


def _worker_count(choice: int | None) -> int:
    """Processes for augmented images; every process of torchrun starts as many."""
    if choice is not None:
        return choice
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(4, cores - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the options of a training command ask for beside the training itself."""

    output: str
    resume: str | None
    keep: Keep
    log: Path | None
    force: bool

    @property
    def keeps(self) -> bool:
        """Whether a state is saved: not for what is no file."""
        path = Path(self.output)
        if self.output == _files.DASH or self.keep is Keep.NEVER:
            return False
        if files.hub_name(self.output):  # which the check of the output refuses
            return False
        try:
            return path.is_file() or not path.exists()
        except (OSError, ValueError):  # what is no name; the check of the output tells it
            return False

    @property
    def own(self) -> Path:
        """The state that this run saves."""
        return kancompress.StateFile.beside(Path(self.output))

    def resumed(self) -> Path | None:
        """The state to go on from. Raises UsageError or InvalidFileError where there is none."""
        if self.resume is None:
            return None
        if not self.keeps:
            what = "-o names none" if self.keep is not Keep.NEVER else "--keep-state never has none"
            raise UsageError(f"--resume needs a state beside an output file, and {what}.")
        if self.resume == AUTO:
            return self.own if os.path.lexists(self.own) else None
        path = Path(self.resume)
        if self.resume == _files.DASH or _is_no_file(path):
            raise UsageError(f"--resume {self.resume} is no file; name the state OUT.state.")
        if not _is_file(path) or _is_file(kancompress.StateFile.beside(path)):
            path = kancompress.StateFile.beside(path)  # the output was named
        if not _is_file(path) and launch.is_first():  # which reads it
            raise InvalidFileError(
                Flaw.MISSING,
                f"{self.resume} does not exist, so there is no run to go on with. Leave --resume"
                " out, or write --resume auto, which then starts one.",
            )
        return path


class Conduct:
    """A run as the command line conducts it; `state` and `on_epoch` are for the library."""

    def __init__(self, wishes: Wishes, inputs: Iterable[Path], epochs: int) -> None:
        """Check all that is to be written. Raises UsageError for what is there already.

        `conducted` makes one.
        """
        self._wishes = wishes
        self._epochs = epochs
        resumed = wishes.resumed()
        read = list(inputs)
        kept = [*read, *([resumed] if resumed else [])]
        _files.check_output(wishes.output, force=wishes.force, inputs=kept)
        self._log = wishes.log and _Log(wishes.log, wishes, kept)
        self.state: kancompress.StateFile | None = None
        self._bar = _output.Bar()
        if not wishes.keeps:
            return
        _check_state(wishes.own, read)
        if wishes.own.exists() and resumed is None:
            if not wishes.force:
                raise UsageError(
                    f"{wishes.own} is the state of a run that was stopped. Go on with --resume"
                    f" {wishes.own}, or start a new run with --force, which replaces it."
                )
            _output.note(f"Warning: {wishes.own}, of a run that was stopped, will be replaced")
        self.state = kancompress.StateFile(
            path=wishes.own,
            resume=resumed,
            on_resume=self._tell_resumed,
            on_change=lambda text: _output.note(f"Warning: {text}"),
        )

    @contextlib.contextmanager
    def bar(self) -> Iterator[_output.Bar]:
        """The progress bar; what stops the run within is followed by how to go on."""
        with _output.bar(self._epochs) as bar:
            self._bar = bar
            try:
                yield bar
            except BaseException:
                if self.state and self.state.path.exists():
                    _output.note(f"To go on with the run: --resume {self.state.path}")
                raise

    def on_epoch(self, epoch: Epoch) -> None:
        """Tell an epoch, and write it down."""
        self._bar.epoch(epoch.number, _scores.epoch_text(epoch, self._epochs))
        if self._log and launch.is_first():
            self._log.write([epoch])

    def _tell_resumed(self, history: list[Epoch]) -> None:
        best = max(epoch.number for epoch in history if epoch.best)
        self._bar.epoch(
            history[-1].number,
            f"resumed after epoch {history[-1].number}/{self._epochs}, the best so far is {best}",
        )
        if self._log and launch.is_first():
            self._log.write(history)

    def close(self) -> None:
        """Let go of what is open."""
        if self._log:
            self._log.close()

    def finish(self) -> None:
        """Take the state away, when the output has been written."""
        if self.state and self._wishes.keep is not Keep.ALWAYS and launch.is_first():
            self.state.remove()


@contextlib.contextmanager
def conducted(wishes: Wishes, inputs: Iterable[Path], epochs: int) -> Iterator[Conduct]:
    """A run that has its state to itself until the output is written.

    Raises UsageError for what is there already, KancompressError where another run has the same
    state.
    """
    alone = wishes.keeps and launch.is_first()
    if alone:
        _check_names(wishes.own)
    with locks.held(wishes.own) if alone else contextlib.nullcontext():
        if alone:
            parts.sweep(wishes.own.resolve())
        conduct = Conduct(wishes, inputs, epochs)
        try:
            yield conduct
        finally:
            conduct.close()


def _check_state(own: Path, read: Iterable[Path]) -> None:
    """Refuse an output beside which the state would replace something else."""
    for source in read:
        with contextlib.suppress(OSError):
            if own.samefile(source):
                raise UsageError(
                    f"{own} is an input, and the state of the run would be written there. Give"
                    " another --output, or keep no state, with --keep-state never."
                )
    kancompress.StateFile(path=own).check()
    files.check_target(own, force=True)


def _check_names(own: Path) -> None:
    """Refuse an output whose state, or its lock, has too long a name."""
    for path in (own, locks.beside(own)):
        try:
            path.lstat()
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                most = len(os.fsencode(path.name))
                raise KancompressError(
                    f"{path}, of {most} bytes, could not be written beside the output: the name is"
                    " too long. Give the output a shorter name, or keep no state, with"
                    " --keep-state never."
                ) from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # what is no name
        return False


def _is_no_file(path: Path) -> bool:
    try:
        return path.exists() and not path.is_file()
    except (OSError, ValueError):
        return False


class _Log:
    """A file of JSON lines, one for each epoch."""

    def __init__(self, path: Path, wishes: Wishes, inputs: list[Path]) -> None:
        if str(path) == _files.DASH:
            raise UsageError("--log names a file; standard output is for data.")
        own = wishes.own
        others = (Path(wishes.output), own, locks.beside(own))
        if any(files.is_same(path, other) for other in others):
            raise UsageError(f"--log {path} is another output of the same run; name a file.")
        self._path = path
        self._force = wishes.force
        self._continues = wishes.resume is not None and not wishes.force
        files.check_target(path, force=wishes.force or self._continues, inputs=inputs)
        self._started = False
        self._pipe = -1

    def write(self, epochs: Iterable[Epoch]) -> None:
        """Add lines; the first time to an empty file, or behind lines that begin like them.

        Raises UsageError where the file holds something else, KancompressError where it cannot be
        written; it then ends with the last line that could.
        """
        lines = "".join(f"{_line(epoch)}\n" for epoch in epochs).encode()
        try:
            if self._path.exists() and not self._path.is_file():
                self._send(lines)
            else:
                self._append(lines)
        except OSError as error:
            hint = " Free some space or write elsewhere." if error.errno == errno.ENOSPC else ""
            raise KancompressError(
                f"{self._path} could not be written: {error.strerror or error}.{hint}"
            ) from None
        self._started = True

    def close(self) -> None:
        """Let go of a device or a pipe."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _send(self, lines: bytes) -> None:
        """Write to a device or a pipe, which stays open: its reader ends when it is closed."""
        if self._pipe < 0:
            self._pipe = os.open(self._path, os.O_WRONLY | parts.FLAGS)
        _write_all(self._pipe, lines)

    def _append(self, lines: bytes) -> None:
        new = not (self._started or self._force or self._continues)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_EXCL if new else 0) | parts.FLAGS
        handle = os.open(self._path.resolve(), flags, 0o666)
        try:
            if not self._started:
                lines = self._missing(handle, lines)
            size = os.fstat(handle).st_size
            try:
                _write_all(handle, lines)
                os.fsync(handle)  # some file systems tell only now that there is no space
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)

    def _missing(self, handle: int, lines: bytes) -> bytes:
        """What the file lacks of the first lines; a log of the same run may have some of them."""
        if not self._continues:
            os.ftruncate(handle, 0)
            return lines
        with os.fdopen(os.dup(handle), "rb") as file:
            found = file.read(len(lines) + 1)
        if not lines.startswith(found):
            raise UsageError(
                f"{self._path} is not the log of the run that goes on; name another file with"
                " --log."
            )
        return lines[len(found) :]


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _line(epoch: Epoch) -> str:
    record: dict[str, Any] = _scores.epoch_json(epoch)
    record |= {"learning_rates": list(epoch.rates), "seconds": round(epoch.seconds, 3)}
    return _output.json_text(record, indent=None)
