"""Where data lies, in the forms in which callers say so. No torch is needed."""

from __future__ import annotations

import os
from pathlib import Path

from kancompress.config import FinetuneConfig, TrainConfig
from kancompress.errors import UsageError
from kancompress.specs import DataOptions, DatasetName
from kancompress.system import files, inputs
from kancompress.values import article, did_you_mean

# A data set's name, the path of a file of arrays, or all that there is to say of the data.
Data = DataOptions | str | os.PathLike[str]


def located(value: Data | None, field: str = "data") -> DataOptions | None:
    """Where data lies, from a data set's name, from the path of a file, or as it is.

    field : the parameter that messages speak of
    Raises UsageError for arrays and other things, and for a text that is neither.
    """
    if value is None or isinstance(value, DataOptions):
        return value
    if isinstance(value, str) and value in list(DatasetName):
        return DataOptions(name=value)
    if isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str):
        if isinstance(value, str) and not (files.hub_name(value) or Path(value).exists()):
            near = did_you_mean(value, list(DatasetName)).strip()
            beside = inputs.meant(Path(value))
            raise UsageError(
                f"`{field}={value}` is neither a file nor a data set; data sets are"
                f" {', '.join(DatasetName)}.",
                fields=(field,),
                hint=beside if Path(value).suffix else near or beside,
            )
        return DataOptions(file=Path(value))
    if isinstance(value, TrainConfig | FinetuneConfig):
        raise UsageError(
            f"`{field}` is {article(value)}; give that as config=, and data before it or not at"
            " all.",
            fields=(field,),
        )
    raise UsageError(
        f"`{field}` is {article(value)}; a data set's name, the path of a file with arrays x and"
        " y (npz or safetensors), or DataOptions was expected. Arrays become such a file with:"
        " numpy.savez('data.npz', x=x, y=y)",
        fields=(field,),
    )
