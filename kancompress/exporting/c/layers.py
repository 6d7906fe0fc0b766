"""One layer as a C function.

For one row the features of an input are multiplied with the rows of the table once, and then each
edge adds the product that its index names. A convolution does this at every pixel of an input, with
the indices of all its taps read before, and adds to every place of the output map that the pixel is
under.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from kancompress.config import IndexCoding
from kancompress.exporting.c.bases import Features, activation, features
from kancompress.exporting.c.indices import Edges, Reading, reading
from kancompress.exporting.c.steps import Chain, after
from kancompress.exporting.c.unit import Lines, Unit, indented, loop
from kancompress.frozen import dataclass
from kancompress.layers.forms import Window
from kancompress.runtime.program import Layer

_COUNTERS = (
    "i", "j", "b", "c", "r", "n", "py", "px", "e", "t", "row", "first", "near", "kept",
    "last",
)  # fmt: skip

# Features of which the products are one sum in the code.
_MOST_TERMS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a layer reads and writes.

    read     : expression of number `i` of its input, at pixel `py`, `px` of a map
    kind     : type of the input
    inside, outside : (rows, columns) of the input and of the output map; None of a vector
    encoding : that indices are written in, None: that of the packed file
    """

    read: str
    kind: str
    inside: tuple[int, int] | None = None
    outside: tuple[int, int] | None = None
    encoding: IndexCoding | None = None


@dataclass(frozen=True, slots=True)
class _Segment:
    """Coefficients from `low` to below `high` of an edge: they lie in one part, and have the same
    factors beside the file's vectors."""

    low: int
    high: int
    part: int
    factors: str = ""


def function(unit: Unit, layer: Layer, number: int, place: Place) -> str:
    """The definition of `<prefix>_layer<number>`."""
    return _Function(unit, layer, number, place).text()


class _Function:
    def __init__(self, unit: Unit, layer: Layer, number: int, place: Place) -> None:
        self.unit, self.layer, self.number, self.place = unit, layer, number, place
        self.basis: Features = features(unit, layer, number)
        self.window: Window | None = layer.form.window
        self.taps = math.prod(layer.edges.shape[2:])
        self.size = layer.edges.size
        self.edges = None if layer.edges.rows is None else Edges.of(layer)
        self.segments = self._segments()
        self.kept = 0 if self.edges is None else self.edges.most_kept(layer.inputs)
        self.stride = layer.edges.clusters + self.kept
        self.p = ""
        # Where the features have the base branch, and function `b` of the basis.
        self.base = f"f[{self.basis.live}]"
        self.value = "f[b - first]" if self.basis.windowed else "f[b]"

    # --- the whole --------------------------------------------------------------------------------

    def text(self) -> str:
        """The definition."""
        unit, layer, place = self.unit, self.layer, self.place
        f = unit.scratch.want("features", unit.real.name, max(self.basis.room, self.basis.live + 1))
        self._count()
        chain = Chain(
            unit,
            layer,
            layer.form.before,
            f"before{self.number}",
            layer.inputs,
            [f"v = {place.read};"],
        )
        body = self._sums(chain)
        places = 1 if place.outside is None else math.prod(place.outside)
        variables, end = after(unit, layer, self.number, places, "y")
        lines = [*chain.prelude, *self._start(places), *body, *end]
        real = unit.real.name
        declared = [f"{real} *const f = {f};"]
        if self.p:
            declared.append(f"{real} *const p = {self.p};")
        declared += self._declared(lines)
        declared += [f"{real} {name};" for name in sorted({*variables, *chain.variables})]
        return "\n".join(
            [
                self._comment(),
                f"static inline void {unit.prefix}_layer{self.number}(const {place.kind} *x,"
                f" {real} *y, {unit.prefix}_scratch *s)",
                "{",
                *indented([*declared, *lines]),
                "}",
            ]
        )

    def _declared(self, lines: Iterable[str]) -> Lines:
        text = "\n".join(lines)
        used = [name for name in _COUNTERS if re.search(rf"(?<![\w.>]){name}\b", text)]
        found = [f"uint32_t {', '.join(used)};"]
        if "&stream" in text:
            found.append(f"{self.unit.prefix}_stream stream;")
        if re.search(r"\bbegins = ", text):
            found.append("const uint16_t *begins;")
        return found

    def _comment(self) -> str:
        edges, layer = self.layer.edges, self.layer
        text = f"Layer {self.number}: {layer.inputs} inputs, {layer.outputs} outputs"
        if self.window is not None:
            down, right = self.window.kernel
            text += f", a convolution of {down} x {right}"
        if self.edges is None:
            text += f"; {self.size} coefficients of each edge"
        else:
            text += f"; {edges.clusters} centroids of {edges.table.shape[1]} coefficients"
            if edges.parts > 1:
                text += f", {edges.parts} for each edge"
            if len(self.edges.kept_at):
                text += f", {len(self.edges.kept_at)} edges with vectors of their own"
        return f"/* {text}. */"

    def _start(self, places: int) -> Lines:
        unit, layer = self.unit, self.layer
        value = unit.literal(0)
        if layer.bias is not None:
            value = unit.flash.add(f"bias{self.number}", layer.bias) + "[j]"
        each = f"y[{'j' if places == 1 else f'r * {layer.outputs}u + j'}] = {value};"
        inner = loop("j", f"{layer.outputs}u", [each])
        return inner if places == 1 else loop("r", f"{places}u", inner)

    def _sums(self, chain: Chain) -> Lines:
        if self.edges is None:
            return self._dense(chain)
        return self._packed(chain, self.edges)

    def _features(self, chain: Chain) -> Lines:
        """`f`, of what `v` is read from."""
        form, real = self.layer.form, self.unit.real.name
        lines = [f"{real} v = {self.place.read};"]
        based = "v"
        if form.base is not None and not form.inner and chain.statements:
            lines.append(f"const {real} a = v;")
            based = "a"
        lines += chain.statements
        if self.basis.lines:
            used = any(re.search(r"\bz\b", line) for line in self.basis.lines)
            lines += [f"{real} z = v;"] * used + list(self.basis.lines)
        if form.base is None:
            return lines
        return [*lines, f"{self.base} = {activation(self.unit, form.base, based)};"]

    # --- packed edges -----------------------------------------------------------------------------

    def _segments(self) -> list[_Segment]:
        edges = self.layer.edges
        width = self.size // edges.parts
        if self.edges is None:
            return [_Segment(0, self.size, 0)]
        cuts = {part * width for part in range(edges.parts + 1)}
        gains = [gain for gain in edges.gains if bool((gain.factors != 1).any())]
        cuts |= {place for gain in gains for place in (gain.first, gain.last)}
        places = sorted(cuts)
        found = []
        for low, high in pairwise(places):
            own = [gain.factors for gain in gains if gain.first <= low and high <= gain.last]
            name = ""
            if own:
                product = np.prod(np.stack(own), axis=0).reshape(self.layer.outputs, -1)
                name = self.unit.flash.add(f"gain{self.number}_{low}", product.T)
            found.append(_Segment(low, high, low // width, name))
        return found

    def _of_part(self, part: int) -> list[_Segment]:
        return [segment for segment in self.segments if segment.part == part]

    def _packed(self, chain: Chain, edges: Edges) -> Lines:
        unit, layer, place = self.unit, self.layer, self.place
        self._tables(edges)
        number = "i" if self.taps == 1 else f"(i * {self.taps}u + n)"
        parts = layer.edges.parts
        at = number if parts == 1 else f"{number} * {parts}u + @Q"
        encoding = place.encoding or layer.edges.encoding
        how = reading(unit, layer, edges, self.number, encoding, at)
        begin = [*how.begin, *(["kept = 0;"] if self.kept else [])]
        body = self._map(chain, how) if self.window is not None else self._vector(chain, how)
        return [*begin, *loop("i", f"{layer.inputs}u", body)]

    def _tables(self, edges: Edges) -> None:
        unit, values, own = self.unit, self.layer.edges, self.layer.edges.clusters
        self.table = unit.flash.add(f"table{self.number}", values.table[:own].T)
        self.own = ""
        if len(edges.kept_at):
            vectors = values.table[own:].reshape(-1, self.size)[edges.order]
            self.own = unit.flash.add(f"kept{self.number}", vectors)
            largest = np.uint16 if edges.rows.size < 1 << 16 else np.uint32
            self.kept_at = unit.flash.add(f"kept_at{self.number}", edges.kept_at.astype(largest))
            self.kept_count = len(edges.kept_at)
        together = self.segments if self.window is not None else self._of_part(0)
        if self.window is None:
            most = max(len(self._of_part(part)) for part in range(values.parts))
        else:
            most = len(together)
        self.p = unit.scratch.want("products", unit.real.name, most * self.stride)

    def _next_input(self) -> Lines:
        """`last`: where the kept edges of input `i` end; they begin at `kept`."""
        if not self.kept:
            return []
        each = self.taps * self.layer.outputs
        return [
            "last = kept;",
            f"while (last < {self.kept_count}u && {self.kept_at}[last] < (i + 1u) * {each}u)",
            "    ++last;",
        ]

    def _row(self, how: Reading, edge: str) -> Lines:
        """`row`, of the next edge of a position; `near` is the next kept edge of the input."""
        if not self.kept:
            return how.next
        own = [f"row = {self.layer.edges.clusters}u + near - kept;", "++near;"]
        return [
            f"if (near < last && {self.kept_at}[near] == {edge}) {{",
            *indented(own),
            "} else {",
            *indented(how.next),
            "}",
        ]

    def _runs(self, segment: _Segment) -> list[tuple[str, str]]:
        """Where the basis functions of a segment begin and end; none where it has none."""
        low, high = segment.low, min(segment.high, self.basis.size)
        if low >= high:
            return []
        if not self.basis.windowed:
            return [(f"{low}u", f"{high}u")]
        begin = "first" if low == 0 else f"(first > {low}u ? first : {low}u)"
        end = f"first + {self.basis.live}u"
        end = end if high == self.basis.size else f"({end} < {high}u ? {end} : {high}u)"
        return [(begin, end)]

    def _products(self, segment: _Segment, offset: int) -> Lines:
        """The products of a segment with all rows of the table, at `p + offset`."""
        clusters = self.layer.edges.clusters
        to = "p[c]" if not offset else f"p[{offset}u + c]"
        terms = self._terms(segment)
        if terms is None:
            lines = self._summed(segment, to)
        else:
            real = self.unit.real.name
            values = [f"g{number} = {value}" for number, (value, _) in enumerate(terms)]
            sums = [f"g{number} * {self.table}[{row} + c]" for number, (_, row) in enumerate(terms)]
            added = [f"{to} = {sums[0]}", *(f"    + {one}" for one in sums[1:])]
            added[-1] += ";"
            lines = [
                "{",
                *indented([f"const {real} {', '.join(values)};"]),
                *indented(loop("c", f"{clusters}u", added)),
                "}",
            ]
        return [*lines, *self._own_products(segment, offset + clusters)]

    def _based(self, segment: _Segment) -> bool:
        return self.layer.form.base is not None and segment.high == self.size

    def _first(self, segment: _Segment) -> int:
        """The coefficient with which the segment's part begins."""
        return segment.part * (self.size // self.layer.edges.parts)

    def _terms(self, segment: _Segment) -> list[tuple[str, str]] | None:
        """Features of a segment, and where the table's row for each begins; None where they are too
        many, or where they depend on the input."""
        clusters, first = self.layer.edges.clusters, self._first(segment)
        low, high = segment.low, min(segment.high, self.basis.size)
        if self.basis.windowed and (low, high) != (0, self.basis.size):
            return None
        if self.basis.windowed:
            live = self.basis.live
            terms = [(f"f[{r}]", f"(first + {r}u) * {clusters}u") for r in range(live)]
        else:
            terms = [(f"f[{b}]", f"{(b - first) * clusters}u") for b in range(low, high)]
        if self._based(segment):
            terms.append((self.base, f"{(self.size - 1 - first) * clusters}u"))
        return terms if 0 < len(terms) <= _MOST_TERMS else None

    def _summed(self, segment: _Segment, to: str) -> Lines:
        """The same, feature by feature."""
        clusters, first = self.layer.edges.clusters, self._first(segment)
        real, start = self.unit.real.name, self.unit.literal(0)
        if self._based(segment):
            start = f"{self.base} * {self.table}[{(self.size - 1 - first) * clusters}u + c]"
        lines = loop("c", f"{clusters}u", [f"{to} = {start};"])
        for begin, end in self._runs(segment):
            column = "b" if not first else f"(b - {first}u)"
            add = f"{to} += g * {self.table}[{column} * {clusters}u + c];"
            body = [f"const {real} g = {self.value};", *loop("c", f"{clusters}u", [add])]
            lines += [f"for (b = {begin}; b < {end}; ++b) {{", *indented(body), "}"]
        return lines

    def _own_products(self, segment: _Segment, offset: int) -> Lines:
        """The products with the input's kept edges."""
        if not self.kept:
            return []
        d, start = self.size, self.unit.literal(0)
        if self._based(segment):
            start = f"{self.base} * {self.own}[c * {d}u + {d - 1}u]"
        body = [f"{self.unit.real.name} g = {start};"]
        for begin, end in self._runs(segment):
            body += [
                f"for (b = {begin}; b < {end}; ++b)",
                f"    g += {self.value} * {self.own}[c * {d}u + b];",
            ]
        body.append(f"p[{offset}u + c - kept] = g;")
        return ["for (c = kept; c < last; ++c) {", *indented(body), "}"]

    def _term(self, segments: list[_Segment], first: int, row: str, edge: str) -> str:
        """What an edge adds for its segments, whose products lie from number `first` on."""
        terms = []
        for number, segment in enumerate(segments, first):
            offset = number * self.stride
            product = f"p[{row}]" if not offset else f"p[{offset}u + {row}]"
            terms.append(f"{segment.factors}[{edge}] * {product}" if segment.factors else product)
        return " + ".join(terms)

    def _vector(self, chain: Chain, how: Reading) -> Lines:
        """The sums that one input of a vector adds to."""
        out = self.layer.outputs
        lines = [*self._features(chain), *self._next_input()]
        for part in range(self.layer.edges.parts):
            segments = self._of_part(part)
            for number, segment in enumerate(segments):
                lines += self._products(segment, number * self.stride)
            lines += [line.replace("@Q", f"{part}u") for line in how.position]
            edge = f"i * {out}u + j"
            if how.byte:
                lines += self._bytewise(how, segments)
                continue
            if self.kept:
                lines.append("near = kept;")
            term = self._term(segments, 0, "row", edge)
            lines += loop("j", f"{out}u", [*self._row(how, edge), f"y[j] += {term};"])
        if self.kept:
            lines.append("kept = last;")
        return lines

    def _bytewise(self, how: Reading, segments: list[_Segment]) -> Lines:
        """Several edges for each byte of indices."""
        each, mask, out = 8 // how.byte, (1 << how.byte) - 1, self.layer.outputs
        body = [f"const uint32_t byte = {how.bytes};"]
        for number in range(each):
            to = "j" if not number else f"j + {number}u"
            row = f"byte >> {how.byte * number}" if number else "byte"
            row = f"({row}) & {mask}u" if number else f"byte & {mask}u"
            term = self._term(segments, 0, f"({row})", f"i * {out}u + {to}")
            body.append(f"y[{to}] += {term};")
        return [f"for (j = 0; j < {out}u; j += {each}u) {{", *indented(body), "}"]

    # --- convolutions -----------------------------------------------------------------------------

    def _map(self, chain: Chain, how: Reading) -> Lines:
        """The sums that one input of a map adds to."""
        assert self.place.inside is not None
        out, parts = self.layer.outputs, self.layer.edges.parts
        wide = "uint8_t" if self.stride <= 256 else "uint16_t"
        rows = self.unit.scratch.want("rows", wide, self.taps * parts * out)
        lines = self._next_input()
        tap: Lines = []
        if self.kept:
            lines.append("near = kept;")
            tap.append("e = near;")
        for part in range(parts):
            tap += [line.replace("@Q", f"{part}u") for line in how.position]
            if self.kept:
                tap.append("near = e;")
            to = f"{rows}[(n * {parts}u + {part}u) * {out}u + j]"
            edge = f"(i * {self.taps}u + n) * {out}u + j"
            tap += self._read_rows(how, edge, to, wide)
        lines += loop("n", f"{self.taps}u", tap)
        pixel = self._features(chain)
        for number, segment in enumerate(self.segments):
            pixel += self._products(segment, number * self.stride)
        pixel += self._taps(rows, wide)
        height, width = self.place.inside
        lines += loop("py", f"{height}u", loop("px", f"{width}u", pixel))
        if self.kept:
            lines.append("kept = last;")
        return lines

    def _read_rows(self, how: Reading, edge: str, to: str, wide: str) -> Lines:
        out = self.layer.outputs
        if not how.byte:
            return loop("j", f"{out}u", [*self._row(how, edge), f"{to} = ({wide})row;"])
        each, mask = 8 // how.byte, (1 << how.byte) - 1
        body = [f"const uint32_t byte = {how.bytes};"]
        for number in range(each):
            place = to.replace("+ j]", f"+ j + {number}u]")
            body.append(f"{place} = ({wide})(byte >> {how.byte * number} & {mask}u);")
        return [f"for (j = 0; j < {out}u; j += {each}u) {{", *indented(body), "}"]

    def _taps(self, rows: str, wide: str) -> Lines:
        """What the products of a pixel add to, tap by tap."""
        out, parts = self.layer.outputs, self.layer.edges.parts
        real = self.unit.real.name
        body = [f"const {wide} *const q = {rows} + n * {parts * out}u;"]
        terms = []
        first = 0
        for part in range(parts):
            segments = self._of_part(part)
            row = f"q[{part * out}u + j]" if part else "q[j]"
            terms.append(self._term(segments, first, row, f"(i * {self.taps}u + n) * {out}u + j"))
            first += len(segments)
        add = f"to[j] += {' + '.join(terms)};"
        return self._places([*body, f"{real} *const to = @TO;", *loop("j", f"{out}u", [add])])

    def _places(self, body: Lines) -> Lines:
        """`body` for each tap `n` that has pixel `py`, `px` under it; `@TO` are the sums there."""
        assert self.window is not None
        assert self.place.outside is not None
        down, right = self.window.kernel
        height, width = self.place.outside
        stride, pad = self.window.stride, self.window.padding
        to = f"y + (below * {width}u + beside) * {self.layer.outputs}u"
        body = [line.replace("@TO", to) for line in body]
        skip: Lines = []
        for name, pixel, tap, size in (
            ("below", "py", f"n / {right}u", height),
            ("beside", "px", f"n % {right}u", width),
        ):
            skip.append(f"const uint32_t {name} = ({pixel} + {pad}u - {tap}) / {stride}u;")
            test = f"{pixel} + {pad}u < {tap} || {name} >= {size}u"
            if stride > 1:
                test += f" || ({pixel} + {pad}u - {tap}) % {stride}u"
            skip += [f"if ({test})", "    continue;"]
        return loop("n", f"{down * right}u", [*skip, *body])

    # --- dense layers -----------------------------------------------------------------------------

    def _dense(self, chain: Chain) -> Lines:
        layer, d, out = self.layer, self.size, self.layer.outputs
        cube = layer.edges.coefficients().reshape(out, -1, d)
        weights = self.unit.flash.add(f"weights{self.number}", cube.transpose(1, 0, 2))
        based, real = layer.form.base is not None, self.unit.real.name
        number = "i" if self.window is None else f"(i * {self.taps}u + n)"
        body = [f"const {real} *const w = {weights} + ({number} * {out}u + j) * {d}u;"]
        start = f"{self.base} * w[{d - 1}]" if based else self.unit.literal(0)
        body.append(f"{real} g = {start};")
        for begin, end in self._runs(self.segments[0]):
            body += [f"for (b = {begin}; b < {end}; ++b)", f"    g += {self.value} * w[b];"]
        if self.window is None:
            inner = [
                *self._features(chain),
                *loop("j", f"{out}u", [*body, "y[j] += g;"]),
            ]
            return loop("i", f"{layer.inputs}u", inner)
        assert self.place.inside is not None
        sums = [f"{real} *const to = @TO;", *loop("j", f"{out}u", [*body, "to[j] += g;"])]
        pixel = [*self._features(chain), *self._places(sums)]
        height, width = self.place.inside
        each = loop("py", f"{height}u", loop("px", f"{width}u", pixel))
        return loop("i", f"{layer.inputs}u", each)

    # --- work -------------------------------------------------------------------------------------

    def _count(self) -> None:
        """Multiplications and additions of a row, with those of the basis left out."""
        layer, unit = self.layer, self.unit
        pixels = 1 if self.place.inside is None else math.prod(self.place.inside)
        live = min(self.basis.live, self.basis.size) + (layer.form.base is not None)
        under = self._under() * layer.inputs * layer.outputs
        if self.edges is None:
            unit.multiplications += under * live
            unit.additions += under * live
            return
        vectors = layer.inputs * layer.edges.clusters + len(self.edges.kept_at)
        factors = sum(bool(segment.factors) for segment in self.segments)
        unit.multiplications += pixels * vectors * live + under * factors
        unit.additions += pixels * vectors * (live - 1) + under * len(self.segments)

    def _under(self) -> int:
        """Pairs of a pixel and a tap that meet, 1 of a vector."""
        if self.window is None:
            return 1
        assert self.place.inside is not None
        assert self.place.outside is not None
        sides = []
        for taps, inside, outside in zip(
            self.window.kernel, self.place.inside, self.place.outside, strict=True
        ):
            first = np.arange(outside)[:, None] * self.window.stride - self.window.padding
            pixels = first + np.arange(taps)
            sides.append(int(((pixels >= 0) & (pixels < inside)).sum()))
        return math.prod(sides)
