"""Limits around one call: seconds of the processor, and memory above what the process has.

Memory is limited as address space, so that a reservation counts even where it is never touched.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

PAGE = resource.getpagesize()
_MMAP_THRESHOLD = -3  # of glibc's mallopt
_hard = resource.getrlimit(resource.RLIMIT_AS)[1]
_statm = -1


class TooLongError(BaseException):
    """The time is over; no `except Exception` may hide it."""


def _ring(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TooLongError


def prepare() -> None:
    """To be called once in each process: large blocks go back to the system when they are freed."""
    global _statm
    _statm = os.open("/proc/self/statm", os.O_RDONLY)
    signal.signal(signal.SIGPROF, _ring)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 17)


def size() -> int:
    """Bytes of address space of this process."""
    return int(os.pread(_statm, 32, 0).split()[0]) * PAGE


def peak() -> int:
    """Most bytes of address space that this process ever had."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmPeak:")[2].split()[0]) * 1024


def attempt(
    function: Callable[[], Any], memory: int, seconds: float
) -> tuple[Any, BaseException | None]:
    """What `function` gives, or what it raises, within `memory` bytes more and some seconds."""
    resource.setrlimit(resource.RLIMIT_AS, (size() + memory, _hard))
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)
            result = function()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_AS, (_hard, _hard))
    except (Exception, TooLongError) as error:
        return None, error
    return result, None


def is_memory(error: BaseException) -> bool:
    """Whether memory was refused, in Python's words or in torch's."""
    text = str(error)
    return isinstance(error, MemoryError) or "allocate memory" in text or "std::bad_alloc" in text


def kind_of(error: BaseException, stage: str) -> str:
    """What failures of one cause have in common: the stage, the exception, where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}kancompress{os.sep}" in frame.filename]
    where = ""
    if ours:
        module = ours[-1].filename.rpartition(f"{os.sep}kancompress{os.sep}")[2]
        where = f" in {module.removesuffix('.py')}.{ours[-1].name}"
    if isinstance(error, TooLongError):
        return f"{stage}: too long{where}"
    if is_memory(error):
        return f"{stage}: too much memory{where}"
    return f"{stage}: {type(error).__name__}{where}"


def brief(error: BaseException) -> str:
    """The exception's own words, cut."""
    return f"{type(error).__name__}: {error}"[:300].encode("ascii", "backslashreplace").decode()
