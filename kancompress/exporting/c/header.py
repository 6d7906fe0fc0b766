"""The header: its comment, what its layers share, the layers, and the function that runs them."""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from kancompress.config import COptions, IndexCoding
from kancompress.errors import UsageError
from kancompress.exporting.c.helpers import text_of
from kancompress.exporting.c.layers import Place, function
from kancompress.exporting.c.main import main_of
from kancompress.exporting.c.unit import Lines, Unit, indented, loop
from kancompress.exporting.record import Exported
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.runtime.program import Program

# Rows and columns of the images of data sets that the program knows.
_IMAGES = {
    "digits": (8, 8),
    "mnist": (28, 28),
    "fashion-mnist": (28, 28),
    "cifar10": (32, 32),
    "cifar100": (32, 32),
}
_IDENTIFIER = re.compile("[A-Za-z][A-Za-z0-9_]*")
_MOST_PREFIX = 40


def prefix_of(stem: str) -> str:
    """The prefix that a file's name without its suffix gives: `mnist-k16` gives `mnist_k16`."""
    name = re.sub("[^A-Za-z0-9_]", "_", stem)[:_MOST_PREFIX]
    return name if _IDENTIFIER.fullmatch(name) else f"kan_{name.lstrip('_')}"[:_MOST_PREFIX]


def named(options: COptions, path: Path) -> COptions:
    """The options, with the prefix that the name of the header's file gives where there is none."""
    return options if options.prefix is not None else replace(options, prefix=prefix_of(path.stem))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a header takes of a machine.

    flash           : bytes of constant data, without code
    scratch         : bytes of RAM that the caller gives
    multiplications : of one row, beside those of basis functions, activations and normalisations
    additions       : likewise
    """

    flash: int
    scratch: int
    multiplications: int
    additions: int


def encode(program: Program, options: COptions) -> Exported:
    """The header of a network, and what it takes of a machine in `details`.

    Raises UsageError for a network that cannot be written so, naming its layer, and for options
    that do not fit.
    """
    prefix = _checked(options)
    double = any(layer.edges.table.dtype == np.float64 for layer in program.layers)
    unit = Unit.of(prefix, double=double)
    network = _Network(unit, program, options)
    functions = network.functions()
    sizes = Sizes(
        flash=unit.flash.nbytes,
        scratch=unit.scratch.nbytes,
        multiplications=unit.multiplications,
        additions=unit.additions,
    )
    data = network.header(functions, sizes).encode("ascii")
    constants = len(unit.flash.text())
    return Exported(
        data=data,
        format="c",
        source_bytes=program.file_bytes,
        parts={"constants": constants, "code": len(data) - constants},
        details={
            "prefix": prefix,
            "inputs": network.inputs,
            "outputs": program.outputs,
            "flash_bytes": sizes.flash,
            "scratch_bytes": sizes.scratch,
            "multiplications": sizes.multiplications,
            "additions": sizes.additions,
        },
        notes=(
            f"compiled it has {sizes.flash:,} bytes of constant data and takes {sizes.scratch:,}"
            f" bytes of RAM; a row takes {sizes.multiplications:,} multiplications and"
            f" {sizes.additions:,} additions, beside those of the basis functions",
        ),
    )


def _checked(options: COptions) -> str:
    """The prefix. Raises UsageError for options that do not fit."""
    prefix = "kan" if options.prefix is None else options.prefix
    if not _IDENTIFIER.fullmatch(prefix) or len(prefix) > _MOST_PREFIX:
        raise UsageError(
            f"The `prefix` {shown(prefix)} is no C identifier of at most {_MOST_PREFIX} characters;"
            " give letters, digits and _, a letter first.",
            fields=("prefix",),
        )
    if options.indices is not None and options.indices not in list(IndexCoding):
        raise UsageError(
            f"`indices={options.indices}` is none of {', '.join(IndexCoding)}.", fields=("indices",)
        )
    if options.image is not None and min(options.image) < 1:
        rows, columns = options.image
        raise UsageError(
            f"An `image` of {rows} x {columns} has no pixels; give 1 or more.", fields=("image",)
        )
    return prefix


class _Network:
    def __init__(self, unit: Unit, program: Program, options: COptions) -> None:
        if options.image is not None and not program.is_conv:
            raise UsageError(
                "`image` is the size of what convolutions take, and this network is fully"
                " connected; leave it out.",
                fields=("image",),
            )
        self.unit, self.program, self.options = unit, program, options
        self.maps = self._maps()
        pixels = math.prod(self.maps[0]) if self.maps else 1
        self.inputs = program.inputs * pixels

    def _maps(self) -> list[tuple[int, int]]:
        """Rows and columns of the image, and of the output map of every convolution."""
        program = self.program
        if not program.is_conv:
            return []
        size = self.options.image
        if size is None and program.data is not None:
            size = _IMAGES.get(program.data.name)
        if size is None:
            raise UsageError(
                f"{program.where} has convolutions, and a C header has maps of one size; nothing"
                " tells the size of the images. Give `image`.",
                fields=("image",),
            )
        maps = [size]
        for layer in program.layers:
            assert layer.form.window is not None
            maps.append(layer.form.window.places(*maps[-1]))
        return maps

    # --- layers -----------------------------------------------------------------------------------

    def functions(self) -> list[str]:
        """All definitions of functions but the helpers."""
        unit, layers = self.unit, self.program.layers
        found = []
        calls: Lines = []
        source = "x"
        for number, layer in enumerate(layers):
            place = self._place(number)
            found.append(function(unit, layer, number, place))
            target = self._target(number)
            calls.append(f"{unit.prefix}_layer{number}({source}, {target}, s);")
            source = target
        if self.program.head is not None:
            found.append(self._head())
            calls.append(f"{unit.prefix}_head({source}, y);")
        elif source != "y":
            real = unit.real.name
            calls = ["uint32_t i;", *calls]
            body = [f"y[i] = (float){source}[i];"]
            calls += loop("i", f"{self.program.outputs}u", body)
            assert real == "double"
        return [*found, self._run(calls)]

    def _target(self, number: int) -> str:
        """The array that layer `number` writes to."""
        unit, layer = self.unit, self.program.layers[number]
        last = number == len(self.program.layers) - 1
        if last and self.program.head is None and not unit.real.double:
            return "y"
        pixels = math.prod(self.maps[number + 1]) if self.maps else 1
        return unit.scratch.want("ab"[number % 2], unit.real.name, layer.outputs * pixels)

    def _place(self, number: int) -> Place:
        layer = self.program.layers[number]
        encoding = self.options.indices
        kind = self.unit.real.name if number else "float"
        if not self.maps:
            return Place(read=self._read("x[i]", number), kind=kind, encoding=encoding)
        height, width = self.maps[number]
        read = f"x[(py * {width}u + px) * {layer.inputs}u + i]"
        if not number:
            read = self._read(f"x[(i * {height}u + py) * {width}u + px]", number)
        return Place(
            read=read,
            kind=kind,
            inside=self.maps[number],
            outside=self.maps[number + 1],
            encoding=encoding,
        )

    def _read(self, value: str, number: int) -> str:
        """A number of the input as the network takes it."""
        if number or not self.options.with_normalisation:
            return value
        data, unit = self.program.data, self.unit
        channels = 0 if data is None else len(data.mean)
        inputs = self.program.inputs
        if data is None or not channels or inputs % channels:
            raise UsageError(
                f"{self.program.where} says nothing of how its inputs are normalised; leave"
                " `with_normalisation` out.",
                fields=("with_normalisation",),
            )
        if channels == 1:
            mean, std = unit.literal(data.mean[0]), unit.literal(data.std[0])
        else:
            at = "i" if self.maps else f"i / {inputs // channels}u"
            mean, std = (
                f"{unit.flash.add(name, np.array(values))}[{at}]"
                for name, values in (("mean", data.mean), ("std", data.std))
            )
        return f"({value} - {mean}) / {std}"

    # --- behind the layers ------------------------------------------------------------------------

    def _head(self) -> str:
        head, unit = self.program.head, self.unit
        assert head is not None
        outputs, channels = head.weight.shape
        places, real = math.prod(self.maps[-1]), unit.real.name
        weight, bias = (
            unit.flash.add("head_weight", head.weight),
            unit.flash.add("head_bias", head.bias),
        )
        unit.multiplications += channels * (outputs + 1)
        unit.additions += channels * (outputs + places)
        total = [
            f"{real} v = {unit.literal(0)};",
            *loop("r", f"{places}u", [f"v += x[r * {channels}u + i];"]),
            f"v /= {unit.literal(places)};",
            *loop("j", f"{outputs}u", [f"y[j] += (float)({weight}[j * {channels}u + i] * v);"]),
        ]
        body = [
            "uint32_t i, j, r;",
            *loop("j", f"{outputs}u", [f"y[j] = (float){bias}[j];"]),
            *loop("i", f"{channels}u", total),
        ]
        return "\n".join(
            [
                f"/* Mean of each of {channels} channels, and {outputs} outputs of them. */",
                f"static inline void {unit.prefix}_head(const {real} *x, float *y)",
                "{",
                *indented(body),
                "}",
            ]
        )

    def _softmax(self) -> Lines:
        outputs = self.program.outputs
        return [
            *loop("i", f"{outputs}u", ["most = y[i] > most ? y[i] : most;"]),
            *loop("i", f"{outputs}u", ["y[i] = expf(y[i] - most);", "sum += y[i];"]),
            *loop("i", f"{outputs}u", ["y[i] /= sum;"]),
        ]

    def _run(self, calls: Lines) -> str:
        unit, outputs = self.unit, self.program.outputs
        declared = ["uint32_t i, largest = 0;"]
        calls = [line for line in calls if line != "uint32_t i;"]
        body = [*calls]
        if self.options.with_softmax:
            declared.append("float most = y[0], sum = 0.0f;")
            declared = ["uint32_t i, largest = 0;", "float most, sum = 0.0f;"]
            body += ["most = y[0];", *self._softmax()]
        body += [*loop("i", f"{outputs}u", ["if (y[i] > y[largest])", "    largest = i;"])]
        return "\n".join(
            [
                "/* Runs one row; returns the number of the largest output. */",
                f"static inline int {unit.prefix}_run(const float *x, float *y,"
                f" {unit.prefix}_scratch *s)",
                "{",
                *indented([*declared, *body, "return (int)largest;"]),
                "}",
            ]
        )

    # --- text -------------------------------------------------------------------------------------

    def header(self, functions: list[str], sizes: Sizes) -> str:
        """The whole text."""
        unit, name = self.unit, self.unit.prefix
        helpers = text_of(unit.helpers.values(), name, unit.real)
        upper = name.upper()
        macros = "\n".join(
            f"#define {upper}_{key} {value}"
            for key, value in (
                ("INPUTS", self.inputs),
                ("OUTPUTS", self.program.outputs),
                ("FLASH_BYTES", sizes.flash),
                ("SCRATCH_BYTES", sizes.scratch),
            )
        )
        scratch = f"typedef struct {{\n{unit.scratch.text()}\n}} {name}_scratch;"
        body = "\n\n".join(
            text for text in (macros, scratch, unit.flash.text(), helpers, *functions) if text
        )
        guard = f"{upper}_H_{zlib.crc32(body.encode()):08X}"
        includes = "#include <math.h>\n#include <stdint.h>"
        main = main_of(name) if self.options.with_main else ""
        return (
            f"{self._comment(sizes)}\n#ifndef {guard}\n#define {guard}\n\n{includes}\n\n{body}\n"
            f"{main}\n#endif /* {guard} */\n"
        )

    def _comment(self, sizes: Sizes) -> str:
        name, upper, program = self.unit.prefix, self.unit.prefix.upper(), self.program
        takes = self._takes()
        gives = "shares of the classes" if self.options.with_softmax else "outputs of the network"
        lines = [
            "A Kolmogorov-Arnold network in C99, written by kancompress. No allocation, no globals",
            "that change, nothing beside math.h; all names begin with the prefix.",
            "",
            f"    inputs    {self.inputs}: {takes}",
            f"    outputs   {program.outputs}: {gives}",
            f"    flash     {sizes.flash} bytes of constant data, without code",
            f"    scratch   {sizes.scratch} bytes of RAM, which the caller gives",
            f"    one row   {sizes.multiplications} multiplications, {sizes.additions} additions,",
            "              beside those of basis functions, activations and normalisations",
            "",
            "Use:",
            "",
            f"    static {name}_scratch scratch;",
            f"    float x[{upper}_INPUTS], y[{upper}_OUTPUTS];",
            f"    int largest = {name}_run(x, y, &scratch);",
        ]
        if self.options.with_main:
            lines += [
                "",
                "On a desktop, rows from standard input, numbers between spaces or commas:",
                "",
                f"    cc -O2 -x c {name}.h -o {name} -lm && ./{name} < rows.csv",
            ]
        return "/*\n" + "\n".join(f" * {line}".rstrip() for line in lines) + "\n */"

    def _takes(self) -> str:
        if self.maps:
            height, width = self.maps[0]
            images = f"{self.program.inputs} x {height} x {width} pixels, channel by channel"
            if self.options.with_normalisation:
                return f"{images}, from 0 to 1"
            return images
        return "pixels from 0 to 1" if self.options.with_normalisation else "numbers of a row"
