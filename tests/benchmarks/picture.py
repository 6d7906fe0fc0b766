"""The picture of docs/guides/choose-a-method.md: accuracy against bytes of four ways to cluster.

    pip install '.[plot]'
    python -m tests.benchmarks.picture --source DENSE --data-dir DIR [-o docs/guides/clustering.svg]

Plain k-means and output-aware clustering at a common k, and output-aware clustering with k per
layer, indices of one width or priced, of one dense checkpoint; codebooks in float16, no label, no
training step.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import kancompress
from kancompress import ClusterConfig, DataOptions, StoredDtype, Target

COMMON = (2, 4, 8, 16, 32, 64)
BUDGETS = (0.45, 0.55, 0.65, 0.75, 0.9, 1.1, 1.4)
PRICED = (0.22, 0.3, 0.42, 0.6, 0.85)

Points = list[tuple[int, float]]


def measure(source: Path, data: DataOptions) -> dict[str, Points]:
    """Bytes of the file and test accuracy in percent, by way of clustering."""

    def point(done: kancompress.Compression) -> tuple[int, float]:
        accuracy = kancompress.evaluate(done.model, data).score.accuracy
        assert accuracy is not None
        return len(kancompress.encode(done.model)), 100 * accuracy

    def config(k: int) -> ClusterConfig:
        return ClusterConfig(clusters=k, codebook_dtype=StoredDtype.FLOAT16, parts=1, price=0.0)

    plain = [point(kancompress.cluster(source, config(k))) for k in COMMON]
    aware = [point(kancompress.cluster_by_outputs(source, data, config(k))) for k in COMMON]
    middle = aware[COMMON.index(16)][0]
    chosen = [
        point(
            kancompress.cluster_by_outputs(
                source, data, config(16), target=Target(bytes=int(share * middle))
            )
        )
        for share in BUDGETS
    ]
    priced = [
        point(
            kancompress.cluster_by_outputs(
                source,
                data,
                ClusterConfig(codebook_dtype=StoredDtype.FLOAT16),
                target=Target(bytes=int(share * middle)),
            )
        )
        for share in PRICED
    ]
    return {
        "by outputs, indices priced": priced,
        "plain k-means, common k": plain,
        "by outputs, common k": aware,
        "by outputs, k per layer": chosen,
    }


def draw(found: dict[str, Points], dense: tuple[int, float], title: str, path: Path) -> None:
    """One line for each way, the dense accuracy dashed."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "kancompress"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    for (name, points), marker in zip(found.items(), "^osD", strict=True):
        points = sorted(points)
        axes.plot(
            [size / 1000 for size, _ in points],
            [accuracy for _, accuracy in points],
            marker=marker,
            markersize=4,
            label=name,
        )
    axes.axhline(dense[1], linestyle="--", color="grey", linewidth=1)
    axes.annotate(
        f"dense, {dense[0] / 1000:,.0f} KB", (0.01, dense[1]), xycoords=("axes fraction", "data"),
        va="bottom", fontsize=9, color="grey",
    )  # fmt: skip
    axes.set_xscale("log")
    ticks = [3, 4, 6, 8, 10, 14, 20, 30]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("packed file, KB (1,000 bytes)")
    axes.set_ylabel("test accuracy, %")
    axes.set_ylim(max(55, min(y for line in found.values() for _, y in line) - 1), 99)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print the points and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--title", default="GramKAN [784, 32, 10] on MNIST")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/guides/clustering.svg"))
    options = parser.parse_args()
    record = kancompress.load(options.source)
    assert record.data is not None
    data = DataOptions(name=record.data.name, directory=options.data_dir)
    found = measure(options.source, data)
    print(json.dumps(found))
    accuracy = kancompress.evaluate(options.source, data).score.accuracy
    assert accuracy is not None
    dense = (options.source.stat().st_size, 100 * accuracy)
    draw(found, dense, options.title, options.output)


if __name__ == "__main__":
    main()
