"""`compare`: two networks on the same test rows, and what lies between their outputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from kancompress.api import given
from kancompress.api.evaluate import Scorer
from kancompress.api.given import Data
from kancompress.clustering.layer import relative
from kancompress.config import Machine, RunOptions, Runtime, runtime_of
from kancompress.data.datasets import Dataset
from kancompress.errors import UsageError
from kancompress.formats.storage import called, is_native, once
from kancompress.models import lines
from kancompress.models.files import Input, encode, read_foreign
from kancompress.models.records import Checkpoint, PackedModel
from kancompress.reporting.summary import Summary, summary
from kancompress.training.evaluation import Evaluation
from kancompress.training.history import Score
from kancompress.training.loop import OnBatch


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Side:
    """One of two networks: what messages call it, its score on the rows, and its file."""

    name: str
    score: Score
    file: Summary


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Comparison:
    """Result of `compare`.

    dense, packed : the two networks: `score`, and `file` with its bytes and numbers of centroids
    equal_classes : share of rows that both give the same class; None for regression
    largest, mean : of the absolute differences between all outputs
    error         : squared difference of the outputs over the spread of the first network's
    notes         : for other libraries' files, what was taken for granted

    >>> import kancompress
    >>> found = kancompress.compare("digits.safetensors", "packed.safetensors")
    >>> found.dense.score.accuracy >= 0.8, 0 <= found.mean <= found.largest
    (True, True)
    """

    dense: Side
    packed: Side
    equal_classes: float | None
    largest: float
    mean: float
    error: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        share = self.equal_classes
        same = None if share is None else f"equal classes {lines.percent(share)}"
        error = f"error of the outputs {self.error:.3g}"
        scores = f"{self.dense.score} and {self.packed.score}"
        return lines.line("Comparison", scores, same, error)

    def _repr_html_(self) -> str:
        """For notebooks: both files, their bytes and scores."""
        rows = [(side.name, side.file.file_bytes, str(side.score)) for side in self._sides]
        return lines.table(repr(self)[1:-1], ("file", "bytes", "score"), rows, self.notes)

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.dense, self.packed

    @property
    def ratio(self) -> float | None:
        """Bytes of the first file over those of the second; None where one is no single file."""
        first, second = self.dense.file.file_bytes, self.packed.file.file_bytes
        return first / second if first and second else None

    @property
    def used_ratio(self) -> float | None:
        """The same without the bytes that no tensor uses, as a torch file may have them."""
        first, second = (
            (side.file.file_bytes or 0) - side.file.unused_bytes
            for side in (self.dense, self.packed)
        )
        return first / second if self.ratio is not None and first and second else None


def compare(
    dense: Input,
    packed: Input,
    data: Data | None = None,
    *,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    runtime: Runtime | str = Runtime.TORCH,
    state: str | None = None,
    drop: Sequence[str] = (),
    names: tuple[str | None, str | None] = (None, None),
    on_batch: OnBatch | None = None,
) -> Comparison:
    """Score two networks on the same test rows, and measure how far their outputs are apart.

    dense, packed : any two files that run, as a rule a network and what it was packed into; or
                    their bytes or records
    data          : where the data set lies, or its name or path, as for `evaluate`
    state         : which of several state dicts of the first file is meant
    drop          : patterns of the names of its tensors that are left out
    names         : what messages call the two, their paths when None
    on_batch      : called after every batch of either with the number of batches done, and of all
    The rest is as for `evaluate`, and so are the errors; UsageError also where the two networks
    have other test rows, or outputs of another width.

    >>> import kancompress
    >>> found = kancompress.compare("digits.safetensors", "packed.safetensors")
    >>> found.ratio > 3, found.equal_classes > 0.9, found.error < 0.1
    (True, True, True)
    >>> found.packed.score.examples
    360
    """
    given.check(options=options, machine=machine, model=model)
    # read before any work, as each is opened more than once
    (dense, first_name), (packed, second_name) = (
        once(given.source(source, "compare"), name)
        for source, name in zip((dense, packed), names, strict=True)
    )
    names = first_name, second_name
    scorer = Scorer(
        data=given.data(data),
        options=options,
        model=model,
        machine=machine,
        runtime=runtime_of(runtime),
        on_batch=on_batch,
    )
    first, second = (
        scorer.run(source, name, *own)
        for source, name, own in ((dense, names[0], (state, drop)), (packed, names[1], ()))
    )
    called_so = _called(dense, names[0], "first"), _called(packed, names[1], "second")
    _check(first, second, called_so)
    a, b = first[0].outputs, second[0].outputs
    gap = (a.double() - b.double()).abs()
    same = None
    if first[0].score.accuracy is not None:
        same = float((a.argmax(1) == b.argmax(1)).double().mean())
    sides = [
        Side(name=where, score=found.score, file=_summary(source, name, own))
        for where, (found, _), source, name, own in zip(
            called_so, (first, second), (dense, packed), names, (state, None), strict=True
        )
    ]
    return Comparison(
        dense=sides[0],
        packed=sides[1],
        equal_classes=same,
        largest=float(gap.max()),
        mean=float(gap.mean()),
        error=relative(b, a),
        notes=tuple(dict.fromkeys((*first[0].notes, *second[0].notes))),
    )


def _check(
    first: tuple[Evaluation, Dataset], second: tuple[Evaluation, Dataset], names: tuple[str, str]
) -> None:
    """Refuse networks that were not run over the same rows."""
    rows = [data.test.y for _, data in (first, second)]
    if not torch.equal(*rows):
        raise UsageError(
            f"{names[0]} and {names[1]} were trained on rows that were divided in other ways, so"
            " they have no test rows in common; give arrays x_test and y_test with `file=FILE`.",
            fields=("file",),
        )
    widths = [found.outputs.shape[1] for found, _ in (first, second)]
    if widths[0] != widths[1]:
        raise UsageError(
            f"{names[0]} has {widths[0]} outputs and {names[1]} {widths[1]}; networks with as many"
            " outputs can be compared."
        )


def _called(source: Input, name: str | None, place: str) -> str:
    """What messages call one of two networks."""
    is_path = isinstance(source, str | os.PathLike)
    return called(source, name) if is_path or name else f"the {place} network"


def _summary(source: Input, name: str | None, state: str | None) -> Summary:
    """The numbers of a file; a record in memory weighs what its file would."""
    opened, name = once(source, name)
    if isinstance(opened, Checkpoint | PackedModel):
        return summary(encode(opened), name)
    found = summary(opened, name)
    if found.file_bytes is None or is_native(opened):
        return found
    return replace(found, unused_bytes=read_foreign(opened, name, state=state).unused_bytes)
