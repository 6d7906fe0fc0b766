"""A corpus: commands, and the checksums of the files that they write today.

    python -m tests.corpus write FILE [--cases DIR ...] [--stable]
    python -m tests.corpus compare FILE [--cases DIR ...] [--ignore KEY ...]

`write` runs the commands below on every checkpoint of tests/cases (and of each DIR, a folder of
folders as tests/cases is) and records the SHA-256 of each file that a command writes, or the exit
code and the sentence of one that is refused. `compare` runs the commands that FILE holds and lists
what has become different; its exit code is 1 if anything has. It needs the DIRs that `write` had.

Commands that compute with matrix products (calibration, --metric grid, training, meta-learners)
give the same bytes on the same machine with the same torch only, and torch files are written by
torch. `write --stable` leaves them out, so that its file holds everywhere; tests/corpus.json is
such a file. All commands run with one thread.

A packed file has a second checksum: of the payload and the document without its key `checksum`.
With `compare --ignore KEY`, which takes KEY out of the documents that are written now, packed files
are compared by that one: what else is in them has to be as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it

import kancompress
from command import call

CASES = Path(__file__).parent / "cases"
# Checkpoints and packed files that version 0.1.0 wrote; see the README there.
OLD = "v0.1"
NOT_CASES = {OLD, "hostile", "wild"}
# Layouts that a file does not tell, by how its folder's name begins.
LAYOUTS = {
    "tck_kabnconv": "kabn-conv",
    "tck_kajnconv": "kajn-conv",
    "tck_kalnconv": "kaln-conv",
}
Record = dict[str, Any]
FURTHER_PLAIN = {
    "brain": "-k 4 --force-pack --codebook-dtype bfloat16",
    "bytes": "--target-bytes 2800",
}
FEEDBACK = {"feedback": "-k 4 --force-pack --method feedback --codebook-dtype float16"}
RATIO = {"ratio": "-k auto --target-ratio 1.2"}
# Calibrations that some native models have beside those of all.
FURTHER = {
    "fastkan": RATIO,
    "gramkan": FEEDBACK,
    "metafastkan": FEEDBACK,
    "metakan": RATIO,
    "kanconv": FEEDBACK,
    "metagramkanconv": RATIO,
}


class Command(NamedTuple):
    """What is run in a case's folder; `stable` where its bytes are the same on all machines."""

    line: str
    stable: bool = True


# ---- which commands


def of_library(source: str, output: str, layout: str = "") -> Iterator[Command]:
    """Commands for another library's checkpoint; `output` is what the restored file is called."""
    source += f" --layout {layout}" if layout else ""
    torch_file = not output.endswith(".safetensors")
    for name, options in {
        "k8": "-k 8",
        "k3": "-k 3 --force-pack",
        "grid": "-k 8 --force-pack --metric grid",
        "extra": "-k 8 --force-pack --keep-extra",
        "scaler": "-k 8 --force-pack --keep-scaler",
        "half": "-k 8 --force-pack --codebook-dtype float16",
        "sides": "-k 8 --force-pack --codebook-dtype float16 --side-dtype float16",
    }.items():
        yield Command(f"cluster {source} {options} -o {name}.st", stable=name != "grid")
    for name in ("k3", "extra", "scaler", "half"):
        yield Command(f"expand {name}.st -o {name}-{output}", stable=not torch_file)
    yield Command(
        f"cluster {source} -k 8 --force-pack --calibrate io.safetensors --samples 16 -o io.st",
        stable=False,
    )


def of_native(name: str) -> Iterator[Command]:
    """Commands for a native checkpoint, `name.safetensors`."""
    source, stable = f"{name}.safetensors", not name.startswith("meta")
    digits = "--calibrate digits --samples 64"
    clusterings = {
        "k4": "-k 4 --force-pack",
        "k9": "-k 9 -k 1=3 --force-pack",
        "grid": "-k 4 --force-pack --metric grid",
        "half": "-k 4 --force-pack --codebook-dtype float16 --side-dtype float16",
    } | (FURTHER_PLAIN if name in ("gramkan", "metakan", "kanconv") else {})
    for label, options in clusterings.items():
        yield Command(f"cluster {source} {options} -o {label}.st", stable and label != "grid")
    yield Command("expand k4.st -o k4.safetensors", stable)
    yield Command("expand half.st -o half.safetensors", stable)
    calibrations = {"calibrated": "-k 4 --force-pack", "auto": "-k auto --target-bytes 2800"}
    if not stable:  # the same network once its coefficients are generated
        calibrations = {"metric": "-k 4 --force-pack --method metric"}
    calibrations |= FURTHER.get(name, {})
    for label, options in calibrations.items():
        yield Command(f"cluster {source} {digits} {options} -o {label}.st", stable=False)
    tune = "--epochs 1 --seed 1 --lr 0.001 --no-augment"
    for label, options in {
        "tuned": "finetune k4.st",
        "all": "finetune k4.st --also norms --also biases",
        "distilled": f"finetune half.st --distill {source}",
    }.items():
        yield Command(f"{options} {tune} -o {label}.st", stable=False)
    yield Command("expand tuned.st -o tuned.safetensors", stable=False)


def of_training() -> Iterator[Command]:
    """Commands that start from nothing."""
    common = "--epochs 1 --seed 3 --keep-state never"
    yield Command(f"train --model gramkan --hidden 4 {common} -o gramkan.st", stable=False)
    yield Command(f"train --model metafastkan --hidden 4 {common} -o metafastkan.st", stable=False)
    conv = "--model metakanconv --hidden 2,3 --no-augment"
    yield Command(f"train {conv} {common} -o metakanconv.st", stable=False)


def sources(folder: Path) -> Iterator[tuple[str, str]]:
    """What `cluster` is given of a case's folder, and a name for the file that is restored."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".pt", ".safetensors") and not path.stem.endswith("io"):
            yield path.name, path.name
        if path.name == "ckpt_state":  # pykan's saveckpt takes a prefix
            yield "ckpt", "ckpt.pt"


def all_commands(cases: Sequence[Path]) -> Iterator[tuple[str, list[Command]]]:
    """The commands that start from one source, under the name `folder/source`."""
    yield f"{OLD}/none", [*of_training()]
    for name in kancompress.ModelName:
        if (CASES / OLD / f"{name}.safetensors").exists():  # models that version 0.1 had
            yield f"{OLD}/{name}.safetensors", [*of_native(name)]
    yield f"{OLD}/trainer.pt", [*of_library("trainer.pt", "trainer.pt")]
    for folder in folders(cases):
        for source, output in sources(folder):
            layout = next((LAYOUTS[key] for key in LAYOUTS if folder.name.startswith(key)), "")
            yield f"{folder.name}/{source}", [*of_library(source, output, layout)]


def folders(cases: Sequence[Path]) -> list[Path]:
    """The folders of cases; of two with one name the first, which tests/cases has."""
    found: dict[str, Path] = {}
    for place in (CASES, *cases):
        for folder in sorted(place.iterdir()):
            if folder.is_dir() and folder.name not in NOT_CASES:
                found.setdefault(folder.name, folder)
    return list(found.values())


# ---- what they do


def contents(raw: bytes, ignored: Sequence[str] = ()) -> str | None:
    """The checksum of a packed file's payload and of its document without `checksum` and
    `ignored`; None of any other file. docs/packed-format.md, sections 1 and 2."""
    length = int.from_bytes(raw[:8], "little")
    try:
        metadata = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
        document = json.loads(metadata["kancompress"])
    except (ValueError, KeyError, AttributeError):
        return None
    if document["kind"] != "packed":
        return None
    left = {key: value for key, value in document.items() if key not in ("checksum", *ignored)}
    text = json.dumps(left, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(raw[8 + length :] + text.encode()).hexdigest()


def run(line: str, ignored: Sequence[str]) -> Record:
    """Run a command in the current directory; what it wrote there, or how it was refused."""
    before = {path.name for path in Path().iterdir()}
    result = call(*line.split())
    if result.exit_code:
        said = [text for text in result.stderr.splitlines() if text.startswith("kancompress: ")]
        sentence = "\n".join(said).replace(f"{Path.cwd()}/", "")
        return {"refused": result.exit_code, "says": sentence.removeprefix("kancompress: ")}
    record: Record = {}
    for path in sorted(Path().iterdir()):
        if path.name not in before:
            raw = path.read_bytes()
            record[path.name] = {"sha256": hashlib.sha256(raw).hexdigest()}
            if checksum := contents(raw, ignored):
                record[path.name]["contents"] = checksum
    return record


def run_all(folder: Path, lines: Sequence[str], ignored: Sequence[str] = ()) -> dict[str, Record]:
    """Run commands one after another in a copy of `folder`; what they did, by command."""
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copytree(folder, Path(place).resolve() / "case", ignore=_no_folders)
        for path in copy.iterdir():
            path.chmod(0o644)
        with contextlib.chdir(copy):
            return {line: run(line, ignored) for line in lines}


def _no_folders(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(folder) / name).is_dir()}


# ---- the two subcommands


def write(cases: Sequence[Path], stable: bool) -> dict[str, dict[str, Record]]:
    """Run all commands, or those whose bytes are the same everywhere, and record what they do."""
    place = {folder.name: folder for folder in (CASES / OLD, *folders(cases))}
    corpus = {}
    for name, commands in all_commands(cases):
        lines = [command.line for command in commands if command.stable or not stable]
        if lines:
            corpus[name] = run_all(place[name.partition("/")[0]], lines)
    return corpus


def differences(
    name: str, recorded: dict[str, Record], place: Path, ignored: Sequence[str] = ()
) -> list[str]:
    """A sentence for each command of the source `name` that does not do what is recorded."""
    found = run_all(place, [*recorded], ignored)
    return [
        f"{name}: {line}\n    was {_told(record, ignored)}\n    is  {_told(found[line], ignored)}"
        for line, record in recorded.items()
        if _told(record, ignored) != _told(found[line], ignored)
    ]


def _told(record: Record, ignored: Sequence[str]) -> str:
    if "refused" in record:
        return f"refused with {record['refused']}: {record['says']}"
    which = "contents" if ignored else "sha256"
    files = {name: sums.get(which, sums["sha256"]) for name, sums in record.items()}
    return ", ".join(f"{name} {checksum[:16]}" for name, checksum in files.items())


def as_text(corpus: dict[str, dict[str, Record]]) -> str:
    """JSON with one line for each command."""
    blocks = []
    for name, records in corpus.items():
        lines = [f"{json.dumps(line)}: {json.dumps(record)}" for line, record in records.items()]
        blocks.append(f"{json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def compare(path: Path, cases: Sequence[Path], ignored: Sequence[str]) -> int:
    """List what has become different; how many commands have."""
    place = {folder.name: folder for folder in (CASES / OLD, *folders(cases))}
    count = 0
    corpus = json.loads(path.read_text())
    for name, recorded in corpus.items():
        folder = name.partition("/")[0]
        if folder not in place:
            sys.exit(f"{path} has commands for the folder {folder}; give its parent with --cases.")
        for sentence in differences(name, recorded, place[folder], ignored):
            print(sentence, flush=True)
            count += 1
    print(f"{count} of {sum(map(len, corpus.values()))} commands differ")
    return count


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("write", "compare"):
        command = commands.add_parser(name)
        command.add_argument("file", type=Path, metavar="FILE")
        command.add_argument("--cases", type=Path, nargs="+", default=[], metavar="DIR")
    commands.choices["write"].add_argument("--stable", action="store_true")
    commands.choices["compare"].add_argument("--ignore", nargs="+", default=[], metavar="KEY")
    options = parser.parse_args()
    if options.command == "compare":
        return 1 if compare(options.file, options.cases, options.ignore) else 0
    options.file.write_text(as_text(write(options.cases, options.stable)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
