"""Cells of long measurements: one JSON line each, appended when done and not run again."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

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
