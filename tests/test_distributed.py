"""Two processes of torchrun on the CPU: what they learn, write and print as one."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from test_repacking import efficient_kan
from torch import Tensor, nn
from torch.nn import functional

import kancompress
from command import ENVIRONMENT, done
from conftest import fresh
from kancompress.clustering import clusterer
from kancompress.data import datasets
from kancompress.specs import DataOptions
from kancompress.system import distributed
from kancompress.system import torchrun as launch
from tests.benchmarks.on_device import layer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
BATCH = 68  # of 1293 rows, so that the last batch has a single row for two processes

NETWORK = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 10)
        self.unused = nn.Parameter(torch.ones(3))
    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))
"""

CLUSTERINGS = """
import torch
import kancompress
from kancompress.clustering import clusterer, moments
from kancompress.config import CalibrationConfig, ClusterConfig
def clusterings(place):
    # several tiles, and layers that are large, so that there is something to divide
    tile, moments.TILE = moments.TILE, 200
    large, clusterer.LARGE = clusterer.LARGE, 500
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dense, rows = place / "dense.st", torch.load(place / "rows.pt")
        calibration = CalibrationConfig(samples=300)
        found = {
            "native": kancompress.cluster(place / "meta.st", ClusterConfig(clusters=8)),
            "halves": kancompress.cluster(
                dense, ClusterConfig(clusters=8, codebook_dtype="float16")
            ),
            "target": kancompress.cluster(dense, ClusterConfig(target_bytes=6000)),
            "foreign": kancompress.cluster(place / "foreign.pt", ClusterConfig(clusters=5)),
            "outputs": kancompress.cluster_by_outputs(
                dense, rows, ClusterConfig(clusters=4), calibration
            ),
            # digits have pixels that are always zero, which a spline sees as such
            "still": kancompress.cluster_by_outputs(
                place / "spline.st", rows, ClusterConfig(clusters=4), calibration
            ),
            "chosen": kancompress.cluster_by_outputs(
                dense, rows, None, calibration, target=kancompress.Target(bytes=4000)
            ),
            "large": kancompress.cluster(place / "large.pt", ClusterConfig(clusters=5)),
            "bounds": kancompress.cluster(place / "large.pt", ClusterConfig(clusters=64)),
            "convolution": kancompress.cluster(place / "conv.st", ClusterConfig(clusters=5)),
            "maps": kancompress.cluster_by_outputs(
                place / "conv.st", rows.view(-1, 1, 8, 8), ClusterConfig(clusters=5), calibration
            ),
        }
    finally:
        moments.TILE, clusterer.LARGE = tile, large
        torch.set_num_threads(threads)
    return {name: kancompress.encode(done.model) for name, done in found.items()}
"""

LIBRARY = f"""
import os, sys
from pathlib import Path
{NETWORK}
import kancompress
from kancompress.data import datasets
from kancompress.training import loop as fitting
from kancompress.specs import DataOptions
torch.set_num_threads(1)
place, rank = Path(sys.argv[1]), int(os.environ["RANK"])

def stop(epoch):
    if epoch.number == 1:
        raise InterruptedError

{CLUSTERINGS}
with kancompress.joined():
    pass
with kancompress.joined():  # as often as one likes
    for name, data in clusterings(place).items():
        (place / f"{{name}}.{{rank}}").write_bytes(data)
    config = kancompress.TrainConfig(lr=1e-3, epochs=3, batch_size={BATCH})
    uncut = kancompress.train("fastkan", config=config, hidden=(4,))
    state = kancompress.StateFile(path=place / "state")
    try:
        kancompress.train("fastkan", config=config, hidden=(4,), state=state, on_epoch=stop)
    except InterruptedError:
        pass
    # the first process alone reads
    there = place / ("missing" if rank else "state")
    state = kancompress.StateFile(path=place / "state", resume=there)
    cut = kancompress.train("fastkan", config=config, hidden=(4,), state=state)
    (place / f"uncut.{{rank}}").write_bytes(kancompress.encode(uncut.checkpoint))
    (place / f"cut.{{rank}}").write_bytes(kancompress.encode(cut.checkpoint))
    tuning = kancompress.FinetuneConfig(lr=1e-3, epochs=2, batch_size={BATCH})
    tuned = kancompress.finetune(place / "packed.st", config=tuning)
    (place / f"tuned.{{rank}}").write_bytes(kancompress.encode(tuned.model))

    rows = datasets.load_for_training(DataOptions(), seed=0)
    network, gradients = Net(), []
    def step(optimizer):  # nothing is learnt, so that all gradients are of the same network
        found = [parameter.grad for parameter in network.parameters()]
        gradients.append([None if slope is None else slope.clone() for slope in found])
    torch.optim.AdamW.step = step
    schedule = fitting.Schedule(epochs=1, patience=9, batch_size={BATCH}, seed=0)
    history = fitting.fit(
        network, [{{"params": network.parameters(), "lr": 0.1}}], rows.train, schedule,
        measure=lambda: fitting.score(network, rows.validation),
        on_epoch=lambda epoch: torch.save(network.state_dict(), place / f"statistics.{{rank}}"),
    )
    scores = [(e.validation.loss, e.validation.accuracy) for e in history]
    torch.save((gradients, history[1].train_loss, scores), place / f"gradients.{{rank}}")
"""


def torchrun(script: str, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = place / "script.py"
    file.write_text(textwrap.dedent(script))
    return subprocess.run(
        [*TORCHRUN, str(file), *arguments],
        cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of a script of the user's own left behind."""
    place = tmp_path_factory.mktemp("two")
    kancompress.save(fresh("metakan"), place / "meta.st")
    kancompress.save(fresh("fastkan", (64, 16, 16, 10)), place / "dense.st")
    kancompress.save(fresh("kan"), place / "spline.st")
    kancompress.save(fresh("metagramkanconv", (1, 4, 4, 10)), place / "conv.st")
    kancompress.save(kancompress.cluster(place / "meta.st").model, place / "packed.st")
    torch.save(efficient_kan(), place / "foreign.pt")
    torch.save(layer(10_000, 100), place / "large.pt")
    torch.save(datasets.load_for_training(DataOptions(), seed=0).train.x[:400], place / "rows.pt")
    result = torchrun(LIBRARY, place, str(place))
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    return place


@pytest.mark.slow
def test_gradients_are_those_of_one_process_on_the_same_batches(place: Path) -> None:
    found: list[tuple[list[list[Tensor | None]], float, list[Any]]] = [
        torch.load(place / f"gradients.{rank}") for rank in range(2)
    ]
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    network: nn.Module = names["Net"]()
    rows = datasets.load_for_training(DataOptions(), seed=0).train
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    batches = torch.split(order, BATCH)
    assert len(batches[-1]) == 1 < 2 < BATCH
    losses = []
    network.norm.eval()  # a batch of one row has no spread; torch refuses to train on it
    for number, batch in enumerate(batches):
        network.norm.train(len(batch) > 1)
        network.zero_grad()
        loss = functional.cross_entropy(network(rows.x[batch]), rows.y[batch])
        loss.backward()
        losses.append(loss.item() * len(batch))
        if len(batch) == 1:
            continue
        for process in range(2):
            for parameter, gradient in zip(
                network.parameters(), found[process][0][number], strict=True
            ):
                if parameter.grad is None:
                    assert gradient is None
                    continue
                assert gradient is not None
                torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
    assert found[0][1] == found[1][1] == pytest.approx(sum(losses) / len(rows), rel=1e-3)
    assert found[0][2] == found[1][2]
    # the last batch, of which each process takes the one row, moves no more than a tenth
    seen = torch.load(place / "statistics.0")
    for name in ("norm.running_mean", "norm.running_var"):
        own = network.state_dict()[name]
        assert not torch.equal(own, torch.zeros(6))
        assert torch.equal(seen[name], torch.load(place / "statistics.1")[name])
        torch.testing.assert_close(seen[name], own, rtol=0.15, atol=0.15)


@pytest.mark.slow
def test_every_process_ends_with_the_same_network_and_resuming_changes_nothing(
    place: Path,
) -> None:
    names = ("uncut.0", "uncut.1", "cut.0", "cut.1")
    files = [(place / name).read_bytes() for name in names]
    assert len(set(files)) == 1
    alone = kancompress.train(
        "fastkan", config=kancompress.TrainConfig(lr=1e-3, epochs=3, batch_size=BATCH), hidden=(4,)
    )
    together = kancompress.load(files[0])
    for name, tensor in alone.checkpoint.tensors.items():
        # Adam turns the rounding of a gradient near zero into a part of a step of 1e-3
        torch.testing.assert_close(together.tensors[name], tensor, rtol=0, atol=4e-3)


@pytest.mark.slow
def test_fine_tuning_ends_with_the_same_file_everywhere(place: Path) -> None:
    files = [(place / f"tuned.{rank}").read_bytes() for rank in range(2)]
    assert files[0] == files[1]
    tuning = kancompress.FinetuneConfig(lr=1e-3, epochs=2, batch_size=BATCH)
    alone = kancompress.finetune(place / "packed.st", config=tuning).model
    given = kancompress.load(place / "packed.st").state_dict()
    for name, tensor in kancompress.load(files[0]).state_dict().items():
        torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=0, atol=4e-3)
    together = kancompress.load(files[0]).state_dict()
    assert any(not torch.equal(tensor, given[name]) for name, tensor in together.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("native", "halves", "target", "foreign", "large", "bounds", "convolution"),
        *("outputs", "still", "chosen", "maps"),
    ],
)
def test_clustering_gives_the_bytes_of_one_process(name: str, place: Path, alone: Any) -> None:
    for rank in range(2):
        assert (place / f"{name}.{rank}").read_bytes() == alone[name]


@pytest.fixture(scope="module")
def alone(place: Path) -> Any:
    names: dict[str, Any] = {}
    exec(CLUSTERINGS, names)
    return names["clusterings"](place)


def test_layers_are_divided_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert distributed.owners([5, 9, 4, 1]) == [1, 0, 1, 0]
    assert distributed.owners([]) == []
    monkeypatch.setattr(clusterer, "LARGE", 10)
    together = clusterer._together
    assert together([30]) == {0}
    assert together([9]) == together([]) == set()
    assert together([30, 30]) == together([20, 30, 30, 30]) == set()
    assert together([11, 40, 10]) == {1}
    assert together([40, 9, 9]) == {0}


@pytest.mark.slow
def test_one_process_of_the_command_line_writes_and_prints(tmp_path: Path) -> None:
    script = """
    import contextlib, sys
    from kancompress.cli.main import main
    train = "train --hidden 4 --epochs 2 -o out.st --log out.log --json"
    for line in (train, "inspect out.st --json"):  # the second is not shared
        sys.argv[1:] = line.split()
        with contextlib.suppress(SystemExit):
            main()
    """
    result = torchrun(script, tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.split("}\n{")
    report, shown = json.loads(first + "}"), json.loads("{" + second)
    assert shown["kind"] == "meta"
    lines = [json.loads(line) for line in (tmp_path / "out.log").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.log", "out.st", "script.py"]
    score = json.loads(done("eval", tmp_path / "out.st", "--json").stdout)
    assert score["loss"] == pytest.approx(report["test"]["loss"], rel=1e-5)


def failed_with_one_sentence(script: str, place: Path) -> str:
    """What a run to out.st that fails on its way tells; its state stays, and no output is there."""
    result = torchrun(script, place)
    assert result.returncode == 1
    told = [line for line in result.stderr.splitlines() if line.startswith("kancompress: ")]
    assert len(told) == 1, result.stderr
    assert (place / "out.st.state").exists()
    assert not (place / "out.st").exists()
    return told[0]


@pytest.mark.slow
def test_an_error_in_one_process_ends_all_with_one_sentence(tmp_path: Path) -> None:
    script = """
    import os, sys
    from kancompress.training import loop as fitting
    from kancompress.cli.main import main
    from kancompress.errors import KancompressError
    train = fitting._Run.train
    def fail(run, on_batch):
        if os.environ["RANK"] == "1" and len(run.history) == 2:
            raise KancompressError("The disk is on fire.")
        return train(run, on_batch)
    fitting._Run.train = fail
    sys.argv[1:] = ["train", "--hidden", "4", "--epochs", "9", "-o", "out.st"]
    main()
    """
    assert failed_with_one_sentence(script, tmp_path) == "kancompress: The disk is on fire."


@pytest.mark.slow
@pytest.mark.parametrize("late", ["0", "1"])
def test_bad_options_are_told_once(tmp_path: Path, late: str) -> None:
    script = f"""
    import os, sys, time
    from kancompress.cli.main import main
    if os.environ["RANK"] == "{late}":  # torchrun stops it as soon as the other has ended
        time.sleep(20)
    sys.argv[1:] = ["train", "--epochs", "x", "-o", "out.st"]
    main()
    """
    result = torchrun(script, tmp_path)
    told = [line for line in result.stderr.splitlines() if "--epochs" in line]
    assert len(told) == 1, result.stderr
    assert result.returncode == 1


@pytest.mark.slow
def test_the_process_that_tells_is_not_cut_off(tmp_path: Path) -> None:
    script = """
    import os, sys, time
    from kancompress.system import torchrun as launch
    from kancompress.cli.main import main
    ask = launch.is_first_to_fail
    def slow():
        first = ask()
        if os.environ["RANK"] == "1":
            time.sleep(4)  # torchrun stops it meanwhile, as the other has ended
        return first
    launch.is_first_to_fail = slow
    if os.environ["RANK"] == "0":
        time.sleep(2)
    sys.argv[1:] = ["train", "--epochs", "x", "-o", "out.st"]
    main()
    """
    result = torchrun(script, tmp_path)
    assert result.stderr.count("--epochs") == 1, result.stderr


@pytest.mark.slow
def test_a_script_that_goes_on_is_told_of_every_failure(tmp_path: Path) -> None:
    script = """
    import contextlib, sys
    from kancompress.cli.main import main
    for wrong in ("--epochs", "--patience"):
        sys.argv[1:] = ["train", wrong, "x", "-o", "out.st"]
        with contextlib.suppress(SystemExit):
            main()
    """
    result = torchrun(script, tmp_path)
    assert result.returncode == 0
    assert [result.stderr.count(name) for name in ("--epochs", "--patience")] == [1, 1]


def test_help_is_printed_once() -> None:
    texts = []
    for rank in "01":
        ours = {"TORCHELASTIC_RUN_ID": "here", "WORLD_SIZE": "2", "RANK": rank}
        result = subprocess.run(
            [sys.executable, "-m", "kancompress", "train", "--help"],
            env=ENVIRONMENT | ours, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert not result.stderr
        texts.append(result.stdout)
    assert "Usage" in texts[0]
    assert not texts[1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", "01")
def test_without_torchrun_s_store_everybody_tells(rank: str) -> None:
    ours = {"TORCHELASTIC_RUN_ID": "here", "WORLD_SIZE": "2", "RANK": rank}
    result = subprocess.run(
        [sys.executable, "-m", "kancompress", "train", "--epochs", "x"],
        env=ENVIRONMENT | ours, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("kancompress: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.exhaustive
def test_convolutions_have_the_statistics_of_a_single_process(tmp_path: Path) -> None:
    options = ["--model", "fastkanconv", "--hidden", "2,3", "--epochs", "2", "--lr", "0.01",
               "--dropout", "0", "--head-dropout", "0", "--no-augment"]  # fmt: skip
    script = f"""
    import sys
    from kancompress.cli.main import main
    sys.argv[1:] = ["train", *{options}, "-o", "two.st"]
    main()
    """
    result = torchrun(script, tmp_path)
    assert result.returncode == 0, result.stderr
    done("train", *options, "-o", tmp_path / "one.st")
    one, two = (kancompress.load(tmp_path / name).state_dict() for name in ("one.st", "two.st"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-4), name


@pytest.mark.exhaustive
@pytest.mark.parametrize("other", ["", "another file"])
def test_two_machines_share_a_layer(other: str, tmp_path: Path) -> None:
    """Two launchers, as on two machines, in folders of their own."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
        import sys
        from kancompress.cli.main import main
        from kancompress.clustering import clusterer
        clusterer.LARGE = 1000
        sys.argv = ["kancompress", "cluster", "large.pt", "-k", "64", "-o", "out.st"]
        main()
        """)
    )
    state = layer(10_000, 100)
    for name in "ab":
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "large.pt")
        if other:
            state["layers.0.base_weight"][5, 5] += 1
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node"]
    command += ["1", "--master-addr", "localhost", "--master-port", port, "--node-rank"]
    launchers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "script.py")],
            cwd=tmp_path / name, env=ENVIRONMENT, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for rank, name in enumerate("ab")
    ]  # fmt: skip
    told = "".join(launcher.communicate(timeout=120)[1] for launcher in launchers)
    found = {launcher.returncode for launcher in launchers}
    if other:
        assert found == {1}
        assert told.count("finds other numbers in layer 'layers.0' than the first one") == 1
        return
    assert found == {0}
    assert not (tmp_path / "b" / "out.st").exists()
    alone = kancompress.cluster(tmp_path / "a" / "large.pt", clusters=64)
    assert (tmp_path / "a" / "out.st").read_bytes() == kancompress.encode(alone.model)


@pytest.mark.exhaustive
def test_a_killed_process_ends_the_run_with_one_sentence(tmp_path: Path) -> None:
    script = """
    import os, signal, sys
    from kancompress.training import loop as fitting
    from kancompress.cli.main import main
    train = fitting._Run.train
    def die(run, on_batch):
        if os.environ["RANK"] == "1" and len(run.history) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(run, on_batch)
    fitting._Run.train = die
    sys.argv[1:] = ["train", "--hidden", "4", "--epochs", "9", "-o", "out.st"]
    main()
    """
    told = failed_with_one_sentence(script, tmp_path)
    assert "Another process" in told or "Stopped" in told


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # what a batch system sets does not make a run of several processes
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert (launch.processes(), launch.number(), launch.is_first()) == (1, 0, True)
    assert launch.is_first_to_fail()
    with distributed.joined():
        assert (distributed.count(), distributed.number()) == (1, 0)
    rows = torch.arange(5)
    assert distributed.part(rows) == (rows, 1.0)
    assert os.environ["WORLD_SIZE"] == "4"


def test_a_batch_is_divided_in_order_and_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "count", lambda: 3)
    for length in range(1, 9):
        shares = []
        for number in range(3):
            monkeypatch.setattr(distributed, "number", lambda number=number: number)
            shares.append(distributed.part(torch.arange(length)))
        assert sum(share for _, share in shares) == pytest.approx(1)
        if length < 3:
            assert all(rows.tolist() == list(range(length)) for rows, _ in shares)
        else:
            assert torch.cat([rows for rows, _ in shares]).tolist() == list(range(length))
            assert all(share == len(rows) / length for rows, share in shares)
