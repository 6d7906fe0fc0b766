"""Data sets by name or from the user's file, as tensors in memory.

Nothing here draws at random but the division into training and validation rows, which
`DataSpec.seed` fixes, and the test rows of digits and of users' files, which are fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kancompress.data.digits import divide, read_digits
from kancompress.data.images import IMAGE_SETS, Images, read_images
from kancompress.data.places import Data, located
from kancompress.data.rows import as_floats, bad, check_numbers, lacking, read_arrays
from kancompress.errors import InvalidFileError, UsageError
from kancompress.specs import FILE, TEST_SHARE, DataOptions, DatasetName, DataSpec
from kancompress.system import inputs

# What y as whole numbers may count; a target by mistake would ask for a network of its size.
_MAX_CLASSES = 65_536


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Split:
    """Rows: x (rows, features) float32, or rows of the shape that was asked for, whole numbers of
    which may be int64; y (rows,) int64 classes or (rows, targets) float32.

    soft   : y are another network's outputs for the classes, (rows, classes), to come near to
    images : the bytes behind x, where the data are images
    """

    x: Tensor
    y: Tensor
    soft: bool = False
    images: Images | None = None

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: Tensor) -> Split:
        """Some of the rows, by their numbers (n,)."""
        images = None if self.images is None else self.images.part(rows)
        return replace(self, x=self.x[rows], y=self.y[rows], images=images)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dataset:
    """A data set in memory, divided; what a checkpoint remembers of it is `spec`."""

    spec: DataSpec
    train: Split
    validation: Split
    test: Split

    def tensors(self) -> dict[str, Tensor]:
        """What a run sees of the data while it trains: training and validation rows."""
        return {
            f"{name} {key}": tensor
            for name, part in (("train", self.train), ("validation", self.validation))
            for key, tensor in (("x", part.x), ("y", part.y))
        }

    @property
    def features(self) -> int:
        """Inputs of a network for this data."""
        return self.train.x.shape[1]


def load_for_training(options: DataOptions, *, seed: int, validation: float = 0.1) -> Dataset:
    """Read and divide the data that `options` names. Raises UsageError or InvalidFileError."""
    whole = _whole(replace(options, name=options.name or DatasetName.DIGITS))
    spec = replace(whole.spec, seed=seed, validation=validation)
    return _divide(replace(whole, spec=spec))


def load_for_model(spec: DataSpec | None, options: DataOptions | None) -> Dataset:
    """Read the data that a checkpoint was trained for, divided as it was then.

    options : where it lies; `options.file` is needed for a network trained on the user's arrays,
              it or `options.name` for a file that names no data
    """
    options = options or DataOptions()
    if options.file is not None and options.name is not None:
        raise UsageError(
            "A data set and a file are both given; name one set of data.", fields=("name", "file")
        )
    if spec is not None and options.name not in (None, spec.name):
        raise UsageError(
            f"The network was trained on {spec.name}, which the file names; leave `name` out, or"
            " give other rows with `file=FILE`.",
            fields=("name", "file"),
        )
    if options.file is not None:
        remembered = spec or DataSpec(name=FILE)
        whole = _whole(options, remembered.test)
    elif spec is None:
        if options.name is None:
            raise UsageError(
                "The file does not name its data set; give one with `file=FILE` or `name=NAME`.",
                fields=("file", "name"),
            )
        remembered = DataSpec(name=options.name)
        whole = _whole(options)
    elif spec.name == FILE:
        raise UsageError(
            "This network was trained on arrays of your own; give the file again with `file=FILE`.",
            fields=("file",),
        )
    else:
        remembered = spec
        whole = _whole(replace(options, name=spec.name))
    found = replace(whole.spec, seed=remembered.seed, validation=remembered.validation)
    return _divide(replace(whole, spec=found))


def has_labels(data: Data) -> bool:
    """Whether data has labels: all but a file of the user's own without an array y.

    data : a data set's name, the path of a file of arrays, or DataOptions
    Raises InvalidFileError for a file that cannot be read.
    """
    options = located(data) or DataOptions()
    return options.file is None or "y" in _read_arrays(options.file)


def load_unlabelled(spec: DataSpec | None, options: DataOptions, outputs: int) -> Dataset:
    """Rows x of a file of the user's own, divided for training and validation; none tests.

    spec    : of the checkpoint, where it has one: it tells the kind of the outputs. Without it they
              are real numbers
    outputs : of the network
    """
    spec = replace(spec, name=FILE, test=None) if spec else DataSpec(name=FILE, targets=outputs)
    x = _shaped(
        load_inputs(None, options, whole=options.shape == ()),
        () if options.images else options.shape,
    )
    y = torch.zeros(len(x), outputs) if spec.is_regression else torch.zeros(len(x)).long()
    rows = Split(x=x, y=y)
    none = Split(x=x[:0], y=y[:0])
    return _divide(_Whole(spec=spec, train=rows, test=none))


def load_inputs(spec: DataSpec | None, options: DataOptions, *, whole: bool = False) -> Tensor:
    """Training rows without labels, (rows, ...) float32, for calibration.

    whole : whether whole numbers of a file stay so, int64
    spec : of the checkpoint; where it names the same data, its validation rows are left out
    A file of the user's own needs an array x and nothing else.
    """
    if options.file is not None:
        arrays = _read_arrays(options.file)
        if "x" not in arrays:
            expected = "rows x (rows, features) were expected"
            raise lacking(str(options.file), "x", arrays, expected)
        x = arrays["x"]
        check_numbers(x, str(options.file))
        return _numbers(options.file, x, "x", whole=whole)
    if spec is not None and options.name in (None, spec.name):
        return load_for_model(spec, options).train.x
    return _whole(options).train.x


def check_rows(x: Tensor, conv: bool) -> None:
    """Refuse rows that are no images (channels, rows, columns) where convolutions need them."""
    if conv and x.dim() != 4:
        raise UsageError(
            "Convolutions take images, an x of shape (rows, channels, height, width); the data has"
            f" {list(x.shape)}."
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Whole:
    """Training rows not yet divided, and test rows."""

    spec: DataSpec
    train: Split
    test: Split


def _divide(whole: _Whole) -> Dataset:
    """Divide the training rows with a permutation that `spec.seed` fixes."""
    rows = len(whole.train)
    generator = torch.Generator().manual_seed(whole.spec.seed)
    order = torch.randperm(rows, generator=generator)
    held = max(1, round(rows * whole.spec.validation))
    if rows - held < 1:
        raise UsageError(f"{rows} training rows cannot be divided into training and validation.")
    parts = (order[held:], order[:held])
    train, validation = (whole.train.part(rows) for rows in parts)
    return Dataset(spec=whole.spec, train=train, validation=validation, test=whole.test)


def _whole(options: DataOptions, remembered: float | None = None) -> _Whole:
    whole = _read(options, remembered)
    parts = (whole.train, whole.test)
    shape = () if options.images else options.shape
    train, test = (replace(part, x=_shaped(part.x, shape)) for part in parts)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise UsageError(
            f"Training rows have the shape {list(train.x.shape[1:])}, test rows"
            f" {list(test.x.shape[1:])}; one shape was expected."
        )
    return replace(whole, train=train, test=test)


def _shaped(x: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """Rows of the shape that `DataOptions.shape` asks for."""
    if shape == ():
        return x
    size = math.prod(x.shape[1:])
    if shape is not None and math.prod(shape) != size:
        text = ",".join(map(str, shape))
        raise UsageError(
            f"`shape={text}` has {math.prod(shape)} numbers, but the data has {size}"
            " features a row.",
            fields=("shape",),
        )
    return x.reshape(len(x), *(shape or (size,)))


def _read(options: DataOptions, remembered: float | None) -> _Whole:
    if options.file is not None:
        return _from_file(options, options.file, remembered)
    options.check()
    if options.name == DatasetName.DIGITS:
        return _digits(images=options.images)
    if options.name is not None and options.name in IMAGE_SETS:
        return _images(options)
    raise UsageError(
        f"There is no data set {options.name!r}; known are {', '.join(DatasetName)}."
        " Your own arrays are given with `file=FILE`.",
        fields=("name", "file"),
    )


# --- named data sets -----------------------------------------------------------------------


def _digits(*, images: bool) -> _Whole:
    """scikit-learn's 1,797 digits: x / 16, a fixed stratified fifth tests."""
    x, y = read_digits()
    train, test = divide(y)
    pixels, classes = torch.from_numpy((x / 16).astype(np.float32)), torch.from_numpy(y)
    train_x, test_x, train_y, test_y = pixels[train], pixels[test], classes[train], classes[test]
    if images:
        train_x, test_x = (x.reshape(-1, 1, 8, 8) for x in (train_x, test_x))
    spec = DataSpec(name=DatasetName.DIGITS, classes=10, mean=(0.0,), std=(1.0,))
    return _Whole(spec=spec, train=Split(x=train_x, y=train_y), test=Split(x=test_x, y=test_y))


def _images(options: DataOptions) -> _Whole:
    kind = IMAGE_SETS[str(options.name)]
    parts = []
    for images, y in read_images(options):
        x = images.features(images.pixels)
        if options.images:
            x = x.view(len(x), -1, *images.size)
        parts.append(Split(x=x, y=y, images=images))
        mean, std = images.mean, images.std
    spec = DataSpec(name=str(options.name), classes=kind.classes, mean=mean, std=std)
    return _Whole(spec=spec, train=parts[0], test=parts[1])


# --- the user's arrays ---------------------------------------------------------------------


def _from_file(options: DataOptions, path: Path, remembered: float | None) -> _Whole:
    """Arrays x, y and perhaps x_test, y_test from a safetensors or npz file.

    remembered : the checkpoint's share of test rows, where the user gives none
    """
    # Rows that go in as they are may be token ids.
    test_split, as_they_are = options.test_split, options.shape == ()
    arrays = _read_arrays(path)
    unknown = sorted(arrays.keys() - {"x", "y", "x_test", "y_test"})
    missing = sorted({"x", "y"} - arrays.keys())
    expected = "x and y, and perhaps x_test and y_test, were expected"
    if missing:
        raise lacking(str(path), missing[0], arrays, expected)
    if unknown:
        raise _bad(path, f"has the unknown array {unknown[0]!r}; {expected}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise _bad(path, "has only one of x_test and y_test; give both or neither")
    whole = _rows(path, arrays["x"], arrays["y"], "x", "y", whole=as_they_are)
    if "x_test" in arrays:
        if test_split is not None:
            raise UsageError(
                f"{path} has test rows of its own; leave `test_split` out.",
                where=str(path),
                fields=("test_split",),
            )
        given = arrays["x_test"], arrays["y_test"]
        test = _rows(path, *given, "x_test", "y_test", whole=as_they_are)
        if test.x[0].numel() != whole.x[0].numel() or test.y.dtype != whole.y.dtype:
            raise _bad(path, "has test rows that differ from the training rows in width or type")
        return _Whole(spec=_spec_of(path, whole, test, None), train=whole, test=test)
    share = next(share for share in (test_split, remembered, TEST_SHARE) if share is not None)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    held = round(len(whole) * share) if 0 < share < 1 else 0
    if not 0 < held < len(whole):
        raise UsageError(
            f"{path}: {len(whole)} rows cannot give a test share of {share}.",
            where=str(path),
            fields=("test_split",),
        )
    train, test = (whole.part(part) for part in (order[held:], order[:held]))
    return _Whole(spec=_spec_of(path, train, test, share), train=train, test=test)


def _spec_of(path: Path, train: Split, test: Split, share: float | None) -> DataSpec:
    if train.y.is_floating_point():
        if train.y.shape[1:] != test.y.shape[1:]:
            raise _bad(path, "has y and y_test of different widths")
        return DataSpec(name=FILE, targets=train.y.shape[1], test=share)
    low, high = (int(f(torch.cat([train.y, test.y]))) for f in (torch.min, torch.max))
    if not 0 <= low <= high < _MAX_CLASSES:
        raise _bad(
            path,
            f"has whole numbers from {low} to {high} in y. Classes count from 0 to"
            f" {_MAX_CLASSES - 1}; targets of a regression are floating point numbers",
        )
    return DataSpec(name=FILE, classes=high + 1, test=share)


def _rows(
    path: Path, x: np.ndarray, y: np.ndarray, x_name: str, y_name: str, *, whole: bool
) -> Split:
    if x.ndim < 2 or x.size == 0:
        raise _bad(path, f"has {x_name} of shape {list(x.shape)}; (rows, features) was expected")
    if y.ndim < 1 or y.size == 0:
        raise _bad(path, f"has {y_name} of shape {list(y.shape)}; a target a row was expected")
    if len(x) != len(y):
        raise _bad(path, f"has {len(x)} rows in {x_name} and {len(y)} in {y_name}")
    for name, array in ((x_name, x), (y_name, y)):
        if array.dtype.kind not in "fiub":
            raise _bad(path, f"has {name} of type {array.dtype}; numbers were expected")
    features = _numbers(path, x, x_name, whole=whole)
    if y.dtype.kind == "f":
        return Split(x=features, y=_floats(path, y, y_name).reshape(len(y), -1))
    if y.ndim != 1:
        raise _bad(
            path, f"has {y_name} of shape {list(y.shape)}; whole numbers are classes, (rows,)"
        )
    return Split(x=features, y=torch.from_numpy(y.astype(np.int64)))


def _numbers(path: Path, array: np.ndarray, name: str, *, whole: bool) -> Tensor:
    """Whole numbers as int64 where they are to stay so and can, anything else as float32."""
    if whole and array.dtype.kind in "iu" and array.dtype != np.uint64:
        return torch.from_numpy(array.astype(np.int64))
    return _floats(path, array, name)


def _floats(path: Path, array: np.ndarray, name: str) -> Tensor:
    return torch.from_numpy(as_floats(array, str(path), name))


def _bad(path: Path, message: str) -> InvalidFileError:
    return bad(str(path), message)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(inputs.read(path), str(path))
