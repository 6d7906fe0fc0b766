"""The user's own module with rows on their way through it, seen by hooks on its KAN layers.

What each layer sees is what its module is called with while the whole model runs, once with the
dense tensors and once with those of the layers that are packed so far. What the layer makes of
it, its features, is the layout's form; a module that puts out anything else is not calibrated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kancompress.clustering.flow import Flow, few_images
from kancompress.clustering.layer import LayerSolution, Place, Streams, relative
from kancompress.config import CalibrationConfig
from kancompress.errors import UsageError
from kancompress.layers.layer import EdgeLayer
from kancompress.models.user_module import load_into, row_like, users_code
from kancompress.system import devices

# Rows that run through the module at a time, and rows by which modules are compared with forms.
BATCH = 256
_PROBE = 32
# Largest squared error of a form, relative to the spread of the module's output.
_NEAR = 1e-4

# From solutions of some layers to the state dict of the packed model.
State = Callable[[Mapping[str, LayerSolution]], Mapping[str, Tensor]]


@dataclass(slots=True, eq=False)
class _Seen:
    """What a module was called with in one pass, and what it gave, flat rows of both."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


def run(model: nn.Module, rows: Tensor) -> Tensor:
    """Outputs of the model, (rows, numbers) float32. Raises UsageError where they are no tensor."""
    like = row_like(model)
    parts = []
    for batch in torch.split(rows, BATCH):
        with users_code(f"The model's forward, given rows of shape {list(rows.shape[1:])},"):
            output: Any = model(batch.to(like))
        if not isinstance(output, Tensor) or len(output) != len(batch):
            what = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"The model gives {what} for {len(batch)} rows; a tensor (rows, outputs) was"
                " expected."
            )
        parts.append(output.detach().reshape(len(batch), -1).float().cpu())
    return torch.cat(parts)


@contextlib.contextmanager
def _watched(modules: Mapping[str, nn.Module], *, outputs: bool) -> Iterator[dict[str, _Seen]]:
    """Collect what modules are called with, by layer name in the order of their first call."""
    seen: dict[str, _Seen] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
            found = seen.setdefault(name, _Seen())
            found.inputs.append(_first(args, kwargs))
            if outputs:
                found.outputs.append(_first((output,), {}))

        return hook

    handles = [
        module.register_forward_hook(hook_of(name), with_kwargs=True)
        if outputs
        else module.register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first(args: Any, kwargs: Any) -> Tensor:
    """The first tensor among arguments, or among what a module gives, on the CPU."""
    values = [*args, *kwargs.values()]
    values = [*values[0], *values] if values and isinstance(values[0], tuple | list) else values
    tensor = next((value for value in values if isinstance(value, Tensor)), torch.empty(0))
    return tensor.detach().cpu()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Matched:
    """Layers of a model that compute what their forms say, in the order in which they run.

    modules : of the model, by layer name
    apart   : layer name to why its outputs cannot be had
    """

    modules: Mapping[str, nn.Module]
    apart: Mapping[str, str]


def match_modules(
    model: nn.Module,
    layers: Mapping[str, EdgeLayer],
    paths: Mapping[str, str],
    sums: Mapping[str, str],
    rows: Tensor,
) -> Matched:
    """Run a few rows through the model and hold its modules against the layers' forms.

    paths : name of each layer's module in the model
    sums  : name of the module that is called with a layer's sums, where its own gives others
    Raises UsageError where the model does not run.
    """
    named = dict(model.named_modules())
    there = {name: named[path] for name, path in paths.items() if path in named}
    apart = {
        name: f"the model has no module {paths[name]!r} of its own for it"
        for name in layers
        if name not in there
    }
    behind = {name: named[path] for name, path in sums.items() if path in named}
    with (
        in_evaluation(model),
        torch.no_grad(),
        _watched(there, outputs=True) as seen,
        _watched(behind, outputs=False) as summed,
    ):
        run(model, rows[:_PROBE])
    for name, found in summed.items():
        if name in seen:
            seen[name].outputs = found.inputs
    for name in there:
        calls = len(seen[name].inputs) if name in seen else 0
        if calls != 1:
            times = "not called" if not calls else f"called {calls} times"
            apart[name] = f"its module is {times} in a forward pass"
        elif reason := _misfit(layers[name], seen[name]):
            apart[name] = reason
    modules = {name: there[name] for name in seen if name not in apart}
    return Matched(modules=modules, apart=apart)


def _misfit(layer: EdgeLayer, seen: _Seen) -> str:
    """Why a module does not compute the form, empty where it does."""
    x, given = seen.inputs[0], seen.outputs[0]
    out, inputs = layer.shape
    conv = layer.window is not None
    axis, ranks = (1, {4}) if conv else (-1, {2, 3, 4, 5, 6})
    fits = x.dim() in ranks and given.dim() in ranks
    if not fits or (x.shape[axis], given.shape[axis]) != (inputs, out):
        form = f"(rows, {inputs}, ...)" if conv else f"(..., {inputs})"
        return (
            f"its module maps {list(x.shape)} to {list(given.shape)}; {inputs} and {out} features"
            f" as in {form} were expected"
        )
    with torch.no_grad():
        flat = (x if conv else x.reshape(-1, inputs)).to(devices.of(layer))
        sums = layer.sums(flat, layer.edges(), layer.bias)
        if sums.numel() != given.numel():
            return f"its module puts out {list(given.shape)} where {list(sums.shape)} was expected"
        given = given.reshape(sums.shape)
        made = min(relative(y.cpu(), given) for y in (sums, layer.finish(sums)))
    if made <= _NEAR:
        return ""
    return (
        f"its module puts out something else than the layout's form, by {made:.2g} of the spread;"
        " an option such as `base_activation` or `grid_range` may tell what it computes"
    )


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


class Hooked(Flow):
    """A model of the user's own that holds the dense tensors, and holds them again in the end.

    layers  : forms of the layers that are calibrated, in the order in which they run
    modules : of the model, by layer name
    state   : makes the packed state dict from solutions; gives `dense` itself where nothing is
              packed
    dense   : the dense state dict
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, EdgeLayer],
        modules: Mapping[str, nn.Module],
        places: Mapping[str, Place],
        state: State,
        dense: Mapping[str, Tensor],
        rows: Tensor,
        held_out: Tensor,
    ) -> None:
        self.layers = layers
        self.places = places
        self._model = model
        self._modules = modules
        self._state = state
        self._dense = dense
        conv = any(layer.window is not None for layer in layers.values())
        self._rows = (few_images(rows), few_images(held_out)) if conv else (rows, held_out)
        self._settled: dict[str, LayerSolution] = {}
        with in_evaluation(model), torch.no_grad():
            self._targets = [run(model, part) for part in self._rows]

    def restart(self) -> None:
        """As of `Flow`."""
        self._settled = {}

    def settle(self, name: str, found: LayerSolution | None) -> None:
        """As of `Flow`."""
        if found is not None:
            self._settled[name] = found

    def seen(self, name: str) -> tuple[Streams, Streams]:
        """As of `Flow`."""
        dense = [self._inputs(name, part) for part in self._rows]
        packed = dense
        state = self._state(self._settled)
        if state is not self._dense:
            with self._holding(state):
                packed = [self._inputs(name, part) for part in self._rows]
        one, other = (Streams(dense=a, packed=b) for a, b in zip(dense, packed, strict=True))
        return one, other

    def errors(self) -> tuple[float, float]:
        """As of `Flow`."""
        rows, held_out = (self._error(self._settled, number) for number in range(2))
        return rows, held_out

    def alone(self, name: str, found: LayerSolution, config: CalibrationConfig) -> float:
        """As of `Flow`."""
        return self._error({name: found}, 1)

    def _error(self, solutions: Mapping[str, LayerSolution], number: int) -> float:
        held = self._holding(self._state(solutions))
        with held, in_evaluation(self._model), torch.no_grad():
            return relative(run(self._model, self._rows[number]), self._targets[number])

    def _inputs(self, name: str, rows: Tensor) -> Tensor:
        """What a layer's module is called with: maps, or (n, in) float32, where positions of a
        sequence that it is called with together are rows of their own, as many as there are rows.
        """
        watched = {name: self._modules[name]}
        layer = self.layers[name]
        inputs = layer.edges().shape[1]
        parts = []
        with in_evaluation(self._model), torch.no_grad(), _watched(watched, outputs=False) as seen:
            for number, batch in enumerate(torch.split(rows, BATCH)):
                run(self._model, batch)
                flat = seen.pop(name).inputs[0]
                flat = flat.reshape(-1, inputs) if layer.window is None else flat
                if len(flat) > len(batch):  # the same positions for dense and packed
                    generator = torch.Generator().manual_seed(number)
                    flat = flat[torch.randperm(len(flat), generator=generator)[: len(batch)]]
                parts.append(flat.float())
        return torch.cat(parts)

    @contextlib.contextmanager
    def _holding(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """The model with packed tensors, and with the dense ones again afterwards."""
        load_into(self._model, state, "The packed model")
        try:
            yield
        finally:
            load_into(self._model, self._dense, "The dense checkpoint")
