"""Records of forms: what a layer of a layout computes, said by names of its tensors.

Names are relative to the layer's stem as in `kancompress.libraries.records`. A step whose tensors
are optional and absent is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from kancompress.config import Activation, RunOptions
from kancompress.errors import UsageError
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.packed.forms import FormRecord
from kancompress.formats.safetensors import shown
from kancompress.layers import expansions as modules
from kancompress.libraries.matching import Scene

# What to do where a forward is not known.
OWN_CLASS = "Load it into your own class with --model package.module:factory."


def layout_written(layer: FoundLayer) -> str:
    """The layout of a layer in its packed file; generated vectors come back as efficient-kan's."""
    return layer.layout if layer.generator is None else "efficient-kan"


@dataclass(slots=True, eq=False, kw_only=True)
class Setting:
    """One layer while it is built: its tensors by their relative names, and what was used.

    options    : what the user, or the packed file, tells of this layer
    size       : basis functions of an edge
    symbolic   : False where symbolic edges are there and take no part
    sides      : parameters that learn beside the edges, by their full names
    used       : names of the run options that had a meaning
    said       : those of them whose value the packed file tells
    assumed    : those of them whose value nobody tells
    values     : what was taken for those of them that nobody tells
    notes      : what was taken for granted
    """

    found: FoundLayer
    scene: Scene[Tensor]
    options: RunOptions
    dtype: torch.dtype
    activation: Activation
    size: int
    symbolic: bool | None = None
    sides: dict[str, nn.Parameter] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    said: frozenset[str] = frozenset()
    assumed: frozenset[str] = frozenset()
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def find(self, name: str) -> Tensor | None:
        """A tensor beside the edges in the type of the computation, or None."""
        tensor = self.scene.tensors.get(self.scene.full(name))
        return None if tensor is None else tensor.detach().to(self.dtype, copy=True)

    def tensor(self, name: str) -> Tensor:
        """A tensor that the layout requires."""
        tensor = self.find(name)
        if tensor is None:
            self.refuse(f"{self.scene.full(name)} is missing")
        return tensor

    def parameter(self, name: str) -> nn.Parameter | None:
        """A tensor that can learn, or None where there is none."""
        tensor = self.find(name)
        if tensor is None:
            return None
        return self.sides.setdefault(self.scene.full(name), nn.Parameter(tensor))

    def shared_activation(self) -> Activation:
        """The activation that base branch, basis and output of some layers share."""
        self.used.add("base_activation")
        self.values["base_activation"] = self.activation
        return self.activation

    def told(self, name: str, default: Any) -> Any:
        """The value of a run option that the layer has a use for."""
        self.used.add(name)
        value = getattr(self.options, name)
        self.values[name] = default if value is None else value
        return self.values[name]

    def record(self) -> FormRecord | None:
        """What the layer computes as the packed file says it, once it was built.

        None where a number that was taken for granted is none that a file may hold.
        """
        width = self.values.get("rbf_denominator", 1.0)
        if not 0 < width < math.inf:
            return None
        return FormRecord(
            layout=layout_written(self.found),
            symbolic=self.symbolic,
            assumed=tuple(sorted(self.used & self.assumed)),
            **{name: self.values[name] for name in self.used},
        )

    def refuse(self, reason: str) -> NoReturn:
        """Say why the layer cannot be run."""
        raise UsageError(
            f"The layer {shown(self.found.name)} (layout {self.found.layout}) cannot be run:"
            f" {reason}. {OWN_CLASS}"
        )


# --- steps ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation with `NAME.weight` and `NAME.bias`."""

    name: str

    def make(self, setting: Setting) -> nn.Module | None:
        """The module, or None where the tensors are absent."""
        weight = setting.parameter(f"{self.name}.weight")
        if weight is None:
            return None
        return modules.Norm(weight, setting.parameter(f"{self.name}.bias"))


@dataclass(frozen=True, slots=True)
class PReLU:
    """PReLU with one learnt slope."""

    name: str

    def make(self, setting: Setting) -> nn.Module | None:
        """The module, or None where the tensor is absent."""
        weight = setting.parameter(self.name)
        return None if weight is None else modules.Slope(weight)


@dataclass(frozen=True, slots=True)
class Scaled:
    """scale y + shift by fixed tensors."""

    scale: str
    shift: str

    def make(self, setting: Setting) -> nn.Module | None:
        """The module, or None where both tensors are absent."""
        scale, shift = setting.find(self.scale), setting.find(self.shift)
        outputs = setting.found.shape[0]
        for name, tensor in ((self.scale, scale), (self.shift, shift)):
            if tensor is not None and tensor.shape != (outputs,):
                setting.refuse(
                    f"{setting.scene.full(name)} has {tensor.numel()} numbers for {outputs} sums,"
                    " which multiplication nodes do"
                )
        return None if scale is None and shift is None else modules.Affine(scale, shift)


@dataclass(frozen=True, slots=True)
class Fixed:
    """An activation that no option changes."""

    name: Activation

    def make(self, setting: Setting) -> nn.Module | None:
        """The module."""
        return modules.Act(self.name)


@dataclass(frozen=True, slots=True)
class Shared:
    """The layer's own activation once more."""

    def make(self, setting: Setting) -> nn.Module | None:
        """The module."""
        return modules.Act(setting.shared_activation())


@dataclass(frozen=True, slots=True)
class MinMax:
    """The batch scaled to -1 ... 1."""

    def make(self, setting: Setting) -> nn.Module | None:
        """The module."""
        setting.notes.append(
            f"{setting.found.layout} scales by the least and greatest number of a batch: outputs"
            " depend on which rows are run together"
        )
        return modules.MinMax()


Step = LayerNorm | PReLU | Scaled | Fixed | Shared | MinMax


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a layer of one layout computes: after(sum of edge functions + bias).

    expansion  : makes the basis from the layer's tensors
    before     : what the basis sees of the input
    activation : the library's default for the base branch (used where the file has base weights)
    inner      : whether the base branch sees the input after `before`
    bias       : added to the sum, where the file has it
    after      : steps after the sum
    module     : the module of the user's model that is called with what the expansion takes, below
                 the layer's own
    """

    expansion: Callable[[Setting], modules.Expansion]
    before: Step | None = None
    activation: Activation = Activation.SILU
    inner: bool = False
    bias: str = ""
    after: tuple[Step, ...] = ()
    module: str = ""

    def probe(self, setting: Setting) -> None:
        """Let everything but the edges be made of the layer's tensors, so that `setting` knows
        which options it has a use for. Raises UsageError where that cannot be."""
        self.expansion(setting)
        for step in (self.before, *self.after):
            if step is not None:
                step.make(setting)


Forms = Mapping[str, Form]
