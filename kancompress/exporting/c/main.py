"""A program around a header, to try it on a desktop."""

from __future__ import annotations

# `@P` stands for the prefix, `@U` for it in upper case.
_MAIN = """
/* Compiled as a program where this file is the one that is compiled, or @U_MAIN is defined. */
#if defined(@U_MAIN) || (defined(__INCLUDE_LEVEL__) && __INCLUDE_LEVEL__ == 0)
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line of standard input as a row: 1, at its end 0, for anything else -1 and a sentence. */
static int @P_row(float *x, unsigned long row)
{
    char text[64], *end;
    unsigned long count = 0;
    size_t length = 0;
    int c, cut, ends, comma = 0;
    for (;;) {
        c = getchar();
        if (c != EOF && !strchr(" ,;\\t\\n\\r", c)) {
            if (length + 1 < sizeof text)
                text[length++] = (char)c;
            continue;
        }
        if (length) {
            double value;
            text[length] = 0;
            value = strtod(text, &end);
            if (*end || !(value >= -FLT_MAX && value <= FLT_MAX)) {
                fprintf(stderr, "Row %lu: %s is no finite number.\\n", row, text);
                return -1;
            }
            if (count == @U_INPUTS) {
                fprintf(stderr, "Row %lu has more than %lu numbers.\\n", row,
                        (unsigned long)@U_INPUTS);
                return -1;
            }
            x[count++] = (float)value;
            length = 0;
            comma = 0;
        }
        cut = c == ',' || c == ';';
        ends = c == '\\n' || c == EOF;
        if ((cut && (comma || !count)) || (ends && comma)) {
            fprintf(stderr, "Row %lu has an empty field after %lu numbers.\\n", row, count);
            return -1;
        }
        comma = comma || cut;
        if (!ends)
            continue;
        if (count == @U_INPUTS)
            return 1;
        if (count) {
            fprintf(stderr, "Row %lu has %lu numbers; %lu were expected.\\n", row, count,
                    (unsigned long)@U_INPUTS);
            return -1;
        }
        if (c == EOF)
            return 0;
    }
}

int main(void)
{
    static @P_scratch scratch;
    static float x[@U_INPUTS], y[@U_OUTPUTS];
    unsigned long row;
    uint32_t i;
    int got;
    for (row = 1; (got = @P_row(x, row)) == 1; ++row) {
        @P_run(x, y, &scratch);
        for (i = 0; i < @U_OUTPUTS; ++i)
            printf("%s%.9g", i ? "," : "", (double)y[i]);
        printf("\\n");
    }
    return got < 0 ? 1 : 0;
}
#endif
"""


def main_of(prefix: str) -> str:
    """The program's text."""
    return _MAIN.replace("@P", prefix).replace("@U", prefix.upper())
