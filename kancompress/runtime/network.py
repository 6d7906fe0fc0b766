"""Networks that run with numpy alone, packed in memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.storage import Source
from kancompress.forward import RunOptions
from kancompress.runtime import inputs
from kancompress.runtime.activations import Numbers
from kancompress.runtime.layer import RunningLayer
from kancompress.runtime.program import Program, read
from kancompress.specs import DataSpec
from kancompress.values import flag, instance, maybe, settled


class Network:
    """A network that runs with numpy: `kancompress.runtime.load` makes one of a file.

    program : what it computes, as data
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._layers = [RunningLayer(layer) for layer in program.layers]

    def run(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Outputs (rows, outputs) of rows as the network takes them.

        x : (rows, inputs), or images (rows, channels, height, width) where it has convolutions
        Raises UsageError for rows of another shape, and for NaN, infinity and numbers beyond
        float32, which take about a hundredth of the time to find. What it gives is not looked at:
        rows far beyond the data's may give NaN.
        """
        dtype = self.program.layers[0].edges.table.dtype
        y = inputs.checked(x, self.inputs, dtype, images=self.program.is_conv)
        with np.errstate(all="ignore"):
            return self._outputs(y).astype(np.float32, copy=False)

    def _outputs(self, y: Numbers) -> Numbers:
        if self.program.is_conv:
            y = np.ascontiguousarray(y.transpose(0, 2, 3, 1))
        for layer in self._layers:
            y = layer(y)
        head = self.program.head
        return y if head is None else y.mean(axis=(1, 2)) @ head.weight.T + head.bias

    def normalised(self, x: npt.ArrayLike) -> Numbers:
        """Raw rows as `run` takes them, by the mean and std that the file has of its data.

        x : pixels, from 0 to 1 as real numbers, or whole numbers up to 255 (digits: up to 16); rows
            (rows, inputs) with the channels one after another, or images
        Raises UsageError where the file does not say on which data the network was trained.
        """
        return inputs.normalised(x, self.data)

    @property
    def inputs(self) -> int:
        """Numbers of a row, or channels of an image."""
        return self.program.inputs

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out for a row."""
        return self.program.outputs

    @property
    def data(self) -> DataSpec | None:
        """What it was trained on, None where the file does not say."""
        return self.program.data

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for granted that the file does not tell."""
        return self.program.notes


def load(source: Source, *, any_size: bool = False, options: RunOptions | None = None) -> Network:
    """The network in a packed or dense file that kancompress wrote, ready to run.

    source   : a path, or the bytes of the file
    any_size : read a packed file that stands for more than 10,000 times its bytes and a gigabyte
    options  : what another library's packed file does not tell of its network
    Raises InvalidFileError for a file that is none of these, or damaged; UsageError for one whose
    network cannot be run, and for options that mean nothing for it.
    """
    settled("any_size", any_size, flag)
    settled("options", options, maybe(instance(RunOptions)))
    try:
        return Network(read(source, any_size=any_size, options=options))
    except InvalidFileError as error:
        if error.flaw is not Flaw.NOT_KANCOMPRESS:
            raise
        packing = "Pack it with: kancompress cluster FILE -o PACKED; or run it with torch"
        raise error.followed(f"{packing} (kancompress.predict).") from None
