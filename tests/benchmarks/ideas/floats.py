"""What an entropy coder without a model could save of float32 coefficients without loss.

    python -m tests.benchmarks.ideas.floats CHECKPOINT...

For each tensor of at least 2,000 numbers the order-0 entropy of the bytes, each of the four places
by itself, in what they take: a bound for every static coder of bytes. Once as they lie, and once
with the exponent's eight bits as a byte of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

LEAST = 2000


def shares(values: np.ndarray) -> tuple[float, float]:
    """Entropy of all bytes in their number, as they lie and with the exponent apart."""
    words = np.ascontiguousarray(values, dtype="<f4").reshape(-1).view(np.uint32)
    lower = [(words >> shift & 255).astype(np.uint8) for shift in (0, 8)]
    upper = [(words >> shift & 255).astype(np.uint8) for shift in (16, 24)]
    exponent = (words >> 23 & 255).astype(np.uint8)
    rest = (words >> 16 & 127 | words >> 24 & 128).astype(np.uint8)
    found = [sum(map(_entropy, [*lower, *two])) / 32 for two in (upper, [rest, exponent])]
    return found[0], found[1]


def _entropy(places: np.ndarray) -> float:
    """In bits a byte."""
    counts = np.bincount(places, minlength=256)
    p = counts[counts > 0] / len(places)
    return float(-(p * np.log2(p)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    print("| file | tensor | numbers | bytes as they lie | exponent apart |\n|---|---|---|---|---|")
    for path in parser.parse_args().checkpoints:
        for name, values in load_file(path).items():
            if values.dtype == np.float32 and values.size >= LEAST:
                lie, apart = shares(values)
                print(f"| {path.stem} | {name} | {values.size:,} | {lie:.3f} | {apart:.3f} |")


if __name__ == "__main__":
    main()
