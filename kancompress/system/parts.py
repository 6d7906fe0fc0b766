"""Hidden files that are written beside their target before they take its name.

A part is `.NAME.<20 hex digits>.part`. Its writer holds a POSIX record lock on it until it is gone,
and the system takes the lock back when the process ends, however it ends. Whoever writes the same
target next removes the parts that nobody holds. Where nothing can be locked (Windows, some file
systems), parts have 16 digits, and none is ever removed but by its own writer.

A record lock goes when its process closes any descriptor of the file. So no part that this process
writes is opened a second time; `_own` has the names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CAN_LOCK = fcntl is not None
FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# Neither a link nor a pipe is followed or waited for.
_CAREFUL = os.O_RDWR | FLAGS | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_LONGEST = 40
_own: set[str] = set()


class Part:
    """A hidden file beside `target`, still to be made.

    path, handle : its name and its descriptor, once `make` was called; whatever `make` did, `leave`
                   takes both away
    is_locked    : whether the system keeps others from taking it away
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target
        self.handle = -1
        self.is_locked = False

    def make(self, mode: int = 0o600) -> None:
        """Create the file, empty, and lock it. Raises OSError where there can be none."""
        lockable = CAN_LOCK
        while True:
            self._create(10 if lockable else 8, mode)
            if not lockable:
                return
            try:
                # somebody may find it before it is locked, and take it away
                if lock(self.handle) and is_name_of(self.path, self.handle):
                    self.is_locked = True
                    return
            except OSError:
                lockable = False
            self.leave()

    def _create(self, size: int, mode: int) -> None:
        name = f"{_start(self._target.name)}{os.urandom(size).hex()}.part"
        self.path = self._target.with_name(name)
        _own.add(name)  # before there is anything to sweep, or to take away
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, mode)

    def set_mode(self, mode: int) -> None:
        """Give the file its permissions. Raises OSError where there are none."""
        if os.name == "posix" and hasattr(os, "fchmod"):  # Windows knows "read-only" alone
            os.fchmod(self.handle, mode)

    def leave(self) -> None:
        """Take the name away, if the file still has it, and close the file."""
        try:
            gone = self.unlink()
        finally:
            self.close()
        if not gone:  # Windows removes no open file
            self.unlink()

    def unlink(self) -> bool:
        """Take the name away, if the file still has it; whether it has none now."""
        try:
            if self.path != self._target:
                self.path.unlink()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the file, which frees its lock."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            with contextlib.suppress(OSError):
                os.close(handle)
        _own.discard(self.path.name)


def lock(handle: int) -> bool:
    """Lock an open file; False where another process has it. Raises OSError where nothing can be
    locked."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def link(path: Path, name: Path) -> None:
    """Give a file a further name. Raises OSError, where nothing has further names with ENOTSUP."""
    if not hasattr(os, "link"):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    os.link(path, name)


def is_name_of(path: Path, handle: int) -> bool:
    """Whether `path` itself, and not through a link, is the open file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def sweep(target: Path) -> None:
    """Remove the parts of `target` whose writers are gone."""
    if not CAN_LOCK:
        return
    pattern = re.compile(rf"{re.escape(_start(target.name))}[0-9a-f]{{20}}\.part")
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for name in [entry.name for entry in entries if pattern.fullmatch(entry.name)]:
            if name not in _own:
                with contextlib.suppress(OSError):
                    _remove_if_left(target.with_name(name))


def _remove_if_left(path: Path) -> None:
    handle = open_carefully(path)
    try:
        if lock(handle) and is_name_of(path, handle):
            path.unlink()  # before it is free: a writer that waits for it sees that it is gone
    finally:
        os.close(handle)


def open_carefully(path: Path) -> int:
    """Open a regular file to read and write, through no link.

    Raises OSError, of number EINVAL for what is no regular file and ELOOP for a symbolic link.
    """
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "it is a symbolic link")
    handle = os.open(path, _CAREFUL) if stat.S_ISREG(mode) else -1
    if handle < 0 or not stat.S_ISREG(os.fstat(handle).st_mode):
        if handle >= 0:
            os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file")
    return handle


def _start(name: str) -> str:
    """How the parts of a target begin: with its name, or with what is its alone and fits."""
    if len(os.fsencode(name)) <= _LONGEST:
        return f".{name}."
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    while len(os.fsencode(name)) > _LONGEST - 13:
        name = name[:-1]
    return f".{name}~{digest}."
