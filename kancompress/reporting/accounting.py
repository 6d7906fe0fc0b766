"""The bytes of a file by what they hold; the parts add up to the file, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kancompress.formats.safetensors import Container

# Parts by the roles of a packed layer's tensors.
_PACKED = {
    "index": "indices",
    "codebook": "codebooks",
    "kept": "kept_edges",
    "kept_at": "kept_positions",
    "coefficients": "coefficients",
}
_META_LEARNER = "meta."


def of_packed(
    container: Container, layers: Iterable[str], dense: Iterable[str] = ()
) -> dict[str, int]:
    """Parts of a packed file.

    layers : names of its layers
    dense  : names of tensors with all coefficients of further ones, as they were
    """
    owned = {
        f"{layer}.{role}": part for layer in dict.fromkeys(layers) for role, part in _PACKED.items()
    }
    return _summed(container, owned | dict.fromkeys(dense, "coefficients"))


def of_checkpoint(container: Container, layers: int, kind: str) -> dict[str, int]:
    """Parts of a dense or meta file with so many layers."""
    owned = {f"{number}.coefficients": "coefficients" for number in range(layers)}
    owned |= {f"{number}.embedding": "embeddings" for number in range(layers)}
    if kind == "meta":
        names = (name for name in container.entries if name.startswith(_META_LEARNER))
        owned |= dict.fromkeys(names, "meta_learner")
    return _summed(container, owned)


def of_foreign(
    sizes: Mapping[str, int], owners: Iterable[str], *, file: int, unused: int
) -> dict[str, int]:
    """Parts of another library's file.

    sizes  : bytes of each tensor, of which ties count once
    owners : names of the tensors that hold edges, or what generates them
    unused : bytes in the file's storages that no tensor uses
    """
    tensors = sum(sizes.values())
    coefficients = sum(sizes.get(name, 0) for name in dict.fromkeys(owners))
    parts = {"header": file - tensors - unused}
    if coefficients:
        parts["coefficients"] = coefficients
    parts["other_tensors"] = tensors - coefficients
    if unused:
        parts["unused"] = unused
    return parts


def _summed(container: Container, owned: Mapping[str, str]) -> dict[str, int]:
    """Header, then the parts that there are, in one order, and what is left of the payload."""
    found: dict[str, int] = {}
    for name, entry in container.entries.items():
        if name in owned:
            found[owned[name]] = found.get(owned[name], 0) + entry.size
    order = (*_PACKED.values(), "embeddings", "meta_learner")
    parts = {name: found[name] for name in order if name in found}
    rest = container.payload_size - sum(parts.values())
    return {"header": container.header_size} | parts | {"other_tensors": rest}
