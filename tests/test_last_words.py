"""What ends a command when there is no memory, not even to say so: a sentence and exit code 1."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import kancompress
from command import ENVIRONMENT, call, only_line
from kancompress.cli import _output, _run

NO_MEMORY = "Not enough memory for this; try a smaller network, fewer clusters or fewer rows."


def fail(*_: object, **__: object) -> Any:
    raise MemoryError


def bug(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("a bug")


def flawed(*_: object, **__: object) -> Any:
    raise kancompress.UsageError("something does not fit.")


@pytest.mark.parametrize("debug", [(), ("--debug",)])
@pytest.mark.parametrize("first", [fail, bug, flawed])
@pytest.mark.parametrize(
    ("module", "name"),
    [(_output, "error"), (_output, "printable"), (_run, "_tell"), (_run, "_last_words")],
)
def test_a_report_that_finds_no_memory_is_one_sentence_all_the_same(
    module: Any, name: str, first: Any, debug: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kancompress, "inspect", first)
    monkeypatch.setattr(module, name, fail)
    if debug:
        monkeypatch.setattr(_run.traceback, "print_exc", fail)
    result = call("inspect", __file__, *debug)
    if (first, name) == (flawed, "_last_words"):  # which it does not need
        assert (result.exit_code, only_line(result.stderr)) == (2, "something does not fit.")
    else:
        assert (result.exit_code, only_line(result.stderr)) == (1, NO_MEMORY)
    assert result.stdout == ""


def test_a_report_that_fails_otherwise_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class WordlessError(Exception):
        def __str__(self) -> str:
            raise ValueError

    def wordless(*_: object, **__: object) -> None:
        raise WordlessError

    monkeypatch.setattr(kancompress, "inspect", wordless)
    result = call("inspect", __file__)
    assert result.exit_code == 1
    assert "Internal error, WordlessError" in result.stderr
    monkeypatch.setattr(_output, "error", bug)
    result = call("inspect", __file__)
    assert result.exit_code == 1
    assert result.stderr.startswith("kancompress: Internal error, and its report failed.")
    assert result.stderr.count("\n") == 1


def test_no_memory_at_the_very_end_takes_no_words_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kancompress, "inspect", flawed)
    calls: list[int] = []

    def drop() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise MemoryError

    monkeypatch.setattr(_run, "_drop_signals", drop)
    result = call("inspect", __file__)
    assert only_line(result.stderr) == "something does not fit."
    assert result.exit_code == 1


def test_a_stop_that_a_library_made_another_error_of_is_a_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is half imported may answer a request to stop with whatever comes of that."""

    def half_imported(*_: object, **__: object) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError("maximum recursion depth exceeded") from None

    monkeypatch.setattr(kancompress, "inspect", half_imported)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        result = call("inspect", __file__)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, only_line(result.stderr)) == (
        130, "Interrupted; nothing was left half-written.",
    )  # fmt: skip
    monkeypatch.setattr(kancompress, "inspect", bug)
    assert "Internal error" in call("inspect", __file__).stderr


def test_an_interruption_without_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kancompress, "inspect", interrupted)
    monkeypatch.setattr(_output, "error", fail)
    result = call("inspect", __file__)
    assert (result.exit_code, only_line(result.stderr)) == (1, NO_MEMORY)


# The command takes all memory there is, down to the last bytes, and does not give it back; what
# is to be told is known only then.
STARVED = """
    import resource, sys
    import kancompress
    from kancompress.cli import _output, _run
    from kancompress.cli.main import main

    held = []

    def starve():
        for power in range(24, 4, -1):
            try:
                while True:
                    held.append(bytearray(1 << power))
            except MemoryError:
                pass

    def greedy(*_, **__):
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 24),) * 2)
        starve()
        {end}

    {more}
    kancompress.inspect = greedy
    sys.argv = ["kancompress", "inspect", sys.executable, *sys.argv[1:]]
    main()
"""
ENDS = {
    "raises": "held.append(bytearray(1 << 24))",
    "bug": "1 / 0",
    "error": "raise kancompress.UsageError('x' * 100)",
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_process_without_memory_ends_with_a_sentence(end: str, debug: tuple[str, ...]) -> None:
    # without a reserve the report itself finds nothing
    script = textwrap.dedent(STARVED).format(end=ENDS[end], more="_run._reserve.clear()")
    result = subprocess.run(
        [sys.executable, "-c", script, *debug], env=ENVIRONMENT, capture_output=True, text=True
    )
    told = [line for line in result.stderr.splitlines() if line.startswith("kancompress: ")]
    assert result.returncode in (1, 2), result.stderr
    assert len(told) == 1, result.stderr
    if not debug:
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr
    if result.returncode == 1:
        assert NO_MEMORY in told[0] or "ZeroDivisionError" in told[0]
    else:
        assert told[0].endswith("x" * 100)
