"""Standard streams and signals: pipes, terminals, full disks, and what is left on the disk."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_data_files import write_mnist

from command import ENVIRONMENT, KANCOMPRESS, call, done, only_line, running, spawn, write_material

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def slow(*values: Any) -> Any:
    """Parameters of a test that only `-m slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("streams"))


# --- pipes ---------------------------------------------------------------------------------


def test_input_and_output_can_be_pipes(place: Path) -> None:
    raw = (place / "meta.st").read_bytes()
    packed = done("cluster", "-", "-k", "4", "-o", "-", stdin=raw)
    dense = done("expand", "-", "-o", "-", stdin=packed.stdout_bytes)
    assert dense.stdout_bytes == (place / "dense.st").read_bytes()
    assert done("inspect", "-", stdin=dense.stdout_bytes).stdout.startswith("standard input: dense")
    assert done("eval", "-", stdin=dense.stdout_bytes).stdout.startswith("accuracy ")


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    "arguments", ["--help", slow("inspect packed.st"), slow("expand packed.st -o -")]
)
def test_a_reader_that_went_away_is_no_error(arguments: str, place: Path, closed_pipe: int) -> None:
    result = spawn(*arguments.split(), cwd=place, stdout=closed_pipe)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_named_pipe_is_a_pipe(tmp_path: Path) -> None:
    """What its reader takes is the file; one that goes away is no error."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    line = "train --model kan --hidden 300 --epochs 0 -o"
    for stop in (None, 10):
        with ThreadPoolExecutor() as pool:
            taken = pool.submit(lambda size: pipe.open("rb").read(size), stop)
            try:
                result = call(*line.split(), pipe)
            finally:  # a command that did not open the pipe must not keep its reader waiting
                os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        if stop is None:
            assert result.exit_code == 0, result.stderr
            done(*line.split(), tmp_path / "file")
            assert taken.result() == (tmp_path / "file").read_bytes()
        else:
            assert result.exit_code == 141, result.stderr
            assert "Error" not in result.stderr


@full
@pytest.mark.parametrize(
    "arguments", ["--help", slow("inspect packed.st --json"), slow("expand packed.st -o -")]
)
def test_a_full_disk_behind_stdout_is_told(arguments: str, place: Path) -> None:
    with Path("/dev/full").open("w") as stdout:
        result = spawn(*arguments.split(), cwd=place, stdout=stdout)
    assert result.returncode == 1
    assert "Standard output could not be written: No space" in only_line(result.stderr)


@pytest.mark.slow
@full
def test_a_stderr_that_is_full_does_not_cost_the_work(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.st"
    with Path("/dev/full").open("w") as stderr:
        result = spawn("expand", place / "packed.st", "-o", target, stderr=stderr)
        assert result.returncode == 0
        assert target.read_bytes() == (place / "dense.st").read_bytes()
        # but a document that was asked for is missed
        result = spawn("expand", place / "packed.st", "-o", "-", "--json", stderr=stderr,
                       text=False)  # fmt: skip
        assert result.returncode == 1


@pytest.mark.slow
def test_streams_that_are_closed(place: Path, tmp_path: Path) -> None:
    def shell(command: str) -> subprocess.CompletedProcess[str]:
        line = f"{' '.join(KANCOMPRESS)} {command}"
        return subprocess.run(
            ["bash", "-c", line], cwd=place, env=ENVIRONMENT, capture_output=True, text=True
        )

    result = shell("inspect packed.st >&-")
    assert result.returncode == 1
    assert "Standard output could not be written" in only_line(result.stderr)
    result = shell("inspect - <&-")
    assert result.returncode == 3
    assert "Standard input cannot be read" in only_line(result.stderr)
    result = shell(f"expand packed.st -o {tmp_path}/out.st 2>&- <&- >&-")
    assert result.returncode == 0
    assert (tmp_path / "out.st").read_bytes() == (place / "dense.st").read_bytes()


@pytest.mark.slow
def test_the_input_is_not_written_over_through_stdin_or_stdout(place: Path) -> None:
    path = place / "packed.st"
    before = path.read_bytes()
    with path.open("rb") as stdin:
        result = spawn("expand", "-", "-o", path, "--force", stdin=stdin)
    assert result.returncode == 2
    assert "input itself" in only_line(result.stderr)
    with path.open("ab") as stdout:
        result = spawn("expand", path, "-o", "-", stdout=stdout)
    assert result.returncode == 2
    assert "input itself" in only_line(result.stderr)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_undecodable_names_can_be_printed(place: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xf0.st"
    try:
        Path(os.fsdecode(name)).write_bytes((place / "packed.st").read_bytes())
    except OSError:
        pytest.skip("the file system refuses names that are not UTF-8")
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii"}
    result = spawn("inspect", os.fsdecode(name), env=environment)
    assert result.returncode == 0, result.stderr
    assert "/\\udcff\\udcf0.st: packed" in result.stdout


# --- terminals -----------------------------------------------------------------------------


def on_terminal(*arguments: str | Path, stream: str, **options: Any) -> tuple[int, str, str]:
    """Run with a terminal as `stream`: exit code, the terminal's text, the other output."""
    master, slave = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while block := os.read(master, 1 << 16):
                shown.append(block)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        result = spawn(*arguments, **({stream: slave} | options))
    finally:
        os.close(slave)
        reader.join(timeout=20)
        os.close(master)
    rest = (result.stdout or "") + (result.stderr or "")
    return result.returncode, b"".join(shown).decode(), rest


COLOUR = re.compile(r"\x1b\[[\d;]*(3[0-7]|38|9[0-7])[\d;]*m")


@pytest.mark.slow
def test_bars_and_tables_on_a_terminal(place: Path, tmp_path: Path) -> None:
    command = ("train", "--data", place / "classes.npz", "--hidden", "4", "--epochs", "2", "-o")
    code, text, rest = on_terminal(*command, tmp_path / "a.st", stream="stderr")
    assert (code, rest) == (0, "")
    assert COLOUR.search(text)
    assert "\x1b[?25l" in text  # the cursor is hidden ...
    assert "\x1b[?25h" in text  # ... and comes back
    assert "━" in text
    assert "epoch 2/2" in text
    lines = text.splitlines()
    (head,) = (number for number, line in enumerate(lines) if "\x1b[1mmodel " in line)
    assert "─" in lines[head + 1]
    environment = ENVIRONMENT | {"NO_COLOR": "1"}
    code, text, rest = on_terminal(*command, tmp_path / "b.st", stream="stderr", env=environment)
    assert code == 0
    assert "━" in text
    assert not COLOUR.search(text)


@pytest.mark.slow
def test_names_do_no_harm_on_a_terminal(place: Path) -> None:
    code, text, rest = on_terminal("inspect", place / "foreign.st", stream="stdout")
    assert (code, rest) == (0, "")
    assert "[red]a\\x1b[31m\\x0a" in text
    assert "b\\u202e" in text
    assert not COLOUR.search(text)


def test_json_on_a_terminal_is_plain(place: Path) -> None:
    code, text, rest = on_terminal("inspect", place / "packed.st", "--json", stream="stdout")
    assert (code, rest) == (0, "")
    assert text.startswith("{\r\n")
    assert "\x1b" not in text


@pytest.mark.slow
def test_binary_data_stays_off_a_terminal(place: Path) -> None:
    code, text, rest = on_terminal("expand", place / "packed.st", "-o", "-", stream="stdout")
    assert (code, text) == (2, "")
    assert "terminal" in only_line(rest)
    code, text, rest = on_terminal("inspect", "-", stream="stdin")
    assert code == 2
    assert "Standard input is a terminal" in only_line(rest)


# --- signals -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGINT, 130, "Interrupted"), slow(signal.SIGTERM, 143, "Stopped")],
)
def test_training_can_be_stopped(
    number: int, code: int, words: str, place: Path, tmp_path: Path
) -> None:
    command = [
        *KANCOMPRESS, "train", "--data", str(place / "targets.npz"), "--epochs", "1000000",
        "--patience", "1000000", "-o", "out.st",
    ]  # fmt: skip
    with running(command, "epoch 3/", tmp_path) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert stdout == ""
    told = [line for line in stderr.splitlines() if not line.startswith("epoch ")]
    assert words in only_line("\n".join(told))
    assert told[:-1] == ["To go on with the run: --resume out.st.state"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.st.state"]


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.001, 0.02, 0.1])
def test_impatience_changes_nothing(pause: float, place: Path, tmp_path: Path) -> None:
    """A request to stop that follows another does not cut off how the run ends."""
    command = [
        *KANCOMPRESS, "train", "--data", str(place / "targets.npz"), "--epochs", "1000000",
        "--patience", "1000000", "-o", "out.st",
    ]  # fmt: skip
    with running(command, "epoch 3/", tmp_path) as process:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(pause)
        stderr = process.communicate(timeout=30)[1]
    assert process.returncode in (130, 143)  # which of two that come at once is not ours to say
    told = [line for line in stderr.splitlines() if not line.startswith("epoch ")]
    assert only_line("\n".join(told)).endswith("nothing was left half-written.")
    assert told[:-1] == ["To go on with the run: --resume out.st.state"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.st.state"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_the_workers_of_a_stopped_run_end_with_it(number: int, code: int, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    command = [
        *KANCOMPRESS, "train", "--model", "gramkanconv", "--hidden", "2,2", "--dataset", "mnist",
        "--data-dir", ".", "--workers", "2", "--epochs", "1000000", "--patience", "1000000",
        "-o", "out.st",
    ]  # fmt: skip
    with running(command, "epoch 1/", tmp_path) as process:
        os.killpg(process.pid, 0)
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        stderr = process.communicate(timeout=60)[1]
        assert process.returncode == code
        for _ in range(300):
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:  # none of the group is left
                break
            time.sleep(0.1)
        else:
            pytest.fail("workers are left")
    if number != signal.SIGKILL:
        told = [line for line in stderr.splitlines() if not line.startswith("epoch ")]
        only_line("\n".join(told))
        assert told[:-1] == ["To go on with the run: --resume out.st.state"]
    assert (tmp_path / "out.st.state").is_file()


SLOW_EXPAND = """
    import sys, time
    from kancompress.system import files
    from kancompress.cli.main import main

    compare = files._write_and_compare

    def slowly(*arguments):
        size = compare(*arguments)
        print("written aside", file=sys.stderr, flush=True)
        time.sleep(60)
        return size

    files._write_and_compare = slowly
    sys.argv = ["kancompress", "expand", *sys.argv[1:]]
    main()
"""


@pytest.mark.parametrize(
    ("number", "code", "old"),
    [
        slow(signal.SIGINT, 130, b"old"),
        (signal.SIGTERM, 143, None),
        (signal.SIGKILL, -9, b"old"),
        slow(signal.SIGKILL, -9, None),
    ],
)
def test_a_stopped_writer_leaves_the_old_file_or_none(
    number: int, code: int, old: bytes | None, place: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.st"
    if old is not None:
        target.write_bytes(old)
    command = [
        sys.executable, "-c", textwrap.dedent(SLOW_EXPAND), str(place / "packed.st"), "-o",
        "out.st", "--force",
    ]  # fmt: skip
    with running(command, "written aside", tmp_path) as process:
        assert len(list(tmp_path.glob(".out.st.*.part"))) == 1
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (code, "")
    assert (target.read_bytes() if target.exists() else None) == old
    if number == signal.SIGKILL:  # what is left goes with the next run
        assert len(list(tmp_path.glob(".out.st.*.part"))) == 1
        done("expand", place / "packed.st", "-o", target, "--force")
        assert target.read_bytes() == (place / "dense.st").read_bytes()
        assert list(tmp_path.iterdir()) == [target]
    else:
        only_line(stderr)
        assert list(tmp_path.iterdir()) == ([] if old is None else [target])


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_old_file(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.st"
    target.write_bytes(b"old")
    line = f"ulimit -f 8; exec {' '.join(KANCOMPRESS)} expand {place}/packed.st -o out.st --force"
    result = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True,
        env=ENVIRONMENT | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert result.returncode == 1
    assert "out.st could not be written: File too large" in only_line(result.stderr)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
