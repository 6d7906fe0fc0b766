"""pykan's `saveckpt`: `{prefix}_state` beside `{prefix}_config.yml` and `{prefix}_cache_data`.

Source: KindXiaoming/pykan, kan/MultKAN.py. The config is written by a YAML dumper that may put
Python objects into it, so that safe loaders refuse it; here its lines are read, and nothing is
built. The cache is the last batch of inputs; it is never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kancompress.errors import InvalidFileError
from kancompress.formats import pykan_config
from kancompress.formats.arrays import Outline
from kancompress.formats.pykan_config import PykanConfig
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.specs import SpecError
from kancompress.system import inputs

_STATE, _CONFIG, _CACHE = "_state", "_config.yml", "_cache_data"
_MAX_CONFIG = 1 << 24
_SCALAR = re.compile(r"'(?P<quoted>[^']*)'|(?P<plain>[A-Za-z0-9_.+-]+)")
_ITEM = re.compile(r"(?P<first>- )?(?P<second> {0,2}- )?(?P<item>\S.*)")
_QUOTED = re.compile(r"'((?:[^']|'')*)'")
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,17})")
_REAL = re.compile(r"-?\d+\.\d*(?:e[+-]?\d{1,3})?")
_TEXT = re.compile(r"[A-Za-z0-9_^/()][A-Za-z0-9_^/().*+-]*")
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What pykan's config tells; None where a line is missing or cannot be read.

    base_fun   : name of the base function (silu, identity, zero)
    symbolic   : whether symbolic edges take part in the forward
    widths     : for each layer of nodes (sums, multiplications)
    mult_arity : inputs of a multiplication, one number or, for each layer, one for each node
    """

    base_fun: str | None
    symbolic: bool | None
    widths: tuple[tuple[int, int], ...] | None
    mult_arity: int | tuple[tuple[int, ...], ...] | None


def config_of(state: Path) -> Path | None:
    """Where the config of a state file lies; None for another file."""
    if not state.name.endswith(_STATE) or state.name == _STATE:
        return None
    return state.with_name(state.name.removesuffix(_STATE) + _CONFIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What lies beside a state file.

    settings : what the config tells of the forward; config : all that `loadckpt` needs of it
    notes    : on what it says, and on what is left out
    """

    settings: Settings | None = None
    config: PykanConfig | None = None
    notes: tuple[str, ...] = ()


def beside(state: Path, tensors: Mapping[str, Outline] | None) -> Beside:
    """What lies beside a state file; nothing beside one whose name is of no such file.

    tensors : of the state dict at the top of a torch file, None where it is another
    """
    config = config_of(state)
    if config is None:
        return Beside()
    cache = state.with_name(state.name.removesuffix(_STATE) + _CACHE)
    found = _read(config, tensors) if config.is_file() else Beside()
    if not cache.is_file():
        return found
    size = cache.stat().st_size
    note = f"left out: {cache.name}, the last batch of inputs (training data; {size:,} bytes)"
    return replace(found, notes=(*found.notes, note))


def _read(config: Path, tensors: Mapping[str, Outline] | None) -> Beside:
    try:
        data = inputs.read(config)
        if len(data) > _MAX_CONFIG:
            large = f"{config.name} has more than {_MAX_CONFIG:,} bytes"
            return Beside(notes=(f"{large}; its settings are not known.",))
        text = bytes(data[:_MAX_CONFIG]).decode()
    except (InvalidFileError, UnicodeDecodeError):
        return Beside(notes=(f"{config.name} cannot be read as text; its settings are not known.",))
    settings = parse(text)
    notes = [f"{config.name} says: {_told(settings)}"]
    if tensors is None:
        return Beside(settings=settings, notes=tuple(notes))
    whole = None
    try:
        whole = pykan_config.read({key: _value(block) for key, block in _blocks(text).items()})
        misfit = whole.misfit({name: one.shape for name, one in tensors.items()})
    except SpecError as error:
        misfit = f"its {error.key.removeprefix('restore.pykan.')} is missing or cannot be read"
        if error.key == "restore.pykan":
            misfit = str(error).replace(error.key, "it")
    if misfit:
        notes.append(f"{config.name} stays out of the packed file: {misfit}")
    return Beside(settings=settings, config=None if misfit else whole, notes=tuple(notes))


def parse(text: str) -> Settings:
    """The settings in the lines of a config."""
    blocks = _blocks(text)
    symbolic = _scalar(blocks.get("symbolic_enabled", []))
    return Settings(
        base_fun=_scalar(blocks.get("base_fun_name", [])),
        symbolic={"true": True, "false": False}.get(symbolic or ""),
        widths=_widths(blocks.get("width", [])),
        mult_arity=_mult_arity(blocks.get("mult_arity", [])),
    )


def _widths(block: list[str]) -> tuple[tuple[int, int], ...] | None:
    pairs = [row if isinstance(row, tuple) else (row, 0) for row in _rows(block) or ()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        return None
    return tuple((sums, products) for sums, products in pairs)


def _mult_arity(block: list[str]) -> int | tuple[tuple[int, ...], ...] | None:
    single = _scalar(block)
    if single is not None:
        return int(single) if re.fullmatch(r"\d{1,9}", single) else None
    rows = [row for row in _rows(block) or () if isinstance(row, tuple)]
    return tuple(rows) or None


def _blocks(text: str) -> dict[str, list[str]]:
    """What follows each key of the top level: the rest of its line, then the lines below it."""
    blocks: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        key, mark, rest = line.partition(":")
        if mark and key and not key.startswith((" ", "-", "#")):
            current = blocks.setdefault(key, [])
            current[:] = [rest.strip()]
        elif line.strip():
            current.append(line.rstrip())
    return blocks


def _scalar(block: list[str]) -> str | None:
    found = _SCALAR.fullmatch(block[0]) if len(block) == 1 else None
    return (found["quoted"] or found["plain"] or "") if found else None


def _rows(block: list[str]) -> tuple[int | tuple[int, ...], ...] | None:
    """A list of numbers or of lists of numbers, one item a line; None for anything else."""
    rows = _value(block)
    if not isinstance(rows, list):
        return None
    numbers = [one for row in rows for one in (row if isinstance(row, list) else [row])]
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    return tuple(tuple(row) if isinstance(row, list) else row for row in rows)


def _value(block: list[str]) -> Any:
    """A scalar, or a list of scalars and of lists of them, one item a line; None for another."""
    if len(block) == 1:
        return _item(block[0])
    if not block or block[0]:
        return None
    rows: list[Any] = []
    for line in block[1:]:
        found = _ITEM.fullmatch(line)
        if found is None:
            return None
        first, second = found["first"], found["second"]
        item: Any = [] if found["item"] == "[]" else _item(found["item"])
        if item is None or (item == [] and (second or not first)):
            return None
        if first:
            rows.append([item] if second else item)
        elif second and rows and isinstance(rows[-1], list):
            rows[-1].append(item)
        else:
            return None
    return rows


def _item(text: str) -> bool | int | float | str | None:
    """A scalar as YAML reads it, None for what is not written so simply."""
    if quoted := _QUOTED.fullmatch(text):
        return quoted[1].replace("''", "'")
    if text in _FLAGS:
        return _FLAGS[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    if _REAL.fullmatch(text):
        return float(text)
    return text if _TEXT.fullmatch(text) else None


def _told(settings: Settings) -> str:
    return "; ".join(_clauses(settings)) or "nothing of what the tensors do not tell"


def _clauses(settings: Settings) -> Iterator[str]:
    if settings.base_fun is not None:
        yield f"base function {shown(settings.base_fun)[1:-1]}"
    if settings.widths is not None:
        widths = (f"{sums}+{products}" if products else f"{sums}"
                  for sums, products in settings.widths)  # fmt: skip
        yield f"widths {', '.join(widths)}"
        if any(products for _, products in settings.widths):
            yield f"multiplications of {_arity(settings.mult_arity)}"
    if settings.symbolic is not None:
        yield f"symbolic edges {'on' if settings.symbolic else 'off'}"


def _arity(arity: int | tuple[tuple[int, ...], ...] | None) -> str:
    if arity is None:
        return "a number that cannot be read"
    return str(arity) if isinstance(arity, int) else "numbers of their own"
