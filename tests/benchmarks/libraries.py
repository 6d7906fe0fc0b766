"""Sizes and scores of other libraries' checkpoints before and after packing and fine-tuning.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.libraries --data-dir DIR [--cases ...] [--seeds 0]

Each case trains a network, saves its state dict as the library's `torch.save` does, and goes
through files as the commands do: `cluster` with plain k-means, with --calibrate and with a target
of bytes (indices priced, codebooks float16), `expand`, `finetune`. Scores are those of the files,
read back: accuracy on MNIST's test rows, or the root mean squared error. Each is appended to the
results file when it is done and is not run again; trained checkpoints are kept in --work. --table
only prints.

efficient-kan and fast-kan are not on PyPI: native twins are trained and their tensors written
under the library's names (tests/test_golden.py has that the twins compute what the libraries do).
pykan's network is trained by pykan. torch-conv-kan's is tests/benchmarks/convolutional.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import kancompress
from kancompress import (
    CalibrationConfig,
    ClusterConfig,
    DataOptions,
    FinetuneConfig,
    StoredDtype,
    Target,
    TrainConfig,
)
from kancompress.data import datasets
from kancompress.models.records import Checkpoint, PackedModel
from tests.benchmarks.convolutional import SimpleConvKagn

RESULTS = Path(__file__).parent / "results" / "libraries.jsonl"
CLUSTERS = (16, 64)
# Bytes of the whole file where indices are priced.
TARGETS = {"efficient-kan": 13_988, "fast-kan": 17_964, "pykan": 10_000, "torch-conv-kan": 8_894}
State = dict[str, Tensor]


@dataclass(frozen=True)
class Made:
    """A trained checkpoint: what it holds, its data, and how long codebooks are tuned on them.

    build : the class that runs it, where its forward is not ours
    real  : scores a restored state dict in the library's own class
    """

    state: State
    data: DataOptions
    epochs: int = 3
    build: Callable[[], nn.Module] | None = None
    real: Callable[[State], float] | None = None


# --- the cases ------------------------------------------------------------------------------


def trained_twin(model: str, data: DataOptions, seed: int) -> Checkpoint:
    config = TrainConfig(lr=1e-3, epochs=8, seed=seed)
    return kancompress.train(model, data, config, hidden=(64,)).checkpoint


def efficient_kan(data: DataOptions, seed: int) -> Made:
    """[784, 64, 10]; a scaler is drawn at random and divided out, so that it has work to do."""
    record = trained_twin("kan", data, seed)
    rng = torch.Generator().manual_seed(seed)
    state: State = {}
    for number, (out, inputs) in enumerate(record.shapes):
        at, weights = f"layers.{number}.", record.tensors[f"{number}.coefficients"]
        scaler = torch.rand((out, inputs), generator=rng) + 0.5
        state[at + "base_weight"] = weights[..., -1].contiguous()
        state[at + "spline_weight"] = weights[..., :-1] / scaler[..., None]
        state[at + "spline_scaler"] = scaler
        state[at + "grid"] = (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1)
    return Made(state, data)


def fast_kan(data: DataOptions, seed: int) -> Made:
    """[784, 64, 10]."""
    record = trained_twin("fastkan", data, seed)
    state: State = {}
    for number, (out, _) in enumerate(record.shapes):
        at, weights = f"layers.{number}.", record.tensors[f"{number}.coefficients"]
        weight, bias = record.tensors[f"{number}.norm"]
        state[at + "layernorm.weight"], state[at + "layernorm.bias"] = weight.clone(), bias.clone()
        state[at + "rbf.grid"] = torch.linspace(-2, 2, 8)
        state[at + "spline_linear.weight"] = weights[..., :-1].reshape(out, -1)
        state[at + "base_linear.weight"] = weights[..., -1].contiguous()
        state[at + "base_linear.bias"] = record.tensors.get(f"{number}.bias", torch.zeros(out))
    return Made(state, data)


def pykan(data: DataOptions, seed: int) -> Made:
    """[4, 32, 32, 1] by pykan itself, on exp((sin pi(a^2 + b^2) + sin pi(c^2 + d^2)) / 2)."""
    from kan import KAN

    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (6000, 4)).astype(np.float32)
    sines = np.sin(np.pi * (x[:, :2] ** 2).sum(1)) + np.sin(np.pi * (x[:, 2:] ** 2).sum(1))
    y = np.exp(sines / 2)[:, None].astype(np.float32)
    file = data.directory / "pykan.npz"
    np.savez(file, x=x[:4000], y=y[:4000], x_test=x[4000:], y_test=y[4000:])

    def build() -> nn.Module:
        model: nn.Module = KAN(
            width=[4, 32, 32, 1], grid=5, k=3, seed=seed, auto_save=False, symbolic_enabled=False
        )
        model.save_act = False
        return model

    model = build()
    rows, targets = torch.from_numpy(x), torch.from_numpy(y)
    steps = 2000
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    torch.manual_seed(seed)
    for _ in range(steps):
        some = torch.randint(0, 4000, (512,))
        optimizer.zero_grad()
        functional.mse_loss(model(rows[some]), targets[some]).backward()
        optimizer.step()
        schedule.step()

    def real(state: State) -> float:
        again = build()
        again.load_state_dict(state)
        with torch.no_grad():
            return float(functional.mse_loss(again(rows[4000:]), targets[4000:]).sqrt())

    return Made(model.state_dict(), DataOptions(file=file), epochs=50, real=real)


def torch_conv_kan(data: DataOptions, seed: int) -> Made:
    """SimpleConvKAGN with 8, 16, 32 and 32 channels, two epochs of MNIST."""
    shaped = replace(data, shape=(1, 28, 28))
    rows = datasets.load_for_training(shaped, seed=seed).train
    torch.manual_seed(seed)
    model = SimpleConvKagn()
    epochs, batch = 2, 128
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=epochs * (len(rows) // batch + 1)
    )
    for _ in range(epochs):
        for some in torch.randperm(len(rows)).split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(model(rows.x[some]), rows.y[some]).backward()
            optimizer.step()
            schedule.step()
    return Made(model.state_dict(), shaped, build=SimpleConvKagn)


CASES: dict[str, Callable[[DataOptions, int], Made]] = {
    "efficient-kan": efficient_kan,
    "fast-kan": fast_kan,
    "pykan": pykan,
    "torch-conv-kan": torch_conv_kan,
}


# --- running them ---------------------------------------------------------------------------


def tensor_bytes(path: Path) -> int:
    """Bytes of a file's tensors: all but the header of a safetensors file."""
    if path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def scored(made: Made, path: Path) -> float:
    model = made.build() if made.build else None
    found = kancompress.evaluate(path, made.data, model=model).score
    return found.accuracy if found.rmse is None else found.rmse


Stage = tuple[str, int | None]
STAGES: list[Stage] = [
    ("trained", None),
    *((stage, k) for k in CLUSTERS for stage in ("packed", "fine-tuned", "by outputs")),
    ("priced", None),
]


def trained_case(name: str, data: DataOptions, seed: int, work: Path) -> Made:
    """A case's checkpoint, from an earlier run where `work` has one and only the weights matter."""
    path = work / f"{name}_{seed}.pt"
    if path.exists() and name not in ("pykan", "torch-conv-kan"):
        return Made(torch.load(path, weights_only=True), data)
    made = CASES[name](data, seed)
    work.mkdir(parents=True, exist_ok=True)
    torch.save(made.state, path)
    return made


def run_case(
    name: str, data: DataOptions, seed: int, work: Path, done: set[Stage]
) -> list[dict[str, Any]]:
    """Every stage of a case that is not done."""
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        local = replace(data, directory=place) if name == "pykan" else data
        made = trained_case(name, local, seed, work)

        def note(stage: str, clusters: int | None, path: Path) -> None:
            if (stage, clusters) in done:
                return
            row = {"case": name, "seed": seed, "stage": stage, "clusters": clusters}
            row |= {"score": scored(made, path), "accuracy": name != "pykan"}
            row |= {"file": path.stat().st_size, "tensors": tensor_bytes(path)}
            if stage != "trained":
                restored = place / "restored.pt"
                restored.write_bytes(kancompress.expand(path).encode())
                row["restored"] = scored(made, restored)
                if made.real:
                    row["real"] = made.real(torch.load(restored, weights_only=True))
            rows.append(row | machine)
            print(json.dumps(rows[-1]), flush=True)

        source = place / "model.pt"
        torch.save(made.state, source)
        note("trained", None, source)
        rows_of = replace(made.data, shape=made.data.shape or (() if made.build else None))
        if ("priced", None) not in done:
            priced = place / "priced.safetensors"
            found = kancompress.cluster(
                source,
                ClusterConfig(codebook_dtype=StoredDtype.FLOAT16),
                rows=rows_of,
                target=Target(bytes=TARGETS[name]),
                model=made.build() if made.build else None,
            )
            kancompress.save(found.model, priced)
            note("priced", None, priced)
        for clusters in CLUSTERS:
            if ("by outputs", clusters) not in done:
                better = place / f"better{clusters}.safetensors"
                by_outputs = kancompress.cluster_by_outputs(
                    source,
                    rows_of,
                    ClusterConfig(clusters=clusters),
                    CalibrationConfig(rounds=4, sweeps=2),
                    model=made.build() if made.build else None,
                )
                kancompress.save(by_outputs.model, better)
                note("by outputs", clusters, better)
            if {("packed", clusters), ("fine-tuned", clusters)} <= done:
                continue
            packed = place / f"packed{clusters}.safetensors"
            kancompress.save(
                kancompress.cluster(source, ClusterConfig(clusters=clusters)).model, packed
            )
            note("packed", clusters, packed)
            tuned = place / f"tuned{clusters}.safetensors"
            config = FinetuneConfig(lr=1e-3, epochs=made.epochs, patience=10, seed=seed)
            model = made.build() if made.build else None
            result = kancompress.finetune(packed, made.data, config, model=model).model
            assert isinstance(result, PackedModel)
            kancompress.save(result, tuned)
            note("fine-tuned", clusters, tuned)
    return rows


def finished() -> list[dict[str, Any]]:
    """Rows of the results file."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def table() -> str:
    """All results in Markdown."""
    lines = [
        "| checkpoint | seed | stage | k | test | file B | smaller | tensors B | smaller |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = {stage: number for number, stage in enumerate(STAGES)}
    cases = list(CASES)
    rows = sorted(
        finished(),
        key=lambda row: (
            cases.index(row["case"]),
            row["seed"],
            order[row["stage"], row["clusters"]],
        ),
    )
    for row in rows:
        dense = next(
            other
            for other in rows
            if (other["case"], other["seed"], other["stage"])
            == (row["case"], row["seed"], "trained")
        )
        score = f"{100 * row['score']:.2f} %" if row["accuracy"] else f"{row['score']:.4f}"
        ratios = [
            "" if row is dense else f"{dense[what] / row[what]:.1f} x"
            for what in ("file", "tensors")
        ]
        lines.append(
            f"| {row['case']} | {row['seed']} | {row['stage']} | {row['clusters'] or ''} | {score}"
            f" | {row['file']:,} | {ratios[0]} | {row['tensors']:,} | {ratios[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    names = list(dict.fromkeys(name for name, _ in STAGES))
    parser.add_argument("--stages", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--work", type=Path, default=Path("checkpoints"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    data = DataOptions(name="mnist", directory=options.data_dir)
    pending = [(case, seed) for seed in options.seeds for case in options.cases]
    for case, seed in [] if options.table else pending:
        mine = [row for row in finished() if (row["case"], row["seed"]) == (case, seed)]
        done: set[Stage] = {(row["stage"], row["clusters"]) for row in mine}
        done |= {stage for stage in STAGES if stage[0] not in options.stages}
        if done.issuperset(STAGES):
            continue
        rows = run_case(case, data, seed, options.work, done)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    print(table())


if __name__ == "__main__":
    main()
