"""Runs that are killed and go on: the same bytes as without the kill, or a clear word why not."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kancompress
from command import ENVIRONMENT, KANCOMPRESS, call, done, refused, running, spawn
from conftest import fresh
from kancompress import KancompressError, UsageError
from kancompress.data import datasets
from kancompress.formats import safetensors as container
from kancompress.models.tensors import all_to_torch, encode, payload_chunks
from kancompress.specs import DataOptions
from kancompress.system import locks
from kancompress.training import loop as fitting
from kancompress.training import state as states
from kancompress.training.history import Epoch
from kancompress.training.loop import Schedule

# A command in a process that kills itself, as `kill -9` would, when `what` is called for the nth
# time: a step of the optimizer, or the naming of a file that was written aside.
KILLED = """
import os, pathlib, signal, sys
import torch
what, count, *arguments = sys.argv[1:]
left = [int(count)]
def deadly(function):
    def call(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
if what == "step":
    torch.optim.AdamW.step = deadly(torch.optim.AdamW.step)
else:  # over a file that is there, and where none is; locks are not counted
    link, counted = os.link, deadly(os.link)
    os.link = lambda a, b: (link if os.fspath(b).endswith(".lock") else counted)(a, b)
    pathlib.Path.replace = deadly(pathlib.Path.replace)
sys.argv = ["kancompress", *arguments]
from kancompress.cli.main import main
main()
"""
# Stops by patience after some epochs of 11 steps.
RUN = ("train", "--model", "kan", "--hidden", "4", "--lr", "0.1", "--lr-decay", "0.9",
       "--patience", "4", "--epochs", "30")  # fmt: skip


def killed(place: Path, what: str, count: int, *arguments: str) -> None:
    script = [sys.executable, "-c", KILLED, what, str(count), *arguments]
    result = subprocess.run(script, cwd=place, env=ENVIRONMENT, capture_output=True)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


def apart(*arguments: str) -> Any:
    """A command that ends well in a process of its own, with as many threads as those killed."""
    result = spawn(*arguments)
    assert result.returncode == 0, result.stderr
    return result


def log_of(path: Path) -> list[dict[str, Any]]:
    """Lines of a log, without their times."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(place: Path) -> set[str]:
    """Files that are not what a killed process left: a file written aside, or its lock."""
    return {path.name for path in place.iterdir() if path.suffix not in (".part", ".lock")}


@pytest.mark.exhaustive
def test_a_training_that_was_killed_again_and_again_ends_with_the_same_bytes(here: Path) -> None:
    uncut = json.loads(apart(*RUN, "-o", "uncut.st", "--log", "uncut.log", "--json").stdout)
    last = uncut["history"][-1]["epoch"]
    assert last == uncut["best_epoch"] + 4 < 30  # patience has ended it
    run = (*RUN, "-o", "cut.st", "--log", "cut.log", "--resume", "auto")
    killed(here, "step", 5, *run)  # in the first epoch: nothing is there to go on from
    assert names(here) == {"uncut.st", "uncut.log", "cut.log"}
    killed(here, "step", 2 * 11 + 4, *run)  # in the third epoch
    killed(here, "rename", 2, *run)  # the state of the fourth is written, but not in place
    killed(here, "step", (last - 4) * 11 + 1, *run)  # while patience is waiting
    assert len(log_of(here / "cut.log")) == last  # epoch 0 has a line, too
    killed(here, "rename", 2, *run)  # behind the last epoch, before the output is in place
    assert names(here) == {"uncut.st", "uncut.log", "cut.log", "cut.st.state"}
    cut = json.loads(apart(*run, "--json").stdout)
    assert (here / "cut.st").read_bytes() == (here / "uncut.st").read_bytes()
    assert log_of(here / "cut.log") == log_of(here / "uncut.log")
    assert {**cut, "output": ""} == {**uncut, "output": ""}
    assert names(here) == {"uncut.st", "uncut.log", "cut.log", "cut.st"}


@pytest.mark.exhaustive
def test_a_fine_tuning_that_was_killed_ends_with_the_same_bytes(here: Path) -> None:
    dense = fresh("metagramkan", (64, 8, 10))
    kancompress.save(
        kancompress.cluster(dense, kancompress.ClusterConfig(clusters=4)).model, "p.st"
    )
    kancompress.save(dense, "dense.st")
    run = ("finetune", "p.st", "--distill", "dense.st", "--lr", "1e-2", "--epochs", "4")
    apart(*run, "-o", "uncut.st")
    killed(here, "step", 15, *run, "-o", "cut.st")
    assert "cut.st.state" in names(here)
    apart(*run, "-o", "cut.st", "--resume", "cut.st.state")
    assert Path("cut.st").read_bytes() == Path("uncut.st").read_bytes()
    assert "cut.st.state" not in names(here)


class _StopError(Exception):
    pass


def stop_after(number: int) -> Callable[[Epoch], None]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == number:
            raise _StopError

    return on_epoch


def test_buffers_dropout_and_the_moments_of_odd_strides_go_on(tmp_path: Path) -> None:
    rows = datasets.load_for_training(DataOptions(), seed=0)
    schedule = Schedule(epochs=5, patience=9, batch_size=64, seed=3, decay=0.8)

    def run(file: states.StateFile | None, last: int = 99) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10)
        )
        weight = network[3].weight
        weight.data = weight.data.T.contiguous().T  # columns lie one after another
        torch.manual_seed(last)  # draws must not depend on what was drawn before
        before = torch.get_rng_state()
        fitting.fit(
            network,
            [{"params": list(network.parameters()), "lr": 1e-2}],
            rows.train,
            schedule,
            measure=lambda: fitting.score(network, rows.validation),
            keeper=states.keeper(file, dict, torch.device("cpu")),
            on_epoch=stop_after(last),
        )
        assert torch.equal(torch.get_rng_state(), before)
        return network.state_dict()

    path = tmp_path / "state"
    uncut = run(None)
    with pytest.raises(_StopError):
        run(states.StateFile(path=path), last=2)
    told: list[int] = []
    cut = run(states.StateFile(path=path, resume=path, on_resume=lambda h: told.append(len(h))))
    assert told == [3]
    assert all(torch.equal(cut[name], uncut[name]) for name in uncut)
    assert len(cut["1.running_mean"]) == 16


# --- the state of another run --------------------------------------------------------------


@pytest.fixture
def stopped(here: Path) -> Path:
    """A working directory with the state of a run of one epoch."""
    done("train", "--hidden", "4", "--epochs", "1", "-o", "out.st", "--keep-state", "always")
    Path("out.st").unlink()
    return here


def resume(*options: str, code: int = 2) -> str:
    run = ("train", "--hidden", "4", "--epochs", "2", "-o", "out.st", "--resume", "out.st.state")
    return refused(code, *run, *options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--lr 0.5", "lr is 0.001 there and 0.5 here"),
        ("--lr-decay 0.5", "decay is 1.0 there and 0.5 here"),
        ("--patience 3", "patience is 10 there and 3 here"),
        ("--hidden 5", "hidden is [4] there and [5] here"),
        ("--model fastkan", "model is metafastkan there and fastkan here"),
        ("--embedding 2", "meta is {'embedding': 1, 'hidden': 32} there"),
        ("--precision bfloat16", "precision is float32 there and bfloat16 here"),
        ("--seed 1", "seed is 0 there and 1 here; the data differs; the new network differs"),
        ("--epochs 0", "has 1 epochs behind it, but --epochs asks for 0"),
        ("-o -", "-o names none"),
        ("--keep-state never", "--keep-state never has none"),
    ],
)
def test_the_state_of_another_run_is_refused_and_why(
    options: str, sentence: str, stopped: Path
) -> None:
    before = Path("out.st.state").read_bytes()
    assert sentence in resume(*options.split())
    assert Path("out.st.state").read_bytes() == before


def test_other_data_versions_and_commands_are_refused(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.nn.init.zeros_  # any tensor will do
    x = save(torch.empty(50, 64))
    from safetensors.torch import save_file

    save_file({"x": x, "y": torch.arange(50) % 10}, "rows.st")
    assert "the data differs" in resume("--data", "rows.st")
    kancompress.save(kancompress.cluster(fresh("metafastkan")).model, "packed.st")
    line = refused(2, "finetune", "packed.st", "-o", "out.st", "--resume", "out.st")
    assert "command is train there and finetune here" in line
    monkeypatch.setattr(states, "__version__", "9.9")
    assert f"kancompress is {kancompress.__version__} there and 9.9 here" in resume()


def test_what_may_change_rounding_is_told(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "9.9")
    result = done("train", "--hidden", "4", "--epochs", "2", "-o", "out.st", "--resume", "auto")
    assert "Warning: torch is" in result.stderr
    assert "may differ in rounding" in result.stderr


def rewritten(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """Change the document and the tensors of the state, with a checksum that is right again."""
    found = container.parse(memoryview(Path("out.st.state").read_bytes()), "")
    document, tensors = (
        json.loads(found.metadata["kancompress.state"]),
        all_to_torch(found.arrays()),
    )
    change(document, tensors)
    payload = b"".join(payload_chunks(tensors))
    document["payload"] = states.hashlib.sha256(payload).hexdigest()
    text = {"kancompress.state": json.dumps(document)}
    Path("out.st.state").write_bytes(encode(tensors, text))


@pytest.mark.parametrize(
    "change",
    [
        lambda _, tensors: tensors.pop("network.layers.0.norm"),
        lambda _, tensors: tensors.update(order=torch.zeros(3)),
        lambda _, tensors: tensors.update({"optimizer.0.exp_avg": torch.zeros(2)}),
        lambda _, tensors: tensors.update({"optimizer.99.exp_avg": torch.zeros(2)}),
        lambda _, tensors: tensors.update({"best.more": torch.zeros(2)}),
        lambda document, _: document.update(rates=[]),
        lambda document, _: document.update(rates=["nonsense"] * 2),
        lambda document, _: document.pop("history"),
        lambda document, _: document["history"].pop(0),
        lambda document, _: document["history"][1].pop("validation"),
        lambda document, _: document["history"][1].update(number="1"),
        lambda document, _: document.update(version="1"),
    ],
)
def test_a_state_that_is_not_sound_is_refused(
    change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], stopped: Path
) -> None:
    rewritten(change)
    assert "out.st.state is no sound state" in resume(code=3)


def test_damaged_states_and_other_files_are_refused(stopped: Path) -> None:
    raw = bytearray(Path("out.st.state").read_bytes())
    raw[-1] ^= 1
    Path("out.st.state").write_bytes(raw)
    assert "checksum" in resume(code=3)
    rewritten(lambda document, _: document.update(version=2))
    assert "version 2" in resume(code=3)
    Path("out.st.state").write_bytes(raw[:-9])
    assert "too early" in resume(code=3)
    kancompress.save(fresh("kan"), "kan.st")
    assert "is no file; name the state" in resume("--resume", "-")
    assert "is no file; name the state" in resume("--resume", ".")
    assert "is no file; name the state" in resume("--resume", "/dev/null")
    assert "kan.st is not the state of a run" in resume("--resume", "kan.st", code=3)
    assert "missing does not exist" in resume("--resume", "missing", code=3)


# --- nothing is lost in silence -------------------------------------------------------------


def test_a_state_is_not_written_over_without_force(stopped: Path) -> None:
    before = Path("out.st.state").read_bytes()
    run = ("train", "--hidden", "4", "--epochs", "1", "--lr", "0.5", "-o", "out.st")
    assert "--resume out.st.state" in refused(2, *run)
    assert Path("out.st.state").read_bytes() == before
    assert "Warning: out.st.state" in done(*run, "--force").stderr
    assert names(stopped) == {"out.st"}


@pytest.mark.slow
def test_a_state_has_one_run_at_a_time_and_a_killed_run_has_none(here: Path) -> None:
    endless = (*RUN, "--patience", "1000000", "-o", "out.st", "--epochs")
    with running([*KANCOMPRESS, *endless, "1000000"], "epoch 3/", here) as process:
        process.send_signal(signal.SIGSTOP)
        for more in ((), ("--force",), ("--resume", "auto")):
            told = refused(1, *endless, "1000000", *more)
            assert f"out.st.state is in use: process {process.pid} on " in told
        (here / "linked").symlink_to(here)
        assert "in use" in refused(1, *RUN, "-o", "linked/out.st")
        with pytest.raises(KancompressError, match="in use"), locks.held(here / "out.st.state"):
            pass
        assert process.poll() is None
        process.kill()
    (here / "linked").unlink()
    assert {path.name for path in here.iterdir()} == {"out.st.state", "out.st.state.lock"}
    resume = ("--resume", "auto")
    found = re.search(r"ask for (\d+) or more", refused(2, *endless, "1", *resume))
    assert found
    done(*endless, found[1], *resume)
    assert [path.name for path in here.iterdir()] == ["out.st"]


def test_a_lock_is_its_thread_s_and_goes_with_it(tmp_path: Path) -> None:
    name = tmp_path / "out.st.state"
    with locks.held(name), locks.held(tmp_path / "." / "out.st.state"):
        with ThreadPoolExecutor(1) as pool, pytest.raises(KancompressError, match="another thr"):
            pool.submit(locks.held(name).__enter__).result()
        child = os.fork()
        if not child:  # does not have it
            with pytest.raises(KancompressError):
                locks._locked(name, tmp_path / "out.st.state.lock")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert list(tmp_path.iterdir()) == []
    with locks.held(tmp_path / "missing" / "out.st.state"):
        pass


def test_more_epochs_can_be_asked_for_later(here: Path) -> None:
    run = ("train", "--hidden", "4", "--keep-state", "always")
    done(*run, "-o", "long.st", "--epochs", "4")
    done(*run, "-o", "out.st", "--epochs", "2")
    done(*run, "-o", "out.st", "--epochs", "4", "--resume", "auto", "--force")
    assert Path("out.st").read_bytes() == Path("long.st").read_bytes()
    # a state that is elsewhere is read and left where it is
    fewer = call(*run, "-o", "out.st", "--epochs", "1", "--resume", "auto", "--force")
    assert fewer.exit_code == 2
    assert "resumed" not in fewer.stderr  # nothing is told, or logged, of a run that cannot go on
    done(*run, "-o", "other.st", "--epochs", "4", "--resume", "out.st", "--keep-state", "stopped")
    assert names(here) == {"long.st", "long.st.state", "out.st", "out.st.state", "other.st"}


def test_no_state_is_left_where_none_can_be(here: Path) -> None:
    done("train", "--hidden", "4", "--epochs", "1", "-o", "-")
    done("train", "--hidden", "4", "--epochs", "1", "-o", "/dev/null")
    done("train", "--hidden", "4", "--epochs", "1", "-o", "out.st", "--keep-state", "never")
    assert names(here) == {"out.st"}


def test_logs_hold_every_epoch_and_nothing_else_is_overwritten(here: Path) -> None:
    run = ("train", "--model", "metakan", "--hidden", "4", "--lr-decay", "0.5", "--epochs", "2")
    done(*run, "-o", "out.st", "--log", "out.log")
    lines = log_of(here / "out.log")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert [line["learning_rates"] for line in lines] == [[], [5e-4, 5e-3], [2.5e-4, 2.5e-3]]
    assert set(lines[1]["validation"]) == {"accuracy", "loss", "examples"}
    assert "out.log exists already" in refused(2, *run, "-o", "b.st", "--log", "out.log")
    assert "standard output" in refused(2, *run, "-o", "b.st", "--log", "-")
    assert "another output" in refused(2, *run, "-o", "b.st", "--log", "b.st")
    done(*run, "-o", "c.st", "--keep-state", "always")
    (here / "notes.txt").write_text("not to be lost\n")
    line = refused(2, *run, "-o", "d.st", "--resume", "c.st", "--log", "notes.txt")
    assert "notes.txt is not the log" in line
    assert (here / "notes.txt").read_text() == "not to be lost\n"


# --- files of the user ---------------------------------------------------------------------


def held_bytes(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}


@pytest.mark.parametrize("more", [(), ("--force",), ("--resume", "auto"), ("--resume", "model")])
@pytest.mark.parametrize("alias", ["itself", "symbolic", "hard"])
def test_an_input_that_has_the_name_of_the_state_is_refused(
    alias: str, more: tuple[str, ...], here: Path
) -> None:
    kancompress.save(kancompress.cluster(fresh("kan", (64, 4, 10))).model, "packed.st")
    source = "packed.st"
    if alias == "itself":
        source = Path("packed.st").rename("model.state").name
    elif alias == "symbolic":
        Path("model.state").symlink_to("packed.st")
    else:
        os.link("packed.st", "model.state")
    before = held_bytes(here)
    line = refused(2, "finetune", source, "-o", "model", *more)
    assert "model.state is an input, and the state of the run would be written there" in line
    assert held_bytes(here) == before
    assert Path("model.state").is_symlink() == (alias == "symbolic")


def test_an_input_that_has_the_name_of_the_state_serves_a_run_without_one(here: Path) -> None:
    kancompress.save(kancompress.cluster(fresh("kan", (64, 4, 10))).model, "model.state")
    before = Path("model.state").read_bytes()
    done("finetune", "model.state", "-o", "model", "--epochs", "0", "--keep-state", "never")
    assert Path("model.state").read_bytes() == before
    assert names(here) == {"model", "model.state"}


def _text(path: Path) -> None:
    path.write_text("not to be lost")


def _checkpoint(path: Path) -> None:
    kancompress.save(fresh("kan", (64, 4, 10)), path)


def _nearly(path: Path) -> None:
    """What has the key of a state elsewhere."""
    path.write_bytes(encode({"kancompress.state": torch.zeros(2)}, {"a": "b"}))


def _link_to_a_state(path: Path) -> None:
    Path("elsewhere").write_bytes(encode({}, {"kancompress.state": "{}"}))
    path.symlink_to("elsewhere")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("more", [(), ("--force",), ("--resume", "auto")])
@pytest.mark.parametrize(
    "make", [_text, _checkpoint, _nearly, _link_to_a_state, _dangling, _pipe, _directory]
)
def test_what_is_no_state_is_never_replaced(
    make: Callable[[Path], None], more: tuple[str, ...], here: Path
) -> None:
    path = here / "out.st.state"
    make(path)
    before, kind = held_bytes(here), (path.lstat().st_mode, path.lstat().st_ino)
    line = refused(2, "train", "--hidden", "4", "--epochs", "1", "-o", "out.st", *more)
    assert "out.st.state is " in line
    assert "the state of a run, so it stays as it is. Move it away" in line
    assert held_bytes(here) == before
    assert (path.lstat().st_mode, path.lstat().st_ino) == kind
    file = kancompress.StateFile(path=path)  # nor through the library
    with pytest.raises(UsageError, match="so it stays as it is"):
        file.check()
    file.remove()
    assert held_bytes(here) == before


def test_a_state_that_is_replaced_while_the_run_has_it_stays(here: Path) -> None:
    mine = b"not to be lost"

    def replace(epoch: Epoch) -> None:
        if epoch.number == 1:
            Path("state").write_bytes(mine)

    config = kancompress.TrainConfig(lr=1e-3, epochs=2)
    with pytest.raises(KancompressError, match="state is not the state of a run"):
        kancompress.train(
            "kan", config=config, hidden=(4,), state=kancompress.StateFile(path=Path("state")),
            on_epoch=replace,
        )  # fmt: skip
    assert held_bytes(here) == {"state": mine}


@pytest.mark.parametrize(
    "name", ["n" * 246, "n" * 252, "n" * 255, "\N{SLIGHTLY SMILING FACE}" * 62]
)
@pytest.mark.parametrize("more", [(), ("--resume", "auto"), ("--resume", "n" * 252), ("--force",)])
def test_an_output_beside_which_no_state_fits(name: str, more: tuple[str, ...], here: Path) -> None:
    run = ("train", "--hidden", "4", "--epochs", "0", "-o", name)
    line = refused(1, *run, *more)
    assert "the name is too long. Give the output a shorter name, or keep no state" in line
    assert "--keep-state never" in line
    assert list(here.iterdir()) == []
    if not more:
        done(*run, "--keep-state", "never")
        assert names(here) == {name}


def test_the_longest_output_that_has_a_state(here: Path) -> None:
    name = "n" * 244
    done("train", "--hidden", "4", "--epochs", "1", "-o", name, "--keep-state", "always")
    assert names(here) == {name, f"{name}.state"}
    too_long = ("train", "--hidden", "4", "-o", "out.st", "--resume", "n" * 252)
    assert "does not exist, so there is no run to go on with" in refused(3, *too_long)


@pytest.mark.slow
def test_a_run_takes_away_what_a_killed_one_left_of_its_state(here: Path) -> None:
    run = ("train", "--hidden", "4", "--epochs", "1", "-o", "out.st", "--resume", "auto")
    killed(here, "rename", 1, *run)
    left = [path.name for path in here.iterdir() if path.suffix == ".part"]
    assert len(left) == 1
    assert left[0].startswith(".out.st.state.")
    done(*run)
    assert [path.name for path in here.iterdir()] == ["out.st"]


# --- logs on disks that are full -------------------------------------------------------------

LOGGED = ("train", "--model", "kan", "--hidden", "4", "--epochs", "3", "-o", "out.st")


def filled(monkeypatch: pytest.MonkeyPatch, line: int, fault: str) -> None:
    """Let the disk be full as a line of the log is written, the first one being 0: nothing of it,
    or half, or only fsync tells."""
    write, sync, lines = os.write, os.fsync, [0]

    def full(handle: int, data: Any) -> int:
        if not bytes(data[:9]).startswith(b'{"epoch"'):
            return write(handle, data)
        lines[0] += 1
        if lines[0] != line + 1 or fault == "sync":
            return write(handle, data)
        monkeypatch.setattr(os, "write", full_now)
        return write(handle, data[: len(data) // 2]) if fault == "half" else full_now()

    def full_now(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def synced(handle: int) -> None:
        sync(handle)
        if fault == "sync" and lines[0] == line + 1:
            full_now()

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "fsync", synced)


@pytest.mark.parametrize("fault", ["none", "half", "sync"])
@pytest.mark.parametrize("line", [0, 2, 3])
def test_a_log_on_a_full_disk_is_told_and_goes_on_later(
    line: int, fault: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        filled(patch, line, fault)
        result = call(*LOGGED, "--log", "out.log")
    assert result.exit_code == 1
    assert "out.log could not be written: No space left on device." in result.stderr
    assert not Path("out.st").exists()
    assert [found["epoch"] for found in log_of(here / "out.log")] == list(range(line))
    done(*LOGGED, "--log", "out.log", "--resume", "auto")
    assert [found["epoch"] for found in log_of(here / "out.log")] == [0, 1, 2, 3]


def test_the_log_of_a_stopped_run_is_not_emptied_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        filled(patch, 3, "none")
        assert call(*LOGGED, "--log", "out.log").exit_code == 1
    before = Path("out.log").read_bytes()
    with monkeypatch.context() as patch:
        filled(patch, 0, "half")
        assert call(*LOGGED, "--log", "out.log", "--resume", "auto").exit_code == 1
    assert Path("out.log").read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_log_that_is_a_device_or_a_pipe(here: Path) -> None:
    done(*LOGGED, "--log", "/dev/null", "--keep-state", "always")
    for more in ("--force", "--resume=auto"):
        Path("out.st").unlink(missing_ok=True)
        result = call(*LOGGED, "--log", "/dev/full", more)
        assert result.exit_code == 1
        assert "/dev/full could not be written: No space left" in result.stderr
    os.mkfifo("pipe")
    with ThreadPoolExecutor(1) as pool:  # whose reader reads to its end once
        read = pool.submit(lambda: Path("pipe").read_text())
        done(*LOGGED, "--log", "pipe", "--force")
        found = [json.loads(line)["epoch"] for line in read.result(timeout=30).splitlines()]
    assert found == [0, 1, 2, 3]


def test_a_log_is_no_lock(here: Path) -> None:
    for name in ("out.st.state", "out.st.state.lock"):
        for more in ((), ("--force",)):
            assert "another output" in refused(2, *LOGGED, "--log", name, *more)
    assert list(here.iterdir()) == []
