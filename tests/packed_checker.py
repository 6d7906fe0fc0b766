"""Says which rule of docs/packed-format.md a packed file breaks, read from that page alone.

It shares no code with kancompress, and calls nothing that a file names: the fuzzers hold the
package's readers against it. `checker(raw)` gives None for a file that follows the page, else a
sentence that begins with the rule's number. What it cannot judge begins with "unknown:".

Where the page leaves something open, a comment says `Guess:` and which reading is taken.
"""

import base64
import hashlib
import json
import math
import re
import struct
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

import opaque_checker
import rans_reader
import short_reader
from opaque_checker import Fault, fail, need

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}
OF_INDICES = ("bits", "rans")
OF_NUMBERS = ("plain", "int8")
FLOATS = ("F64", "F32", "F16", "BF16")
WHOLE = {"I64": 2**63, "I32": 2**31}
ROLES = ("codebook", "index", "kept_at", "kept", "coefficients", "bias", "norm", "beta", "slope")
DOCUMENT_KEYS = frozenset((
    "version", "kind", "checksum", "layers", "encodings", "exceptions", "source", "model",
    "data", "restore", "forms"
))  # fmt: skip
CHUNK = 1 << 14


class Tensor(NamedTuple):
    """A tensor of the file; of one in `int8` the type and shape of its numbers, and its rows."""

    dtype: str
    shape: list[int]
    begin: int
    end: int
    rows: int = 0
    turned: bool = False


class Layer:
    """What the file's header says of one layer."""

    def __init__(self, name: str, shape: list[int], groups: int, parts: int) -> None:
        self.name, self.shape, self.groups, self.parts = name, shape, groups, parts
        self.edges = math.prod(shape)
        self.d = 0
        self.k = 0
        self.kept = 0
        self.dtype = ""
        self.tables: list[Tensor] = []


def checker(raw: bytes) -> str | None:
    """None where the file follows the page, else the rule that it breaks and how."""
    try:
        File(raw).check()
    except Fault as fault:
        return str(fault)
    except Exception as error:
        return f"unknown: the checker itself failed: {type(error).__name__}: {str(error)[:200]}"
    return None


def kind(raw: bytes) -> str | None:
    """The document's kind, or None where it cannot be read."""
    try:
        found = File(raw).document.get("kind")
    except (Fault, RecursionError):
        return None
    return found if isinstance(found, str) else None


# Section 1: JSON


def header_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    need(len(found) == len(pairs), "1.3", "the header holds a name twice")
    return found


def header_number(text: str) -> int:
    # Guess: `-0` is not written as a non-negative integer.
    need(len(text) < 20 and text[0] != "-", "1.3", "a number of the header is out of range")
    number = int(text)
    need(number < 2**63, "1.3", "a number of the header is not below 2^63")
    return number


def header_fraction(_: str) -> float:
    fail("1.3", "a number of the header is not an integer")


def no_constant(_: str) -> float:
    raise ValueError("NaN and Infinity are no JSON")


def document_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    need(len(found) == len(pairs), "1.3", "the document holds a name twice")
    keys = list(found)
    # Guess: sorted by code points.
    need(keys == sorted(keys), "1.4", "keys of the document are not sorted")
    return found


def document_number(text: str) -> int:
    need(len(text) <= 100, "1.3", "a number of the document has more than 100 characters")
    return int(text)


def document_fraction(text: str) -> float:
    need(len(text) <= 100, "1.3", "a number of the document has more than 100 characters")
    return float(text)


HEADER = json.JSONDecoder(
    object_pairs_hook=header_object,
    parse_int=header_number,
    parse_float=header_fraction,
    parse_constant=no_constant,
)
DOCUMENT = json.JSONDecoder(
    object_pairs_hook=document_object,
    parse_int=document_number,
    parse_float=document_fraction,
    parse_constant=no_constant,
)
STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(decoder: json.JSONDecoder, text: str, rule: str, what: str) -> Any:
    try:
        found = decoder.decode(text)
    except ValueError:
        fail(rule, f"the {what} is not JSON")
    except RecursionError:
        fail("1.3", f"the {what} is nested deeper than 128 levels")
    if text.count("[") + text.count("{") > 128:
        depth = 0
        for bracket in re.findall(r"[\[\]{}]", STRING.sub("", text)):
            depth += 1 if bracket in "[{" else -1
            need(depth <= 128, "1.3", f"the {what} is nested deeper than 128 levels")
    if SURROGATE.search(text):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            fail("1.3", f"the {what} has a lone surrogate")
    return found


# Numbers


def is_whole(value: Any) -> bool:
    # Guess: a whole number is written without fraction or exponent wherever one is asked for.
    return type(value) is int


def is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def is_finite(value: Any) -> bool:
    if type(value) is int and abs(value) > 2**53:  # 1.4: a real number is written otherwise
        return False
    return is_number(value) and math.isfinite(as_float(value))


def product(lengths: list[int], limit: int) -> int:
    """Their product, or some number above `limit` as soon as it is known to be above."""
    if 0 in lengths:
        return 0
    total = 1
    for length in lengths:
        total *= length
        if total > limit:
            break
    return total


def rounded(dtype: str, value: float) -> float:
    """The nearest number of that type, ties to even; infinite where it is beyond the type."""
    if dtype == "F64" or not math.isfinite(value):
        return value
    if dtype == "BF16":
        # A BF16 has 8 significant bits, and 2^-133 is its smallest step.
        exponent = max(math.frexp(value)[1] - 8, -133)
        try:
            result = math.ldexp(round(math.ldexp(value, -exponent)), exponent)
        except OverflowError:
            return math.copysign(math.inf, value)
        return result if abs(result) < 2.0**128 else math.copysign(math.inf, value)
    form = "<f" if dtype == "F32" else "<e"
    try:
        return float(struct.unpack(form, struct.pack(form, value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


class File:
    """A packed file: its header on creation, everything else by `check`."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.tensors: dict[str, Tensor] = {}
        self.layers: dict[str, Layer] = {}
        # Names of stored tensors that something explains.
        self.named: set[str] = set()
        self.maxima: dict[int, np.ndarray] = {}
        # The encoding of each index, by the tensor's name.
        self.index_encodings: dict[str, str] = {}
        self.read_container()

    def check(self) -> None:
        document = self.document
        # Files of the kinds dense and meta are not this page's business.
        need(document.get("kind") == "packed", "2", "kind is not packed")
        self.check_layout()
        if short_reader.is_short(document):
            self.expand()
        self.check_document()
        self.read_layers()
        self.read_int8()
        self.check_layers()
        self.check_encodings()
        for layer in self.layers.values():
            self.check_index_size(layer)
        outputs = None
        if "model" in document:
            outputs = self.check_model()
            need("forms" not in document, "2", "a native network has forms")
        else:
            Restore(self).check()
            if "forms" in document:
                check_forms(document["forms"], document["restore"]["tensors"])
        if "data" in document:
            check_data(document["data"], outputs)
        for name in self.tensors:
            explained = name in self.named or self.role_of(name) is not None
            need(explained, "3.9", "nothing explains a tensor")
        self.check_written_out()
        self.check_numbers()
        self.check_checksum()
        if "restore" in document:
            self.check_opaque()

    # Section 1

    def read_container(self) -> None:
        raw = self.raw
        need(len(raw) >= 8, "1.1", "the file has no 8 bytes")
        length = int.from_bytes(raw[:8], "little")
        need(length <= 100_000_000, "1.3", "the header is longer than 100,000,000 bytes")
        need(8 + length <= len(raw), "1.1", "the header is longer than the file")
        self.start = 8 + length
        try:
            text = raw[8 : self.start].decode("utf-8")
        except UnicodeDecodeError:
            fail("1.1", "the header is not UTF-8")
        need(text.startswith("{"), "1.1", "the header does not begin with {")
        header = parse(HEADER, text, "1.1", "header")
        need(isinstance(header, dict), "1.1", "the header is no object")
        need(text.rstrip(" ").endswith("}"), "1.2", "the header is not padded with spaces")
        need(self.start % 8 == 0, "1.2", "the payload does not start at a multiple of 8")
        metadata = header.pop("__metadata__", None)
        good = isinstance(metadata, dict) and list(metadata) == ["kancompress"]
        need(good, "1.4", "__metadata__ does not hold exactly the key kancompress")
        self.text = metadata["kancompress"]
        need(isinstance(self.text, str), "1.4", "the document is no string")
        self.header = header
        need(self.text.isascii(), "1.4", "the document is not ASCII")
        self.document = parse(DOCUMENT, self.text, "1.4", "document")
        need(isinstance(self.document, dict), "1.4", "the document is no object")
        if re.search(r"[ \t\n\r]", self.text):
            outside = STRING.sub("", self.text)
            need(not re.search(r"\s", outside), "1.4", "the document has white space")

    def check_layout(self) -> None:
        size = len(self.raw) - self.start
        for name, info in self.header.items():
            self.tensors[name] = self.read_tensor(name, info, size)
        place = self.start

        def order(name: str) -> tuple[int, bytes]:
            return -BITS[self.tensors[name].dtype], name.encode("utf-8", "surrogatepass")

        for name in sorted(self.tensors, key=order):
            tensor = self.tensors[name]
            need(tensor.begin == place, "1.2", "tensors are not in their order without holes")
            place = tensor.end
        need(place == len(self.raw), "1.2", "bytes trail behind the tensors")

    # Section 12

    def expand(self) -> None:
        """Put the ordinary document and its tensors in the place of those of a short header."""
        need(self.tensors.keys() == {"packed"}, "12.1", "there are other tensors than packed")
        whole = self.tensors["packed"]
        good = whole.dtype == "U8" and len(whole.shape) == 1
        need(good, "12.1", "packed is no row of bytes")
        self.document, found = short_reader.ordinary(self.document)
        self.tensors = {}
        place = whole.begin

        def order(name: str) -> tuple[int, bytes]:
            return -BITS.get(found[name][0], 0), name.encode("utf-8", "surrogatepass")

        for name in sorted(found, key=order):
            dtype, shape = found[name]
            need(dtype in BITS, "8.2", "a dtype is unknown")
            bits = product(shape, 8 * len(self.raw)) * BITS[dtype]
            need(bits % 8 == 0, "1.1", "a tensor has no whole bytes")
            info = {"dtype": dtype, "shape": shape}
            begin = place - self.start
            info["data_offsets"] = [begin, begin + bits // 8]
            need(place + bits // 8 <= whole.end, "12.6", "tensors need more bytes than packed has")
            self.tensors[name] = self.read_tensor(name, info, len(self.raw) - self.start)
            place += bits // 8
        need(place == whole.end, "12.6", "tensors need fewer bytes than packed has")

    def read_tensor(self, name: str, info: Any, size: int) -> Tensor:
        need(name != "", "1.6", "a tensor has an empty name")
        control = re.search(r"[\x00-\x1f\x7f-\x9f]", name)
        need(not control, "1.6", "the name of a tensor has a control character")
        # Guess: other keys than these three make no valid safetensors file.
        keys = {"dtype", "shape", "data_offsets"}
        need(isinstance(info, dict) and info.keys() == keys, "1.1", "a tensor's keys are wrong")
        dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
        need(isinstance(dtype, str) and dtype in BITS, "1.1", "a tensor's dtype is unknown")
        good = isinstance(shape, list) and all(map(is_whole, shape))
        need(good, "1.1", "a tensor's shape is no list of integers")
        good = isinstance(offsets, list) and len(offsets) == 2 and all(map(is_whole, offsets))
        need(good, "1.1", "data_offsets are not two integers")
        begin, end = offsets
        need(begin <= end <= size, "1.1", "a tensor lies outside the payload")
        bits = product(shape, 8 * size) * BITS[dtype]
        need(bits == 8 * (end - begin), "1.1", "a tensor's bytes are not those of its shape")
        return Tensor(dtype, shape, self.start + begin, self.start + end)

    # Section 2

    def check_document(self) -> None:
        document = self.document
        need(document.keys() <= DOCUMENT_KEYS, "2", "the document has an unknown key")
        for key in ("version", "kind", "checksum", "layers", "encodings", "source"):
            need(key in document, "2", f"the document has no {key}")
        version = document["version"]
        need(is_whole(version) and version == 1, "2", "version is not 1")
        one = ("model" in document) != ("restore" in document)
        need(one, "2", "the document has not exactly one of model and restore")
        for key in ("layers", "encodings", "source"):
            need(isinstance(document[key], dict), "2", f"{key} is no object")
        source = document["source"]
        need(source.keys() <= {"tensors", "file", "dense"}, "6", "source has an unknown key")
        dense = source.get("dense", [0, 0])
        need(isinstance(dense, list) and len(dense) == 2, "6", "source.dense is not two sizes")
        sizes = [source.get("tensors"), source.get("file"), *dense]
        good = all(is_whole(size) and 0 <= size < 2**63 for size in sizes)
        need(good, "6", "a size of source is no size")
        checksum = document["checksum"]
        form = r"sha256-[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
        good = isinstance(checksum, str) and re.fullmatch(form, checksum)
        need(good, "7", "checksum is not sha256- and the base64 of 32 bytes")
        header = self.raw[8 : self.start]
        need(header.count(checksum[7:].encode()) == 1, "7", "checksum is not once in the header")

    # Section 3

    def role_of(self, name: str) -> str | None:
        layer, dot, role = name.rpartition(".")
        return role if dot and role in ROLES and layer in self.layers else None

    def read_layers(self) -> None:
        for name, record in self.document["layers"].items():
            # Guess: letters and digits are those of ASCII.
            need(re.fullmatch(r"[A-Za-z0-9_.]+", name), "3.1", "a layer's name is no such name")
            self.layers[name] = read_layer(name, record)

    def check_layers(self) -> None:
        records = self.document["layers"]
        for name, layer in self.layers.items():
            self.check_form(layer, records[name].get("codebook"))
        for layer in self.layers.values():
            self.check_sides(layer)

    def tensor(self, layer: Layer, role: str) -> Tensor | None:
        return self.tensors.get(f"{layer.name}.{role}")

    def check_form(self, layer: Layer, shared: str | None) -> None:
        """Find the coefficients of a layer: dense, or by its own or another layer's codebook."""
        codebook, dense = self.tensor(layer, "codebook"), self.tensor(layer, "coefficients")
        if shared is not None:
            known = shared in self.layers and shared != layer.name
            need(known, "3.2", "codebook names no other layer")
            need(codebook is None, "3.5", "a layer has its own and another layer's codebook")
            codebook = self.tensors.get(f"{shared}.codebook")
            need(codebook is not None, "3.2", "the layer whose codebook is shared has none")
            need(layer.parts == 1, "3.2", "a layer without a codebook of its own has parts")
            layer.parts = self.layers[shared].parts
        if dense is not None:
            packed = [self.tensor(layer, role) for role in ROLES[:4]]
            need(packed == [None] * 4, "3.3", "a dense layer has roles of a packed one")
            need(shared is None, "3.5", "a dense layer uses a codebook")
            need(layer.parts == 1, "3.2", "a layer without a codebook of its own has parts")
            good = len(dense.shape) == len(layer.shape) + 1 and dense.shape[:-1] == layer.shape
            need(good, "3.3", "coefficients have another shape")
            layer.d, layer.dtype, layer.tables = dense.shape[-1], dense.dtype, [dense]
            return
        need(codebook is not None, "3.5", "a layer has neither coefficients nor a codebook")
        assert codebook is not None
        need(len(codebook.shape) == 2, "3.3", "a codebook's shape is not (k, d)")
        layer.k, layer.d = codebook.shape[0], codebook.shape[1] * layer.parts
        need(1 <= layer.k <= 65_536, "3.3", "k is not from 1 to 65,536")
        layer.dtype, layer.tables = codebook.dtype, [codebook]

    def check_sides(self, layer: Layer) -> None:
        for role in ROLES:
            tensor = self.tensor(layer, role)
            if tensor is None:
                continue
            if role == "index":
                need(tensor.dtype == "U8" and len(tensor.shape) == 1, "3.3", "index is no bytes")
            elif role == "kept_at":
                need(tensor.dtype == "I64", "3.3", "kept_at is not I64")
                need(len(tensor.shape) == 1, "3.3", "kept_at has not one axis")
            else:
                need(tensor.dtype in FLOATS, "3.6", f"{role} has no type of numbers")
        at, kept = self.tensor(layer, "kept_at"), self.tensor(layer, "kept")
        need((at is None) == (kept is None), "3.4", "kept_at and kept are not together")
        if at is not None and kept is not None:
            layer.kept = at.shape[0]
            need(kept.shape == [layer.kept, layer.d], "3.3", "kept is not (r, d)")
            need(layer.kept <= layer.edges, "3.3", "more edges are kept than there are")
            layer.tables.append(kept)
        shapes = {"bias": [[layer.shape[0]]], "slope": [[1]]}
        for role, allowed in shapes.items():
            tensor = self.tensor(layer, role)
            good = tensor is None or tensor.shape in allowed
            need(good, "3.3", f"{role} has another shape")
        norm, beta = self.tensor(layer, "norm"), self.tensor(layer, "beta")
        good = norm is None or (len(norm.shape) == 2 and norm.shape[0] in (2, 4))
        need(good, "3.3", "norm has not 2 or 4 rows")
        need(beta is None or len(beta.shape) == 1, "3.3", "beta has not one axis")

    def check_index_size(self, layer: Layer) -> None:
        index = self.tensor(layer, "index")
        if layer.k <= 1:
            need(index is None, "3.3", "an index is there though k is 1")
            return
        # Guess: the index is there, of no bytes, also where all edges are kept.
        need(index is not None, "3.3", "a layer has no index")
        assert index is not None
        if self.index_encodings[f"{layer.name}.index"] == "rans":
            need(layer.k <= 1024, "4.1.5", "k is above 1,024")
            most = 8192 << 16
            need(layer.edges * layer.parts <= most, "4.1.5", "more edges than lanes may have")
            return
        bits = (layer.edges - layer.kept) * layer.parts * (layer.k - 1).bit_length()
        need(index.shape[0] == -(-bits // 8), "4", "an index has not exactly its bytes")

    # Section 4

    def read_int8(self) -> None:
        """Find the numbers that tensors of bytes stand for; the rules of encodings come later."""
        usual = self.document["encodings"].get("int8")
        exceptions = self.document.get("exceptions")
        for name, tensor in self.tensors.items():
            role = self.role_of(name)
            coded = isinstance(usual, list) and role in usual
            if isinstance(exceptions, dict) and name in exceptions:
                coded = exceptions[name] == "int8"
            if coded and fits("int8", role):
                self.tensors[name] = numbers_of(tensor, role)

    def check_encodings(self) -> None:
        present = {self.role_of(name) for name in self.tensors} - {None}
        usual: dict[str | None, str] = {}
        for encoding, roles in self.document["encodings"].items():
            need(encoding in (*OF_NUMBERS, *OF_INDICES), "4", "an encoding is unknown")
            good = isinstance(roles, list) and all(isinstance(role, str) for role in roles)
            need(good and roles == sorted(set(roles)), "4", "roles are no sorted list")
            for role in roles:
                need(fits(encoding, role), "4", "a role has no such encoding")
                need(role not in usual, "4", "a role has two encodings")
                usual[role] = encoding
        need(usual.keys() == present, "4", "encodings are not those of the roles that are present")
        roles = {name: self.role_of(name) for name in self.tensors}
        encodings = {name: usual[role] for name, role in roles.items() if role is not None}
        if "exceptions" in self.document:
            exceptions = self.document["exceptions"]
            need(isinstance(exceptions, dict) and exceptions, "4", "exceptions are no object")
            for name, encoding in exceptions.items():
                need(name in encodings, "4", "an exception is no tensor of a layer")
                good = isinstance(encoding, str) and fits(encoding, roles[name])
                good = good and encoding != encodings[name]
                need(good, "4", "an exception has no other encoding")
            encodings |= exceptions
        indices = [name for name in encodings if roles[name] == "index"]
        self.index_encodings = {name: encodings[name] for name in indices}

    # Section 5

    def check_model(self) -> int:
        """How many outputs the network has."""
        model = self.document["model"]
        need(isinstance(model, dict), "5.1", "model is no object")
        name = model.get("name")
        need(isinstance(name, str) and name in MODELS, "5.1", "model.name is unknown")
        family, conv = name.removesuffix("conv"), name.endswith("conv")
        keys = {"name", *MODELS[name]} | ({"strides", "padding", "dropout"} if conv else set())
        need(model.keys() == keys, "5.1", "the model's keys are not those of its name")
        d = check_basis(model, family)
        names = [str(number) for number in range(len(self.layers))]
        need(set(names) == self.layers.keys(), "3.1", "native layers are not named 0, 1, ...")
        # Guess: a network has a layer.
        need(names, "5.1", "a native network has no layer")
        before: int | None = None
        for layer in (self.layers[name] for name in names):
            rule = "5.3" if conv else "5.1"
            need(len(layer.shape) == (4 if conv else 2), rule, "a layer's shape is not native")
            need(layer.groups == 1, rule, "a native layer has groups")
            need(before in (None, layer.shape[1]), rule, "layers do not follow one another")
            before = layer.shape[0]
            need(layer.d == d, rule, "edges have another number of coefficients")
            self.check_native_sides(layer, family, conv, model)
        if conv:
            self.check_convolutions(model, before)
            return self.tensors["head.weight"].shape[0]
        assert before is not None
        return before

    def check_native_sides(
        self, layer: Layer, family: str, conv: bool, model: dict[str, Any]
    ) -> None:
        rule, rows = ("5.3", 4) if conv else ("5.1", 2)
        expected: dict[str, list[int]] = {}
        if family == "fastkan":
            expected["norm"] = [rows, layer.shape[1]]
        if family == "gramkan":
            expected["norm"] = [rows, layer.shape[0]]
            expected["beta"] = [model["degree"] + 1]
        if family == "kan" and conv:
            expected["norm"] = [rows, layer.shape[0]]
            expected["slope"] = [1]
        for role in ("norm", "beta", "slope"):
            tensor = self.tensor(layer, role)
            # Guess: a role that the network's formula does not use is refused.
            same = (tensor.shape if tensor is not None else None) == expected.get(role)
            need(same, rule, f"{role} is not the network's")

    def check_convolutions(self, model: dict[str, Any], channels: int | None) -> None:
        strides, padding, dropout = model["strides"], model["padding"], model["dropout"]
        good = isinstance(strides, list) and len(strides) == len(self.layers)
        good = good and all(is_whole(stride) and 1 <= stride <= 1024 for stride in strides)
        need(good, "5.3", "strides are not one from 1 to 1,024 for each layer")
        need(is_whole(padding) and 0 <= padding <= 16, "5.3", "padding is not from 0 to 16")
        good = isinstance(dropout, list) and len(dropout) == 2
        good = good and all(is_number(share) and 0 <= share < 1 for share in dropout)
        need(good, "5.3", "dropout is not two shares")
        weight, bias = self.tensors.get("head.weight"), self.tensors.get("head.bias")
        need(weight is not None and bias is not None, "5.3", "the head is missing")
        assert weight is not None
        assert bias is not None
        good = len(weight.shape) == 2 and weight.shape[1] == channels
        need(good and bias.shape == weight.shape[:1], "5.3", "the head has another shape")
        need(weight.shape[0] > 0, "5.3", "the head has no outputs")
        good = weight.dtype in FLOATS and bias.dtype in FLOATS
        need(good, "5.3", "the head has no type of numbers")
        self.named |= {"head.weight", "head.bias"}

    # Section 8.3: what the layers would take

    def check_written_out(self) -> None:
        least = 4 if "model" in self.document else 0
        total = sum(
            layer.edges * layer.d * max(BITS[layer.dtype] // 8, least)
            for layer in self.layers.values()
        )
        limit = 10_000 * len(self.raw) + 1_000_000_000
        need(total <= limit, "8.3", "the layers written out are too large for the file")
        coded = [
            (layer.edges * layer.parts, self.tensors[f"{layer.name}.index"].shape[0])
            for layer in self.layers.values()
            if self.index_encodings.get(f"{layer.name}.index") == "rans"
        ]
        beyond = sum(edges for edges, _ in coded) - 8 * sum(size for _, size in coded)
        need(beyond <= 1 << 23, "4.1.5", "the indices in rans are too many for their bytes")

    # The payload

    def values(self, tensor: Tensor) -> np.ndarray:
        """The numbers as numpy has them; those of BF16 as their 16 bits."""
        if tensor.rows:
            values = int8_rows(self.raw[tensor.begin : tensor.end], tensor.rows)
            return (values.T if tensor.turned else values).reshape(-1)
        dtype = np.dtype(NUMPY[tensor.dtype])
        if tensor.begin == tensor.end:
            return np.zeros(0, dtype)
        count = (tensor.end - tensor.begin) // dtype.itemsize
        return np.frombuffer(self.raw, dtype, count, tensor.begin)

    def finite(self, tensor: Tensor) -> bool:
        values = self.values(tensor)
        if tensor.dtype == "BF16":
            return not bool(((values & 0x7F80) == 0x7F80).any())
        return bool(np.isfinite(values).all())

    def check_numbers(self) -> None:
        for name, tensor in self.tensors.items():
            role = self.role_of(name)
            if role is not None and role not in ("index", "kept_at"):
                need(self.finite(tensor), "3.6", f"{role} has a number that is not finite")
        for name in ("head.weight", "head.bias"):
            if "model" in self.document and name in self.named:
                need(self.finite(self.tensors[name]), "5.3", "the head has no finite numbers")
        for layer in self.layers.values():
            self.check_kept(layer)
            self.check_index(layer)
            if str(self.document.get("model", {}).get("name", "")).endswith("conv"):
                self.check_variance(layer)

    def check_kept(self, layer: Layer) -> None:
        tensor = self.tensor(layer, "kept_at")
        if tensor is None or not layer.kept:
            return
        at = self.values(tensor)
        ascending = bool((at[1:] > at[:-1]).all())
        need(ascending, "3.3", "kept_at is not strictly ascending")
        good = int(at[0]) >= 0 and int(at[-1]) < layer.edges
        need(good, "3.3", "kept_at has a position that is no edge")

    def check_index(self, layer: Layer) -> None:
        tensor = self.tensor(layer, "index")
        edges = (layer.edges - layer.kept) * layer.parts
        if tensor is None or not edges:
            return
        if self.index_encodings[f"{layer.name}.index"] == "rans":
            self.check_rans(layer, tensor)
            return
        width = (layer.k - 1).bit_length()
        unused = -(edges * width) % 8
        padding = self.raw[tensor.end - 1] >> (8 - unused) if unused else 0
        need(padding == 0, "4", "unused bits of an index are not zero")
        if layer.k == 1 << width:
            return
        weights = (1 << np.arange(width)).astype(np.int64)
        for first in range(0, edges, CHUNK):
            count = min(CHUNK, edges - first)
            begin = tensor.begin + first * width // 8
            end = tensor.begin + -(-(first + count) * width // 8)
            stream = np.frombuffer(self.raw, np.uint8, end - begin, begin)
            bits = np.unpackbits(stream, count=count * width, bitorder="little")
            largest = int((bits.reshape(count, width) @ weights).max())
            need(largest < layer.k, "3.8", "an index is not below k")

    def check_rans(self, layer: Layer, tensor: Tensor) -> None:
        at = self.tensor(layer, "kept_at")
        kept = () if at is None else tuple(map(int, self.values(at)))
        data = bytes(self.raw[tensor.begin : tensor.end])
        shape = [*layer.shape, layer.parts]
        kept = tuple(edge * layer.parts + part for edge in kept for part in range(layer.parts))
        try:
            rans_reader.read(data, layer.k, shape, layer.groups, kept)
        except rans_reader.RansError as error:
            raise Fault(str(error)) from None

    def check_variance(self, layer: Layer) -> None:
        tensor = self.tensor(layer, "norm")
        if tensor is None:
            return
        values = self.values(tensor)
        row = values[3 * tensor.shape[1] :]
        negative = bool((row > 32768).any()) if tensor.dtype == "BF16" else bool((row < 0).any())
        need(not negative, "5.3", "a running variance is negative")

    def columns_of(self, table: Tensor) -> np.ndarray:
        """The largest absolute number of each column; found once, as layers may share a table."""
        found = self.maxima.get(table.begin)
        if found is None:
            values = self.values(table)
            if table.dtype == "BF16":
                values = (values.astype("<u4") << 16).view("<f4")
            rows = np.abs(values.reshape(-1, table.shape[-1]))
            found = self.maxima[table.begin] = rows.max(axis=0).astype("<f8")
        return found

    def largest(self, layer: Layer, first: int, last: int) -> float:
        """The largest absolute coefficient of the columns `first ... last - 1`."""
        tables = [table for table in layer.tables if table.end > table.begin]
        columns = [np.tile(self.columns_of(t), layer.d // t.shape[-1]) for t in tables]
        return max((float(own[first:last].max()) for own in columns), default=0.0)

    # Section 7

    def check_checksum(self) -> None:
        checksum = self.document["checksum"][7:]
        covered = self.raw[: self.start].replace(checksum.encode(), b"A" * 44)
        digest = hashlib.sha256(covered)
        digest.update(memoryview(self.raw)[self.start :])
        same = base64.b64encode(digest.digest()).decode() == checksum
        need(same, "7", "the checksum is another")

    # Section 8.5

    def check_opaque(self) -> None:
        restore = self.document["restore"]
        if "opaque" not in restore:
            return
        tensor = self.tensors[restore["opaque"]]
        blob = memoryview(self.raw)[tensor.begin : tensor.end]
        module = restore["container"] == "torch-module"
        opaque_checker.check(blob, restore["path"], restore["tensors"], module)


def fits(encoding: str, role: Any) -> bool:
    """Whether a role may have an encoding."""
    if encoding in OF_INDICES or role == "index":
        return encoding in OF_INDICES and role == "index"
    return encoding == "plain" or (encoding == "int8" and role in ("codebook", "bias", "norm"))


def numbers_of(tensor: Tensor, role: str | None) -> Tensor:
    """The numbers of a tensor in `int8`, as far as its type and shape tell (4.2.1)."""
    need(tensor.dtype == "U8", "4.2.1", "a tensor in int8 is not U8")
    good = len(tensor.shape) == (1 if role == "bias" else 2) and tensor.shape[-1] > 2
    # Guess: there is a row, and a number in it.
    need(good and tensor.shape[0] > 0, "4.2.1", "a tensor in int8 has another shape")
    need(role != "norm" or tensor.shape[0] == 2, "4.2.1", "a norm in int8 has not two rows")
    *rows, length = tensor.shape
    shape, turned = [*rows, length - 2], role == "codebook"
    count = rows[0] if rows else 1
    return tensor._replace(
        dtype="F32", shape=shape[::-1] if turned else shape, rows=count, turned=turned
    )


def int8_rows(data: bytes, rows: int) -> np.ndarray:
    """Rows of numbers in `int8` (4.2), (rows, numbers) float32."""
    found = []
    length = len(data) // rows
    for first in range(0, len(data), length):
        row = data[first : first + length]
        (bits,), (scale,) = struct.unpack("<H", row[:2]), struct.unpack("<e", row[:2])
        need(bits < 0x7C00, "4.2.2", "a scale is not finite, or negative")
        whole = struct.unpack(f"{length - 2}b", row[2:])
        most = max(map(abs, whole))
        need(most <= 127, "4.2.2", "a whole number is -128")
        # What is below the smallest float16 is none, so nothing reaches less than 0.
        below = struct.unpack("<e", struct.pack("<H", max(bits - 1, 0)))[0] if bits else -1.0
        need(127 * below < most * scale, "4.2.2", "a scale is not the smallest")
        need(most == 0 or scale > 0, "4.2.2", "a scale is 0 and a number is not")
        need(most > 0 or scale == 0, "4.2.2", "a scale is not 0 where all numbers are")
        found.append([scale * number for number in whole])
    return np.array(found, "<f4")


def read_layer(name: str, record: Any) -> Layer:
    need(isinstance(record, dict), "3.2", "a layer record is no object")
    # Guess: the table is complete.
    good = record.keys() <= {"shape", "groups", "codebook", "parts"}
    need(good, "3.2", "a layer record has an unknown key")
    shape = record.get("shape")
    # Guess: a length may be 0.
    good = isinstance(shape, list) and len(shape) in (2, 4, 5)
    good = good and all(is_whole(length) and length >= 0 for length in shape)
    need(good, "3.2", "a layer's shape has not two, four or five lengths")
    need(product(shape, 2**63) < 2**63, "3.2", "a layer has 2^63 edges or more")
    groups = record.get("groups", 1)
    good = "groups" not in record or (is_whole(groups) and groups >= 2)
    need(good, "3.2", "groups is not 2 or more")
    # Guess: 8.4 divides `out` by the groups, so they divide it; a layer of two axes may have them.
    need(shape[0] % groups == 0, "3.2", "groups do not divide the outputs")
    good = "codebook" not in record or isinstance(record["codebook"], str)
    need(good, "3.2", "codebook is no name")
    parts = record.get("parts", 1)
    good = "parts" not in record or (is_whole(parts) and parts >= 2)
    need(good, "3.2", "parts is not 2 or more")
    need(product([*shape, parts], 2**63) < 2**63, "3.2", "a layer has 2^63 parts or more")
    return Layer(name, shape, groups, parts)


# Section 9

ACTIVATIONS = ("silu", "gelu", "relu", "elu", "tanh", "sigmoid", "identity", "zero")
ASSUMABLE = ("base_activation", "grid_range", "rbf_denominator", "spline_order")


PYKAN_FLAGS = ("symbolic_enabled", "affine_trainable", "sp_trainable", "sb_trainable")
PYKAN_KEYS = {"width", "mult_arity", "grid", "k", "grid_eps", "grid_range", "base_fun_name"}


def is_count(value: Any, most: int = 2**31 - 1) -> bool:
    return is_whole(value) and 0 <= value <= most


def is_function(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[!-~]{1,100}", value) is not None


def check_pykan(pykan: Any, shapes: dict[str, list[int]]) -> None:
    """Section 8.7."""
    need(isinstance(pykan, dict), "8.7", "pykan is no object")
    required = PYKAN_KEYS | {*PYKAN_FLAGS}
    need(required <= pykan.keys() <= required | {"symbolic"}, "8.7", "pykan has other keys")
    width, arity, ends = pykan["width"], pykan["mult_arity"], pykan["grid_range"]
    need(isinstance(width, list) and 2 <= len(width) <= 1000, "8.7", "width is no list")
    for one in width:
        good = isinstance(one, list) and len(one) == 2 and all(is_count(n) for n in one)
        need(good, "8.7", "a width is no pair")
    if not is_count(arity):
        good = isinstance(arity, list) and [type(one) for one in arity] == [list] * len(width)
        need(good, "8.7", "mult_arity is no list of lists")
        good = all(len(own) == one[1] for own, one in zip(arity, width, strict=True))
        good = good and sum(len(own) for own in arity) <= 65536
        need(good and all(is_count(n) for own in arity for n in own), "8.7", "arities are wrong")
    splines = []
    for key in ("grid", "k"):
        given = pykan[key]
        all_given = given if isinstance(given, list) else [given] * (len(width) - 1)
        good = len(all_given) == len(width) - 1 and all(is_count(n, 65536) for n in all_given)
        need(good, "8.7", f"{key} is wrong")
        splines.append(all_given)
    need(is_finite(pykan["grid_eps"]), "8.7", "grid_eps is no number")
    good = isinstance(ends, list) and len(ends) == 2 and all(is_finite(end) for end in ends)
    need(good, "8.7", "grid_range is no range")
    need(is_function(pykan["base_fun_name"]), "8.7", "base_fun_name is no name")
    need(all(type(pykan[key]) is bool for key in PYKAN_FLAGS), "8.7", "a flag is none")
    layers = []
    for at in range(len(width) - 1):
        sums, many = width[at + 1]
        inputs = many * arity if is_whole(arity) else sum(arity[at + 1])
        layers.append((sums + inputs, sum(width[at])))
    need(sum(out * max(one, 1) for out, one in layers) <= 2**20, "8.7", "there are too many edges")
    for at, (out, one) in enumerate(layers):
        wanted = [one, out, splines[0][at] + splines[1][at]]
        need(shapes.get(f"act_fun.{at}.coef") == wanted, "8.7", "pykan is of another network")
    need(f"act_fun.{len(layers)}.coef" not in shapes, "8.7", "the network has more layers")
    if "symbolic" in pykan:
        check_symbolic(pykan["symbolic"], layers)


def check_symbolic(symbolic: Any, layers: list[tuple[int, int]]) -> None:
    need(isinstance(symbolic, list) and symbolic != [], "8.7", "symbolic is no list")
    for one in symbolic:
        good = isinstance(one, list) and len(one) == 4 and all(is_count(n) for n in one[:3])
        need(good, "8.7", "a symbolic edge is none")
        inside = one[0] < len(layers) and one[1] < layers[one[0]][0] and one[2] < layers[one[0]][1]
        need(inside, "8.7", "a symbolic edge is outside")
        need(is_function(one[3]) and one[3] != "0", "8.7", "a function is no name")
    places = [one[:3] for one in symbolic]
    need(places == sorted(places), "8.7", "symbolic is not ascending")
    need(all(a != b for a, b in pairwise(places)), "8.7", "an edge is twice")


def check_forms(forms: Any, tensors: list[Any]) -> None:
    need(isinstance(forms, dict) and forms, "9.1", "forms is no object with a record")
    for layer, form in forms.items():
        own = layer == "" or any(f"{entry[0]}.".startswith(f"{layer}.") for entry in tensors)
        need(own, "9.1", "a form is of no layer")
        check_form(form)


def check_form(form: Any) -> None:
    need(isinstance(form, dict), "9.3", "a form is no object")
    keys = {"layout", "symbolic", "assumed", *ASSUMABLE}
    need(form.keys() <= keys, "9.3", "a form has an unknown key")
    layout = form.get("layout")
    good = isinstance(layout, str) and re.fullmatch(r"[!-~]{1,100}", layout)
    need(good, "9.3", "layout is no name of one")
    if "base_activation" in form:
        need(form["base_activation"] in ACTIVATIONS, "9.3", "an activation is unknown")
    if "rbf_denominator" in form:
        width = form["rbf_denominator"]
        need(is_finite(width) and width > 0, "9.3", "rbf_denominator is not above 0")
    if "grid_range" in form:
        ends = form["grid_range"]
        good = isinstance(ends, list) and len(ends) == 2 and all(map(is_finite, ends))
        need(good and ends[0] < ends[1], "9.3", "grid_range does not go from low to high")
    if "spline_order" in form:
        order = form["spline_order"]
        need(is_whole(order) and 0 <= order <= 16, "9.3", "spline_order is not from 0 to 16")
    need(form.get("symbolic", False) is False, "9.3", "symbolic is not false")
    if "assumed" in form:
        assumed = form["assumed"]
        good = isinstance(assumed, list) and assumed
        good = good and all(name in ASSUMABLE and name in form for name in assumed)
        need(good, "9.3", "assumed are no keys of the form")
        good = all(one < other for one, other in pairwise(assumed))
        need(good, "9.3", "assumed are not ascending, each once")


MODELS: dict[str, tuple[str, ...]] = {
    "kan": ("grid", "degree"),
    "fastkan": ("grid",),
    "gramkan": ("degree",),
    "mlp": (),
    "kanconv": ("grid", "degree"),
    "fastkanconv": ("grid",),
    "gramkanconv": ("degree",),
}


def check_basis(model: dict[str, Any], family: str) -> int:
    """The coefficients of an edge of such a network."""
    count = 1
    if "grid" in model:
        grid = model["grid"]
        need(isinstance(grid, list) and len(grid) == 3, "5.1", "grid is not [low, high, G]")
        low, high, parts = grid
        good = is_finite(low) and is_finite(high) and low < high
        need(good, "5.1", "grid does not go from low to high")
        least = 2 if family == "fastkan" else 1
        need(is_whole(parts) and least <= parts <= 65_536, "5.1", "G is no number of parts")
        count += parts
    if "degree" in model:
        degree = model["degree"]
        need(is_whole(degree) and 0 <= degree <= 16, "5.1", "degree is not from 0 to 16")
        count += degree + (1 if family == "gramkan" else 0)
    return count


DATA_KEYS = frozenset((
    "name", "classes", "targets", "mean", "std", "seed", "validation", "test"
))  # fmt: skip


def check_data(data: Any, outputs: int | None) -> None:
    need(isinstance(data, dict), "5.2", "data is no object")
    # Guess: data may stand beside restore.
    need(data.keys() <= DATA_KEYS, "5.2", "data has an unknown key")
    need("name" in data and "seed" in data, "5.2", "data has no name or no seed")
    name = data["name"]
    good = isinstance(name, str) and name != "" and name.isprintable()
    need(good, "5.2", "the name of the data is no printable text")
    good = is_whole(data["seed"]) and 0 <= data["seed"] < 2**63
    need(good, "5.2", "seed is no whole number below 2^63")
    need(not {"classes", "targets"} <= data.keys(), "5.2", "data has classes and targets")
    for key in ("classes", "targets"):
        good = key not in data or (is_whole(data[key]) and 1 <= data[key] <= 10**9)
        need(good, "5.2", f"{key} is no number of them")
        good = key not in data or outputs in (None, data[key])
        need(good, "5.2", f"{key} is not the number of outputs")
    lists = [data.get(key, []) for key in ("mean", "std")]
    for key, numbers in zip(("mean", "std"), lists, strict=True):
        good = isinstance(numbers, list) and all(map(is_finite, numbers))
        need(good and bool(numbers) == (key in data), "5.2", f"{key} is no list of numbers")
    need(len(lists[0]) == len(lists[1]), "5.2", "mean and std have other lengths")
    need(all(number > 0 for number in lists[1]), "5.2", "a std is not above 0")
    for key in ("validation", "test"):
        good = key not in data or (is_number(data[key]) and 0 < data[key] < 1)
        need(good, "5.2", f"{key} is no share")
    need(data.get("validation") != 0.1, "5.2", "validation is 0.1 and not left out")


RESTORE_KEYS = frozenset(("container", "path", "tensors", "metadata", "opaque", "pykan"))
CONTAINERS = ("safetensors", "torch-zip", "torch-legacy", "torch-module")
RANGE_KEYS = frozenset(("layer", "axes", "from", "to"))


class Restore:
    """Section 8, as far as the header and the layers' numbers tell."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.restore = file.document["restore"]
        self.entries: dict[str, tuple[str, list[int], Any]] = {}

    def check(self) -> None:
        self.check_keys()
        self.read_entries()
        total = 0
        for name, (dtype, shape, origin) in self.entries.items():
            self.check_origin(name, dtype, shape, origin)
            if not (isinstance(origin, dict) and "tie" in origin):
                total += -(-product(shape, 2**63) * BITS[dtype] // 8)
        limit = 10_000 * len(self.file.raw) + 1_000_000_000
        need(total <= limit, "8.3", "the tensors of the source are too large for the file")

    def check_keys(self) -> None:
        restore = self.restore
        need(isinstance(restore, dict), "8.1", "restore is no object")
        need(restore.keys() <= RESTORE_KEYS, "8.1", "restore has an unknown key")
        for key in ("container", "path", "tensors"):
            need(key in restore, "8.1", f"restore has no {key}")
        container = restore["container"]
        good = isinstance(container, str) and container in CONTAINERS
        need(good, "8.1", "container is unknown")
        path = restore["path"]
        good = isinstance(path, list) and len(path) <= 64
        # Guess: a key of `path` is a string.
        need(good and all(isinstance(key, str) for key in path), "8.1", "path is no list of keys")
        need(isinstance(restore["tensors"], list), "8.1", "tensors is no list")
        metadata = restore.get("metadata", {})
        good = isinstance(metadata, dict) and "kancompress" not in metadata
        good = good and all(isinstance(value, str) for value in metadata.values())
        need(good, "8.1", "metadata is no object of strings")
        if "opaque" in restore:
            name = restore["opaque"]
            torch = container in ("torch-zip", "torch-module")
            need(torch, "8.5", "opaque goes with torch-zip and torch-module only")
            # Guess: its shape may be any.
            tensor = self.stored(name, "8.1")
            good = tensor.dtype == "U8" and len(tensor.shape) == 1
            need(good, "8.1", "opaque is no row of bytes")
        if "pykan" in restore:
            good = container in ("torch-zip", "torch-legacy") and not path
            need(good, "8.7", "pykan goes with a state dict at the top of a torch file only")

    def read_entries(self) -> None:
        for entry in self.restore["tensors"]:
            good = isinstance(entry, list) and len(entry) == 4
            need(good, "8.2", "an entry is not [name, dtype, shape, origin]")
            name, dtype, shape, origin = entry
            need(isinstance(name, str) and name != "__metadata__", "8.2", "a name is no name")
            need(name not in self.entries, "8.2", "a name is there twice")
            good = isinstance(dtype, str) and dtype in BITS and dtype != "C64"
            need(good, "8.2", "a dtype is unknown or complex")
            good = isinstance(shape, list) and len(shape) <= 64
            good = good and all(is_whole(length) and length >= 0 for length in shape)
            need(good, "8.2", "a shape is no list of at most 64 lengths")
            most = product([length for length in shape if length], 2**63)
            need(most < 2**63, "8.2", "a shape's product is 2^63 or more")
            self.entries[name] = dtype, shape, origin
        if "pykan" in self.restore:
            check_pykan(self.restore["pykan"], {n: one[1] for n, one in self.entries.items()})

    def stored(self, name: Any, rule: str) -> Tensor:
        """The stored tensor of that name, which nothing else may name."""
        known = isinstance(name, str) and name in self.file.tensors
        need(known, rule, "a stored tensor is missing")
        need(self.file.role_of(name) is None, "8.3", "a stored tensor is a layer's role")
        need(name not in self.file.named, "8.3", "a stored tensor is named twice")
        self.file.named.add(name)
        return self.file.tensors[name]

    def check_origin(self, name: str, dtype: str, shape: list[int], origin: Any) -> None:
        if origin is None:
            tensor = self.stored(name, "8.3")
            need(tensor[:2] == (dtype, shape), "8.3", "a stored tensor has another type or shape")
            return
        need(isinstance(origin, dict), "8.2", "an origin is neither null nor an object")
        if "live" in origin:
            self.check_by_edge(dtype, shape, origin)
            return
        if "layer" in origin:
            self.check_pieces(dtype, shape, [origin], False)
            return
        need(len(origin) == 1, "8.2", "an origin has other keys than its kind's")
        ((key, value),) = origin.items()
        if key == "as":
            tensor = self.stored(value, "8.3")
            need(tensor[:2] == (dtype, shape), "8.3", "a stored tensor has another type or shape")
        elif key == "repeat":
            tensor = self.stored(value, "8.3")
            good = len(shape) > 0 and tensor[:2] == (dtype, shape[1:])
            need(good, "8.3", "a repeated tensor has another type or shape")
        elif key == "tie":
            good = isinstance(value, str) and value in self.entries
            need(good, "8.3", "a tie names no tensor of the source")
            other_dtype, other_shape, other = self.entries[value]
            tied = isinstance(other, dict) and "tie" in other
            need(not tied, "8.3", "a tie names a tied tensor")
            same = (dtype, shape) == (other_dtype, other_shape)
            need(same, "8.3", "a tie names a tensor of another type or shape")
        elif key == "fill":
            check_fill(dtype, value)
        elif key == "arange":
            check_arange(dtype, shape, value)
        elif key == "parts":
            good = isinstance(value, list) and len(value) >= 2
            good = good and all(isinstance(part, dict) for part in value)
            need(good, "8.2", "parts are not two ranges or more")
            self.check_pieces(dtype, shape, value, True)
        else:
            fail("8.2", "an origin is of no known kind")

    def check_by_edge(self, dtype: str, shape: list[int], origin: dict[str, Any]) -> None:
        good = {"layer", "axes"} <= origin.keys() <= {"layer", "axes", "live", "silent", "kept"}
        need(good, "8.2", "an origin by edges has other keys than those")
        name, pattern, kept = origin["layer"], origin["axes"], origin.get("kept")
        known = isinstance(name, str) and name in self.file.layers
        need(known and isinstance(pattern, str), "8.3", "an origin by edges names no layer")
        layer = self.file.layers[name]
        need(layer.k > 0, "8.3", "an origin by edges is of a dense layer")
        for key in ("live", "silent", "kept"):
            if key in origin and not (key == "kept" and isinstance(kept, str)):
                check_fill(dtype, origin[key])
        need(("kept" in origin) == (layer.kept > 0), "8.3", "kept is not there as kept_at is")
        width = product(shape, 2**63) // layer.edges
        need(width > 0, "8.3", "a tensor has no number for each edge")
        check_pattern(layer, pattern, shape, width, False)
        if isinstance(kept, str):
            expected = (dtype, [layer.kept, width])
            need(self.stored(kept, "8.3")[:2] == expected, "8.3", "kept has another type or shape")

    def check_pieces(
        self, dtype: str, shape: list[int], pieces: list[dict[str, Any]], parts: bool
    ) -> None:
        need(dtype in FLOATS, "8.3", "coefficients have no type of numbers")
        spans: list[list[int]] = []
        for piece in pieces:
            keys = piece.keys() - {"group", "columns"}
            need(keys == RANGE_KEYS, "8.2", "a range has other keys than a range's")
            lengths = shape
            if "columns" in piece:
                columns = piece["columns"]
                good = isinstance(columns, list) and len(columns) == 2
                need(good and all(map(is_whole, columns)), "8.3", "columns are not [a, b]")
                good = bool(shape) and 0 <= columns[0] < columns[1] <= shape[-1]
                need(good, "8.3", "columns are not of the last axis")
                spans.append(columns)
                lengths = [*shape[:-1], columns[1] - columns[0]]
            else:
                need(not parts, "8.2", "a part has no columns")
            self.check_range(dtype, lengths, piece)
        if spans:
            spans.sort()
            ends = [0, *(end for _, end in spans)]
            good = [begin for begin, _ in spans] == ends[:-1] and ends[-1] == shape[-1]
            need(good, "8.3", "columns overlap or are not the whole last axis")

    def check_range(self, dtype: str, lengths: list[int], piece: dict[str, Any]) -> None:
        name, pattern = piece["layer"], piece["axes"]
        known = isinstance(name, str) and name in self.file.layers
        need(known, "8.3", "a range names no layer")
        layer = self.file.layers[name]
        first, last = piece["from"], piece["to"]
        good = is_whole(first) and is_whole(last) and 0 <= first < last <= layer.d
        need(good, "8.3", "from and to are no range of the coefficients")
        if "group" in piece:
            group = piece["group"]
            good = layer.groups >= 2 and is_whole(group) and 0 <= group < layer.groups
            need(good, "8.3", "group is no group of the layer")
        need(isinstance(pattern, str), "8.4", "a pattern is no string")
        check_pattern(layer, pattern, lengths, last - first, "group" in piece)
        # Guess: all rows of the tables count, used or not, in the columns of the range alone.
        wide = {"F64": 3, "F32": 2, "BF16": 1, "F16": 0}
        if any(wide[dtype] < wide.get(table.dtype, 0) for table in layer.tables):
            most = self.file.largest(layer, first, last)
            # Where the numbers are not finite as they are, rule 3.6 names it later.
            lost = math.isfinite(most) and not math.isfinite(rounded(dtype, most))
            need(not lost, "8.3", "numbers become infinite in the tensor's type")


def check_fill(dtype: str, value: Any) -> None:
    need(dtype in FLOATS or dtype in WHOLE, "8.3", "a filled tensor has no such type")
    need(is_number(value), "8.3", "fill is no number")
    if dtype in WHOLE:
        limit = WHOLE[dtype]
        good = is_whole(value) and -limit <= value < limit
        need(good, "8.3", "fill is no whole number of its type")
        return
    number = as_float(value)
    good = math.isfinite(number) and number == value and rounded(dtype, number) == number
    need(good, "8.3", "fill is no number of its type")


def check_arange(dtype: str, shape: list[int], value: Any) -> None:
    need(dtype in FLOATS or dtype in WHOLE, "8.3", "an arange has no such type")
    good = isinstance(value, list) and len(value) == 4 and all(map(is_number, value))
    need(good, "8.2", "arange is not [base, step, first, count]")
    base, step, first, count = value
    need(is_whole(first) and is_whole(count), "8.3", "first or count is no whole number")
    need(bool(shape) and count == shape[-1], "8.3", "count is not the last length")
    good = -(2**53) <= first <= 2**53 and -(2**53) <= first + count <= 2**53
    need(good, "8.3", "first or first + count is beyond 2^53")
    ends = (first, first + count - 1) if count else ()
    if dtype in WHOLE:
        limit = WHOLE[dtype]
        need(is_whole(base) and is_whole(step), "8.3", "base or step is no whole number")
        numbers = [base, step]
        for t in ends:
            numbers += [t, step * t, base + step * t]
        good = all(-limit <= number < limit for number in numbers)
        need(good, "8.3", "an arange leaves the range of its type")
        return
    base, step = rounded(dtype, as_float(base)), rounded(dtype, as_float(step))
    results = [base, step]
    for t in ends:
        place = rounded(dtype, float(t))
        step_there = rounded(dtype, step * place)
        results += [place, step_there, rounded(dtype, base + step_there)]
    need(all(map(math.isfinite, results)), "8.3", "an arange is not finite")


# Guess: any white space between and around dimensions, none needed beside parentheses, which hold
# no `1`.
DIMENSION = re.compile(r"\s*(1(?!\d)|[a-z_]+|\((?:\s*[a-z_]+)*\s*\))\s*")
AXES = ("group", "out", "in", "kd", "kh", "kw", "half", "coef")


def read_pattern(pattern: str) -> list[list[str]]:
    dimensions: list[list[str]] = []
    place, pattern = 0, pattern.strip()
    need(pattern, "8.4", "a pattern is empty")
    while place < len(pattern):
        found = DIMENSION.match(pattern, place)
        if found is None:
            fail("8.4", "a pattern is no side of an einops expression")
        text = found[1]
        dimensions.append([] if text == "1" else text.strip("()").split())
        need(len(dimensions) <= 64, "8.4", "a pattern has more than 64 dimensions")
        place = found.end()
    return dimensions


def check_pattern(
    layer: Layer, pattern: str, lengths: list[int], width: int, one_group: bool
) -> None:
    dimensions = read_pattern(pattern)
    names = [name for dimension in dimensions for name in dimension]
    need(len(set(names)) == len(names), "8.4.1", "a pattern names an axis twice")
    need(all(name in AXES for name in names), "8.4.1", "a pattern names an unknown axis")
    sizes = {"out": layer.shape[0] // layer.groups, "in": layer.shape[1]}
    if len(layer.shape) == 4:
        sizes |= {"kh": layer.shape[2], "kw": layer.shape[3]}
    if len(layer.shape) == 5:
        sizes |= {"kd": layer.shape[2], "kh": layer.shape[3], "kw": layer.shape[4]}
    if not one_group and (layer.groups > 1 or "group" in names):
        sizes["group"] = layer.groups
    axes = set(names) - {"half", "coef"}
    need(axes == sizes.keys(), "8.4.1", "a pattern does not name the axes of the layer")
    need("coef" in names or width == 1, "8.4.1", "a pattern does not name coef")
    need("half" not in names or "coef" in names, "8.4.1", "a pattern names half without coef")
    total = math.prod(sizes.values()) * width
    need(product(lengths, 2**63) == total, "8.4.2", "the tensor has another number of numbers")
    # Patterns with `half` need a length for each dimension, as many as those that are reshaped.
    matched = len(lengths) == len(dimensions) > 1
    need(matched or "half" not in names, "8.4.2", "half cannot be found from the shape")
    if not matched:
        return
    free = {"half", "coef"} if "half" in names else set()
    sizes["coef"] = width
    found = []
    for dimension, length in zip(dimensions, lengths, strict=True):
        known = math.prod(sizes[name] for name in dimension if name not in free)
        unknown = len(free.intersection(dimension))
        need(unknown < 2, "8.4.2", "half and coef are in one dimension")
        if unknown:
            good = known > 0 and length % known == 0
            need(good, "8.4.2", "half or coef cannot be found from the shape")
            found.append(length // known)
        else:
            need(length == known, "8.4.2", "a length is not the product of its axes")
    need(not free or math.prod(found) == width, "8.4.2", "half times coef is not to - from")
