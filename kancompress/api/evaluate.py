"""`evaluate`: the score of a file on its data, and the outputs behind it as a file."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.api import given
from kancompress.api.given import Data
from kancompress.api.numpy_rows import NumpyNetwork, check_numpy
from kancompress.api.records import own_tensors, runnable_record
from kancompress.config import Machine, RunOptions, Runtime, runtime_of
from kancompress.data import datasets
from kancompress.data.datasets import Dataset
from kancompress.formats.edges.masks import ALL_MASKED
from kancompress.formats.storage import called
from kancompress.frozen import dataclass
from kancompress.models import runnable as running
from kancompress.models.files import Input
from kancompress.models.tensors import encode
from kancompress.reporting.targets import check_predictions_target
from kancompress.specs import DataOptions, DataSpec
from kancompress.system import devices, files
from kancompress.training import loop as fitting
from kancompress.training.evaluation import Evaluation, evaluate_running, evaluate_with
from kancompress.training.loop import OnBatch
from kancompress.training.user_module import evaluate_module
from kancompress.warnings import KancompressWarning


def evaluate(
    source: Input,
    data: Data | None = None,
    *,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    runtime: Runtime | str = Runtime.TORCH,
    state: str | None = None,
    drop: Sequence[str] = (),
    name: str | None = None,
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Score a network on the test rows of its data set: one of ours, or another library's.

    source  : a dense, meta or packed file, its bytes or its record, or a checkpoint that another
              KAN library saved
    data    : where the data set lies that the file names: the path of a file with arrays x and y,
              a data set's name, or DataOptions. It is needed when that was the user's own file, and
              for other libraries' files, which name none
    options : what the tensors of another library's file do not tell
    model   : a module for another library's state dict, which is loaded into it
    machine : where to compute; cuda, else mps, else the CPU when None. A module of the user's own
              is moved there unless it is `auto`
    runtime : what runs the network, as for `predict`
    state   : of a torch file with several state dicts, such as an average of the model (EMA), the
              one that is meant: its keys with dots between them, or the last of them
    drop    : patterns of the names of tensors of another library that are left out, as for
              `cluster`
    name    : what messages call the source, its path when None
    on_batch : called after every batch with the number of batches done, and of all
    Raises UsageError where the tensors do not determine what the network computes, or the data does
    not fit it; InvalidFileError for files that cannot be read.

    >>> import kancompress
    >>> found = kancompress.evaluate("packed.safetensors")
    >>> found.score.examples
    360
    >>> tuple(found.outputs.shape)  # (rows, classes)
    (360, 10)
    """
    given.check(options=options, machine=machine, model=model)
    source, data = given.source(source, "evaluate"), given.data(data)
    scorer = Scorer(
        data=data,
        options=options,
        model=model,
        machine=machine,
        runtime=runtime_of(runtime),
        on_batch=on_batch,
    )
    return scorer.run(source, name, state, drop)[0]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scorer:
    """Scores networks on the same test rows, which are read once; fields as of `evaluate`.

    rows : that were read so far, by what was asked for
    told : warnings that were given so far, each once for all networks
    """

    data: DataOptions | None = None
    options: RunOptions | None = None
    model: nn.Module | None = None
    machine: Machine | None = None
    runtime: Runtime = Runtime.TORCH
    on_batch: OnBatch | None = None
    rows: dict[tuple[DataSpec | None, DataOptions], Dataset] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def run(
        self,
        source: Input,
        name: str | None,
        state: str | None = None,
        drop: Sequence[str] = (),
    ) -> tuple[Evaluation, Dataset]:
        """Score a network; the result and the rows behind it. Raises what `evaluate` does."""
        if self.runtime is Runtime.NUMPY:
            check_numpy(self.model, state, drop)
            return self._with_numpy(NumpyNetwork.of(source, name, self.options))
        record = runnable_record(source, name, state, drop)
        if self.model is not None:
            where = called(source, name)
            tensors = own_tensors(record, self.options, where)
            rows = self._load(None, self.data or DataOptions())
            devices.move(self.model, self.machine)
            return evaluate_module(self.model, tensors, rows, where, self.on_batch), rows
        ready = running.run(record, self.options)
        if getattr(ready.network, "silent", False) and ALL_MASKED not in self.told:
            self.told.add(ALL_MASKED)
            warnings.warn(ALL_MASKED, KancompressWarning, stacklevel=2)
        devices.put(ready.network, devices.find((self.machine or Machine()).device))
        rows = self._load(ready.data, replace(self.data or DataOptions(), images=ready.conv))
        return evaluate_running(ready, rows, self.on_batch), rows

    def _with_numpy(self, network: NumpyNetwork) -> tuple[Evaluation, Dataset]:
        def run(x: Tensor) -> Tensor:
            return torch.from_numpy(network.run(x.numpy(), fitting.EVALUATION_BATCH, self.on_batch))

        rows = self._load(network.data, replace(self.data or DataOptions(), images=network.conv))
        return evaluate_with(run, network, rows), rows

    def _load(self, spec: DataSpec | None, options: DataOptions) -> Dataset:
        key = (spec, options)
        if key not in self.rows:
            self.rows[key] = datasets.load_for_model(spec, options)
        return self.rows[key]


def save_predictions(
    evaluation: Evaluation, path: str | os.PathLike[str], *, force: bool = False
) -> int:
    """Write the outputs of the test rows: `outputs` (rows, width) float32, and for classification
    `classes` (rows,) int64.

    path  : ends in .safetensors or .npz, which names the format
    force : whether it may replace a file
    Returns the file's bytes. Raises UsageError for another suffix, an existing file without `force`
    and a directory that is not there; KancompressError where the file cannot be written.
    """
    path = Path(path)
    check_predictions_target(path, force=force)
    arrays = {"outputs": evaluation.outputs}
    if evaluation.score.accuracy is not None:
        arrays["classes"] = evaluation.outputs.argmax(1)
    if path.suffix == ".safetensors":
        return files.write(path, [encode(arrays, {})], force=force)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: t.numpy() for name, t in arrays.items()})  # type: ignore[arg-type]
    return files.write(path, [buffer.getvalue()], force=force)
