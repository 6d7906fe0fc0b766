"""scikit-learn's digits from its own file, without what `sklearn.datasets` imports beside it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

_FILE = Path("datasets", "data", "digits.csv.gz")
_ROWS, _PIXELS, _TEST_ROWS = 1797, 64, 360


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 64) from 0 to 16, and digits (1797,), as `load_digits` gives them.

    `load_digits` reads them where this scikit-learn keeps its file elsewhere.
    """
    place = find_spec("sklearn")
    for folder in (place and place.submodule_search_locations) or ():
        path = Path(folder) / _FILE
        if path.is_file():
            rows = np.loadtxt(path, delimiter=",", ndmin=2)
            if rows.shape == (_ROWS, _PIXELS + 1):
                return rows[:, :-1], rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y.astype(np.int64)


def divide(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of 1,437 training rows and of 360 test rows, each digit in its share.

    The rows are those of scikit-learn's `train_test_split` with `test_size=0.2`, `stratify=y` and
    `random_state=0`.
    """
    draw = np.random.RandomState(0)
    digits, counts = np.unique(y, return_counts=True)
    train_counts = _shares(counts, len(y) - _TEST_ROWS, draw)
    test_counts = _shares(counts - train_counts, _TEST_ROWS, draw)
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for digit, first, second in zip(digits, train_counts, test_counts, strict=True):
        rows = draw.permutation(np.flatnonzero(y == digit))
        train.append(rows[:first])
        test.append(rows[first : first + second])
    return draw.permutation(np.concatenate(train)), draw.permutation(np.concatenate(test))


def _shares(counts: np.ndarray, total: int, draw: np.random.RandomState) -> np.ndarray:
    """`total` rows shared out in proportion to `counts`: rounded down, then one more for the
    largest remainders, drawn among equal ones."""
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    missing = int(total - shares.sum())
    for remainder in np.unique(exact - shares)[::-1]:
        if not missing:
            break
        (equal,) = np.where(exact - np.floor(exact) == remainder)
        chosen = draw.choice(equal, size=min(len(equal), missing), replace=False)
        shares[chosen] += 1
        missing -= len(chosen)
    return np.asarray(shares, dtype=np.int64)
