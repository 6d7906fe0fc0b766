"""Files: whole, verified, or not at all; and never over an input."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

import kancompress
from command import call, done, only_line, refused, write_material
from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.formats import checkpoint as checkpoints
from kancompress.system import files, inputs


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("files"))


@pytest.fixture
def place(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a packed file, a meta checkpoint and a data file."""
    for name in ("packed.st", "meta.st", "classes.npz"):
        (tmp_path / name).write_bytes((material / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(place: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in place.iterdir()}


# --- reading -------------------------------------------------------------------------------


def test_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert bytes(inputs.read(path)[:]) == b"abc"
    path.write_bytes(b"")
    assert bytes(inputs.read(path)[:]) == b""


def test_read_of_a_pipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    os.close(writer)
    assert bytes(inputs.read(Path(f"/dev/fd/{reader}"))[:]) == b"abc"
    os.close(reader)


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("missing", Flaw.MISSING),
        (".", Flaw.NOT_A_FILE),
        ("file/inside", Flaw.UNREADABLE),
        ("loop", Flaw.UNREADABLE),
        ("n" * 300, Flaw.UNREADABLE),
        ("zero\0byte", Flaw.UNREADABLE),
    ],
)
def test_unreadable(name: str, flaw: Flaw, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidFileError) as caught:
        inputs.read(tmp_path / name)
    assert caught.value.flaw == flaw


def test_no_permission(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    line = refused(3, "inspect", "packed.st")
    assert line == "packed.st cannot be read: Permission denied."


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
def test_permissions(place: Path) -> None:
    (place / "packed.st").chmod(0)
    assert "Permission denied" in refused(3, "inspect", "packed.st")
    (place / "closed").mkdir(mode=0o500)
    assert "not writable" in refused(1, "cluster", "meta.st", "-o", "closed/out.st")


# --- the target ----------------------------------------------------------------------------


def test_check_target(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.touch()
    files.check_target(tmp_path / "new", force=False)
    files.check_target(old, force=True)
    for path, force, words in (
        (old, False, "`force`"),
        (tmp_path, True, "is a directory"),
        (tmp_path / "no" / "new", True, "create it first"),
        (old / "new", True, "is not a directory"),
    ):
        with pytest.raises(UsageError, match=words):
            files.check_target(path, force=force)


@pytest.mark.parametrize("name", ["n" * 256, "loop", "zero\0byte"])
def test_names_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(KancompressError, match="could not be written") as caught:
        files.check_target(tmp_path / name, force=False)
    assert caught.value.exit_code == 1


def test_a_directory_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(KancompressError, match="directory is not writable"):
        files.check_target(tmp_path / "new", force=False)


def aliases(place: Path, name: str) -> list[str]:
    """Other names of a file."""
    (place / "symbolic").symlink_to(name)
    (place / "second").symlink_to("symbolic")
    os.link(place / name, place / "hard")
    (place / "loop").symlink_to(place)
    return [name, f"./{name}", str(place / name), "symbolic", "second", "hard", f"loop/{name}"]


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("expand packed.st -o", "packed.st"),
        ("cluster meta.st -o", "meta.st"),
        ("finetune packed.st -o", "packed.st"),
        ("finetune packed.st --data classes.npz -o", "classes.npz"),
        ("train --data classes.npz -o", "classes.npz"),
        ("eval packed.st --data classes.npz --predictions", "classes.npz"),
        ("predict packed.st --data classes.npz --format npz -o", "classes.npz"),
        ("predict packed.st --data classes.npz --format npz -o", "packed.st"),
    ],
)
def test_an_input_is_not_written_over(
    command: str, own: str, force: tuple[str, ...], place: Path
) -> None:
    names = aliases(place, own)
    before = listing(place)
    for name in names:
        if "--predictions" in command and not name.endswith(".npz"):
            continue
        assert "input itself" in refused(2, *command.split(), name, *force)
    assert listing(place) == before


def test_predictions_are_not_written_over_the_network(place: Path) -> None:
    (place / "packed.st").rename("packed.safetensors")
    before = listing(place)
    command = ("eval", "packed.safetensors", "--predictions", "packed.safetensors", "--force")
    assert "input itself" in refused(2, *command)
    assert listing(place) == before


def test_force(place: Path) -> None:
    (place / "out.st").write_bytes(b"old")
    assert "--force" in refused(2, "expand", "packed.st", "-o", "out.st")
    assert (place / "out.st").read_bytes() == b"old"
    done("expand", "packed.st", "-o", "out.st", "--force")
    assert isinstance(kancompress.load("out.st"), kancompress.Checkpoint)


def test_an_output_is_refused_before_the_input_is_read(place: Path) -> None:
    (place / "out.st").touch()
    before = listing(place)
    for output, code in (("out.st", 2), ("no/out.st", 2), ("n" * 256, 1)):
        assert "missing" not in refused(code, "expand", "missing.st", "-o", output)
        assert "missing" not in refused(code, "train", "--data", "missing.npz", "-o", output)
    assert listing(place) == before


# --- writing -------------------------------------------------------------------------------


def test_write(tmp_path: Path) -> None:
    target = tmp_path / "new"
    assert files.write(target, [b"ab", b"", b"cd" * 9], force=False) == 20
    assert target.read_bytes() == b"ab" + b"cd" * 9
    with pytest.raises(UsageError, match="`force`"):
        files.write(target, [b"x"], force=False)
    assert files.write(target, [b"x"], force=True) == 1
    assert listing(tmp_path) == {"new": b"x"}


def test_modes(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        files.write(tmp_path / "new", [b"x"], force=False)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    files.write(tmp_path / "new", [b"y"], force=True)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


def test_a_link_stays_and_its_target_is_replaced(place: Path) -> None:
    (place / "far").mkdir()
    (place / "far" / "real.st").write_bytes(b"old")
    (place / "link.st").symlink_to("far/real.st")
    assert "--force" in refused(2, "expand", "packed.st", "-o", "link.st")
    done("expand", "packed.st", "-o", "link.st", "--force")
    assert (place / "link.st").is_symlink()
    assert isinstance(kancompress.load(place / "far" / "real.st"), kancompress.Checkpoint)
    assert [path.name for path in (place / "far").iterdir()] == ["real.st"]


def test_a_link_to_nothing_is_followed(place: Path) -> None:
    (place / "link.st").symlink_to("made.st")
    done("expand", "packed.st", "-o", "link.st")
    assert (place / "link.st").is_symlink()
    assert not (place / "made.st").is_symlink()
    (place / "bad.st").symlink_to("no/made.st")
    assert "create it first" in refused(2, "expand", "packed.st", "-o", "bad.st")


def test_long_names(place: Path) -> None:
    name = "🙂" * 60
    done("expand", "packed.st", "-o", name)
    assert sorted(listing(place)) == ["classes.npz", "meta.st", "packed.st", name]


def test_devices_stay_devices(place: Path) -> None:
    for name in ("/dev/null", "link"):
        if name == "link":
            (place / name).symlink_to("/dev/null")
        done("expand", "packed.st", "-o", name)
        assert stat.S_ISCHR(Path(name).stat().st_mode)
    if Path("/dev/full").exists():
        line = refused(1, "expand", "packed.st", "-o", "/dev/full")
        assert "/dev/full could not be written: No space" in line
        assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def fail_with(number: int) -> Any:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call_name", ["open", "write", "fsync", "read"])
@pytest.mark.parametrize("old", [b"old", None])
def test_an_error_leaves_the_old_file_or_none(
    call_name: str, old: bytes | None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old is not None:
        (place / "out.st").write_bytes(old)
    before = listing(place)
    kancompress.load("packed.st")  # all that is imported late is there now
    with monkeypatch.context() as patch:
        patch.setattr(files.os, call_name, fail_with(errno.ENOSPC))
        result = call("expand", "packed.st", "-o", "out.st", "--force")
    assert result.exit_code == 1
    line = only_line(result.stderr)
    assert "out.st could not be written: No space left on device. Free some space" in line
    assert listing(place) == before


def test_an_error_of_the_rename(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listing(place)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_with(errno.EIO))
        line = refused(1, "expand", "packed.st", "-o", "out.st", "--force")
    assert "out.st could not be written: Input/output error" in line
    assert listing(place) == before


def test_what_does_not_read_back_is_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = os.read, listing(place)

    def flip(handle: int, count: int) -> bytes:
        found = bytearray(real(handle, count))
        if found:
            found[len(found) // 2] ^= 4
        return bytes(found)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "read", flip)
        line = refused(1, "expand", "packed.st", "-o", "out.st", "--force")
    assert "does not read back" in line
    assert listing(place) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_whatever_ends_the_writer_leaves_no_part(
    error: type[BaseException], tmp_path: Path
) -> None:
    def chunks() -> Any:
        yield b"half"
        assert len(list(tmp_path.iterdir())) == 1
        raise error

    with pytest.raises(error):
        files.write(tmp_path / "out", chunks(), force=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert files.write(tmp_path / "first", [b"a", b"bc"], force=False) == 3
    assert listing(tmp_path) == {"first": b"abc"}
    (tmp_path / "first").unlink()

    def chunks() -> Any:
        target.write_bytes(b"somebody else's")
        yield b"mine"

    with pytest.raises(UsageError, match="`force`"):
        files.write(target, chunks(), force=False)
    assert listing(tmp_path) == {"out": b"somebody else's"}


def test_what_cannot_be_read_again_is_not_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is encoded and decoded before the first byte goes anywhere."""
    real, before = checkpoints.pieces, listing(place)

    def short(record: Any) -> list[bytes | memoryview]:
        *others, last = real(record)
        return [*others, last[:-1]]

    monkeypatch.setattr(checkpoints, "pieces", short)
    for output in ("out.st", "-"):
        line = refused(1, "expand", "packed.st", "-o", output)
        assert "Nothing was written: the new file ends 1 bytes too early" in line
    assert listing(place) == before
