"""Commands in forked children, which have torch and kancompress imported and can be killed."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from kancompress.cli.main import main as command_line
from kancompress.data import datasets
from kancompress.specs import DataOptions

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1,
            signal.SIGPROF, signal.SIGALRM)  # fmt: skip
# A command that takes longer than this is stopped and told.
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, or minus the signal; what it said; how long it took."""

    code: int
    stdout: bytes
    stderr: str
    seconds: float


def prepare() -> None:
    """Import and read in the parent what every command needs; no gradient may be taken here."""
    datasets.load_for_training(DataOptions(), seed=0)


def settle() -> None:
    """To be called behind the last `warm_up`: what is there is not collected in each child anew."""
    gc.collect()
    gc.freeze()


def warm_up(folder: Path, *arguments: str) -> None:
    """Import what a command imports, so that the next ones need not."""
    listing = Path(f"{folder}.modules")
    ended(folder, start(folder, *arguments, listing=listing), time.monotonic())
    for name in listing.read_text().split():
        if name not in sys.modules:
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_module(name)
    listing.unlink()


def start(folder: Path, *arguments: str, listing: Path | None = None) -> int:
    """Start a command in `folder`; returns its process number. Its words go to two files beside."""
    sys.stdout.flush()
    sys.stderr.flush()
    words = [os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
             for name in ("stdout", "stderr")]  # fmt: skip
    child = os.fork()
    if child:
        for handle in words:
            os.close(handle)
        return child
    code = 70
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)  # threads of the parent are not there
        os.chdir(folder)
        os.dup2(words[0], 1)
        os.dup2(words[1], 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["kancompress", *arguments]
        command_line()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt:  # before the command takes signals, or behind its end
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        if listing is not None:
            listing.write_text("\n".join(sys.modules))
        os._exit(code)


def ended(folder: Path, child: int, begin: float) -> Ended:
    """Wait for a command."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() - begin > PATIENCE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.0005)
    code = os.waitstatus_to_exitcode(status)
    out, err = (Path(f"{folder}.{name}") for name in ("stdout", "stderr"))
    return Ended(code, out.read_bytes(), err.read_text(errors="replace"), time.monotonic() - begin)


def run(
    folder: Path, *arguments: str, meanwhile: Callable[[int, float], None] | None = None
) -> Ended:
    """Run a command to its end; `meanwhile` is given its number and the time it began."""
    begin = time.monotonic()
    child = start(folder, *arguments)
    if meanwhile is not None:
        meanwhile(child, begin)
    return ended(folder, child, begin)


def alive(child: int) -> bool:
    """Whether a child of this process still runs."""
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is None
