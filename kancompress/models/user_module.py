"""Live `torch.nn.Module`s: their state dict as a checkpoint, and state dicts put into them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from kancompress.errors import KancompressError, UsageError
from kancompress.formats.foreign.placement import union
from kancompress.formats.safetensors import shown
from kancompress.models import factory
from kancompress.models.records import ForeignCheckpoint
from kancompress.models.tensors import NAMES
from kancompress.system import inputs
from kancompress.values import did_you_mean

_SHOWN_NAMES = 3


@contextlib.contextmanager
def users_code(what: str, fields: Sequence[str] = ()) -> Iterator[None]:
    """Turn whatever the user's own code raises into a KancompressError of one sentence.

    fields : parameters of the library that `what` speaks of
    """
    try:
        yield
    except (KancompressError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        kind = type(error).__name__
        raise KancompressError(
            f"{what} raised {kind}{': ' if text else ''}{text.removesuffix('.')}.",
            fields=fields,
        ) from error


def build_module(target: str) -> nn.Module:
    """Call `package.module:factory`, the module looked for in the current directory first, or
    `file.py:factory`.

    The factory takes no arguments and returns a Module; a class of Modules or a Module will do.
    This imports and runs the user's code. Raises UsageError when there is no such thing,
    KancompressError when the code itself raises.
    """
    module_name, path = factory.split(target)
    here = str(Path.cwd())
    file = factory.script(module_name)
    if file is not None:  # what stands beside it can be imported, as beside a script
        _check_script(file, target)
        here = str(file.resolve().parent)
    sys.path.insert(0, here)
    try:
        module = _imported(module_name, target) if file is None else _loaded(file, target)
        made = _called(module, module_name, path, target)
    finally:
        # At the end from now on: for imports that the model makes later, and shadowing nothing.
        sys.path.remove(here)
        sys.path.append(here)
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"`model={target}` gave {type(made).__name__}; a torch.nn.Module was expected.",
            fields=("model",),
        )
    return made


def _check_script(file: Path, target: str) -> None:
    if not file.is_file():
        raise UsageError(
            f"`model={target}`: there is no file {file}.",
            fields=("model",),
            hint=inputs.meant(file),
        )


def _loaded(file: Path, target: str) -> Any:
    """The module of a file of Python, under its own name where no other has that."""
    name = file.stem if file.stem not in sys.modules else f"_{file.stem}_of_the_model"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickles look for it
    try:
        with users_code(f"Importing {file} for `model={target}`", fields=("model",)):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _imported(name: str, target: str) -> Any:
    try:
        with users_code(f"Importing {name} for `model={target}`", fields=("model",)):
            return importlib.import_module(name)
    except KancompressError as error:
        cause = error.__cause__
        missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise UsageError(
                f"`model={target}`: there is no module {missing}, neither installed nor in"
                f" {Path.cwd()}.",
                fields=("model",),
                hint=_script_meant(name),
            ) from None
        raise


def _script_meant(name: str) -> str:
    """The file of Python that a module's name may mean, as a sentence; "" where there is none."""
    near = inputs.meant(Path(f"{name.replace('.', '/')}.py"))
    return near if near.endswith(".py?") else ""


def _called(module: Any, at: str, path: str, target: str) -> Any:
    """What the path within a module, which messages call `at`, gives when it is called."""
    value = module
    for name in path.split("."):
        if not hasattr(value, name):
            raise UsageError(
                f"`model={target}`: {at} has no attribute {name}.",
                fields=("model",),
                hint=did_you_mean(name, [one for one in dir(value) if one[0] != "_"]).strip(),
            )
        value, at = getattr(value, name), f"{at}.{name}"
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        raise UsageError(
            f"`model={target}`: {path} is {type(value).__name__}, which cannot be called; a"
            " function or class that gives a torch.nn.Module was expected.",
            fields=("model",),
        )
    with users_code(f"`model={target}`: {path}()", fields=("model",)):
        return value()


def row_like(model: nn.Module) -> Tensor:
    """A tensor with the device and the floating point type that rows for the model should have:
    those of its first parameter."""
    floats = [p for p in model.parameters() if p.is_floating_point()]
    return floats[0].detach() if floats else torch.empty(0)


def given(model: nn.Module, rows: Tensor) -> Tensor:
    """Rows as they go into the model: on its device, floating point ones in its type. Whole numbers
    (token ids) stay as they are."""
    like = row_like(model)
    return rows.to(like) if rows.is_floating_point() else rows.to(like.device)


def as_taken(model: nn.Module, rows: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Rows of whole numbers as they are, or as floating point numbers where the model refuses
    them; and what to tell the user of that."""
    if rows.is_floating_point():
        return rows, ()
    if _takes(model, rows[:2]) or not _takes(model, rows[:2].float()):
        return rows, ()  # where it refuses both, it says why when it runs
    note = "the model refuses whole numbers; it gets the rows as floating point numbers"
    return rows.float(), (note,)


def _takes(model: nn.Module, rows: Tensor) -> bool:
    """Whether the model, in evaluation, runs on some rows."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            model(given(model, rows))
    except Exception:
        return False
    finally:
        for module, mode in modes:
            module.training = mode
    return True


# --- a module as a checkpoint ---------------------------------------------------------------


class _Counter(io.RawIOBase):
    """A file that keeps nothing but its length."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def write(self, data: Any) -> int:
        """Count the bytes."""
        size = memoryview(data).nbytes
        self.count += size
        return size


def read_module(model: nn.Module) -> ForeignCheckpoint:
    """The state dict of a live module, as if `torch.save` had written it and it were read again.

    Tensors on the CPU are not copied, others are moved there. `file_bytes` is what
    `torch.save(model.state_dict(), path)` would weigh. Raises UsageError for tensors that no
    checkpoint can hold.
    """
    return read_state(model.state_dict(), "The model")


def read_state(state: Mapping[str, Any], where: str) -> ForeignCheckpoint:
    """A state dict in memory, as `read_module` reads a module's; `where` is what messages call it.

    What is no tensor is dropped, and told; arrays of numpy become tensors. Raises UsageError where
    the tensors lie deeper, as in what a trainer saves.
    """
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    dropped = []
    for name, given_value in state.items():
        value = _as_tensor(given_value)
        if not isinstance(value, Tensor) or not isinstance(name, str):
            dropped.append(f"{name} (no tensor)")
            continue
        _check_tensor(name, value, where)
        identity = _identity(name, value)
        if identity in first:
            ties[name] = first[identity]
            tensors[name] = tensors[ties[name]]
            continue
        first[identity] = name
        tensors[name] = value.detach().cpu().contiguous()
    if state and not tensors:
        raise _no_tensors(state, where)
    counter = _Counter()
    torch.save(tensors, counter)  # type: ignore[arg-type]
    return ForeignCheckpoint(
        where=where,
        container="torch-zip",
        path=(),
        tensors=tensors,
        ties=ties,
        metadata={},
        dropped=tuple(dropped),
        tensor_bytes=sum(t.nbytes for name, t in tensors.items() if name not in ties),
        file_bytes=counter.count,
        unused_bytes=_unused(tensors.values()),
    )


def _unused(tensors: Iterable[Tensor]) -> int:
    """Bytes of storages that `torch.save` would write although no tensor uses them."""
    places: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        begin = int(tensor.storage_offset()) * tensor.itemsize
        held = places.setdefault(storage.data_ptr(), (storage.nbytes(), []))[1]
        held.append((begin, begin + tensor.nbytes))
    return sum(size - union(held) for size, held in places.values())


def _as_tensor(value: object) -> object:
    """An array of numbers as a tensor over its memory; other values as they are."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(value if value.flags.writeable else value.copy())
    except TypeError:  # of texts, objects and the like
        return value


def _no_tensors(state: Mapping[str, Any], where: str) -> UsageError:
    """That nothing in a state dict is a tensor, and where the tensors are."""
    inner = [
        str(name)
        for name, value in state.items()
        if isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values())
    ]
    way = f"; they lie in its {shown(inner[0])}, so give that" if inner else ""
    return UsageError(
        f"{where} has no tensor among its {len(state):,} entries{way}. A dict from the names of"
        " tensors to tensors was expected."
    )


def _check_tensor(name: str, value: Tensor, where: str) -> None:
    what = ""
    if isinstance(value, UninitializedParameter | UninitializedBuffer) or value.is_meta:
        what = "has no values yet; give the model its weights (a lazy one runs once) first"
    elif type(value.detach()) is not Tensor:
        what = f"is a {type(value).__name__}; gather it into a plain tensor first"
    elif value.layout is not torch.strided or value.is_quantized:
        what = "is sparse or quantised; make it a plain dense tensor first"
    elif value.dtype not in NAMES or value.dtype.is_complex:
        what = f"is of dtype {str(value.dtype).removeprefix('torch.')}, which is not supported"
    if what:
        raise UsageError(f"{where}'s tensor {shown(name)} {what}.")


def _identity(name: str, value: Tensor) -> tuple[object, ...]:
    """What two tensors that are the same have in common."""
    start = value.data_ptr()
    nothing = not value.numel() and name
    return value.device, value.dtype, start, value.shape, value.stride(), nothing


# --- a state dict into a module -------------------------------------------------------------


# Modules that hold another one and add their own name to its tensors' names.
_WRAPPERS = frozenset(
    {
        "module",  # DataParallel, DistributedDataParallel, AveragedModel
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",  # Fabric, DeepSpeed
    }
)
# Numbers that averages of a model keep beside it, which the model itself has no place for.
_COUNTERS = frozenset({"n_averaged", "num_updates", "initted", "step", "decay"})
# Numbers that profilers leave on the layers of the module that they looked at.
_COUNTS = frozenset({"total_ops", "total_params"})


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> dict[str, str]:
    """Copy a state dict into `model`, in its own dtypes and devices; file's name to model's name.

    Prefixes may differ: those of wrappers (DistributedDataParallel, torch.compile, FSDP) anywhere,
    and one more that all names of one side begin with. All tensors must be there and of equal
    shape, but those that the model shares with others that are there; counters of an average of
    the model, as n_averaged, may lie beside them.
    where : what messages call the tensors. Raises UsageError naming what does not fit.
    """
    own = {name: t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    names = _paired(list(tensors), list(own))
    have = set(names.values())
    shared = {_identity(name, own[name]) for name in have}
    missing = [
        name for name in own if name not in have and _identity(name, own[name]) not in shared
    ]
    unexpected = [
        name for name in tensors if name not in names and not _is_counter(name, tensors[name])
    ]
    shapes = [
        f"{shown(name)} has the shape {list(tensors[name].shape)} and the model's"
        f" {list(own[target].shape)}"
        for name, target in names.items()
        if tensors[name].shape != own[target].shape
    ]
    reasons = [_listed("missing", list(map(shown, missing)))] if missing else []
    reasons += [_listed("unexpected", list(map(shown, unexpected)))] if unexpected else []
    reasons += [_listed("", shapes)] if shapes else []
    if reasons:
        raise UsageError(f"{where} does not fit the model: {'; '.join(reasons)}.")
    with users_code("Loading the state dict into the model"):
        model.load_state_dict(
            {target: tensors[name] for name, target in names.items()}, strict=False
        )
    return names


def _listed(kind: str, items: list[str]) -> str:
    head = f"{len(items)} {kind} (" if kind else ""
    more = f" and {len(items) - _SHOWN_NAMES} more" if len(items) > _SHOWN_NAMES else ""
    return head + ", ".join(items[:_SHOWN_NAMES]) + more + (")" if kind else "")


def _is_counter(name: str, tensor: Tensor) -> bool:
    return name.rpartition(".")[2] in _COUNTERS | _COUNTS and tensor.numel() == 1


def _paired(given: list[str], own: list[str]) -> dict[str, str]:
    """Names of the model's tensors for the given names, the same but for prefixes."""
    exact = {name: name for name in given if name in set(own)}
    if len(exact) == len(given):
        return exact
    bare_given, bare_own = _unwrapped(given), _unwrapped(own)
    plain = dict(zip(bare_own, own, strict=True))
    before, beyond = _prefixes(bare_given, bare_own)
    return {
        name: plain[beyond + bare.removeprefix(before)]
        for name, bare in zip(given, bare_given, strict=True)
        if bare.startswith(before) and beyond + bare.removeprefix(before) in plain
    }


def _unwrapped(names: list[str]) -> list[str]:
    """The names without those of wrappers, where they still differ from each other."""
    bare = []
    for name in names:
        *path, last = name.split(".")
        bare.append(".".join([*(part for part in path if part not in _WRAPPERS), last]))
    return bare if len(set(bare)) == len(bare) else names


def _prefixes(given: list[str], own: list[str]) -> tuple[str, str]:
    """The prefix of the given names, or else of the model's, without which most given ones agree.

    None of either where that are no more than half of them.
    """
    found: Counter[tuple[str, str]] = Counter()
    for names, others, beyond in ((given, set(own), False), (own, set(given), True)):
        for name in names:
            for prefix in _beginnings(name):
                if name.removeprefix(prefix) in others:
                    found["" if beyond else prefix, prefix if beyond else ""] += 1
    # Names that agree as they are were counted from both sides.
    found["", ""] = found["", ""] // 2
    best = min(found, key=lambda pair: (-found[pair], len(pair[0] + pair[1]), pair))
    return best if 2 * found[best] > len(given) else ("", "")


def _beginnings(name: str) -> Iterator[str]:
    """All that stands before a part of a dotted name, the shortest first."""
    yield ""
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()]
