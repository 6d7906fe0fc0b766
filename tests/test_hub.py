"""Files of the Hugging Face hub, against a server on this machine that answers as the hub does."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import kancompress
from command import call, done, refused
from conftest import fresh
from kancompress.errors import InvalidFileError, KancompressError, UsageError
from kancompress.system import files, hub
from local_hub import TOKEN, Hub, Repository, served

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """A packed file of two numbers of centroids, and the checkpoint."""
    dense = fresh("fastkan", (64, 6, 10))
    small, large = (
        kancompress.encode(kancompress.cluster(dense, kancompress.ClusterConfig(clusters=k)).model)
        for k in (2, 4)
    )
    return {"small": small, "large": large, "dense": kancompress.encode(dense)}


def _repositories(models: dict[str, bytes]) -> dict[str, Repository]:
    small, large, dense = models["small"], models["large"], models["dense"]
    readme = {"README.md": b"# A model\n", "config.json": b"{}"}
    rows = np.zeros((20, 64), np.float32)
    data = save({"x": rows, "y": np.zeros(20, np.int64)})
    two = {"a.safetensors": small, "b.safetensors": large}
    return {
        "lab/one": Repository(
            {
                "main": readme | {"packed.safetensors": small, "training_args.bin": b"x"},
                "v1": readme | {"packed.safetensors": large},
                "feature/x": {"deep/er/packed.st": dense},
            }
        ),
        "lab/two": Repository({"main": readme | two}),
        "lab/kc": Repository({"main": two | {"model.kc.safetensors": large}}),
        "lab/stored": Repository(
            {"main": {"model.safetensors": large}}, stored=frozenset({"model.safetensors"})
        ),
        "lab/none": Repository({"main": readme}),
        "lab/private": Repository({"main": {"model.safetensors": small}}, private=True),
        "lab/gated": Repository({"main": {"model.safetensors": small}}, gated=True),
        "datasets/lab/rows": Repository({"main": {"rows.safetensors": data}}),
    }


@pytest.fixture(scope="module")
def server(models: dict[str, bytes]) -> Iterator[Hub]:
    with served(Hub(_repositories(models))) as found:
        yield found


@pytest.fixture
def local(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, which huggingface_hub asks in this test, with an empty cache and no token."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_VERBOSITY", "HF_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "AGENT_HARNESSES_PATH": str(tmp_path / "harnesses.json"),
        "HF_HUB_OFFLINE": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    server.requests.clear()
    server.broken = 0
    yield server
    getattr(huggingface_hub, "close_session", lambda: None)()


def _clusters(name: str) -> int | None:
    found = kancompress.load(name)
    assert isinstance(found, kancompress.PackedModel)
    return found.codebook_of(found.layers[0]).shape[0]


# --- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "clusters"),
    [
        ("hf://lab/one", 2),
        ("hf://lab/one/packed.safetensors", 2),
        ("hf://models/lab/one/packed.safetensors", 2),
        ("hf://lab/one@v1", 4),
        ("hf://lab/one/packed.safetensors@v1", 4),
        ("hf://lab/one@v1/packed.safetensors", 4),
        ("hf://lab/kc", 4),
        ("hf://lab/stored", 4),
    ],
)
def test_a_name_is_read(local: Hub, name: str, clusters: int) -> None:
    assert _clusters(name) == clusters


def test_a_path_is_read_as_well(local: Hub) -> None:
    assert _clusters(Path("hf://lab/one@v1")) == 4  # type: ignore[arg-type]


def test_a_file_in_a_folder_at_a_branch_with_a_slash(local: Hub, models: dict[str, bytes]) -> None:
    found = kancompress.load("hf://lab/one/deep/er/packed.st@feature/x")
    assert kancompress.encode(found) == models["dense"]


def test_a_commit_is_a_revision(local: Hub) -> None:
    commit = local.repositories["lab/one"].commit("v1")
    assert _clusters(f"hf://lab/one/packed.safetensors@{commit}") == 4


def test_what_is_cached_is_not_fetched_again(local: Hub) -> None:
    name = "hf://lab/one/packed.safetensors"
    assert _clusters(name) == _clusters(name) == 2
    assert local.requests.count("GET /lab/one/resolve/main/packed.safetensors") == 1


def test_commands_take_names(local: Hub, tmp_path: Path, models: dict[str, bytes]) -> None:
    (tmp_path / "packed.safetensors").write_bytes(models["small"])
    here = done("inspect", tmp_path / "packed.safetensors").stdout
    there = done("inspect", "hf://lab/one").stdout
    name = "hf://lab/one/packed.safetensors"
    assert there == here.replace(str(tmp_path / "packed.safetensors"), name)
    done("expand", "hf://lab/one", "-o", tmp_path / "dense.st")
    assert (tmp_path / "dense.st").read_bytes() == kancompress.encode(
        kancompress.expand(models["small"])
    )
    done("repack", name, "-o", tmp_path / "again.st")
    done("cluster", "hf://lab/one/deep/er/packed.st@feature/x", "-k", "2", "-o", tmp_path / "p.st")
    assert (tmp_path / "p.st").read_bytes() == models["small"]
    score = json.loads(done("eval", "hf://lab/one", "--json").stdout)
    assert score["examples"] == 360


def test_each_command_asks_for_the_file_once(local: Hub) -> None:
    done("eval", "hf://lab/one/packed.safetensors")
    assert local.requests.count("HEAD /lab/one/resolve/main/packed.safetensors") == 1


def test_rows_and_a_teacher_may_lie_on_the_hub(
    local: Hub, tmp_path: Path, models: dict[str, bytes]
) -> None:
    (tmp_path / "packed.st").write_bytes(models["small"])
    rows = "hf://datasets/lab/rows/rows.safetensors"
    score = json.loads(done("eval", tmp_path / "packed.st", "--data", rows, "--json").stdout)
    assert score["examples"] == 4
    dense = "hf://lab/one/deep/er/packed.st@feature/x"
    done("cluster", dense, "--calibrate", rows, "--samples", "18", "--rounds", "0", "--sweeps", "0",
         "-k", "2", "-o", tmp_path / "p.st")  # fmt: skip
    output = ("-o", tmp_path / "tuned.st")
    line = refused(3, "finetune", tmp_path / "packed.st", "--distill", "hf://lab/nothing", *output)
    assert "hf://lab/nothing is in no repository" in line


def test_an_index_brings_its_shards(local: Hub, models: dict[str, bytes]) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": save({f"{n}.w": np.ones(3)}) for n in (1, 2)}
    index = {"weight_map": {f"{n}.w": name for n, name in zip((1, 2), shards, strict=True)}}
    content = shards | {"model.safetensors.index.json": json.dumps(index).encode()}
    local.repositories["lab/shards"] = Repository({"main": content})
    try:
        report = kancompress.inspect("hf://lab/shards")
        assert [row["name"] for row in report["other"]] == ["1.w", "2.w"]
        del content["model-00002-of-00002.safetensors"]
        line = refused(3, "inspect", "hf://lab/shards/model.safetensors.index.json")
        assert line.startswith("hf://lab/shards/model-00002-of-00002.safetensors is not there")
    finally:
        del local.repositories["lab/shards"]


def test_a_state_of_pykan_brings_its_config(local: Hub, models: dict[str, bytes]) -> None:
    both = {"net_state": models["small"], "net_config.yml": b"a: 1\n", "other_state": b""}
    local.repositories["lab/pykan"] = Repository({"main": both})
    try:
        path, name = hub.fetched("hf://lab/pykan/net_state")
        assert name == "hf://lab/pykan/net_state"
        assert path.with_name("net_config.yml").read_bytes() == b"a: 1\n"
        path, _ = hub.fetched("hf://lab/pykan/other_state")
        assert not path.with_name("other_config.yml").exists()
    finally:
        del local.repositories["lab/pykan"]


def test_names_that_a_server_invents_stay_in_the_cache(local: Hub, tmp_path: Path) -> None:
    files = {"../../../out.safetensors": b"x", "a/../../../../out.safetensors": b"x"}
    local.repositories["lab/bad"] = Repository({"main": files})
    try:
        assert "no file of weights" in refused(3, "inspect", "hf://lab/bad")
    finally:
        del local.repositories["lab/bad"]
    assert not list(tmp_path.rglob("*out*"))


def test_a_cache_that_cannot_be_written(
    local: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    line = refused(3, "inspect", "hf://lab/one/packed.safetensors")
    assert "cannot be kept in the cache: Not a directory" in line
    assert "HF_HOME" in line


# --- what is not to be had ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf://lab/nothing", ("no repository", "hf auth login", "HF_TOKEN")),
        ("hf://lab/nothing/model.safetensors", ("no repository", "HF_TOKEN")),
        ("hf://lab/private", ("no repository", "private", "HF_TOKEN")),
        ("hf://lab/one/other.st", ("no such file", "It has packed.safetensors")),
        ("hf://lab/one/packed.safetensors@v9", ("no revision v9",)),
        ("hf://lab/one@v9", ("no revision v9",)),
        ("hf://lab/two", ("several", "hf://lab/two/a.safetensors", "b.safetensors")),
        ("hf://lab/none", ("no file of weights",)),
        ("hf://lab/gated", ("granted access", "/lab/gated", "HF_TOKEN")),
    ],
)
def test_what_is_not_there_is_one_sentence(local: Hub, name: str, words: tuple[str, ...]) -> None:
    line = refused(3, "inspect", name)
    for word in words:
        assert word in line
    assert "hf://lab/" in line
    with pytest.raises(InvalidFileError) as error:
        kancompress.load(name)
    assert str(error.value.where).startswith(name.partition("@")[0])


def test_a_private_repository_with_its_token(
    local: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "hf auth login" in refused(3, "inspect", "hf://lab/private/model.safetensors")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert _clusters("hf://lab/private") == 2
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN)  # as `hf auth login` leaves it
    assert _clusters("hf://lab/private/model.safetensors") == 2


@pytest.mark.parametrize(
    "name",
    [
        "hf://", "hf://one", "hf://lab//one", "hf://lab/one/../x.st", "hf://lab/one@", "hf://@v1",
        "hf://lab/one@v1/x.st@v2", "hf://spaces/lab/one/x.st", "hf://lab/o ne",
        "hf://datasets/one", "hf://models/one@v1", "HF://lab/one", "Hf://lab/one/x.st",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(local: Hub, name: str) -> None:
    assert name in refused(2, "inspect", name)
    with pytest.raises(UsageError):
        kancompress.inspect(name)
    assert local.requests == []


def test_offline_only_what_is_cached_is_read(
    local: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    _clusters("hf://lab/one/packed.safetensors")
    local.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    getattr(huggingface_hub, "close_session", lambda: None)()
    assert _clusters("hf://lab/one/packed.safetensors") == 2
    assert _clusters("hf://lab/one") == 2
    line = refused(3, "inspect", "hf://lab/two/a.safetensors")
    assert "not in the cache" in line
    assert "HF_HUB_OFFLINE" in line
    assert "HF_HUB_OFFLINE" in refused(3, "inspect", "hf://lab/two")
    assert local.requests == []


def test_a_hub_that_cannot_be_reached(
    local: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    _clusters("hf://lab/one/packed.safetensors")
    nowhere = "http://127.0.0.1:1"
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between tries
    line = refused(3, "inspect", "hf://lab/two/a.safetensors")
    assert f"cannot be had from {nowhere}" in line
    assert "HF_ENDPOINT" in line
    assert "cannot be had" in refused(3, "inspect", "hf://lab/two")
    assert _clusters("hf://lab/one") == 2  # from the cache
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("status", [403, 500])
def test_a_hub_that_refuses(local: Hub, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    local.broken = status
    assert str(status) in refused(3, "inspect", "hf://lab/one/packed.safetensors")
    assert str(status) in refused(3, "inspect", "hf://lab/one")


def test_huggingface_hub_is_only_needed_for_its_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: dict[str, bytes]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refused(1, "inspect", "hf://lab/one")
    assert "pip install 'kancompress[hub]'" in line
    with pytest.raises(KancompressError, match="huggingface_hub"):
        kancompress.load("hf://lab/one")
    (tmp_path / "packed.st").write_bytes(models["small"])
    done("inspect", tmp_path / "packed.st")


@pytest.mark.parametrize("command", ["expand", "repack", "finetune"])
def test_nothing_is_written_to_the_hub(
    local: Hub, tmp_path: Path, models: dict[str, bytes], command: str
) -> None:
    (tmp_path / "packed.st").write_bytes(models["small"])
    line = refused(2, command, tmp_path / "packed.st", "-o", "hf://lab/one/new.st")
    assert "hf://lab/one/new.st" in line
    assert "hf upload" in line
    assert "hf upload" in refused(2, "train", "-o", "hf://lab/one", "--epochs", "0")
    with pytest.raises(UsageError, match="hf upload"):
        kancompress.save(kancompress.load(models["small"]), "hf://lab/one/new.st")


def test_only_data_is_printed(local: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    result = call("inspect", "hf://lab/stored", "--check")
    assert result.exit_code == 0
    assert result.stdout_bytes == b""
    assert result.stderr == "hf://lab/stored/model.safetensors: sound (packed)\n"
    assert capfd.readouterr() == ("", "")


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf://a/b", ("model", "a/b", None, None)),
        ("hf://a/b/", ("model", "a/b", None, None)),
        ("hf://a/b.c/d/e.st", ("model", "a/b.c", "d/e.st", None)),
        ("hf://a/b/d.st@refs/pr/3", ("model", "a/b", "d.st", "refs/pr/3")),
        ("hf://a/b@refs/pr/3/d.st", ("model", "a/b", "d.st", "refs/pr/3")),
        ("hf://a/b@v1.0", ("model", "a/b", None, "v1.0")),
        ("hf://datasets/a/b/x.npz", ("dataset", "a/b", "x.npz", None)),
    ],
)
def test_the_parts_of_a_name(name: str, parts: tuple[str | None, ...]) -> None:
    found = hub.parse(name)
    assert (found.kind, found.repository, found.file, found.revision) == parts
    assert hub.parse(str(found)) == found


def test_what_lies_here_is_no_name_of_the_hub() -> None:
    for path in ("hf", "x/hf://a/b", "/hf:/a/b", "HF://a/b", "hf:"):
        assert files.hub_name(path) is None
    assert files.hub_name(Path("hf://a/b")) == "hf://a/b"
