"""How large an installation is: bytes of kancompress and of all that it needs, as installed here.

    python -m tests.benchmarks.installation

Optional parts, and packages that it does not need, are not counted.
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

# What a line names by itself; smaller packages are counted together.
LARGE = 20_000_000


def needed(name: str) -> dict[str, Distribution]:
    """A package and all that it needs, by name; of extras, those of whoever needs them."""
    found: dict[str, Distribution] = {}
    waiting = [(name, "")]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            one = distribution(name)
        except PackageNotFoundError:  # of another system, which a marker tells
            continue
        found[one.metadata["Name"].lower()] = one
        for line in one.requires or []:
            wanted, _, marker = line.partition(";")
            head = re.match(r"\s*([\w.-]+)\s*(?:\[([\w,\s-]+)\])?", wanted)
            assert head is not None
            asked = re.search(r"extra\s*==\s*['\"]([\w.-]+)['\"]", marker)
            if asked and asked[1] != extra:
                continue
            for more in (head[2] or "").split(",") or [""]:
                new = (head[1].lower(), more.strip())
                if new not in seen:
                    seen.add(new)
                    waiting.append(new)
    return found


def size(one: Distribution) -> int:
    """Bytes of the files that a package installed."""
    places = (Path(str(file.locate())) for file in one.files or [])
    return sum(place.stat().st_size for place in places if place.is_file())


if __name__ == "__main__":
    sizes = {name: (one.version, size(one)) for name, one in needed("kancompress").items()}
    print(f"Python {platform.python_version()}, {platform.system()} on {platform.machine()}")
    for name, (version, count) in sorted(sizes.items(), key=lambda item: -item[1][1]):
        if count >= LARGE:
            print(f"{name:28} {version:16} {count / 1e6:8,.0f} MB")
    rest = [count for _, count in sizes.values() if count < LARGE]
    print(f"{len(rest)} smaller packages {sum(rest) / 1e6:37,.0f} MB")
    print(f"all {sum(count for _, count in sizes.values()) / 1e6:50,.0f} MB")
