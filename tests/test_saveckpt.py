"""pykan's `saveckpt`: the state by its prefix, the config's lines, and the cache that stays out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_repacking import bytes_of

import kancompress
from command import done, refused
from kancompress.config import ClusterConfig
from kancompress.formats.foreign import Settings
from kancompress.formats.foreign.saveckpt import parse
from kancompress.formats.pykan_config import PykanConfig
from kancompress.models.files import read_foreign
from kancompress.models.restoration import Restored
from kancompress.specs import SpecError

CASES = Path(__file__).parents[2] / "shared" / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/ckpt_state"))

CONFIG = """\
affine_trainable: false
base_fun_name: silu
device: !!python/object/apply:torch.device
- cpu
grid: 5
grid_range:
- -1
- 1
mult_arity: 2
symbolic.funs_name.0:
- - '0'
  - x^2
symbolic_enabled: true
width:
- - 3
  - 0
- - 4
  - 2
- - 2
  - 0
"""


def state() -> dict[str, torch.Tensor]:
    """The tensors of a pykan layer (3 inputs, 4 outputs) with two distinct edges."""
    table = torch.randn(2, 10, generator=torch.Generator().manual_seed(0))
    index = torch.arange(12).reshape(3, 4) % 2
    at = "act_fun.0."
    return {
        at + "grid": (torch.arange(-3, 9) * 0.4 - 1).expand(3, -1).contiguous(),
        at + "coef": table[index][..., :8].contiguous(),
        at + "mask": torch.ones(3, 4),
        at + "scale_base": table[index][..., 8].contiguous(),
        at + "scale_sp": table[index][..., 9].contiguous(),
        "symbolic_fun.0.mask": torch.zeros(4, 3),
        "symbolic_fun.0.affine": torch.zeros(4, 3, 4),
    }


def triple(
    place: Path, config: str | bytes = CONFIG, more: Mapping[str, torch.Tensor] | None = None
) -> Path:
    """What `saveckpt(place / "mark")` writes, and more tensors; returns the prefix."""
    torch.save({**state(), **(more or {})}, place / "mark_state")
    torch.save(torch.full((50, 3), 0.77), place / "mark_cache_data")
    content = config.encode() if isinstance(config, str) else config
    (place / "mark_config.yml").write_bytes(content)
    return place / "mark"


def test_the_prefix_reads_the_state_and_its_config(tmp_path: Path) -> None:
    prefix = triple(tmp_path)
    for source in (prefix, tmp_path / "mark_state"):
        found = read_foreign(source)
        assert found.settings == Settings(
            base_fun="silu", symbolic=True, widths=((3, 0), (4, 2), (2, 0)), mult_arity=2
        )
        assert list(found.tensors) == list(state())
    out = done("cluster", prefix, "-k", "2", "--force-pack", "-o", tmp_path / "packed.st").stderr
    assert "mark_config.yml says: base function silu; widths 3, 4+2, 2; multiplications of 2" in out
    size = (tmp_path / "mark_cache_data").stat().st_size
    assert f"mark_cache_data, the last batch of inputs (training data; {size:,} bytes)" in out
    assert "The tensors do not tell" not in out
    packed = (tmp_path / "packed.st").read_bytes()
    assert torch.full((1,), 0.77).numpy().tobytes() not in packed
    done("expand", tmp_path / "packed.st", "-o", tmp_path / "back_state")
    again = torch.load(tmp_path / "back_state", weights_only=True)
    before = state()
    assert list(again) == list(before)
    folded = before["act_fun.0.coef"] * before["act_fun.0.scale_sp"][..., None]
    assert torch.equal(again["act_fun.0.coef"], folded)


def test_other_commands_know_the_prefix_and_keep_the_state(tmp_path: Path) -> None:
    prefix = triple(tmp_path)
    report = json.loads(done("inspect", prefix, "--json").stdout)
    assert [layer["layout"] for layer in report["layers"]] == ["pykan"]
    assert any("mark_config.yml says" in problem for problem in report["problems"])
    line = refused(2, "cluster", prefix, "-k", "2", "--force", "-o", tmp_path / "mark_state")
    assert "is the input itself" in line
    line = refused(3, "inspect", tmp_path / "other")
    assert line == f"{tmp_path / 'other'} does not exist."


def test_a_file_of_the_prefixs_name_is_taken_itself(tmp_path: Path) -> None:
    prefix = triple(tmp_path)
    torch.save({"w": torch.ones(2)}, prefix)
    assert list(read_foreign(prefix).tensors) == ["w"]
    assert read_foreign(prefix).settings is None


@pytest.mark.parametrize(
    ("lines", "field", "value"),
    [
        ("width:\n- 2\n- 5\n- 1\n", "widths", ((2, 0), (5, 0), (1, 0))),
        ("width:\n- - 2\n  - 0\n- 5\n", "widths", ((2, 0), (5, 0))),
        ("width:\n- !!python/tuple\n  - 2\n  - 0\n", "widths", None),
        ("width:\n- - 2\n", "widths", None),
        ("width: [2, 5]\n", "widths", None),
        ("width:\n", "widths", None),
        ("mult_arity:\n- []\n- - 2\n  - 3\n- []\n", "mult_arity", ((), (2, 3), ())),
        ("mult_arity: two\n", "mult_arity", None),
        ("base_fun_name: 'identity'\n", "base_fun", "identity"),
        ("base_fun_name: !!python/name:torch.sin ''\n", "base_fun", None),
        ("symbolic_enabled: false\n", "symbolic", False),
        ("symbolic_enabled: maybe\n", "symbolic", None),
        ("", "base_fun", None),
        ("- 1\n  - 2\n\x00: :\n: x\nwidth", "widths", None),
    ],
)
def test_lines_of_the_config(lines: str, field: str, value: Any) -> None:
    assert getattr(parse(f"grid: 5\n{lines}k: 3\n"), field) == value


def test_a_config_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    found = read_foreign(triple(tmp_path, b"\xff\xfe"))
    assert found.settings is None
    assert found.notes[0] == ("mark_config.yml cannot be read as text; its settings are not known.")
    (tmp_path / "mark_config.yml").unlink()
    (tmp_path / "mark_cache_data").unlink()
    assert read_foreign(tmp_path / "mark").notes == ()


@pytest.mark.parametrize("case", NAMES)
def test_golden_checkpoints(case: str) -> None:
    record = json.loads((CASES / case / "case.json").read_text())
    found = read_foreign(CASES / case / "ckpt")
    assert found.settings is not None
    widths = [w if isinstance(w, list) else [w, 0] for w in record["constructor_args"]["width"]]
    assert [list(pair) for pair in found.settings.widths or ()] == widths
    assert found.settings.base_fun == "silu"
    assert found.settings.symbolic is True
    assert found.settings.mult_arity == 2
    before = torch.load(CASES / case / "ckpt_state", weights_only=True)
    config = ClusterConfig(clusters=8, force_pack=True)
    model = kancompress.cluster(CASES / case / "ckpt", config).model
    back = kancompress.expand(kancompress.encode(model))
    assert isinstance(back, Restored)
    assert back.config == (CASES / case / "ckpt_config.yml").read_text()
    assert list(back.tensors) == list(before)
    for name, tensor in before.items():
        if not name.endswith((".coef", ".scale_base", ".scale_sp")):
            assert bytes_of(back.tensors[name]) == bytes_of(tensor)


def test_what_loadckpt_needs_is_written_beside_the_state(tmp_path: Path) -> None:
    prefix = triple(tmp_path)
    packed, back = tmp_path / "packed.st", tmp_path / "back_state"
    out = done("cluster", prefix, "-k", "2", "--force-pack", "-o", packed).stderr
    # this config lacks some of pykan's keys
    assert "mark_config.yml stays out of the packed file: its grid_eps is missing" in out
    config = ("--pykan-config", tmp_path / "mark_config.yml")
    told = done("expand", packed, "-o", back, *config).stderr
    assert f"kan.KAN.loadckpt({str(tmp_path / 'back')!r})" in told
    assert (tmp_path / "back_config.yml").read_text() == CONFIG
    assert torch.load(tmp_path / "back_cache_data", weights_only=True) is None
    assert list(torch.load(back, weights_only=True)) == list(state())
    assert "exists" in refused(2, "expand", packed, "-o", tmp_path / "back_state", *config)
    assert "ends in _state" in refused(2, "expand", packed, "-o", tmp_path / "back.pt", *config)


WHOLE = """\
affine_trainable: false
auto_save: true
base_fun_name: identity
ckpt_path: /somewhere/of/mine
device: cuda
grid: 5
grid_eps: 1.0e-05
grid_range:
- -1
- 1.5
k:
- 3
mult_arity:
- []
- - 2
round: 3
sb_trainable: true
sp_trainable: false
state_id: 7
symbolic.funs_name.0:
- - '0'
  - x^2
  - '0'
- - '0'
  - '0'
  - '0'
- - '0'
  - '0'
  - '0'
- - 'it''s-mine'
  - '0'
  - '1/x'
symbolic_enabled: true
width:
- - 3
  - 0
- - 2
  - 1
"""


def test_the_config_travels_in_the_packed_file(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    prefix, packed = triple(tmp_path, WHOLE), tmp_path / "packed.st"
    kancompress.save(kancompress.cluster(prefix, clusters=2, force_pack=True), packed)
    assert b"somewhere" not in packed.read_bytes()
    told = done("expand", packed, "-o", tmp_path / "back_state").stderr
    assert f"kan.KAN.loadckpt({str(tmp_path / 'back')!r})" in told
    assert torch.load(tmp_path / "back_cache_data", weights_only=True) is None
    assert list(torch.load(tmp_path / "back_state", weights_only=True)) == list(state())
    anew = {"auto_save": False, "ckpt_path": "./model", "device": "cpu", "round": 0, "state_id": 0}
    written = yaml.safe_load((tmp_path / "back_config.yml").read_text())
    assert written == yaml.safe_load(WHOLE) | anew
    # what was written is read again, to the same bytes
    again = kancompress.expand(kancompress.cluster(tmp_path / "back", clusters=2, force_pack=True))
    assert isinstance(again, Restored)
    assert again.config == (tmp_path / "back_config.yml").read_text()
    assert "ends in _state" in done("expand", packed, "-o", tmp_path / "back.pt").stderr
    assert "exists" in refused(2, "expand", packed, "-o", tmp_path / "back_state")
    (tmp_path / "back_state").unlink()
    assert "back_config.yml exists" in refused(2, "expand", packed, "-o", tmp_path / "back_state")


def test_outputs_without_inputs_count_as_edges(tmp_path: Path) -> None:
    """Each has a list in what is written."""
    config = read_foreign(triple(tmp_path, WHOLE)).pykan
    assert config is not None
    few = {name: value for name, value in config.to_json().items() if name != "symbolic"}
    few |= {"grid": 5, "k": 3, "mult_arity": 2}
    assert PykanConfig.from_json(few | {"width": [[0, 0], [2**20, 0]]}).edges == [(2**20, 0)]
    with pytest.raises(SpecError, match="more than 1,048,576 edges"):
        PykanConfig.from_json(few | {"width": [[0, 0], [2**20 + 1, 0]]})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("k:\n- 3\n", "", "its k is missing or cannot be read"),
        ("it''s-mine", "it is mine", "its symbolic is missing or cannot be read"),
        ("grid: 5", "grid: 6", "'act_fun.0.coef' has the shape [3, 4, 8], by the config [3, 4, 9]"),
        ("- - 2\n  - 1\n", "- - 2\n  - 1\n- - 1\n  - 0\n", "its mult_arity is missing"),
        ("- - '0'\n  - x^2\n  - '0'\n", "", "its symbolic.funs_name.0 is missing"),
        ("device: cuda", "device: !!python/object/apply:torch.device\n- cuda", ""),
        ("- - 3\n  - 0\n", "- - 3000000\n  - 0\n", "it has more than 1,048,576 edges"),
        ("grid_eps: 1.0e-05", "grid_eps: .nan", "its grid_eps is missing or cannot be read"),
        ("base_fun_name: identity", "base_fun_name: !!python/name:torch.sin ''", "base_fun_name"),
    ],
)
def test_a_config_that_is_not_kept_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in WHOLE
    found = read_foreign(triple(tmp_path, WHOLE.replace(old, new, 1)))
    notes = [note for note in found.notes if "stays out" in note]
    assert (found.pykan is None) is bool(told)
    assert [told in note for note in notes] == [True] * bool(told)


def test_a_config_without_its_tensors_is_left_out(tmp_path: Path) -> None:
    prefix = triple(tmp_path, WHOLE, more={"total_ops": torch.zeros(1)})
    assert read_foreign(prefix, drop=("total_*",)).pykan is not None
    assert read_foreign(prefix, drop=("coef",)).pykan is None
    found = read_foreign(prefix, drop=("act_fun.0.grid", "total_ops"))  # as loadckpt is strict
    assert found.pykan is None
    note = "pykan's config stays out of the packed file: its loadckpt needs act_fun.0.grid"
    assert found.notes[-1] == note


@pytest.mark.slow
def test_pykan_loads_what_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kan = pytest.importorskip("kan")
    monkeypatch.chdir(tmp_path)  # where pykan keeps a history of its own
    model = kan.KAN(width=[3, 4, 2], grid=3, k=3, seed=0, auto_save=False)
    rows = torch.rand(20, 3) * 2 - 1
    wanted = model(rows)
    model.saveckpt("mark")
    # every edge its own centroid
    done("cluster", "mark", "-k", "64", "--force-pack", "-o", "packed.st")
    (tmp_path / "mark_config.yml").unlink()
    done("expand", "packed.st", "-o", "back_state")
    again = kan.KAN.loadckpt("back")
    torch.testing.assert_close(again(rows), wanted, rtol=1e-4, atol=1e-5)
