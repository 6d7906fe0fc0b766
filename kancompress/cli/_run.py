"""What surrounds every command: errors become sentences and exit codes.

0 done, 1 failed, 2 usage, 3 unreadable or invalid input, 4 a gate is missed, 130 interrupted, 141
the reader of standard output has gone, 128 + n stopped by signal n.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

import kancompress
from kancompress.cli import _output, _streams
from kancompress.cli._bundles import Flat
from kancompress.cli._options import noted, option_of
from kancompress.errors import ClosedPipeError, KancompressError
from kancompress.system import torchrun as launch
from kancompress.warnings import KancompressWarning

# click's ClickException, which typer may bring along and does not export
_ParseError: Any = typer.BadParameter.__mro__[2]
# Made now: there may be no memory to make them when they are needed.
_NO_MEMORY = "Not enough memory for this; try a smaller network, fewer clusters or fewer rows."
_NO_WORDS = "Internal error, and its report failed. Run it again with --debug and report it."
_reserve = [bytearray(1 << 20)]
# Small objects, whose memory the end needs once all is told: each frame on its way takes some.
_for_the_end = [object() for _ in range(1 << 13)]
_said = False
_LINES = {text: f"kancompress: {text}\n" for text in (_NO_MEMORY, _NO_WORDS)}
_BYTES = {text: line.encode() for text, line in _LINES.items()}


# Options that are looked for in a command that has them under another name.
_ROWS = "rows to cluster by outputs are given with --calibrate DATA, a file or a data set's name"
_ELSEWHERE = {
    ("cluster", "--data"): _ROWS,
    ("cluster", "--dataset"): _ROWS,
    ("train", "--calibrate"): "give it to cluster",
    ("finetune", "--calibrate"): "rows are given with --data FILE or --dataset NAME",
    ("eval", "--calibrate"): "rows are given with --data FILE or --dataset NAME",
}


# The signal that asked this command to stop.
_asked_to_stop: int | None = None


class _StoppedError(BaseException):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Group(TyperGroup):
    """The commands; what cannot be parsed ends with one sentence, too."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Parse and run, then exit with the code of the command."""
        global _said
        _said = False
        code = 1
        try:
            with _quiet_about_memory():
                code = self._code(args, kwargs)
        except MemoryError:  # while the command ended, or while that was told
            _last_resort(_NO_MEMORY)
        except Exception as error:  # of what surrounds the commands
            with contextlib.suppress(Exception):
                _tell([_last_words(error)])
            _last_resort(_NO_MEMORY if _is_of_memory(error) else _NO_WORDS)
        sys.exit(code)

    def _code(self, args: Any, kwargs: Any) -> int:
        _streams.prepare()
        if not launch.is_first():
            _streams.silence(sys.stdout)  # help and version as well are the first one's to print
        kwargs["standalone_mode"] = False
        kwargs["windows_expand_args"] = False  # it takes patterns in quotation marks for files
        try:
            return int(super().main(*args, **kwargs) or 0)
        except _ParseError as error:
            _tell([_parse_error(error)])
            return int(error.exit_code)
        except typer.Abort:
            return 130
        except OSError as error:  # of --help and --version; commands handle their own
            if error.errno == errno.ENOMEM:
                raise MemoryError from None
            _streams.silence(sys.stdout)
            _output.error(f"Standard output could not be written: {error.strerror or error}.")
            return 1
        except SystemExit as stop:
            # typer's own answer to a closed pipe is 1; nothing else here exits with it
            if stop.code != 1:
                raise
            return ClosedPipeError.exit_code


def _parse_error(error: Any) -> str:
    text = " ".join(error.format_message().split()).removesuffix(".")
    text = text.replace(": Value error, ", ": ")
    if text == "Missing command":
        *names, last = error.ctx.command.commands
        text = f"Name a command: {', '.join(names)} or {last}"
    option = getattr(error, "option_name", "")
    command = error.ctx.info_name if getattr(error, "ctx", None) else ""
    if told := _ELSEWHERE.get((command, option)):
        text = f"{command} has no {option}; {told}"
    where = error.ctx.command_path if getattr(error, "ctx", None) else "kancompress"
    return f"{text}{'' if text.endswith('?') else '.'} See: {where} --help"


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: it gives its own result or ends with a sentence and a code.

    Of the processes that torchrun starts, the first one alone runs it.
    """
    return _wrapped(function, shared=False)


def shared_command(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command whose work the processes of torchrun share; the first writes and prints."""
    return _wrapped(function, shared=True)


def _wrapped(function: Callable[..., None], *, shared: bool) -> Callable[..., None]:
    flat = Flat(function)

    def wrapper(**kwargs: Any) -> None:
        if not shared and not launch.is_first():
            return
        debug = bool(kwargs.get("debug"))
        _output.set_quiet(bool(kwargs.get("json_") or kwargs.get("quiet")))
        _output.set_silent(not launch.is_first())
        _catch_signals()
        warnings.showwarning = _warn
        warnings.simplefilter("default" if debug else "ignore")
        warnings.simplefilter("always", KancompressWarning)
        try:
            _to_its_end(flat, kwargs, shared=shared, debug=debug)
        except (KeyboardInterrupt, _StoppedError) as stop:  # while another end was on its way
            _stopped(stop, debug)
        finally:
            with contextlib.suppress(MemoryError):  # nothing that was told is to be told otherwise
                _drop_signals()
                _drop_signals()  # the interpreter's own end comes next

    flat.sign(wrapper)
    return wrapper


def _to_its_end(function: Flat, kwargs: Any, *, shared: bool, debug: bool) -> None:
    try:
        together = shared and launch.processes() > 1
        with kancompress.joined() if together else contextlib.nullcontext():
            function(**kwargs)
            _output.flush()
    except (KeyboardInterrupt, _StoppedError) as stop:
        _stopped(stop, debug)
    except ClosedPipeError as error:
        raise typer.Exit(error.exit_code) from None
    except KancompressError as error:
        _fail(error.spoken(option_of), error.exit_code, debug)
    except typer.Exit:
        raise
    except Exception as error:
        if isinstance(error, MemoryError):
            _reserve.clear()
        if _asked_to_stop is not None:  # a library that was being imported made this of the request
            _stopped(_StoppedError(_asked_to_stop), debug)
        # The last door: a bug must not show a traceback to somebody who did not ask for one.
        _fail([_last_words(error)], 1, debug)


def _last_words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    try:
        text = str(error)
    except MemoryError:
        raise
    except Exception:  # of a class that is not ours
        text = "its text cannot be had"
    # torch has no type of its own for it
    if "out of memory" in text:  # torch's words for devices
        return "The device has not enough memory for this; try --device cpu, or smaller batches."
    if _is_of_memory(error):
        return _NO_MEMORY
    first = next(iter(text.splitlines()), "")  # torch adds its stack in C++
    return (
        f"Internal error, {type(error).__name__}: {first}. Run it again with --debug and report"
        " what it prints."
    )


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    _output.warn(noted(str(message)))


def _catch_signals() -> None:
    """Let a request to stop run the `finally` blocks that take half-written files away."""
    global _asked_to_stop
    _asked_to_stop = None
    for number in _stop_signals():
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or in the background
            with contextlib.suppress(ValueError):  # only the main thread may
                signal.signal(number, _stop)


def _stop_signals() -> list[signal.Signals]:
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last one is Windows's
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    global _asked_to_stop
    _asked_to_stop = number
    _drop_signals()
    raise KeyboardInterrupt if number == signal.SIGINT else _StoppedError(number)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A request to stop that comes when the command ends already."""


def _drop_signals() -> None:
    """Once the command ends, further requests to stop must not cut off what takes files away, nor
    the last words.

    They are ignored by a handler first: Python complains of signals that were waiting while they
    came to be ignored altogether. A later call does that, for the interpreter's own end.
    """
    for number in _stop_signals():
        now = signal.getsignal(number)
        with contextlib.suppress(ValueError):
            if now is _stop:
                signal.signal(number, _ignore)
            elif now is _ignore:
                signal.signal(number, signal.SIG_IGN)


def _stopped(stop: BaseException, debug: bool) -> NoReturn:
    number = stop.number if isinstance(stop, _StoppedError) else signal.SIGINT
    word = "Interrupted" if number == signal.SIGINT else "Stopped"
    _fail([f"{word}; nothing was left half-written."], 128 + number, debug)


def _fail(sentences: Sequence[str], code: int, debug: bool) -> NoReturn:
    end = typer.Exit(code)  # made first: there may be no memory for it once all is told
    _drop_signals()
    if debug:
        with contextlib.suppress(MemoryError):
            traceback.print_exc()
    try:
        _tell(sentences)
    except MemoryError:
        raise
    except Exception:
        _last_resort(_NO_WORDS)
    _for_the_end.clear()
    _drop_signals()
    try:
        raise end
    finally:
        del end  # else it and this frame would hold each other, and all that is on the way


def _is_of_memory(error: Exception) -> bool:
    """Whether torch, the system, or the loader of libraries had no memory."""
    try:
        text = str(error)
    except Exception:
        return isinstance(error, MemoryError)
    return isinstance(error, MemoryError) or any(
        words in text for words in ("allocate memory", "failed to map segment")
    )


def _last_resort(text: str) -> None:
    """Say what was made beforehand, unless the last words were said. Nothing is raised."""
    global _said
    _reserve.clear()
    if _said:
        return
    _said = True
    try:
        sys.stderr.write(_LINES[text])
        sys.stderr.flush()
    except Exception:
        with contextlib.suppress(Exception):
            os.write(2, _BYTES[text])


@contextlib.contextmanager
def _quiet_about_memory() -> Iterator[None]:
    """Threads and destructors that find no memory print no traceback; who needed them tells it."""
    hooks: tuple[Any, Any] = (threading.excepthook, sys.unraisablehook)

    def quiet(before: Callable[[Any], object]) -> Callable[[Any], object]:
        return lambda args: args.exc_type is MemoryError or before(args)

    threading.excepthook, sys.unraisablehook = map(quiet, hooks)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = hooks


def _tell(sentences: Sequence[str]) -> None:
    """The last words of the run.

    Of the processes of torchrun the first to fail has them, whichever it is: torchrun stops the
    others as soon as one has ended, and that must not stop the one that speaks.
    """
    global _said
    with _not_to_be_stopped() if launch.processes() > 1 else contextlib.nullcontext():
        if launch.is_first_to_fail():
            for text in sentences:
                _output.error(text)
                _said = True


@contextlib.contextmanager
def _not_to_be_stopped() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # which alone may
        yield
        return
    before = signal.signal(signal.SIGTERM, _ignore)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
