"""Commands killed at random moments: the old output or none, and the same bytes when run again."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from random import Random

import kancompress
from tests.conftest import fresh
from tests.fuzz import commands, limits
from tests.fuzz.engine import Case, Slot, Verdict

OUT = "out.st"
_SIGNALS = (signal.SIGKILL,) * 6 + (
    signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGUSR1,
)  # fmt: skip
# The user's own files beside the output; their names are like those that commands use.
_BYSTANDERS = (
    "notes.txt", f"{OUT}.state.txt", f".{OUT}.part", f"{OUT}.part", f"{OUT}.bak", f"{OUT}.state2",
    f".{OUT}.0123456789abcdef", f"x{OUT}.state", f".x{OUT}.0123456789abcdef.part", "state", ".lock",
)  # fmt: skip
_OLD = b"the user's old output"


@dataclass(slots=True)
class Command:
    """A command line, what it is given when it is run again, and what it leaves undisturbed."""

    name: str
    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()
    log: bool = False
    expected: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a case does."""

    command: int
    number: int  # of the signal
    when: str  # "share" of the duration, or "written": when something new lies beside the output
    share: float
    old: bool
    trap: str = ""


class Kills:
    """The commands that write."""

    name = "kills"

    def __init__(self, only: tuple[str, ...] = ()) -> None:
        limits.prepare()
        commands.prepare()
        self.home = Path(tempfile.mkdtemp(prefix="fuzz-"))
        weakref.finalize(self, shutil.rmtree, self.home, ignore_errors=True)
        dense = fresh("fastkan", (64, 4, 10))
        kancompress.save(dense, self.home / "dense.st")
        config = kancompress.ClusterConfig(clusters=4)
        kancompress.save(kancompress.cluster(dense, config).model, self.home / "packed.st")
        train = ("train", "--model", "kan", "--hidden", "2", "--epochs", "3", "--lr", "0.1",
                 "--patience", "9", "--batch-size", "512", "--resume", "auto",
                 "--log", "out.log")  # fmt: skip
        self.commands = [
            Command("cluster", ("cluster", "dense.st", "-k", "4")),
            Command("calibrate", ("cluster", "dense.st", "-k", "4", "--calibrate", "digits",
                                  "--samples", "64", "--method", "feedback", "--rounds", "1",
                                  "--report", "report.json")),
            Command("finetune", ("finetune", "packed.st", "--epochs", "3", "--lr", "0.01",
                                 "--batch-size", "512"), ("--resume", "auto")),
            Command("train", train),
            Command("expand", ("expand", "packed.st")),
        ]  # fmt: skip
        self.commands = [one for one in self.commands if not only or one.name in only]
        for command in self.commands:
            folder = self._folder(f"first-{command.name}")
            commands.warm_up(folder, *command.arguments, "-o", OUT)
            self._remove(folder)
        commands.settle()
        for command in self.commands:
            times = []
            for number in range(3):
                folder = self._folder(f"reference-{command.name}-{number}")
                done = commands.run(folder, *command.arguments, "-o", OUT)
                assert done.code == 0, done.stderr
                raw = (folder / OUT).read_bytes()
                assert command.expected in (b"", raw), f"{command.name} gives other bytes each time"
                command.expected = raw
                times.append(done.seconds)
                self._remove(folder)
            command.seconds = statistics.median(times)

    def _folder(self, name: str) -> Path:
        folder = self.home / name
        folder.mkdir()
        for source in ("dense.st", "packed.st"):
            shutil.copyfile(self.home / source, folder / source)  # a link would change its ctime
        return folder

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder)
        for name in ("stdout", "stderr"):
            Path(f"{folder}.{name}").unlink(missing_ok=True)

    def make(self, draw: Random) -> Case:
        command = draw.randrange(len(self.commands))
        number = draw.choice(_SIGNALS)
        when = draw.choice(("share", "share", "end", "written"))
        share = draw.random() * 1.05 if when == "share" else draw.uniform(0.85, 1.05)
        if when == "written":
            share = draw.random() ** 2 * 0.01  # seconds behind it
        trap = draw.choice(("", "", "", "", "", "", "", "", "link", "file"))
        plan = Plan(command, number, when, share, draw.random() < 0.3, trap)
        story = [
            self.commands[command].name,
            f"{signal.Signals(number).name} at {share:.4f} ({when})",
            f"{'an old output' if plan.old else 'no old output'}",
        ] + ([f"{OUT}.state.lock is a {trap}"] if trap else [])
        return Case(repr(plan).encode(), story, plan)

    def judge(self, case: Case, slot: Slot | None) -> Verdict:
        if slot:
            slot.stage("run")
        verdict = Verdict()
        plan: Plan = case.extra
        command = self.commands[plan.command]
        folder = self._folder(f"case-{os.getpid()}-{time.monotonic_ns()}")
        try:
            self._kill(folder, command, plan, verdict)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for name in ("stdout", "stderr"):
                Path(f"{folder}.{name}").unlink(missing_ok=True)
        return verdict

    def _kill(self, folder: Path, command: Command, plan: Plan, verdict: Verdict) -> None:
        before = _bystanders(folder, plan.trap)
        arguments = [*command.arguments, "-o", OUT]
        if plan.old:
            (folder / OUT).write_bytes(_OLD)
            arguments.append("--force")
        there = {path.name for path in folder.iterdir()}
        ended = commands.run(
            folder, *arguments,
            meanwhile=lambda child, begin: _strike(child, begin, folder, there, command, plan),
        )  # fmt: skip
        self._check_ended(ended, plan, verdict)
        output = folder / OUT
        left = output.read_bytes() if output.exists() else None
        if left not in (None if not plan.old else _OLD, command.expected):
            verdict.fault(f"{command.name}: neither the old output nor the right one")
        if ended.code == 0 and left != command.expected:
            verdict.fault(f"{command.name}: exit code 0 without the right output")
        _check_untouched(folder, before, f"{command.name}, killed", verdict)
        verdict.outcome = f"{command.name}: {'done' if left == command.expected else 'stopped'}"
        _count_left(folder, "after a kill", verdict)
        if plan.trap:
            before.pop(f"{OUT}.state.lock", None)
            (folder / f"{OUT}.state.lock").unlink(missing_ok=True)
        self._again(folder, command, before, verdict)

    def _check_ended(self, ended: commands.Ended, plan: Plan, verdict: Verdict) -> None:
        asked = plan.number in (signal.SIGTERM, signal.SIGINT)
        fine = {0, -plan.number} | ({128 + plan.number} if asked else set())
        if plan.trap:
            fine |= {1, 2, 3}
        if ended.code not in fine:
            verdict.fault(f"exit code {ended.code} behind {signal.Signals(plan.number).name}",
                          ended.stderr[-300:])  # fmt: skip
        for words in ("Traceback", "Internal error"):
            if words in ended.stderr and not (asked and ended.code == 130):
                verdict.fault(f"{words} behind a signal", ended.stderr[-300:])

    def _again(
        self, folder: Path, command: Command, before: dict[str, object], verdict: Verdict
    ) -> None:
        arguments = [*command.arguments, "-o", OUT, *command.again]
        if (folder / OUT).exists():
            arguments.append("--force")
        ended = commands.run(folder, *arguments)
        if ended.code != 0 and "report.json" in ended.stderr and "exists already" in ended.stderr:
            verdict.fault(f"{command.name}: a report of a killed run blocks the next one",
                          ended.stderr[-200:])  # fmt: skip
            ended = commands.run(
                folder, *arguments, *(() if "--force" in arguments else ("--force",))
            )
        if ended.code != 0:
            verdict.fault(f"{command.name}: the next run fails", ended.stderr[-300:])
            return
        if (folder / OUT).read_bytes() != command.expected:
            verdict.fault(f"{command.name}: the next run gives other bytes")
        _check_untouched(folder, before, f"{command.name}, run again", verdict)
        for path in folder.iterdir():
            known = {*before, OUT, "out.log", "report.json", "dense.st", "packed.st"}
            if path.name not in known:
                kind = "a hidden .part" if path.suffix == ".part" else path.name
                verdict.fault(f"{command.name}: {kind} is left after the next run", path.name)


def _strike(
    child: int, begin: float, folder: Path, there: set[str], command: Command, plan: Plan
) -> None:
    """Send the signal when its moment has come, unless the command has ended before."""
    if plan.when == "written":
        while commands.alive(child):
            names = {entry.name for entry in os.scandir(folder)} - there
            if any(name.endswith((".part", ".state", ".lock", OUT)) for name in names):
                time.sleep(plan.share)
                break
            time.sleep(0.0002)
    else:
        time.sleep(max(0.0, begin + plan.share * command.seconds - time.monotonic()))
    os.kill(child, plan.number)  # it is not waited for yet, so that the number is still its own


def _bystanders(folder: Path, trap: str) -> dict[str, object]:
    """Lay out the user's own files; returns what they are."""
    for number, name in enumerate(_BYSTANDERS):
        path = folder / name
        path.write_bytes(f"mine {number}".encode())
        path.chmod(0o640 if number % 2 else 0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000 + number))
    (folder / "link").symlink_to("notes.txt")
    lock = folder / f"{OUT}.state.lock"
    if trap == "link":
        lock.symlink_to("notes.txt")
    elif trap == "file":
        lock.write_bytes(b"a file of mine")
        os.utime(lock, (1_000_000_000, 1_000_000_000))
    names = [*_BYSTANDERS, "link", *([lock.name] if trap else []), "dense.st", "packed.st"]
    return {name: _what(folder / name) for name in names}


def _what(path: Path) -> object:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    content = str(path.readlink()) if path.is_symlink() else path.read_bytes()
    return content, found.st_mode, found.st_mtime_ns


def _check_untouched(folder: Path, before: dict[str, object], stage: str, verdict: Verdict) -> None:
    for name, what in before.items():
        if _what(folder / name) != what:
            verdict.fault(
                f"{stage}: the user's {name} was touched", repr(_what(folder / name))[:200]
            )
            before[name] = _what(folder / name)


def _count_left(folder: Path, when: str, verdict: Verdict) -> None:
    known = {*_BYSTANDERS}
    for path in folder.iterdir():
        if path.suffix in (".part", ".lock", ".state") and path.name not in known:
            verdict.notes.append(f"{path.suffix} {when}")
