"""How the tensors of another library's layer tell its form: said by names of its tensors.

Names are relative to the layer's stem as in `kancompress.libraries.records`. A step whose tensors
are optional and absent is left out. What is made is a `LayerForm`, and the arrays that it names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from kancompress.errors import UsageError
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.packed.forms import FormRecord
from kancompress.formats.safetensors import shown
from kancompress.forward import RUN_FIELDS, Activation, RunOptions
from kancompress.frozen import dataclass
from kancompress.layers import forms
from kancompress.layers.forms import Basis, LayerForm, Series

# float32, or float64 where coefficients are stored in it.
Array = npt.NDArray[np.floating]

# What to do where a forward is not known.
OWN_CLASS = "Load it into your own class with `model=package.module:factory`."


def layout_written(layer: FoundLayer) -> str:
    """The layout of a layer in its packed file, which has generated vectors written out."""
    return layer.layout if layer.generator is None else layer.generator.layout


def role_of(name: str) -> str:
    """Role of a tensor beside the edges, by its relative name."""
    return re.sub(r"\W+", "_", name)


@dataclass(slots=True, eq=False, kw_only=True)
class Setting:
    """One layer while its form is told: its tensors by their relative names, and what was used.

    full     : relative name to the name in the file; read : name in the file to its numbers
    options  : what the user, or the packed file, tells of this layer
    dtype    : that the layer computes in
    size     : basis functions of an edge
    has_base : whether the file has base weights
    symbolic : False where symbolic edges are there and take no part
    arrays   : tensors that the form names, by role
    learnt   : tensors that learn beside the edges: role to the name in the file
    used     : names of the run options that had a meaning
    said     : those of them whose value the packed file tells
    assumed  : those of them whose value nobody tells
    values   : what is taken for those that were used
    notes    : what was taken for granted
    """

    found: FoundLayer
    full: Callable[[str], str]
    read: Callable[[str], Array | None]
    options: RunOptions
    activation: Activation
    dtype: type[np.floating]
    size: int
    has_base: bool
    symbolic: bool | None = None
    arrays: dict[str, Array] = field(default_factory=dict)
    learnt: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    said: frozenset[str] = frozenset()
    assumed: frozenset[str] = frozenset()
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def find(self, name: str) -> Array | None:
        """A tensor beside the edges, or None."""
        return self.read(self.full(name))

    def array(self, name: str) -> Array:
        """A tensor that the layout requires."""
        found = self.find(name)
        if found is None:
            self.refuse(f"{self.full(name)} is missing")
        return found

    def hold(self, name: str, array: Array | None = None) -> str:
        """Let the form name a tensor, as the file has it or as it is given; returns its role."""
        role = role_of(name)
        self.arrays[role] = self.array(name) if array is None else array
        return role

    def learn(self, name: str) -> str:
        """Let the form name a tensor that learns; returns its role, "" where there is none."""
        role = role_of(name)
        found = self.find(name)
        if found is None:
            return ""
        self.arrays[role], self.learnt[role] = found, self.full(name)
        return role

    def told(self, name: str, default: Any) -> Any:
        """The value of a run option that the layer has a use for."""
        self.used.add(name)
        value = getattr(self.options, name)
        self.values[name] = default if value is None else value
        return self.values[name]

    def shared_activation(self) -> Activation:
        """The activation that base branch, basis and output of some layers share."""
        self.used.add("base_activation")
        self.values["base_activation"] = self.activation
        return self.activation

    def record(self) -> FormRecord | None:
        """What the layer computes as the packed file says it, once its form was told.

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
            f" {reason}.",
            layer=self.found.name,
            fields=("model", *RUN_FIELDS),
            hint=OWN_CLASS,
        )


# --- steps ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation with `NAME.weight` and `NAME.bias`."""

    name: str

    def tell(self, setting: Setting) -> forms.Step | None:
        """The step, or None where the tensors are absent."""
        weight = setting.learn(f"{self.name}.weight")
        if not weight:
            return None
        return forms.LayerNorm(weight, setting.learn(f"{self.name}.bias"))


@dataclass(frozen=True, slots=True)
class PReLU:
    """PReLU with one learnt slope."""

    name: str

    def tell(self, setting: Setting) -> forms.Step | None:
        """The step, or None where the tensor is absent."""
        weight = setting.learn(self.name)
        return forms.Slope(weight) if weight else None


@dataclass(frozen=True, slots=True)
class Scaled:
    """scale y + shift by fixed tensors."""

    scale: str
    shift: str

    def tell(self, setting: Setting) -> forms.Step | None:
        """The step, or None where both tensors are absent."""
        outputs = setting.found.shape[0]
        there = {name: setting.find(name) for name in (self.scale, self.shift)}
        for name, array in there.items():
            if array is not None and array.shape != (outputs,):
                setting.refuse(
                    f"{setting.full(name)} has {array.size} numbers for {outputs} sums, which"
                    " multiplication nodes do"
                )
        roles = ["" if a is None else setting.hold(name, a) for name, a in there.items()]
        return forms.Affine(*roles) if any(roles) else None


@dataclass(frozen=True, slots=True)
class Fixed:
    """An activation that no option changes."""

    name: Activation

    def tell(self, setting: Setting) -> forms.Step | None:
        """The step."""
        return forms.Act(self.name)


@dataclass(frozen=True, slots=True)
class Shared:
    """The layer's own activation once more."""

    def tell(self, setting: Setting) -> forms.Step | None:
        """The step."""
        return forms.Act(setting.shared_activation())


@dataclass(frozen=True, slots=True)
class MinMax:
    """The batch scaled to -1 ... 1."""

    def tell(self, setting: Setting) -> forms.Step | None:
        """The step."""
        setting.notes.append(
            f"{setting.found.layout} scales by the least and greatest number of a batch: outputs"
            " depend on which rows are run together"
        )
        return forms.MinMax()


Step = LayerNorm | PReLU | Scaled | Fixed | Shared | MinMax

TANH = Fixed(Activation.TANH)

# --- bases ----------------------------------------------------------------------------------

Tell = Callable[[Setting], Basis]


@dataclass(frozen=True, slots=True)
class Named:
    """A basis that has a name whatever a layer's tensors tell: `tell`, and `word`, as reports call
    it."""

    word: str
    tell: Tell

    def __call__(self, setting: Setting) -> Basis:
        """The basis of one layer."""
        return self.tell(setting)


def splines(grid: str) -> Tell:
    """B-splines on the knots that the file holds, (in, G + 2k + 1)."""

    def tell(setting: Setting) -> Basis:
        knots = setting.array(grid)
        degree = knots.shape[1] - setting.size - 1
        return forms.Splines(degree, setting.hold(grid, knots))

    return Named("bspline", tell)


def gaussians(grid: str) -> Tell:
    """Gaussians around the centres that the file holds."""

    def tell(setting: Setting) -> Basis:
        return gaussians_at(grid, setting)

    return Named("gaussian", tell)


def gaussians_at(grid: str, setting: Setting) -> forms.Gaussians:
    """The same of one layer."""
    centres = setting.array(grid)
    if not np.isfinite(centres).all():
        setting.refuse("centres of its radial functions are infinite or NaN")
    distance = 0.0
    if len(centres) > 1:
        distance = float((centres.max() - centres.min()) / centres.dtype.type(len(centres) - 1))
    width = setting.told("rbf_denominator", distance)
    if setting.options.rbf_denominator is None and len(centres) < 2:
        setting.refuse("one centre tells no width; give it with `rbf_denominator`")
    if "rbf_denominator" in setting.assumed:
        setting.notes.append(
            f"{setting.found.layout}: radial functions of width {width:.6g}, the distance of"
            " their centres (`rbf_denominator`)"
        )
    return forms.Gaussians(width, ends(centres), setting.hold(grid, centres))


def ends(centres: Array) -> tuple[float, float]:
    """The least and the greatest of some centres."""
    return float(centres.min()), float(centres.max())


def polynomials(series: Series, *, learnt: str = "", **more: Any) -> Tell:
    """Polynomials up to the degree that the number of coefficients tells.

    learnt : tensor of the recurrence's weights
    """

    def tell(setting: Setting) -> Basis:
        role = setting.learn(learnt) if learnt else ""
        if learnt and not role:
            setting.refuse(f"{setting.full(learnt)} is missing")
        return forms.Polynomials(series, setting.size - 1, learnt=role, **more)

    return Named(str(series), tell)


# --- forms ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a layer of one layout computes: after(sum of edge functions + bias).

    basis      : told from the layer's tensors
    before     : what the basis sees of the input
    activation : the library's default for the base branch (used where the file has base weights)
    inner      : whether the base branch sees the input after `before`
    bias       : added to the sum, where the file has it
    after      : steps after the sum
    module     : the module of the user's model that is called with what the expansion takes, below
                 the layer's own
    sums       : the module below the layer's own that is called with the sums over the edges; the
                 layer's own puts them out where this is empty
    norm       : the module below the layer's own through which the basis sees the input, or none
    """

    basis: Tell
    before: Step | None = None
    activation: Activation = Activation.SILU
    inner: bool = False
    bias: str = ""
    after: tuple[Step, ...] = ()
    module: str = ""
    sums: str = ""
    norm: str = ""

    def tell(self, setting: Setting) -> LayerForm:
        """The form of one layer, whose tensors are then in the setting. Raises UsageError where
        they do not tell it."""
        after = [step.tell(setting) for step in self.after]
        if self.bias and (bias := setting.find(self.bias)) is not None:
            setting.arrays["bias"] = bias.reshape(-1)
            setting.learnt["bias"] = setting.full(self.bias)
        basis = self.basis(setting)
        before = self.before.tell(setting) if self.before else None
        return LayerForm(
            basis=basis,
            before=() if before is None else (before,),
            base=setting.activation if setting.has_base else None,
            inner=self.inner,
            after=tuple(step for step in after if step is not None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """What the layers of a library compute, by their layouts' names.

    chains  : fully connected layers, which run by themselves
    patches : convolutions whose module is called with patches, and run in the user's model alone
    maps    : convolutions whose stride and padding the user's module tells
    unknown : why others have no form
    rivals  : of those, the layouts one of which the user can choose in its place
    """

    chains: dict[str, Form] = field(default_factory=dict)
    patches: dict[str, Form] = field(default_factory=dict)
    maps: dict[str, Form] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    rivals: dict[str, tuple[str, ...]] = field(default_factory=dict)
