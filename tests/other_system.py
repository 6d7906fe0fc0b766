"""A system that lacks what POSIX has and Windows has not, played on Linux.

    import other_system

    other_system.play()  # before anything of kancompress is imported

Modules are not there, nor are functions, flags and signals. A file that this process has open is
neither renamed nor replaced nor removed, and a directory is not opened. `os.open` has a text mode:
without O_BINARY it ends the process, for it would change line endings in what is written.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
FUNCTIONS = (
    "chown", "chroot", "copy_file_range", "fchdir", "fchmod", "fchown", "fork", "forkpty",
    "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpriority", "getuid", "killpg",
    "lchown", "lockf", "memfd_create", "mkfifo", "mknod", "nice", "openpty", "pathconf",
    "posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "preadv", "pwrite", "pwritev",
    "sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile",
    "setsid", "statvfs", "sync", "sysconf", "wait", "wait3", "wait4",
)  # fmt: skip
FLAGS = ("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "O_TMPFILE")
SIGNALS = (
    "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP",
    "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "setitimer",
    "pthread_sigmask", "sigwait",
)  # fmt: skip
# As on Windows; Linux calls this bit O_LARGEFILE and pays no heed to it.
BINARY = 0x8000
_SHARING_VIOLATION = 32
_OPEN = Path("/proc/self/fd")


def play() -> None:
    """Take it all away from this process."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for owner, names in ((os, (*FUNCTIONS, *FLAGS)), (signal, SIGNALS)):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    os.O_BINARY = BINARY  # type: ignore[attr-defined]
    os.open = _opening(os.open)  # type: ignore[assignment]
    for name in ("rename", "replace", "remove", "unlink"):
        setattr(os, name, guarded(getattr(os, name)))


def guarded(action: Callable[..., None]) -> Callable[..., None]:
    """`action` on paths, refused where one of them is a file that this process has open."""

    def act(*paths: Any, **options: Any) -> None:
        for path in paths:
            if is_open(path):
                error = PermissionError(13, "It is used by another process", os.fspath(path))
                error.winerror = _SHARING_VIOLATION  # type: ignore[attr-defined]
                raise error
        action(*paths, **options)

    return act


def is_open(path: Any) -> bool:
    """Whether this process has a file open."""
    try:
        found = Path(path).stat()
    except (OSError, TypeError):
        return False
    for one in _OPEN.iterdir():
        try:
            if os.path.samestat(found, one.stat()):
                return True
        except OSError:  # what listed the directory
            continue
    return False


def _opening(real: Callable[..., int]) -> Callable[..., int]:
    def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", path)
        if not flags & BINARY and os.fspath(path) != os.devnull:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            assert not caller.startswith("kancompress"), f"{caller} opens {path} as text"
        return real(path, flags, *rest, **options)

    return opened
