"""Option types that several commands share, so that they cannot disagree."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.config import MAX_SPLINE_ORDER, Activation, Device, Precision, RunOptions
from kancompress.errors import UsageError
from kancompress.specs import DataOptions, DatasetName
from kancompress.system import inputs as reading

InputArgument = Annotated[
    str,
    typer.Argument(metavar="IN", help="Input file, or - for standard input.", show_default=False),
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
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document on stdout (on stderr when the data goes to stdout).",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DataFileOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE",
        readable=False,  # the library tells, with exit code 3
        help="Your own arrays x, y (and x_test, y_test): safetensors or npz.",
        show_default=False,
    ),
]
DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", metavar="DIR", readable=False, help="Where named data sets lie."),
]
DownloadOption = Annotated[
    bool, typer.Option("--download", help="Let torchvision fetch a missing data set.")
]
TestSplitOption = Annotated[
    float | None,
    typer.Option(
        "--test-split",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Share of the rows of --data that tests, when it has no x_test (default 0.2).",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]
BatchOption = Annotated[
    int, typer.Option("--batch-size", min=1, max=2**31 - 1, help="Rows of a batch.")
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
DatasetOption = Annotated[
    DatasetName | None,
    typer.Option("--dataset", help="Data set of a file that names none.", show_default=False),
]
BaseActivationOption = Annotated[
    Activation | None,
    typer.Option(
        help="Other libraries' files: activation of the base branch (default: the library's).",
        show_default=False,
    ),
]
RbfDenominatorOption = Annotated[
    float | None,
    typer.Option(
        metavar="WIDTH",
        help="Other libraries' files: width of radial functions (default: distance of centres).",
        show_default=False,
    ),
]
GridRangeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Other libraries' files: range of a grid that is not saved (default -1,1).",
        show_default=False,
    ),
]
SplineOrderOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MAX_SPLINE_ORDER,
        help="Other libraries' files: order of splines whose grid is not saved (default 3).",
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
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Use torch.compile (needs a C++ compiler).")
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", help="Number format of training passes; measuring is float32."),
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
DEFAULT_DATA_DIR = Path("data")
# Options whose names are not those of the library's parameters.
_OPTIONS = {
    "directory": "--data-dir",
    "file": "--data",
    "layouts": "--layout",
    "name": "--dataset",
    "path": "--output",
    "shape": "--input-shape",
    "teacher": "--distill",
}


def option_of(field: str) -> str:
    """The option that gives a parameter of the library, for messages that speak of it."""
    return _OPTIONS.get(field) or f"--{field.replace('_', '-')}"


def data_options(
    file: Path | None,
    directory: Path,
    download: bool,
    test_split: float | None,
    name: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> DataOptions:
    """The library's record of the data options."""
    if file is not None and name is not None:
        raise UsageError("--dataset and --data are both given; name one set of data.")
    if str(file) == "-":
        raise UsageError("--data reads no standard input; write the arrays to a file and name it.")
    options = DataOptions(
        name=name,
        file=file,
        directory=directory,
        download=download,
        test_split=test_split,
        shape=shape,
    )
    options.check()
    return options


def use_threads(count: int | None) -> None:
    """Compute with so many threads from now on, where a number is given."""
    if count is not None:
        kancompress.use_threads(count)


def check_finite(**numbers: float | None) -> None:
    """Refuse NaN and infinity, which pass as numbers on the command line."""
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is {number}; a finite number was expected.")


def run_options(
    layout: list[str] | None,
    base_activation: Activation | None,
    rbf_denominator: float | None,
    grid_range: str | None,
    spline_order: int | None,
) -> RunOptions:
    """The library's record of what the tensors of another library's file do not tell."""
    check_finite(rbf_denominator=rbf_denominator)
    if rbf_denominator is not None and rbf_denominator <= 0:
        raise UsageError(f"--rbf-denominator is {rbf_denominator}; a number above 0 was expected.")
    return RunOptions(
        layouts=layouts(layout or []),
        base_activation=base_activation,
        rbf_denominator=rbf_denominator,
        grid_range=None if grid_range is None else _range(grid_range),
        spline_order=spline_order,
    )


def _range(text: str) -> tuple[float, float]:
    """LOW,HIGH as two finite numbers, the first below the second."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not low < high or math.isinf(low) or math.isinf(high):
        raise UsageError(f"--grid-range {text} is no range; write two numbers, as in -2,2.")
    return low, high


def layouts(values: list[str]) -> dict[str, str]:
    """Stem to layout from `NAME`, `STEM=NAME`, `coef=...`, `STEM=coef=...` and `@FILE`."""
    chosen: dict[str, str] = {}
    for value in values:
        if value.startswith("@"):
            reading.check(Path(value[1:]))
            found = kancompress.read_layouts(value[1:])
        else:
            stem, mark, layout = value.partition("=")
            named = mark and stem.strip() != "coef"
            found = {stem: layout} if named else {"": value}
        for stem in found.keys() & chosen.keys():
            raise UsageError(f"--layout is given twice for {stem or 'all layers'}.")
        chosen |= found
    return chosen
