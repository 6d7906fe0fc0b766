"""Cases by number, in worker processes: what a case does to its worker is seen from outside.

Case N of a seed is drawn from a generator of its own, so that it is the same whatever the number of
processes, and a fault names the case that shows it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import multiprocessing
import os
import pickle
import random
import re
import signal
import struct
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import torch

from tests.fuzz import limits

# A worker that spends this long on one case is stopped from outside.
HANG = 60.0
_BATCH = 32
# The stages of a case, as a worker writes them down before it enters them.
STAGES = ("make", "load", "restore", "encode", "check", "oracle", "run")


@dataclass(slots=True)
class Case:
    """An input, and in words how it was made; `weight` orders examples of one fault."""

    raw: bytes
    story: list[str] = field(default_factory=list)
    extra: Any = None

    @property
    def weight(self) -> tuple[int, int]:
        return len(self.story), len(self.raw)


@dataclass(slots=True)
class Verdict:
    """How a case ended: its outcome in a word, faults (kind, detail), and things worth a count."""

    outcome: str = ""
    faults: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, kind: str, detail: str = "") -> None:
        self.faults.append((kind, detail))


class Subject(Protocol):
    """What is fuzzed."""

    name: str

    def make(self, draw: random.Random) -> Case:
        """The case that a generator draws."""

    def judge(self, case: Case, slot: Slot | None) -> Verdict:
        """Run it."""


@dataclass(slots=True)
class Slot:
    """Where a worker writes down what it is at, in memory that outlives it."""

    memory: mmap.mmap
    at: int
    seconds: float = 2.0  # limit of the processor's time for a stage

    def enter(self, number: int) -> None:
        struct.pack_into("<qq", self.memory, self.at, number, 0)

    def stage(self, name: str) -> None:
        struct.pack_into("<q", self.memory, self.at + 8, STAGES.index(name))

    def read(self) -> tuple[int, str]:
        number, stage = struct.unpack_from("<qq", self.memory, self.at)
        return number, STAGES[stage]


@dataclass(slots=True)
class Fault:
    """One kind of fault: how often, and the plainest case that shows it."""

    kind: str
    count: int = 0
    number: int = -1
    weight: tuple[int, int] = (1 << 30, 1 << 30)
    story: list[str] = field(default_factory=list)
    detail: str = ""
    raw: bytes = b""

    def add(self, number: int, case: Case, detail: str, count: int = 1) -> bool:
        """Count it; returns whether this case is plainer than the one that was kept."""
        self.count += count
        if (case.weight, number) >= (self.weight, self.number):
            return False
        self.number, self.weight, self.detail = number, case.weight, detail
        self.story, self.raw = case.story, case.raw
        return True


@dataclass(slots=True)
class Report:
    """What a run found."""

    subject: str
    cases: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Fault] = field(default_factory=dict)
    longest: float = 0.0
    longest_case: int = -1
    largest: int = 0

    def lines(self) -> Iterator[str]:
        rate = self.cases / self.seconds if self.seconds else 0
        yield f"{self.subject}: {self.cases:,} cases in {self.seconds:.1f} s ({rate:,.0f} a second)"
        yield (
            f"longest case {self.longest:.2f} s of the processor (case {self.longest_case});"
            f" largest growth {self.largest / 1e6:,.0f} MB of address space"
        )
        for title, counts in (("outcomes", self.outcomes), ("told apart", self.notes)):
            if counts:
                yield f"{title}:"
                yield from (f"  {count:>9,}  {name}" for name, count in counts.most_common())
        total = sum(fault.count for fault in self.faults.values())
        yield f"faults: {len(self.faults)} kinds, {total:,} in all"
        for fault in sorted(self.faults.values(), key=lambda f: -f.count):
            yield f"  {fault.count:>9,}  {fault.kind}"
            yield f"             case {fault.number}, {len(fault.raw):,} bytes: {fault.detail}"
            yield f"             made by: {'; '.join(fault.story)[:300]}"


def case_of(subject: Subject, seed: int, number: int) -> Case:
    """Case `number` of a seed."""
    return subject.make(random.Random(f"{subject.name} {seed} {number}"))


# --- the worker ----------------------------------------------------------------------------


def _work(
    subject: Subject, seed: int, numbers: range, dead: set[int], deadline: float, pipe: Connection,
    slot: Slot,
) -> None:  # fmt: skip
    limits.prepare()
    torch.set_num_threads(1)  # threads of the parent are not there
    warnings.simplefilter("error")
    faulthandler.disable()  # pytest's: a crash is told in the report
    begin = limits.size()
    kept: dict[str, Fault] = {}
    batch = _Batch()
    for number in numbers:
        if time.monotonic() >= deadline:
            break
        if number in dead:
            continue
        slot.enter(number)
        case, before = Case(b"", ["not made"]), time.process_time()
        try:
            case = case_of(subject, seed, number)
            before = time.process_time()
            verdict = subject.judge(case, slot)
        except Exception as error:  # what this program did not think of ends no long run
            verdict = Verdict("not judged")
            verdict.fault(f"not judged: {limits.kind_of(error, 'judge')}", limits.brief(error))
        batch.add(number, verdict, time.process_time() - before)
        for kind, detail in verdict.faults:
            fault = kept.setdefault(kind, Fault(kind))
            plainer = fault.add(number, case, detail)
            batch.faults.append((kind, number, case if plainer else None, detail))
        if batch.cases >= _BATCH:
            batch.largest = limits.peak() - begin
            batch.next = number + numbers.step
            pipe.send_bytes(pickle.dumps(batch))
            batch = _Batch()
    batch.largest = limits.peak() - begin
    batch.ended = True
    pipe.send_bytes(pickle.dumps(batch))
    pipe.close()


@dataclass(slots=True)
class _Batch:
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, int, Case | None, str]] = field(default_factory=list)
    longest: float = 0.0
    longest_case: int = -1
    largest: int = 0
    next: int = -1
    ended: bool = False

    def add(self, number: int, verdict: Verdict, seconds: float) -> None:
        self.cases += 1
        self.outcomes[verdict.outcome] += 1
        self.notes.update(verdict.notes)
        if seconds > self.longest:
            self.longest, self.longest_case = seconds, number


# --- the parent ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Worker:
    numbers: range
    slot: Slot
    dead: set[int] = field(default_factory=set)
    process: Any = None
    pipe: Any = None
    seen: tuple[int, float] = (-1, 0.0)
    lost: int = 0


def run(
    subject: Subject,
    *,
    seed: int,
    count: int | None = None,
    seconds: float | None = None,
    processes: int = 2,
    limit: float = 2.0,
) -> Report:
    """Run cases 0, 1, ... of a seed: `count` of them, or as many as some seconds allow.

    limit : seconds of the processor that a stage of a case may take
    """
    begin = time.monotonic()
    deadline = begin + seconds if seconds is not None else float("inf")
    end = count if count is not None else 1 << 40
    memory = mmap.mmap(-1, 16 * processes)
    report = Report(subject.name)
    workers = []
    for place in range(processes):
        slot = Slot(memory, 16 * place, limit)
        workers.append(_Worker(range(place, end, processes), slot))
        _start(subject, seed, workers[-1], deadline)
    while alive := [worker for worker in workers if worker.process is not None]:
        ready = wait([worker.pipe for worker in alive], timeout=1.0)
        for worker in alive:
            if worker.pipe in ready:
                _receive(subject, seed, worker, deadline, report)
            else:
                _watch(worker)
    report.seconds = time.monotonic() - begin
    return report


def _start(subject: Subject, seed: int, worker: _Worker, deadline: float) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    worker.slot.enter(-1)
    worker.process = multiprocessing.get_context("fork").Process(
        target=_work,
        args=(subject, seed, worker.numbers, worker.dead, deadline, theirs, worker.slot),
    )
    worker.process.start()
    theirs.close()
    worker.pipe = ours
    worker.seen = (-1, time.monotonic())


def _receive(subject: Subject, seed: int, worker: _Worker, deadline: float, report: Report) -> None:
    raw = b""
    with contextlib.suppress(EOFError):
        raw = worker.pipe.recv_bytes()
    if not raw:
        _died(subject, seed, worker, deadline, report)
        return
    batch = pickle.loads(raw)
    report.cases += batch.cases
    report.outcomes += batch.outcomes
    report.notes += batch.notes
    report.largest = max(report.largest, batch.largest)
    if batch.longest > report.longest:
        report.longest, report.longest_case = batch.longest, batch.longest_case
    for kind, number, case, detail in batch.faults:
        fault = report.faults.setdefault(kind, Fault(kind))
        if case is None:
            fault.count += 1
        else:
            fault.add(number, case, detail)
    if batch.ended:
        worker.process.join()
        worker.process = None
    else:
        worker.numbers = range(batch.next, worker.numbers.stop, worker.numbers.step)


def _died(subject: Subject, seed: int, worker: _Worker, deadline: float, report: Report) -> None:
    """A worker went away within a case: tell it, and go on behind what was told."""
    worker.process.join()
    code = worker.process.exitcode
    number, stage = worker.slot.read()
    worker.process = None
    if code is None or code >= 0 or number < 0:
        raise RuntimeError(f"a worker ended with {code} in case {number} ({stage})")
    what = "no end" if code == -signal.SIGALRM else signal.Signals(-code).name
    guilty = number if what == "no end" else _blamed(subject, seed, worker, number)
    alone = " alone" if guilty >= 0 else ", but only behind the cases before it"
    if guilty >= 0:
        number, stage = guilty, worker.slot.read()[1]
    case = case_of(subject, seed, number)
    if stage == "oracle":
        report.notes[f"{what} in the oracle"] += 1
    else:
        kind = f"{stage}: {what}"
        fault = report.faults.setdefault(kind, Fault(kind))
        fault.add(number, case, f"this case killed its process{alone}")
    report.cases += 1
    report.outcomes[what] += 1
    worker.dead.add(number)
    _start(subject, seed, worker, deadline)


def _blamed(subject: Subject, seed: int, worker: _Worker, last: int) -> int:
    """The case since the last batch that kills a process by itself, -1 where none does.

    What is written outside a buffer is often noticed only when the heap is used again.
    """
    step = worker.numbers.step
    for number in range(worker.numbers.start, last + 1, step):
        if number in worker.dead:
            continue
        child = os.fork()
        if child == 0:
            _alone(subject, seed, number, worker.slot)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return number
    return -1


def _alone(subject: Subject, seed: int, number: int, slot: Slot) -> None:
    limits.prepare()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    case = case_of(subject, seed, number)
    for _ in range(8):
        subject.judge(case, slot)
        del [bytearray(1 << size) for size in range(4, 16) for _ in range(50)][:]
    os._exit(0)


def _watch(worker: _Worker) -> None:
    number, _ = worker.slot.read()
    now = time.monotonic()
    if number != worker.seen[0]:
        worker.seen = (number, now)
    elif now - worker.seen[1] > HANG and worker.process.is_alive():
        os.kill(worker.process.pid, signal.SIGALRM)


def keep(report: Report, folder: Path) -> None:
    """Save the plainest case of every kind of fault."""
    folder.mkdir(parents=True, exist_ok=True)
    for fault in report.faults.values():
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", fault.kind)[:100].strip("-")
        (folder / f"{report.subject}-{name}.bin").write_bytes(fault.raw)
