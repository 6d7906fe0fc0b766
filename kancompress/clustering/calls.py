"""The user's own module run on rows, and what its parts were called with on the way.

What is recorded is copied at once: code that changes tensors in place, before or after a part has
seen them, does not reach it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kancompress.errors import UsageError
from kancompress.models.user_module import given, users_code
from kancompress.system.compilation import eagerly

# Rows that run through the module at a time where nobody says otherwise.
BATCH = 256


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Call:
    """What a module was called with once.

    x      : the first tensor of it, a copy on the CPU
    args, kwargs : all of it, without that tensor; others : how many tensors are among them
    """

    x: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    others: int

    def with_rows(self, x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with another tensor in the place of the first."""
        args, kwargs = (_filled(part, x) for part in (self.args, dict(self.kwargs)))
        return args, kwargs

    def goes_with(self, other: Call) -> bool:
        """Whether the two differ in their first tensor alone."""
        if self.others or other.others or self.x.shape[1:] != other.x.shape[1:]:
            return False
        return bool(self.args == other.args and self.kwargs == other.kwargs)


class _Hole:
    """The place of the tensor that was taken out."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hole)

    __hash__ = None  # type: ignore[assignment]


def _filled(value: Any, x: Tensor) -> Any:
    match value:
        case _Hole():
            return x
        case tuple() | list() if hasattr(value, "_fields"):
            return type(value)(*(_filled(item, x) for item in value))
        case tuple() | list():
            return type(value)(_filled(item, x) for item in value)
        case dict():
            return {key: _filled(item, x) for key, item in value.items()}
    return value


class _Opened:
    """Takes the first tensor out of arguments, and copies it."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.others = 0

    def __call__(self, value: Any) -> Any:
        """The same without its first tensor."""
        match value:
            case Tensor() if self.first is None:
                self.first = value.detach().cpu().clone()
                return _Hole()
            case Tensor():
                self.others += 1
                return value
            case tuple() | list() if hasattr(value, "_fields"):
                return type(value)(*(self(item) for item in value))
            case tuple() | list():
                return type(value)(self(item) for item in value)
            case dict():
                return {key: self(item) for key, item in value.items()}
        return value


@dataclass(slots=True, eq=False)
class Seen:
    """What a module was called with while rows ran, and the first tensor of what it gave."""

    calls: list[Call] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows all calls had."""
        return sum(len(call.x) for call in self.calls if call.x.dim())

    @property
    def counts(self) -> list[int]:
        """The rows of each call."""
        return [len(call.x) if call.x.dim() else 0 for call in self.calls]


def first_tensor(value: Any) -> Tensor:
    """A copy of the first tensor in what a module gives, on the CPU; empty where there is none."""
    opened = _Opened()
    opened(value)
    return torch.empty(0) if opened.first is None else opened.first


@contextlib.contextmanager
def watched(
    modules: Mapping[str, nn.Module], *, outputs: bool = False
) -> Iterator[dict[str, Seen]]:
    """Collect what modules are called with, by their names here, in the order of first calls."""
    seen: dict[str, Seen] = {}

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            opened = _Opened()
            rest_args, rest_kwargs = opened(args), opened(kwargs)
            x = torch.empty(0) if opened.first is None else opened.first
            call = Call(x=x, args=rest_args, kwargs=rest_kwargs, others=opened.others)
            seen.setdefault(name, Seen()).calls.append(call)

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            seen[name].outputs.append(first_tensor(output))

        return hook

    handles = [
        module.register_forward_pre_hook(before(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    if outputs:
        handles += [module.register_forward_hook(after(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def forward(model: nn.Module, rows: Tensor) -> Tensor:
    """Outputs of the model for some rows, (rows, numbers) float32 on the CPU.

    What torch.compile has wrapped runs eagerly, as hooks would not be seen else.
    Raises UsageError where the outputs are no tensor with a row for each row.
    """
    what = f"The model's forward, given rows of shape {list(rows.shape[1:])},"
    with users_code(what), eagerly():
        output: Any = model(given(model, rows))
    if not isinstance(output, Tensor) or not output.dim() or len(output) != len(rows):
        kind = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"The model gives {kind} for {len(rows)} rows; a tensor (rows, outputs) was expected."
        )
    return output.detach().reshape(len(rows), -1).float().cpu()


def run(model: nn.Module, rows: Tensor, batch: int = BATCH) -> Tensor:
    """Outputs of the model for all rows, (rows, numbers) float32, `batch` of them at a time."""
    return torch.cat([forward(model, part) for part in torch.split(rows, batch)])


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
