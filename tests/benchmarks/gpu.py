"""Everything that waits for a GPU, in one command that is stopped by the clock and goes on.

    python -m tests.benchmarks.gpu --data-dir DIR --work DIR --minutes 8 [--publish]
    python -m tests.benchmarks.gpu --estimate [--minutes 8] [--tflops 10] [--step-ms 3]
    python -m tests.benchmarks.gpu --table [--work DIR]
    python -m tests.benchmarks.gpu --tiny --device cpu --work DIR

First what takes seconds: training through NCCL, plain k-means, clustering by outputs and
fine-tuning, each beside the CPU's result. Then Table 2 of the paper on CIFAR-10, all six kinds of
convolutions, and CIFAR-100 when CIFAR-10 is done. --minutes is for all together. Networks that have
had the least training come first and share what is left, so that calls of a few minutes bring all
of them on; each call goes on from the last epoch of the one before.

Checkpoints and the states of runs lie in --work. Cells go to WORK/results (--publish: among the
published ones). A network is clustered, fine-tuned and kept when it has trained for the first time,
again when its epochs have doubled, and at its end; with --score now, without further training. A
cell is not kept where the kept one has more epochs. In the end the program says what there was no
time for.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from kancompress import Machine
from kancompress.config import Device, default_training
from kancompress.specs import ModelName
from tests.benchmarks import on_device
from tests.benchmarks.cells import Recipe, finished, keep, machine, own_results, trained
from tests.benchmarks.on_device import NAMES, PARTS, Place
from tests.benchmarks.paper import costs, stages, tables
from tests.benchmarks.paper.published import TABLE2
from tests.benchmarks.paper.stages import Packing

RESULTS = "gpu"
DATASETS = ("cifar10", "cifar100")
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
MODELS = tuple(TABLE2["cifar10"])
# Seconds, as long as nothing was measured: of a comparison; to cluster, tune and score once; and of
# a slice of training beside its epochs.
_COMPARISON = {"processes": 20, "kmeans": 60, "calibration": 60, "tuning": 30}
_PACKING = 25
_STARTING = 10
# What a training state holds of each parameter: it, the best one, and AdamW's two moments.
_STATE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What was asked for.

    score : only cluster and score what is trained
    tiny  : sizes for a test, on digits
    """

    device: Device
    data: Path
    work: Path
    datasets: Sequence[str]
    models: Sequence[str]
    parts: Sequence[str]
    workers: int = 0
    score: bool = False
    tiny: bool = False
    tflops: float = 10
    step_ms: float = 3

    @property
    def where(self) -> Machine:
        """Where the networks train."""
        return Machine(device=self.device, workers=0 if self.tiny else self.workers)

    @property
    def hidden(self) -> tuple[int, ...] | None:
        """Channels of convolutions; None is the recipe's."""
        return (2, 2) if self.tiny else None

    @property
    def packing(self) -> Packing:
        """How they are clustered: as the paper does."""
        return Packing(clusters=2 if self.tiny else None)

    def recipes(self, dataset: str) -> list[Recipe]:
        """The networks of a data set, in the paper's order."""
        limit = 1 if self.tiny else None
        return [Recipe(model=model, dataset=dataset, limit=limit) for model in self.models]

    def is_there(self, dataset: str) -> bool:
        """Whether a data set lies where it should."""
        return self.tiny or (self.data / FOLDERS[dataset]).is_dir()


@dataclass(slots=True)
class Clock:
    """Seconds that are left."""

    seconds: float
    now: Callable[[], float] = time.monotonic
    start: float = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.now()

    def left(self) -> float:
        """Until the end."""
        return self.start + self.seconds - self.now()


@dataclass(slots=True)
class Journal:
    """What happened to parts and networks."""

    left_out: list[list[str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """Within it a failure ends this part alone: the time on a lent machine is short."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if isinstance(error, torch.OutOfMemoryError):
                reason = f"the device has too little memory for batches of {batch()} rows"
            self.failed.append(f"{name}: {reason}")

    def out(self, what: str, state: str, minutes: float) -> None:
        """There was no time for this, which would take so many minutes more."""
        self.left_out.append([what, state, f"{minutes:,.0f}" if minutes >= 1 else "1"])


# --- beside the CPU -------------------------------------------------------------------------


def compare(setting: Setting, clock: Clock, journal: Journal) -> None:
    """Run the comparisons that are not kept, as long as there is time."""
    found = [name for name in setting.datasets[:1] if setting.is_there(name) and not setting.tiny]
    place = Place(
        device=setting.device,
        data=setting.data,
        work=setting.work,
        dataset=found[0] if found else "digits",
        tiny=setting.tiny,
    )
    about = machine(setting.where)
    for name in setting.parts:
        if name not in PARTS or tables.of(finished(RESULTS), what=name, device=about.get("device")):
            continue
        if clock.left() < (0 if setting.tiny else _COMPARISON[name]):
            journal.out(NAMES[name], tables.NOT_RUN, _COMPARISON[name] / 60)
            continue
        with journal.trying(NAMES[name]):
            dataset = place.dataset if name in ("calibration", "tuning") else "made up"
            dataset = "digits" if name == "processes" else dataset
            keep(RESULTS, {"what": name, "dataset": dataset} | PARTS[name](place) | about)


# --- Table 2 in slices ----------------------------------------------------------------------


@dataclass(slots=True)
class Progress:
    """How far a network is, from what lies in `work`.

    packed  : epochs that it had when it was clustered and scored last; None: never
    packing : seconds that this took
    starting: seconds that the last slice of training took beside its epochs
    """

    recipe: Recipe
    setting: Setting
    epochs: int = 0
    seconds: int = 0
    complete: bool = False
    packed: int | None = None
    packing: float = _PACKING
    starting: float = _STARTING

    @classmethod
    def of(cls, recipe: Recipe, setting: Setting) -> Progress:
        """As it lies there, or among the results."""
        found = cls(recipe, setting)
        found.reread()
        kept = tables.of(finished("table2"), **recipe.whole_key, **asdict(setting.packing))
        whole = [cell for cell in kept if not tables.is_cut(cell)]
        if whole:
            found.complete, found.packed = True, found.epochs
        return found

    @property
    def path(self) -> Path:
        """The file without its ending."""
        return self.setting.work / self.recipe.stem

    @property
    def most(self) -> int:
        """Epochs of the whole training."""
        return self.recipe.config().epochs

    @property
    def is_due(self) -> bool:
        """Whether it is time to cluster and score it."""
        if not self.epochs or self.packed == self.epochs:
            return False
        now = self.packed is None or self.complete or self.setting.score
        return now or self.epochs >= 2 * (self.packed or 0)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.complete and not self.is_due

    @property
    def epoch(self) -> float:
        """Seconds of an epoch, estimated as long as none was measured."""
        if self.epochs:
            return self.seconds / self.epochs
        if self.setting.tiny:
            return 0.0
        return costs.epoch_on_gpu(self.recipe, self.setting.tflops, self.setting.step_ms)

    @property
    def reserve(self) -> float:
        """Seconds of a slice that clustering may take."""
        if self.setting.tiny or not (self.packed is None or self.epochs + 1 >= 2 * self.packed):
            return 0.0
        return self.packing + (self.longer if self.complete else 0)

    @property
    def longer(self) -> float:
        """Seconds that fine-tuning takes more at the end of training than on the way."""
        return (costs.TUNING - 1) * self.epoch

    @property
    def beside(self) -> float:
        """Seconds of a slice that are no training."""
        return 0.0 if self.setting.tiny else self.starting + self.reserve

    def learn(self, other: Progress) -> None:
        """Expect what another network has just taken, where nothing was measured."""
        if self.packed is None and other.packed is not None:
            self.packing = other.packing
        if not self.epochs and other.epochs:
            self.starting = other.starting

    def reread(self) -> None:
        """Take what the last slice left."""
        for path in (self.path.with_suffix(".json"), self.path.with_suffix(".packed.json")):
            if path.exists():
                told = json.loads(path.read_text())
                self.epochs = told.get("epochs", self.epochs)
                self.seconds = told.get("train_seconds", self.seconds)
                self.packed = told.get("packed", self.packed)
                self.packing = told.get("packing", self.packing)
                self.starting = told.get("starting", self.starting)
                self.complete = told.get("complete", True) if "epochs" in told else self.complete

    def write(self) -> None:
        """Leave for the next call what a checkpoint does not tell."""
        told = {"packed": self.packed, "packing": self.packing, "starting": self.starting}
        self.path.with_suffix(".packed.json").write_text(json.dumps(told))

    def tell(self, journal: Journal) -> None:
        """Say what is left of it."""
        what = f"{self.recipe.model}, {self.recipe.dataset}"
        state = f"{self.epochs} of {self.most} epochs" if self.epochs else tables.NOT_RUN
        if self.complete:
            state = "trained, not clustered"
        rest = 0 if self.complete else self.most - self.epochs
        journal.out(what, state, (rest * self.epoch + self.packing) / 60)


def run_slices(setting: Setting, clock: Clock, journal: Journal) -> None:
    """Train, cluster and score the networks of Table 2, one data set after the other."""
    waiting = False
    for dataset in ("digits",) if setting.tiny else setting.datasets:
        runs = [Progress.of(recipe, setting) for recipe in setting.recipes(dataset)]
        open_ = sorted((run for run in runs if not run.is_done), key=lambda run: run.seconds)
        if open_ and not setting.is_there(dataset):
            journal.failed.append(f"{dataset}: no {FOLDERS[dataset]} in {setting.data}")
            continue
        for number, run in enumerate(() if waiting else open_):
            with journal.trying(f"{run.recipe.model}, {dataset}"):
                run_slice(run, clock, level(open_[number:], clock.left()) - run.seconds)
            for other in open_[number + 1 :]:
                other.learn(run)
        for run in open_:
            if not run.is_done:
                run.tell(journal)
                waiting = True


def level(runs: Sequence[Progress], left: float) -> float:
    """To how many seconds of training networks can be brought in the time that is left.

    runs : the one with the least training first; those that have had more get nothing
    """
    found = 0.0
    for count in range(1, len(runs) + 1):
        had = sum(run.seconds - run.beside for run in runs[:count])
        new = (left + had) / count
        if count > 1 and new < runs[count - 1].seconds:
            break
        found = new
    return found


def run_slice(run: Progress, clock: Clock, train: float) -> None:
    """Train a network for so many seconds more, and cluster it where it is due."""
    if run.setting.device == Device.CUDA:
        torch.cuda.reset_peak_memory_stats()
    wanted = not (run.complete or run.setting.score)
    if wanted and train > 0 and train >= run.epoch:
        before, start = run.seconds, clock.now()
        # an epoch that has begun is finished; whole seconds are kept of those before
        minutes = (run.seconds + max(train - run.epoch, 1)) / 60
        train_on(run, minutes)
        run.reread()
        run.starting = round(clock.now() - start - (run.seconds - before), 1)
        run.write()
    if run.is_due and clock.left() > 0 and clock.left() >= run.reserve:
        start = clock.now()
        cell = pack(run)
        run.packed = run.epochs
        if not run.complete:
            run.packing = round(clock.now() - start, 1)
        keep_better(run, cell)
        run.write()


def train_on(run: Progress, minutes: float) -> None:
    """Train until the network has had so many minutes, those of earlier slices included."""
    setting = run.setting
    where, hidden = setting.where, setting.hidden
    trained(run.recipe, setting.data, setting.work, minutes, where=where, hidden=hidden)


def pack(run: Progress) -> tables.Cell:
    """Cluster, fine-tune and score what is trained."""
    setting = run.setting
    where, hidden = setting.where, setting.hidden
    cell = stages.run(
        run.recipe, setting.data, setting.work, setting.packing, 0, where=where, hidden=hidden
    )
    if setting.device == Device.CUDA:
        cell["device_mb"] = torch.cuda.max_memory_allocated() // 2**20
    return cell


def keep_better(run: Progress, cell: tables.Cell) -> None:
    """Keep a cell, unless the one that is kept has more epochs."""
    whole = run.recipe.whole_key | asdict(run.setting.packing)
    kept = tables.latest(tables.of(finished("table2"), **whole))
    if run.complete or not kept or cell["epochs"] > kept[-1]["epochs"]:
        keep("table2", cell)
        return
    print(json.dumps(cell), flush=True)
    most = kept[-1]["epochs"]
    print(f"Not kept, as the cell that is has {most} epochs.", file=sys.stderr)


# --- what it would take ---------------------------------------------------------------------


def batch() -> int:
    """Rows of a batch, the same in all recipes."""
    (size,) = {default_training(ModelName(model)).batch_size for model in MODELS}
    return size


def why_so_many() -> str:
    """Which batches are taken, and why."""
    return (
        f"Batches have {batch()} rows. That is the paper's own number (Tables 4 to 7), so it is the"
        " largest that leaves the recipe as it is: with more rows a batch, an epoch has fewer steps"
        " at the same rates. Workers that augment images, and batches that only measure, change no"
        " result."
    )


def estimate(setting: Setting, minutes: float) -> str:
    """A table of what all of it would take on a GPU, and what calls of so many minutes hold."""
    rows, total = [], 0.0
    for dataset in setting.datasets:
        for recipe in setting.recipes(dataset):
            epoch = costs.epoch_on_gpu(recipe, setting.tflops, setting.step_ms)
            whole = epoch * costs.most_epochs(recipe) + _PACKING
            total += whole
            share = 60 * minutes / len(setting.models) - _PACKING - _STARTING
            state = _STATE * 1024 * TABLE2[dataset][recipe.model][0][1]
            rows.append(
                [
                    *(recipe.model, dataset, f"{epoch:,.1f}", str(costs.most_epochs(recipe))),
                    f"{whole / 60:,.0f}",
                    f"{max(0, math.floor(share / epoch)):,}",
                    f"{state / 1e6:,.0f}",
                ]
            )
    compared = sum(_COMPARISON.values())
    columns = ["model", "data", "s / epoch", "epochs", "minutes", f"epochs in {minutes:g} minutes"]
    calls = math.ceil((total + compared) / 60 / minutes)
    return (
        f"Estimated at {setting.tflops:g} TFLOP/s sustained and {setting.step_ms:g} ms a step:\n\n"
        + tables.markdown([*columns, "MB of its state"], rows)
        + f"\n\nThe comparisons with the CPU take about {compared / 60:.0f} minutes, all together"
        f" {(total + compared) / 3600:.1f} hours, or {calls} calls of {minutes:g} minutes. Epochs"
        f" in {minutes:g} minutes are those of a first call, shared among the models of one data"
        " set, comparisons left out."
    )


# --- the program ----------------------------------------------------------------------------


def report(journal: Journal) -> str:
    """What there was no time for, and what failed."""
    lines = []
    if journal.left_out:
        columns = ["no time for", "state", "minutes more, about"]
        lines += [tables.markdown(columns, journal.left_out), ""]
    lines += [f"Failed: {failure}" for failure in journal.failed]
    if not lines:
        return "There was time for everything."
    if journal.left_out:
        lines.append("The same command goes on from here.")
    return "\n".join(lines)


def shown(setting: Setting) -> str:
    """The tables of what is kept."""
    compared = finished(RESULTS)
    cells = tables.latest(finished("table2"))
    parts = [on_device.table(compared)] if compared else []
    if not setting.tiny:
        parts += [f"{name}:\n\n{tables.table2(name, cells)}" for name in setting.datasets]
    return "\n\n".join(parts)


def chosen(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=[Device.CUDA.value, Device.CPU.value], default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="for everything (default 8)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("checkpoints"))
    parser.add_argument("--dataset", nargs="+", choices=DATASETS, default=DATASETS)
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", default=MODELS)
    parts = [*PARTS, "table2"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="only these")
    parser.add_argument(
        "--workers",
        type=int,
        default=max((os.cpu_count() or 1) - 1, 0),
        help="processes that augment images (default: a core less than there are)",
    )
    parser.add_argument("--score", action="store_true", help="only score what is trained")
    parser.add_argument("--publish", action="store_true", help="keep cells among the published")
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    parser.add_argument("--estimate", action="store_true", help="only print what it would take")
    parser.add_argument("--tflops", type=float, default=10, help="estimate: sustained, of the GPU")
    parser.add_argument("--step-ms", type=float, default=3, help="estimate: least time of a step")
    parser.add_argument("--tiny", action="store_true", help="networks of a few edges, on digits")
    options = parser.parse_args(arguments)
    if options.tiny and options.publish:
        parser.error("--tiny tries the program out; its cells are not for the published results.")
    only_prints = options.table or options.estimate
    if options.device == "cuda" and not (only_prints or torch.cuda.is_available()):
        parser.error(
            "this torch finds no CUDA device; --estimate tells what a GPU would take, and"
            " --tiny --device cpu tries the program out."
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what there is time for; returns the exit code, 1 where a part failed."""
    options = chosen(arguments)
    clock, journal = Clock(60 * options.minutes), Journal()
    setting = Setting(
        device=Device(options.device),
        data=options.data_dir,
        work=options.work,
        datasets=options.dataset,
        models=options.models,
        parts=options.parts,
        workers=options.workers,
        score=options.score,
        tiny=options.tiny,
        tflops=options.tflops,
        step_ms=options.step_ms,
    )
    print(why_so_many(), end="\n\n")
    if options.estimate:
        print(estimate(setting, options.minutes))
        return 0
    with own_results(None if options.publish else setting.work / "results"):
        if not options.table:
            setting.work.mkdir(parents=True, exist_ok=True)
            compare(setting, clock, journal)
            if "table2" in setting.parts:
                run_slices(setting, clock, journal)
        print(shown(setting))
    if not options.table:
        print(f"\n{report(journal)}")
    return 1 if journal.failed else 0


if __name__ == "__main__":
    sys.exit(main())
