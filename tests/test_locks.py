"""Locks: created with their text and locked, taken over only where they are locks."""

import errno
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import ENVIRONMENT, refused
from kancompress import KancompressError, UsageError
from kancompress.system import locks, parts

pytestmark = pytest.mark.skipif(not parts.CAN_LOCK, reason="there are no locks here")
TEXT = b"not to be lost"
RUN = ("train", "--hidden", "4", "--epochs", "0", "-o", "out.st")


def listing(place: Path) -> dict[str, Any]:
    """What lies there: the bytes of files, where links lead, the number of names."""
    found: dict[str, Any] = {}
    for path in place.iterdir():
        kind = path.lstat()
        content: Any = stat.S_IFMT(kind.st_mode)
        if path.is_symlink():
            content = path.readlink()
        elif stat.S_ISREG(kind.st_mode):
            content = path.read_bytes()
        found[path.name] = (content, kind.st_nlink, kind.st_mtime_ns, kind.st_ino)
    return found


def symbolic(place: Path) -> None:
    (place / "mine").write_bytes(TEXT)
    (place / "out.st.state.lock").symlink_to("mine")


def symbolic_to_a_lock(place: Path) -> None:
    (place / "mine").write_text("kancompress lock: process 1 on here\n")
    (place / "out.st.state.lock").symlink_to("mine")


def dangling(place: Path) -> None:
    (place / "out.st.state.lock").symlink_to("nowhere")


def hard(place: Path) -> None:
    (place / "mine").write_bytes(TEXT)
    os.link(place / "mine", place / "out.st.state.lock")


def hard_of_a_lock(place: Path) -> None:
    (place / "mine").write_text("kancompress lock: process 1 on here\n")
    os.link(place / "mine", place / "out.st.state.lock")


def own(place: Path) -> None:
    (place / "out.st.state.lock").write_bytes(TEXT)


def empty(place: Path) -> None:
    (place / "out.st.state.lock").touch()


def longer(place: Path) -> None:
    (place / "out.st.state.lock").write_text("kancompress lock: process 1 on here\nand more\n")


def pipe(place: Path) -> None:
    os.mkfifo(place / "out.st.state.lock")


def directory(place: Path) -> None:
    (place / "out.st.state.lock").mkdir()


KINDS = [
    symbolic, symbolic_to_a_lock, dangling, hard, hard_of_a_lock, own, empty, longer, pipe,
    directory,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_no_lock_stays_as_it_is(
    kind: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind(tmp_path)
    before = listing(tmp_path)
    with (
        pytest.raises(UsageError, match=r"out\.st\.state\.lock is no lock of kancompress"),
        locks.held(Path("out.st.state")),
    ):
        pass
    assert listing(tmp_path) == before
    assert "so it stays as it is" in refused(2, *RUN, "--force")
    assert listing(tmp_path) == before


@pytest.mark.parametrize("text", ["kancompress lock: process 1 on here\n", "process 23 on there"])
def test_the_lock_of_a_process_that_is_gone_is_taken_over(text: str, tmp_path: Path) -> None:
    lock = tmp_path / "name.lock"
    lock.write_text(text)
    with locks.held(tmp_path / "name"):
        told = f"kancompress lock: process {os.getpid()} on {socket.gethostname()}\n"
        assert lock.read_text() == told
        assert [path.name for path in tmp_path.iterdir()] == ["name.lock"]
        assert lock.stat().st_nlink == 1
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from pathlib import Path
from kancompress import locks
with locks.held(Path("name")):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(place: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=place, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGXCPU, signal.SIGUSR1])
def test_the_next_run_copes_with_a_lock_whose_owner_a_signal_ended(
    number: int, tmp_path: Path
) -> None:
    with holder(tmp_path) as process:
        with (
            pytest.raises(KancompressError, match=f"in use: process {process.pid} on "),
            locks.held(tmp_path / "name"),
        ):
            pass
        process.send_signal(number)
        assert process.wait() == -number
    assert [path.name for path in tmp_path.iterdir()] == ["name.lock"]
    with locks.held(tmp_path / "name"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_replaced_meanwhile_is_not_ours_to_remove(tmp_path: Path) -> None:
    lock = tmp_path / "name.lock"
    with locks.held(tmp_path / "name"):
        lock.unlink()
        lock.write_bytes(TEXT)
    assert lock.read_bytes() == TEXT


@pytest.mark.parametrize("left", [None, "process 1 on here", "mine"])
def test_where_there_are_no_hard_links(
    left: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    lock = tmp_path / "name.lock"
    if left is not None:
        lock.write_text(left)
    if left == "mine":
        with (
            pytest.raises(UsageError, match="no lock of kancompress"),
            locks.held(lock.with_suffix("")),
        ):
            pass
        assert lock.read_text() == "mine"
        return
    with locks.held(tmp_path / "name"):
        # nothing here may open the file: a record lock goes when its process closes any descriptor
        child = os.fork()
        if not child:  # is another process, and does not have it
            try:
                with locks.held(tmp_path / "name"):
                    os._exit(1)
            except KancompressError as error:
                os._exit(0 if f"in use: process {os.getppid()} on " in str(error) else 2)
        assert os.waitpid(child, 0)[1] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    for name in ("n" * 251, "🙂" * 63):
        with (
            pytest.raises(KancompressError, match=r"could not be written: .*shorter name"),
            locks.held(tmp_path / name),
        ):
            pass
    with locks.held(tmp_path / ("n" * 250)):
        assert [path.name for path in tmp_path.iterdir()] == ["n" * 250 + ".lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", lambda *_: 3)
    with pytest.raises(KancompressError, match="No space left"), locks.held(tmp_path / "name"):
        pass
    assert list(tmp_path.iterdir()) == []


def contend(place: str, start: Any, rounds: int) -> None:
    start.wait()
    counter, name = Path(place, "counter"), Path(place, "name")
    done = 0
    while done < rounds:
        try:
            with locks.held(name):
                count = int(counter.read_text())
                counter.write_text(str(count + 1))
                done += 1
        except UsageError:
            raise  # a lock is never taken for something else
        except KancompressError:
            pass


def test_a_lock_has_one_owner_at_a_time_whoever_comes_and_goes(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [
        context.Process(target=contend, args=(str(tmp_path), start, 150)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "450"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]
