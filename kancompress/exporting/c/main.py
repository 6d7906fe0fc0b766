"""A program around a header, to try it on a desktop."""

from __future__ import annotations

# `@P` stands for the prefix, `@U` for it in upper case.
_MAIN = """
/* Compiled as a program where this file is the one that is compiled, or @U_MAIN is defined. */
#if defined(@U_MAIN) || (defined(__INCLUDE_LEVEL__) && __INCLUDE_LEVEL__ == 0)
#include <stdio.h>

/* The next number of standard input: 1, at its end 0, for anything else -1. */
static int @P_number(float *into)
{
    int c;
    do {
        c = getchar();
    } while (c == ' ' || c == ',' || c == ';' || c == '\\t' || c == '\\n' || c == '\\r');
    if (c == EOF)
        return 0;
    ungetc(c, stdin);
    return scanf("%f", into) == 1 ? 1 : -1;
}

int main(void)
{
    static @P_scratch scratch;
    static float x[@U_INPUTS], y[@U_OUTPUTS];
    unsigned long row = 1;
    uint32_t count = 0, i;
    int got;
    while ((got = @P_number(&x[count])) == 1) {
        if (++count < @U_INPUTS)
            continue;
        @P_run(x, y, &scratch);
        for (i = 0; i < @U_OUTPUTS; ++i)
            printf("%s%.9g", i ? "," : "", (double)y[i]);
        printf("\\n");
        count = 0;
        ++row;
    }
    if (got < 0)
        fprintf(stderr, "Row %lu has no number after %lu of %lu.\\n", row, (unsigned long)count,
                (unsigned long)@U_INPUTS);
    else if (count)
        fprintf(stderr, "Row %lu has %lu numbers; %lu were expected.\\n", row,
                (unsigned long)count, (unsigned long)@U_INPUTS);
    return got < 0 || count ? 1 : 0;
}
#endif
"""


def main_of(prefix: str) -> str:
    """The program's text."""
    return _MAIN.replace("@P", prefix).replace("@U", prefix.upper())
