"""Memory and time of `kancompress cluster` and `expand` on large checkpoints, beside their size.

    python -m tests.benchmarks.streaming [--megabytes 1000 ...] [--layers 8 ...] [--clusters 16 ...]
        [--commands cluster expand] [--results FILE] [--label WORDS]

Makes checkpoints with random edges in a temporary directory and packs each in a process of its
own; `expand` makes what was packed dense again. The peak is that of the resident set, as the kernel
counts it, and the seconds are those of processors. What importing torch costs, whatever the file,
is the peak of a run on a file of a few kilobytes. `--results` adds a line for each run to a file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import kancompress
from kancompress.models.records import Checkpoint
from kancompress.specs import Family, default_basis
from tests.benchmarks import peaks

COEFFICIENTS = 9  # of an edge, spline and base together


def widths(layer_bytes: float) -> tuple[int, int]:
    """(out, in) of a layer whose edges take about so many bytes."""
    edges = layer_bytes / 4 / COEFFICIENTS
    out = max(8, round((edges / 4) ** 0.5))
    return out, max(8, round(edges / out))


def efficient_kan(shapes: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """A state dict as efficient-kan saves it, without its scaler; layers are independent."""
    rng = np.random.default_rng(0)
    state: dict[str, torch.Tensor] = {}
    for number, (out, inputs) in enumerate(shapes):
        at = f"layers.{number}."
        grid = (torch.arange(-3, 9) * 0.4 - 1).expand(inputs, -1).contiguous()
        state[at + "grid"] = grid
        for name, shape in (("base_weight", (out, inputs)), ("spline_weight", (out, inputs, 8))):
            state[at + name] = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    return state


def native(shapes: list[tuple[int, int]]) -> Checkpoint:
    """A dense checkpoint of kancompress's own whose layers feed each other."""
    rng = np.random.default_rng(0)
    width = shapes[0][0]
    chain = [(shape[0], width) for shape in [(width, width)] * len(shapes)]
    return Checkpoint(
        kind="dense",
        basis=default_basis(Family.KAN),
        shapes=tuple(chain),
        data=None,
        tensors={
            f"{number}.coefficients": torch.from_numpy(
                rng.standard_normal((*shape, COEFFICIENTS), dtype=np.float32)
            )
            for number, shape in enumerate(chain)
        },
    )


def make(kind: str, path: Path, megabytes: float, layers: int) -> None:
    """Write the checkpoint of one kind."""
    layer_bytes = megabytes * 1e6 / layers
    if kind == "native":
        side = round((layer_bytes / 4 / COEFFICIENTS) ** 0.5)
        path.write_bytes(native([(max(8, side), max(8, side))] * layers).encode())
        return
    state = efficient_kan([widths(layer_bytes)] * layers)
    if kind == "torch":
        torch.save(state, path)
    else:
        save_file(state, path)


def cluster(path: Path, clusters: int, iterations: int) -> peaks.Cost:
    """What `kancompress cluster` costs."""
    command = [sys.executable, "-m", "kancompress", "cluster", str(path), "--force"]
    command += ["-o", str(_packed(path)), "-k", str(clusters)]
    return peaks.cost([*command, "--max-iterations", str(iterations), "--force-pack"])


def expand(path: Path) -> peaks.Cost:
    """What `kancompress expand` costs on what `cluster` has packed."""
    dense = path.with_name(f"dense{path.suffix}")
    command = [sys.executable, "-m", "kancompress", "expand", str(_packed(path)), "--force"]
    return peaks.cost([*command, "-o", str(dense)])


def _packed(path: Path) -> Path:
    return path.with_name("packed.safetensors")


def peak(path: Path, clusters: int, iterations: int) -> int:
    """Most bytes of memory that `kancompress cluster` held."""
    return cluster(path, clusters, iterations).peak


def measure(path: Path, kind: str, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Each run on the files of one kind: the facts of a line of results."""
    make(kind, path, 0.01, 1)
    tiny = {"cluster": peak(path, 4, 1)}
    if "expand" in options.commands:
        tiny["expand"] = expand(path).peak
    for megabytes, layers in itertools.product(options.megabytes, options.layers):
        make(kind, path, megabytes, layers)
        size = path.stat().st_size
        for clusters in options.clusters:
            for command in ("cluster", "expand"):
                if command == "cluster":
                    found = cluster(path, clusters, options.iterations)
                elif command in options.commands:
                    found = expand(path)
                else:
                    continue
                yield {
                    "label": options.label,
                    "command": command,
                    "file": kind,
                    "layers": layers,
                    "k": clusters,
                    "bytes": size,
                    "peak": found.peak,
                    "above": found.peak - tiny[command],
                    "seconds": round(found.seconds, 2),
                    "iterations": options.iterations,
                    "torch": torch.__version__,
                    "machine": platform.machine(),
                }


def line(facts: Mapping[str, Any]) -> str:
    """A run as a line of the table."""
    size = facts["bytes"]
    return (
        f"| {facts['command']} | {facts['file']} | {facts['layers']} | {facts['k']}"
        f" | {size / 1e6:,.0f} | {facts['peak'] / 1e6:,.0f} | {facts['above'] / size:.2f}"
        f" | {facts['seconds']:.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1000], help="of each file")
    parser.add_argument("--layers", type=int, nargs="*", default=[8])
    parser.add_argument("--clusters", type=int, nargs="*", default=[16])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", default=["torch", "safetensors", "native"])
    parser.add_argument("--commands", nargs="*", default=["cluster"])
    parser.add_argument("--results", type=Path, help="file that gets a line of JSON for each run")
    parser.add_argument("--label", default="", help="what the lines of results are called")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, torch"
        f" {torch.__version__}, kancompress {kancompress.__version__};"
        f" {options.iterations} iterations\n"
    )
    print("| command | file | layers | k | file MB | peak MB | above a tiny run / file | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for kind in options.kinds:
            path = Path(directory) / f"model.{'pt' if kind == 'torch' else 'safetensors'}"
            for facts in measure(path, kind, options):
                print(line(facts), flush=True)
                if options.results is not None:
                    with options.results.open("a") as file:
                        file.write(json.dumps(facts) + "\n")
            path.unlink()


if __name__ == "__main__":
    main()
