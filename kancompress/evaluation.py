"""Accuracy, loss and predictions of dense, meta and packed networks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import Tensor

from kancompress import fitting
from kancompress.checkpoint import Checkpoint
from kancompress.datasets import Dataset
from kancompress.errors import UsageError
from kancompress.fitting import Score
from kancompress.nn.network import build
from kancompress.packed import PackedModel


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evaluation:
    """A score on the test rows, the outputs behind it (rows, width), and the seconds they took."""

    score: Score
    outputs: Tensor
    seconds: float


def evaluate_record(record: Checkpoint | PackedModel, data: Dataset) -> Evaluation:
    """Run a network over the test rows. Packed networks run from codebooks and indices.

    Raises UsageError when the data does not fit the network.
    """
    check_fit(record, data)
    network = build(record)
    start = time.perf_counter()
    outputs = fitting.predict(network, data.test.x)
    seconds = time.perf_counter() - start
    return Evaluation(
        score=fitting.score_outputs(outputs, data.test.y), outputs=outputs, seconds=seconds
    )


def check_fit(record: Checkpoint | PackedModel, data: Dataset) -> None:
    """Refuse data whose width or classes are not the network's."""
    if isinstance(record, PackedModel):
        if record.basis is None:
            raise UsageError("This packed file holds no native network; it cannot be run yet.")
        inputs, outputs = record.layers[0].shape[1], record.layers[-1].shape[0]
    else:
        inputs, outputs = record.shapes[0][1], record.shapes[-1][0]
    if data.features != inputs:
        raise UsageError(
            f"The network takes {inputs} inputs, but the data has {data.features} features a row."
        )
    remembered = record.data
    if remembered is not None and remembered.is_regression != data.spec.is_regression:
        kinds = ("classification", "regression")
        raise UsageError(
            f"The network was trained for {kinds[remembered.is_regression]}, but y holds"
            f" {kinds[data.spec.is_regression]} targets."
        )
    if data.spec.is_regression and data.spec.outputs != outputs:
        raise UsageError(
            f"The network has {outputs} outputs, but y has {data.spec.outputs} targets a row."
        )
    if data.spec.outputs > outputs:
        raise UsageError(
            f"The network tells {outputs} classes apart, but y has {data.spec.outputs}."
        )
