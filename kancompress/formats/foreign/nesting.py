"""What lies where in the object of a torch file, and which of its state dicts is meant.

Trainers wrap state dicts in dictionaries of their own, often several of them: two networks, or a
network and a moving average of its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kancompress.errors import UsageError, shortened
from kancompress.formats.foreign.records import Global, Number, Stub, TensorRecord, Unsupported
from kancompress.formats.foreign.work import Work
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass

# Where trainers put the state dict; the first of these wins.
KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "net_state_dict", "net", "network",
    "module", "params", "weights", "model_weights", "model_ema", "params_ema", "ema_state_dict",
    "state_dict_ema", "ema",
)  # fmt: skip
Path = tuple[str, ...]
_MAX_NESTING = 8
_MAX_KEY = 256  # characters of a key under which a state dict is looked for
_MAX_CHOICES = 6  # that a message lists
_MAX_SHOWN = 80  # characters of each of them
_AVERAGE = re.compile(r"(?<![a-z])(ema|swa|averaged?|shadow)(?![a-z])", re.IGNORECASE)
# The name of a state dict that lies at the top of the file.
TOP = "."


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """A state dict of the file, and its number of tensors."""

    path: Path
    value: object
    count: int

    @property
    def name(self) -> str:
        return ".".join(self.path) or TOP

    @property
    def is_average(self) -> bool:
        return any(_AVERAGE.search(key) for key in self.path)


@dataclass(frozen=True, slots=True)
class Choice:
    """The keys to the state dict that is meant, and what the user should know of others."""

    path: Path
    notes: tuple[str, ...] = ()


def choose(value: object, work: Work, where: str, state: str | None) -> Choice | None:
    """The state dict in the object of a file, None where there is none.

    state : its keys with dots between them, or the last of them; None: the one under the first of
            `KEYS` that is there, or else the first
    Raises UsageError that lists the names where `state` is none of them.
    """
    if state is not None:
        return Choice(_named(_states(value, work), state, where).path)
    path = _locate(value, _MAX_NESTING, set(), work)
    if path is None:
        return None
    states = _states(value, work)
    chosen = next((one for one in states if one.path == path), None)
    if chosen is None:
        return Choice(path)
    return Choice(path, tuple(_notes(chosen, [one for one in states if one is not chosen])))


def _notes(chosen: _State, others: Sequence[_State]) -> Iterator[str]:
    """What to say of other state dicts that the user may mean."""
    rivals = [one for one in others if _may_be_meant(one, chosen)]
    if rivals:
        yield (
            f"the file holds several state dicts: {_listed([chosen, *rivals])};"
            f" `state={shortened(rivals[0].name, _MAX_SHOWN)}` takes another than the first"
        )
    averages = [one for one in others if one.is_average and 2 * one.count >= chosen.count]
    if averages and not chosen.is_average:
        name = shortened(averages[0].name, _MAX_SHOWN)
        yield (
            f"the file holds a moving average of the model (EMA) beside it: {_listed(averages)};"
            f" `state={name}` takes it"
        )


def _may_be_meant(other: _State, chosen: _State) -> bool:
    """Whether nothing but the order in the file speaks against another state dict."""
    depth = next((i for i, key in enumerate(chosen.path) if key not in KEYS), None)
    if depth is None or other.path[:depth] != chosen.path[:depth]:
        return False
    if other.path[: depth + 1] == chosen.path[: depth + 1] or len(other.path) != len(chosen.path):
        return False
    more = other.is_average and not chosen.is_average
    return not more and 2 * other.count >= chosen.count


def _named(states: Sequence[_State], state: str, where: str) -> _State:
    exact = [one for one in states if one.name == state]
    found = exact or [one for one in states if one.path and one.path[-1] == state]
    if len(found) != 1:
        what = "in several places" if found else "not in the file"
        has = f"it has {_listed(states)}" if states else "it has no state dict"
        if [one.name for one in states] == [TOP]:
            has = "its only one lies at the top; leave `state` out"
        raise UsageError(
            f"{where}: the state dict {shown(state)} is {what}; {has}.",
            where=where,
            fields=("state",),
        )
    return found[0]


def _listed(states: Sequence[_State]) -> str:
    told = [
        f"{shortened(one.name, _MAX_SHOWN)} with {one.count:,} tensor{'s' * (one.count != 1)}"
        for one in states[:_MAX_CHOICES]
    ]
    rest = len(states) - len(told)
    return ", ".join(told) + (f" and {rest:,} more" if rest else "")


def _states(value: object, work: Work) -> list[_State]:
    """All state dicts of the file but those of optimizers, in its order."""
    found: list[_State] = []
    seen: set[int] = set()
    todo: list[tuple[Path, object]] = [((), value)]
    while todo:
        path, item = todo.pop()
        content = mapping_of(item)
        if id(item) in seen or len(path) > _MAX_NESTING:
            continue
        seen.add(id(item))
        if attributes_of(item) is not None:
            found.append(_State(path, item, weigh(item, work)[0]))
        if attributes_of(item) is not None or content is None or "param_groups" in content:
            continue
        work.spend(len(content))
        named = [(key, inner) for key, inner in content.items() if isinstance(key, str)]
        count = sum(is_tensor(inner) for _, inner in named)
        if count:
            found.append(_State(path, item, count))
        todo += [((*path, key), inner) for key, inner in reversed(named) if _may_lead(key)]
    return found


def _may_lead(key: str) -> bool:
    return len(key) <= _MAX_KEY and "optim" not in key.lower()


def _locate(value: object, depth: int, dead: set[int], work: Work) -> Path | None:
    """Keys to the state dict in `value`, or None; `dead` are those in which there is none."""
    mapping = mapping_of(value)
    if attributes_of(value) is not None:
        return ()
    if mapping is None or id(mapping) in dead or depth == 0 or "param_groups" in mapping:
        return None
    work.spend(len(mapping))
    direct = any(is_tensor(v) for k, v in mapping.items() if isinstance(k, str))
    declared = [key for key in KEYS if key in mapping]
    others = [] if direct else [k for k in mapping if isinstance(k, str) and k not in KEYS]
    for key in (*declared, *others):
        if _may_lead(key):
            inner = _locate(mapping[key], depth - 1, dead, work)
            if inner is not None:
                return (key, *inner)
    if direct:
        return ()
    dead.add(id(mapping))
    return None


# --- values --------------------------------------------------------------------------------


def mapping_of(value: object) -> dict[object, object] | None:
    """The items of a dictionary, or of one of a class of its own."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Stub) and value.mapping:
        return value.mapping
    return None


def attributes_of(value: object) -> dict[object, object] | None:
    """Attributes of a pickled module; None for anything else."""
    state = value.state if isinstance(value, Stub) else None
    if isinstance(state, dict) and {"_parameters", "_modules"} <= state.keys():
        return state
    return None


def maker_of(value: object) -> str:
    """The class of a pickled object, for messages."""
    maker = value.maker if isinstance(value, Stub) else None
    return shown(str(maker))[1:-1] if isinstance(maker, Global) else "an unnamed class"


def is_tensor(value: object) -> bool:
    """Whether it is a tensor, be it of a kind that is read or not."""
    return isinstance(value, TensorRecord | Unsupported)


def shown_key(key: object) -> str:
    """A key of a dictionary, for messages."""
    if isinstance(key, str):
        return key if len(key) <= 100 and key.isprintable() else shown(key)
    if isinstance(key, bool | None):
        return str(key)
    return key.text if isinstance(key, Number) else "an entry whose name is no text"


def tally(value: object, work: Work) -> str:
    """How many tensors `value` holds, in brackets; nothing when none."""
    count, size = weigh(value, work)
    if not count:
        return ""
    length = f"{size:,}" if size < 1 << 63 else "impossibly many"
    return f" ({count:,} tensor{'s' * (count != 1)}, {length} bytes)"


def weigh(value: object, work: Work) -> tuple[int, int]:
    """How many tensors `value` holds, and their bytes."""
    count = size = 0
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        work.spend(4 * len(item) if isinstance(item, dict | list | tuple) else 4)
        if isinstance(item, TensorRecord):
            count, size = count + 1, size + item.size
        elif isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list | tuple):
            todo.extend(item)
        elif isinstance(item, Stub):
            todo += [item.args, item.state, item.items, item.mapping]
    return count, size
