"""What a network is and what it was trained on: frozen records with a JSON form, no torch.

The JSON form of each record is specified in docs/packed-format.md, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from kancompress.errors import UsageError
from kancompress.frozen import dataclass
from kancompress.values import (
    Rule,
    each,
    flag,
    maybe,
    named,
    nothing,
    number,
    path,
    settle,
    text,
    whole,
    word,
)

# Most centroids of a codebook: indices have at most 16 bits.
MAX_CLUSTERS = 65_536
# Share of the rows of the user's own file that tests, where it has no test rows.
TEST_SHARE = 0.2
# Name of a data set that is the user's own file.
FILE = "file"
# How the name of a model of convolutions ends.
CONV = "conv"
# Padding enlarges the maps, and so the memory, whatever a small file's kernels are.
_MOST_PADDING = 16
_MOST_STRIDE = 1024
_MOST_DEGREE = 16
_MOST_INTERVALS = 65_536


class HeaderForm(StrEnum):
    """How the header of a packed file is written: `plain`, with a record for each tensor; `short`,
    with one for all; or the short one where any index is entropy-coded."""

    AUTO = "auto"
    PLAIN = "plain"
    SHORT = "short"


class Family(StrEnum):
    """What an edge is: a basis with its place for the normalisation, or the MLP's one weight."""

    KAN = "kan"
    FASTKAN = "fastkan"
    GRAMKAN = "gramkan"
    MLP = "mlp"


class Start(StrEnum):
    """How the coefficients of a new layer's basis are drawn; those of convolutions as Kaiming's."""

    SMALL = "small"  # normal, of efficient-kan's deviation
    CLIPPED = "clipped"  # normal, clipped, as fast-kan
    XAVIER = "xavier"  # uniform, as torch-conv-kan's polynomials; so is the base weight
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Learning rates with which a family's networks are trained (Tables 4 to 7 of the paper).

    plain, conv     : of all that learns
    meta, meta_conv : of the meta-learner, of the embeddings, and of all else where that has its own
    """

    plain: float = 1e-3
    conv: float = 1e-3
    meta: tuple[float, float, float | None] = (1e-4, 1e-3, None)
    meta_conv: tuple[float, float, float | None] = (1e-4, 5e-3, 5e-3)

    def of(self, *, meta: bool, conv: bool) -> tuple[float, float | None, float | None]:
        """Three rates as of `meta`, None where a network has no such part."""
        if meta:
            return self.meta_conv if conv else self.meta
        return self.conv if conv else self.plain, None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySpec:
    """All that tells one family of networks from another, as data.

    Steps are `norm`, `slope`, `dropout` (of a map's channels), or an activation; those before what
    the basis sees, those after the sum over the edges.

    basis    : kind of the basis functions, a key of `kancompress.layers.families.BASES`
    size     : functions of an edge beside intervals or centres (`grid`) and `degree`
    grid     : default (low, high, intervals or centres), None where there is none
    fewest   : intervals or centres
    degree   : default, None where there is none
    base     : activation of the base branch
    between  : steps behind all layers but the last
    conv     : steps after the sums of convolutions, where they are others than `after`
    act      : activation of each basis function, of polynomials
    learns   : whether the basis has learnt recurrence weights, degree + 1 of them
    biased   : whether new layers have a bias
    start    : how new coefficients are drawn
    rates    : with which its networks are trained
    """

    basis: str
    size: int = 0
    grid: tuple[float, float, int] | None = None
    fewest: int = 1
    degree: int | None = None
    before: tuple[str, ...] = ()
    base: str = "silu"
    after: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    conv: tuple[str, ...] | None = None
    act: str = "identity"
    learns: bool = False
    biased: bool = False
    start: Start = Start.NONE
    rates: Rates = field(default_factory=Rates)

    def steps_after(self, *, conv: bool) -> tuple[str, ...]:
        """Steps after the sum of every layer."""
        return self.conv if conv and self.conv is not None else self.after


# Defaults are those of Tables 4 to 7 of the MetaCluster paper.
FAMILIES: dict[Family, FamilySpec] = {
    Family.KAN: FamilySpec(
        basis="bspline",
        grid=(-1.0, 1.0, 5),
        degree=3,
        conv=("norm", "slope", "dropout"),
        start=Start.SMALL,
        rates=Rates(plain=1e-4, meta=(5e-4, 5e-3, None), meta_conv=(1e-4, 5e-3, 1e-3)),
    ),
    Family.FASTKAN: FamilySpec(
        basis="gaussian",
        grid=(-2.0, 2.0, 8),
        fewest=2,
        before=("dropout", "norm"),
        start=Start.CLIPPED,
        rates=Rates(meta=(1e-3, 1e-2, None)),
    ),
    Family.GRAMKAN: FamilySpec(
        basis="gram",
        size=1,
        degree=3,
        before=("tanh", "dropout"),
        after=("norm", "silu"),
        act="silu",
        learns=True,
        start=Start.XAVIER,
    ),
    Family.MLP: FamilySpec(basis="linear", base="identity", between=("relu",), biased=True),
}


class ModelName(StrEnum):
    """What `train --model` takes: a family, plain or with coefficients from a meta-learner, fully
    connected or convolutional."""

    KAN = "kan"
    FASTKAN = "fastkan"
    GRAMKAN = "gramkan"
    METAKAN = "metakan"
    METAFASTKAN = "metafastkan"
    METAGRAMKAN = "metagramkan"
    KANCONV = "kanconv"
    FASTKANCONV = "fastkanconv"
    GRAMKANCONV = "gramkanconv"
    METAKANCONV = "metakanconv"
    METAFASTKANCONV = "metafastkanconv"
    METAGRAMKANCONV = "metagramkanconv"
    MLP = "mlp"

    @property
    def family(self) -> Family:
        """What an edge is, whether a meta-learner makes it or not."""
        return Family(self.value.removeprefix("meta").removesuffix(CONV))

    @property
    def is_meta(self) -> bool:
        """Whether a meta-learner generates the coefficients."""
        return self.value.startswith("meta")

    @property
    def is_conv(self) -> bool:
        """Whether the layers are convolutions."""
        return self.value.endswith(CONV)


class DatasetName(StrEnum):
    """Named data sets; `digits` comes with scikit-learn, the others through torchvision."""

    DIGITS = "digits"
    MNIST = "mnist"
    FASHION_MNIST = "fashion-mnist"
    CIFAR10 = "cifar10"
    CIFAR100 = "cifar100"


class SpecError(ValueError):
    """A record's JSON form that breaks a rule: `key` is what is wrong, the text says how."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _fail(key: str, value: object, expected: str) -> NoReturn:
    raise SpecError(key, f"{key} is {value!r}; {expected} was expected")


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _fail(key, value, "a number")
    if isinstance(value, int) and abs(value) > 1 << 53:  # which float64 would round
        _fail(key, value, "a number up to 2^53, or one with a fraction or exponent")
    return float(value)


def _count(key: str, value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        _fail(key, value, f"a whole number from {low} to {high}")
    return value


def _only(record: object, name: str, known: set[str], required: set[str]) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        _fail(name, record, "an object")
    for key in record.keys() - known:
        raise SpecError(f"{name}.{key}", f"{name}.{key} is a key that this record does not have")
    for key in required - record.keys():
        raise SpecError(f"{name}.{key}", f"{name}.{key} is missing")
    return record


def _grid_rule(fewest: int) -> Rule:
    """A grid of at least so many intervals or centres."""
    expected = f"(low, high, size) with low < high and a size from {fewest} to {_MOST_INTERVALS}"

    def rule(value: Any) -> Any:
        each(lambda one: one, expected, length=3)(value)
        low, high = each(number(-math.inf), expected)(value[:2])
        try:
            size = whole(fewest, _MOST_INTERVALS)(value[2])
        except ValueError:
            raise ValueError(expected) from None
        if not low < high:
            raise ValueError(expected)
        same = type(value) is tuple and (low, high, size) == value
        return value if same else (low, high, size)

    return rule


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class BasisSpec:
    """A family's basis.

    grid   : (low, high, size): intervals of the B-splines, or centres of the Gaussians; None for
             the Gram polynomials and the MLP
    degree : degree of the B-splines or polynomials; None for the Gaussians and the MLP
    """

    family: Family
    grid: tuple[float, float, int] | None
    degree: int | None

    def __post_init__(self) -> None:
        settle(self, family=word(Family))
        known = FAMILIES[self.family]
        none = nothing(f"None, as {self.family} has none,")
        settle(
            self,
            grid=none if known.grid is None else _grid_rule(known.fewest),
            degree=none if known.degree is None else whole(0, _MOST_DEGREE),
        )

    @property
    def size(self) -> int:
        """Number of basis functions of an edge, the base branch not counted."""
        intervals = 0 if self.grid is None else self.grid[2]
        return FAMILIES[self.family].size + intervals + (self.degree or 0)

    @property
    def coefficients(self) -> int:
        """|w| of the paper: basis coefficients and the base weight; 1 for an MLP."""
        return self.size + 1


def _dropped(value: Any) -> Any:
    """A share of what is dropped in training."""
    found = number(0.0, 1.0)(value)
    if found == 1:
        raise ValueError("a share from 0 to below 1")
    return found


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class ConvSpec:
    """What a network of convolutions has beside its basis; kernels are in the layers' shapes.

    strides : of each layer, rows and columns alike
    padding : zeros around the map of every basis function, on each side
    dropout : shares of channels, in all layers but the first, and of the features before the head
              that are dropped in training
    """

    strides: tuple[int, ...]
    padding: int = 1
    dropout: tuple[float, float] = (0.25, 0.5)

    def __post_init__(self) -> None:
        strides = "a tuple of whole numbers from 1 to 1024, one for each layer,"
        settle(
            self,
            strides=each(whole(1, _MOST_STRIDE), strides),
            padding=whole(0, _MOST_PADDING),
            dropout=each(_dropped, "a pair of shares from 0 to below 1", length=2),
        )


# Of torch-conv-kan's four-layer network (mnist_conv.py, cifar.py), which the paper takes.
_STRIDES = (1, 2, 2, 1)


def default_conv(layers: int) -> ConvSpec:
    """Strides 1, 2, 2, 1 and then 1, padding 1, dropout 0.25 and 0.5."""
    return ConvSpec(strides=(_STRIDES + (1,) * layers)[:layers])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a network computes, but for the shapes of its layers; conv is None where it is fully
    connected."""

    basis: BasisSpec
    conv: ConvSpec | None = None

    def to_json(self) -> dict[str, Any]:
        """The document's `model`."""
        record: dict[str, Any] = {"name": self.basis.family.value}
        if self.basis.grid is not None:
            record["grid"] = list(self.basis.grid)
        if self.basis.degree is not None:
            record["degree"] = self.basis.degree
        if self.conv is not None:
            record["name"] += CONV
            record["strides"] = list(self.conv.strides)
            record["padding"] = self.conv.padding
            record["dropout"] = list(self.conv.dropout)
        return record

    @classmethod
    def from_json(cls, record: object) -> ModelSpec:
        """Read the document's `model`. Raises SpecError."""
        known = [name.value for name in ModelName if not name.is_meta]
        if not isinstance(record, dict) or record.get("name") not in known:
            name = record.get("name") if isinstance(record, dict) else record
            _fail("model.name", name, f"one of {', '.join(known)}")
        name = ModelName(record["name"])
        family = FAMILIES[name.family]
        defaults = {"grid": family.grid, "degree": family.degree}
        keys = {"name"} | {key for key, value in defaults.items() if value is not None}
        keys |= {"strides", "padding", "dropout"} if name.is_conv else set()
        record = _only(record, "model", keys, keys)
        grid = degree = None
        if "grid" in keys:
            grid = _grid(record["grid"], family.fewest)
        if "degree" in keys:
            degree = _count("model.degree", record["degree"], 0, _MOST_DEGREE)
        basis = BasisSpec(family=name.family, grid=grid, degree=degree)
        return cls(basis=basis, conv=_conv(record) if name.is_conv else None)


def _conv(record: Mapping[str, Any]) -> ConvSpec:
    strides, dropout = record["strides"], record["dropout"]
    if not isinstance(strides, list) or not strides:
        _fail("model.strides", strides, "a list of whole numbers, one for each layer")
    if not isinstance(dropout, list) or len(dropout) != 2:
        _fail("model.dropout", dropout, "two shares")
    shares = [_number("model.dropout", share) for share in dropout]
    if not all(0 <= share < 1 for share in shares):
        _fail("model.dropout", dropout, "two shares from 0 to below 1")
    return ConvSpec(
        strides=tuple(_count("model.strides", stride, 1, _MOST_STRIDE) for stride in strides),
        padding=_count("model.padding", record["padding"], 0, _MOST_PADDING),
        dropout=(shares[0], shares[1]),
    )


def _grid(value: object, fewest: int) -> tuple[float, float, int]:
    if not isinstance(value, list) or len(value) != 3:
        _fail("model.grid", value, "[low, high, size]")
    low, high = _number("model.grid", value[0]), _number("model.grid", value[1])
    if not low < high:
        _fail("model.grid", value, "low < high")
    return low, high, _count("model.grid", value[2], fewest, _MOST_INTERVALS)


_CONV_GRID = (-3.0, 3.0)


def default_basis(family: Family, *, conv: bool = False) -> BasisSpec:
    """The basis of Tables 4 and 5 of the MetaCluster paper, of Tables 6 and 7 for convolutions."""
    known = FAMILIES[family]
    basis = BasisSpec(family=family, grid=known.grid, degree=known.degree)
    if not conv or basis.grid is None:
        return basis
    return replace(basis, grid=(*_CONV_GRID, basis.grid[2]))


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class MetaSpec:
    """The meta-learner of eq. 6: embedding -> hidden, ReLU -> |w|."""

    embedding: int = 1
    hidden: int = 32

    def __post_init__(self) -> None:
        settle(self, embedding=whole(1), hidden=whole(1))


def default_meta(*, conv: bool = False) -> MetaSpec:
    """Embedding size 1, and 2 for convolutions (Tables 5 and 7 of the paper).

    Table 7 says 1 for the Gram basis. The paper's file sizes need 2 there as well: 387,936
    embeddings of two float32 are 3,103,488 of MetaGramKANConv's 3,125,688 bytes on CIFAR-10.
    """
    return MetaSpec(embedding=2 if conv else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """A data set as a checkpoint remembers it: enough to prepare the same rows again, no path.

    classes is None for regression, targets is None for classification. `mean` and `std` hold one
    number for each colour channel and are empty where inputs are used as they are. `test` is the
    share of rows that tests where the user's file has no test rows of its own.
    """

    name: str
    classes: int | None = None
    targets: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    seed: int = 0
    validation: float = 0.1
    test: float | None = None

    @property
    def outputs(self) -> int:
        """Width of the network's last layer."""
        return self.classes or self.targets or 0

    @property
    def is_regression(self) -> bool:
        """Whether targets are real numbers."""
        return self.targets is not None

    def with_seed(self, seed: int) -> DataSpec:
        """The same data divided by another seed."""
        return replace(self, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """The document's `data`; keys that say nothing are left out."""
        record: dict[str, Any] = {"name": self.name, "seed": self.seed}
        for key in ("classes", "targets", "test"):
            if getattr(self, key) is not None:
                record[key] = getattr(self, key)
        if self.mean:
            record |= {"mean": list(self.mean), "std": list(self.std)}
        if self.validation != 0.1:
            record["validation"] = self.validation
        return record

    @classmethod
    def from_json(cls, record: object) -> DataSpec:
        """Read the document's `data`. Raises SpecError."""
        known = {"name", "seed", "classes", "targets", "mean", "std", "validation", "test"}
        record = _only(record, "data", known, {"name", "seed"})
        name = record["name"]
        if not isinstance(name, str) or not name.isprintable() or not name:
            _fail("data.name", record["name"], "a printable name")
        fields: dict[str, Any] = {"name": record["name"]}
        fields["seed"] = _count("data.seed", record["seed"], 0, 2**63 - 1)
        for key in ("classes", "targets"):
            if key in record:
                fields[key] = _count(f"data.{key}", record[key], 1, 10**9)
        for key in ("mean", "std"):
            if key in record:
                fields[key] = _numbers(f"data.{key}", record[key])
        for key in ("validation", "test"):
            if key in record:
                share = _number(f"data.{key}", record[key])
                if not 0 < share < 1:
                    _fail(f"data.{key}", share, "a share between 0 and 1")
                if key == "validation" and share == 0.1:
                    _fail(f"data.{key}", share, "another share than 0.1, which is left out")
                fields[key] = share
        return cls(**fields)


def _numbers(key: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        _fail(key, value, "a list of numbers")
    return tuple(_number(key, number) for number in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSizes:
    """Bytes of what a packed file was made from; `dense` is the dense twin of a meta source.

    >>> import kancompress
    >>> kancompress.load("packed.safetensors").source
    SourceSizes(tensors=11684, file=12564, dense=(86016, 86600))
    """

    tensors: int
    file: int
    dense: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The document's `source`."""
        record: dict[str, Any] = {"tensors": self.tensors, "file": self.file}
        if self.dense is not None:
            record["dense"] = list(self.dense)
        return record

    @classmethod
    def from_json(cls, record: object) -> SourceSizes:
        """Read the document's `source`. Raises SpecError."""
        keys = {"tensors", "file"}
        record = _only(record, "source", keys | {"dense"}, keys)
        sizes = {key: _count(f"source.{key}", record[key], 0, 2**63 - 1) for key in sorted(keys)}
        dense = None
        if "dense" in record:
            pair = record["dense"]
            if not isinstance(pair, list) or len(pair) != 2:
                _fail("source.dense", pair, "[tensors, file]")
            dense = tuple(_count("source.dense", size, 0, 2**63 - 1) for size in pair)
        return cls(dense=dense, **sizes)  # type: ignore[arg-type]


@named
@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Where data comes from: a named set below `directory`, or the arrays of `file`.

    name       : None is the set that a checkpoint names, digits where there is none to name it
    download   : let torchvision fetch what is missing
    test_split : share of the rows of `file` that tests, when it has no x_test and y_test
    shape      : of a row, such as (channels, height, width), to which images are resized; () leaves
                 the rows of `file` as they are there, None makes them flat
    images     : rows (channels, height, width) as convolutions take them: named sets in their own
                 size, pixels from -1 to 1 (digits: 0 to 1), the rows of `file` as they are there

    >>> import kancompress
    >>> kancompress.DataOptions(file="rows.npz").file
    PosixPath('rows.npz')
    """

    name: str | None = None
    file: Path | None = None
    directory: Path = Path("data")
    download: bool = False
    test_split: float | None = None
    shape: tuple[int, ...] | None = None
    images: bool = False

    def __post_init__(self) -> None:
        settle(
            self,
            name=maybe(text),
            file=maybe(path),
            directory=path,
            download=flag,
            test_split=maybe(number(0.0, 1.0)),
            shape=maybe(each(whole(1), "a tuple of whole numbers from 1 on")),
            images=flag,
        )

    def check(self) -> None:
        """Refuse options that contradict each other. Raises UsageError."""
        if self.test_split is not None and self.file is None and self.name is not None:
            raise UsageError(
                f"{self.name} has test rows of its own; `test_split` is for `file=FILE`.",
                fields=("test_split", "file"),
            )
