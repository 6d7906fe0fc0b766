"""pykan's `saveckpt`: `{prefix}_state` beside `{prefix}_config.yml` and `{prefix}_cache_data`.

Source: KindXiaoming/pykan, kan/MultKAN.py. The config is written by a YAML dumper that may put
Python objects into it, so that safe loaders refuse it; here its lines are read, the few keys that
tell what the tensors do not, and nothing is built. The cache is the last batch of inputs; it is
never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kancompress.errors import InvalidFileError
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.system import inputs

_STATE, _CONFIG, _CACHE = "_state", "_config.yml", "_cache_data"
_MAX_CONFIG = 1 << 24
_MAX_LAYERS = 1000
_SCALAR = re.compile(r"'(?P<quoted>[^']*)'|(?P<plain>[A-Za-z0-9_.+-]+)")
_ITEM = re.compile(r"(?P<first>- )?(?P<second> {0,2}- )?(?P<number>\d{1,9}|\[\])")


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


def beside(state: Path) -> tuple[Settings | None, tuple[str, ...]]:
    """What lies beside a state file whose name is of that kind: settings, and notes on the rest."""
    config = config_of(state)
    if config is None:
        return None, ()
    cache = state.with_name(state.name.removesuffix(_STATE) + _CACHE)
    settings, notes = _read(config) if config.is_file() else (None, ())
    if cache.is_file():
        size = cache.stat().st_size
        notes += (
            f"left out: {cache.name}, the last batch of inputs (training data; {size:,} bytes)",
        )
    return settings, notes


def _read(config: Path) -> tuple[Settings | None, tuple[str, ...]]:
    try:
        data = inputs.read(config)
        text = bytes(data[:_MAX_CONFIG]).decode()
    except (InvalidFileError, UnicodeDecodeError):
        return None, (f"{config.name} cannot be read as text; its settings are not known.",)
    settings = parse(text)
    return settings, (f"{config.name} says: {_told(settings)}",)


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
    if len(block) < 2 or block[0] or len(block) > _MAX_LAYERS * 100:
        return None
    rows: list[int | list[int]] = []
    for line in block[1:]:
        found = _ITEM.fullmatch(line)
        if found is None:
            return None
        first, second, number = found["first"], found["second"], found["number"]
        if number == "[]":
            if not first or second:
                return None
            rows.append([])
        elif first and second:
            rows.append([int(number)])
        elif first:
            rows.append(int(number))
        elif second and rows and isinstance(rows[-1], list):
            rows[-1].append(int(number))
        else:
            return None
    return tuple(tuple(row) if isinstance(row, list) else row for row in rows)


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
