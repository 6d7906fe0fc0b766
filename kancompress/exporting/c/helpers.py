"""Functions of a header that its layers share; a header has those that it uses.

`@P` stands for the header's prefix, `@T` for the type of the computation, `@F` for the suffix of
its literals and of its functions of math.h.
"""

from __future__ import annotations

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
    "splines": """\
/* The B-splines of a degree that are not zero at t, which counts intervals from the lower end of
 * the grid: f[*first] to below f[*stop]. */
static inline void @P_splines(@T t, uint32_t degree, uint32_t size, @T *f, uint32_t *first,
                              uint32_t *stop)
{
    @T w[17];
    const @T from = t + (@T)degree;
    @T rest;
    uint32_t interval, q, r;
    *first = 0;
    *stop = 0;
    if (!(from >= 0.0@F && from < (@T)(size + 2u * degree)))
        return;
    interval = (uint32_t)from;
    rest = t - ((@T)interval - (@T)degree);
    w[0] = 1.0@F;
    for (q = 1; q <= degree; ++q) {
        @T saved = 0.0@F;
        for (r = 0; r < q; ++r) {
            const @T share = w[r] / (@T)q;
            w[r] = saved + ((@T)(r + 1u) - rest) * share;
            saved = (rest + (@T)(q - 1u - r)) * share;
        }
        w[q] = saved;
    }
    *first = interval > degree ? interval - degree : 0u;
    *stop = interval < size + degree ? interval + 1u : size + degree;
    for (r = *first; r < *stop; ++r)
        f[r] = w[r + degree - interval];
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


def text_of(names: set[str], prefix: str, real: Real) -> str:
    """The definitions of these helpers, in their order."""
    found = "\n\n".join(text for name, text in HELPERS.items() if name in names)
    return found.replace("@P", prefix).replace("@T", real.name).replace("@F", real.suffix)
