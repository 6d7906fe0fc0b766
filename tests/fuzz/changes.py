"""Inputs truncated or overwritten while commands read them: a sentence, or the right bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import signal
import tempfile
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save as save_tensors
from torch import Tensor

import kancompress
from tests.conftest import fresh
from tests.fuzz import commands, limits
from tests.fuzz.engine import Case, Slot, Verdict

_MIB = 1 << 20
_SENTENCE = "was changed while it was"
_WAYS = ("truncate", "truncate", "empty", "other", "other", "noise", "rename")


@dataclass(slots=True)
class Target:
    """A command, the file that changes under it, and that file with other content.

    seconds : duration of the undisturbed command; answers : what it gives for either content
    """

    name: str
    arguments: tuple[str, ...]
    changing: str
    files: dict[str, Path]
    other: Path
    output: str = ""
    seconds: float = 0.0
    answers: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Plan:
    target: int
    way: str
    share: float
    where: float


def _saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _state(seed: int, mib: float) -> dict[str, Tensor]:
    """An efficient-kan; a narrow one with a large tensor that is no layer's, or a wide one."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    state: dict[str, Tensor] = {}
    width = 6 if mib else 256
    for number, (inputs, outputs) in enumerate(((64, width), (width, 10))):
        stem = f"layers.{number}"
        step = torch.arange(12.0).mul(0.4).sub(2.2)
        state |= {
            f"{stem}.base_weight": normal(outputs, inputs),
            f"{stem}.spline_weight": normal(outputs, inputs, 8),
            f"{stem}.spline_scaler": normal(outputs, inputs),
            f"{stem}.grid": step.expand(inputs, 12).clone(),
        }
    return state | ({"running": normal(int(mib * 256), 1024)} if mib else {})


def _arrays(seed: int, mib: float, kind: str) -> bytes:
    draw = np.random.default_rng(seed)
    rows = int(mib * _MIB / 256)
    x = draw.normal(size=(rows, 64)).astype(np.float32)
    content = {"x": x, "y": draw.integers(0, 10, rows)}
    content |= {"x_test": x[:500].copy(), "y_test": content["y"][:500].copy()}
    if kind == "npz":
        file = io.BytesIO()
        np.savez(file, **content)
        return file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        save_arrays(content, Path(folder) / "x")
        return (Path(folder) / "x").read_bytes()


def _index(seed: int, mib: float) -> dict[str, bytes]:
    state = _state(seed, mib)
    parts = {"a.safetensors": {n: t for n, t in state.items() if n != "running"},
             "b.safetensors": {"running": state["running"]}}  # fmt: skip
    weight_map = {name: file for file, part in parts.items() for name in part}
    files = {file: save_tensors(part) for file, part in parts.items()}
    return files | {"model.index.json": json.dumps({"weight_map": weight_map}).encode()}


def _packed(raw: bytes, **options: Any) -> bytes:
    config = kancompress.ClusterConfig(clusters=4, max_iterations=2)
    return kancompress.encode(kancompress.cluster(raw, config, **options).model)


def _targets(mib: float, home: Path, only: tuple[str, ...]) -> list[Target]:
    """Every command with every kind of file that it reads."""
    native, narrow = (
        [kancompress.encode(fresh("fastkan", (64, width, 10), seed)) for seed in (0, 1)]
        for width in (int(420 * mib), 64)  # second moments grow with the square of the width
    )
    few = ("-k", "2", "--max-iterations", "1", "-o", "out")
    calibrate = ("--calibrate", "digits", "--samples", "64", "--method", "kmeans", *few)
    plain = [save_tensors(_state(seed, mib)) for seed in (0, 1)]
    zipped = [_saved({"model": _state(seed, mib), "epoch": 3}) for seed in (0, 1)]
    legacy = [_saved(_state(seed, mib), _use_new_zipfile_serialization=False) for seed in (0, 1)]
    packed = [_packed(raw) for raw in plain]
    # What runs may have no tensor beside its layers.
    whole = [save_tensors(_state(seed, 0)) for seed in (0, 1)]
    whole_zipped = [_saved({"model": _state(seed, 0), "epoch": 3}) for seed in (0, 1)]
    whole_packed = [_packed(raw) for raw in whole]
    extra = [_packed(raw, keep_extra=True) for raw in zipped]
    shards = [_index(seed, mib) for seed in (0, 1)]
    tensors = [_arrays(seed, mib, "safetensors") for seed in (0, 1)]
    arrays = [_arrays(seed, mib, "npz") for seed in (0, 1)]
    made: list[Target] = []

    def kept(content: bytes) -> Path:
        """On disk, so that the processes stay small."""
        path = home / hashlib.sha256(content).hexdigest()
        if not path.exists():
            path.write_bytes(content)
        return path

    def add(
        name: str, arguments: tuple[str, ...], file: str, pair: list[bytes],
        files: dict[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        if only and name not in only:
            return
        there = {file: pair[0]} | (files or {})
        paths = {one: kept(content) for one, content in there.items()}
        output = "out" if "-o" in arguments else ""
        made.append(Target(name, arguments, file, paths, kept(pair[1]), output))

    add("cluster native", ("cluster", "in", *few), "in", native)
    add("calibrate native", ("cluster", "in", *calibrate), "in", narrow)
    add("cluster safetensors", ("cluster", "in", *few), "in", plain)
    add("calibrate safetensors", ("cluster", "in", *calibrate), "in", whole)
    add("cluster zip", ("cluster", "in", *few), "in", zipped)
    add("cluster zip --keep-extra", ("cluster", "in", "--keep-extra", *few), "in", zipped)
    add("calibrate zip", ("cluster", "in", *calibrate), "in", whole_zipped)
    add("cluster legacy", ("cluster", "in", *few), "in", legacy)
    add("cluster shards", ("cluster", "model.index.json", *few), "b.safetensors",
        [shard["b.safetensors"] for shard in shards], shards[0])  # fmt: skip
    add("expand", ("expand", "in", "-o", "out"), "in", packed)
    add("expand extra", ("expand", "in", "-o", "out"), "in", extra)
    add("inspect packed", ("inspect", "in", "--json"), "in", packed)
    add("inspect --check", ("inspect", "in", "--check"), "in", packed)
    add("inspect safetensors", ("inspect", "in", "--json"), "in", plain)
    add("inspect zip", ("inspect", "in", "--json"), "in", zipped)
    add("eval packed", ("eval", "in", "--dataset", "digits", "--json"), "in", whole_packed)
    add("eval zip", ("eval", "in", "--dataset", "digits", "--json"), "in", whole_zipped)
    add("eval data", ("eval", "in", "--data", "d.safetensors", "--json"), "d.safetensors", tensors,
        {"in": whole[0]})  # fmt: skip
    add("eval npz", ("eval", "in", "--data", "d.npz", "--json"), "d.npz", arrays, {"in": whole[0]})
    add("calibrate data", ("cluster", "in", *calibrate[:1], "d.safetensors", *calibrate[2:]),
        "d.safetensors", tensors, {"in": whole[0]})  # fmt: skip
    add("finetune", ("finetune", "in", "--dataset", "digits", "--epochs", "1", "--batch-size",
                     "1024", "-o", "out"), "in", whole_packed)  # fmt: skip
    add("finetune --distill", ("finetune", "in", "--dataset", "digits", "--epochs", "1",
                               "--batch-size", "1024", "--distill", "d", "-o", "out"),
        "d", whole, {"in": whole_packed[0]})  # fmt: skip
    return made


class Changes:
    """The commands that read; `mib` is the size of what changes."""

    name = "changes"

    def __init__(self, mib: float = 24.0, only: tuple[str, ...] = ()) -> None:
        limits.prepare()
        commands.prepare()
        self.home = Path(tempfile.mkdtemp(prefix="fuzz-"))
        weakref.finalize(self, shutil.rmtree, self.home, ignore_errors=True)
        self.targets = _targets(mib, self.home, only)
        heads = {}
        for number, target in enumerate(self.targets):
            if heads.setdefault(target.arguments[:1], target) is target:
                folder = self._folder(f"first-{number}", target)
                commands.warm_up(folder, *target.arguments)
                self._remove(folder)
        commands.settle()
        for number, target in enumerate(self.targets):
            for turn, content in enumerate((target.files[target.changing], target.other)):
                folder = self._folder(f"reference-{number}-{turn}", target)
                shutil.copyfile(content, folder / target.changing)
                done = commands.run(folder, *target.arguments)
                assert done.code == 0, (target.name, done)
                target.answers.add(_answer(folder, target, done))
                target.seconds = done.seconds
                self._remove(folder)

    def _folder(self, name: str, target: Target) -> Path:
        folder = self.home / name
        folder.mkdir()
        for file, content in target.files.items():
            shutil.copyfile(content, folder / file)
        return folder

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("stdout", "stderr"):
            Path(f"{folder}.{name}").unlink(missing_ok=True)

    def make(self, draw: Random) -> Case:
        plan = Plan(draw.randrange(len(self.targets)), draw.choice(_WAYS), draw.random() ** 1.5,
                    draw.random())  # fmt: skip
        target = self.targets[plan.target]
        story = [target.name, f"{plan.way} at {plan.share:.2f} of its duration, {plan.where:.2f}"]
        return Case(repr(plan).encode(), story, plan)

    def judge(self, case: Case, slot: Slot | None) -> Verdict:
        if slot:
            slot.stage("run")
        verdict = Verdict()
        plan: Plan = case.extra
        target = self.targets[plan.target]
        folder = self._folder(f"case-{os.getpid()}-{time.monotonic_ns()}", target)
        changed: list[float] = []
        try:
            done = commands.run(
                folder, *target.arguments,
                meanwhile=lambda child, begin: _change(folder, target, plan, child, begin, changed),
            )  # fmt: skip
            self._judge(folder, target, plan, done, bool(changed), verdict)
        finally:
            self._remove(folder)
        return verdict

    def _judge(
        self, folder: Path, target: Target, plan: Plan, done: commands.Ended, changed: bool,
        verdict: Verdict,
    ) -> None:  # fmt: skip
        way = plan.way if changed else "not changed"
        if done.code < 0:
            name = signal.Signals(-done.code).name
            verdict.outcome = name
            verdict.fault(f"{target.name}, {way}: {name}")
        elif done.code == 0:
            right = _answer(folder, target, done) in target.answers
            verdict.outcome = "right" if right else "wrong"
            if not right:
                verdict.fault(f"{target.name}, {way}: another answer, exit code 0")
        elif _SENTENCE in done.stderr and done.code == 1:
            verdict.outcome = "told as changed"
        elif done.code == 3 and changed and "Traceback" not in done.stderr:
            verdict.outcome = "refused as invalid"
        else:
            verdict.outcome = "another end"
            gist = done.stderr.strip().splitlines()[-1:] or [""]
            words = " ".join(w for w in gist[0].split() if w.isalpha())[:60]
            verdict.fault(f"{target.name}, {way}: exit code {done.code} ({words})", gist[0][:300])
        if done.code != 0 and target.output and (folder / target.output).exists():
            verdict.fault(f"{target.name}, {way}: an output in spite of exit code {done.code}")


def _answer(folder: Path, target: Target, done: commands.Ended) -> bytes:
    """The output's bytes, or what was printed without its times."""
    if target.output:
        return (folder / target.output).read_bytes()
    return re.sub(rb'"seconds": [-0-9.e]+', b"", done.stdout)


def _change(
    folder: Path, target: Target, plan: Plan, child: int, begin: float, changed: list[float]
) -> None:
    """Change the file when the moment has come and the command has opened it."""
    path = folder / target.changing
    while commands.alive(child) and not _is_read(child, path):
        time.sleep(0.0002)
    opened = time.monotonic()
    rest = max(0.0, target.seconds - (opened - begin))
    end = opened + plan.share * rest
    while time.monotonic() < end and commands.alive(child):
        time.sleep(0.0005)
    if not commands.alive(child):
        return
    changed.append(time.monotonic() - opened)
    size, other = path.stat().st_size, target.other.read_bytes()
    if plan.way == "truncate":
        os.truncate(path, int(size * plan.where))
    elif plan.way == "empty":
        os.truncate(path, 0)
    elif plan.way == "rename":
        aside = folder / "aside"
        shutil.copyfile(target.other, aside)
        aside.replace(path)
    else:
        with path.open("r+b") as file:
            if plan.way == "other":
                file.write(other)
                file.truncate()
            else:
                file.seek(int(size * plan.where))
                file.write(b"\xff" * min(_MIB, size - file.tell()))


def _is_read(child: int, path: Path) -> bool:
    """Whether a process has this file open, or mapped."""
    try:
        number = path.stat().st_ino
        if f" {number} " in Path(f"/proc/{child}/maps").read_text():
            return True
        handles = Path(f"/proc/{child}/fd")
        return any(handle.samefile(path) for handle in handles.iterdir())
    except OSError:
        return False
