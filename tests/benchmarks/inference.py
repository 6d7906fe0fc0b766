"""Packed inference beside dense, in time and memory, as ratios within one run.

    python -m tests.benchmarks.inference [--widths 2352 32 10] [--clusters 16] [--rounds 15]
    python -m tests.benchmarks.inference --convolutions [--clusters 256]

Each network is drawn, clustered with k-means and built twice: from its dense coefficients, and from
codebooks and indices, as `eval` runs a packed file. The two compute the same outputs from the same
batch and take turns, a burst of passes each; a ratio is the median over the rounds of the ratio of
medians. Time is what the process computes, on all threads: work beside it does not count. Memory
is what the network holds between passes, and the most that tensors take at one time during a pass,
held ones included, batch and output not.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kancompress
from kancompress.models.native import build, expand, initialise, to_checkpoint
from kancompress.specs import ConvSpec, Family, default_basis, default_conv

WARM_UP = 3
# Rows of a batch, and passes of a burst; of convolutions images, 32 x 32.
BATCHES = {1: 50, 128: 5, 1024: 1}
IMAGES = {1: 9, 16: 3, 128: 1}
SIDE = 32
CHANNELS = (3, 32, 64, 128, 256, 10)


class Peak(TorchDispatchMode):
    """Bytes of the tensors that operations make, while they live; `most` is their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._live: dict[int, list[int]] = {}  # address to bytes and number of tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it gave."""
        given = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            if address in given and address not in self._live:
                continue  # a view of what was there before
            entry = self._live.setdefault(address, [storage.nbytes(), 0])
            entry[1] += 1
            weakref.finalize(tensor, self._gone, address)
        self.most = max(self.most, sum(size for size, _ in self._live.values()))
        return result

    def _gone(self, address: int) -> None:
        entry = self._live[address]
        entry[1] -= 1
        if not entry[1]:
            del self._live[address]


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def held(network: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    tensors = {id(t): t.nbytes for t in (*network.parameters(), *network.buffers())}
    return sum(tensors.values())


def peak(network: nn.Module, x: Tensor) -> int:
    """Most bytes at one time while the network runs once, its own included."""
    with Peak() as counted:
        network(x)
    return held(network) + counted.most


def pair(
    family: Family, widths: tuple[int, ...], clusters: int, conv: ConvSpec | None
) -> tuple[nn.Module, nn.Module]:
    """The dense and the packed network, which compute the same."""
    basis = default_basis(family, conv=conv is not None)
    source = to_checkpoint(initialise(basis, widths, None, 0, conv=conv), basis, None, conv=conv)
    packed = kancompress.cluster(source, kancompress.ClusterConfig(clusters=clusters)).model
    return build(expand(packed)).eval(), build(packed).eval()


def burst(network: nn.Module, x: Tensor, passes: int) -> float:
    """Median seconds that the process computes for a pass, over a burst."""
    times = []
    for _ in range(passes):
        start = time.process_time()
        network(x)
        times.append(time.process_time() - start)
    return statistics.median(times)


@torch.inference_mode()
def rows(family: Family, options: argparse.Namespace) -> list[str]:
    """A line of the table for each size of batch."""
    widths, image, batches = tuple(options.widths), (), BATCHES
    conv = None
    if options.convolutions:
        widths, image, batches = CHANNELS, (SIDE, SIDE), IMAGES
        conv = default_conv(len(CHANNELS) - 2)
    both = pair(family, widths, options.clusters, conv)
    lines = []
    for size, passes in batches.items():
        x = torch.rand(size, widths[0], *image) * 2 - 1
        dense, packed = (network(x) for network in both)
        assert torch.allclose(dense, packed, atol=1e-4)
        for network in both:
            for _ in range(WARM_UP):
                network(x)
        found = [tuple(burst(n, x, passes) for n in both) for _ in range(options.rounds)]
        ratios = sorted(packed / dense for dense, packed in found)
        dense_ms, packed_ms = (
            1e3 * statistics.median(column) for column in zip(*found, strict=True)
        )
        memory = [measure / 1024 for measure in (*map(held, both), *(peak(n, x) for n in both))]
        lines.append(
            f"| {family.value} | {size:,} | {dense_ms:.2f} | {packed_ms:.2f} |"
            f" {statistics.median(ratios):.2f} | {ratios[0]:.2f} - {ratios[-1]:.2f} |"
            + "".join(f" {kilobytes:,.0f} |" for kilobytes in memory)
            + f" {memory[3] / memory[2]:.2f} |"
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="+", type=int, default=[2352, 32, 10])
    parser.add_argument("--convolutions", action="store_true", help="the convolutional networks")
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} on"
        f" {torch.get_num_threads()} threads, {options.rounds} rounds;"
        f" {list(CHANNELS) if options.convolutions else options.widths},"
        f" k = {options.clusters}\n"
    )
    print(
        "| model | batch | dense ms | packed ms | packed / dense | from - to | held dense KB |"
        " held packed KB | peak dense KB | peak packed KB | peak packed / dense |\n"
        f"|{'---|' * 11}"
    )
    for family in (Family.KAN, Family.FASTKAN, Family.GRAMKAN):
        for line in rows(family, options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
