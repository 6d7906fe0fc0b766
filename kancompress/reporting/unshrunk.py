"""What of a packed file did not shrink, grouped by the reason, and what would change it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kancompress.frozen import dataclass

# Parameters of which it may speak.
SPOKEN = (
    "force_pack", "clusters", "parts", "codebook_dtype", "side_dtype", "header", "keep_masked",
    "keep_extra", "layouts",
)  # fmt: skip
_NOTHING = "nothing: they come back bit for bit"
_NARROWER = '`codebook_dtype="float16"` or `codebook_dtype="int8"`'
_WIDE = ("float32", "float64")
# A header of more than this share of the file is worth a word.
_LARGE_HEADER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Unshrunk:
    """Some bytes of a file that packing did not make fewer; no two have the same bytes."""

    what: str
    size: int
    why: str
    change: str


def found(report: Mapping[str, Any]) -> Iterator[Unshrunk]:
    """All of them, where a file is packed."""
    if report["kind"] != "packed":
        return
    yield from _dense(report)
    yield from _kept(report)
    yield from _codebooks(report)
    yield from _others_of_library(report) if report["model"] is None else _sides(report)
    size = report["header_bytes"]
    if size <= _LARGE_HEADER * report["file_bytes"]:
        return
    if report["header_form"] == "plain":
        why, change = "it names each tensor, for any safetensors reader", '`header="short"`'
    elif report["model"] is None:
        why, change = "it is short, and tells what the source's tensors come back from", "nothing"
    else:
        why, change = "it is short, and tells what the network is", "nothing"
    yield Unshrunk(what="header", size=size, why=why, change=change)


def named(row: Mapping[str, Any]) -> str:
    """The name of a tensor beside the edges, as the source has it."""
    return str(row.get("source", row["name"]))


def _dense(report: Mapping[str, Any]) -> Iterator[Unshrunk]:
    rows = [row for row in report["layers"] if row["clusters"] is None]
    symbolic = [row for row in rows if row.get("symbolic_edges") == row["edges"]]
    if symbolic:
        yield Unshrunk(
            what=_named("layer", [row["name"] or "." for row in symbolic]),
            size=sum(map(_stored, symbolic)),
            why="symbolic: its edges need their own numbers",
            change=_NOTHING,
        )
    if rows := [row for row in rows if row.get("symbolic_edges") != row["edges"]]:
        yield Unshrunk(
            what=_named("layer", [row["name"] or "." for row in rows]),
            size=sum(map(_stored, rows)),
            why="stays dense: with its codebook it would be no smaller",
            change="fewer `clusters` for it, or `force_pack`",
        )


def _stored(row: Mapping[str, Any]) -> int:
    """Bytes of a dense layer in the packed file; numbers that are all alike take none."""
    return int(row.get("stored_bytes", row["dense_bytes"]))


def _kept(report: Mapping[str, Any]) -> Iterator[Unshrunk]:
    count = sum(row.get("kept_edges", 0) for row in report["layers"])
    if not count:
        return
    parts = report["parts"]
    symbolic = sum(row.get("symbolic_edges", 0) for row in report["layers"])
    masked = count > symbolic
    yield Unshrunk(
        what=f"{count:,} {'edge' if count == 1 else 'edges'}",
        size=parts.get("kept_edges", 0) + parts.get("kept_positions", 0),
        why="symbolic, or masked and kept" if masked else "symbolic: they need their own numbers",
        change="of masked ones: leave `keep_masked` out" if masked else _NOTHING,
    )


def _codebooks(report: Mapping[str, Any]) -> Iterator[Unshrunk]:
    heavy = [row for row in report["layers"] if _is_heavy(row)]
    single = [row for row in heavy if row["clusters"] == 1]
    many = [row for row in heavy if row["clusters"] != 1]
    for rows, why, changes in (
        (many, "few edges for so many centroids", ["fewer `clusters` for it", "`parts`"]),
        (single, "hardly more edges than its one centroid", []),
    ):
        if rows:
            narrower = [_NARROWER] if any(row["codebook_dtype"] in _WIDE for row in rows) else []
            yield Unshrunk(
                what=_named("layer", [row["name"] or "." for row in rows]),
                size=sum(row["codebook_bytes"] + row["index_bytes"] for row in rows),
                why=why,
                change=", ".join([*changes, *narrower]) or "nothing",
            )
    others = (row for row in report["layers"] if not _is_heavy(row))
    wide = [row for row in others if row["codebook_dtype"] in _WIDE]
    size = sum(row["codebook_bytes"] for row in wide)
    if size:
        kinds = sorted({row["codebook_dtype"] for row in wide})
        yield Unshrunk(
            what=_named("codebook", [row["name"] or "." for row in wide if row["codebook_bytes"]]),
            size=size,
            why=f"in {' and '.join(kinds)}, as the source",
            change=_NARROWER,
        )


def _is_heavy(row: Mapping[str, Any]) -> bool:
    """Whether a packed layer takes more than half of what its edges would take."""
    packed: int = row["codebook_bytes"] + row["index_bytes"]
    return bool(row["clusters"]) and 2 * packed > row["dense_bytes"]


def _sides(report: Mapping[str, Any]) -> Iterator[Unshrunk]:
    """Tensors beside the edges of a network of kancompress's own."""
    head = [row for row in report["other"] if row["name"].startswith("head.")]
    wide = [row for row in report["other"] if row["dtype"] == "F32" and row not in head]
    if wide:
        yield _tensors(
            wide,
            why="no edges, in float32 as the source",
            change='`side_dtype="float16"` or `side_dtype="int8"`',
        )
    if head:
        yield _tensors(
            head,
            why="the linear layer behind the convolutions, no KAN layer",
            change="nothing",
        )


def _others_of_library(report: Mapping[str, Any]) -> Iterator[Unshrunk]:
    """Tensors that hold no edges, in the layers that are packed and outside of them."""
    stems = _apart(f"{row['name']}." for row in report["layers"])
    extra = [row for row in report["other"] if row["name"] == report.get("extra")]
    others = [row for row in report["other"] if row not in extra]
    inside = [row for row in others if _is_below(named(row), stems)]
    outside = [row for row in others if not _is_below(named(row), stems)]
    if extra:
        yield _tensors(
            extra,
            why="what the source held beside the model",
            change="leave `keep_extra` out",
        )
    for rows, why in (
        (inside, "beside the edges: grids, biases, norms, masks"),
        (outside, "no edges of KAN layers"),
    ):
        if full := [row for row in rows if row["bytes"]]:
            yield _tensors(full, why=why, change=_NOTHING)


def _apart(stems: Iterable[str]) -> list[str]:
    """Stems in their order, without those that begin with another."""
    found: list[str] = []
    for stem in sorted(stems):
        if not found or not stem.startswith(found[-1]):
            found.append(stem)
    return found


def _is_below(name: str, stems: Sequence[str]) -> bool:
    """Whether a name begins with one of these, which are sorted and of which none begins so."""
    at = bisect_right(stems, name)
    return at > 0 and name.startswith(stems[at - 1])


def _tensors(rows: Sequence[Mapping[str, Any]], *, why: str, change: str) -> Unshrunk:
    """Tensors that hold no edges, as one."""
    return Unshrunk(
        what=_named("tensor", list(map(named, rows))),
        size=sum(row["bytes"] for row in rows),
        why=why,
        change=change,
    )


def _named(word: str, names: Sequence[str]) -> str:
    """`layer 1`, `layers 1 and 2`, `5 layers, 1 to 5`."""
    if len(names) <= 2:
        return f"{word}{'s' if len(names) > 1 else ''} {' and '.join(names)}"
    return f"{len(names):,} {word}s, {names[0]} to {names[-1]}"
