"""A name that one process at a time may write to.

The lock is a POSIX record lock on a file beside the named one, NAME.lock. The system takes it back
when the process ends, however it ends, so a lock file that a killed process left behind locks
nothing. Processes that the owner starts do not have the lock. Systems without such locks (Windows)
and file systems that refuse them lock nothing.

NAME.lock comes into being with its text and locked. What has that name already is taken over only
where it is a lock: a regular file of one name, with the text of a lock. All else stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from kancompress.errors import KancompressError, UsageError
from kancompress.system import parts

SUFFIX = ".lock"
# An earlier kancompress left the first words out.
_TEXT = re.compile(rb"(?:kancompress lock: )?(process [0-9]+ on [!-~]{0,255})\n?")
# Names that this process holds, and the process and thread that may hold them once more; a process
# that was forked from it finds its parent's here, and may not.
_held: dict[Path, tuple[int, int]] = {}
_guard = threading.Lock()
# Where nothing can be made, nor can the named file, which its writer tells.
_NO_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_ATTEMPTS = 100


def beside(path: Path) -> Path:
    """The lock file of a name."""
    return path.with_name(path.name + SUFFIX)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold `path`, which need not exist; the thread that holds it may do so again within.

    Raises KancompressError, which tells whose it is, where another process or thread holds it, and
    where the lock file cannot be written; UsageError where what has its name is no lock file.
    """
    target = path.resolve()
    me = (os.getpid(), threading.get_ident())
    with _guard:
        owner = _held.get(target)
        if owner is None or owner[0] != me[0]:
            _held[target] = me
    if owner == me:
        yield
        return
    if owner is not None and owner[0] == me[0]:
        raise _taken(path, "another thread of this process")
    lock = beside(target)
    mine = None
    try:
        mine = _locked(path, lock)
        yield
    finally:
        if mine is not None:
            with contextlib.suppress(OSError):
                if parts.is_name_of(lock, mine.handle):
                    lock.unlink()  # before it is free, or it might be the next owner's
            mine.leave()
        del _held[target]


def _locked(path: Path, lock: Path) -> parts.Part | None:
    """A lock file that this process has locked; None where nothing can be locked."""
    if not parts.CAN_LOCK:
        return None
    for _ in range(_ATTEMPTS):
        parts.sweep(lock)
        mine = parts.Part(lock)
        try:
            mine.make(0o666)
            if not mine.is_locked:
                mine.leave()
                return None
            _write_text(mine.handle)
            mine = _named(mine, lock)
        except OSError as error:
            mine.leave()
            if error.errno in _NO_PLACE:
                return None
            raise _cannot_write(path, error) from None
        except BaseException:
            mine.leave()
            raise
        if mine.handle >= 0:
            return mine
        _remove_if_left(path, lock)
    raise _taken(path, "another process")


def _write_text(handle: int) -> None:
    host = re.sub(r"[^!-~]", "?", socket.gethostname())[:255]
    text = f"kancompress lock: process {os.getpid()} on {host}\n".encode()
    if os.write(handle, text) < len(text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _named(mine: parts.Part, lock: Path) -> parts.Part:
    """The locked file, under its name alone; without a handle where something has that name."""
    try:
        parts.link(mine.path, lock)
        mine.unlink()
        return mine
    except FileExistsError:
        mine.leave()
        return mine
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    mine.leave()
    plain = parts.Part(lock)
    try:
        plain.handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | parts.FLAGS, 0o666)
    except FileExistsError:
        plain.leave()
        return plain
    try:
        _write_text(plain.handle)
        if not parts.lock(plain.handle):  # somebody looks at it already
            plain.leave()
    except BaseException:
        with contextlib.suppress(OSError):
            lock.unlink()  # with half its text nobody would know it for a lock
        plain.leave()
        raise
    return plain


def _remove_if_left(path: Path, lock: Path) -> None:
    """Remove the lock file that a killed process left.

    Raises KancompressError where its owner lives, UsageError where it is no lock file.
    """
    try:
        handle = parts.open_carefully(lock)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _no_lock(path, error.strerror or str(error)) from None
    try:
        found = _TEXT.fullmatch(os.read(handle, 1024))
        if not parts.lock(handle):
            if found:
                raise _taken(path, found[1].decode())
            raise _no_lock(path, "it has another text, and another process uses it")
        if not parts.is_name_of(lock, handle):
            return
        if not found:
            raise _no_lock(path, "it has another text")
        if os.fstat(handle).st_nlink != 1:
            raise _no_lock(path, "the file has another name as well")
        lock.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        os.close(handle)


def _cannot_write(path: Path, error: OSError) -> KancompressError:
    hint = " Give the output a shorter name." if error.errno == errno.ENAMETOOLONG else ""
    return KancompressError(
        f"{beside(path)} could not be written: {error.strerror or error}.{hint}"
    )


def _no_lock(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{beside(path)} is no lock of kancompress ({reason}), so it stays as it is. Move it away,"
        " or give this run another `path`.",
        where=str(beside(path)),
        fields=("path",),
    )


def _taken(path: Path, owner: str) -> KancompressError:
    return KancompressError(
        f"{path} is in use: {owner} runs with it. Wait until that run ends, stop it, or give this"
        " one another `path`.",
        where=str(path),
        fields=("path",),
    )
