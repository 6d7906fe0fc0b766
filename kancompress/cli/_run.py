"""What surrounds every command: errors become sentences and exit codes.

0 done, 1 failed, 2 usage, 3 unreadable or invalid input, 130 interrupted, 141 the reader of
standard output has gone.
"""

from __future__ import annotations

import functools
import signal
import traceback
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn, TypeVar

import typer

from kancompress.cli import _output, _streams
from kancompress.errors import KancompressError
from kancompress.warnings import KancompressWarning

Command = TypeVar("Command", bound=Callable[..., Any])


def command(function: Command) -> Command:
    """Wrap a command: it gives its own result or ends with a sentence and a code."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        debug = bool(kwargs.get("debug"))
        signal.signal(signal.SIGTERM, _terminated)
        warnings.showwarning = _warn
        warnings.simplefilter("default" if debug else "ignore")
        warnings.simplefilter("always", KancompressWarning)
        try:
            function(*args, **kwargs)
            _output.flush()
        except KeyboardInterrupt:
            _fail("Interrupted; nothing was left half-written.", 130, debug)
        except _streams.ClosedPipeError:
            _streams.silence()
            raise typer.Exit(141) from None
        except KancompressError as error:
            _fail(str(error), error.exit_code, debug)
        except MemoryError:
            _fail("Not enough memory for this.", 1, debug)
        except typer.Exit:
            raise
        except Exception as error:
            # The last door: a bug must not show a traceback to somebody who did not ask for one.
            _fail(
                f"Internal error, {type(error).__name__}: {error}. Run it again with --debug and"
                " report what it prints.",
                1,
                debug,
            )

    return wrapper  # type: ignore[return-value]


def _warn(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    _output.note(f"Warning: {message}")


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def _fail(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    _output.error(message)
    raise typer.Exit(code)
