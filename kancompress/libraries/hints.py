"""What tensors are that belong to no KAN layer: parametrised ones, a profiler's, ordinary layers.

A hint is a sentence: what was found, and what to do about it. Nothing follows from it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kancompress.errors import shortened
from kancompress.formats.arrays import Described
from kancompress.frozen import dataclass

# Names of the counts that profilers leave on modules (thop, ptflops), and the pattern of each.
_COUNTS = {
    "total_ops": "total_*",
    "total_params": "total_*",
    "__flops__": "__*__",
    "__params__": "__*__",
}
_NAMED = 2  # tensors that a hint names
_SHOWN = 60  # characters of a name


@dataclass(frozen=True, slots=True)
class _Way:
    """A way to keep a tensor as others that it follows from.

    pattern : of one of these, with the `name` of the tensor
    others  : how the others end that must be there, too
    named   : what the way is called; undo : what takes it away
    """

    pattern: re.Pattern[str]
    others: tuple[str, ...]
    named: str
    undo: str


def _way(pattern: str, others: tuple[str, ...], named: str, undo: str) -> _Way:
    return _Way(re.compile(rf"(?P<stem>(?:.+\.)?){pattern}", re.DOTALL), others, named, undo)


_REMOVE = "torch.nn.utils."
_WAYS = (
    _way(
        r"parametrizations\.(?P<name>[^.]+)\.original\d*",
        (),
        "torch.nn.utils.parametrize",
        f"{_REMOVE}parametrize.remove_parametrizations(layer, {{name!r}})",
    ),
    _way(
        r"(?P<name>[^.]+)_g",
        ("_v",),
        "weight_norm",
        f"{_REMOVE}remove_weight_norm(layer, {{name!r}})",
    ),
    _way(
        r"(?P<name>[^.]+)_orig",
        ("_mask",),
        "torch.nn.utils.prune",
        f"{_REMOVE}prune.remove(layer, {{name!r}})",
    ),
    _way(
        r"(?P<name>[^.]+)_orig",
        ("_u",),
        "spectral_norm",
        f"{_REMOVE}remove_spectral_norm(layer, {{name!r}})",
    ),
)
# Names of the tensors of ordinary modules, behind the last dot.
_BESIDE = frozenset(
    {
        "bias", "running_mean", "running_var", "num_batches_tracked", "in_proj_bias", "bias_ih",
        "bias_hh", "position_ids", "cls_token", "pos_embed",
    }
)  # fmt: skip
# Parts of names that KAN layers have and ordinary ones have not.
_OF_KANS = re.compile(r"kan|spline|rbf|poly|cheb|fourier|wav|basis|coef|gram|grid|knot")
_CELLS = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+)?(_reverse)?")


def hints(tensors: Mapping[str, Described], others: Iterable[str]) -> tuple[str, ...]:
    """What is to be said of the tensors that belong to no KAN layer, but for ordinary ones."""
    others = list(others)
    return (*_parametrised(set(tensors), others), *_counts(others))


def ordinary(tensors: Mapping[str, Described]) -> str:
    """That a network without KAN layers has ordinary ones, and which; "" where any tensor is of
    another kind, which may be a KAN layer's."""
    if any(_OF_KANS.search(name.lower()) for name in tensors):
        return ""
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        last = name.rpartition(".")[2]
        if _CELLS.fullmatch(last):
            counts["recurrent cell"] += last.startswith("weight_hh")
        elif last == "in_proj_weight":
            counts["attention layer"] += 1
        elif last == "weight":
            kind = _kind(len(tensor.shape))
            if not kind:
                return ""
            counts[kind] += 1
        elif last not in _BESIDE and last not in _COUNTS:
            return ""
    found = [_counted(count, kind) for kind, count in counts.items() if count and kind != _NORM]
    if not found:
        return ""
    *first, last_kind = found
    text = f"{', '.join(first)} and {last_kind}" if first else last_kind
    return f"It has {text}, no KAN layer, and kancompress packs KAN layers alone."


_NORM = "normalisation"


def _kind(axes: int) -> str:
    """What a tensor called `weight` with so many axes belongs to; "" where that may be a KAN's.

    One with three axes may be a convolution's of sequences, or a KAN layer's coefficients.
    """
    return {1: _NORM, 2: "linear layer", 4: "convolution", 5: "convolution"}.get(axes, "")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _parametrised(names: set[str], others: Sequence[str]) -> list[str]:
    """A sentence for every way in which tensors are parametrised."""
    said: list[str] = []
    for way in _WAYS:
        met = [(name, match) for name in others if (match := way.pattern.fullmatch(name))]
        met = [
            (name, match)
            for name, match in met
            if all(f"{match['stem']}{match['name']}{end}" in names for end in way.others)
        ]
        if met:
            undo = way.undo.format(name=shortened(met[0][1]["name"], _SHOWN))
            come = "comes" if len(met) == 1 else "come"
            said.append(
                f"{_named([name for name, _ in met])} {come} of {way.named}, which keeps a tensor"
                f" as others: undo it with {undo} on each such layer, and save the state dict"
                " again."
            )
    return said


def _counts(others: Sequence[str]) -> list[str]:
    """A sentence for what a profiler has left."""
    met = [name for name in others if name.rpartition(".")[2] in _COUNTS]
    if not met:
        return []
    patterns = dict.fromkeys(_COUNTS[name.rpartition(".")[2]] for name in met)
    way = " and ".join(f"`drop` '{pattern}'" for pattern in patterns)
    return [f"{_named(met)} are counts that a profiler left; leave them out with {way}."]


def _named(names: Sequence[str]) -> str:
    first = ", ".join(shortened(name, _SHOWN) for name in names[:_NAMED])
    more = len(names) - _NAMED
    return f"{first} and {more:,} more" if more > 0 else first
