"""Native checkpoints: networks with their coefficients written out, or with a meta-learner.

A safetensors file with a document of kind `dense` or `meta`. Tensors, for layers `0`, `1`, ...:

    <layer>.coefficients   (out, in, coefficients)   dense
    <layer>.embedding      (out, in, embedding)      meta
    meta.hidden.weight, meta.hidden.bias, meta.output.weight, meta.output.bias
    <layer>.norm (2, features)   <layer>.beta (degree + 1,)   <layer>.bias (out,), optional

In convolutions an edge is (out, in, row, column), `norm` is (4, features), the B-spline kind has
<layer>.slope (1,), and behind the layers come head.weight (outputs, channels) and head.bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import document as documents
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import REAL, Array, Outline
from kancompress.formats.safetensors import Container, shown
from kancompress.frozen import dataclass
from kancompress.specs import FAMILIES, BasisSpec, ConvSpec, DataSpec, ModelSpec

Kind = Literal["dense", "meta"]
Shape = tuple[int, ...]
# Tensors of the dense linear layer behind convolutions.
HEAD = ("head.weight", "head.bias")


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CheckpointRecord(Generic[T_co]):
    """A trained network: `shapes` holds (out, in), or (out, in, rows, columns), of each layer,
    `tensors` is named as above, `conv` is None where the layers are fully connected."""

    kind: Kind
    basis: BasisSpec
    shapes: tuple[Shape, ...]
    data: DataSpec | None
    tensors: Mapping[str, T_co]
    conv: ConvSpec | None = None

    @property
    def model(self) -> ModelSpec:
        """What the network computes."""
        return ModelSpec(basis=self.basis, conv=self.conv)

    @property
    def beside(self) -> dict[str, T_co]:
        """Tensors that belong to no layer: the head behind convolutions."""
        return {name: self.tensors[name] for name in HEAD if name in self.tensors}

    def document(self) -> dict[str, Any]:
        """The file's document."""
        return _document(self.kind, self.model, self.shapes, self.data)


def pieces(record: CheckpointRecord[Array]) -> list[bytes | memoryview]:
    """The whole file of a checkpoint, its tensors where they lie."""
    return containers.pieces(record.tensors, documents.metadata(record.document()))


def encode(record: CheckpointRecord[Array]) -> bytes:
    """The whole file of a checkpoint."""
    return b"".join(pieces(record))


def _document(
    kind: Kind, model: ModelSpec, shapes: tuple[Shape, ...], data: DataSpec | None
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "version": documents.VERSION,
        "kind": kind,
        "model": model.to_json(),
        "layers": {str(number): {"shape": list(shape)} for number, shape in enumerate(shapes)},
    }
    if data is not None:
        record["data"] = data.to_json()
    return record


def side_shapes(basis: BasisSpec, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Role and shape of a layer's tensors beside its coefficients; the bias is optional.

    shape : (out, in), or (out, in, rows, columns) of a convolution
    """
    out, inputs, conv = shape[0], shape[1], len(shape) == 4
    family = FAMILIES[basis.family]
    after = family.steps_after(conv=conv)
    sides: dict[str, tuple[int, ...]] = {"bias": (out,)}
    if "slope" in after:
        sides["slope"] = (1,)
    if "norm" in (*family.before, *after):
        sides["norm"] = (4 if conv else 2, inputs if "norm" in family.before else out)
    if family.learns:
        assert basis.degree is not None
        sides["beta"] = (basis.degree + 1,)
    return sides


def dense_twin_sizes(
    record: CheckpointRecord[Any], outline: Mapping[str, Outline]
) -> tuple[int, int]:
    """Bytes of the tensors and of the file that hold the same network with dense coefficients.

    outline : of the record's tensors
    """
    tensors: dict[str, Outline] = {}
    for number, shape in enumerate(record.shapes):
        tensors[f"{number}.coefficients"] = Outline("F32", (*shape, record.basis.coefficients))
        for role in side_shapes(record.basis, shape):
            name = f"{number}.{role}"
            if name in outline:
                tensors[name] = outline[name]
    tensors |= {name: outline[name] for name in HEAD if name in outline}
    document = _document("dense", record.model, record.shapes, record.data)
    header = containers.encode_header(tensors, documents.metadata(document))
    payload = sum(tensor.nbytes for tensor in tensors.values())
    return payload, len(header) + payload


# --- reading -------------------------------------------------------------------------------


def decode(
    container: Container, document: Mapping[str, Any], *, stored: bool = False
) -> CheckpointRecord[Array]:
    """Check and read a file of kind `dense` or `meta`. Raises InvalidFileError.

    stored : read tensors only when they are asked for
    """
    where = container.where
    documents.check_keys(
        document, {"version", "kind", "model", "layers"}, {"data"}, where, "the document"
    )
    model = documents.spec(ModelSpec.from_json, document["model"], where)
    basis = model.basis
    data = documents.data(document, where)
    shapes = chain_shapes(document["layers"], model, where)
    for name, record in document["layers"].items():
        documents.check_keys(record, {"shape"}, set(), where, f"layer {shown(name)}")
    kind: Kind = document["kind"]
    expected = _expected(container, kind, basis, shapes)
    if model.conv is not None:
        expected |= head_shapes(container, shapes)
    check_outputs(data, width_of(shapes, expected), where)
    _check_names(container, expected, where)
    tensors = container.stored() if stored else container.arrays()
    for name, array in tensors.items():
        check_finite(array, name, where)
        check_variance(array, name, where)
    return CheckpointRecord(
        kind=kind, basis=basis, shapes=shapes, data=data, tensors=tensors, conv=model.conv
    )


def head_shapes(container: Container, shapes: tuple[Shape, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors behind convolutions. Raises InvalidFileError where there are none."""
    entry = container.entries.get(HEAD[0])
    if entry is None:
        raise InvalidFileError(
            Flaw.MISSING_TENSOR, f"{container.where}: tensor {HEAD[0]!r} is missing."
        )
    outputs = entry.shape[0] if entry.shape else 0
    if not outputs:
        raise InvalidFileError(
            Flaw.WRONG_SHAPE,
            f"{container.where}: tensor {HEAD[0]!r} has the shape {shown(list(entry.shape))};"
            f" [outputs, {shapes[-1][0]}] was expected.",
        )
    return dict(zip(HEAD, [(outputs, shapes[-1][0]), (outputs,)], strict=True))


def width_of(shapes: tuple[Shape, ...], beside: Mapping[str, tuple[int, ...]]) -> int:
    """Outputs of a network: of its head, where it has one, else of its last layer."""
    return beside[HEAD[0]][0] if HEAD[0] in beside else shapes[-1][0]


def chain_shapes(layers: object, model: ModelSpec, where: str) -> tuple[Shape, ...]:
    """Shapes of native layers `0`, `1`, ..., each feeding the next. Raises InvalidFileError."""
    rank, form = (2, "[out, in]") if model.conv is None else (4, "[out, in, rows, columns]")
    if not isinstance(layers, dict) or not layers:
        raise InvalidFileError(Flaw.BAD_VALUE, f"{where}: layers should be a non-empty object.")
    shapes: list[Shape] = []
    for number in range(len(layers)):
        if str(number) not in layers:
            raise InvalidFileError(
                Flaw.UNKNOWN_LAYER,
                f"{where}: there is no layer '{number}' among {shown(sorted(layers))}.",
            )
        record = layers[str(number)]
        if not isinstance(record, dict):
            raise InvalidFileError(
                Flaw.BAD_VALUE, f"{where}: layer '{number}' should be an object."
            )
        shape = record.get("shape")
        if (
            not isinstance(shape, list)
            or len(shape) != rank
            or not all(type(size) is int and 0 < size < 1 << 31 for size in shape)
        ):
            raise InvalidFileError(
                Flaw.BAD_VALUE,
                f"{where}: layer '{number}' has the shape {shown(shape)}, not {form}.",
            )
        if shapes and shapes[-1][0] != shape[1]:
            raise InvalidFileError(
                Flaw.BAD_VALUE,
                f"{where}: layer '{number}' takes {shape[1]} inputs, but layer '{number - 1}' has"
                f" {shapes[-1][0]} outputs.",
            )
        shapes.append(tuple(shape))
    if model.conv is not None and len(model.conv.strides) != len(shapes):
        raise InvalidFileError(
            Flaw.BAD_VALUE,
            f"{where}: model.strides has {len(model.conv.strides)} numbers for {len(shapes)}"
            " layers.",
        )
    return tuple(shapes)


def check_outputs(data: DataSpec | None, width: int, where: str) -> None:
    """Refuse a last layer whose `width` is not what `data` says."""
    if data is not None and data.outputs not in (0, width):
        raise InvalidFileError(
            Flaw.BAD_VALUE,
            f"{where}: the last layer has {width} outputs, data names {data.outputs}.",
        )


def _expected(
    container: Container, kind: Kind, basis: BasisSpec, shapes: tuple[Shape, ...]
) -> dict[str, tuple[int, ...]]:
    expected: dict[str, tuple[int, ...]] = {}
    size = 1
    if kind == "meta":
        hidden, size = _meta_sizes(container)
        expected |= {
            "meta.hidden.weight": (hidden, size),
            "meta.hidden.bias": (hidden,),
            "meta.output.weight": (basis.coefficients, hidden),
            "meta.output.bias": (basis.coefficients,),
        }
    for number, shape in enumerate(shapes):
        role, last = ("embedding", size) if kind == "meta" else ("coefficients", basis.coefficients)
        expected[f"{number}.{role}"] = (*shape, last)
        for side, side_shape in side_shapes(basis, shape).items():
            if side != "bias" or f"{number}.bias" in container.entries:
                expected[f"{number}.{side}"] = side_shape
    return expected


def _meta_sizes(container: Container) -> tuple[int, int]:
    entry = container.entries.get("meta.hidden.weight")
    if entry is None:
        raise InvalidFileError(
            Flaw.MISSING_TENSOR, f"{container.where}: tensor 'meta.hidden.weight' is missing."
        )
    if len(entry.shape) != 2 or 0 in entry.shape:
        raise InvalidFileError(
            Flaw.WRONG_SHAPE,
            f"{container.where}: tensor 'meta.hidden.weight' has the shape"
            f" {shown(list(entry.shape))}; [hidden, embedding] was expected.",
        )
    return entry.shape[0], entry.shape[1]


def _check_names(container: Container, expected: dict[str, tuple[int, ...]], where: str) -> None:
    for name, shape in expected.items():
        entry = container.entries.get(name)
        if entry is None:
            raise InvalidFileError(
                Flaw.MISSING_TENSOR, f"{where}: tensor {shown(name)} is missing."
            )
        check_floats(container, name)
        if entry.shape != shape:
            raise InvalidFileError(
                Flaw.WRONG_SHAPE,
                f"{where}: tensor {shown(name)} has the shape {shown(list(entry.shape))};"
                f" {list(shape)} was expected.",
            )
    for name in container.entries:
        if name not in expected:
            raise InvalidFileError(
                Flaw.UNEXPLAINED_TENSOR, f"{where}: tensor {shown(name)} belongs to no layer."
            )


def check_floats(container: Container, name: str) -> None:
    """Refuse a tensor that does not hold floating point numbers."""
    dtype = container.entries[name].dtype
    if dtype not in REAL:
        raise InvalidFileError(
            Flaw.WRONG_DTYPE,
            f"{container.where}: tensor {shown(name)} has the dtype {dtype};"
            f" one of {', '.join(REAL)} was expected.",
        )


def check_finite(array: Array, name: str, where: str) -> None:
    """Refuse NaN and infinity, saying how many there are."""
    if not array.is_finite():
        raise InvalidFileError(
            Flaw.NOT_FINITE,
            f"{where}: tensor {shown(name)} holds {array.count_bad()} numbers that are NaN or"
            " infinite; finite numbers were expected. The training run may have diverged.",
        )


def check_variance(array: Array, name: str, where: str) -> None:
    """Refuse running statistics `<layer>.norm` (4, features) with a negative variance."""
    if name.endswith(".norm") and array.shape[0] == 4 and bool((array.values()[3] < 0).any()):
        raise InvalidFileError(
            Flaw.BAD_VALUE,
            f"{where}: tensor {shown(name)} holds a negative running variance in its last row;"
            " 0 or more was expected. Copy the file again from its source.",
        )
