"""Pickles read as data: a small machine that calls nothing, builds no class, imports nothing.

The opcodes come from `pickletools`; what they would build is recorded (see `records`).
"""

from __future__ import annotations

import gc
import pickletools
import warnings
from collections.abc import Callable
from typing import Any, cast

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.foreign import records
from kancompress.formats.foreign.records import Global, Storage, Stub, TensorRecord, dictionary_key
from kancompress.formats.foreign.work import Work
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.system.inputs import Data

# A thousand tensors with their optimizer's take a hundred thousand; each may cost a dictionary.
MAX_OPCODES = 3_000_000
_MAX_LINE = 1 << 16
_MAX_NAME = 512  # of a class or function with its module
_WINDOW = 1 << 20

# Calls that no checkpoint needs. The machine calls nothing whatever the name is; to find one of
# these says what the file is for.
_HOSTILE_MODULES = {"os", "posix", "nt", "subprocess", "sys", "socket", "shutil", "runpy", "pty",
                    "importlib", "ctypes", "webbrowser", "commands", "timeit", "pdb"}  # fmt: skip
_HOSTILE_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "input", "breakpoint",
                     "__import__", "globals", "setattr", "delattr"}  # fmt: skip


class Reader:
    """The part of a binary file's interface that `pickletools` needs, over an input's bytes."""

    def __init__(self, data: Data) -> None:
        self.size = len(data)
        self.position = 0
        self._data = data
        self._window = b""
        self._begin = 0

    def tell(self) -> int:
        """Position in bytes."""
        return self.position

    def byte(self) -> int:
        """The next byte; ValueError where there is none."""
        at = self.position - self._begin
        if at >= len(self._window):
            self._ahead(1)
            at = 0
            if not self._window:
                raise ValueError("the pickle ends before its STOP")
        self.position += 1
        return self._window[at]

    def read(self, count: int) -> bytes:
        """At most `count` bytes."""
        at = self.position - self._begin
        if at + count > len(self._window):
            self._ahead(count)
            at = 0
        chunk = self._window[at : at + count]
        self.position += len(chunk)
        return chunk

    def readline(self) -> bytes:
        """A line with its end, or what there is of it."""
        if self.position - self._begin + _MAX_LINE > len(self._window):
            self._ahead(_MAX_LINE)
        at = self.position - self._begin
        end = self._window.find(b"\n", at, at + _MAX_LINE) + 1
        line = self._window[at : end or at + _MAX_LINE]
        self.position += len(line)
        return line

    def _ahead(self, count: int) -> None:
        """Have the window begin here, with at least `count` bytes where there are so many."""
        self._begin = self.position
        self._window = bytes(self._data[self._begin : self._begin + max(count, _WINDOW)])


@dataclass(frozen=True, slots=True, eq=False)
class Pickle:
    """What a pickle holds, and every storage (by its key) and tensor that it speaks of."""

    value: object
    storages: dict[str, Storage]
    tensors: list[TensorRecord]


def load(reader: Reader, where: str, work: Work, *, views: bool = True) -> Pickle:
    """Read one pickle from where `reader` stands up to its STOP.

    views : whether a tensor may lie in a part of a storage, as torch wrote it before 1.6
    Raises InvalidFileError for what is no pickle, ends too early, asks to run a command, or asks
    for more than `work`.
    """
    machine = _Machine(where, work, reader.size, views)
    collects = gc.isenabled()
    gc.disable()  # it would look through the millions of values again and again
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names with stray backslashes
            return Pickle(machine.run(reader), machine.storages, machine.tensors)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if reader.position >= reader.size and not machine.stopped:
            raise InvalidFileError(
                Flaw.TRUNCATED, f"{where} ends inside its pickle. It was not copied whole."
            ) from None
        raise InvalidFileError(
            Flaw.BAD_PICKLE,
            f"{where}: the pickle is damaged at byte {reader.position} ({_brief(error)}).",
        ) from None
    finally:
        if collects:
            gc.enable()


def _brief(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
    return shown(text)[1:-1]


_MARK = object()


class _Machine:
    """The stack machine of one pickle. Methods named `op_...` are its opcodes."""

    def __init__(self, where: str, work: Work, size: int, views: bool) -> None:
        self.where = where
        self.work = work
        self.views = views
        self.most = max(MAX_OPCODES, size // 3)
        self.stack: list[object] = []
        self.memo: dict[str, object] = {}  # by text, whose hash a file cannot choose
        self.stopped = False
        self.storages: dict[str, Storage] = {}
        self.tensors: list[TensorRecord] = []

    def run(self, reader: Reader) -> object:
        handlers = {
            code: (_arguments(opcode), self.handler(opcode.name))
            for code, opcode in _OPCODES.items()
        }
        for _ in range(self.most):
            code = reader.byte()
            if code not in handlers:
                raise ValueError(f"byte {code:#04x} is no opcode")
            read_argument, handler = handlers[code]
            handler(read_argument(reader))
            if self.stopped:
                break
        else:
            raise InvalidFileError(
                Flaw.TOO_COSTLY, f"{self.where}: the pickle has more than {self.most} opcodes."
            )
        if len(self.stack) != 1:
            raise ValueError(f"{len(self.stack)} values at its end, not one")
        return self.stack[0]

    def handler(self, name: str) -> Callable[[Any], None]:
        """What an opcode does, by its name."""
        if name in _LITERALS:
            return self.stack.append
        if name in _CONSTANTS:
            make = _CONSTANTS[name]
            return lambda _: self.stack.append(make())
        found: Callable[[Any], None] | None = getattr(self, f"op_{name}", None)
        if found is not None:
            return found

        def unsupported(_: object) -> None:
            raise ValueError(f"opcode {name} is not supported")

        return unsupported

    # --- stack -------------------------------------------------------------------------------

    def pop(self) -> object:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def top(self) -> object:
        return self.stack[-1]

    def since_mark(self) -> list[object]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                values = self.stack[position + 1 :]
                del self.stack[position:]
                return values
        raise ValueError("no mark on the stack")

    def op_PROTO(self, arg: int) -> None: ...

    def op_FRAME(self, arg: int) -> None: ...

    def op_STOP(self, arg: None) -> None:
        self.stopped = True

    def op_MARK(self, arg: None) -> None:
        self.stack.append(_MARK)

    def op_POP(self, arg: None) -> None:
        self.stack.pop()

    def op_POP_MARK(self, arg: None) -> None:
        self.since_mark()

    def op_DUP(self, arg: None) -> None:
        self.stack.append(self.top())

    def op_PUT(self, arg: int) -> None:
        if self.top() is _MARK:
            raise ValueError("a mark where a value should be")
        if not 0 <= arg < 1 << 32:
            raise ValueError("a value is kept under a number that no pickler counts to")
        self.memo[str(arg)] = self.top()

    op_BINPUT = op_LONG_BINPUT = op_PUT

    def op_MEMOIZE(self, arg: None) -> None:
        self.op_PUT(len(self.memo))

    def op_GET(self, arg: int) -> None:
        self.stack.append(self.memo[str(arg)])

    op_BINGET = op_LONG_BINGET = op_GET

    def op_STRING(self, arg: str) -> None:
        try:  # written by Python 2: bytes, which pickletools shows as Latin-1
            self.stack.append(arg.encode("latin-1").decode())
        except UnicodeError:
            self.stack.append(arg)

    op_BINSTRING = op_SHORT_BINSTRING = op_STRING

    # --- containers --------------------------------------------------------------------------

    def op_TUPLE(self, arg: None) -> None:
        self.stack.append(tuple(self.since_mark()))

    def op_TUPLE1(self, arg: None) -> None:
        self.stack.append((self.pop(),))

    def op_TUPLE2(self, arg: None) -> None:
        last, first = self.pop(), self.pop()
        self.stack.append((first, last))

    def op_TUPLE3(self, arg: None) -> None:
        last, middle, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, middle, last))

    def op_LIST(self, arg: None) -> None:
        self.stack.append(self.since_mark())

    op_FROZENSET = op_LIST

    def op_DICT(self, arg: None) -> None:
        values = self.since_mark()
        self.stack.append({})
        self.set_items(values)

    def op_APPEND(self, arg: None) -> None:
        self.extend([self.pop()])

    def op_APPENDS(self, arg: None) -> None:
        self.extend(self.since_mark())

    op_ADDITEMS = op_APPENDS

    def op_SETITEM(self, arg: None) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def op_SETITEMS(self, arg: None) -> None:
        self.set_items(self.since_mark())

    def extend(self, values: list[object]) -> None:
        target = self.top()
        if isinstance(target, Stub):
            target = target.items
        if not isinstance(target, list):
            raise ValueError("items for what is no list")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        target = self.top()
        if isinstance(target, Stub):
            target = target.mapping
        if not isinstance(target, dict) or len(values) % 2:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[dictionary_key(key)] = value

    # --- objects -----------------------------------------------------------------------------

    def op_GLOBAL(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self.stack.append(self.named(module, name))

    def op_STACK_GLOBAL(self, arg: None) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("a global whose name is no text")
        self.stack.append(self.named(module, name))

    def op_REDUCE(self, arg: None) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self.call(function, args))

    op_NEWOBJ = op_REDUCE

    def op_NEWOBJ_EX(self, arg: None) -> None:
        self.pop()
        self.op_REDUCE(None)

    def op_INST(self, arg: str) -> None:
        args = tuple(self.since_mark())
        self.op_GLOBAL(arg)
        self.stack.append(self.call(self.pop(), args))

    def op_OBJ(self, arg: None) -> None:
        maker, *args = self.since_mark()
        self.stack.append(self.call(maker, tuple(args)))

    def op_BUILD(self, arg: None) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Stub):
            target.state = state

    def op_PERSID(self, arg: object) -> None:
        raise ValueError("a persistent name that torch does not write")

    def op_BINPERSID(self, arg: None) -> None:
        name = self.pop()
        if not isinstance(name, tuple):
            raise ValueError("a persistent name that torch does not write")
        if len(name) > 1 and name[0] == "module":  # torch before 1.6: a class with its source
            self.stack.append(name[1])
            return
        storage = records.storage(name)
        known = self.storages.setdefault(storage.key, storage)
        if known.dtype != storage.dtype:
            raise ValueError(f"storage {shown(storage.key)} has two types")
        if not self.views and storage.count != storage.whole:
            raise ValueError(f"a view of storage {shown(storage.key)}")
        if known.whole != storage.whole:
            raise ValueError(
                f"storage {shown(storage.key)} has two sizes, {known.whole} and {storage.whole}"
            )
        self.stack.append(storage)

    def named(self, module: str, name: str) -> Global:
        """A class or function by its name; whatever is done with it, some are refused."""
        if len(module) + len(name) > _MAX_NAME:
            raise ValueError(f"a global with a name of {len(module) + len(name):,} characters")
        found = Global(module, name)
        if _is_hostile(found):
            raise InvalidFileError(
                Flaw.UNSAFE_PICKLE,
                f"{self.where} asks to run {shown(str(found))[1:-1]}, which no checkpoint needs;"
                " nothing was run. Do not load it with anything else; get the weights elsewhere.",
            )
        return found

    def call(self, function: object, args: object) -> object:
        if not isinstance(function, Global):
            return Stub(function, args)
        made = records.rebuild(function, args, self.work)
        if isinstance(made, TensorRecord):
            self.tensors.append(made)
        return made


def _nothing(_: Reader) -> None:
    return None


def _arguments(opcode: pickletools.OpcodeInfo) -> Callable[[Reader], Any]:
    """What reads the argument of an opcode."""
    return _nothing if opcode.arg is None else cast(Callable[[Reader], Any], opcode.arg.reader)


_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}


def _is_hostile(function: Global) -> bool:
    if function.module in ("builtins", "__builtin__", "io", "_io"):
        return function.name.partition(".")[0] in _HOSTILE_BUILTINS
    return function.module in _HOSTILE_MODULES
