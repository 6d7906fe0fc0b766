"""Peak memory of `kancompress cluster` on a large checkpoint, beside the size of its file.

    python -m tests.benchmarks.streaming [--megabytes 1000] [--layers 8] [--clusters 16]

Makes checkpoints with random edges in a temporary directory and packs each in a process of its
own. The peak is that of the resident set, as the kernel counts it. What importing torch costs,
whatever the file, is the peak of a run on a file of a few kilobytes.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

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


def peak(path: Path, clusters: int, iterations: int) -> int:
    """Most bytes of memory that `kancompress cluster` held."""
    command = [sys.executable, "-m", "kancompress", "cluster", str(path), "--force"]
    command += ["-o", str(path.with_name("packed.safetensors")), "-k", str(clusters)]
    command += ["--max-iterations", str(iterations), "--force-pack"]
    return peaks.run(command)[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1000, help="of each file")
    parser.add_argument("--layers", type=int, nargs="*", default=[8])
    parser.add_argument("--clusters", type=int, nargs="*", default=[16])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--kinds", nargs="*", default=["torch", "safetensors", "native"])
    options = parser.parse_args()
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, torch"
        f" {torch.__version__}, kancompress {kancompress.__version__};"
        f" {options.iterations} iterations\n"
    )
    print("| file | layers | k | file MB | peak MB | peak / file | above a tiny run / file |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for kind in options.kinds:
            path = Path(directory) / f"model.{'pt' if kind == 'torch' else 'safetensors'}"
            make(kind, path, 0.01, 1)
            tiny = peak(path, 4, 1)
            for layers in options.layers:
                make(kind, path, options.megabytes, layers)
                size = path.stat().st_size
                for clusters in options.clusters:
                    most = peak(path, clusters, options.iterations)
                    print(
                        f"| {kind} | {layers} | {clusters} | {size / 1e6:,.0f} | {most / 1e6:,.0f}"
                        f" | {most / size:.2f} | {(most - tiny) / size:.2f} |",
                        flush=True,
                    )
            path.unlink()


if __name__ == "__main__":
    main()
