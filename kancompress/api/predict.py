"""`predict`: the outputs of a network for rows without labels. With numpy it needs no torch."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from kancompress.api import given
from kancompress.api.numpy_rows import NumpyNetwork, check_numpy
from kancompress.config import Machine, RowFormat, RunOptions, Runtime, runtime_of
from kancompress.data.rows import (
    Numbers,
    as_floats,
    check_numbers,
    normalised,
    read_x,
    shaped,
)
from kancompress.errors import KancompressError, UsageError
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import from_numpy
from kancompress.formats.storage import Source
from kancompress.frozen import dataclass
from kancompress.reporting.targets import row_format
from kancompress.runtime.inputs import array_of
from kancompress.specs import DataSpec
from kancompress.system import files
from kancompress.values import chosen, each, flag, maybe, paths, settled, text, whole
from kancompress.values import path as a_path

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kancompress.models.records import Checkpoint, PackedModel
    from kancompress.training.loop import OnBatch

# What runs rows with torch; numpy needs none of it.
_TORCH = "kancompress.api.torch_rows"
BATCH = 1024


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prediction:
    """The outputs of a network for some rows, as numpy arrays.

    outputs : (rows, width) float32, or float64 where a model of your own gives that
    classes : (rows,) int64, the number of the largest output; None where it was not asked for
    shares  : (rows, width) float32, the outputs' softmax; None where it was not asked for
    notes   : what was taken for granted that the file does not tell

    >>> import kancompress
    >>> found = kancompress.predict("packed.safetensors", [[0.0] * 64], classes=True)
    >>> list(found.arrays())
    ['outputs', 'classes', 'shares']
    >>> found.encode("csv").decode().splitlines()[0].split(",")[:2]
    ['output_0', 'output_1']
    """

    outputs: npt.NDArray[np.floating[Any]]
    classes: npt.NDArray[np.int64] | None = None
    shares: npt.NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shapes = (f"{name} {list(array.shape)}" for name, array in self.arrays().items())
        return f"<Prediction: {', '.join(shapes)}>"

    def arrays(self) -> dict[str, Numbers]:
        """The arrays by their names, `outputs` first; those that there are."""
        named = {"outputs": self.outputs, "classes": self.classes, "shares": self.shares}
        return {name: array for name, array in named.items() if array is not None}

    def encode(self, form: RowFormat | str = RowFormat.NPZ) -> bytes:
        """The bytes of a file with these arrays. Raises UsageError for another format.

        form : npz and safetensors hold them by their names; csv has a header line, `output_0,...`
               and where they are there `class` and `share_0,...`, and a line for each row
        """
        match chosen("form", form, RowFormat):
            case RowFormat.SAFETENSORS:
                arrays = {name: from_numpy(array) for name, array in self.arrays().items()}
                return containers.encode(arrays, {})
            case RowFormat.CSV:
                return "".join(_lines(self.arrays())).encode()
            case RowFormat.NPZ:
                buffer = io.BytesIO()
                np.savez(buffer, **self.arrays())  # type: ignore[arg-type]
                return buffer.getvalue()

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        form: RowFormat | str | None = None,
        force: bool = False,
        inputs: Iterable[str | os.PathLike[str]] = (),
    ) -> int:
        """Write them to `path`, atomically and verified; returns the file's bytes.

        form   : as for `encode`; None is the one that the suffix names
        force  : whether it may replace a file
        inputs : files that it must not replace even then
        Raises UsageError for a suffix that names no format or another one than `form`, for an
        existing file without `force` and for one of `inputs`; KancompressError where the file
        cannot be written.
        """
        target = settled("path", path, a_path)
        form = form if form is None else chosen("form", form, RowFormat)
        own = row_format(target, form)
        files.check_target(target, force=force, inputs=settled("inputs", inputs, paths))
        return files.write(target, [self.encode(own)], force=force)


def _lines(arrays: Mapping[str, Numbers]) -> Iterable[str]:
    """A header, and a line for each row: numbers in the fewest digits that give them back."""
    heads = {"outputs": "output", "classes": "class", "shares": "share"}
    header: list[str] = []
    for name, array in arrays.items():
        one = heads[name]
        header += [one] if array.ndim == 1 else [f"{one}_{n}" for n in range(array.shape[1])]
    yield ",".join(header) + "\n"
    columns = [array.reshape(len(array), -1) for array in arrays.values()]
    for row in zip(*columns, strict=True):
        yield ",".join(str(number) for part in row for number in part) + "\n"


class RowNetwork(Protocol):
    """A network that takes rows as numpy arrays, whatever runs it.

    inputs : numbers of a row, or channels of an image
    conv   : whether it takes images
    data   : what it was trained on, where its file says
    """

    @property
    def inputs(self) -> int: ...  # noqa: D102
    @property
    def conv(self) -> bool: ...  # noqa: D102
    @property
    def data(self) -> DataSpec | None: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102
    def run(  # noqa: D102
        self, x: Numbers, batch: int, on_batch: OnBatch | None = None
    ) -> Numbers: ...


def predict(
    source: Source | Checkpoint | PackedModel,
    x: npt.ArrayLike | Tensor | str | os.PathLike[str] | bytes,
    *,
    classes: bool | None = False,
    raw: bool = False,
    runtime: Runtime | str = Runtime.TORCH,
    options: RunOptions | None = None,
    model: nn.Module | None = None,
    machine: Machine | None = None,
    state: str | None = None,
    drop: Sequence[str] = (),
    shape: tuple[int, ...] | None = None,
    batch_size: int = BATCH,
    name: str | None = None,
    on_batch: OnBatch | None = None,
) -> Prediction:
    """Outputs of a network for rows that need no labels.

    source  : as for `evaluate`: a dense, meta or packed file, its bytes or its record, or a
              checkpoint that another KAN library saved
    x       : rows (rows, inputs), of convolutions images (rows, channels, height, width), as the
              network takes them; or the path or bytes of a file with an array x (npz, safetensors,
              or npy)
    classes : also the class of each row and the shares of all, the outputs' softmax; None: where
              the file says that the network tells classes apart
    raw     : x is as the data set has it: normalise it by the mean and deviation that the file has
              of the network's data. Real numbers are pixels from 0 to 1, whole numbers pixels up to
              255, those of digits up to 16
    runtime : what runs the network. Numpy takes packed files, and dense ones of kancompress's own
    options : what the tensors of another library's file do not tell
    model   : a module for another library's state dict, which is loaded into it. It gets the rows
              as they are, whole numbers as such where it takes them
    machine : where torch computes, as for `evaluate`
    state   : of a torch file with several state dicts, the one that is meant
    drop    : patterns of the names of tensors that are left out, as for `cluster`
    shape   : of a row, with `model`; None leaves rows as they are
    batch_size : most rows that are run at a time
    name    : what messages call the source, its path when None
    on_batch : called after every batch with the number of batches done, and of all
    Raises UsageError where the rows do not fit the network, it is not known what that computes, or
    classes are asked of a regression; InvalidFileError for files that cannot be read, and for rows
    with NaN; KancompressError where the network puts out NaN, or infinity unless it is `model`.

    >>> import kancompress
    >>> import numpy as np
    >>> found = kancompress.predict("packed.safetensors", np.zeros((3, 64)), classes=True)
    >>> found.outputs.shape, found.classes.shape
    ((3, 10), (3,))
    >>> found.save("outputs.csv") > 0
    True
    """
    given.check(options=options, machine=machine, model=model)
    source, runtime = given.source(source, "predict"), runtime_of(runtime)
    batch_size = settled("batch_size", batch_size, whole(1))
    settled("raw", raw, flag)
    settled("classes", classes, maybe(flag))
    settled("state", state, maybe(text))
    settled("name", name, maybe(text))
    shape = settled("shape", shape, maybe(each(whole(1), "a tuple of whole numbers")))
    rows, where = _given(x)
    check_numbers(rows, where)
    if runtime is Runtime.NUMPY:
        check_numpy(model, state, drop)
    if model is not None:
        _check_own(raw)
        own = import_module(_TORCH).OwnNetwork(source, model, name, options, machine, state, drop)
        outputs = own.run(_as_they_are(rows, shape, where), batch_size, on_batch)
        if classes:
            own.check_classes()
        _check_outputs(np.isnan(outputs), "NaN")
        return _prediction(outputs, None, bool(classes), own.notes)
    network = _network(source, runtime, name, options, machine, state, drop)
    known = network.data is not None and not network.data.is_regression
    classes = known if classes is None else classes
    if classes and network.data is not None and network.data.is_regression:
        raise UsageError(
            "The network was trained for regression, whose outputs are no classes; leave `classes`"
            " out.",
            fields=("classes",),
        )
    rows = shaped(rows, network.inputs, where, images=network.conv)
    rows = normalised(rows, network.data, where) if raw else as_floats(rows, where)
    outputs = network.run(rows, batch_size, on_batch)
    _check_outputs(~np.isfinite(outputs), "NaN or infinity")
    return _prediction(outputs, network.data, classes, network.notes)


def _given(x: Any) -> tuple[Numbers, str]:
    """The rows, and what messages call them."""
    if isinstance(x, str | os.PathLike | bytes):
        return read_x(x)
    detached = x.detach().cpu() if hasattr(x, "detach") else x
    return array_of(detached), "x"


def _check_own(raw: bool) -> None:
    """Refuse what does not go with a model of the user's own."""
    if raw:
        raise UsageError(
            "`raw` normalises rows as the network's data were, of which a model of your own does"
            " not tell; leave it out, and give the rows as the model takes them.",
            fields=("raw",),
        )


def _as_they_are(rows: Numbers, shape: tuple[int, ...] | None, where: str) -> Numbers:
    """Rows for a model of the user's own: whole numbers stay so, which may be token ids."""
    whole = rows.dtype.kind in "iu" and rows.dtype != np.uint64
    rows = rows.astype(np.int64) if whole else as_floats(rows, where)
    if not shape:
        return rows
    if math.prod(shape) != math.prod(rows.shape[1:]):
        raise UsageError(
            f"`shape={','.join(map(str, shape))}` has {math.prod(shape)} numbers, but {where} has"
            f" {math.prod(rows.shape[1:])} a row.",
            fields=("shape",),
        )
    return rows.reshape(len(rows), *shape)


def _network(
    source: Any,
    runtime: Runtime,
    name: str | None,
    options: RunOptions | None,
    machine: Machine | None,
    state: str | None,
    drop: Sequence[str],
) -> RowNetwork:
    if runtime is Runtime.NUMPY:
        return NumpyNetwork.of(source, name, options)
    network = import_module(_TORCH).network(source, name, options, machine, state, drop)
    return cast(RowNetwork, network)


def _check_outputs(wrong: npt.NDArray[np.bool_], what: str) -> None:
    """Refuse outputs that are no numbers; a model of one's own may mean infinity.

    wrong : (rows, width), which they are
    """
    count = int(wrong.any(axis=1).sum())
    if count:
        raise KancompressError(
            f"The network puts out {what} for {count:,} of {len(wrong):,} rows. Look for {what} in"
            " its tensors, and for rows far from those it was trained on."
        )


def _prediction(
    outputs: Numbers, data: DataSpec | None, classes: bool, notes: tuple[str, ...]
) -> Prediction:
    """The result, with classes and shares where they were asked for."""
    if not classes:
        return Prediction(outputs=outputs, notes=notes)
    if data is None and outputs.shape[1] < 2:
        raise UsageError(
            "The network has one output, which tells no classes apart; leave `classes` out.",
            fields=("classes",),
        )
    largest = outputs.argmax(axis=1).astype(np.int64)
    return Prediction(outputs=outputs, classes=largest, shares=softmax(outputs), notes=notes)


def softmax(outputs: Numbers) -> npt.NDArray[np.float32]:
    """Shares of the classes, (rows, width); infinite outputs have all of their row."""
    top = outputs.max(axis=1, keepdims=True)
    level = np.where(np.isfinite(top), top, 0).astype(np.float64)
    powers = np.where(np.isinf(top), outputs == top, np.exp(np.minimum(outputs - level, 0)))
    shares: npt.NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(
        np.float32
    )
    return shares
