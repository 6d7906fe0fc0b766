"""A device that is not there: tensors on it are CPU tensors behind a mask.

    with elsewhere.there():
        x = torch.ones(3).to(elsewhere.DEVICE)

Operations on masked tensors run on the CPU and their results are masked, so that whole commands run
and give what they give on the CPU, if they move their tensors as a GPU demands: an operation that
meets masked tensors and plain ones raises, as CUDA does (a plain number without axes may go with
any), and so does `numpy()`. Without float64 no masked tensor may be of this type, as on Apple's
GPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_has_float64 = True
_is_there = False


class MixedError(RuntimeError):
    """Tensors of two devices meet in one operation."""


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device."""

    def is_available(self) -> bool:
        """Only within `there`: torch's DataParallel moves modules to what it finds."""
        return _is_there

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("elsewhere", backend_module=_Backend())
DEVICE = torch.device("elsewhere", 0)


@contextlib.contextmanager
def there(*, float64: bool = True) -> Iterator[None]:
    """DEVICE with or without float64; modules moved there keep their parameters, as on a GPU."""
    global _has_float64, _is_there
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    _has_float64, _is_there = float64, True
    try:
        yield
    finally:
        _has_float64, _is_there = True, False
        torch.__future__.set_swap_module_params_on_conversion(swaps)


class _Masked(Tensor):
    """A CPU tensor that says it is on DEVICE."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _Masked:
        made: _Masked = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()


def _kernel(func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: _run(func, args, kwargs)


# What makes tensors on DEVICE of none; all other ways lead here.
_library = torch.library.Library("aten", "IMPL")
for _func in (_aten.empty_strided.default, _aten.empty.memory_format, _aten.copy_.default):
    _library.impl(_func, _kernel(_func), "PrivateUse1")


def _run(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    masked = [tensor for tensor in tensors if isinstance(tensor, _Masked)]
    plain = [tensor for tensor in tensors if not isinstance(tensor, _Masked) and tensor.dim()]
    masks = bool(masked)
    if func is _aten.copy_.default:
        masks = isinstance(args[0], _Masked)
    elif kwargs.get("device") is not None:
        masks = kwargs["device"].type == DEVICE.type
        kwargs = kwargs | {"device": torch.device("cpu")}
    elif masked and plain:
        raise MixedError(f"{func} meets tensors on {DEVICE} and on {plain[0].device}.")
    own = {id(tensor.inner): tensor for tensor in masked}

    def mask(value: Any) -> Any:
        if not masks or not isinstance(value, Tensor):
            return value
        if value.dtype == torch.float64 and not _has_float64:
            raise TypeError(f"{func} makes a float64 tensor on {DEVICE}, which has none.")
        return own[id(value)] if id(value) in own else _Masked(value)

    args, kwargs = tree_map(lambda x: x.inner if isinstance(x, _Masked) else x, (args, kwargs))
    return tree_map(mask, func(*args, **kwargs))
