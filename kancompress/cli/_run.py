"""What surrounds every command: errors become sentences and exit codes.

0 done, 1 failed, 2 usage, 3 unreadable or invalid input, 130 interrupted, 141 the reader of
standard output has gone, 128 + n stopped by signal n.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

import kancompress
from kancompress import launch
from kancompress.cli import _output, _streams
from kancompress.errors import ClosedPipeError, KancompressError
from kancompress.warnings import KancompressWarning

Command = TypeVar("Command", bound=Callable[..., Any])
# click's ClickException, which typer may bring along and does not export
_ParseError: Any = typer.BadParameter.__mro__[2]


class _StoppedError(BaseException):
    """A signal asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Group(TyperGroup):
    """The commands; what cannot be parsed ends with one sentence, too."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Parse and run, then exit with the code of the command."""
        _streams.prepare()
        if not launch.is_first():
            _streams.silence(sys.stdout)  # help and version as well are the first one's to print
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except _ParseError as error:
            _tell([_parse_error(error)])
            code = error.exit_code
        except typer.Abort:
            code = 130
        except OSError as error:  # of --help and --version; commands handle their own
            _streams.silence(sys.stdout)
            _output.error(f"Standard output could not be written: {error.strerror or error}.")
            code = 1
        except SystemExit as stop:
            # typer's own answer to a closed pipe is 1; nothing else here exits with it
            if stop.code != 1:
                raise
            code = ClosedPipeError.exit_code
        sys.exit(code or 0)


def _parse_error(error: Any) -> str:
    text = " ".join(error.format_message().split()).removesuffix(".")
    text = text.replace(": Value error, ", ": ")
    if text == "Missing command":
        *names, last = error.ctx.command.commands
        text = f"Name a command: {', '.join(names)} or {last}"
    where = error.ctx.command_path if getattr(error, "ctx", None) else "kancompress"
    return f"{text}{'' if text.endswith('?') else '.'} See: {where} --help"


def command(function: Command) -> Command:
    """Wrap a command: it gives its own result or ends with a sentence and a code.

    Of the processes that torchrun starts, the first one alone runs it.
    """
    return _wrapped(function, shared=False)


def shared_command(function: Command) -> Command:
    """Wrap a command whose work the processes of torchrun share; the first writes and prints."""
    return _wrapped(function, shared=True)


def _wrapped(function: Command, *, shared: bool) -> Command:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        if not shared and not launch.is_first():
            return
        debug = bool(kwargs.get("debug"))
        _output.set_quiet(bool(kwargs.get("json_")))
        _output.set_silent(not launch.is_first())
        _catch_signals()
        warnings.showwarning = _warn
        warnings.simplefilter("default" if debug else "ignore")
        warnings.simplefilter("always", KancompressWarning)
        try:
            _to_its_end(function, args, kwargs, shared=shared, debug=debug)
        except (KeyboardInterrupt, _StoppedError) as stop:  # while another end was on its way
            _stopped(stop, debug)
        finally:
            _drop_signals()
            _drop_signals()  # the interpreter's own end comes next

    return wrapper  # type: ignore[return-value]


def _to_its_end(function: Command, args: Any, kwargs: Any, *, shared: bool, debug: bool) -> None:
    try:
        together = shared and launch.processes() > 1
        with kancompress.joined() if together else contextlib.nullcontext():
            function(*args, **kwargs)
            _output.flush()
    except (KeyboardInterrupt, _StoppedError) as stop:
        _stopped(stop, debug)
    except ClosedPipeError as error:
        raise typer.Exit(error.exit_code) from None
    except KancompressError as error:
        _fail(error.sentences, error.exit_code, debug)
    except typer.Exit:
        raise
    except Exception as error:
        # The last door: a bug must not show a traceback to somebody who did not ask for one.
        _fail([_last_words(error)], 1, debug)


def _last_words(error: Exception) -> str:
    # torch has no type of its own for it
    if "out of memory" in str(error):  # torch's words for devices
        return "The device has not enough memory for this; try --device cpu, or smaller batches."
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "Not enough memory for this; try a smaller network, fewer clusters or fewer rows."
    first = next(iter(str(error).splitlines()), "")  # torch adds its stack in C++
    return (
        f"Internal error, {type(error).__name__}: {first}. Run it again with --debug and report"
        " what it prints."
    )


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    _output.note(f"Warning: {message}")


def _catch_signals() -> None:
    """Let a request to stop run the `finally` blocks that take half-written files away."""
    for number in _stop_signals():
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or in the background
            with contextlib.suppress(ValueError):  # only the main thread may
                signal.signal(number, _stop)


def _stop_signals() -> list[signal.Signals]:
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
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
    _drop_signals()
    if debug:
        traceback.print_exc()
    _tell(sentences)
    _drop_signals()
    raise typer.Exit(code)


def _tell(sentences: Sequence[str]) -> None:
    """The last words of the run.

    Of the processes of torchrun the first to fail has them, whichever it is: torchrun stops the
    others as soon as one has ended, and that must not stop the one that speaks.
    """
    with _not_to_be_stopped() if launch.processes() > 1 else contextlib.nullcontext():
        if launch.is_first_to_fail():
            for text in sentences:
                _output.error(text)


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
