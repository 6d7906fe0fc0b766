"""One training step of `kanconv` on a CIFAR batch of 128, beside an eager layer's, as ratios.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.conv_step [--rounds 3] [--steps 4]
        [--precision bfloat16]

The other network is written as torch-conv-kan's is (`oracles.EagerConvolution`), with the same
shapes and, for the comparison of values, the same weights. A step is forward, cross-entropy,
backward and AdamW (fused). Contenders run in processes of their own, in turns; a peak is that of
the resident set as the kernel counts it, and what stands there before the first step (torch, the
network, the batch) is the peak of a process that takes none.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.layers.network import Network
from kancompress.models.native import initialise
from kancompress.specs import Family, default_basis, default_conv
from tests.benchmarks import peaks
from tests.benchmarks.oracles import EagerConvolution

CHANNELS = (3, 32, 64, 128, 256)
CLASSES, BATCH = 10, 128


class Eager(nn.Module):
    """Four eager layers, pooling, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        conv = default_conv(4)
        self.layers = nn.Sequential(
            *(
                EagerConvolution(i, o, conv.strides[n], conv.dropout[0] if n else 0.0)
                for n, (i, o) in enumerate(pairwise(CHANNELS))
            )
        )
        self.head = nn.Sequential(nn.Dropout(conv.dropout[1]), nn.Linear(CHANNELS[-1], CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, 32, 32) -> (batch, classes)."""
        found: Tensor = self.head(self.layers(x).mean((2, 3)))
        return found


def ours() -> Network:
    """The network that `train --model kanconv` trains."""
    basis, conv = default_basis(Family.KAN, conv=True), default_conv(4)
    return initialise(basis, (*CHANNELS, CLASSES), None, 0, conv=conv)


def twin(network: Network) -> Eager:
    """The eager network with the same weights."""
    found = Eager()
    with torch.no_grad():
        for layer, other in zip(network.kan_layers(), found.layers, strict=True):
            assert isinstance(other, EagerConvolution)
            coefficients = layer.edges()
            curve = coefficients[..., :-1].movedim(-1, 2).flatten(1, 2)
            other.spline.weight.copy_(curve)
            other.base.weight.copy_(coefficients[..., -1])
        assert network.head is not None
        found.head[1].weight.copy_(network.head.weight)
        found.head[1].bias.copy_(network.head.bias)
    return found


def batch() -> tuple[Tensor, Tensor]:
    """Images with pixels from -1 to 1, and classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, CHANNELS[0], 32, 32, generator=generator) * 2 - 1
    return x, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def child(kind: str, steps: int, precision: str) -> None:
    """Take steps of one contender and print the median seconds of those after the first."""
    network = twin(ours()) if kind.startswith("eager") else ours()
    x, y = batch()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    network.train()
    times = []
    for _ in range(0 if kind.endswith("idle") else steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(x)
        functional.cross_entropy(output.float(), y).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    print(statistics.median(times[1:]) if times else 0.0)


def gap(dtype: torch.dtype, images: int) -> tuple[float, float]:
    """Largest difference of outputs, and of the gradients of base weights relative to the largest
    in their layer, in training without dropout."""
    network = ours()
    other = twin(network)
    x, y = (part[:images] for part in batch())
    outputs = []
    for one in (network, other):
        one.to(dtype).train()
        for module in one.modules():
            if isinstance(module, nn.Dropout | nn.Dropout2d):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        output = one(x.to(dtype))
        functional.cross_entropy(output, y).backward()
        outputs.append(output.detach())
    slopes = 0.0
    for layer, eager in zip(network.kan_layers(), other.layers, strict=True):
        own, wanted = layer.edges.planes.grad[:, -1], eager.base.weight.grad
        slopes = max(slopes, float((own - wanted).abs().max() / wanted.abs().max()))
    return float((outputs[0] - outputs[1]).abs().max()), slopes


def main() -> None:
    """Print the table of times and peaks, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--child", choices=["kanconv", "eager", "kanconv idle", "eager idle"])
    options = parser.parse_args()
    if options.child:
        child(options.child, options.steps, options.precision)
        return
    kinds = ("kanconv", "eager")
    found: dict[str, list[tuple[float, int]]] = {kind: [] for kind in kinds}
    command = [sys.executable, "-m", "tests.benchmarks.conv_step", "--steps", str(options.steps)]
    command += ["--precision", options.precision, "--child"]
    idle = {kind: peaks.run([*command, f"{kind} idle"])[0] for kind in kinds}
    for _ in range(options.rounds):
        for kind in kinds:
            peak, printed = peaks.run([*command, kind])
            found[kind].append((float(printed), peak))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch"
        f" {torch.__version__} on {torch.get_num_threads()} threads, {options.precision},"
        f" {options.rounds} rounds of {options.steps} steps\n"
    )
    print("| step | median s | peak MB | before the steps MB |\n|---|---|---|---|")
    seconds = {kind: statistics.median(s for s, _ in found[kind]) for kind in kinds}
    peak = {kind: statistics.median(p for _, p in found[kind]) for kind in kinds}
    for kind in kinds:
        print(f"| {kind} | {seconds[kind]:.2f} | {peak[kind] / 1e6:.0f} | {idle[kind] / 1e6:.0f} |")
    own, other = (peak[kind] - idle[kind] for kind in kinds)
    outputs, slopes = gap(torch.float32, 16)[0], gap(torch.float64, 4)[1]
    print("\n| ratio | found | wanted |\n|---|---|---|")
    print(f"| time of eager / kanconv | {seconds['eager'] / seconds['kanconv']:.2f} | at least 2 |")
    print(f"| peak of kanconv / eager | {peak['kanconv'] / peak['eager']:.2f} | at most 0.6 |")
    print(f"| the same above what stands before the steps | {own / other:.2f} | |")
    print(f"| largest difference of outputs | {outputs:.1e} | at most 1e-5 |")
    print(f"| of gradients in float64, relative to the largest | {slopes:.1e} | |")


if __name__ == "__main__":
    main()
