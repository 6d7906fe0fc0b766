"""What a device computes beside the CPU: the same clustering, calibration and fine-tuning on both,
and a run that goes through the calls by which processes speak to each other."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

import kancompress
from kancompress import CalibrationConfig, ClusterConfig, FinetuneConfig, Machine, PackedModel
from kancompress.api.cluster import Work
from kancompress.clustering import clusterer
from kancompress.config import Device, default_training
from kancompress.specs import DataOptions, ModelName
from kancompress.system import distributed
from tests.benchmarks.cells import Recipe, trained
from tests.benchmarks.kmeans_scale import vectors
from tests.benchmarks.paper import tables

ROOT = Path(__file__).parents[2]
CPU = Machine(device=Device.CPU)
# Of an edge of efficient-kan's layers with its defaults.
_SPLINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and on what to compare.

    device  : beside the CPU
    data    : where data sets lie
    work    : where trained networks are kept
    dataset : of the networks
    tiny    : sizes for a test
    """

    device: Device
    data: Path
    work: Path
    dataset: str
    tiny: bool = False

    @property
    def there(self) -> Machine:
        """The machine with the device."""
        return Machine(device=self.device)

    @property
    def rows(self) -> DataOptions:
        """The data set."""
        return DataOptions(name=self.dataset, directory=self.data)

    def network(self) -> Path:
        """A fully connected network after two epochs, trained on the device."""
        recipe = Recipe(model="kan", dataset=self.dataset, limit=2)
        hidden = (4,) if self.tiny else None
        return trained(recipe, self.data, self.work, where=self.there, hidden=hidden)[0]


# --- the same on both -----------------------------------------------------------------------


def calibration(place: Place) -> dict[str, Any]:
    """`cluster --calibrate` of a fully connected network."""
    source = place.network()
    samples, clusters, starts = (300, 4, 1) if place.tiny else (4096, 16, 16)
    few = CalibrationConfig(samples=samples, rounds=1, sweeps=1, starts=starts)

    def run(machine: Machine) -> kancompress.Compression:
        config = ClusterConfig(clusters=clusters)
        return kancompress.cluster(
            source, config, rows=place.rows, calibration=few, machine=machine
        )

    here, there, told = _both(run, place)
    errors = [_held_out(found) for found in (here, there)]
    scores = [_accuracy(found.model, place) for found in (here, there)]
    return told | {"error": errors, "accuracy": scores}


def tuning(place: Place) -> dict[str, Any]:
    """`finetune` of the same network, clustered plainly."""
    packed = kancompress.cluster(place.network(), ClusterConfig(clusters=4 if place.tiny else 16))
    config = FinetuneConfig(epochs=1)

    def run(machine: Machine) -> kancompress.Finetuning:
        return kancompress.finetune(packed.model, place.rows, config, machine=machine)

    here, there, told = _both(run, place)
    scores = [found.test for found in (here, there)]
    return told | {
        "error": [score.loss for score in scores if score],
        "accuracy": [score.accuracy for score in scores if score],
    }


def kmeans(place: Place) -> dict[str, Any]:
    """Plain k-means of one layer of a million edges, of correlated vectors."""
    edges, inputs, clusters, iterations = (1_048_576, 1024, 256, 20)
    if place.tiny:
        edges, inputs, clusters, iterations = (400, 20, 4, 2)
    state = layer(edges, inputs)
    config = ClusterConfig(clusters=clusters, max_iterations=iterations)

    def run(machine: Machine) -> kancompress.Compression:
        with _steps_of_a_device(place, machine):
            return kancompress.cluster(state, config, machine=machine)

    here, there, told = _both(run, place)
    return told | {"error": [_distance(state, found.state_dict()) for found in (here, there)]}


@contextlib.contextmanager
def _steps_of_a_device(place: Place, machine: Machine) -> Iterator[None]:
    """Within it a tiny layer goes the way of large ones on a GPU, on the CPU where that is the
    device."""
    if not place.tiny or machine is CPU:
        yield
        return
    where = torch.device(machine.device.value)
    with (
        patch.object(clusterer, "LARGE", 1),
        patch.object(Work, "_plain_device", lambda _: where),
    ):
        yield


def layer(edges: int, inputs: int) -> dict[str, Tensor]:
    """A state dict with one of efficient-kan's layers."""
    made = torch.from_numpy(vectors(edges)).view(edges // inputs, inputs, _SPLINES + 1)
    grid = (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1)
    return {
        "layers.0.base_weight": made[..., -1].contiguous(),
        "layers.0.spline_weight": made[..., :-1].contiguous(),
        "layers.0.grid": grid,
    }


def _both(run: Callable[[Machine], Any], place: Place) -> tuple[Any, Any, dict[str, Any]]:
    """What the CPU gives and what the device gives, and how they differ.

    The device runs twice, as the first time it loads its kernels.
    """
    here, on_cpu = _timed(run, CPU, place)
    first, _ = _timed(run, place.there, place)
    before = _allocated(place)
    there, on_device = _timed(run, place.there, place)
    told: dict[str, Any] = {
        "edges": sum(each.edges for each in here.model.layers),
        "moved": moved(here.model, there.model),
        "seconds": [round(on_cpu, 4), round(on_device, 4)],
        "repeats": kancompress.encode(first.model) == kancompress.encode(there.model),
    }
    if before is not None and before == _allocated(place):
        told["note"] = "the device computed nothing: this version runs it on the CPU"
    return here, there, told


def _timed(run: Callable[[Machine], Any], machine: Machine, place: Place) -> tuple[Any, float]:
    start = time.perf_counter()
    found = run(machine)
    if machine.device == Device.CUDA:
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


def _allocated(place: Place) -> int | None:
    """Pieces of memory that the device was asked for so far, where it counts them."""
    if place.device != Device.CUDA:
        return None
    return int(torch.cuda.memory_stats().get("allocation.all.allocated", 0))


def moved(here: PackedModel, there: PackedModel) -> int:
    """Edges that have another centroid in one model than in the other.

    A centroid's counterpart is the nearest one, as their order may differ.
    """
    count = 0
    for one in here.layers:
        other = there.layer(one.name)
        own, its = here.codebook_of(one), there.codebook_of(other)
        if own is None or its is None:
            count += 0 if own is its else one.edges
            continue
        nearest = torch.cdist(own.double().cpu(), its.double().cpu()).argmin(1)
        # behind the centroids there are rows for edges that are kept as they are
        kept = len(its) + torch.arange(one.edges)
        rows = torch.cat([nearest, kept])[torch.from_numpy(here.rows_of(one)).long()]
        count += int((rows != torch.from_numpy(there.rows_of(other))).sum())
    return count


def _held_out(found: kancompress.Compression) -> float:
    assert found.calibrated is not None
    assert found.calibrated.solution is not None
    return found.calibrated.solution.held_out


def _accuracy(model: PackedModel, place: Place) -> float | None:
    return kancompress.evaluate(model, place.rows, machine=CPU).score.accuracy


def _distance(state: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """Squared distance of all numbers from what they were, relative to their squares."""
    names = [name for name in state if name.endswith("weight")]
    away = sum(float((state[name] - found[name].cpu()).double().square().sum()) for name in names)
    return away / sum(float(state[name].double().square().sum()) for name in names)


# --- several processes ----------------------------------------------------------------------


class _Company(int):
    """The number of a single process that does not take itself for alone, so that every call to
    other processes is made."""

    def __eq__(self, other: object) -> bool:
        return False

    def __gt__(self, other: int) -> bool:
        return other == 1 or int.__gt__(self, other)

    __hash__ = int.__hash__


@contextlib.contextmanager
def company() -> Iterator[Counter[str]]:
    """Within it this process trains in a group of one, through NCCL on GPUs and gloo on CPUs.

    Gives the number of calls by the device of their tensors.
    """
    calls: Counter[str] = Counter()

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(value: Tensor, *arguments: Any) -> Any:
            calls[value.device.type] += 1
            return call(value, *arguments)

        return counted

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        try:
            with (
                patch.object(distributed, "count", lambda: _Company(1)),
                patch.object(dist, "all_reduce", counting(dist.all_reduce)),
                patch.object(dist, "broadcast", counting(dist.broadcast)),
            ):
                yield calls
        finally:
            dist.destroy_process_group()


def processes(place: Place) -> dict[str, Any]:
    """Training alone and through the calls of several processes: a group of one, and a process for
    each GPU where there are more."""
    several = torch.cuda.device_count() if place.device == Device.CUDA else 1
    models = ("fastkan", "metagramkanconv")
    alone = [_loss(model, place) for model in models]
    with company() as calls:
        shared = [_loss(model, place) for model in models]
    told: dict[str, Any] = {"processes": several, "losses": [alone, shared], "calls": calls}
    told["error"] = [sum(alone), sum(shared)]
    return told if several == 1 else told | {"torchrun": launched(several, place)}


def _loss(model: str, place: Place) -> float:
    """Test loss after an epoch of digits."""
    config = replace(default_training(ModelName(model)), epochs=1)
    hidden = (2, 2) if model.endswith("conv") else (4,)
    done = kancompress.train(model, "digits", config, hidden=hidden, machine=place.there)
    return done.test.loss


def launched(count: int, place: Place) -> dict[str, float]:
    """Test losses of the same network from so many processes of torchrun, and from one."""
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, count):
            output = Path(folder) / f"{processes}.safetensors"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(processes), "-m", "--", "kancompress", "train"]
            command += ["--model", "fastkan", "--hidden", "8", "--epochs", "2"]
            command += ["--device", place.device.value, "--keep-state", "never"]
            paths = [str(ROOT), os.environ.get("PYTHONPATH")]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
            subprocess.run(
                [*command, "-o", str(output)], check=True, env=environment, stdout=sys.stderr
            )
            score = kancompress.evaluate(output, machine=CPU).score
            losses[str(processes)] = score.loss
    return losses


# --- shown ----------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "processes": processes,
    "kmeans": kmeans,
    "calibration": calibration,
    "tuning": tuning,
}
NAMES = {
    "processes": "training in a group of processes",
    "kmeans": "plain k-means",
    "calibration": "clustering by outputs",
    "tuning": "fine-tuning",
}


def _note(cell: tables.Cell) -> str:
    calls = [f"{count} calls on {device}" for device, count in cell.get("calls", {}).items()]
    more = [f"loss {loss:.6g} in {n} processes" for n, loss in cell.get("torchrun", {}).items()]
    return ", ".join([*calls, *more, *filter(None, [cell.get("note")])])


def table(cells: list[tables.Cell]) -> str:
    """What was compared, a row each."""
    rows = []
    for cell in cells:
        first, second = cell["error"]
        scores = [f"{100 * value:.2f}" for value in cell.get("accuracy", ()) if value is not None]
        one, other = cell.get("seconds", (None, None))
        rows.append(
            [
                *(NAMES[cell["what"]], cell["dataset"], cell.get("device", "CPU")),
                "alone" if cell["what"] == "processes" else "CPU",
                *(tables.count(cell.get(name)) for name in ("edges", "moved")),
                *(f"{first:.6g}", f"{second / first:.6f}" if first else "", ", ".join(scores)),
                *("" if value is None else f"{value:.2f}" for value in (one, other)),
                tables.times(one, other),
                {True: "yes", False: "no", None: ""}[cell.get("repeats")],
                _note(cell),
            ]
        )
    columns = ["what", "data", "device", "beside", "edges", "on another centroid"]
    columns += ["error or loss beside", "device / beside", "test %: beside, device"]
    columns += ["seconds beside", "device", "times as fast", "same bytes again", "note"]
    return tables.footer(tables.markdown(columns, rows), cells)
