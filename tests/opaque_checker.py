"""The part of the checker that reads `opaque`: section 8.5 of docs/packed-format.md.

A zip archive by its bytes, and a machine for data.pkl that calls nothing: what the pickle would
call stays a note of the call. What torch.save does not write ends in "unknown:".
"""

import io
import itertools
import math
import pickletools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn


class Fault(Exception):  # noqa: N818
    """A rule that the file breaks, or what the checker does not know."""


def fail(rule: str, text: str) -> NoReturn:
    raise Fault(f"{rule}: {text}")


def need(holds: Any, rule: str, text: str) -> None:
    if not holds:
        fail(rule, text)


def sound(holds: Any, text: str) -> None:
    if not holds:
        fail("8.5", text)


def known(holds: Any, text: str) -> None:
    if not holds:
        fail("unknown", text)


def check(blob: memoryview, path: list[str], entries: list[Any], module: bool) -> None:
    """Check an `opaque` against the `path` and the `tensors` of its `restore`."""
    records = read_zip(blob)
    prefix = find_prefix(records)
    start, size = records[prefix + b"data.pkl"]
    machine = Machine(blob[start : start + size])
    root = machine.run()
    at = root
    for key in path:
        at = look_up(at, key)
    budget = 10_000 + 4 * len(blob)
    tensors = list(of_module(at, len(entries), budget) if module else of_dict(at))
    compare(tensors, entries)
    views: dict[str, set[View]] = {}
    for _, tensor in tensors:
        views.setdefault(tensor.storage.key, set()).add(tensor)
    for storage in machine.storages.values():
        record = records.get(prefix + b"data/" + storage.key.encode("utf-8", "surrogatepass"))
        if record is not None:
            sound(record[1] == storage.size, "a storage that is there has another size")
        else:
            cover(views.get(storage.key, set()), storage.size, budget)


# The archive


def field(form: str, blob: memoryview, place: int) -> tuple[Any, ...]:
    sound(0 <= place <= len(blob) - struct.calcsize(form), "opaque is no zip archive")
    return struct.unpack_from(form, blob, place)


def directory(blob: memoryview) -> tuple[int, int, int]:
    """Number of records, place and end of the central directory."""
    tail = bytes(blob[-65_557:])
    place = len(blob) - len(tail) + tail.rfind(b"PK\x05\x06")
    sound(b"PK\x05\x06" in tail, "opaque is no zip archive")
    _, disk, first, here, count, size, offset, comment = field("<IHHHHIIH", blob, place)
    sound(place + 22 + comment == len(blob), "bytes trail behind the zip archive")
    numbers = [disk, first, here, count, size, offset]
    end = place
    if place >= 20 and bytes(blob[place - 20 : place - 16]) == b"PK\x06\x07":
        _, _, end, _ = field("<IIQI", blob, place - 20)
        sign, _, _, _, *wide = field("<IQHHIIQQQQ", blob, end)
        sound(sign == 0x06064B50, "the zip archive has no 64 bit directory")
        full = [0xFFFF] * 4 + [0xFFFFFFFF] * 2
        pairs = zip(numbers, wide, full, strict=True)
        agree = all(a in (b, most) for a, b, most in pairs)
        sound(agree, "the zip archive's directories differ")
        numbers = wide
    disk, first, here, count, size, offset = numbers
    sound(disk == first == 0 and here == count, "the zip archive is in several parts")
    sound(offset + size == end, "the zip archive's directory does not lie before its end")
    return count, offset, end


def widened(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offset of a record, those that are 2^32 - 1 from its 64 bit field."""
    place = 0
    while place + 4 <= len(extra):
        sign, size = struct.unpack_from("<HH", extra, place)
        content = extra[place + 4 : place + 4 + size]
        place += 4 + size
        if sign != 1:
            continue
        numbers = iter(struct.unpack(f"<{len(content) // 8}Q", content[: len(content) // 8 * 8]))
        found = [next(numbers, -1) if value == 0xFFFFFFFF else value for value in values]
        sound(-1 not in found, "a 64 bit field of the zip archive is too short")
        return found
    return values


def read_zip(blob: memoryview) -> dict[bytes, tuple[int, int]]:
    """Where the contents of each record begin, and their size."""
    count, start, end = directory(blob)
    records: dict[bytes, tuple[int, int]] = {}
    spans = []
    place = start
    while place < end:
        header = field("<IHHHHHHIIIHHHHHII", blob, place)
        sign, _, _, flags, method, _, _, crc, packed, size = header[:10]
        lengths, disk, offset = header[10:13], header[13], header[16]
        sound(sign == 0x02014B50, "the zip archive's directory is broken")
        name = bytes(blob[place + 46 : place + 46 + lengths[0]])
        extra = bytes(blob[place + 46 + lengths[0] : place + 46 + lengths[0] + lengths[1]])
        place += 46 + sum(lengths)
        sound(place <= end, "the zip archive's directory is broken")
        size, packed, offset = widened(extra, [size, packed, offset])
        sound(disk in (0, 0xFFFF), "the zip archive is in several parts")
        sound(method == 0 and size == packed, "a record is compressed")
        sound(not flags & 0x2041, "a record is encrypted")
        sound(name not in records, "two records have one name")
        first = local(blob, offset, name, flags, (crc, size))
        sound(first + size <= start, "a record reaches into the directory")
        spans.append((offset, first + size))
        good = crc == 0 or zlib.crc32(blob[first : first + size]) == crc
        records[name] = first, size
        sound(good, "the checksum of a record is another")
        sound(len(records) <= count, "the zip archive has another number of records")
    sound(len(records) == count, "the zip archive has another number of records")
    spans.sort()
    apart = all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    sound(apart, "two records overlap")
    return records


def local(blob: memoryview, offset: int, name: bytes, flags: int, expected: tuple[int, int]) -> int:
    """Where a record's contents begin, by its own header, which must agree with the directory."""
    header = field("<IHHHHHIIIHH", blob, offset)
    sign, _, own_flags, method, _, _, crc, packed, size, name_length, extra_length = header
    sound(sign == 0x04034B50, "a record has no header of its own")
    start = offset + 30 + name_length + extra_length
    sound(start <= len(blob), "a record lies outside the archive")
    same = bytes(blob[offset + 30 : offset + 30 + name_length]) == name
    sound(same, "a record has two names")
    sound(method == 0 and not own_flags & 0x2041, "a record is compressed or encrypted")
    # Guess: with a descriptor behind the contents (flag 8), the header's own numbers say nothing.
    if not (flags | own_flags) & 8:
        extra = bytes(blob[start - extra_length : start])
        size, packed = widened(extra, [size, packed])
        good = (crc, size) == expected and packed == size
        sound(good, "a record's own header differs from the directory")
    return start


def find_prefix(records: dict[bytes, tuple[int, int]]) -> bytes:
    """The folder of torch's records, empty where they lie at the top."""
    found = [
        name[:-8]
        for name in records
        if name == b"data.pkl" or (name.endswith(b"/data.pkl") and name.count(b"/") == 1)
    ]
    sound(found, "the archive has no data.pkl")
    known(len(found) == 1, "the archive has several data.pkl")
    return found[0]


# The pickle

STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "ComplexFloatStorage": ("C64", 8),
    "ComplexDoubleStorage": ("C128", 16),
    "UntypedStorage": ("bytes", 1),
}
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "bool": "BOOL",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "complex64": "C64",
    "complex128": "C128",
}
WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    "C128": 16,
}


class Named(NamedTuple):
    """A class or function that the pickle names."""

    module: str
    name: str


class Storage:
    """A storage that the pickle names; `size` in bytes."""

    def __init__(self, key: str, kind: str, width: int, count: int) -> None:
        self.key, self.kind, self.count, self.size = key, kind, count, count * width


class View(NamedTuple):
    """A tensor; offset and strides in numbers of `width` bytes."""

    storage: Storage
    dtype: str
    width: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Made:
    """What a call or a class would make: its arguments, state, and items that were set."""

    def __init__(self, maker: Any, arguments: Any) -> None:
        self.maker, self.arguments = maker, arguments
        self.state: Any = None
        self.items: list[tuple[Any, Any]] = []


class Dict(Made):
    """A dict or OrderedDict: its items, in the order in which they were set."""

    def __init__(self, items: list[tuple[Any, Any]]) -> None:
        super().__init__(None, ())
        self.items = items


class Bag:
    """A set."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items


CONSTANTS = frozenset((
    "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8"
))  # fmt: skip
VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))


class Machine:
    """Runs a pickle without calling anything; each step takes time in proportion to its bytes."""

    def __init__(self, data: memoryview) -> None:
        self.data = bytes(data)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        steps = pickletools.genops(io.BytesIO(self.data))
        while True:
            try:
                opcode, argument, _ = next(steps)
            except (ValueError, OverflowError, StopIteration, struct.error):
                fail("8.5", "data.pkl is no pickle")
            try:
                if opcode.name == "STOP":
                    return self.stack.pop()
                self.step(opcode.name, argument)
            except IndexError:
                fail("8.5", "data.pkl takes what is not there")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in CONSTANTS:
            stack.append(VALUES.get(name, argument))
        elif name in PUTS:
            known(0 <= argument < 2**32, "data.pkl has an odd place of the memo")
            self.memo[argument] = stack[-1]
        elif name in GETS:
            sound(argument in self.memo, "data.pkl takes what is not there")
            stack.append(self.memo[argument])
        else:
            method = getattr(self, "do_" + name.lower(), None)
            known(method, f"data.pkl uses {name}")
            assert method is not None
            method(argument)

    def above_mark(self) -> list[Any]:
        mark = self.marks.pop()
        sound(mark <= len(self.stack), "data.pkl takes what is not there")
        found = self.stack[mark:]
        del self.stack[mark:]
        return found

    def do_proto(self, _: Any) -> None:
        pass

    do_frame = do_proto

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def do_pop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def do_pop_mark(self, _: Any) -> None:
        self.above_mark()

    def do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Named(module, name))

    def do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        good = isinstance(name, str) and isinstance(module, str)
        sound(good, "data.pkl names a class without a name")
        self.stack.append(Named(module, name))

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_empty_tuple(self, _: Any) -> None:
        self.stack.append(())

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append(Dict([]))

    def do_empty_set(self, _: Any) -> None:
        self.stack.append(Bag([]))

    def do_list(self, _: Any) -> None:
        self.stack.append(self.above_mark())

    def do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.above_mark()))

    def do_tuple1(self, _: Any) -> None:
        self.stack.append((self.stack.pop(),))

    def do_tuple2(self, _: Any) -> None:
        last, first = self.stack.pop(), self.stack.pop()
        self.stack.append((first, last))

    def do_tuple3(self, _: Any) -> None:
        third, second, first = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append((first, second, third))

    def do_dict(self, _: Any) -> None:
        self.stack.append(Dict(pairs(self.above_mark())))

    def do_frozenset(self, _: Any) -> None:
        self.stack.append(Bag(self.above_mark()))

    def do_append(self, _: Any) -> None:
        value = self.stack.pop()
        self.extend([value])

    def do_appends(self, _: Any) -> None:
        self.extend(self.above_mark())

    def do_additems(self, _: Any) -> None:
        values = self.above_mark()
        sound(isinstance(self.stack[-1], Bag), "data.pkl adds to what is no set")
        self.stack[-1].items.extend(values)

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        good = isinstance(target, list | Made) and not isinstance(target, Dict)
        sound(good, "data.pkl appends to what is no list")
        if isinstance(target, list):
            target.extend(values)

    def do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([(key, value)])

    def do_setitems(self, _: Any) -> None:
        self.set_items(pairs(self.above_mark()))

    def set_items(self, items: list[tuple[Any, Any]]) -> None:
        target = self.stack[-1]
        sound(isinstance(target, Made), "data.pkl sets items of what is no dict")
        target.items.extend(items)

    def do_newobj(self, _: Any) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        good = isinstance(maker, Named) and isinstance(arguments, tuple)
        known(good, "data.pkl makes an object of no class")
        self.stack.append(Made(maker, arguments))

    def do_newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self.do_newobj(None)

    def do_build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        # A tensor's or a set's own attributes change none of its numbers.
        known(isinstance(target, Made | View | Bag), "data.pkl gives a state to an odd object")
        if isinstance(target, Made):
            known(target.state is None, "data.pkl gives a state twice")
            target.state = state

    def do_reduce(self, _: Any) -> None:
        arguments, maker = self.stack.pop(), self.stack.pop()
        known(isinstance(arguments, tuple), "data.pkl calls without arguments")
        self.stack.append(called(maker, arguments))

    def do_binpersid(self, _: Any) -> None:
        self.stack.append(self.storage(self.stack.pop()))

    def storage(self, mark: Any) -> Storage:
        good = isinstance(mark, tuple) and len(mark) in (5, 6) and isinstance(mark[0], str)
        good = good and mark[0] == "storage" and mark[5:] in ((), (None,))
        known(good, "data.pkl refers to what is no storage")
        _, kind, key, _, count = mark[:5]
        good = isinstance(kind, Named) and kind.module in ("torch", "torch.storage")
        known(good and kind.name in STORAGES, "data.pkl has a storage of an odd type")
        known(isinstance(key, str) and type(count) is int, "data.pkl has an odd storage")
        sound(0 <= count < 2**63, "data.pkl has a storage of an impossible size")
        dtype, width = STORAGES[kind.name]
        found = self.storages.get(key)
        if found is None:
            found = self.storages[key] = Storage(key, dtype, width, count)
        same = found.kind == dtype and found.count == count
        sound(same, "data.pkl names a storage with two types or sizes")
        return found


def pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    sound(len(values) % 2 == 0, "data.pkl has a key without a value")
    return list(zip(values[::2], values[1::2], strict=True))


def called(maker: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call of torch's own few functions gives, else a note of the call."""
    known(isinstance(maker, Named), "data.pkl calls what it does not name")
    where, name = maker
    if where == "torch._utils" and name == "_rebuild_tensor_v2":
        known(len(arguments) in (6, 7), "data.pkl rebuilds a tensor in an odd way")
        return view(arguments[0], *arguments[1:4], None)
    if where == "torch._utils" and name == "_rebuild_tensor_v3":
        known(len(arguments) in (7, 8), "data.pkl rebuilds a tensor in an odd way")
        return view(arguments[0], *arguments[1:4], arguments[6])
    if where == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        good = len(arguments) in (3, 4) and isinstance(arguments[0], View | Made)
        known(good, "data.pkl rebuilds a parameter in an odd way")
        return arguments[0]
    if where == "torch" and name == "Size" and len(arguments) == 1:
        known(isinstance(arguments[0], tuple | list), "data.pkl has an odd size")
        # No copy of a tuple: many sizes may share a long one.
        return arguments[0]
    if where == "collections" and name == "OrderedDict" and len(arguments) <= 1:
        items = arguments[0] if arguments else []
        good = isinstance(items, list) and not items
        known(good, "data.pkl makes a dict from its items")
        return Dict([])
    if where in ("__builtin__", "builtins") and name in ("set", "frozenset"):
        good = len(arguments) == 1 and isinstance(arguments[0], list)
        known(good, "data.pkl makes a set in an odd way")
        return Bag(arguments[0])
    return Made(maker, arguments)


def view(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any) -> View:
    """A tensor, which must lie inside its storage."""
    known(isinstance(storage, Storage), "data.pkl has a tensor without a storage")
    good = isinstance(shape, tuple | list) and isinstance(strides, tuple | list)
    known(good and type(offset) is int, "data.pkl has a tensor without a shape")
    known(len(shape) <= 64 and len(strides) <= 64, "data.pkl has a tensor of more than 64 axes")
    sound(len(shape) == len(strides), "a tensor has not one stride for each length")
    numbers = [offset, *shape, *strides]
    known(all(type(number) is int for number in numbers), "data.pkl has an odd shape")
    good = all(0 <= number < 2**63 for number in numbers)
    sound(good, "a tensor has a negative or impossible number")
    if dtype is None:
        kind, width, count = storage.kind, WIDTHS.get(storage.kind, 1), storage.count
        known(kind != "bytes", "data.pkl has a tensor without a type")
    else:
        good = isinstance(dtype, Named) and dtype.module == "torch" and dtype.name in DTYPES
        known(good, "data.pkl has a tensor of an odd type")
        kind = DTYPES[dtype.name]
        width = WIDTHS.get(kind, 1)
        count = storage.size // width
    if 0 not in shape:
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        sound(last < count, "a tensor does not lie inside its storage")
    return View(storage, kind, width, offset, tuple(shape), tuple(strides))


# The state dict


def look_up(at: Any, key: str) -> Any:
    sound(isinstance(at, Made), "path does not lead to a state dict")
    # The last one counts, where a key was set twice.
    for name, value in reversed(at.items):
        if isinstance(name, str) and name == key:
            return value
    fail("8.5", "path does not lead to a state dict")


def by_name(at: Any) -> dict[str, Any]:
    """The items of a dict whose keys are strings."""
    found: dict[str, Any] = {}
    for name, value in at.items:
        if isinstance(name, str):
            found[name] = value
        else:
            known(not isinstance(value, View), "a tensor's name is no string")
    return found


def of_dict(at: Any) -> Iterator[tuple[str, View]]:
    sound(isinstance(at, Made), "path does not lead to a state dict")
    known(isinstance(at, Dict), "the state dict is of an odd class")
    for name, value in by_name(at).items():
        odd = isinstance(value, Made) and isinstance(value.maker, Named)
        odd = odd and value.maker.name.startswith("_rebuild")
        known(not odd, "the state dict has a tensor that is rebuilt in an odd way")
        if isinstance(value, View):
            yield name, value


def attributes(module: Any) -> dict[str, Any]:
    known(isinstance(module, Made), "the pickled module is no object")
    state = module.state
    if isinstance(state, tuple) and state:
        state = state[0]
    known(isinstance(state, Dict), "the pickled module has no attributes")
    found = by_name(state)
    for name in ("_parameters", "_buffers", "_modules"):
        known(isinstance(found.get(name), Dict), "the pickled module is no torch module")
    return found


def of_module(at: Any, most: int, budget: int) -> Iterator[tuple[str, View]]:
    """The state dict of a pickled module: its own tensors, then those of the modules in it."""
    waiting = [("", at)]
    while waiting:
        prefix, module = waiting.pop()
        own = attributes(module)
        groups = [own[name] for name in ("_parameters", "_buffers", "_modules")]
        left_out = own.get("_non_persistent_buffers_set")
        hidden_items = left_out.items if isinstance(left_out, Bag) else []
        # A module may be shared by many: what is read of it counts each time.
        budget -= len(own) + len(hidden_items) + sum(len(group.items) for group in groups)
        budget -= (1 + len(groups[2].items)) * len(prefix)
        known(budget > 0, "the pickled module takes too much work")
        hidden = {name for name in hidden_items if isinstance(name, str)}
        parameters, buffers, modules = (by_name(group) for group in groups)
        kept = {name: value for name, value in buffers.items() if name not in hidden}
        for name, value in (*parameters.items(), *kept.items()):
            if value is None:
                continue
            known(isinstance(value, View), "the pickled module has an odd tensor")
            most -= 1
            sound(most >= 0, "data.pkl has more tensors than restore")
            yield prefix + name, value
        for name, child in reversed(modules.items()):
            if child is not None:
                waiting.append((f"{prefix}{name}.", child))


def compare(tensors: list[tuple[str, View]], entries: list[Any]) -> None:
    names, expected = [name for name, _ in tensors], [entry[0] for entry in entries]
    same = len(names) == len(expected) and set(names) == set(expected)
    sound(same, "data.pkl has tensors of other names than restore")
    wanted = {entry[0]: entry for entry in entries}
    for name, tensor in tensors:
        sound(tensor.dtype == wanted[name][1], "a tensor of data.pkl has another type")
        sound(list(tensor.shape) == wanted[name][2], "a tensor of data.pkl has another shape")
    need(names == expected, "8.1", "tensors are not in the order of the source")


def cover(views: set[View], size: int, budget: int) -> None:
    """Every byte of a missing storage must be one of a tensor's."""
    spans: list[tuple[int, int]] = []
    for tensor in views:
        if 0 in tensor.shape:
            continue
        width, block = tensor.width, tensor.width
        outer: list[tuple[int, int]] = []
        axes = zip(tensor.strides, tensor.shape, strict=True)
        for stride, length in sorted((s * width, n) for s, n in axes if s and n > 1):
            # Steps that are no longer than what one step covers leave no gap.
            if not outer and stride <= block:
                block += (length - 1) * stride
            else:
                outer.append((stride, length))
        budget -= math.prod(length for _, length in outer)
        known(budget > 0, "the tensors of a missing storage take too much work")
        starts = [tensor.offset * width]
        for stride, length in outer:
            starts = [start + step * stride for start in starts for step in range(length)]
        spans += [(start, start + block) for start in starts]
    spans.sort()
    reached = 0
    for begin, end in spans:
        sound(begin <= reached, "no tensor covers a part of a missing storage")
        reached = max(reached, end)
    sound(reached >= size, "no tensor covers a part of a missing storage")
