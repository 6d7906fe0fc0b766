"""Kill commands at random moments: the old output or none, the same bytes when run again, and
nothing of the user's touched.

    python tests/kills.py --seed 0 --kills 100

Every run is a fork of this process, which has loaded everything, and is killed with SIGKILL. After
it the output is what it was before or what the run makes; after one to three kills the command is
run to its end, must give the bytes of a run that nobody killed, and must leave nothing else.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import sklearn.datasets
import torch

import kancompress
from kancompress.cli.main import main
from kancompress.specs import ModelName, default_basis

OUTPUT = "out.st"
TRAIN = ["train", "--model", "kan", "--hidden", "4", "--epochs", "3", "--resume", "auto"]
COMMANDS = {
    "expand": ["expand", "packed.st"],
    "cluster": ["cluster", "dense.st", "-k", "4"],
    "calibrate": ["cluster", "dense.st", "-k", "4", "--calibrate", "digits", "--samples", "64",
                  "--method", "metric"],
    "finetune": ["finetune", "packed.st", "--epochs", "2", "--resume", "auto"],
    "train": TRAIN,
    "logged": [*TRAIN, "--log", "out.log"],
}  # fmt: skip
# What the user has there, under names that are nearly ours.
OWN = [
    f".{OUTPUT}.0123456789abcdef.part",
    f"{OUTPUT}.part",
    f"{OUTPUT}.lock",
    f"{OUTPUT}.state.old",
]


def forked(arguments: list[str], after: float | None) -> int:
    """Run a command in a fork; kill it `after` seconds. Returns its exit code."""
    child = os.fork()
    if not child:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        sys.argv = ["kancompress", *arguments]
        try:
            main()
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        os._exit(99)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def prepare() -> None:
    """The inputs, and the user's own files, in the working directory."""
    from kancompress.nn.network import initialise, to_checkpoint
    from kancompress.specs import DataSpec

    basis = default_basis(ModelName.KAN.family)
    data = DataSpec(name="digits", classes=10, mean=(0.0,), std=(1.0,))
    dense = to_checkpoint(initialise(basis, (64, 8, 10), None, 0), basis, data)
    kancompress.save(dense, "dense.st")
    kancompress.save(kancompress.cluster(dense).model, "packed.st")
    for name in OWN:
        Path(name).write_text(f"mine: {name}")


def kill(name: str, draw: random.Random, expected: bytes, seconds: float) -> tuple[int, int]:
    """Kill one command, once to three times, and run it to its end: kills, and files left then."""
    line = [*COMMANDS[name], "-o", OUTPUT]
    kept = {path.name: path.read_bytes() for path in Path.cwd().iterdir()}
    old = draw.choice([None, b"old"])
    if old:
        Path(OUTPUT).write_bytes(old)
        line.append("--force")
        if name in ("train", "finetune", "logged"):  # with --force --log starts anew
            line = [word for word in line if word not in ("--log", "out.log")]
    kills = draw.randint(1, 3)
    left = 0
    for _ in range(kills):
        forked(line, draw.uniform(0, 1.1 * seconds))
        found = Path(OUTPUT).read_bytes() if Path(OUTPUT).exists() else None
        assert found in (old, expected), f"{name}: the output is something else"
        if found == expected:
            line = [*line, *([] if "--force" in line else ["--force"])]
            line = [word for word in line if word not in ("--log", "out.log")]
        left += sum(path.suffix in (".part", ".lock") for path in Path.cwd().iterdir()) - 3
    assert forked(line, None) == 0, f"{name}: it does not run again"
    assert Path(OUTPUT).read_bytes() == expected, f"{name}: other bytes when run again"
    Path(OUTPUT).unlink()
    Path("out.log").unlink(missing_ok=True)
    now = {path.name: path.read_bytes() for path in Path.cwd().iterdir()}
    assert now == kept, f"{name}: {sorted({*now} ^ {*kept})} differ"
    return kills, left


def run(seed: int, kills: int) -> None:
    draw = random.Random(seed)
    sklearn.datasets.load_digits()
    for name in kancompress.__all__:  # so that forks load little
        getattr(kancompress, name)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        prepare()
        expected, seconds = {}, {}
        for name, line in COMMANDS.items():
            begin = time.perf_counter()
            assert forked([*line, "-o", OUTPUT], None) == 0, name
            seconds[name] = time.perf_counter() - begin
            expected[name] = Path(OUTPUT).read_bytes()
            Path(OUTPUT).unlink()
            Path("out.log").unlink(missing_ok=True)
        done = left = 0
        while done < kills:
            name = draw.choice(list(COMMANDS))
            more = kill(name, draw, expected[name], seconds[name])
            done, left = done + more[0], left + more[1]
        os.chdir("/")
    print(f"seed {seed}: {done} kills, {left} files left by them, all gone after the next run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=100)
    options = parser.parse_args()
    run(options.seed, options.kills)
