"""The state of a training run: one safetensors file, replaced whole after every epoch.

It holds all that the next epoch depends on, so that a run that was stopped at any point goes on as
if it had not been: parameters and buffers, the optimizer's moments and learning rates, the
generator of the order of rows, the best epoch, the history. What else is random is seeded by epoch
(`fitting`). Reading runs nothing that the file names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kancompress.config import FinetuneConfig, TrainConfig
from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats import safetensors as containers
from kancompress.models.tensors import encode_header, payload_chunks, to_torch
from kancompress.system import distributed, files, inputs, locks
from kancompress.system.inputs import Data
from kancompress.training.history import Epoch, Score
from kancompress.training.state_file import KEY, SUFFIX, StateFile
from kancompress.version import __version__

_VERSION = 1

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class State:
    """A run between two epochs.

    rates     : learning rate of each group of parameters in the next epoch
    network   : its state dict; best : the same after the best epoch
    optimizer : number of the parameter and name of the moment, joined by a dot, to the moment
    order     : state of the generator that draws the order of rows, (bytes,) uint8
    """

    history: list[Epoch]
    rates: tuple[float, ...]
    network: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    order: Tensor


def options_of(config: TrainConfig | FinetuneConfig) -> dict[str, Any]:
    """What makes a run another one of its options: all but the number of epochs."""
    return {name: value for name, value in asdict(config).items() if name != "epochs"}


def fingerprint(tensors: Mapping[str, Tensor | None]) -> str:
    """A name for the contents of tensors: equal for equal names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor is not None:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
            digest.update(_bytes(tensor))
    return f"sha256:{digest.hexdigest()}"


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


# --- writing -------------------------------------------------------------------------------


def save(path: Path, state: State, run: Facts, place: Facts) -> None:
    """Replace the state file. Raises KancompressError where it cannot be written, UsageError where
    something else is there.

    run   : what makes this run another than others, by the names of options
    place : what its rounding depends on
    """
    tensors = {"order": state.order}
    for kind in ("network", "best", "optimizer"):
        tensors |= {f"{kind}.{name}": tensor for name, tensor in getattr(state, kind).items()}
    payload = b"".join(payload_chunks(tensors))
    document = {
        "version": _VERSION,
        "run": run,
        "place": place,
        "rates": [_as_text(rate) for rate in state.rates],
        "history": [_epoch_to_json(epoch) for epoch in state.history],
        "payload": hashlib.sha256(payload).hexdigest(),
    }
    header = encode_header(tensors, {KEY: json.dumps(document, allow_nan=False)})
    StateFile(path=path).check()
    files.write(path, [header, payload], force=True)


def _as_text(number: float) -> str:
    """A float without loss, infinity and NaN included."""
    return number.hex()


def _epoch_to_json(epoch: Epoch) -> dict[str, Any]:
    record = asdict(epoch)
    record["train_loss"] = None if epoch.train_loss is None else _as_text(epoch.train_loss)
    record["rates"] = [_as_text(rate) for rate in epoch.rates]
    record["validation"]["loss"] = _as_text(epoch.validation.loss)
    return record


# --- reading -------------------------------------------------------------------------------


def load(
    where: str, data: memoryview, run: Facts, place: Facts, like: State
) -> tuple[State, str | None]:
    """The state in the bytes of a file, and in a sentence what has changed around the run, if
    anything has.

    where : what messages call it
    like  : a state of the same run whose tensors have the right shapes and types; moments that it
            lacks may be missing, too
    Raises UsageError for the state of another run, InvalidFileError for what is no sound state.
    """
    container = containers.parse(Data(data), where)
    document = _document(container)
    _check_same(where, document["run"], run)
    payload = container.data[container.header_size :]
    if hashlib.sha256(payload).hexdigest() != document["payload"]:
        raise InvalidFileError(
            Flaw.CHECKSUM_MISMATCH, f"{where} is damaged: its tensors do not match their checksum."
        )
    groups: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
    for name, array in container.arrays().items():
        kind, _, rest = name.partition(".")
        groups.get(kind, {})[rest] = to_torch(array)
    try:
        state = State(
            history=[_epoch_from_json(record) for record in document["history"]],
            rates=tuple(float.fromhex(rate) for rate in document["rates"]),
            order=to_torch(container.array("order")),
            **groups,
        )
        _check_like(state, like)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(where, f"{type(error).__name__}: {error}") from None
    return state, _changes(document["place"], place)


def _damaged(where: str, what: str) -> InvalidFileError:
    return InvalidFileError(
        Flaw.BAD_VALUE, f"{where} is no sound state of a run ({what}).", where=where
    )


def _document(container: containers.Container) -> dict[str, Any]:
    where = container.where
    if KEY not in container.metadata:
        raise InvalidFileError(
            Flaw.WRONG_KIND,
            f"{where} is not the state of a run; `resume` takes the file OUT{SUFFIX} that a run"
            " leaves beside its output when it is stopped.",
            where=where,
            fields=("resume",),
        )
    text = container.metadata[KEY]
    document = containers.strict_json(text, where, Flaw.DOCUMENT_NOT_JSON, "the state's document")
    if not isinstance(document, dict) or type(document.get("version")) is not int:
        raise _damaged(where, "it has no version")
    if document["version"] != _VERSION:
        raise InvalidFileError(
            Flaw.LATER_VERSION,
            f"{where} has version {document['version']} of the state's format; this kancompress"
            f" reads {_VERSION}. Resume with the kancompress that wrote it.",
        )
    for key, kind in (
        ("run", dict), ("place", dict), ("rates", list), ("history", list), ("payload", str),
    ):  # fmt: skip
        if not isinstance(document.get(key), kind):
            raise _damaged(where, f"{key} is missing or no {kind.__name__}")
    return document


def _check_same(where: str, there: Facts, here: Facts) -> None:
    """Refuse the state of another run, naming what differs."""
    here = json.loads(json.dumps(here))  # tuples are lists there
    differing = [
        _difference(key, there.get(key), here.get(key))
        for key in dict.fromkeys((*here, *there))
        if there.get(key) != here.get(key)
    ]
    if differing:
        raise UsageError(
            f"{where} is the state of another run: {'; '.join(differing)}. Give what that run was"
            " given, or leave `resume` out to start a new one.",
            where=where,
            fields=("resume",),
        )


def _difference(key: str, there: Any, here: Any) -> str:
    if any(isinstance(value, str) and value.startswith("sha256:") for value in (there, here)):
        return f"{key} differs"
    return f"{key} is {_shown(there)} there and {_shown(here)} here"


def _shown(value: Any) -> str:
    return "not given" if value is None else containers.shown(value).strip("'")


def _changes(there: Facts, here: Facts) -> str | None:
    changed = [
        _difference(key, there.get(key), value)
        for key, value in here.items()
        if there.get(key) != value
    ]
    if not changed:
        return None
    return (
        f"{'; '.join(changed)} (there: when the state was saved); the result may differ in rounding"
        " from that of a run that was not stopped."
    )


def _epoch_from_json(record: Mapping[str, Any]) -> Epoch:
    loss, score = record["train_loss"], record["validation"]
    return Epoch(
        number=_of(int, record["number"]),
        train_loss=None if loss is None else float.fromhex(loss),
        validation=Score(
            loss=float.fromhex(score["loss"]),
            accuracy=None if score["accuracy"] is None else float(score["accuracy"]),
            examples=_of(int, score["examples"]),
            soft=_of(bool, score["soft"]),
        ),
        best=_of(bool, record["best"]),
        rates=tuple(float.fromhex(rate) for rate in record["rates"]),
        seconds=float(record["seconds"]),
    )


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{containers.shown(value)} is no {kind.__name__}")
    return value


def _check_like(state: State, like: State) -> None:
    """Raise ValueError where something has another shape or type than the run's own."""
    numbers = [epoch.number for epoch in state.history]
    if numbers != list(range(len(numbers))) or not state.history or not state.history[0].best:
        raise ValueError("its epochs do not follow each other")
    if len(state.rates) != len(like.rates):
        raise ValueError(f"{len(state.rates)} learning rates for {len(like.rates)} groups")
    for kind in ("network", "best", "optimizer"):
        found, expected = getattr(state, kind), getattr(like, kind)
        extra = found.keys() - expected.keys()
        missing = () if kind == "optimizer" else expected.keys() - found.keys()
        for name in sorted({*extra, *missing}):
            raise ValueError(f"{kind} {containers.shown(name)}")
        for name, tensor in found.items():
            _check_tensor(f"{kind} {name}", tensor, expected[name])
    _check_tensor("order", state.order, like.order)


def _check_tensor(name: str, found: Tensor, expected: Tensor) -> None:
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        shapes: Sequence[object] = (list(found.shape), list(expected.shape))
        raise ValueError(f"{name} is {found.dtype} {shapes[0]}, not {expected.dtype} {shapes[1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """A state file together with what its run is, for `fitting.fit`.

    run, place : as for `save`
    """

    file: StateFile
    run: Facts
    place: Facts

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have the state to this run. Raises KancompressError where another run has it, UsageError
        where what has its name is no state."""
        if distributed.number() != 0:
            yield
            return
        with locks.held(self.file.path):
            self.file.check()
            yield

    def save(self, state: State) -> None:
        """Replace the state file."""
        save(self.file.path, state, self.run, self.place)

    def load(self, like: State) -> State | None:
        """The state to go on from; None for a run that starts.

        Raises InvalidFileError for what is no such file, UsageError for another run's.
        """
        resume = self.file.resume
        if not distributed.from_first([resume is not None])[0]:
            return None
        raw = inputs.read(resume)[:] if resume and distributed.number() == 0 else None
        data = distributed.bytes_from_first(raw)
        state, change = load(str(resume), data, self.run, self.place, like)
        if change and self.file.on_change:
            self.file.on_change(change)
        return state

    def tell(self, state: State) -> None:
        """Say that the run goes on from `state`."""
        if self.file.on_resume:
            self.file.on_resume(state.history)


def keeper(file: StateFile | None, run: Callable[[], Facts], device: torch.device) -> Keeper | None:
    """A keeper for a run, where its state is to be kept at all.

    run : tells what makes it another than others; not called where nothing is kept
    """
    if file is None:
        return None
    place = {
        "torch": torch.__version__,
        "device": device.type,
        "number of processes": distributed.count(),
    }
    return Keeper(file=file, run={"kancompress": __version__, **run()}, place=place)
