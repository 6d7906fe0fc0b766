"""Parts: what killed writers left goes with the next one, and nothing else does."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command import ENVIRONMENT
from kancompress.errors import KancompressError, UsageError
from kancompress.system import files, parts

pytestmark = pytest.mark.skipif(not parts.CAN_LOCK, reason="there are no locks here")

# Writes half a file to the target, says so, and waits.
WRITER = """
import sys, time
from pathlib import Path
from kancompress.system import files
def chunks():
    yield b"half"
    print("half", flush=True)
    time.sleep(60)
files.write(Path(sys.argv[1]), chunks(), force=True)
"""


def writer(target: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(target)], env=ENVIRONMENT, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "half\n"
    return process


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("name", ["out.st", "n" * 255, "🙂" * 60, "a[b]*.\\d", "-"])
def test_the_part_of_a_killed_writer_goes_and_that_of_a_living_one_stays(
    name: str, tmp_path: Path
) -> None:
    target = tmp_path / name
    with writer(target) as dead, writer(target) as alive:
        assert len(names(tmp_path)) == 2
        dead.kill()
        dead.wait()
        files.write(target, [b"whole"], force=True)
        left = set(names(tmp_path)) - {name}
        assert len(left) == 1
        alive.send_signal(signal.SIGSTOP)  # alive all the same
        files.write(target, [b"again"], force=True)
        assert set(names(tmp_path)) == {name, *left}
        alive.kill()
        alive.wait()
    files.write(target, [b"whole"], force=True)
    assert names(tmp_path) == [name]
    assert target.read_bytes() == b"whole"


def test_nothing_else_is_touched(tmp_path: Path) -> None:
    digits = "0123456789abcdef0123"
    others = [
        f".out.st.{digits}.part.", f"out.st.{digits}.part", f".out.st.{digits[:-1]}.part",
        f".out.st.{digits}0.part", f".out.st.{digits.upper()}.part", f".out_st.{digits}.part",
        f".other.st.{digits}.part", f".out.st.st.{digits}.part", f"x.out.st.{digits}.part",
        f".out.st.{digits}.part\n", ".out.st.0123456789abcdef.part", ".out.st.part",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "far").write_bytes(b"mine")
    (tmp_path / f".out.st.{'1' * 20}.part").symlink_to("far")
    os.mkfifo(tmp_path / f".out.st.{'2' * 20}.part")
    (tmp_path / f".out.st.{'3' * 20}.part").mkdir()
    kept = names(tmp_path)
    (tmp_path / f".out.st.{'4' * 20}.part").write_bytes(b"left")
    files.write(tmp_path / "out.st", [b"x"], force=False)
    assert names(tmp_path) == sorted([*kept, "out.st"])
    assert (tmp_path / "far").read_bytes() == b"mine"


def test_names_that_begin_alike_have_parts_of_their_own(tmp_path: Path) -> None:
    first, second = tmp_path / ("n" * 60 + "1"), tmp_path / ("n" * 60 + "2")
    part = parts.Part(first)
    part.make()
    os.close(part.handle)  # as a killed process leaves it
    parts._own.discard(part.path.name)
    files.write(second, [b"x"], force=False)
    assert part.path.exists()
    files.write(first, [b"x"], force=False)
    assert names(tmp_path) == [first.name, second.name]


def test_two_threads_may_write_the_same_target(tmp_path: Path) -> None:
    target = tmp_path / "out"
    half, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"slow"
        half.set()
        go_on.wait()

    thread = threading.Thread(target=lambda: files.write(target, slowly(), force=True))
    thread.start()
    half.wait()
    try:
        files.write(target, [b"quick"], force=True)
        assert target.read_bytes() == b"quick"
        # nor may another process take it now, for all that this one has opened and closed
        sweep = "from kancompress.system import parts; parts.sweep(parts.Path(sys.argv[1]))"
        script = [sys.executable, "-c", f"import sys; {sweep}", str(target)]
        subprocess.run(script, env=ENVIRONMENT, check=True)
        assert len(names(tmp_path)) == 2
    finally:
        go_on.set()
        thread.join()
    assert target.read_bytes() == b"slow"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("moment", ["created", "locked"])
def test_a_part_that_is_swept_as_it_is_created_is_made_again(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its creation and its lock a part looks as if nobody had it."""
    real, swept = parts.lock, []

    def lock(handle: int) -> bool:
        if not swept:
            swept.extend(names(tmp_path))
            child = os.fork()
            if not child:
                parts._own.clear()
                swept.append("not again")
                parts.sweep(tmp_path / "out")
                os._exit(0)
            os.waitpid(child, 0)
            assert names(tmp_path) == []
            if moment == "created":
                return False  # the other one still had it
        return real(handle)

    monkeypatch.setattr(parts, "lock", lock)
    assert files.write(tmp_path / "out", [b"abc"], force=False) == 3
    assert len(swept) == 1
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"abc"


def test_where_nothing_can_be_locked_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / f".out.{'0' * 20}.part"
    left.write_bytes(b"left")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(parts.fcntl, "lockf", refuse)

    def chunks() -> Iterator[bytes]:
        yield b"x"
        mine = set(names(tmp_path)) - {left.name}
        # by its name nobody ever takes it for a dead one
        assert [len(name) for name in mine] == [len(left.name) - 4]

    files.write(tmp_path / "out", chunks(), force=False)
    monkeypatch.setattr(parts, "CAN_LOCK", False)
    files.write(tmp_path / "out", [b"y"], force=True)
    assert names(tmp_path) == [left.name, "out"]


def hammer(place: str, start: Any, rounds: int) -> None:
    start.wait()
    for number in range(rounds):
        files.write(Path(place, "out"), [b"%d " % os.getpid(), b"%d" % number], force=True)


def test_writers_of_one_target_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=hammer, args=(str(tmp_path), start, 60)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert names(tmp_path) == ["out"]


# --- several outputs -----------------------------------------------------------------------


def test_outputs_of_one_run_take_their_names_together(tmp_path: Path) -> None:
    paths = [tmp_path / "b", tmp_path / "a"]
    seen: list[list[str]] = []

    def last() -> Iterator[bytes]:
        seen.append([name for name in names(tmp_path) if not name.startswith(".")])
        yield b"xyz"

    assert files.write_together([(paths[0], [b"x"]), (paths[1], last())], force=False) == [1, 3]
    assert seen == [[]]
    assert [path.read_bytes() for path in paths] == [b"x", b"xyz"]
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")])
def test_where_one_cannot_be_written_there_is_none(fault: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise fault

    outputs = [(tmp_path / "a", iter([b"new"])), (tmp_path / "b", broken())]
    with pytest.raises((KeyboardInterrupt, KancompressError)):
        files.write_together(outputs, force=True)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_where_one_appears_meanwhile_there_is_none(tmp_path: Path) -> None:
    def late() -> Iterator[bytes]:
        yield b"x"
        (tmp_path / "b").write_bytes(b"somebody else's")

    with pytest.raises(UsageError, match="b exists already"):
        files.write_together([(tmp_path / "a", [b"y"]), (tmp_path / "b", late())], force=False)
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize("force", [True, False])
def test_a_second_name_that_fails_says_what_is_there(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, link = Path.replace, os.link

    def fail_for_b(function: Any) -> Any:
        def call(source: Any, target: Any) -> Any:
            if Path(target).name == "b":
                raise OSError(errno.EIO, "Input/output error")
            return function(source, target)

        return call

    monkeypatch.setattr(Path, "replace", fail_for_b(place))
    monkeypatch.setattr(os, "link", fail_for_b(link))
    outputs = [(tmp_path / name, [name.encode()]) for name in "abc"]
    with pytest.raises(KancompressError) as caught:
        files.write_together(outputs, force=force)
    told = str(caught.value)
    assert "b could not be written: Input/output error." in told
    assert told.endswith(f"{tmp_path}/a is written, {tmp_path}/b and {tmp_path}/c are not.")
    assert names(tmp_path) == ["a"]
