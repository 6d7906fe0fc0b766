"""What the tensors of another library's checkpoint do not tell of its forward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, fields, replace
from enum import StrEnum
from typing import Any

from kancompress.frozen import dataclass
from kancompress.values import (
    by_layer,
    each,
    instance,
    maybe,
    named,
    number,
    settle,
    text,
    whole,
    word,
)

# Highest degree of splines whose grid is not saved.
MAX_SPLINE_ORDER = 16


class Activation(StrEnum):
    """Activations of a base branch."""

    SILU = "silu"
    GELU = "gelu"
    RELU = "relu"
    ELU = "elu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"
    ZERO = "zero"


def _range(value: Any) -> Any:
    """The ends of a grid, two finite numbers, the first below the second."""
    expected = "a pair of finite numbers, the first below the second,"
    low, high = ends = each(number(-math.inf), expected, length=2)(value)
    if not low < high:
        raise ValueError(expected)
    return ends


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the tensors of another library's checkpoint do not tell of its forward.

    layouts         : layer name or stem ("" for all) to the name of a layout
    base_activation : of the base branch; the library's own default when None
    rbf_denominator : width of the radial functions; the distance of the centres when None
    grid_range      : low and high of a grid that is not saved; -1 and 1 when None
    spline_order    : degree of splines whose grid is not saved; 3 when None
    layers          : layer name or stem ("." for the top level) to what is told of it alone, where
                      that differs from the above; layouts go into `layouts`
    """

    layouts: Mapping[str, str] = field(default_factory=dict)
    base_activation: Activation | None = None
    rbf_denominator: float | None = None
    grid_range: tuple[float, float] | None = None
    spline_order: int | None = None
    layers: Mapping[str, RunOptions] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settle(
            self,
            layouts=by_layer(text, "a mapping from names of layers to names of layouts"),
            base_activation=maybe(word(Activation)),
            rbf_denominator=maybe(number(above=True)),
            grid_range=maybe(_range),
            spline_order=maybe(whole(0, MAX_SPLINE_ORDER)),
            layers=by_layer(instance(RunOptions), "a mapping from names of layers to RunOptions"),
        )

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what is told of all layers beside their layouts."""
        return tuple(name for name in TOLD_FIELDS if getattr(self, name) is not None)

    def of(self, *names: str) -> RunOptions:
        """What is told of a layer that has these names; the first of them counts most."""
        told = [*(self.layers[name] for name in names if name in self.layers), self]
        values: dict[str, Any] = {
            option: next((getattr(one, option) for one in told if option in one.given), None)
            for option in TOLD_FIELDS
        }
        return replace(self, layers={}, **values)


# The names of these options, which messages speak of, and of those that are no layouts.
RUN_FIELDS = tuple(option.name for option in fields(RunOptions) if option.name != "layers")
TOLD_FIELDS = tuple(name for name in RUN_FIELDS if name != "layouts")
