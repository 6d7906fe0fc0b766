"""A layer's features, asked of the user's own module.

Where no form is known, or the form is not what the module computes, the module itself tells what
the coefficients multiply. It runs with coefficients that are one at one place of each output's
edges and zero elsewhere, as many places at a time as there are outputs; what it puts out are the
features at those places. That holds where the module is linear in its coefficients, each output in
those of its own edges, and treats every row by itself; all three are measured first.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kancompress.clustering.calls import Call, Seen, first_tensor, in_evaluation, watched
from kancompress.clustering.layer import relative
from kancompress.errors import KancompressError
from kancompress.formats.edges.found import FoundLayer
from kancompress.layers.edges import DenseEdges
from kancompress.models.user_module import users_code
from kancompress.models.vectors import scatter
from kancompress.system import devices
from kancompress.system.compilation import eagerly

# Largest squared error, relative to the spread, at which sums are held for equal.
_NEAR = 1e-4
# Rows by which a module is examined, and positions whose features are compared with its outputs.
_ROWS, _POSITIONS = 16, 64
# Bytes of features that are kept to be taken again.
_KEPT = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a module's sums over its edges can be seen.

    parts   : names below the module of those that are called with the sums, one for each group of
              outputs; none where the module puts them out itself
    channel : the axis of the outputs
    """

    parts: tuple[str, ...]
    channel: int


class AskedLayer(nn.Module):
    """A KAN layer whose features its module tells; what calibration asks of an `EdgeLayer`.

    module  : the user's; call : how it is called
    found   : the layer in the file; edges : its dense coefficients (out, ..., d)
    tensors : the module's own tensors by the file's names, which hold the coefficients
    point   : where the sums over the edges are seen
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        found: FoundLayer,
        edges: DenseEdges,
        tensors: Mapping[str, Tensor],
        point: Point,
    ) -> None:
        super().__init__()
        self.edges = edges
        self.name = found.name
        self.bias: nn.Parameter | None = None
        self._bias_name = ""
        # In a list, so that it is no submodule.
        self._module = [module]
        self._call, self._point = call, point
        # Masks and factors of whole edges are set to one: coefficients hold them.
        self._found = replace(found, gains=())
        self._whole = [gain.tensor for gain in found.gains]
        self._whole += [mask.tensor for mask in found.masks if mask.live]
        self._tensors = tensors
        self._kept: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        self._places: dict[tuple[int, ...], int] = {}

    @property
    def maps(self) -> bool:
        """Whether a row has several places."""
        return self._call.x.dim() > 2

    def sides(self) -> Mapping[str, Tensor]:
        """The bias, by the name of its tensor."""
        return {} if self.bias is None else {self._bias_name: self.bias}

    def forget(self) -> None:
        """Keep no features any more."""
        self._kept = {}

    def places(self, x: Tensor) -> int:
        """Sums that a row of `x` gives for each output."""
        key = tuple(x.shape[1:])
        if key not in self._places:
            self._places[key] = self.sums(x[:1], self.edges()).shape[1]
        return self._places[key]

    def sums(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Sums over the edges with these coefficients, (rows, places, out) float32."""
        with self._holding(coefficients):
            return self._observed(x)

    def beside(self, x: Tensor, places: Tensor) -> Tensor | None:
        """What no coefficient makes of the sums, (rows * p, out), the bias included; None where
        groups of outputs see inputs of their own, and their sums are taken together."""
        if self._found.groups > 1:
            return None
        nothing = self.sums(x, torch.zeros_like(self.edges()))
        return self._picked(nothing, places).flatten(0, 1)

    def columns(self, x: Tensor, places: Tensor) -> Tensor:
        """Features as the sums over the edges take them, a row for each sum.

        places  : (rows, p) numbers of the sums of each row of `x`, below `places(x)`
        returns : (rows * p, d, edges of an output); with groups of outputs (rows * p * groups, ...)
        """
        key = (x.data_ptr(), x.shape, places.shape, int(places.sum()))
        if key not in self._kept:
            features = self._asked(x, places)
            if sum(kept.nbytes for _, kept in self._kept.values()) + features.nbytes > _KEPT:
                return features
            # The rows are held, so that no others come to lie at their place.
            self._kept[key] = (x, features)
        return self._kept[key][1]

    def _asked(self, x: Tensor, places: Tensor) -> Tensor:
        dense = self.edges()
        out, d = dense.shape[0], dense.shape[-1]
        own = dense[0].numel()
        groups = self._found.groups
        step = out // groups
        flat = torch.zeros(out, own, device=dense.device, dtype=dense.dtype)
        features = torch.empty(len(x), places.shape[1], groups, own, device=dense.device)
        outputs = torch.arange(out, device=dense.device)
        with self._holding(flat.view(dense.shape)):
            nothing = self._picked(self._observed(x), places)
            for first in range(0, own, step):
                count = min(step, own - first)
                asking = outputs % step < count
                flat.zero_()
                flat[outputs[asking], first + outputs[asking] % step] = 1
                self._put(flat.view(dense.shape))
                found = self._picked(self._observed(x), places) - nothing
                by_group = found.view(*found.shape[:2], groups, step)
                features[..., first : first + count] = by_group[..., :count]
        return features.view(-1, own // d, d).transpose(1, 2)

    @staticmethod
    def _picked(sums: Tensor, places: Tensor) -> Tensor:
        """Sums at some places of each row, (rows, p, out)."""
        rows = torch.arange(len(sums), device=sums.device)[:, None]
        return sums[rows, places.to(sums.device)]

    @contextlib.contextmanager
    def _holding(self, coefficients: Tensor) -> Iterator[None]:
        """The module with these coefficients, whole edges as they are; its own ones afterwards."""
        names = {part.tensor for part in self._found.parts} | set(self._whole)
        with torch.no_grad():
            before = {name: self._tensors[name].detach().clone() for name in names}
            try:
                for name in self._whole:
                    self._tensors[name].fill_(1)
                self._put(coefficients)
                with in_evaluation(self._module[0]):
                    yield
            finally:
                for name, tensor in before.items():
                    self._tensors[name].copy_(tensor)

    def _put(self, coefficients: Tensor) -> None:
        vectors = coefficients.detach().reshape(self._found.edges, -1)
        for name, tensor in scatter(self._found, vectors).items():
            own = self._tensors[name]
            own.copy_(tensor.view(own.shape))

    def _observed(self, x: Tensor) -> Tensor:
        """Sums over the edges that the module holds, (rows, places, out) float32."""
        module, parts = self._module[0], self._point.parts
        watch = {name: module.get_submodule(name) for name in parts}
        with torch.no_grad(), watched(watch) as seen:
            made = _called(module, self._call, x)
        if parts:
            made = torch.cat([seen[name].calls[0].x for name in parts], self._point.channel)
        rows = made.movedim(self._point.channel, -1)
        device = devices.of(self.edges)
        return rows.reshape(len(x), -1, rows.shape[-1]).float().to(device)

    def find_bias(self, names: Mapping[str, Tensor], x: Tensor) -> None:
        """Take the tensor, if there is one, that is added to the sums as it is.

        names : further tensors of the module, by the file's names
        """
        out = self.edges().shape[0]
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad(), in_evaluation(self._module[0]):
            before = self._observed(x)
            scale = float(before.std()) or 1.0
            for name, tensor in names.items():
                if tensor.numel() != out or not tensor.is_floating_point():
                    continue
                own = tensor.detach().clone()
                shift = (torch.randn(out, generator=generator) * scale).to(own)
                try:
                    tensor.add_(shift.view(own.shape))
                    moved = self._observed(x) - before
                finally:
                    tensor.copy_(own)
                if relative(moved.reshape(-1, out).cpu(), _repeated(shift, moved, out)) <= _NEAR:
                    self.bias = nn.Parameter(own.reshape(-1).float())
                    self._bias_name = name
                    return


def _repeated(shift: Tensor, like: Tensor, out: int) -> Tensor:
    return shift.float().cpu().expand(like.numel() // out, out)


def _called(module: nn.Module, call: Call, x: Tensor) -> Tensor:
    """The first tensor of what a module gives for rows."""
    like = next((p for p in module.parameters() if p.is_floating_point()), call.x)
    args, kwargs = call.with_rows(x.to(like.device, call.x.dtype))
    what = f"A layer's forward, given rows of shape {list(x.shape[1:])},"
    with users_code(what), eagerly():
        return first_tensor(module(*args, **kwargs))


def ask(
    module: nn.Module,
    seen: Seen,
    found: FoundLayer,
    edges: DenseEdges,
    tensors: Mapping[str, Tensor],
) -> AskedLayer | str:
    """The layer as its module tells it, or why the module does not tell.

    seen    : what the module was called with
    edges   : the dense coefficients (out, ..., d), where the module computes
    tensors : the model's own ones, by the file's names
    """
    call = next(call for call in seen.calls if call.x.dim() and len(call.x))
    if call.others:
        return "its module is called with more tensors than one"
    if not all(call.goes_with(other) for other in seen.calls if len(other.x)):
        return "its module is called in different ways"
    x = call.x[:_ROWS].to(devices.of(edges))
    edged = {part.tensor for part in found.parts} | {gain.tensor for gain in found.gains}
    edged |= {mask.tensor for mask in found.masks}
    below = set(map(id, [*module.parameters(), *module.buffers()]))
    others = {n: t for n, t in tensors.items() if n not in edged and id(t) in below}
    try:
        points = _points(module, call, x, found.shape[0], found.groups)
        reasons = []
        for point in points:
            layer = AskedLayer(module, call, found, edges, tensors, point)
            reasons.append(_misfit(layer, x))
            if not reasons[-1][1]:
                layer.find_bias(others, x)
                return layer
    except KancompressError as error:
        return error.clause
    if reasons:
        return max(reasons, key=lambda reason: reason[0])[1]
    return (
        f"its module maps {list(call.x.shape)} to {list(seen.outputs[0].shape)}, in which its"
        f" {found.shape[0]} outputs are no axis"
    )


def _points(module: nn.Module, call: Call, x: Tensor, out: int, groups: int) -> list[Point]:
    """Where sums of so many outputs may be seen: what the module gives, then what its parts are
    called with, the last first."""
    parts = {name: part for name, part in module.named_modules() if name}
    with torch.no_grad(), in_evaluation(module), watched(parts) as seen:
        given = _called(module, call, x)
    found = [Point(parts=(), channel=axis) for axis in _channel(given, out, len(x))]
    names = [name for name in seen if len(seen[name].calls) == 1]
    for name in reversed(names):
        tensor = seen[name].calls[0].x
        found += [Point(parts=(name,), channel=a) for a in _channel(tensor, out, len(x))]
        siblings = [f"{name.removesuffix('0')}{group}" for group in range(groups)]
        if groups > 1 and name.endswith(".0") and set(siblings) <= set(names):
            axes = _channel(tensor, out // groups, len(x))
            found += [Point(parts=tuple(siblings), channel=axis) for axis in axes]
    return found


def _channel(tensor: Tensor, out: int, rows: int) -> Sequence[int]:
    """Axes that may be the outputs': the last, or the second of maps."""
    if tensor.dim() < 2 or len(tensor) != rows or not tensor.is_floating_point():
        return ()
    axes = [axis for axis in (1, tensor.dim() - 1) if tensor.shape[axis] == out]
    return list(dict.fromkeys(axes if tensor.dim() > 3 else reversed(axes)))


def _misfit(layer: AskedLayer, x: Tensor) -> tuple[int, str]:
    """Why the features cannot be asked of the module, and how many examinations came before it;
    empty where they can."""
    dense = layer.edges().detach()
    generator = torch.Generator().manual_seed(0)
    scale = float(dense.float().std()) or 1.0
    one, two = ((torch.randn(dense.shape, generator=generator) * scale).to(dense) for _ in range(2))
    none = layer.sums(x, torch.zeros_like(dense))
    made = [layer.sums(x, one) - none, layer.sums(x, two) - none]
    both = layer.sums(x, one + two) - none
    if not all(bool(sums.isfinite().all()) for sums in (none, both, *made)):
        return 0, "its module puts out infinite numbers or NaN for other coefficients"
    if not both.any():
        return 1, "its module's outputs do not depend on the coefficients"
    if (off := _apart(made[0] + made[1], both)) > _NEAR:
        return 2, (
            "its module is not linear in its coefficients: the outputs of two sets and of their"
            f" sum differ by {off:.2g} of the spread"
        )
    for part in (slice(0, 1), slice(0, len(x) // 2), slice(len(x) // 2, None)):
        alone = layer.sums(x[part], one) - layer.sums(x[part], torch.zeros_like(dense))
        if alone.shape[1:] != both.shape[1:]:
            return 3, "the number of its sums depends on the rows that go together"
        if (off := _apart(alone, made[0][part])) > _NEAR:
            return 3, (
                "its module makes something else of a row where other rows go with it, by"
                f" {off:.2g} of the spread"
            )
    count = both.shape[1]
    rows = max(1, min(len(x), _POSITIONS // min(count, _POSITIONS)))
    places = torch.rand(rows, count, generator=generator).argsort(1)[:, :_POSITIONS]
    features = layer.columns(x[:rows], places)
    layer.forget()
    wanted = AskedLayer._picked(made[0][:rows], places)
    told = _from_features(layer, features, one, places)
    if (off := _apart(told, wanted)) > _NEAR:
        return 4, (
            "its module's outputs depend on coefficients of other outputs' edges, by"
            f" {off:.2g} of the spread"
        )
    return 5, ""


def _from_features(
    layer: AskedLayer, features: Tensor, coefficients: Tensor, places: Tensor
) -> Tensor:
    """Sums that features and coefficients make, (rows, p, out)."""
    out, groups = coefficients.shape[0], layer._found.groups
    matrix = coefficients.float().flatten(1, -2).transpose(1, 2).flatten(1)  # (out, d * edges)
    sums = (features.flatten(1) @ matrix.T).view(-1, groups, groups, out // groups)
    own = sums.diagonal(dim1=1, dim2=2).movedim(-1, 1)  # (rows * p, groups, out of a group)
    return own.reshape(*places.shape, out)


def _apart(found: Tensor, wanted: Tensor) -> float:
    """Squared distance, relative to the spread over rows and places."""
    if not found.numel():
        return 0.0
    off = relative(found.flatten(0, 1).cpu(), wanted.flatten(0, 1).cpu())
    return off if math.isfinite(off) else math.inf
