"""What commands wrote when tests/corpus.json was made, they write today, byte for byte.

Version 0.1 did not say what other libraries' layers compute; `forms` in the document, which does,
is left out of the comparison.

It holds the commands of tests/corpus.py on tests/cases, those of them whose bytes are the same on
every machine: plain clustering and expansion of native networks and of other libraries'
safetensors files. Left out are calibration, `--metric grid`, `-k auto`, fine-tuning, training and
meta-learners, whose sums depend on the processor and on torch, and restored torch files, which
torch writes;
`python -m tests.corpus write` and `compare` hold those still on one machine.
"""

import json
from pathlib import Path

import pytest

import corpus
from command import done

CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())
PLACES = {path.name: path for path in corpus.CASES.iterdir()}


@pytest.mark.parametrize("source", CORPUS)
def test_commands_write_what_they_wrote(source: str) -> None:
    place = PLACES[source.partition("/")[0]]
    assert corpus.differences(source, CORPUS[source], place, ["forms"]) == []


def test_every_stable_command_is_recorded() -> None:
    assert {source: [*records] for source, records in CORPUS.items()} == {
        source: lines
        for source, commands in corpus.all_commands([])
        if (lines := [command.line for command in commands if command.stable])
    }


def test_a_key_of_the_document_can_be_ignored(tmp_path: Path) -> None:
    source = corpus.CASES / corpus.OLD / "gramkan.safetensors"
    done("cluster", source, "-k", "4", "-o", tmp_path / "packed.st")
    raw = (tmp_path / "packed.st").read_bytes()
    longer = _with_key(raw, "forms", {"x": [1, 2]})
    assert corpus.contents(longer) != corpus.contents(raw)
    assert corpus.contents(longer, ["forms"]) == corpus.contents(raw) is not None
    assert corpus.contents(longer[:-1] + b"x", ["forms"]) != corpus.contents(raw)
    assert corpus.contents(source.read_bytes()) is None


def _with_key(raw: bytes, key: str, value: object) -> bytes:
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    document = json.loads(header["__metadata__"]["kancompress"])
    document |= {key: value, "checksum": "sha256-" + "A" * 44}
    header["__metadata__"]["kancompress"] = json.dumps(document)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]
