"""MetaKAN: a small network generates each edge's vector from the edge's embedding.

Source: Murphyzc/MetaKAN, base_model/metakan.py: `embeddings.{l}` (out * in, length), row
out * in + in, and one network a layer (`hypernet.{l}`), linear, ReLU, linear; the last of its
numbers is the base weight. The file holds no vectors, so the layer has no parts: `gather` runs the
network. They are packed and restored as an efficient-kan layer's tensors,
`layers.{l}.spline_weight` and `base_weight` (see `kancompress.packing.generated`).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from kancompress.formats.arrays import Described
from kancompress.formats.edges.found import FoundLayer, Generator
from kancompress.libraries.checks import extended_grid
from kancompress.libraries.forms import Form, Forms, splines
from kancompress.libraries.records import Layout, Misfit, Piece

_NETWORKS = ("hypernet.{0}", "metanet.{0}", "hyper_net.{0}", "hypernet", "metanet", "hyper_net")
_ENDS = ("", ".layers")
_NOTES = (
    "MetaKAN's edge vectors are generated and packed; they come back as tensors of efficient-kan"
    " (layers.*.spline_weight, layers.*.base_weight), without the meta-network.",
)


def _find(
    layout: Layout, stem: str, number: str, tensors: Mapping[str, Described]
) -> FoundLayer | Misfit:
    embeddings = f"{stem}embeddings.{number}"
    linears = _network(stem, number, tensors)
    if not linears:
        return Misfit(reason=f"{stem}hypernet.{number}.0.weight is missing", rank=0)
    grid = f"{stem}layers.{number}.grid"
    if grid not in tensors:
        return Misfit(reason=f"{grid} is missing", rank=1)
    shapes = [tuple(tensors[weight].shape) for weight, _ in linears]
    first, last = shapes[0], shapes[-1]
    rows, knots = tuple(tensors[embeddings].shape), tuple(tensors[grid].shape)
    chained = all(len(shape) == 2 for shape in shapes) and all(
        upper[0] == lower[1] for upper, lower in pairwise(shapes)
    )
    if not chained or len(rows) != 2 or len(knots) != 2 or rows[1] != first[1]:
        return Misfit(
            reason=f"{embeddings} of shape {rows} does not go through a network of the shapes"
            f" {', '.join(map(str, shapes))}",
            rank=2,
        )
    if not rows[0] or not knots[0] or rows[0] % knots[0]:
        return Misfit(
            reason=f"{embeddings} has {rows[0]} rows, no multiple of the {knots[0]} inputs of"
            f" {grid}",
            rank=2,
        )
    into = f"{stem}layers.{number}."
    for name in ("spline_weight", "base_weight"):
        if into + name in tensors:
            return Misfit(reason=f"{into}{name} is there already", rank=2)
    reason = extended_grid({"knots": knots[1], "coef": last[0] - 1})
    if reason:
        return Misfit(reason=reason, rank=2)
    return FoundLayer(
        name=f"{stem}layers.{number}",
        layout=layout.name,
        shape=(rows[0] // knots[0], knots[0]),
        coefficients=last[0],
        parts=(),
        untouched=(*(name for pair in linears for name in pair), grid),
        notes=_NOTES,
        generator=Generator(embeddings=embeddings, linears=linears, into=into),
    )


def _network(
    stem: str, number: str, tensors: Mapping[str, Described]
) -> tuple[tuple[str, str], ...]:
    """Weight and bias of the linear layers 0, 2, ...; the odd ones are activations."""
    for network in _NETWORKS:
        for end in _ENDS:
            prefix = stem + network.format(number) + end
            found = [
                (f"{prefix}.{place}.weight", f"{prefix}.{place}.bias")
                for place in (0, 2, 4)
                if f"{prefix}.{place}.weight" in tensors and f"{prefix}.{place}.bias" in tensors
            ]
            if len(found) > 1:
                return tuple(found)
    return ()


LAYOUTS = (
    Layout(
        name="metakan",
        pieces=(Piece(name="embeddings.*", axes="(out in) coef"),),
        label="layers.*",
        finder=_find,
    ),
)

FORMS = Forms(chains={"metakan": Form(basis=splines("layers.*.grid"))})
