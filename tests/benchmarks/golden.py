"""Golden files of other libraries, clustered plainly and by outputs: error of their outputs.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.golden [--cases tests/cases] [--clusters 8]

Each case is a small network with random weights that a library itself saved
(tests/cases/README.md). Rows are normal, with the mean and deviation of the case's own inputs.
Errors are those of the network's outputs on 2,000 rows that were not used, squared, relative to
the outputs' spread. Cases whose forward the tensors do not tell are named and left out.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import kancompress
from kancompress import ClusterConfig, UsageError
from kancompress.clustering.layer import relative
from kancompress.models.files import read_foreign
from kancompress.models.foreign import dense_network, packed_network
from kancompress.models.records import PackedModel

ROWS, HELD_OUT = 6000, 2000


def rows_like(x: Tensor, count: int) -> Tensor:
    """Seeded normal rows with the mean and deviation of `x`, in its type."""
    generator = torch.Generator().manual_seed(0)
    free = torch.randn(count, *x.shape[1:], generator=generator, dtype=x.dtype)
    return free * x.std() + x.mean()


def errors(case: Path, clusters: int) -> tuple[float, float]:
    """Relative errors of the outputs with plain k-means and by outputs."""
    source = case / "state.pt"
    source = source if source.exists() else case / "state.safetensors"
    dense = dense_network(read_foreign(source)).eval()
    x = rows_like(load_file(case / "io.safetensors")["x"], ROWS)
    config = ClusterConfig(clusters=clusters, force_pack=True)
    test = x[-HELD_OUT:]
    found = []
    for done in (
        kancompress.cluster(source, config),
        kancompress.cluster_by_outputs(source, x[:-HELD_OUT], config),
    ):
        model = kancompress.load(kancompress.encode(done.model))
        assert isinstance(model, PackedModel)
        with torch.no_grad():
            found.append(relative(packed_network(model).eval()(test), dense(test)))
    return found[0], found[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, default=Path("tests/cases"))
    parser.add_argument("--clusters", type=int, default=8)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, torch {torch.__version__}; k = {options.clusters} in every layer,"
        f" {ROWS - HELD_OUT:,} rows to calibrate on\n"
    )
    print(
        "| case | edges | plain k-means | by outputs | plain / by outputs |\n|---|---|---|---|---|"
    )
    for case in sorted(path.parent for path in options.cases.glob("*/io.safetensors")):
        try:
            plain, better = errors(case, options.clusters)
        except UsageError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            continue
        found = kancompress.inspect(next(case.glob("state.*")))
        edges = found["totals"]["edges"]
        ratio = f"{plain / better:.1f}" if better else ""
        print(f"| {case.name} | {edges} | {plain:.3g} | {better:.3g} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
