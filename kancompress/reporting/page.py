"""A report as one page of HTML: bytes as bars, ratios, layers, curves and pictures, no scripts."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from kancompress.exporting.html.page import small_style
from kancompress.reporting.told import ADVICE, PARAMETER, PARTS, Sheet, Told, compared
from kancompress.version import __version__

if TYPE_CHECKING:
    from kancompress.reporting.plotting.curves import Curves

# Colours of the parts, which are told apart by those who see no red or green, too.
_COLOURS = {
    "header": "#8a8d96",
    "indices": "#4477aa",
    "codebooks": "#ee7733",
    "kept_edges": "#228833",
    "kept_positions": "#88bb66",
    "coefficients": "#aa3377",
    "embeddings": "#66ccee",
    "meta_learner": "#009988",
    "other_tensors": "#ccbb44",
    "unused": "#bbbbbb",
}
# Beside the styles of pages that run a network.
_STYLE = resources.files("kancompress.reporting") / "assets" / "report.css"
_WIDTH, _HEIGHT = 720, 26
# A panel of a curve, and most centroids of a layer that have one.
_PANEL, _PANEL_HEIGHT, _MOST = 104, 66, 32


def page(
    told: Told,
    report: Mapping[str, Any],
    title: str,
    *,
    curves: Sequence[Curves] = (),
    pictures: Sequence[tuple[str, str, bytes]] = (),
) -> str:
    """The page of a report, which needs no other file, no network and no script.

    pictures : what each shows, its type as in image/png, and its bytes
    """
    style = small_style() + _STYLE.read_text("utf-8")
    policy = f"default-src 'none'; style-src {_hash(style)}; img-src data:; base-uri 'none'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f'<meta name="generator" content="kancompress {__version__}">',
            '<link rel="icon" href="data:,">',
            f"<title>{_text(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            *_body(told, report, title, curves, pictures),
            "</main>",
            "</body>",
            "</html>\n",
        ]
    )


def _body(
    told: Told,
    report: Mapping[str, Any],
    title: str,
    curves: Sequence[Curves],
    pictures: Sequence[tuple[str, str, bytes]],
) -> Iterator[str]:
    yield f"<h1>{_text(title)}</h1>"
    yield f'<p class="big">{_text(report["kind"])}, {_text(told.headline)}</p>'
    if told.kind:
        yield f'<p class="quiet">{_text(told.kind)}</p>'
    yield from _section("Where the bytes are", [*_bars(report), _table(told.parts)])
    yield from _section("Ratios, and what each divides", [_table(told.ratios)])
    yield from _section("Layers", [_table(told.layers)])
    yield from _section("What did not shrink, and why", [_table(told.unshrunk)])
    yield from _section("Functions of the centroids", [_curves(layer) for layer in curves])
    yield from _section("Pictures", [_picture(*one) for one in pictures])
    yield from _section("More", [_table(sheet) for sheet in told.others])
    notes = "".join(f"<li>{_words(note)}</li>" for note in told.notes)
    yield from _section("Notes", [f"<ul>{notes}</ul>" if notes else ""])


def _section(title: str, parts: Sequence[str]) -> Iterator[str]:
    found = [part for part in parts if part]
    if found:
        yield "<section>"
        yield f"<h2>{_text(title)}</h2>"
        yield from found
        yield "</section>"


def _table(sheet: Sheet | None) -> str:
    if sheet is None:
        return ""
    words = ['class="words"' if head in sheet.texts else "" for head in sheet.heads]
    long = ['class="words long"' if head in sheet.wraps else "" for head in sheet.heads]
    heads = "".join(_cell("th", text, kind) for text, kind in zip(sheet.heads, words, strict=True))
    kinds = [wide or word for wide, word in zip(long, words, strict=True)]
    rows = "".join(
        "<tr>"
        + "".join(
            _cell("td", text, kind, is_advice=head == ADVICE)
            for head, text, kind in zip(sheet.heads, row, kinds, strict=True)
        )
        + "</tr>"
        for row in sheet.rows
    )
    body = f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'


def _cell(tag: str, text: str, kind: str, *, is_advice: bool = False) -> str:
    shown = _words(text) if is_advice else _text(text)
    return f"<{tag}{' ' if kind else ''}{kind}>{shown}</{tag}>"


# --- pictures -------------------------------------------------------------------------------


def _bars(report: Mapping[str, Any]) -> Iterator[str]:
    """The file beside what it is compared with, and below it the file alone by its parts."""
    size = max(1, report["file_bytes"])
    found = compared(report)
    if found is not None:
        what, other, _ = found
        most = max(size, other)
        bars = [
            *_bar(0, other / most, "#8a8d96", f"{what}: {other:,} bytes"),
            *_bar(1, size / most, "#4477aa", f"this file: {size:,} bytes"),
        ]
        yield _svg(bars, 2 * 2 * _HEIGHT, f"{what} and this file as bars")
    yield _parts(report["parts"], size)


def _bar(row: int, share: float, colour: str, words: str) -> Iterator[str]:
    top = 2 * _HEIGHT * row
    yield f'<text x="0" y="{top + 16}">{_text(words)}</text>'
    width = max(1.5, share * _WIDTH)
    yield f'<rect x="0" y="{top + 22}" width="{width:.1f}" height="20" fill="{colour}"/>'


def _parts(parts: Mapping[str, int], size: int) -> str:
    """One bar of all parts, and what its colours mean."""
    drawn, at = ['<text x="0" y="16">this file, by what it holds</text>'], 0.0
    for name, count in parts.items():
        width = count / size * _WIDTH
        colour = _COLOURS[name]
        what = f"<title>{_text(PARTS[name])}: {count:,} bytes</title>"
        drawn.append(
            f'<rect x="{at:.1f}" y="22" width="{width:.1f}" height="20" fill="{colour}">{what}'
            "</rect>"
        )
        at += width
    for number, (name, count) in enumerate((n, c) for n, c in parts.items() if c):
        x, y = number % 3 * 240, 60 + number // 3 * 20
        share = 100 * count / size
        words = f"{PARTS[name]}, {share:.1f} %"
        drawn.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_COLOURS[name]}"/>')
        drawn.append(f'<text x="{x + 18}" y="{y}">{_text(words)}</text>')
    rows = -(-sum(count > 0 for count in parts.values()) // 3)
    return _svg(drawn, 54 + 20 * rows, "the parts of this file as one bar")


def _svg(parts: Sequence[str], height: int, label: str) -> str:
    head = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    return f'<svg {head} role="img" aria-label="{_text(label)}">{"".join(parts)}</svg>'


def _curves(layer: Curves) -> str:
    """A small panel for each of the most used centroids of a layer, all on the same axes."""
    total = max(1, int(layer.edges.sum()))
    count = min(len(layer.y), _MOST)
    low, high = min(0.0, float(layer.y[:count].min())), max(0.0, float(layer.y[:count].max()))
    panels = "".join(
        _panel(layer, number, int(layer.edges[number]) / total, low, high)
        for number in range(count)
    )
    shape = " x ".join(map(str, layer.shape))
    which = f"the {count} most used of {len(layer.y):,}" if count < len(layer.y) else f"{count}"
    note = f"; {layer.note}" if layer.note else ""
    words = (
        f"{which} {'centroid' if len(layer.y) == 1 else 'centroids'}, with the share of edges that"
        f" use each; {layer.input} from {layer.x[0]:g} to {layer.x[-1]:g}, values from {low:.3g} to"
        f" {high:.3g}{layer.unit}{note}"
    )
    title = f"layer {layer.name or '.'} ({shape})"
    head = f'<h3>{_text(title)}</h3><p class="quiet">{_text(words)}</p>'
    return f'{head}<div class="curves">{panels}</div>'


def _panel(layer: Curves, number: int, share: float, low: float, high: float) -> str:
    inside = _PANEL_HEIGHT - 18
    scale = inside / (high - low) if high > low else 0.0

    def y(value: float) -> float:
        return 16 + (high - value) * scale if scale else 16 + inside / 2

    step = max(1, len(layer.x) // 50)
    values = layer.y[number][::step]
    points = " ".join(
        f"{place * (_PANEL - 4) / max(1, len(values) - 1) + 2:.1f},{y(float(value)):.1f}"
        for place, value in enumerate(values)
    )
    zero = f"{y(0.0):.1f}"
    return (
        f'<svg viewBox="0 0 {_PANEL} {_PANEL_HEIGHT}" width="{_PANEL}" height="{_PANEL_HEIGHT}"'
        f' role="img" aria-label="a centroid that {share:.1%} of the edges use">'
        f'<text class="faint" x="2" y="11">{share:.1%}</text>'
        f'<line class="rule" x1="2" x2="{_PANEL - 2}" y1="{zero}" y2="{zero}"/>'
        f'<polyline class="curve" points="{points}"/></svg>'
    )


def _picture(what: str, kind: str, data: bytes) -> str:
    raw = base64.b64encode(data).decode()
    words = _text(what)
    image = f'<img alt="{words}" src="data:{kind};base64,{raw}">'
    return f'<figure>{image}<figcaption class="quiet">{words}</figcaption></figure>'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _text(text: str) -> str:
    """Text from a file: no markup, and no characters that do not print."""
    return html.escape("".join(sign if sign.isprintable() else "�" for sign in text))


def _words(told: str) -> str:
    """Words in which parameters stand in backticks, which are shown as code."""
    parts = PARAMETER.split(told)
    return "".join(
        f"<code>{_text(part.strip('`'))}</code>" if number % 2 else _text(part)
        for number, part in enumerate(parts)
    )
