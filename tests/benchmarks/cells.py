"""Cells of long measurements: one JSON line each, appended when done and not run again."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import kancompress
from kancompress import Machine, StateFile, Training
from kancompress.config import TrainConfig, default_training
from kancompress.specs import BasisSpec, DataOptions, MetaSpec, ModelName, default_basis
from kancompress.system import devices
from kancompress.training.history import Epoch

FOLDER = Path(__file__).parent / "results"
# Seconds between two lines that say how far a training is.
_NOW_AND_THEN = 5.0


# Where cells are kept that are not to be published; None: beside the published ones.
_own: Path | None = None
# Whether those are read alone.
_alone = False


@contextlib.contextmanager
def own_results(folder: Path | None, *, alone: bool = False) -> Iterator[None]:
    """Within it new cells go to a folder of their own, which is read beside the published ones.

    alone : the published ones are not read
    """
    global _own, _alone
    before = _own, _alone
    _own, _alone = folder, alone
    try:
        yield
    finally:
        _own, _alone = before


def finished(name: str) -> list[dict[str, Any]]:
    """Cells in a results file, published and own, none where there is no file yet."""
    folders = (_own,) if _alone else (FOLDER, _own)
    paths = [folder / f"{name}.jsonl" for folder in folders if folder is not None]
    return [
        json.loads(line)
        for path in paths
        if path.exists()
        for line in path.read_text().splitlines()
    ]


def keep(name: str, cell: dict[str, Any]) -> None:
    """Append a cell and print it."""
    folder = _own or FOLDER
    folder.mkdir(exist_ok=True, parents=True)
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(cell) + "\n")
    print(json.dumps(cell), flush=True)


def machine(where: Machine | None = None) -> dict[str, Any]:
    """What a cell says of where it ran.

    where : the run's own
    """
    told = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    device = devices.find((where or Machine()).device)
    if device.type == "cpu":
        return told
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return told | {"device": name}


def ran_with(cells: list[dict[str, Any]]) -> str:
    """The last line below a table."""
    parts = [("torch " + cell["torch"], cell["machine"], cell.get("device")) for cell in cells]
    versions = sorted({", ".join(filter(None, names)) for names in parts})
    return f"Run with {'; '.join(versions)}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A network as the paper trains it, but for what is given here.

    grid      : G of the paper's Tables 3 and 8; the network has G + 3 RBFs
    embedding : numbers of an embedding
    limit     : most epochs
    """

    model: str
    dataset: str
    seed: int = 0
    grid: int | None = None
    embedding: int | None = None
    limit: int | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What tells the cell from others in a results file; what is the recipe's is left out."""
        return {name: value for name, value in self.whole_key.items() if value is not None}

    @property
    def whole_key(self) -> dict[str, Any]:
        """The same with None for what is the recipe's."""
        return asdict(self)

    @property
    def stem(self) -> str:
        """Name of its files: cifar10_metakan_0, or cifar10_metakan_0_embedding2."""
        extra = [f"{name}{value}" for name, value in list(self.key.items())[3:]]
        return "_".join([self.dataset, self.model, str(self.seed), *extra])

    def basis(self) -> BasisSpec | None:
        """The basis, None where it is the recipe's."""
        if self.grid is None:
            return None
        name = ModelName(self.model)
        basis = default_basis(name.family, conv=name.is_conv)
        assert basis.grid is not None
        return replace(basis, grid=(*basis.grid[:2], self.grid + 3))

    def config(self) -> TrainConfig:
        """How it is trained."""
        config = replace(default_training(ModelName(self.model)), seed=self.seed)
        return config if self.limit is None else replace(config, epochs=self.limit)


class _CutError(Exception):
    """The time is up after `epochs` epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__(epochs)
        self.epochs = epochs


def in_slices(
    run: Callable[[int | None, StateFile | None, Callable[[Epoch], None]], Training],
    state: Path,
    minutes: float | None,
) -> tuple[Training, bool]:
    """A training run that goes on where it was stopped, and is cut off after so many minutes.

    run     : takes the most epochs (None is the recipe's), where the state is kept and whom to tell
              of epochs
    minutes : of epochs, those of earlier slices included
    Returns the result, best epoch and all, and whether the run came to its own end.
    """
    spent = 0.0

    def count(*epochs: Epoch) -> None:
        nonlocal spent
        spent += sum(epoch.seconds for epoch in epochs)
        if minutes is not None and spent >= 60 * minutes:
            raise _CutError(epochs[-1].number)

    going_on = StateFile(
        path=state,
        resume=state if state.exists() else None,
        on_resume=lambda epochs: count(*epochs),
    )
    try:
        done = run(None, going_on, count)
    except _CutError as cut:
        again = StateFile(path=state, resume=state)
        return run(cut.epochs, again, lambda _: None), False
    state.unlink(missing_ok=True)
    return done, True


def telling(
    name: str, most: int, tell: Callable[[Epoch], None], every: float = _NOW_AND_THEN
) -> Callable[[Epoch], None]:
    """The same, which also says now and then how far a training is, and how long it may take.

    most : epochs; every : seconds between two lines
    """
    last = time.monotonic()

    def on_epoch(epoch: Epoch) -> None:
        nonlocal last
        if epoch.number and time.monotonic() - last >= every:
            last = time.monotonic()
            left = epoch.seconds * (most - epoch.number)
            words = (
                f"{name}: epoch {epoch.number} of at most {most}; at most about {left:.0f} s left"
            )
            print(words, file=sys.stderr, flush=True)
        tell(epoch)

    return on_epoch


def is_done(cell: dict[str, Any], minutes: float | None) -> bool:
    """Whether a cell came to its end, or has had its minutes."""
    had = minutes is not None and cell["train_seconds"] >= 60 * minutes
    return cell.get("complete", True) or had


def trained(
    recipe: Recipe,
    directory: Path,
    work: Path,
    minutes: float | None = None,
    *,
    where: Machine | None = None,
    hidden: tuple[int, ...] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """A checkpoint trained with the paper's recipe, from an earlier run where `work` has one.

    directory : where the data sets lie
    minutes   : of training, after which the best epoch so far is taken; later runs go on from there
    where     : to compute
    hidden    : units or channels of each layer; the recipe's when None
    Returns its path, and the epochs and seconds that its training took; `complete` is false there
    where it was cut off.
    """
    path = work / f"{recipe.stem}.safetensors"
    told = path.with_suffix(".json")
    if not told.exists() or not is_done(json.loads(told.read_text()), minutes):
        work.mkdir(parents=True, exist_ok=True)
        config = recipe.config()

        def run(
            epochs: int | None, state: StateFile | None, tell: Callable[[Epoch], None]
        ) -> Training:
            return kancompress.train(
                recipe.model,
                DataOptions(name=recipe.dataset, directory=directory),
                config if epochs is None else replace(config, epochs=epochs),
                basis=recipe.basis(),
                hidden=hidden,
                machine=where,
                meta=None if recipe.embedding is None else MetaSpec(embedding=recipe.embedding),
                state=state,
                on_epoch=telling(recipe.stem, config.epochs, tell),
            )

        done, complete = in_slices(run, path.with_suffix(".state"), minutes)
        kancompress.save(done.checkpoint, path, force=True)
        seconds = round(sum(epoch.seconds for epoch in done.history))
        facts = {"epochs": done.history[-1].number, "train_seconds": seconds}
        told.write_text(json.dumps(facts if complete else facts | {"complete": False}))
    found: dict[str, Any] = json.loads(told.read_text())
    return path, found
