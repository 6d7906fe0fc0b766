"""Files that no layout knows: a line is proposed that can be pasted, or it is said why not."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import Tensor

from command import done, refused
from kancompress.libraries import Recognition, format_layouts, parse_layouts, recognise
from kancompress.libraries.proposals import proposals
from kancompress.models.vectors import gather


def drawn(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


WAVES = drawn(**{"x.w": (5, 4), "x.s": (5, 4), "x.t": (5, 4), "x.norm": (5,)})
NETWORKS = drawn(**{"0.U": (4, 5, 3, 7), "0.V": (4, 5, 1, 3), "0.a": (4, 5, 3), "0.b": (4, 5, 1)})


@pytest.mark.parametrize(
    ("state", "lines"),
    [
        (drawn(**{"0.Y": (5, 4, 16)}), ["coef=Y:out in coef"]),
        # the axis that two layers have alike
        (drawn(**{"a.k": (9, 5, 4), "b.k": (9, 4, 3)}), ["coef=k:coef out in"]),
        # a bias has the width of the outputs
        (drawn(**{"0.k": (4, 5, 8), "0.bias": (5,)}), ["coef=k:in out coef"]),
        (drawn(**{"0.k": (4, 5, 8), "0.r": (5, 4)}), ["coef=k:out in coef; base=r:in out"]),
        (WAVES, ["base=w:out in; base=s:out in; base=t:out in"]),
        (NETWORKS, ["coef=U:out in coef_a coef_b; coef=V:out in 1 coef_a; coef=a:out in coef_a; "
                    "base=b:out in 1"]),
        (drawn(**{"0.re": (4, 5, 6, 6), "0.im": (4, 5, 6, 6)}),
         ["coef=re:out in coef_a coef_b; coef=im:out in coef_a coef_b"]),
        (drawn(**{"conv.weight": (8, 4, 3, 3), "conv.bias": (8,), "fc.weight": (3, 8)}), []),
        (drawn(**{"0.Y;": (5, 4, 16)}), []),
        ({"0.Y": torch.ones(5, 4, 3, dtype=torch.int64)}, []),
    ],
)  # fmt: skip
def test_tensors_that_share_two_axes_are_proposed(
    state: dict[str, Tensor], lines: list[str]
) -> None:
    found = recognise(state)
    made = proposals(state, found)
    assert [one.line for one in made] == lines
    for one in made:
        chosen = recognise(state, {"": one.line}).layers
        assert tuple(layer.name for layer in chosen) == one.layers
        numbers = sum(state[name].numel() for layer in chosen for name in layer.tensors)
        assert sum(gather(layer, state).numel() for layer in chosen) == numbers


def test_a_message_has_a_line_that_can_be_pasted(tmp_path: Path) -> None:
    torch.save(NETWORKS | drawn(**{"1.Y": (5, 4, 16)}), tmp_path / "m.pt")
    told = refused(2, "cluster", tmp_path / "m.pt", "-o", tmp_path / "P.st")
    option = re.search(r"--layout '[^']+'", told)
    assert option is not None
    assert "inspect --print-layout has 1 more" in told
    words = shlex.split(option.group())
    done("cluster", tmp_path / "m.pt", "-k", "4", *words, "-o", tmp_path / "P.st")


@pytest.mark.parametrize("stem", ["", "x=", "base="])
def test_a_line_may_begin_with_base(stem: str, tmp_path: Path) -> None:
    state = {name.replace("x", "base") if stem == "base=" else name: t for name, t in WAVES.items()}
    torch.save(state, tmp_path / "m.pt")
    line = f"{stem}base=w:out in; base=s:out in; base=t:out in"
    report = done("inspect", tmp_path / "m.pt", "--layout", line, "--json").stdout
    assert json.loads(report)["layers"][0]["shape"] == [5, 4]


def test_a_stem_may_be_called_base(tmp_path: Path) -> None:
    torch.save(drawn(**{"base.cheby_coeffs": (4, 5, 3)}), tmp_path / "m.pt")
    options = ("--layout", "base=cheby-kan", "--json")
    report = json.loads(done("inspect", tmp_path / "m.pt", *options).stdout)
    assert [layer["name"] for layer in report["layers"]] == ["base"]


def test_print_layout_proposes_what_it_did_not_recognise(tmp_path: Path) -> None:
    torch.save(NETWORKS, tmp_path / "m.pt")
    text = done("inspect", tmp_path / "m.pt", "--print-layout").stdout
    active = text.replace("# [[", "[[").split("[[layers]]")
    uncommented = "[[layers]]" + active[1].replace("\n# ", "\n")
    chosen = parse_layouts(uncommented, "it")
    assert list(chosen) == ["0"]
    assert [layer.name for layer in recognise(NETWORKS, chosen).layers] == ["0"]


def test_print_layout_says_that_it_has_nothing_to_propose() -> None:
    state = drawn(**{"fc.weight": (3, 8)})
    text = format_layouts(recognise(state), "m.pt", state)
    assert "# No line is proposed" in text
    empty = format_layouts(Recognition(layers=(), problems=(), others=()), "m.pt", {})
    assert "# No line is proposed" in empty
