"""What pykan's `loadckpt` needs beside a state: the settings in its config, and their text.

A packed file keeps them in `restore.pykan` (docs/packed-format.md, 8.7). What a config says of
the machine and the run (paths, device, versions) is not kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.specs import SpecError

_MAX_NODE_LAYERS, _MAX_COUNT, _MAX_GRID = 1000, 2**31 - 1, 65536
# Its text names a function for every edge.
_MAX_EDGES, _MAX_NODES = 1 << 20, 65536
_LONGEST_NAME = 100
_FLAGS = ("affine_trainable", "sb_trainable", "sp_trainable", "symbolic_enabled")
KEYS = ("base_fun_name", "grid", "grid_eps", "grid_range", "k", "mult_arity", "width", *_FLAGS)
# The function of an edge that is not symbolic.
_NONE = "0"
# What a config says beside these: how pykan counts and saves versions, and on which device it is.
_ANEW = {"auto_save": False, "ckpt_path": "./model", "device": "cpu", "round": 0, "state_id": 0}
_PLAIN = re.compile(r"(?:\./)?[A-Za-z][A-Za-z0-9_^/().]*")
# Words that YAML does not take for text; pykan's own names are none.
_OTHER = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))

# Names of a state of pykan's `MultKAN`, all of which `loadckpt` asks for.
_OWN = re.compile(
    r"(?:sub)?node_(?:bias|scale)_\d+|act_fun\.\d+\.(?:grid|coef|mask|scale_base|scale_sp)"
    r"|symbolic_fun\.\d+\.(?:mask|affine)"
)

Symbol = tuple[int, int, int, str]


def is_own(name: str) -> bool:
    """Whether a tensor of this name is one of pykan's own."""
    return _OWN.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PykanConfig:
    """The settings of a network of pykan that `loadckpt` makes it from.

    values   : of the keys of pykan's config, as JSON has them; widths are (sums, multiplications)
    symbolic : (layer, output, input, function) of the edges that have a function, ascending
    """

    values: Mapping[str, Any]
    symbolic: tuple[Symbol, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `restore` has it."""
        record = dict(self.values)
        if self.symbolic:
            record["symbolic"] = [list(one) for one in self.symbolic]
        return record

    @classmethod
    def from_json(cls, record: object) -> PykanConfig:
        """Check the settings and read them. Raises SpecError."""
        if not isinstance(record, dict):
            raise SpecError("restore.pykan", "restore.pykan should be an object")
        for key in sorted({*KEYS} - record.keys()):
            raise SpecError(_named(key), f"restore.pykan lacks the key {key!r}")
        for key in sorted(record.keys() - {*KEYS, "symbolic"}):
            raise SpecError("restore.pykan", f"restore.pykan has the unknown key {shown(key)}")
        values = {key: record[key] for key in KEYS}
        _check(values)
        made = cls(values=values)
        if "symbolic" not in record:
            return made
        return cls(values=values, symbolic=_symbols(record["symbolic"], made.edges))

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(out, in) of each layer: sums and inputs of multiplications over all nodes before."""
        widths, arity = self.values["width"], self.values["mult_arity"]
        inputs = [sums + products for sums, products in widths]
        outputs = [
            sums + (sum(arity[at]) if isinstance(arity, list) else arity * products)
            for at, (sums, products) in enumerate(widths)
        ]
        return list(zip(outputs[1:], inputs[:-1], strict=True))

    def misfit(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Why a state with these tensors is not of this network; "" where it is."""
        for at, (out, inputs) in enumerate(self.edges):
            name = f"act_fun.{at}.coef"
            expected = [inputs, out, self._of_layer("grid", at) + self._of_layer("k", at)]
            if name not in shapes:
                return f"there is no tensor {name!r}"
            if list(shapes[name]) != expected:
                return f"{name!r} has the shape {list(shapes[name])}, by the config {expected}"
        beyond = f"act_fun.{len(self.edges)}.coef"
        return f"the config has no layer for {beyond!r}" if beyond in shapes else ""

    def _of_layer(self, key: str, at: int) -> int:
        value: int | list[int] = self.values[key]
        return value[at] if isinstance(value, list) else value

    @property
    def text(self) -> str:
        """The config that `loadckpt` reads, as pykan's `saveckpt` writes it."""
        names = {(layer, out, at): name for layer, out, at, name in self.symbolic}
        functions = {
            f"symbolic.funs_name.{layer}": [
                [names.get((layer, row, column), _NONE) for column in range(inputs)]
                for row in range(out)
            ]
            for layer, (out, inputs) in enumerate(self.edges)
        }
        values = {**self.values, **_ANEW, **functions}
        return "".join(f"{line}\n" for key in sorted(values) for line in _lines(key, values[key]))


def read(blocks: Mapping[str, Any]) -> PykanConfig:
    """The settings of a config whose values are read: scalars, lists, and lists of lists.

    Raises SpecError where one is missing or is none of pykan's.
    """
    record = {key: blocks[key] for key in KEYS if blocks.get(key) is not None}
    if isinstance(width := record.get("width"), list):
        record["width"] = [one if isinstance(one, list) else [one, 0] for one in width]
    made = PykanConfig.from_json(record)
    symbols: list[list[Any]] = []
    for layer, (out, inputs) in enumerate(made.edges):
        key = f"symbolic.funs_name.{layer}"
        rows = blocks.get(key)
        if not isinstance(rows, list) or len(rows) != out:
            raise SpecError(key, f"{key} should have {out} rows")
        for row, names in enumerate(rows):
            if not isinstance(names, list) or len(names) != inputs:
                raise SpecError(key, f"{key} should have {inputs} names in every row")
            symbols += [[layer, row, at, name] for at, name in enumerate(names) if name != _NONE]
    return PykanConfig.from_json({**record, "symbolic": symbols} if symbols else record)


# --- checks ---------------------------------------------------------------------------------


def _check(values: Mapping[str, Any]) -> None:
    widths = values["width"]
    if not isinstance(widths, list) or not 2 <= len(widths) <= _MAX_NODE_LAYERS:
        _fail("width", widths, f"a list of 2 to {_MAX_NODE_LAYERS} pairs")
    for pair in widths:
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_count, pair)):
            _fail("width", pair, "[sums, multiplications]")
    _check_arity(values["mult_arity"], [products for _, products in widths])
    for key in ("grid", "k"):
        given = values[key] if isinstance(values[key], list) else [values[key]]
        right = all(type(one) is int and 0 <= one <= _MAX_GRID for one in given)
        if not right or (given is values[key] and len(given) != len(widths) - 1):
            _fail(key, values[key], f"a whole number up to {_MAX_GRID}, or one for each layer,")
    if not _is_real(values["grid_eps"]):
        _fail("grid_eps", values["grid_eps"], "a finite number")
    ends = values["grid_range"]
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(_is_real, ends)):
        _fail("grid_range", ends, "[low, high]")
    if not _is_name(values["base_fun_name"]):
        _fail("base_fun_name", values["base_fun_name"], "the name of a function")
    for key in _FLAGS:
        if type(values[key]) is not bool:
            _fail(key, values[key], "true or false")
    # A layer without inputs has a list for each output all the same.
    if sum(out * max(inputs, 1) for out, inputs in PykanConfig(values=values).edges) > _MAX_EDGES:
        raise SpecError("restore.pykan", f"restore.pykan has more than {_MAX_EDGES:,} edges")


def _check_arity(arity: object, products: Sequence[int]) -> None:
    if _is_count(arity):
        return
    right = isinstance(arity, list) and len(arity) == len(products) and sum(products) <= _MAX_NODES
    if not right or not all(
        isinstance(own, list) and len(own) == count and all(map(_is_count, own))
        for own, count in zip(arity, products, strict=True)  # type: ignore[call-overload]
    ):
        expected = "a whole number, or for each layer of nodes a list of one for each,"
        _fail("mult_arity", arity, expected)


def _symbols(record: object, edges: Sequence[tuple[int, int]]) -> tuple[Symbol, ...]:
    expected = "a list of [layer, output, input, function], ascending, each edge once,"
    if not isinstance(record, list) or not record:
        _fail("symbolic", record, expected)
    before = (-1, -1, -1)
    found: list[Symbol] = []
    for one in record:
        if not isinstance(one, list) or len(one) != 4 or not all(map(_is_count, one[:3])):
            _fail("symbolic", one, "[layer, output, input, function]")
        layer, out, at, name = one
        if not (layer < len(edges) and out < edges[layer][0] and at < edges[layer][1]):
            _fail("symbolic", one, "an edge of the network")
        if not _is_name(name) or name == _NONE:
            _fail("symbolic", one, "the name of a function")
        if (layer, out, at) <= before:
            _fail("symbolic", one, expected)
        before = (layer, out, at)
        found.append((layer, out, at, name))
    return tuple(found)


def _named(key: str) -> str:
    return f"restore.pykan.{key}"


def _fail(key: str, value: object, expected: str) -> NoReturn:
    raise SpecError(_named(key), f"{_named(key)} has {shown(value)}; {expected} was expected")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_real(value: object) -> bool:
    if type(value) is int:
        return abs(value) <= 1 << 53
    return isinstance(value, float) and math.isfinite(value)


def _is_name(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST_NAME
        and all("!" <= character <= "~" for character in value)
    )


# --- YAML -----------------------------------------------------------------------------------


def _lines(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{key}: {_scalar(value)}"
        return
    yield f"{key}:"
    for item in value:
        if not isinstance(item, list):
            yield f"- {_scalar(item)}"
        elif not item:
            yield "- []"
        else:
            yield f"- - {_scalar(item[0])}"
            yield from (f"  - {_scalar(one)}" for one in item[1:])


def _scalar(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and value.lower() not in _OTHER:
            return value
        quoted = value.replace("'", "''")
        return f"'{quoted}'"
    text = repr(value)
    # YAML takes 1e-05 for text and 1.0e-05 for a number.
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
