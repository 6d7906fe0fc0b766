"""Other libraries' checkpoints: their KAN layers packed, the rest kept as it was.

What cannot be said by codebook and index is stored as it is, unless it can be rebuilt bit for
bit from less: ties, constant tensors, equal rows, and uniform grids (docs/packed-format.md,
section 8).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kancompress import bits, files
from kancompress.checkpoint import check_finite
from kancompress.compression import (
    LayerClustering,
    Report,
    codebook_dtype,
    pack_vectors,
    wrong_numbers,
)
from kancompress.container import NAMES
from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError, together
from kancompress.foreign import ForeignCheckpoint
from kancompress.generation import twin_sizes, write_out
from kancompress.layouts import FoundLayer, Part, Recognition, gather, packable, scatter
from kancompress.packed import PackedLayer, PackedModel
from kancompress.packed.state import rebuild_arange
from kancompress.recipes import ClusterConfig
from kancompress.specs import SourceSizes

_MAX_LINES = 20


def repack(
    source: ForeignCheckpoint,
    found: Recognition,
    config: ClusterConfig,
    *,
    keep_scaler: bool = False,
    unfit: Sequence[str] = (),
    report: Report | None = None,
) -> tuple[PackedModel, list[LayerClustering]]:
    """Pack the layers in `found`, keep all other tensors; `restore` gives the source back.

    keep_scaler : leave factors of whole edges as tensors of their own instead of folding them
    unfit       : what is wrong with the layouts that the user chose
    Raises one error with all that is wrong with file and options, before any work:
    InvalidFileError where a layer holds NaN or infinity, else UsageError; and KancompressError when
    no layer would shrink.
    """
    check_all(source, found, config, unfit)
    given = source
    source, found = write_out(source, found)
    untied = tuple(layer for layer in found.layers if not _is_tied(layer, source))
    names = _safe_names(untied)
    packed: list[PackedLayer] = []
    results: list[LayerClustering] = []
    origins: dict[str, Any] = {}
    replaced: dict[str, Tensor] = {}
    for group in _groups(untied):
        layers = [replace(layer, gains=()) if keep_scaler else layer for layer in group]
        made = _pack_group(layers, source, config, names)
        results += made.results
        if report:
            for result in made.results:
                report(result)
        packed += made.layers
        origins |= made.origins
        replaced |= made.replaced
    if not packed:
        raise KancompressError(
            f"{source.where}: every KAN layer would grow at this number of clusters, so nothing was"
            " packed. Take fewer clusters, or pack all the same with --force-pack."
        )
    tensors, entries = _rest(source, origins, replaced, {layer.name for layer in packed})
    restore: dict[str, Any] = {
        "container": source.container,
        "path": list(source.path),
        "tensors": entries,
    }
    if source.metadata:
        restore["metadata"] = source.metadata
    sizes = SourceSizes(
        tensors=given.tensor_bytes,
        file=given.file_bytes,
        dense=None if source is given else twin_sizes(source),
    )
    model = PackedModel(layers=tuple(packed), source=sizes, tensors=tensors, restore=restore)
    return model, results


def check_all(
    source: ForeignCheckpoint, found: Recognition, config: ClusterConfig, unfit: Sequence[str] = ()
) -> None:
    """Refuse a source that cannot be packed so, with all reasons in one error."""
    open_questions = (*unfit, *found.ambiguous)
    wrong: list[KancompressError] = [UsageError(text) for text in open_questions]
    if not found.layers and not wrong:
        wrong.append(UsageError(_nothing_found(source, found)))
    # the number of a layer that is still open is not wrong
    numbers = {
        name: k
        for name, k in config.layers.items()
        if not any(text.startswith(f"{name} ") or repr(name) in text for text in open_questions)
    }
    wrong += wrong_numbers(
        replace(config, layers=numbers),
        [layer.name for layer in found.layers if not _is_tied(layer, source)],
    )
    broken: list[KancompressError] = []
    for name in dict.fromkeys(name for layer in found.layers for name in layer.tensors):
        try:
            check_finite(source.tensors[name], name, source.where)
        except InvalidFileError as error:
            broken.append(error)
        files.release()
    if len(broken) > _MAX_LINES:
        broken[_MAX_LINES:] = [
            InvalidFileError(
                Flaw.NOT_FINITE,
                f"{source.where}: {len(broken) - _MAX_LINES:,} more tensors hold such numbers.",
            )
        ]
    if wrong or broken:
        raise together([*wrong, *broken])


def _nothing_found(source: ForeignCheckpoint, found: Recognition) -> str:
    reasons = " ".join(found.problems)
    return (
        f"{source.where}: no KAN layer was recognised among {len(source.tensors)} tensors."
        + (f" {reasons}" if reasons else "")
        + " Describe the layers with --layout."
    )


def _is_tied(layer: FoundLayer, source: ForeignCheckpoint) -> bool:
    """Whether the layer is an earlier one once more, with all its tensors tied to those."""
    return bool(layer.parts) and all(part.tensor in source.ties for part in layer.parts)


_UNSAFE = re.compile(r"[^A-Za-z0-9_.]")


def _safe_names(layers: tuple[FoundLayer, ...]) -> dict[str, str]:
    """The name of each layer in the packed file: its own, as far as the format allows it."""
    names: dict[str, str] = {}
    for layer in layers:
        name = _UNSAFE.sub("_", layer.name) or "layer"
        while name in names.values():
            name += "_"
        names[layer.name] = name
    return names


def _groups(layers: tuple[FoundLayer, ...]) -> Iterator[list[FoundLayer]]:
    """Layers that share a codebook together, in the order of their first."""
    groups: dict[str, list[FoundLayer]] = {}
    for layer in layers:
        key = layer.name if layer.codebook_group is None else f"\0{layer.codebook_group}"
        groups.setdefault(key, []).append(layer)
    yield from groups.values()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Made:
    """Packed layers of one group, origins of their tensors, and gains that changed."""

    layers: list[PackedLayer]
    results: list[LayerClustering]
    origins: dict[str, Any]
    replaced: dict[str, Tensor]


def _pack_group(
    layers: list[FoundLayer],
    source: ForeignCheckpoint,
    config: ClusterConfig,
    names: Mapping[str, str],
) -> _Made:
    masks = [packable(layer, source.tensors) for layer in layers]
    pooled = _pooled(layers, source, masks)
    files.release()
    first = layers[0].name
    clusters = config.layers.get(first, config.clusters)
    if len(pooled):
        result, codebook, labels = pack_vectors(
            first, pooled, clusters, config, codebook_dtype(config, pooled.dtype)
        )
    if not len(pooled) or result.clusters is None:
        dense = [] if not len(pooled) else [result]
        return _Made(layers=[], results=dense, origins={}, replaced={})
    width = bits.width_of(len(codebook))
    made: list[PackedLayer] = []
    start = 0
    replaced: dict[str, Tensor] = {}
    origins: dict[str, Any] = {}
    for layer, mask in zip(layers, masks, strict=True):
        count = int(mask.sum())
        kept_at = torch.nonzero(~mask).reshape(-1)
        made.append(
            PackedLayer(
                name=names[layer.name],
                shape=layer.shape,
                groups=layer.groups,
                codebook=codebook if layer is layers[0] else None,
                shares=None if layer is layers[0] else names[first],
                index=bits.pack(labels[start : start + count], width),
                kept_at=kept_at if len(kept_at) else None,
                kept=_unfolded(layer, source)[kept_at] if len(kept_at) else None,
            )
        )
        start += count
        origins |= _origins(layer, names[layer.name])
        if layer.gains and len(kept_at):
            replaced |= _partly_folded(layer, source, mask)
    results = [result]
    return _Made(layers=made, results=results, origins=origins, replaced=replaced)


def _pooled(layers: list[FoundLayer], source: ForeignCheckpoint, masks: list[Tensor]) -> Tensor:
    """Vectors of all edges that can be packed, layer after layer."""
    found: list[Tensor] = []
    for layer, mask in zip(layers, masks, strict=True):
        vectors = gather(layer, source.tensors).cpu()
        found.append(vectors if mask.all() else vectors[mask])
    return found[0] if len(found) == 1 else torch.cat(found)


def _unfolded(layer: FoundLayer, source: ForeignCheckpoint) -> Tensor:
    """Edge vectors as the tensors have them, factors left apart."""
    return gather(replace(layer, gains=()), source.tensors).cpu()


def _partly_folded(layer: FoundLayer, source: ForeignCheckpoint, mask: Tensor) -> dict[str, Tensor]:
    """Factors that are one where the edge is packed, and as they were where it is kept."""
    result: dict[str, Tensor] = {}
    for gain in layer.gains:
        alone = Part(
            tensor=gain.tensor,
            axes=gain.axes,
            first=0,
            last=1,
            shape=gain.shape,
            dtype=gain.dtype,
        )
        bare = replace(layer, parts=(alone,), gains=(), coefficients=1)
        factors = gather(bare, source.tensors).cpu()
        factors[mask] = 1
        result |= scatter(bare, factors)
    return result


def _origins(layer: FoundLayer, name: str) -> dict[str, Any]:
    """Origins of the tensors that a layer's edges give back, and of its folded factors."""
    pieces: dict[str, list[dict[str, Any]]] = {}
    for part in layer.parts:
        piece: dict[str, Any] = {
            "layer": name,
            "axes": part.axes,
            "from": part.first,
            "to": part.last,
        }
        if part.group is not None:
            piece["group"] = part.group
        if part.columns is not None:
            piece["columns"] = list(part.columns)
        pieces.setdefault(part.tensor, []).append(piece)
    origins: dict[str, Any] = {
        tensor: parts[0] if len(parts) == 1 else {"parts": parts}
        for tensor, parts in pieces.items()
    }
    return origins | {gain.tensor: {"fill": 1.0} for gain in layer.gains}


# --- tensors that hold no edges ------------------------------------------------------------


_LARGE = 1 << 24


def _rest(
    source: ForeignCheckpoint,
    origins: Mapping[str, Any],
    replaced: Mapping[str, Tensor],
    layers: set[str],
) -> tuple[dict[str, Tensor], list[list[Any]]]:
    """Tensors to store beside the layers, and the entry of every tensor of the source."""
    stored: dict[str, Tensor] = {}
    entries: list[list[Any]] = []
    for name, tensor in source.tensors.items():
        origin: Any
        if name in source.ties:
            origin = {"tie": source.ties[name]}
        elif name in replaced:
            origin = _store(name, replaced[name], stored, layers)
        elif name in origins:
            origin = origins[name]
        else:
            origin = rebuilt(name, tensor, stored, layers)
            if tensor.nbytes >= _LARGE:
                files.release()
        entries.append([name, NAMES[tensor.dtype], list(tensor.shape), origin])
    return stored, entries


def _store(name: str, tensor: Tensor, stored: dict[str, Tensor], layers: set[str]) -> Any:
    """Store a tensor, under its own name where no layer could claim it."""
    own = name.rpartition(".")[0] not in layers and name.isprintable() and bool(name)
    target = name if own else f"tensor {len(stored)}"
    while target in stored:
        target += "'"
    stored[target] = tensor.clone(memory_format=torch.contiguous_format)
    return None if target == name else {"as": target}


def rebuilt(name: str, tensor: Tensor, stored: dict[str, Tensor], layers: set[str]) -> Any:
    """The cheapest origin that gives the tensor back bit for bit."""
    if tensor.numel() > 1 and tensor.dtype in _NUMBERS:
        flat = tensor.contiguous().reshape(-1)
        if _same_bits(flat, flat[:1].expand_as(flat)) and flat[0].isfinite():
            return {"fill": flat[0].item()}
        rows = tensor.reshape(-1, tensor.shape[-1])
        row = rows[0]
        if len(rows) == 1 or _same_bits(rows, row.expand_as(rows)):
            steps = _arange(row)
            if steps is not None:
                return {"arange": steps}
        if (
            tensor.dim() > 1
            and len(tensor) > 1
            and _same_bits(tensor, tensor[:1].expand_as(tensor))
        ):
            target = _store(name, tensor[0], stored, layers)
            return {"repeat": name if target is None else target["as"]}
    return _store(name, tensor, stored, layers)


_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    left, right = one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    return torch.equal(left, right)


def _arange(row: Tensor) -> list[Any] | None:
    """base, step, first, count that rebuild a uniform row bit for bit, or None."""
    count = len(row)
    if count < 4:
        return None
    wide = row.double()
    step = float((wide[-1] - wide[0]) / (count - 1))
    if not row.is_floating_point():
        candidates: set[float] = {int(step)} if step == int(step) else set()
    else:
        short = {float(f"{step:.{digits}g}") for digits in (3, 5, 7)}
        candidates = {step, *short, float(torch.tensor(step, dtype=row.dtype))}
    for guess in sorted(candidates):
        for first in range(count):
            base: float = wide[first].item() if row.is_floating_point() else int(row[first])
            for start in {base, float(f"{base:.6g}")} if row.is_floating_point() else {base}:
                made = [start, guess, -first, count]
                if _same_bits(rebuild_arange(made, row.dtype), row):
                    return made
    return None
