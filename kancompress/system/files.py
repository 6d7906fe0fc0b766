"""Bytes to paths: whole, verified, or not at all.

Writing goes to a file beside the target, which is read back, compared and only then renamed:
whatever interrupts the writer, the target is the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kancompress.errors import ClosedPipeError, KancompressError, UsageError
from kancompress.system import parts

# What names of files on the Hugging Face hub begin with, and what `Path` makes of it.
HUB = "hf://"
_HUB_ROOT = "hf:"
# Numbers that Windows gives its errors, and seconds to wait before a file is renamed once more.
_ACCESS_DENIED, _SHARING_VIOLATION = 5, 32
_PAUSES = (0.01, 0.05, 0.2, 0.5)


def hub_name(source: str | os.PathLike[str]) -> str | None:
    """The name on the Hugging Face hub that a source is, None for a path of this machine."""
    text = os.fspath(source)
    if isinstance(text, str) and text.startswith(HUB):
        return text
    if isinstance(source, Path) and source.parts[:1] == (_HUB_ROOT,):
        return HUB + "/".join(source.parts[1:])
    return None


def located(path: Path) -> Path:
    """`path`; where it is no file, but the prefix that pykan's `saveckpt` was given, its state."""
    state = path.with_name(f"{path.name}_state") if path.name else path
    try:
        return state if not path.is_file() and state.is_file() else path
    except (OSError, ValueError):  # a name that cannot be one is told when it is opened
        return path


def check_target(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse, before any work, a target that must not or cannot be written.

    Raises UsageError for an existing file without `force`, for one of `inputs` (also through
    links), for a directory and for a missing parent directory; KancompressError for a name or a
    directory that cannot be written.
    """
    try:
        _check_target(path, force=force, inputs=inputs)
    except OSError as error:
        raise _cannot_write(path, error) from None
    except (RuntimeError, ValueError) as error:  # a loop of links (Python < 3.13), a zero byte
        raise KancompressError(f"{path} could not be written: {error}.") from None


def _check_target(path: Path, *, force: bool, inputs: Iterable[Path]) -> None:
    if name := hub_name(path):
        raise UsageError(
            f"{name} is on the Hugging Face hub, where nothing is written. Write to a file here,"
            " and bring it there with: hf upload OWNER/NAME FILE"
        )
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file to write.")
    for source in map(Path, inputs):
        if _is_regular(path) and source.exists() and path.samefile(source):
            raise UsageError(f"{path} is the input itself; write to another file.")
    if not force:
        _refuse_existing(path)
    target = path.resolve()
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is not a directory; create it first.")
    if not path.exists():
        with contextlib.suppress(FileNotFoundError):
            target.lstat()  # a name that is too long
        if not os.access(target.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "its directory is not writable")


def is_same(first: Path, second: Path) -> bool:
    """Whether two names, of files that need not exist, are one: through links, and by letters alone
    that are small or capital where the file system does not tell these apart."""
    first, second = first.resolve(), second.resolve()
    if first == second:
        return True
    if str(first).casefold() != str(second).casefold():
        return False
    return _is_same_parent(first.parent, second.parent) and _ignores_case(first.parent)


def _is_same_parent(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _ignores_case(directory: Path) -> bool:
    """Whether a directory that is there is found with its letters' case swapped, too."""
    for path in (directory, *directory.parents):
        other = path.with_name(path.name.swapcase()) if path.name else path
        if other.name != path.name:
            return _is_same_parent(path, other)
    return False


def _is_regular(path: Path) -> bool:
    return path.exists() and path.is_file()


def write(path: Path, chunks: Iterable[bytes | memoryview], *, force: bool) -> int:
    """Write `chunks` to `path` atomically and verified; returns the number of bytes.

    Raises KancompressError when the bytes cannot be written or do not read back the same; the
    target is then what it was before. Raises ClosedPipeError for a named pipe whose reader went
    away.
    """
    with aside(path, chunks, force=force) as place:
        return place()


def write_together(
    outputs: Sequence[tuple[Path, Iterable[bytes | memoryview]]], *, force: bool
) -> list[int]:
    """Write several files as `write` does, all or none of them; returns their sizes.

    They take their names one directly after the other, in their order, once all are written and
    verified. Raises KancompressError when bytes cannot be written or do not read back the same;
    where only some names could be given, the message says which files are there. Raises
    ClosedPipeError for a named pipe whose reader went away.
    """
    with contextlib.ExitStack() as stack:
        places = [
            (str(path), stack.enter_context(aside(path, chunks, force=force)))
            for path, chunks in outputs
        ]
        if not force:
            for path, _ in outputs:
                _refuse_existing(path)
        return in_turn(places)


def in_turn(places: Sequence[tuple[str, Callable[[], int]]]) -> list[int]:
    """Give outputs their places, one directly after the other; returns their sizes.

    places : what messages call an output, and what writes or names it
    Raises what these raise, with what is there and what is not.
    """
    names = [name for name, _ in places]
    sizes: list[int] = []
    for number, (_, place) in enumerate(places):
        try:
            sizes.append(place())
        except KancompressError as error:
            if not number:
                raise
            there, missing = _listed(names[:number]), _listed(names[number:])
            raise error.followed(f"{there} written, {missing} not.") from None
    return sizes


def _listed(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


@contextlib.contextmanager
def aside(
    path: Path, chunks: Iterable[bytes | memoryview], *, force: bool
) -> Iterator[Callable[[], int]]:
    """Write `chunks` beside `path` and verify them; what is yielded gives them their name.

    It returns the number of bytes; both raise KancompressError when these cannot be written or do
    not read back the same. Without it nothing is left. A device or a named pipe, which has no
    "beside", is written to when it is called.
    """
    target = path.resolve()
    if path.exists() and not _is_regular(path):
        yield lambda: _write_through(path, chunks)
        return
    parts.sweep(target)
    part = parts.Part(target)
    try:
        size = _write_part(part, chunks, path)
        yield lambda: _name_part(part, target, path, size, force=force)
    finally:
        part.leave()


def _write_part(part: parts.Part, chunks: Iterable[bytes | memoryview], path: Path) -> int:
    try:
        part.make()
        return _write_and_compare(part.handle, chunks, path)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _name_part(part: parts.Part, target: Path, path: Path, size: int, *, force: bool) -> int:
    try:
        with contextlib.suppress(OSError):  # some file systems have no modes
            part.set_mode(_mode_for(target))
        if not part.is_locked:
            part.close()  # Windows renames no open file; what is locked stays so until it is named
        if force:
            _replace(part.path, target)
        elif not _placed(part.path, target):
            raise _exists(path)
        _sync_directory(target.parent)
    except OSError as error:
        raise _cannot_write(path, error) from None
    return size


def _refuse_existing(path: Path) -> None:
    if _is_regular(path):
        raise _exists(path)


def _exists(path: Path) -> UsageError:
    return UsageError(
        f"{path} exists already; use `force` to replace it, or another name.",
        where=str(path),
        fields=("force",),
    )


def _placed(aside: Path, target: Path) -> bool:
    """Give a file its name unless something has it, in one step where there are hard links."""
    try:
        parts.link(aside, target)
    except FileExistsError:
        return False
    except OSError:  # a system without them, or a file system
        if target.exists():
            return False
        _replace(aside, target)
    return True


def _replace(aside: Path, target: Path) -> None:
    """Rename over what may be there, on Windows once those let go who have it open for a moment:
    virus scanners and indexers look at every new file."""
    for pause in _PAUSES:
        try:
            aside.replace(target)
        except OSError as error:
            if not _is_in_use(error):
                raise
            time.sleep(pause)
        else:
            return
    aside.replace(target)


def _is_in_use(error: OSError) -> bool:
    """Whether Windows says that a file is open elsewhere; of a rename it says no more than that
    access is denied."""
    return getattr(error, "winerror", None) in (_ACCESS_DENIED, _SHARING_VIOLATION)


def _cannot_write(path: Path, error: OSError) -> KancompressError:
    hint = " Free some space or write elsewhere." if error.errno == errno.ENOSPC else ""
    if _is_in_use(error):
        hint = " If another program has it open, close it there and run this again."
    return KancompressError(f"{path} could not be written: {error.strerror or error}.{hint}")


def _write_through(path: Path, chunks: Iterable[bytes | memoryview]) -> int:
    try:
        with path.open("wb") as file:
            return sum(file.write(chunk) for chunk in chunks)
    except BrokenPipeError:
        raise ClosedPipeError(f"Whoever read {path} has closed it.") from None
    except OSError as error:
        raise _cannot_write(path, error) from None


def _write_and_compare(handle: int, chunks: Iterable[bytes | memoryview], path: Path) -> int:
    written, size = hashlib.sha256(), 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            view = view[os.write(handle, view[: 1 << 24]) :]
        written.update(chunk)
        size += len(chunk)
    os.fsync(handle)
    os.lseek(handle, 0, os.SEEK_SET)
    found = hashlib.sha256()
    while block := os.read(handle, 1 << 20):
        found.update(block)
    if found.digest() != written.digest():
        raise KancompressError(f"{path}: what was written does not read back the same; disk fault?")
    return size


def _mode_for(target: Path) -> int:
    """Mode of the file that is replaced, else what the umask gives new files."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
