"""What callers give, in the forms in which they have it: made into what the commands take, or
refused with what to give in its place. No torch is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

from kancompress.config import (
    CalibrationConfig,
    ClusterConfig,
    FinetuneConfig,
    Machine,
    RepackConfig,
    RunOptions,
    Target,
    TrainConfig,
)
from kancompress.data.places import Data
from kancompress.data.places import located as data
from kancompress.errors import UsageError
from kancompress.formats import storage
from kancompress.formats.recorded import record, source
from kancompress.specs import BasisSpec, ConvSpec, MetaSpec
from kancompress.values import article, did_you_mean, expect

Kind = TypeVar("Kind")

# What makes the file of a live module; it needs torch.
_SAVED = "kancompress.api.saved"
# The settings that commands take, and how one is made.
_RECORDS: dict[str, tuple[type, str]] = {
    "basis": (BasisSpec, "kancompress.BasisSpec(family='kan', grid=(-1, 1, 5), degree=3)"),
    "calibration": (CalibrationConfig, "kancompress.CalibrationConfig(samples=4096)"),
    "conv": (ConvSpec, "kancompress.ConvSpec(strides=(1, 2))"),
    "machine": (Machine, "kancompress.Machine(device='cpu')"),
    "meta": (MetaSpec, "kancompress.MetaSpec(embedding=1)"),
    "options": (RunOptions, "kancompress.RunOptions(spline_order=3)"),
    "told": (RunOptions, "kancompress.RunOptions(spline_order=3)"),
    "target": (Target, "kancompress.Target(bytes=20_000)"),
}
# Settings that other libraries call so.
_MEANT = {"data": "rows", "dataset": "rows", "k": "clusters", "n_clusters": "clusters"}
_CONFIGS: dict[type, str] = {
    ClusterConfig: "kancompress.ClusterConfig(clusters=16)",
    RepackConfig: "kancompress.RepackConfig(header='plain')",
    FinetuneConfig: "kancompress.FinetuneConfig(epochs=5)",
    TrainConfig: "kancompress.TrainConfig(lr=1e-3)",
}


def check(
    config: object = None, kind: type = ClusterConfig, *, model: object = None, **records: object
) -> None:
    """Refuse settings that are not records of settings. Raises UsageError.

    config : of `kind`; records : further ones, by the names of their parameters
    model  : a module of the user's own
    """
    expect("config", config, kind, _CONFIGS[kind])
    _check_module(model)
    for name, value in records.items():
        expect(name, value, *_RECORDS[name])


def _check_module(value: object) -> None:
    """Refuse a `model` that is no module: a name, or a class. Raises UsageError."""
    if value is None or (hasattr(value, "state_dict") and not isinstance(value, type)):
        return
    if isinstance(value, str):
        raise UsageError(
            f"`model` is the text {value!r}; a torch.nn.Module was expected, as"
            " kancompress.build_module('models:make_net') gives it.",
            fields=("model",),
        )
    what = f"the class {value.__name__}" if isinstance(value, type) else article(value)
    raise UsageError(
        f"`model` is {what}; a torch.nn.Module was expected, as in model=Net().", fields=("model",)
    )


def clustering(
    command: str, config: ClusterConfig | None, settings: Mapping[str, Any]
) -> ClusterConfig:
    """The configuration with single settings in place of its own, as in `clusters=4`.

    Raises UsageError for settings that there are not, and for values that cannot be meant.
    """
    check(config)
    known = ClusterConfig.__dataclass_fields__.keys()
    if unknown := settings.keys() - known:
        name = min(unknown)
        near = did_you_mean(name, [*known, *_RECORDS, "rows"])
        if name in _MEANT:
            near = f" Did you mean {_MEANT[name]}?"
        raise UsageError(f"{command} has no setting {name!r}; known are {', '.join(known)}.{near}")
    if settings.get("clusters") == "auto":
        raise UsageError(
            "`clusters=auto` is what a target does: leave `clusters` out, and give"
            " target=kancompress.Target(bytes=20_000).",
            fields=("clusters",),
        )
    return replace(config or ClusterConfig(), **settings) if settings else config or ClusterConfig()


def file(value: Any, command: str) -> tuple[Any, str | None]:
    """The path or bytes of a file, and what messages call it where it has no path: of a record, a
    module or a state dict the file that it would be saved to. Raises UsageError as `source`."""
    found: Any = record(value)
    if found is not None:
        return storage.write(found.record()), "The model"
    if hasattr(value, "state_dict"):
        return import_module(_SAVED).of_module(value), "The model"
    if isinstance(value, Mapping):
        return import_module(_SAVED).of_state(value), "The state dict"
    return source(value, command), None


__all__ = ["Data", "check", "clustering", "data", "file", "record", "source"]
