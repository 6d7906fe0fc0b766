"""The user's own module, scored and tuned as a network of kancompress's own is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize as torch_parametrize

from kancompress.config import FinetuneConfig
from kancompress.data import datasets
from kancompress.data.datasets import Dataset, Split
from kancompress.errors import UsageError
from kancompress.models.parametrization import Parametrization
from kancompress.models.records import PackedModel
from kancompress.models.user_module import as_taken, given, load_into, users_code
from kancompress.specs import FILE, DataOptions, DataSpec
from kancompress.system.compilation import eagerly
from kancompress.training import loop as fitting
from kancompress.training.evaluation import Evaluation, scored
from kancompress.training.finetune import Finetuning, check_groups, taught, tune_codebooks
from kancompress.training.history import Score
from kancompress.training.loop import OnBatch, OnEpoch
from kancompress.training.state_file import StateFile

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Runner(nn.Module):
    """The module as the training loop takes networks: rows in, (rows, width) out, on the CPU.

    Rows go in with the device and the floating point type of the module's first parameter; whole
    numbers stay as they are. Real outputs of any shape are as many numbers a row. The
    state dict of the runner has only what learns, in `parameters` and `buffers`. Normalisations
    in `frozen` stay in evaluation mode while it trains.
    """

    def __init__(
        self,
        model: nn.Module,
        data: DataSpec,
        parameters: list[nn.Parameter] | None = None,
        buffers: list[Tensor] | None = None,
        frozen: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.learning = nn.ParameterList(parameters or [])
        for number, buffer in enumerate(buffers or []):
            self.register_buffer(f"buffer{number}", buffer)
        # In lists, so that they are no submodules.
        self._held = [model]
        self._frozen = frozen or []
        self._data = data

    def train(self, mode: bool = True) -> Runner:
        """Set the module's mode, but that of what is frozen."""
        super().train(mode)
        self._held[0].train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (rows, width), at least float32. Raises UsageError for others than the data's."""
        output = _run(self._held[0], given(self._held[0], x))
        if self._data.is_regression and output.dim():
            output = output.reshape(len(output), -1)  # maps and sequences, as targets are
        self._check(output, len(x))
        wide: Tensor = output if output.dtype == torch.float64 else output.float()
        return wide.cpu()

    def _check(self, output: Tensor, rows: int) -> None:
        width, shape = self._data.outputs, list(output.shape)
        if len(shape) != 2 or shape[0] != rows:
            raise UsageError(
                f"The model gives outputs of shape {shape} for {rows} rows; (rows, outputs) was"
                " expected."
            )
        if self._data.is_regression and shape[1] != width:
            raise UsageError(f"The model has {shape[1]} outputs, but y has {width} targets a row.")
        if shape[1] < width:
            raise UsageError(f"The model tells {shape[1]} classes apart, but y has {width}.")


def _run(model: nn.Module, x: Tensor) -> Tensor:
    """What the module puts out. Raises UsageError where that is no tensor,
    KancompressError where the module raises."""
    what = f"The model's forward, given rows of shape {list(x.shape[1:])},"
    with users_code(what), torch_parametrize.cached(), eagerly():  # no compiled dense tensors
        output: Any = model(x)
    if not isinstance(output, Tensor):
        raise UsageError(
            f"The model gives {type(output).__name__}; a tensor (rows, outputs) was expected."
        )
    return output


def taught_by(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, options: DataOptions | None
) -> Dataset:
    """Rows with the outputs of the module, which gets these tensors, in place of labels.

    where : what messages call the tensors. Raises UsageError when they do not fit the module, or
    its outputs not the data, of which a file needs no y; KancompressError when the module raises.
    """
    load_into(model, tensors, where)
    training = {id(module): (module, module.training) for module in model.modules()}
    with ExitStack() as stack:
        stack.callback(_put_back, {}, training)
        if options is None or datasets.has_labels(options):
            data = datasets.load_for_model(None, options)
        else:
            data = datasets.load_unlabelled(None, options, _width(model, options))
        return taught(_taken(model, data), Runner(model, data.spec))


def _width(model: nn.Module, options: DataOptions) -> int:
    """Outputs of the module for a row of a file."""
    row = datasets.load_unlabelled(None, options, 1).train.x[:1]
    with torch.no_grad():
        output = _run(model.eval(), given(model, as_taken(model, row)[0]))
    return output.numel()


def _taken(model: nn.Module, data: Dataset) -> Dataset:
    """The data with whole numbers as the model takes them."""
    if as_taken(model, data.train.x)[0].dtype == data.train.x.dtype:
        return data
    return replace(
        data,
        **{
            name: replace(part, x=part.x.float())
            for name in ("train", "validation", "test")
            for part in (getattr(data, name),)
        },
    )


def evaluate_module(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    data: Dataset,
    where: str,
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Load a state dict into the module and run it over the test rows.

    where : what messages call the tensors. Raises UsageError when they do not fit the module, or
    its outputs not the data; KancompressError when the module raises.
    """
    load_into(model, tensors, where)
    data = _taken(model, data)
    runner = Runner(model, data.spec)
    start = time.perf_counter()
    outputs = fitting.predict(runner, data.test.x, on_batch=on_batch)
    seconds = time.perf_counter() - start
    return Evaluation(score=scored(outputs, data), outputs=outputs, seconds=seconds)


def predict_module(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    x: Tensor,
    where: str,
    batch: int,
    on_batch: OnBatch | None = None,
) -> tuple[Tensor, tuple[int, ...], tuple[str, ...]]:
    """Load a state dict into the module and run it over rows that need no labels.

    Returns the outputs (rows, width), their shape for a row before they were made flat, and notes.
    where : what messages call the tensors. Raises as `evaluate_module` does.
    """
    load_into(model, tensors, where)
    x, notes = as_taken(model, x)
    with torch.no_grad():
        row = _run(model.eval(), given(model, x[:1]))
    if row.shape[:1] != (1,) or not row.numel():
        raise UsageError(
            f"The model gives outputs of shape {list(row.shape)} for one row; (1, outputs) was"
            " expected."
        )
    runner = Runner(model, DataSpec(name=FILE, targets=row.numel()))
    return fitting.predict(runner, x, batch, on_batch), tuple(row.shape[1:]), notes


def tune_module(
    model: nn.Module,
    packed: PackedModel,
    data: Dataset,
    config: FinetuneConfig | None = None,
    *,
    state: StateFile | None = None,
    workers: int = 0,
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> Finetuning:
    """Tune a packed checkpoint's codebooks in the user's module, which is left with the result.

    Nothing else learns, but with "norms" in `also` the parameters and running statistics of
    normalisation layers, which without it stay in evaluation mode, and with "biases" all other
    parameters of the name bias. `state` is as for `tune`, `workers` as for `fitting.fit`.

    Raises UsageError when there is no codebook to tune, or the state is of another run.
    """
    config = config or FinetuneConfig()
    check_groups(config.also)
    if config.compile:
        raise UsageError(
            "`compile` is for networks of kancompress's own; leave it out.", fields=("compile",)
        )
    learnt = {id(p): (p, p.requires_grad) for p in model.parameters()}
    training = {id(module): (module, module.training) for module in model.modules()}
    with ExitStack() as stack:
        stack.callback(_put_back, learnt, training)
        place = stack.enter_context(Parametrization(model, packed))
        data = _taken(model, data)
        tunable = _Live(model, place, data.spec, config.also)
        return tune_codebooks(
            tunable,
            data,
            config,
            state=state,
            workers=workers,
            on_epoch=on_epoch,
            on_batch=on_batch,
        )


def _put_back(
    learnt: Mapping[int, tuple[nn.Parameter, bool]],
    training: Mapping[int, tuple[nn.Module, bool]],
) -> None:
    for parameter, flag in learnt.values():
        parameter.requires_grad_(flag)
    for module, mode in training.values():
        module.training = mode


class _Live:
    """A module with packed coefficients in place, as `Tunable`."""

    def __init__(
        self, model: nn.Module, place: Parametrization, data: DataSpec, also: tuple[str, ...]
    ) -> None:
        self._place = place
        norms = [module for module in model.modules() if _is_norm(module)]
        tuned = norms if "norms" in also else []
        packed = set(map(id, place.parameters()))
        extra = {id(p): p for norm in tuned for p in norm.parameters(recurse=False)}
        if "biases" in also:
            rest = [module for module in model.modules() if not _is_norm(module)]
            named = [pair for module in rest for pair in module.named_parameters(recurse=False)]
            extra |= {id(p): p for name, p in named if name == "bias"}
        extra = {key: p for key, p in extra.items() if key not in packed}
        codebooks = place.parameters()
        self.parameters = [*codebooks, *extra.values()] if codebooks else []
        buffers = {id(b): b for norm in tuned for b in norm.buffers(recurse=False)}
        self._fixed = [
            (buffer, buffer.detach().clone())
            for buffer in model.buffers()
            if id(buffer) not in buffers
        ]
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        changing = {**extra, **buffers}
        own = {name: id(t) for name, t in model.state_dict(keep_vars=True).items()}
        self._others = {
            name: changing[own[target]]
            for name, target in place.names.items()
            if own.get(target) in changing
        }
        self.network: nn.Module = Runner(
            model,
            data,
            self.parameters,
            list(buffers.values()),
            frozen=[] if tuned else norms,
        )

    def stored(self) -> PackedModel:
        """As `Tunable.stored`."""
        return self._place.to_packed(self._others)

    def score(self, rows: Split) -> Score:
        """As `Tunable.score`; buffers that training has touched are put back for good."""
        with torch.no_grad():
            for buffer, value in self._fixed:
                buffer.copy_(value)
        with self._place.as_stored(self._others):
            return fitting.score(self.network, rows)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) or type(module).__name__.endswith("Norm")
