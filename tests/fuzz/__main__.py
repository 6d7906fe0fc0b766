"""The command line of the programs; see the package."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it

SUBJECTS = {
    "packed": ("tests.fuzz.packed", "Packed"),
    "foreign": ("tests.fuzz.foreign", "Foreign"),
    "kills": ("tests.fuzz.kills", "Kills"),
    "changes": ("tests.fuzz.changes", "Changes"),
    "places": ("tests.fuzz.places", "Places"),
}


def main() -> int:
    import tests.fuzz
    from tests.fuzz import engine

    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=tests.fuzz.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--seed", type=int, default=0)
    how_long = parser.add_mutually_exclusive_group(required=True)
    how_long.add_argument("--seconds", type=float)
    how_long.add_argument("--count", type=int)
    how_long.add_argument("--case", type=int, help="write this case alone to --keep")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR")
    options = parser.parse_args()
    module, name = SUBJECTS[options.subject]
    subject = getattr(import_module(module), name)()
    if options.case is not None:
        case = engine.case_of(subject, options.seed, options.case)
        print("; ".join(case.story))
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{options.subject}-{options.case}.bin").write_bytes(case.raw)
        return 0
    report = engine.run(
        subject,
        seed=options.seed,
        count=options.count,
        seconds=options.seconds,
        processes=options.processes,
    )
    print("\n".join(report.lines()))
    if options.keep:
        engine.keep(report, options.keep)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
