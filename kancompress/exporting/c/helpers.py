"""Functions of a header that its layers share; a header has those that it uses.

`@P` stands for the header's prefix, `@T` for the type of the computation, `@F` for the suffix of
its literals and of its functions of math.h.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from kancompress.exporting.c.memory import Real

HELPERS = {
    "sigmoid": """\
static inline @T @P_sigmoid(@T x)
{
    return 1.0@F / (1.0@F + exp@F(-x));
}""",
    "silu": """\
static inline @T @P_silu(@T x)
{
    return x / (1.0@F + exp@F(-x));
}""",
    "gelu": """\
static inline @T @P_gelu(@T x)
{
    return 0.5@F * x * (1.0@F + erf@F(x * 0.70710678118654752440@F));
}""",
    "elu": """\
static inline @T @P_elu(@T x)
{
    return x > 0.0@F ? x : expm1@F(x);
}""",
    "relu": """\
static inline @T @P_relu(@T x)
{
    return x > 0.0@F ? x : 0.0@F;
}""",
    "knots": """\
/* All B-splines of a degree on `count` ascending knots, by the recursion of Cox and de Boor. */
static inline void @P_knots(@T z, uint32_t degree, uint32_t count, const @T *knots, @T *f)
{
    uint32_t b, q;
    for (b = 0; b + 1u < count; ++b)
        f[b] = z >= knots[b] && z < knots[b + 1u] ? 1.0@F : 0.0@F;
    for (q = 1; q <= degree; ++q) {
        for (b = 0; b + q + 1u < count; ++b) {
            const @T left = knots[b + q] - knots[b], right = knots[b + q + 1u] - knots[b + 1u];
            const @T rise = left > 0.0@F ? (z - knots[b]) / left * f[b] : 0.0@F;
            const @T fall = right > 0.0@F ? (knots[b + q + 1u] - z) / right * f[b + 1u] : 0.0@F;
            f[b] = rise + fall;
        }
    }
}""",
    "series": """\
/* Polynomials by P_n = (a z + b) P_(n-1) + c P_(n-2), with a, b and c for each n from 1. */
static inline void @P_series(@T z, uint32_t degree, const @T *abc, @T *f)
{
    uint32_t n;
    f[0] = 1.0@F;
    for (n = 1; n <= degree; ++n, abc += 3)
        f[n] = (abc[0] * z + abc[1]) * f[n - 1u] + (n > 1u ? abc[2] * f[n - 2u] : 0.0@F);
}""",
    "stream": """\
/* Indices that are decoded one after another; docs/packed-format.md of kancompress, 4.1. */
typedef struct {
    uint32_t *states;
    const uint16_t *words;
    uint32_t lanes;
    uint32_t turn;
} @P_stream;

/* The next symbol, below `count`, by a table of where each one's share of 4096 begins. */
static inline uint32_t @P_symbol(@P_stream *stream, const uint16_t *begins, uint32_t count)
{
    uint32_t *const lane = &stream->states[stream->turn++ & (stream->lanes - 1u)];
    uint32_t state = *lane, low = 0;
    const uint32_t slot = state & 4095u;
    while (count > 1u) {
        const uint32_t half = count >> 1;
        low = begins[low + half] <= slot ? low + half : low;
        count -= half;
    }
    state = (uint32_t)(begins[low + 1u] - begins[low]) * (state >> 12) + slot - begins[low];
    if (state < 65536u)
        state = (state << 16) | *stream->words++;
    *lane = state;
    return low;
}""",
}


def splines(degree: int) -> str:
    """The B-splines of a degree that are not zero, by the recursion on equal intervals.

    No division: the recursion's are one factor, 1 / degree!.
    """
    first = [f"    w0 = {(1 / math.factorial(degree))!r}@F;"]
    for q in range(1, degree + 1):
        first.append(f"    w{q} = u * w{q - 1};")
        first += [
            f"    w{r} = (u + {q - r}.0@F) * w{r - 1} + ({r + 1}.0@F - u) * w{r};"
            for r in range(q - 1, 0, -1)
        ]
        first.append("    w0 = (1.0@F - u) * w0;")
    names = [f"w{r}" for r in range(degree + 1)]
    return _SPLINES.format(
        degree=degree,
        count=degree + 1,
        names=", ".join(names),
        recursion="\n".join(first),
        stored="\n".join(f"    f[{r}] = {name};" for r, name in enumerate(names)),
    )


_SPLINES = """\
/* {count} B-splines of degree {degree} in a row, with all that are not zero at t, which counts the
 * `size` intervals from the lower end of the grid; returns the number of the first. */
static inline uint32_t @P_splines{degree}(@T t, uint32_t size, @T *f)
{{
    const @T from = t + {degree}.0@F;
    @T u, {names};
    uint32_t interval, shift, r;
    if (!(from >= 0.0@F && from < (@T)(size + {degree}u + {degree}u))) {{
        for (r = 0; r < {count}u; ++r)
            f[r] = 0.0@F;
        return 0;
    }}
    interval = (uint32_t)from;
    u = t - ((@T)interval - {degree}.0@F);
{recursion}
{stored}
    if (interval < {degree}u) {{
        shift = {degree}u - interval;
        for (r = 0; r < {count}u; ++r)
            f[r] = r + shift < {count}u ? f[r + shift] : 0.0@F;
        return 0;
    }}
    if (interval >= size + {degree}u) {{
        shift = interval + 1u - size - {degree}u;
        for (r = {count}u; r-- > 0;)
            f[r] = r >= shift ? f[r - shift] : 0.0@F;
        return size - 1u;
    }}
    return interval - {degree}u;
}}"""


def text_of(texts: Iterable[str], prefix: str, real: Real) -> str:
    """The definitions of these helpers."""
    found = "\n\n".join(texts)
    return found.replace("@P", prefix).replace("@T", real.name).replace("@F", real.suffix)
