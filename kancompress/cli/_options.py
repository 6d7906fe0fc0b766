"""Options that several commands share, in bundles, so that they cannot disagree."""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import kancompress
from kancompress.cli import _by_layer, _files, _model
from kancompress.cli._bundles import bundle
from kancompress.config import (
    MAX_SPLINE_ORDER,
    RUN_FIELDS,
    Activation,
    Device,
    Machine,
    RunOptions,
    Runtime,
)
from kancompress.errors import UsageError, spoken
from kancompress.specs import TEST_SHARE, DataOptions, DatasetName

if TYPE_CHECKING:
    from torch import nn

_DATA = DataOptions()

# --- options of their own ------------------------------------------------------------------

InputArgument = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Input file, hf://OWNER/NAME[/FILE][@REVISION], or - for standard input.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="File to write, or - for standard output.",
        show_default=False,
    ),
]
OptionalOutput = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="File to write, or - for standard output. --dry-run needs none.",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", metavar="DIR", readable=False, help="Where named data sets lie."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]
LayoutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layout",
        metavar="[STEM=]LAYOUT|@FILE",
        help="Layout of another library's layers, where the file does not tell, or a file of them"
        " (inspect --print-layout writes one); repeatable.",
        show_default=False,
    ),
]
StateOption = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="NAME",
        help="Which of several state dicts of a torch file is meant, such as model_ema.",
        show_default=False,
    ),
]
DropOption = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="PATTERN",
        help="Leave out tensors of another library's file whose names fit, as in 'total_*', whole"
        " or behind a dot; repeatable.",
        show_default=False,
    ),
]
ModuleOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:FACTORY",
        help="Your own torch.nn.Module for the file's tensors, as what a callable gives."
        " This runs your code.",
        show_default=False,
    ),
]
InputShapeOption = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="SIZE,...",
        help="With --model: shape of a row, as in 3,32,32; images are resized to it.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", help="Where to compute; auto is cuda, else mps, else cpu."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, max=1024, help="Threads of the CPU (default: all).", show_default=False
    ),
]

# --- bundles -------------------------------------------------------------------------------


@bundle("Options")
class Shown:
    """How a command ends: what it may replace, and what it prints."""

    force: Annotated[
        bool,
        typer.Option(
            "--force", envvar="KANCOMPRESS_FORCE", help="Replace the output if it exists."
        ),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors, nothing else.")
    ] = False
    json_: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON document on stdout (on stderr when the data goes to stdout).",
        ),
    ] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


@bundle("Data")
class _Data:
    """Where rows and their targets lie."""

    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE",
            readable=False,  # the library tells, with exit code 3
            help="Your own arrays x, y (and x_test, y_test): safetensors or npz.",
            show_default=False,
        ),
    ] = None
    data_dir: DataDirOption = _DATA.directory
    download: Annotated[
        bool, typer.Option("--download", help="Let torchvision fetch a missing data set.")
    ] = _DATA.download
    test_split: Annotated[
        float | None,
        typer.Option(
            "--test-split",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Share of the rows of --data that tests, when it has no x_test (default"
            f" {TEST_SHARE:g}).",
            show_default=False,
        ),
    ] = _DATA.test_split

    def _options(self, name: DatasetName | None, shape: tuple[int, ...] | None) -> DataOptions:
        """The library's record of these options. Raises UsageError where they contradict."""
        if self.data is not None and name is not None:
            raise UsageError("--dataset and --data are both given; name one set of data.")
        if str(self.data) == _files.DASH:
            raise UsageError(
                "--data reads no standard input; write the arrays to a file and name it."
            )
        options = DataOptions(
            name=name,
            file=self.data,
            directory=self.data_dir,
            download=self.download,
            test_split=self.test_split,
            shape=shape,
        )
        options.check()
        return options


@bundle("Data")
class TrainingData(_Data):
    """The data of a new network."""

    dataset: Annotated[
        DatasetName | None,
        typer.Option(
            help=f"Named data set (default {DatasetName.DIGITS.value}).", show_default=False
        ),
    ] = None

    def options(self) -> DataOptions:
        """The library's record of these options. Raises UsageError where they contradict."""
        missing = self.dataset is None and self.data is None
        return self._options(DatasetName.DIGITS if missing else self.dataset, None)


@bundle("Data")
class ModelData(_Data):
    """The data of a network in a file, which may name it."""

    dataset: Annotated[
        DatasetName | None,
        typer.Option("--dataset", help="Data set of a file that names none.", show_default=False),
    ] = None

    def options(self, shape: tuple[int, ...] | None) -> DataOptions:
        """The library's record of these options, for rows of a shape. Raises UsageError where they
        contradict."""
        return self._options(self.dataset, shape)


@bundle("Your own model")
class OwnModel:
    """The user's own module, to run a file in."""

    model: ModuleOption = None
    input_shape: InputShapeOption = None

    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of a row for `DataOptions`. Raises UsageError for what is none."""
        return _model.row_shape(self.model, self.input_shape)

    def made(self) -> AbstractContextManager[nn.Module | None]:
        """The module, while it is used; None where there is none."""
        return _model.own_model(self.model)


@bundle("Other libraries' files")
class Foreign:
    """What the tensors of another library's file do not tell."""

    state: StateOption = None
    layout: LayoutOption = None
    base_activation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STEM=]NAME",
            help="Activation of the base branch (default: the library's):"
            f" {', '.join(Activation)}; repeatable.",
            show_default=False,
        ),
    ] = None
    rbf_denominator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STEM=]WIDTH",
            help="Width of radial functions (default: distance of centres); repeatable.",
            show_default=False,
        ),
    ] = None
    grid_range: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STEM=]LOW,HIGH",
            help="Range of a grid that is not saved (default -1,1); repeatable.",
            show_default=False,
        ),
    ] = None
    spline_order: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STEM=]N",
            help=f"Order of splines whose grid is not saved, 0 to {MAX_SPLINE_ORDER} (default 3);"
            " repeatable.",
            show_default=False,
        ),
    ] = None

    def options(self) -> RunOptions:
        """The library's record of these options. Raises UsageError for values that mean nothing."""
        return _by_layer.run_options(
            self.layout or (),
            self.base_activation or (),
            self.rbf_denominator or (),
            self.grid_range or (),
            self.spline_order or (),
        )


@bundle("Other libraries' files")
class ForeignFile(Foreign):
    """The same of a file whose tensors may be left out."""

    drop: DropOption = None


@bundle("Where to compute")
class Compute:
    """Device and threads."""

    device: DeviceOption = Machine().device
    threads: ThreadsOption = None

    def machine(self) -> Machine:
        """The library's record of the device; the threads are set from now on."""
        use_threads(self.threads)
        return Machine(device=self.device)


@bundle("Where to compute")
class Running(Compute):
    """What runs a network, and where."""

    runtime: Annotated[
        Runtime,
        typer.Option(
            "--runtime",
            help="What runs the network: torch, or numpy, which starts faster and takes packed"
            " files, and dense ones of kancompress's own.",
        ),
    ] = Runtime.TORCH

    def machine(self) -> Machine:
        """As of `Compute`. Raises UsageError for what numpy has no use for."""
        if self.runtime is Runtime.TORCH:
            return super().machine()
        if self.device is not Machine().device or self.threads is not None:
            raise UsageError(
                "--device and --threads are for --runtime torch; leave them out. The variable"
                " OMP_NUM_THREADS sets the threads of numpy."
            )
        return Machine()


# --- what the options mean -----------------------------------------------------------------

# Parameters that notes and warnings speak of.
_NOTED = (
    *RUN_FIELDS, "codebook_dtype", "compile", "drop", "header", "keep_extra", "keep_masked",
    "side_dtype", "state",
)  # fmt: skip
# Options whose names are not those of the library's parameters.
_OPTIONS = {
    "directory": "--data-dir",
    "file": "--data",
    "layouts": "--layout",
    "name": "--dataset",
    "path": "--output",
    "print_layouts": "inspect --print-layout",
    "rows": "--calibrate",
    "shape": "--input-shape",
    "teacher": "--distill",
    "teacher_drop": "--drop",
    "teacher_state": "--state",
}


def option_of(field: str) -> str:
    """The option that gives a parameter of the library, for messages that speak of it."""
    return _OPTIONS.get(field) or f"--{re.sub('[._]', '-', field)}"


def noted(note: str) -> str:
    """A note or warning of the library in the words of the command line."""
    return spoken(note, _NOTED, option_of)


def use_threads(count: int | None) -> None:
    """Compute with so many threads from now on, where a number is given."""
    if count is not None:
        kancompress.use_threads(count)


def check_finite(**numbers: float | None) -> None:
    """Refuse NaN and infinity, which pass as numbers on the command line."""
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise UsageError(f"{option_of(name)} is {number}; a finite number was expected.")
