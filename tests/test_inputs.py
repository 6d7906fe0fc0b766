"""Inputs are read where they are needed; one that changes meanwhile is refused on every path."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_repacking import efficient_kan

import kancompress
from changing import Change, moments
from command import done, refused
from conftest import fresh
from kancompress.system import inputs

CHANGED = "was changed while it was read, so nothing was written. Run it again."


def test_slices_are_those_of_bytes(tmp_path: Path) -> None:
    content = os.urandom(100)
    (tmp_path / "file").write_bytes(content)
    for data in (inputs.Data(content), inputs.read(tmp_path / "file")):
        assert len(data) == 100
        for place in (slice(0, 8), slice(90, 200), slice(None), slice(50, 20), slice(-4, None)):
            assert bytes(data[place]) == content[place]


def test_what_is_read_of_a_file_can_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcd")
    data = inputs.read(path)
    data[0:2][:] = b"xy"
    assert bytes(data[:]) == path.read_bytes() == b"abcd"


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4)
        file.write(b"!")


def truncate(path: Path) -> None:
    os.truncate(path, 3)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"!")


CHANGES = [overwrite, truncate, lengthen]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_opening_is_told(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    data = inputs.read(path)
    assert bytes(data[2:4]) == b"23"
    change(path)
    with pytest.raises(kancompress.KancompressError) as caught:
        data[0:8]
    assert str(caught.value) == f"{path} {CHANGED}"
    assert caught.value.exit_code == 1


def test_a_change_in_the_tick_of_the_last_one_is_told(tmp_path: Path) -> None:
    """Times of files go by ticks: opening waits until the last change lies behind."""
    path = tmp_path / "file"
    for _ in range(30):
        path.write_bytes(b"0123456789")
        data = inputs.read(path)
        overwrite(path)
        with pytest.raises(kancompress.KancompressError):
            data[0:8]


def put_back(path: Path) -> None:
    """Overwrite a file and give it its time again, as copying with --preserve does."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def take_its_name(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("change", [put_back, take_its_name])
def test_what_hides_a_change_is_a_change(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    data = inputs.read(path)
    change(path)
    with pytest.raises(kancompress.KancompressError, match="was changed"):
        data[0:8]


def test_threads_read_more_files_than_may_be_open(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(2 * inputs._MOST_OPEN)]
    for number, path in enumerate(paths):
        path.write_bytes(f"{number:08}".encode() * 100)
    found = [inputs.read(path) for path in paths]

    def all_of_them(seed: int) -> list[bytes]:
        order = np.random.default_rng(seed).permutation(len(found))
        read = {int(number): bytes(found[number][:]) for number in order for _ in range(3)}
        return [read[number] for number in range(len(found))]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(all_of_them, range(8)))
    assert all(result == [path.read_bytes() for path in paths] for result in results)


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(3 * inputs._MOST_OPEN)]
    for number, path in enumerate(paths):
        path.write_bytes(f"{number}".encode())
    os.utime(paths[0], ns=(1, 1))
    found = [inputs.read(path) for path in paths]
    assert [bytes(data[:]) for data in found] == [path.read_bytes() for path in paths]
    paths[1].write_bytes(b"x")  # is closed, and opened again
    with pytest.raises(kancompress.KancompressError, match="was changed"):
        found[1][:]
    paths[2].unlink()
    with pytest.raises(kancompress.KancompressError, match="was changed"):
        found[2][:]
    found.clear()
    assert not inputs._pool._files


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no such devices here")
def test_a_device_without_end_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MOST_OF_A_DEVICE", 1 << 20)
    with pytest.raises(kancompress.InvalidFileError, match="/dev/zero is a device"):
        inputs.read(Path("/dev/zero"))
    assert not len(inputs.read(Path("/dev/null")))


@pytest.mark.parametrize(
    "line", ["cluster other.pt", "inspect other.pt", "inspect packed.st", "expand packed.st"]
)
def test_a_pipe_is_read_once(line: str, place: Path, tmp_path: Path) -> None:
    command, name = line.split()
    output = [] if command == "inspect" else ["-o", str(tmp_path / "out")]
    done(command, place / name, *output, "--json")
    expected = (tmp_path / "out").read_bytes() if output else done(command, place / name).stdout
    (tmp_path / "out").unlink(missing_ok=True)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes((place / name).read_bytes()))
    writer.start()
    result = done(command, pipe, *output)
    writer.join(10)
    if output:
        assert (tmp_path / "out").read_bytes() == expected
    else:
        assert result.stdout.replace(str(pipe), str(place / name)) == expected


@pytest.mark.slow
def test_a_pipe_that_is_drawn_is_read_once(place: Path, tmp_path: Path) -> None:
    done("inspect", place / "packed.st", "--plot-functions", tmp_path / "file.svg")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes((place / "packed.st").read_bytes()))
    writer.start()
    done("inspect", pipe, "--plot-functions", tmp_path / "pipe.svg")
    writer.join(10)
    # The title names the file; all else is the same.
    lengths = [(tmp_path / name).stat().st_size for name in ("file.svg", "pipe.svg")]
    assert max(lengths) < 1.2 * min(lengths)


# --- commands ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind."""
    folder = tmp_path_factory.mktemp("inputs")
    dense = fresh("gramkan", (64, 8, 10))
    kancompress.save(dense, folder / "dense.st")
    kancompress.save(kancompress.cluster(dense).model, folder / "packed.st")
    kancompress.save(fresh("metakan", (64, 8, 10)), folder / "meta.st")
    state = efficient_kan()
    save_file(state, folder / "other.safetensors")
    torch.save({"model": state, "opt": {"m": torch.ones(50)}}, folder / "other.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    chain = {name: tensor for name, tensor in state.items() if name.startswith("layers.")}
    save_file(chain, folder / "chain.safetensors")
    torch.save(chain, folder / "chain.pt")
    kept = kancompress.cluster(folder / "other.pt", keep_extra=True)
    kancompress.save(kept.model, folder / "kept.st")
    return folder


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "line",
    [
        "cluster dense.st", "cluster meta.st", "cluster other.safetensors", "cluster other.pt",
        "cluster legacy.pt", "cluster other.pt --keep-extra",
        "cluster dense.st --calibrate digits --samples 64 --method metric",
        pytest.param(
            "cluster chain.pt --calibrate rows.npz --method metric", marks=pytest.mark.slow
        ),
        pytest.param(
            "cluster chain.safetensors --calibrate rows.npz --method metric",
            marks=pytest.mark.slow,
        ),
        "expand packed.st", "expand kept.st",
        "inspect dense.st", "inspect packed.st --check", "inspect other.safetensors",
        "inspect other.pt -k 4", "eval dense.st", "eval packed.st",
        "finetune packed.st --epochs 1",
    ],
)  # fmt: skip
def test_every_command_refuses_an_input_that_changes(
    line: str, change: Callable[[Path], None], place: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Wherever in its reading; what was read before the change is not what is refused."""
    command, name, *options = line.split()
    source = tmp_path / name
    writes = command in ("cluster", "expand", "finetune")
    if "rows.npz" in options:
        np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(size=(64, 30)))
        options[options.index("rows.npz")] = str(tmp_path / "rows.npz")

    def run() -> list[str]:
        output = ["-o", str(tmp_path / "out"), "--force"] if writes else []
        return [command, str(source), *options, *output]

    source.write_bytes((place / name).read_bytes())
    numbers = moments(source, lambda: done(*run()), monkeypatch)
    (tmp_path / "out").unlink(missing_ok=True)
    assert numbers
    for number in numbers:
        source.write_bytes((place / name).read_bytes())
        monkeypatch.setattr(inputs, "_read_into", Change(source, number, change))
        told = refused(1, *run())
        assert told == f"{source} {CHANGED}"
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), " is a directory, not a file."),
        (("README.md", "sub/model.pt"), " is a directory, not a file."),
        (
            ("last.ckpt", "best.pt", "vgg.pth", "config.json"),
            "not a file; name a file in it: best.pt, last.ckpt, vgg.pth.",
        ),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json"),
            "name a file in it: model.safetensors.index.json (an index of shards).",
        ),
        (
            ("a-1-of-2.bin", "a.bin.index.json", "training_args.bin"),
            "name a file in it: a.bin.index.json (an index of shards), training_args.bin.",
        ),
        (("a-1-of-2.bin", "a-2-of-2.bin"), "name a file in it: a-1-of-2.bin, a-2-of-2.bin."),
        (
            tuple(f"epoch{n}.pt" for n in range(9)),
            "epoch0.pt, epoch1.pt, epoch2.pt, epoch3.pt, epoch4.pt and 4 more.",
        ),
        (("good.pt", "b\x1b[31mad.pt"), "name a file in it: good.pt."),
    ],
    ids=["empty", "others", "checkpoints", "index", "index and more", "shards", "many", "hostile"],
)  # fmt: skip
def test_a_directory_names_what_may_be_meant(
    names: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for command in ("inspect", "cluster"):
        output = ("-o", tmp_path / "new" / "out.st") if command == "cluster" else ()
        (tmp_path / "new").mkdir(exist_ok=True)
        assert refused(3, command, tmp_path, *output).endswith(said)
