"""A report in words: one headline, and sheets of cells that terminals, Markdown and pages draw.

Parameters of the library stand in backticks, as in messages; another surface gives its own words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kancompress.frozen import dataclass
from kancompress.models import lines
from kancompress.reporting import unshrunk

# Parameters of which the words of a report may speak.
SPOKEN = unshrunk.SPOKEN
# Head of the column whose words name parameters.
ADVICE = "what changes it"
# A parameter of Python, and its value, as sentences name it.
PARAMETER = re.compile(r"(`[a-z_]+(?:=[\w\".]+)?`)")

RATIOS = {
    "dense_file": "file of the dense network / this file",
    "file": "file that was packed / this file",
    "dense_tensors": "tensors of the dense network / tensors of this file",
    "tensors": "tensors that were packed / tensors of this file",
    "formula": "the paper's equation 10: dense coefficients / (n log2 k / 8 + codebooks)",
    "pykan_storage": "the paper's 79.9: dense tensors as pykan stores them / this file",
}
PARTS = {
    "header": "header",
    "indices": "indices",
    "codebooks": "codebooks",
    "kept_edges": "edges kept as they were",
    "kept_positions": "positions of kept edges",
    "coefficients": "dense coefficients",
    "embeddings": "embeddings of edges",
    "meta_learner": "meta-learner",
    "other_tensors": "other tensors",
    "unused": "bytes that no tensor uses",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A table of cells.

    texts : columns of words, aligned to the left; the others are numbers
    wraps : those of them whose words may go on in the next line
    least : columns that go first where there is no room, the least important one first
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: tuple[str, ...] = ()
    wraps: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is told of a file.

    kind     : of what the file holds, and for which data
    headline : how large it is, and against what
    ratios, parts, layers, unshrunk and others are sheets; notes are sentences
    """

    kind: str
    headline: str
    ratios: Sheet | None
    layers: Sheet | None
    unshrunk: Sheet | None
    parts: Sheet
    others: tuple[Sheet, ...] = ()
    notes: tuple[str, ...] = ()

    def in_words(self, change: Callable[[str], str]) -> Told:
        """The same with its parameters as another surface has them."""
        sheet = self.unshrunk
        if sheet is not None:
            rows = tuple(tuple(map(change, row)) for row in sheet.rows)
            sheet = replace(sheet, rows=rows)
        return replace(self, unshrunk=sheet, notes=tuple(map(change, self.notes)))


def told(report: Mapping[str, Any]) -> Told:
    """The words and tables of what `inspect` reports."""
    return Told(
        kind=_kind(report),
        headline=headline(report),
        ratios=_ratios(report),
        layers=_layers(report["layers"]),
        unshrunk=unshrunk_sheet(report),
        parts=_parts(report),
        others=tuple(_others(report)),
        notes=tuple(_notes(report)),
    )


def _kind(report: Mapping[str, Any]) -> str:
    """What network it is, and for which data."""
    model, data = report["model"], report["data"]
    return ", ".join(
        [*([_pairs(model)] if model else []), *([f"data {data['name']}"] if data else [])]
    )


def _pairs(record: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"{key} {value}" for key, value in record.items() if key != "name")
    return f"{record['name']} ({pairs})" if pairs else str(record["name"])


# --- the headline ---------------------------------------------------------------------------


def headline(report: Mapping[str, Any]) -> str:
    """How large a file is and what that is compared with, in one line."""
    size = f"{report['file_bytes']:,} bytes"
    found = compared(report)
    if found is not None:
        what, other, _ = found
        unused = lines.without((report.get("source") or {}).get("unused", 0))
        return f"{size}: {times(other / report['file_bytes'])} than {what} ({other:,}{unused})"
    predicted = report.get("predicted")
    if predicted:
        packed, used = predicted["file_bytes"], _used(report)
        smaller = times(used / packed)
        against = ""
        if unused := lines.without(report["file_bytes"] - used):
            against = f" than {used:,}{unused}"
        return f"{size}, not packed; packed it would have {packed:,}: {smaller}{against}"
    if report["kind"] in ("dense", "meta"):
        return f"{size}, not packed"
    if report["layers"]:
        count = len(report["layers"])
        return f"{size}, not packed: {count:,} KAN {'layer' if count == 1 else 'layers'} recognised"
    return f"{size}, no KAN layer recognised"


def compared(report: Mapping[str, Any]) -> tuple[str, int, str] | None:
    """What a file is compared with in the headline, its bytes, and the key of that ratio; None
    where nothing is known that is."""
    source = report.get("source")
    if source is None:
        ratio = report["ratios"].get("dense_file")
        if ratio is None:
            return None
        return "the dense network", round(ratio * report["file_bytes"]), "dense_file"
    if "dense" in source:
        return "the dense network", source["dense"][1], "dense_file"
    if report["model"] is None:
        return "the checkpoint that was packed", source["file"], "file"
    return "the dense network", source["file"], "file"


def _used(report: Mapping[str, Any]) -> int:
    size: int = report["file_bytes"]
    return size - int(report["parts"].get("unused", 0))


def times(ratio: float) -> str:
    """A ratio as people say it: "68 times smaller"."""
    if round(ratio, 2) == 1:
        return "as large, and no smaller"
    word = "smaller" if ratio > 1 else "larger"
    ratio = ratio if ratio > 1 else 1 / ratio
    return f"{ratio:,.0f} times {word}" if ratio >= 9.95 else f"{ratio:.2g} times {word}"


# --- sheets ---------------------------------------------------------------------------------


def _ratios(report: Mapping[str, Any]) -> Sheet | None:
    """All ratios, the largest first, and which of them the headline tells."""
    found = {key: value for key, value in report["ratios"].items() if value is not None}
    if not found:
        return None
    against = compared(report)
    told = against[2] if against else ""
    order = {key: place for place, key in enumerate(RATIOS)}
    words = dict(RATIOS)
    if str(report.get("container")).startswith("torch"):
        words["file"] = "file that was packed, without bytes that no tensor uses / this file"
    rows = [
        (key, f"{value:.2f}", words[key] + (" (as above)" if key == told else ""))
        for key, value in sorted(found.items(), key=lambda one: (-one[1], order[one[0]]))
    ]
    texts = ("ratio", "what is divided")
    return Sheet(
        heads=("ratio", "times", "what is divided"), rows=tuple(rows), texts=texts, wraps=texts[1:]
    )


_LAYERS = (
    "layer", "basis", "shape", "edges", "coef", "k", "bits", "entropy", "use min-max",
    "index B", "codebook B", "dense B",
)  # fmt: skip


def _layers(rows: Sequence[Mapping[str, Any]]) -> Sheet | None:
    if not rows:
        return None
    return Sheet(
        heads=_LAYERS,
        rows=tuple(map(_layer, rows)),
        texts=("layer", "basis"),
        least=("use min-max", "entropy", "basis", "coef", "bits", "shape", "edges", "dense B"),
    )


def _layer(row: Mapping[str, Any]) -> tuple[str, ...]:
    usage, entropy = row["usage"], row["index_entropy"]
    return (
        row["name"] or ".",
        _basis(row),
        shape(row["shape"]),
        f"{row['edges']:,}",
        _vectors(row),
        "dense" if row["clusters"] is None else str(row["clusters"]),
        _index_bits(row),
        "-" if entropy is None else f"{entropy:.2f}",
        f"{usage['smallest']}-{usage['largest']}" if usage else "-",
        f"{row['index_bytes']:,}",
        f"{row['codebook_bytes']:,}",
        f"{row['dense_bytes']:,}",
    )


def _basis(row: Mapping[str, Any]) -> str:
    """The basis, and the layout of another library's layer."""
    named = [row["basis"], f"({row['layout']})" if row.get("layout") else None]
    return " ".join(filter(None, named)) or "-"


def _vectors(row: Mapping[str, Any]) -> str:
    """Coefficients of an edge, and of its parts where it has several: 9 = 3 x 3."""
    d, parts = row["coefficients"], row["parts"]
    return str(d) if parts in (None, 1) else f"{d} = {parts} x {d // parts}"


def _index_bits(row: Mapping[str, Any]) -> str:
    """Bits of an index; where they are entropy-coded on average, tables included."""
    if row["index_encoding"] in (None, "bits"):
        return "-" if row["index_bits"] is None else str(row["index_bits"])
    return f"{row['bits_per_edge']:.2f} {row['index_encoding']}"


def unshrunk_sheet(report: Mapping[str, Any]) -> Sheet | None:
    """What of a packed file did not shrink, why, and what would change it."""
    rows = [(one.what, f"{one.size:,}", one.why, one.change) for one in unshrunk.found(report)]
    if not rows:
        return None
    heads = ("did not shrink", "bytes", "why", ADVICE)
    texts = (heads[0], *heads[2:])
    return Sheet(heads=heads, rows=tuple(rows), texts=texts, wraps=texts)


def _parts(report: Mapping[str, Any]) -> Sheet:
    """Parts that add up to the file, the file, and what is beside it."""
    rows = [(PARTS[name], f"{size:,}") for name, size in report["parts"].items()]
    rows.append(("file", f"{report['file_bytes']:,}"))
    return Sheet(heads=("part", "bytes"), rows=tuple(rows), texts=("part",))


def _others(report: Mapping[str, Any]) -> Iterator[Sheet]:
    coded = [row for row in report["layers"] if "rans" in row]
    if coded:
        yield _named(_CODED, map(_coded, coded), least=_CODED[3:5])
    if report["other"]:
        heads = ("other tensor", "dtype", "shape", "bytes")
        rows = (
            (unshrunk.named(row), row["dtype"], shape(row["shape"]), f"{row['bytes']:,}")
            for row in report["other"]
        )
        yield _named(heads, rows, least=heads[1:3])
    if report.get("forms"):
        yield _words(("layer of the source", "layout", "computes"), _forms(report["forms"]))
    held = [row for row in report["layers"] if report["kind"] == "packed" and row.get("tensors")]
    if held:
        names = ((row["name"] or ".", ", ".join(row["tensors"])) for row in held)
        yield _words(("layer", "tensors of the source that it holds"), names)


_CODED = ("entropy-coded", "classes", "tables B", "classes B", "indices B", "stream B")


def _named(
    heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], least: tuple[str, ...]
) -> Sheet:
    """Rows with a name and numbers."""
    return Sheet(heads=heads, rows=tuple(rows), texts=heads[:1], least=least)


def _words(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Sheet:
    """Rows of words, the first and the last of which may be many."""
    return Sheet(heads=heads, rows=tuple(rows), texts=heads, wraps=(heads[0], heads[-1]))


def _coded(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What an entropy-coded index consists of; classes and indices as their entropy has them."""
    parts = row["rans"]
    return (
        row["name"],
        str(parts["classes"]),
        f"{parts['table_bytes']:,}",
        f"{parts['class_entropy_bytes']:,.0f}",
        f"{parts['index_entropy_bytes']:,.0f}",
        f"{parts['stream_bytes']:,}",
    )


def _forms(forms: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for all layers that compute the same."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, record in forms.items():
        clauses = [
            f"{key.replace('_', ' ')} {json.dumps(value).strip(chr(34))}"
            + (" (assumed)" if key in record.get("assumed", ()) else "")
            for key, value in record.items()
            if key not in ("layout", "assumed")
        ]
        text = ", ".join(clauses) or "-"
        alike.setdefault((record["layout"], text), []).append(name or ".")
    for (layout, text), names in alike.items():
        yield ", ".join(names), layout, text


# --- sentences ------------------------------------------------------------------------------


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    totals, predicted = report["totals"], report.get("predicted")
    if totals["formula_bytes"] is not None:
        yield (
            f"The paper's equation 10 (n log2 k / 8 + 4 k |w|) counts"
            f" {_rounded(totals['formula_bytes'])} bytes for the indices and codebooks."
        )
    if report["layers"] and report["kind"] in ("packed", "meta"):
        yield f"All coefficients written out take {totals['dense_bytes']:,} bytes."
    if predicted:
        yield f"packed file, predicted: {predicted['file_bytes']:,} bytes"
    for row in report["layers"]:
        yield from _edges_of(row)
    if unused := report["parts"].get("unused"):
        yield (
            f"{unused:,} bytes of the file belong to no tensor: some tensors are views of larger"
            " storages. No ratio divides them; saving clones of the tensors drops them."
        )
    for problem in report.get("problems", ()):
        yield f"note: {problem}"


def _rounded(size: float) -> str:
    """Bytes that need not be whole, with one digit where they are not."""
    return f"{size:,.1f}".removesuffix(".0")


def _edges_of(row: Mapping[str, Any]) -> Iterator[str]:
    """Edges of a layer that are special."""
    edges, name = row["edges"], row["name"] or "."
    if "zero_edges" in row:
        theirs = ", which is theirs" if row.get("parts", 1) == 1 else ""
        yield (
            f"Layer {name}: {edges - row['zero_edges']:,} of {edges:,} edges compute something; the"
            f" others are zero, as is one of the {row['clusters']:,} centroids{theirs}."
        )
    for key, what in (
        ("symbolic_edges", "are symbolic: a formula is added to their coefficients"),
        ("masked_edges", "are masked and compute nothing"),
        ("kept_edges", "keep their coefficients as they were"),
    ):
        if row.get(key):
            yield f"Layer {name}: {row[key]:,} of {edges:,} edges {what}."


def shape(sizes: Iterable[int]) -> str:
    """The lengths of a tensor's axes."""
    return " x ".join(map(str, sizes)) or "scalar"
