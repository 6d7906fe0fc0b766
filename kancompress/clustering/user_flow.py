"""The user's own module with rows on their way through it, seen by hooks on its KAN layers.

What each layer sees is what its module is called with while the whole model runs, once with the
dense tensors and once with those of the layers that are packed so far. What the layer makes of
it, its features, is the layout's form; where the module puts out anything else, its features are
asked of it (`asked`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kancompress.clustering.asked import AskedLayer
from kancompress.clustering.calls import Seen, forward, in_evaluation, run, watched
from kancompress.clustering.flow import Flow, few_images
from kancompress.clustering.layer import (
    PLACES,
    LayerSolution,
    Place,
    Solvable,
    Streams,
    relative,
    scale_of,
)
from kancompress.config import CalibrationConfig
from kancompress.errors import KancompressError
from kancompress.layers.layer import EdgeLayer
from kancompress.models.user_module import load_into
from kancompress.system import devices

# Rows by which modules are compared with forms at a time.
_PROBE = 32
# Largest squared error of a form, relative to the spread of the module's output.
_NEAR = 1e-4
# A layer has other rows with packed tensors than with dense ones, as a gate chose anew, where both
# go together less than this: of layers whose number of rows changes from batch to batch, and of
# others, where packing alone may move the rows far.
_GATED, _PLAIN = 0.7, 0.2

# From solutions of some layers to the state dict of the packed model.
State = Callable[[Mapping[str, LayerSolution]], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Modules:
    """The modules of a model's KAN layers.

    there : by layer name, those that were called with rows, in the order of their first call
    seen  : what they were called with, and what they or the module behind them gave
    apart : layer name to why its module is not there
    """

    there: Mapping[str, nn.Module]
    seen: Mapping[str, Seen]
    apart: Mapping[str, str]


def find_modules(
    model: nn.Module,
    paths: Mapping[str, str],
    sums: Mapping[str, str],
    rows: Tensor,
) -> Modules:
    """Run rows through the model, few at a time, until every layer has seen some.

    paths : name of each layer's module in the model
    sums  : name of the module that is called with a layer's sums, where its own gives others
    Raises UsageError where the model does not run.
    """
    named = dict(model.named_modules())
    there = {name: named[path] for name, path in paths.items() if path in named}
    behind = {name: named[path] for name, path in sums.items() if path in named}
    found: dict[str, Seen] = {}
    for batch in torch.split(rows, _PROBE):
        with (
            in_evaluation(model),
            torch.no_grad(),
            watched(there, outputs=True) as seen,
            watched(behind) as summed,
        ):
            forward(model, batch)
        for name, called in seen.items():
            if called.rows and name not in found:
                if name in summed:
                    called.outputs = [call.x for call in summed[name].calls]
                found[name] = called
        if len(found) == len(there):
            break
    apart = {
        name: f"the model has no module {path!r} of its own for it"
        if name not in there
        else "its module is called with no rows in a forward pass of the model"
        for name, path in paths.items()
        if name not in found
    }
    return Modules(there={name: there[name] for name in found}, seen=found, apart=apart)


def misfit(layer: EdgeLayer, seen: Seen) -> str:
    """Why a module does not compute the form, empty where it does."""
    x = next(call.x for call in seen.calls if call.x.dim() and len(call.x))
    given = next((output for output in seen.outputs if output.dim() and len(output)), None)
    out, inputs = layer.shape
    conv = layer.window is not None
    axis, ranks = (1, {4}) if conv else (-1, {2, 3, 4, 5, 6})
    fits = given is not None and x.dim() in ranks and given.dim() in ranks
    if given is None or not fits or (x.shape[axis], given.shape[axis]) != (inputs, out):
        form = f"(rows, {inputs}, ...)" if conv else f"(..., {inputs})"
        shape = None if given is None else list(given.shape)
        return (
            f"its module maps {list(x.shape)} to {shape}; {inputs} and {out} features"
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


class Hooked(Flow):
    """A model of the user's own that holds the dense tensors, and holds them again in the end.

    layers  : that are calibrated, in the order in which they run
    modules : of the model, by layer name
    state   : makes the packed state dict from solutions; gives `dense` itself where nothing is
              packed
    dense   : the dense state dict
    config  : how many rows, or positions of a layer that sees several of each row, are taken
              (`samples`), how many run at a time, and the memory that outputs may take
    tell    : gets what the user should know of the rows
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Solvable],
        modules: Mapping[str, nn.Module],
        places: Mapping[str, Place],
        state: State,
        dense: Mapping[str, Tensor],
        rows: Tensor,
        held_out: Tensor,
        config: CalibrationConfig,
        tell: Callable[[str], None],
    ) -> None:
        self.layers = layers
        self.places = places
        self._model = model
        self._modules = modules
        self._state = state
        self._dense = dense
        self._config = config
        self._tell = tell
        maps = any(layer.maps for layer in layers.values())
        self._rows = (few_images(rows), few_images(held_out)) if maps else (rows, held_out)
        self._samples = (config.samples, max(1, config.samples // 8))
        self._settled: dict[str, LayerSolution] = {}
        with in_evaluation(model), torch.no_grad():
            self._outputs = [
                _Outputs(model, part, config.batch_size, config.memory) for part in self._rows
            ]
        if note := self._outputs[0].note:
            tell(note)

    def restart(self) -> None:
        """As of `Flow`."""
        self._settled = {}

    def settle(self, name: str, found: LayerSolution | None) -> None:
        """As of `Flow`."""
        layer = self.layers[name]
        if isinstance(layer, AskedLayer):
            layer.forget()
        if found is not None:
            self._settled[name] = found

    def seen(self, name: str) -> tuple[Streams, Streams]:
        """As of `Flow`."""
        dense = [self._inputs(name, number) for number in range(2)]
        packed = dense
        state = self._state(self._settled)
        if state is not self._dense:
            with self._holding(state):
                packed = [self._inputs(name, number) for number in range(2)]
        one, other = (
            self._paired(name, number, a, b)
            for number, (a, b) in enumerate(zip(dense, packed, strict=True))
        )
        return one, other

    def _paired(self, name: str, number: int, dense: _Given, packed: _Given) -> Streams:
        """Both streams of a layer; the dense one twice where the layer has other rows as soon as
        layers before it are packed."""
        rows, wanted = dense.rows, self._samples[number]
        places = max(PLACES, math.ceil(wanted / max(1, len(rows)))) if len(rows) else PLACES
        if packed is dense:
            return Streams(dense=rows, packed=rows, places=places)
        same = packed.counts == dense.counts and packed.rows.shape == rows.shape
        if same and _correlation(packed.rows, rows) >= (_GATED if dense.is_gated else _PLAIN):
            return Streams(dense=rows, packed=packed.rows, places=places)
        self._tell(
            f"layer {name} sees other rows once layers before it are packed (a gate may choose"
            " them); it is calibrated on those that the dense model gives it"
        )
        return Streams(dense=rows, packed=rows, places=places)

    def errors(self) -> tuple[float, float]:
        """As of `Flow`."""
        rows, held_out = (self._error(self._settled, number) for number in range(2))
        return rows, held_out

    def alone(self, name: str, found: LayerSolution, config: CalibrationConfig) -> float:
        """As of `Flow`."""
        return self._error({name: found}, 1)

    def _error(self, solutions: Mapping[str, LayerSolution], number: int) -> float:
        state = self._state(solutions)
        with in_evaluation(self._model), torch.no_grad():
            return self._outputs[number].error(lambda: self._holding(state))

    def _inputs(self, name: str, number: int) -> _Given:
        """What a layer's module is called with: maps, or (n, in) float32, where positions of a
        sequence that it is called with together are rows of their own. All rows together give
        about as many as samples are wanted.
        """
        rows = self._rows[number]
        layer = self.layers[name]
        wanted = max(len(rows), self._samples[number])
        parts: list[Tensor] = []
        counts: list[list[int]] = []
        with in_evaluation(self._model), torch.no_grad():
            for start, batch in enumerate(torch.split(rows, self._config.batch_size)):
                with watched({name: self._modules[name]}) as seen:
                    forward(self._model, batch)
                calls = seen[name].calls if name in seen else []
                counts.append([len(call.x) for call in calls])
                given = [_flat(layer, call.x) for call in calls if len(call.x)]
                if not given:
                    continue
                flat = torch.cat(given)
                share = math.ceil(wanted * len(batch) / len(rows))
                if len(flat) > max(share, len(batch)):  # the same positions for dense and packed
                    generator = torch.Generator().manual_seed(start)
                    flat = flat[torch.randperm(len(flat), generator=generator)[:share]]
                parts.append(flat.float())
        return _Given(rows=torch.cat(parts) if parts else torch.empty(0), counts=counts)

    @contextlib.contextmanager
    def _holding(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """The model with packed tensors, and with the dense ones again afterwards."""
        if state is self._dense:
            yield
            return
        load_into(self._model, state, "The packed model")
        try:
            yield
        finally:
            load_into(self._model, self._dense, "The dense checkpoint")


def _flat(layer: Solvable, x: Tensor) -> Tensor:
    """What a layer was called with as it is solved: maps as they are, else (n, in)."""
    return x if layer.maps else x.reshape(-1, x.shape[-1])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Given:
    """Rows of a layer, and how many each of its calls had, batch by batch."""

    rows: Tensor
    counts: Sequence[Sequence[int]]

    @property
    def is_gated(self) -> bool:
        """Whether full batches gave it different numbers of rows."""
        full = self.counts[:-1] if len(self.counts) > 1 else self.counts
        return any(counts != full[0] for counts in full)


def _correlation(one: Tensor, other: Tensor) -> float:
    """How far two sets of rows go together, 1 where they are the same but for a factor."""
    a, b = ((x.double() - x.double().mean(0)).reshape(-1) for x in (one, other))
    product = float(a.norm() * b.norm())
    return float(a @ b) / product if product else 1.0


class _Outputs:
    """What the dense model puts out, to compare with: kept, or made again where it is too large.

    Numbers of the outputs that are infinite or NaN in all rows are left out, and told by `note`.
    Raises KancompressError where some rows have such numbers and others not.
    """

    def __init__(self, model: nn.Module, rows: Tensor, batch: int, memory: int) -> None:
        self._model, self._rows, self._batch = model, rows, batch
        width = forward(model, rows[:batch]).shape[1]
        # Comparing takes two copies in float64 beside both outputs.
        most = max(batch, memory // 2 // (24 * max(1, width)))
        self._chunk = min(len(rows), most)
        self._dense: Tensor | None = None
        bad = torch.zeros(width, dtype=torch.long)
        self._sum, self._squares = torch.zeros(2, width, dtype=torch.float64)
        for part in torch.split(rows, self._chunk):
            made = run(model, part, batch)
            bad += (~made.isfinite()).sum(0)
            wide = made.nan_to_num(0.0, 0.0, 0.0).double()
            self._sum += wide.sum(0)
            self._squares += wide.square().sum(0)
        finite = bad == 0
        mixed = (bad > 0) & (bad < len(rows))
        if mixed.any():
            number = int(mixed.nonzero()[0])
            raise KancompressError(
                f"The model's output {number} is infinite or NaN for {int(bad[number]):,} of"
                f" {len(rows):,} rows, so that errors have no meaning. Leave such rows out.",
                fields=("rows",),
            )
        if not finite.any():
            raise KancompressError(
                "All outputs of the model are infinite or NaN on these rows; errors have no"
                " meaning.",
                fields=("rows",),
            )
        self._kept = None if finite.all() else finite.nonzero()[:, 0]
        if self._chunk >= len(rows):
            self._dense = self._chosen(made)

    @property
    def note(self) -> str:
        """What the user should know of them; empty where there is nothing."""
        if self._kept is None:
            return ""
        left = len(self._sum) - len(self._kept)
        return (
            f"{left:,} of the model's {len(self._sum):,} outputs are infinite or NaN for all rows;"
            " errors leave them out"
        )

    def _chosen(self, outputs: Tensor) -> Tensor:
        return outputs if self._kept is None else outputs[:, self._kept]

    def error(self, holding: Callable[[], contextlib.AbstractContextManager[None]]) -> float:
        """Squared error of the outputs while the model holds other tensors, as of `relative`."""
        if self._dense is not None:
            with holding():
                found = self._chosen(run(self._model, self._rows, self._batch))
            return relative(found, self._dense)
        total = 0.0
        for part in torch.split(self._rows, self._chunk):
            dense = self._chosen(run(self._model, part, self._batch))
            with holding():
                found = self._chosen(run(self._model, part, self._batch))
            total += float((found.double() - dense.double()).square().sum())
        return total / self._scale

    @property
    def _scale(self) -> float:
        """As `relative` has it, from sums over all rows."""
        sums, squares = self._chosen(self._sum[None]), self._chosen(self._squares[None])
        whole = float(squares.sum())
        spread = float((squares - sums.square() / len(self._rows)).clamp_min(0).sum())
        return scale_of(spread, whole)
