"""Reads the short header of packed files, from section 12 of docs/packed-format.md alone.

`ordinary` gives the ordinary document and the tensors of a short one, without any of kancompress's
code. What the other sections say is not checked here.
"""

import math
from typing import Any

from opaque_checker import Fault, fail, need

FLOATS = ("F64", "F32", "F16", "BF16")
REQUIRED = {"version", "kind", "checksum", "layers", "source", "clusters"}
KINDS = (*FLOATS, "int8")
OPTIONAL = {"rans", "kept", "coefficients", "head", "opaque", "model", "restore", "data"}
OPTIONAL |= {"forms", "parts"}
SIZES = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1}
STATISTICS: dict[str, tuple[list[float], list[float]]] = {
    "digits": ([0], [1]),
    "mnist": ([0.1307], [0.3081]),
    "fashion-mnist": ([0.286], [0.353]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
}

Shape = list[int]
# Type and shape by name.
Tensors = dict[str, tuple[str, Shape]]


def is_short(document: dict[str, Any]) -> bool:
    return "clusters" in document


def is_whole(value: Any, least: int, limit: int) -> bool:
    return type(value) is int and least <= value < limit


def counts(document: dict[str, Any], key: str, layers: int) -> list[int]:
    usual = 1 if key == "parts" else 0
    if key not in document:
        return [usual] * layers
    value = document[key]
    limit = 2**63 if key == "rans" else 2**31
    if type(value) is int:
        need(is_whole(value, 0, limit), "12.2", f"{key} is no count")
        need(value != usual or key == "clusters", "12.2", f"{key} is there, and is the usual")
        return [value] * layers
    good = isinstance(value, list) and len(value) == layers
    need(good and all(is_whole(one, 0, limit) for one in value), "12.2", f"{key} is no counts")
    need(len(set(value)) > 1, "12.2", f"{key} is a list of equal numbers")
    return list(value)


def layer_records(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    layers = document["layers"]
    if "model" in document:
        need(isinstance(layers, list), "12.2", "layers of a model are no list")
        layers = {str(number): record for number, record in enumerate(layers)}
    need(isinstance(layers, dict) and layers, "12.2", "layers are no object, or empty")
    found = {}
    for name in sorted(layers):
        record = layers[name]
        if isinstance(record, list):
            record = {"shape": record}
        else:
            good = isinstance(record, dict) and record.keys() != {"shape"}
            need(good, "12.2", "a layer is neither a shape nor a record of more")
        shape = record.get("shape")
        good = isinstance(shape, list) and all(is_whole(one, 1, 2**31) for one in shape)
        need(good and len(shape) in (2, 4, 5), "3.2", "a shape is no shape of a layer")
        found[name] = record
    if "model" in document:
        found = {str(number): found[str(number)] for number in range(len(found))}
    return found


def model_width(model: dict[str, Any]) -> int:
    """Coefficients of an edge, section 5.1."""
    try:
        return {
            "kan": lambda: model["grid"][2] + model["degree"] + 1,
            "fastkan": lambda: model["grid"][2] + 1,
            "gramkan": lambda: model["degree"] + 2,
            "mlp": lambda: 1,
        }[str(model["name"]).removesuffix("conv")]()
    except (KeyError, IndexError, TypeError):
        fail("5.1", "the model is not known")


def sides(model: dict[str, Any], shape: Shape) -> dict[str, Shape]:
    """Shapes of what a layer has beside its coefficients, sections 5.1 and 5.3."""
    name, conv = str(model["name"]).removesuffix("conv"), str(model["name"]).endswith("conv")
    rows = 4 if conv else 2
    found = {"bias": [shape[0]]}
    if name == "fastkan":
        found["norm"] = [rows, shape[1]]
    if name == "gramkan":
        found |= {"norm": [rows, shape[0]], "beta": [model["degree"] + 1]}
    if name == "kan" and conv:
        found |= {"norm": [rows, shape[0]], "slope": [1]}
    return found


def ordinary(document: dict[str, Any]) -> tuple[dict[str, Any], Tensors]:
    """The ordinary document, and the tensors of the file. Raises Fault."""
    need(document.keys() >= REQUIRED, "12.2", "the document lacks a key")
    need(document.keys() <= REQUIRED | OPTIONAL | {*KINDS}, "12.2", "there is an unknown key")
    one = ("model" in document) != ("restore" in document)
    need(one, "2", "the document has not exactly one of model and restore")
    model = document.get("model")
    need(model is None or isinstance(model, dict), "5.1", "model is no object")
    records = layer_records(document)
    rans, kept = (counts(document, key, len(records)) for key in ("rans", "kept"))
    parts = dict(zip(records, counts(document, "parts", len(records)), strict=True))
    clusters = dict(zip(records, counts(document, "clusters", len(records)), strict=True))
    if model is None:
        widths = counts(document, "coefficients", len(records))
    else:
        need("coefficients" not in document, "12.2", "coefficients stand beside model")
        widths = [model_width(model)] * len(records)
    fixed: Tensors = {}
    encodings: dict[str, str] = {}
    numbers: dict[str, dict[str, Shape]] = {}
    for at, (name, record) in enumerate(records.items()):
        shape, share = record["shape"], record.get("codebook")
        may_be: dict[str, Shape] = {}
        cut = parts.get(share, 1) if isinstance(share, str) else parts[name]
        need(cut > 0, "3.2", "edges have no parts")
        if clusters[name]:
            may_be["codebook"] = [clusters[name], widths[at] // cut]
        elif share is None:
            may_be["coefficients"] = [*shape, widths[at]]
        if kept[at]:
            may_be["kept"] = [kept[at], widths[at]]
            fixed[f"{name}.kept_at"] = ("I64", [kept[at]])
            encodings[f"{name}.kept_at"] = "plain"
        if model is not None:
            may_be |= sides(model, shape)
        for role, size in may_be.items():
            numbers.setdefault(role, {})[f"{name}.{role}"] = size
        lent = clusters.get(share, 0) if isinstance(share, str) else 0
        k = clusters[name] or lent
        if k < 2:
            need(rans[at] == 0, "12.2", "rans is not 0 where there is no index")
            continue
        bits = max(math.prod(shape) - kept[at], 0) * cut * (k - 1).bit_length()
        fixed[f"{name}.index"] = ("U8", [rans[at] or -(-bits // 8)])
        encodings[f"{name}.index"] = "rans" if rans[at] else "bits"
    conv = model is not None and str(model.get("name")).endswith("conv")
    need(("head" in document) == conv, "12.2", "head does not go with convolutions alone")
    if conv:
        outputs, channels = document["head"], list(records.values())[-1]["shape"][0]
        need(is_whole(outputs, 1, 2**31), "12.2", "head is no number of outputs")
        numbers["head.weight"] = {"head.weight": [outputs, channels]}
        numbers["head.bias"] = {"head.bias": [outputs]}
    found = typed(document, numbers)
    for name, (kind, shape) in found.items():
        if not name.startswith("head."):
            encodings[name] = "int8" if kind == "int8" else "plain"
        if kind == "int8":
            found[name] = ("U8", in_bytes(name, shape))
    for name, own in parts.items():
        need("parts" not in records[name], "12.2", "parts stand in a record")
        records[name] = records[name] | ({"parts": own} if own != 1 else {})
    tensors = merged(found | fixed, stored(document))
    return made(document, records, encodings), tensors


def fits_int8(name: str) -> bool:
    return name.rpartition(".")[2] in ("codebook", "bias", "norm")


def in_bytes(name: str, shape: Shape) -> Shape:
    """The shape of the U8 of numbers with the encoding `int8`, section 4.2."""
    if name.endswith(".codebook"):
        return [shape[1], 2 + shape[0]]
    return [*shape[:-1], 2 + shape[-1]]


def typed(document: dict[str, Any], numbers: dict[str, dict[str, Shape]]) -> Tensors:
    """The tensors of numbers, 12.4."""
    alone = {name: shape for of_role in numbers.values() for name, shape in of_role.items()}
    found: Tensors = {}
    by_role: set[str] = set()
    for dtype in KINDS:
        names = document.get(dtype, [None])
        if dtype not in document:
            continue
        good = isinstance(names, list) and names and all(isinstance(one, str) for one in names)
        need(good and names == sorted(set(names)), "12.4", f"{dtype} is no sorted list of names")
        for name in names:
            known = name in numbers or name in alone
            need(known, "12.4", f"{dtype} names a role or tensor that the file has not")
            of_name = numbers[name] if name in numbers else {name: alone[name]}
            if name in numbers and not name.startswith("head."):
                by_role.add(name)
            for tensor, shape in of_name.items():
                need(tensor not in found, "12.4", "a tensor is named twice")
                found[tensor] = (dtype, shape)
                need(dtype != "int8" or fits_int8(tensor), "4", "a role has no such encoding")
    for role, of_role in numbers.items():
        types = {found[name][0] if name in found else None for name in of_role}
        whole = len(types) == 1 and None not in types
        need(not whole or role in by_role or "." in role, "12.4", "a role is not named as a whole")
    return found


def stored(document: dict[str, Any]) -> Tensors:
    """The tensors that `restore` says are stored."""
    restore = document.get("restore")
    if restore is None:
        need("opaque" not in document, "12.2", "opaque stands without restore")
        return {}
    good = isinstance(restore, dict) and isinstance(restore.get("tensors"), list)
    need(good, "8.1", "restore has no tensors")
    need(("opaque" in document) == ("opaque" in restore), "12.2", "opaque is not as in restore")
    found: Tensors = {}
    for entry in restore["tensors"]:
        need(isinstance(entry, list) and len(entry) == 4, "8.2", "an entry has not four parts")
        name, dtype, shape, origin = entry
        good = isinstance(name, str) and isinstance(dtype, str) and isinstance(shape, list)
        need(good and all(is_whole(one, 0, 2**63) for one in shape), "8.2", "an entry is bad")
        if origin is None:
            new = name, dtype, shape
        elif isinstance(origin, dict) and "as" in origin:
            new = origin["as"], dtype, shape
        elif isinstance(origin, dict) and "repeat" in origin:
            new = origin["repeat"], dtype, shape[1:]
        else:
            continue
        need(isinstance(new[0], str) and new[0] not in found, "8.3", "a stored name is bad")
        found[new[0]] = new[1:]
    if "opaque" in restore:
        size, name = document["opaque"], restore["opaque"]
        need(is_whole(size, 1, 2**31), "12.2", "opaque is no number of bytes")
        need(isinstance(name, str) and name not in found, "8.3", "opaque is named twice")
        found[name] = ("U8", [size])
    need("__metadata__" not in found, "8.2", "a tensor is called __metadata__")
    return found


def merged(own: Tensors, others: Tensors) -> Tensors:
    need(not own.keys() & others.keys(), "8.3", "a stored tensor is a layer's role")
    return own | others


def made(
    document: dict[str, Any], records: dict[str, dict[str, Any]], encodings: dict[str, str]
) -> dict[str, Any]:
    """The ordinary document."""
    own = {*OPTIONAL} - {"model", "restore", "data", "forms"} | {"clusters", *KINDS}
    result = {key: value for key, value in document.items() if key not in own}
    result["layers"] = records
    source = document["source"]
    need(isinstance(source, list) and len(source) in (2, 4), "12.2", "source is no list of sizes")
    result["source"] = {"tensors": source[0], "file": source[1]}
    if len(source) == 4:
        result["source"]["dense"] = source[2:]
    roles: dict[str, set[str]] = {}
    for name, encoding in encodings.items():
        roles.setdefault(name.rpartition(".")[2], set()).add(encoding)
    # One encoding a role; of indices the others are exceptions.
    usual = {role: min(found) for role, found in roles.items()}
    result["encodings"] = {
        encoding: sorted(role for role in usual if usual[role] == encoding)
        for encoding in {*usual.values()}
    }
    exceptions = {
        name: encoding
        for name, encoding in encodings.items()
        if encoding != usual[name.rpartition(".")[2]]
    }
    if exceptions:
        result["exceptions"] = exceptions
    data = document.get("data")
    if isinstance(data, dict) and isinstance(data.get("name"), str):
        known = STATISTICS.get(data["name"])
        if known is not None:
            if not {"mean", "std"} & data.keys():
                result["data"] = data | {"mean": known[0], "std": known[1]}
            same = (data.get("mean"), data.get("std")) == known
            need(not same, "12.2", "data has the mean and std of its name")
    return result


__all__ = ["Fault", "is_short", "ordinary"]
