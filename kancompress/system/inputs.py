"""The bytes of inputs, read where they are needed and never mapped.

A mapped file that another process cuts short kills whoever reads the map. Here every read gets
memory of its own, and after each the file must still be the one that was opened, so that what was
read belongs together.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from io import FileIO
from itertools import accumulate, islice
from pathlib import Path

from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.system import files

# Descriptors that are open at a time: a checkpoint may lie in more shards than a process may open.
_MOST_OPEN = 64
# Times of files go by the ticks of the kernel's clock, of 10 ms at most: what is written within the
# same tick as the last change before it cannot be told from it.
_TICK = 20_000_000
_MOST_OF_A_DEVICE = 1 << 26
# Files of a directory that may be meant, how many are looked at, and how many a message names.
_CHECKPOINTS = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt"})
_INDEX = ".index.json"
_SHARD = re.compile(r"-\d+-of-\d+\.")
_MOST_ENTRIES = 10_000
_MOST_NAMES = 5
# How much of a name may be mistyped.
_NEAR = 0.75
# What knows the Hugging Face hub; loaded where a source lies there.
_HUB = "kancompress.system.hub"
_HUB_ROOT = "hf:"


class Data:
    """The bytes of an input. `data[a:b]` reads them, cut short at the end as slices are."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = memoryview(content)

    def __len__(self) -> int:
        return len(self._content)

    def __getitem__(self, place: slice) -> memoryview:
        """The bytes of a slice without a step: of a file in memory of their own, to be written to.

        Raises KancompressError where the file has changed since it was opened.
        """
        return self._content[place]


class Pieces(Data):
    """Bytes in several pieces that are as good as one; what lies in one of them is not copied."""

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._pieces = [memoryview(piece) for piece in pieces]
        self._ends = list(accumulate(map(len, self._pieces)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, place: slice) -> memoryview:
        begin, end, _ = place.indices(len(self))
        number, found = bisect_right(self._ends, begin), []
        while begin < end:
            start = self._ends[number] - len(self._pieces[number])
            found.append(self._pieces[number][begin - start : end - start])
            begin, number = self._ends[number], number + 1
        return found[0] if len(found) == 1 else memoryview(b"".join(found))


class FileData(Data):
    """The bytes of a regular file."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._stamp = _stamp(file)
        self._size = os.fstat(file.fileno()).st_size
        _pool.put(self, file)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> memoryview:
        begin, end, _ = place.indices(self._size)
        content = memoryview(bytearray(max(0, end - begin)))
        try:
            with _pool.lock:  # another thread must not have the file closed
                self._fill(content, begin)
        except OSError as error:
            raise _unreadable(self._path, error) from None
        return content

    def _fill(self, content: memoryview, begin: int) -> None:
        file = _pool.get(self) or self._reopened()
        done = 0
        while done < len(content):
            count = _read_into(content[done:], file, begin + done)
            if not count:
                raise self._changed()
            done += count
        if _stamp(file) != self._stamp:
            raise self._changed()

    def __del__(self) -> None:
        _pool.drop(self)

    def _reopened(self) -> FileIO:
        try:
            file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            raise self._changed() from None
        if _stamp(file) != self._stamp:
            file.close()
            raise self._changed()
        _pool.put(self, file)
        return file

    def _changed(self) -> KancompressError:
        return KancompressError(
            f"{self._path} was changed while it was read, so nothing was written. Run it again."
        )


class _Pool:
    """Files that are open, the one used last at the end."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self.lock = threading.RLock()

    def put(self, owner: FileData, file: FileIO) -> None:
        """Keep a file open, and close the one that was not used for longest."""
        with self.lock:
            self._files[id(owner)] = file
            if len(self._files) > _MOST_OPEN:
                self._files.popitem(last=False)[1].close()

    def get(self, owner: FileData) -> FileIO | None:
        """The file, where it is still open."""
        if id(owner) not in self._files:
            return None
        self._files.move_to_end(id(owner))
        return self._files[id(owner)]

    def drop(self, owner: FileData) -> None:
        """Close the file."""
        with self.lock:
            file = self._files.pop(id(owner), None)
        if file is not None:
            file.close()


_pool = _Pool()


def _stamp(file: FileIO) -> tuple[int, ...]:
    """What changes when a file is written to: its number, its size, its times.

    The time of the last change to its entry cannot be put back, as the other can.
    """
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read_into(content: memoryview, file: FileIO, begin: int) -> int:
    if hasattr(os, "preadv"):  # moves no position, which processes share after a fork
        return os.preadv(file.fileno(), [content[: 1 << 30]], begin)
    file.seek(begin)
    return file.readinto(content[: 1 << 30])


def found(source: str | os.PathLike[str]) -> tuple[Path, str]:
    """Where a source lies on this machine, and what messages call it.

    A file of the Hugging Face hub, `hf://OWNER/NAME/FILE`, is fetched into the hub's cache; of
    pykan's `saveckpt` the state is meant. Raises UsageError for what is no path, and for a name
    that can be none on the hub, InvalidFileError for what cannot be had from there,
    KancompressError without huggingface_hub.
    """
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            f"A file cannot be had from {type(source).__name__}; a path, or the bytes of a file,"
            " was expected."
        )
    if name := files.hub_name(source):
        path, called = import_module(_HUB).fetched(name)
        return path, called
    path = files.located(Path(source))
    if "".join(path.parts[:1]).lower() == _HUB_ROOT and not path.exists():
        raise UsageError(
            f"{os.fspath(source)} does not exist; names on the Hugging Face hub begin with"
            f" {files.HUB}, in small letters.",
            where=str(path),
        )
    return path, str(path)


def size_of(source: str | os.PathLike[str] | bytes) -> int | None:
    """Bytes of a file, or of what is in memory; None of what is no file, and of shards."""
    if isinstance(source, bytes):
        return len(source)
    path, _ = found(source)
    return path.stat().st_size if path.is_file() and not is_index(path.name) else None


def read(path: Path) -> Data:
    """Open a file. Raises InvalidFileError when there is none, or none to be read.

    What is no regular file, such as a pipe, is read to its end at once.
    """
    path = _here(path)
    try:
        file = path.open("rb", buffering=0)
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            with file:
                return Data(_to_its_end(path, file, found.st_mode))
        if 0 <= time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _TICK:
            time.sleep(_TICK / 1e9)
        return FileData(path, file)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def check(path: Path) -> None:
    """Refuse, before any work, a file that is not there or cannot be opened.

    What is no regular file, such as a pipe, is left for `read`. Raises InvalidFileError.
    """
    path = _here(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            path.open("rb", buffering=0).close()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _here(path: Path) -> Path:
    return found(path)[0] if files.hub_name(path) else path


def opened(
    source: str | os.PathLike[str] | bytes, name: str | None, otherwise: str
) -> tuple[Path | None, str, Data]:
    """The path of a source that has one, what messages call it, and its bytes.

    otherwise : what messages call bytes without a name
    Raises InvalidFileError for a file that is not there or cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return None, name or otherwise, Data(bytes(source))
    path, called = found(source)
    return path, name or called, read(path)


def _to_its_end(path: Path, file: FileIO, mode: int) -> bytes:
    """All that a pipe gives, or a device, which may have no end."""
    if not stat.S_ISCHR(mode):
        return file.readall()
    content = bytearray()
    while block := file.read(1 << 16):
        content += block
        if len(content) > _MOST_OF_A_DEVICE:
            raise InvalidFileError(
                Flaw.NOT_A_FILE, f"{path} is a device that gives bytes without end, not a file."
            )
    return bytes(content)


def candidates(names: Iterable[str]) -> list[str]:
    """Names of files that may be the checkpoint that is meant: indexes of shards first, and shards
    only where there is nothing else."""
    names = sorted(name for name in names if name.isprintable())
    others = [name for name in names if Path(name).suffix in _CHECKPOINTS]
    whole = [name for name in others if not _SHARD.search(name)]
    return [*filter(is_index, names), *whole] or others


def is_index(name: str) -> bool:
    """Whether a file's name is that of an index of shards."""
    return name.endswith(_INDEX)


def listed(names: list[str]) -> str:
    """Names of files as the end of a sentence, the first of them where they are many."""
    rest = len(names) - _MOST_NAMES
    more = f" and {rest:,} more" if rest > 0 else ""
    told = [f"{name} (an index of shards)" if is_index(name) else name for name in names]
    return f"{', '.join(told[:_MOST_NAMES])}{more}"


def _instead(directory: Path) -> str:
    """The files of a directory that may be meant, as the rest of a sentence."""
    try:
        names = [entry.name for entry in islice(os.scandir(directory), _MOST_ENTRIES)]
    except OSError:
        return ""
    meant = candidates(name for name in names if (directory / name).is_file())
    return f"; name a file in it: {listed(meant)}" if meant else ""


def meant(path: Path) -> str:
    """The file beside a path that is not there whose name is nearest, as a sentence; "" where none
    is near, and where its directory is not there either, that."""
    try:
        if not path.parent.is_dir():
            return f"There is no directory {path.parent}."
        names = [entry.name for entry in islice(os.scandir(path.parent), _MOST_ENTRIES)]
    except (OSError, ValueError):
        return ""
    near = {name.lower(): name for name in sorted(names) if name.isprintable()}
    given = path.name.lower()
    stems = [low for low in near if given and Path(low).stem == Path(given).stem]
    found = [*stems, *get_close_matches(given, near, n=1, cutoff=_NEAR)]
    return f"Did you mean {path.parent / near[found[0]]}?" if found else ""


def _unreadable(path: Path, error: OSError | ValueError) -> InvalidFileError:
    if isinstance(error, FileNotFoundError):
        return InvalidFileError(
            Flaw.MISSING, f"{path} does not exist.", where=str(path), hint=meant(path)
        )
    if isinstance(error, IsADirectoryError):
        return InvalidFileError(
            Flaw.NOT_A_FILE,
            f"{path} is a directory, not a file{_instead(path)}.",
            where=str(path),
        )
    reason = error.strerror if isinstance(error, OSError) else error
    return InvalidFileError(Flaw.UNREADABLE, f"{path} cannot be read: {reason}.", where=str(path))
