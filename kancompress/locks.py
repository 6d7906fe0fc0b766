"""A name that one process at a time may write to.

The lock is a POSIX record lock on a file beside the named one, NAME.lock. The system takes it back
when the process ends, however it ends, so a lock file that a killed process left behind locks
nothing. Processes that the owner starts do not have the lock. Systems without such locks (Windows)
and file systems that refuse them lock nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from kancompress.errors import KancompressError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".lock"
# Names that this process holds, and the thread that may hold them once more.
_held: dict[Path, int] = {}


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold `path`, which need not exist; the thread that holds it may do so again within.

    Raises KancompressError, which tells whose it is, where another process or thread holds it.
    """
    target = path.resolve()
    me = threading.get_ident()
    if _held.get(target) == me:
        yield
        return
    if target in _held:
        raise _taken(path, "another thread of this process")
    lock = target.with_name(target.name + SUFFIX)
    handle = _locked(path, lock)
    _held[target] = me
    try:
        yield
    finally:
        del _held[target]
        if handle is not None:
            with contextlib.suppress(OSError):
                lock.unlink()  # before it is free, or it might be the next owner's
            os.close(handle)


def _locked(path: Path, lock: Path) -> int | None:
    """An open lock file that this process has locked; None where nothing can be locked."""
    if fcntl is None:
        return None
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return None  # nor can the state be written, which its writer tells
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.read(handle, 256).decode(errors="replace")
            os.close(handle)
            raise _taken(path, owner or "another process") from None
        except OSError:
            os.close(handle)
            with contextlib.suppress(OSError):
                lock.unlink()
            return None
        if _is_still(lock, handle):
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return handle
        os.close(handle)  # its owner took it away in between


def _is_still(lock: Path, handle: int) -> bool:
    try:
        return os.path.samestat(lock.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _taken(path: Path, owner: str) -> KancompressError:
    return KancompressError(
        f"{path} is in use: {owner} runs with it. Wait until that run ends, stop it, or give this"
        " one another --output."
    )
