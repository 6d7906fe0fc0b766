"""Cells of long measurements: one JSON line each, appended when done and not run again."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import kancompress
from kancompress.recipes import default_training
from kancompress.specs import DataOptions, ModelName

FOLDER = Path(__file__).parent / "results"


def finished(name: str) -> list[dict[str, Any]]:
    """Cells in a results file, none where there is no file yet."""
    path = FOLDER / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(name: str, cell: dict[str, Any]) -> None:
    """Append a cell and print it."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(cell) + "\n")
    print(json.dumps(cell), flush=True)


def machine() -> dict[str, Any]:
    """What a cell says of where it ran."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def ran_with(cells: list[dict[str, Any]]) -> str:
    """The last line below a table."""
    versions = sorted({f"torch {cell['torch']}, {cell['machine']}" for cell in cells})
    return f"Run with {'; '.join(versions)}."


def trained(model: str, options: DataOptions, seed: int, work: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint trained with the paper's recipe, from an earlier run where `work` has one.

    Returns its path, and the epochs and seconds that its training took.
    """
    path = work / f"{options.name}_{model}_{seed}.safetensors"
    told = path.with_suffix(".json")
    if not told.exists():
        work.mkdir(parents=True, exist_ok=True)
        config = replace(default_training(ModelName(model)), seed=seed)
        start = time.perf_counter()
        done = kancompress.train(model, options, config)
        seconds = round(time.perf_counter() - start)
        kancompress.save(done.checkpoint, path, force=True)
        told.write_text(json.dumps({"epochs": done.history[-1].number, "train_seconds": seconds}))
    found: dict[str, Any] = json.loads(told.read_text())
    return path, found
