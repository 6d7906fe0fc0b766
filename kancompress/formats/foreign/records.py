"""What a pickle speaks of, as records: classes that are not built, tensors that are not read.

Names of classes and functions stay names (`Global`), what they would make becomes a `Stub`, and
only torch's own ways to rebuild a tensor are understood, as descriptions of where it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from kancompress.formats.arrays import NAMED, Dtype, element_count
from kancompress.formats.foreign.work import Work
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass

_MAX_RANK = 64
_MAX_KEY = 256  # torch writes some digits

# Types of torch's that no file can be packed from; they are refused by their names.
_OTHERS = {
    "complex32": 4, "complex128": 16, "bcomplex32": 4, "qint8": 1, "quint8": 1, "qint32": 4,
    "quint4x2": 1, "quint2x4": 1, "bits1x8": 1, "bits2x4": 1, "bits4x2": 1, "bits8": 1,
    "bits16": 2, "float4_e2m1fn_x2": 1,
    **{f"{kind}{bits}": 1 for kind in ("uint", "int") for bits in range(1, 8)},
}  # fmt: skip
_DTYPES = NAMED | {name: Dtype("", name, size, "") for name, size in _OTHERS.items()}
STORAGES: dict[str, Dtype] = {
    name: _DTYPES[dtype]
    for name, dtype in {
        "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
        "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
        "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
        "BoolStorage": "bool", "UntypedStorage": "uint8",
        # refused with their name when a tensor that is wanted lies in them
        "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
        "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
        "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
    }.items()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by its name; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number as the key of a dictionary; the hashes of texts are drawn anew each run."""

    text: str


@dataclass(slots=True, eq=False, repr=False)
class Stub:
    """What a class or function that is not called would have made."""

    maker: object
    args: object = ()
    state: object = None
    items: list[object] = field(default_factory=list)
    mapping: dict[object, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of numbers in the file.

    start : elements between the beginning of what lies under `key` and this run
    whole : elements of all that lies under `key`
    """

    key: str
    dtype: Dtype
    count: int
    start: int
    whole: int

    @property
    def size(self) -> int:
        """Bytes of all that lies under `key`."""
        return self.whole * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A tensor as the pickle describes it; nothing of it has been checked against the storage."""

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of all its elements."""
        return element_count(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Unsupported:
    """A tensor of a kind that this package does not read; `kind` names it."""

    kind: str


def storage(name: tuple[object, ...]) -> Storage:
    """The storage of a persistent name, as torch writes it; ValueError for any other."""
    if len(name) not in (5, 6):
        raise ValueError("a persistent name that torch does not write")
    kind, maker, key, _, count, view = name if len(name) == 6 else (*name, None)
    if kind != "storage" or not isinstance(maker, Global) or not isinstance(key, str):
        raise ValueError("a persistent name that torch does not write")
    if not key or len(key) > _MAX_KEY or not key.isprintable():
        raise ValueError(f"{shown(key)} is no name of a storage")
    dtype = STORAGES.get(maker.name)
    if dtype is None:
        raise ValueError(f"storage type {shown(str(maker))} is not known")
    whole = _natural(count)
    if view is None:
        return Storage(key, dtype, whole, 0, whole)
    if not isinstance(view, tuple) or len(view) != 3:
        raise ValueError("a storage view that torch does not write")
    found = Storage(key, dtype, _natural(view[2]), _natural(view[1]), whole)
    if found.start + found.count > whole:
        raise ValueError("a storage view that reaches beyond its storage")
    return found


def rebuild(function: Global, args: object, work: Work) -> object:
    """What `function` would make of `args`: a record where it is known, else a Stub.

    What is copied is taken from `work`; raises InvalidFileError where that is used up.
    """
    if isinstance(args, tuple) and str(function) in _FROM_TYPE and len(args) >= 3:
        function, _, args, *_ = args  # a tensor with attributes or of a subclass
        if not isinstance(function, Global):
            return Unsupported("rebuilt by an unknown function")
    if not isinstance(args, tuple):
        raise ValueError("arguments that are no tuple")
    work.spend(len(args))
    work.spend(sum(len(arg) for arg in args if isinstance(arg, tuple | list | dict)))
    name = str(function)
    if name in _MAKERS:
        return _MAKERS[name](*args)
    if name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild")):
        kind = function.name.removeprefix("_rebuild_")
        return Unsupported(_KINDS.get(kind, f"of kind {shown(kind)}"))
    if name in _RECONSTRUCTORS and args:
        return Stub(args[0], args[1:])
    return Stub(function, args)


_FROM_TYPE = {"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"}
_RECONSTRUCTORS = {"copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__",
                   "copy_reg.__newobj__", "copyreg.__newobj_ex__"}  # fmt: skip
_KINDS = {
    "sparse_tensor": "sparse",
    "sparse_csr_tensor": "sparse",
    "qtensor": "quantised",
    "nested_tensor": "nested",
    "meta_tensor_no_storage": "without data (device meta)",
}


def dictionary_key(key: object) -> object:
    """A key whose hash is cheap and cannot be chosen.

    A tuple may be nested until hashing it overflows the C stack; the hash of a large integer takes
    time each time, and of small ones thousands can be found that get in each other's way.
    """
    if isinstance(key, str | bytes | bool | Global | None):
        return key
    if isinstance(key, int) and key.bit_length() < 64:
        return Number(str(key))
    return Stub(None, key)


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"{shown(value) if isinstance(value, int) else 'a value'} is no count")
    return value


def _naturals(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _MAX_RANK:
        raise ValueError("a shape or stride that is no short tuple")
    return tuple(_natural(number) for number in value)


def _tensor(
    storage: object, offset: object, shape: object, stride: object, *_: object
) -> TensorRecord:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return _record(storage, storage.dtype, offset, shape, stride)


def _tensor_v3(
    storage: object, offset: object, shape: object, stride: object, grad: object, hooks: object,
    dtype: object, *_: object,
) -> TensorRecord | Unsupported:  # fmt: skip
    if not isinstance(storage, Storage) or not isinstance(dtype, Global):
        raise ValueError("a tensor without a storage or dtype")
    if dtype.module != "torch" or dtype.name not in _DTYPES:
        return Unsupported(f"of dtype {shown(str(dtype))}")
    return _record(storage, _DTYPES[dtype.name], offset, shape, stride)


def _record(
    storage: Storage, dtype: Dtype, offset: object, shape: object, stride: object
) -> TensorRecord:
    lengths, steps = _naturals(shape), _naturals(stride)
    if len(lengths) != len(steps):
        raise ValueError("a tensor with more lengths than strides, or fewer")
    return TensorRecord(storage, dtype, _natural(offset), lengths, steps)


def _same(value: object, *_: object) -> object:
    return value


def _tuple(value: object = (), *_: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else Stub(None, value)


def _list(value: object = (), *_: object) -> object:
    return list(value) if isinstance(value, list | tuple) else Stub(None, value)


def _dict(pairs: object = (), *_: object) -> dict[object, object]:
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, list | tuple):
        raise ValueError("a dictionary of what are no pairs")
    return {dictionary_key(key): value for key, value in pairs}


def _default_dict(factory: object = None, *args: object) -> dict[object, object]:
    return _dict(*args)


_MAKERS: Mapping[str, Callable[..., object]] = {
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _dict,
    "builtins.set": _list,
    "__builtin__.set": _list,
    "builtins.frozenset": _list,
    "__builtin__.frozenset": _list,
    "torch.Size": _tuple,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch.nn.parameter.Parameter": _same,
    "torch.nn.parameter.Buffer": _same,
    "torch.nn.Parameter": _same,
}
