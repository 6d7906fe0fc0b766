"""Time and memory of commands on files of many layers, many tensors, many shards, long headers.

    python -m tests.benchmarks.many [--cases native shards ...] [--share 1] [--results FILE]

Makes each file at a quarter, a half and the whole of its size in a temporary directory, and runs
`inspect`, `cluster -k 4` and `expand` on it, each in a process of its own. Times are those of the
processor, of which a run on a file of two layers is taken away; linear is a ratio of 2.0 a step.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import kancompress
from kancompress.formats.safetensors import MAX_HEADER
from kancompress.models.records import Checkpoint
from kancompress.specs import Family, default_basis

State = dict[str, torch.Tensor]

LAYERS = 20_000
SHARDS = 200
TENSORS = 100_000
HEADER = 50_000_000
_OUT, _IN = 6, 4  # edges of a layer
_STEPS = 3  # each of twice the size before it
_LEAST = 0.5  # seconds of which a ratio says something
_LINES = 2_000  # layers of the file with a long header

# Runs a command, and prints seconds of the processor and the peak of its memory. What a parent
# holds when it starts a child counts for the child, so the parent has imported next to nothing.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(done.returncode)
"""


def efficient_kan(layers: int, prefix: str = "layers") -> State:
    """A state dict as efficient-kan saves it, scaler included."""
    rng = np.random.default_rng(0)
    grid = torch.linspace(-2.2, 2.2, 12).expand(_IN, -1)
    state: State = {}
    for number in range(layers):
        at = f"{prefix}.{number}."
        state[at + "grid"] = grid.clone()
        state[at + "base_weight"] = _numbers(rng, _OUT, _IN)
        state[at + "spline_weight"] = _numbers(rng, _OUT, _IN, 8)
        state[at + "spline_scaler"] = torch.ones(_OUT, _IN)
    return state


def fast_kan(layers: int) -> State:
    """A state dict as fast-kan saves it."""
    rng = np.random.default_rng(0)
    state: State = {}
    for number in range(layers):
        at = f"layers.{number}."
        state[at + "layernorm.weight"] = torch.ones(_IN)
        state[at + "layernorm.bias"] = torch.zeros(_IN)
        state[at + "rbf.grid"] = torch.linspace(-2, 2, 8)
        state[at + "spline_linear.weight"] = _numbers(rng, _OUT, _IN * 8)
        state[at + "base_linear.weight"] = _numbers(rng, _OUT, _IN)
        state[at + "base_linear.bias"] = torch.zeros(_OUT)
    return state


def native(layers: int, path: Path) -> None:
    """A dense checkpoint of kancompress's own."""
    rng = np.random.default_rng(0)
    tensors = {f"{number}.coefficients": _numbers(rng, _OUT, _OUT, 9) for number in range(layers)}
    model = Checkpoint(
        kind="dense",
        basis=default_basis(Family.KAN),
        shapes=((_OUT, _OUT),) * layers,
        data=None,
        tensors=tensors,
    )
    path.write_bytes(model.encode())


def shards(layers: int, path: Path) -> None:
    """An index whose shards hold efficient-kan's layers in equal parts."""
    state = efficient_kan(layers)
    count = max(1, SHARDS * layers // LAYERS)
    names = list(state)
    weight_map: dict[str, str] = {}
    for number in range(count):
        part = names[number * len(names) // count : (number + 1) * len(names) // count]
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        save_file({name: state[name] for name in part}, path.with_name(file))
        weight_map |= dict.fromkeys(part, file)
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def few_edges(tensors: int, path: Path) -> None:
    """Linear layers and norms, and four KAN layers among them."""
    state = efficient_kan(4, "head")
    for number in range(max(0, tensors - len(state)) // 4):
        at = f"blocks.{number}."
        state[at + "linear.weight"] = torch.zeros(2, 3)
        state[at + "linear.bias"] = torch.zeros(2)
        state[at + "norm.weight"] = torch.ones(2)
        state[at + "norm.bias"] = torch.zeros(2)
    save_file(state, path)


def long_names(header: int, path: Path) -> None:
    """A header of so many bytes, through the names of layers that are as many at every size."""
    layers = min(_LINES, header // 1000)
    room = header // (layers * 4) - 130
    save_file(efficient_kan(layers, ".".join(["a" * 50] * (room // 51))), path)


def long_metadata(header: int, path: Path) -> None:
    """A header of so many bytes, through its metadata."""
    entries = {f"note {number}": "x" * 990 for number in range(header // 1010)}
    save_file(efficient_kan(2), path, metadata=entries)


def _numbers(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _saved(make: Callable[[int], State], save: Callable[..., Any]) -> Callable[[int, Path], None]:
    return lambda size, path: save(make(size), path)


@dataclass(frozen=True)
class Case:
    """A kind of file: what it is made by, its size, what that counts, and how its name ends."""

    name: str
    make: Callable[[int, Path], None]
    size: int
    unit: str
    end: str = ".safetensors"


CASES = (
    Case("native", native, LAYERS, "layers"),
    Case("efficient-kan", _saved(efficient_kan, save_file), LAYERS, "layers"),
    Case("efficient-kan-torch", _saved(efficient_kan, torch.save), LAYERS, "layers", ".pt"),
    Case("fast-kan", _saved(fast_kan, save_file), LAYERS, "layers"),
    Case("fast-kan-torch", _saved(fast_kan, torch.save), LAYERS, "layers", ".pt"),
    Case("shards", shards, LAYERS, "layers", ".safetensors.index.json"),
    Case("few-edges", few_edges, TENSORS, "tensors"),
    Case("long-names", long_names, HEADER, "bytes of header"),
    Case("long-metadata", long_metadata, HEADER, "bytes of header"),
)


@dataclass(frozen=True)
class Run:
    """What one command took: seconds of the processor and megabytes; or why it ended."""

    command: str
    seconds: float
    megabytes: float
    refused: str = ""


def measured(command: str, *words: str) -> Run:
    """Run a command of kancompress."""
    line = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "kancompress", command, *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    seconds, most = map(float, done.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024
    refused = done.stderr.strip().splitlines()[-1] if done.returncode else ""
    return Run(command, seconds, most * unit / 1e6, refused)


def commands(path: Path) -> Iterator[Run]:
    """What each command takes on one file; those that need an output that is not there are left."""
    packed, restored = path.with_name("packed.safetensors"), path.with_name(f"back{path.suffix}")
    if restored.suffix == ".json":
        restored = restored.with_suffix(".safetensors")
    yield measured("inspect", str(path))
    run = measured("cluster", str(path), "-k", "4", "-o", str(packed), "--force", "--force-pack")
    yield run
    if run.refused:
        return
    yield Run("packed", *_second(measured("inspect", str(packed))))
    yield measured("expand", str(packed), "-o", str(restored), "--force")


def _second(run: Run) -> tuple[float, float, str]:
    return run.seconds, run.megabytes, run.refused


def case(one: Case, share: float) -> Iterator[dict[str, Any]]:
    """A record for each size and command of one kind of file."""
    with tempfile.TemporaryDirectory() as directory:
        tiny: dict[str, float] = {}
        for step in (None, *range(_STEPS)):
            path = Path(directory) / f"{step}" / f"model{one.end}"
            path.parent.mkdir()
            size = 2 if step is None else round(one.size * share) >> (_STEPS - 1 - step)
            one.make(2000 if step is None and one.unit == "bytes of header" else size, path)
            for run in commands(path):
                if step is None:
                    tiny[run.command] = run.seconds
                    continue
                yield {
                    "case": one.name,
                    "size": size,
                    "unit": one.unit,
                    "file": sum(p.stat().st_size for p in path.parent.glob("model*")),
                    "command": run.command,
                    "seconds": round(run.seconds, 2),
                    "above_tiny": round(run.seconds - tiny[run.command], 2),
                    "megabytes": round(run.megabytes),
                    "refused": run.refused,
                    "machine": platform.machine(),
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "kancompress": kancompress.__version__,
                }


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: for each file and command the seconds at the largest size, and ratios."""
    lines = [
        "| file | size | MB | command | s | ratio | ratio | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["case"], record["command"]), []).append(record)
    for (name, command), group in groups.items():
        last = group[-1]
        times = [record["above_tiny"] for record in group]
        ratios = [
            f"{after / before:.1f}" if before >= _LEAST else "" for before, after in pairwise(times)
        ]
        ratios += [""] * (_STEPS - 1 - len(ratios))
        said = f" refused: {last['refused']}" if last["refused"] else ""
        size = f"{last['size']:,} {last['unit']}"
        lines.append(
            f"| {name} | {size} | {last['file'] / 1e6:,.1f} | {command}{said}"
            f" | {last['seconds']:,.1f} | {' | '.join(ratios)} | {last['megabytes']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table, and add the records to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=[one.name for one in CASES])
    parser.add_argument("--share", type=float, default=1, help="of each size")
    parser.add_argument("--results", type=Path, help="a file of JSON lines to add records to")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, torch"
        f" {torch.__version__}, kancompress {kancompress.__version__};"
        f" the reader's bound of a header is {MAX_HEADER:,} bytes\n"
    )
    records: list[dict[str, Any]] = []
    for one in CASES:
        if one.name not in options.cases:
            continue
        for record in case(one, options.share):
            records.append(record)
            print(
                record["case"],
                record["size"],
                record["command"],
                record["seconds"],
                record["above_tiny"],
                record["megabytes"],
                record["refused"],
                file=sys.stderr,
            )
            if options.results:
                with options.results.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
