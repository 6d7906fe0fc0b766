"""docs/libraries.md: its tables are what the code and the results say, and its "yes" is tried."""

import io
import re
from pathlib import Path

import einops
import pytest
import torch
from safetensors.torch import load_file
from test_real_classes import LIBRARIES
from torch import Tensor

import kancompress
from kancompress.libraries import LAYOUTS, Layout, recognise
from kancompress.models.restoration import Restored
from tests.benchmarks import libraries as benchmark
from tests.benchmarks.convolutional import SimpleConvKagn
from tests.libraries import GOLDEN as GOLDEN_LAYOUTS
from tests.libraries import ROWS, table
from tests.packed_checker import checker

PAGE = (Path(__file__).parents[1] / "docs" / "libraries.md").read_text()
GOLDEN = Path(__file__).parents[2] / "shared" / "cases" / "tck_SimpleConvKAGN"
EDGE = ("group", "out", "in", "kd", "kh", "kw")
SIZES = {"group": 1, "out": 6, "in": 4, "kd": 2, "kh": 3, "kw": 2, "half": 2, "coef": 8,
         "coef_hidden": 3, "coef_feature": 5,
         "coef_d": 2, "coef_h": 3, "coef_w": 2, "coef_u": 4, "coef_v": 4, "knots": 12}  # fmt: skip
# `inputs` and `outputs` of a bottleneck differ from what lies between its projections.
OTHERS = {"four": 4, "two": 2, "order_plus_one": 4, "order_plus_one_too": 4, "1": 1,
          "inputs": 9, "outputs": 10}  # fmt: skip
# Found by functions, or pooled, with golden files of their own.
APART = [layout.name for layout in LAYOUTS if layout.finder is not None or layout.pool]
UNEXTENDED = ("pykan-0.0", "pykan-layer-0.0")
VECTORS = 5


def test_the_table_of_libraries_is_fresh() -> None:
    assert table() in PAGE, "stale; PYTHONPATH=tests python -m tests.libraries prints it"


def test_every_layout_is_in_the_table_once() -> None:
    listed = [name for row in ROWS for name in row.layouts]
    assert sorted(listed) == sorted(layout.name for layout in LAYOUTS)
    assert {row.real for row in ROWS if row.real} == {library.name for library in LIBRARIES}


def test_the_table_of_measurements_is_fresh() -> None:
    assert benchmark.table() in PAGE, "stale; tests.benchmarks.libraries --table prints it"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden cases are not here")
@pytest.mark.parametrize("name", ["state", "distinct8"])
def test_the_measured_convolutions_compute_what_torch_conv_kan_does(name: str) -> None:
    io_file = "io" if name == "state" else f"{name}_io"
    found = load_file(GOLDEN / f"{io_file}.safetensors")
    model = SimpleConvKagn((4, 8, 12, 16)).eval()
    model.load_state_dict(torch.load(GOLDEN / f"{name}.pt", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(model(found["x"]), found["y"], atol=1e-5, rtol=1e-5)


# --- every record, by a state dict made after it --------------------------------------------


def tokens(axes: str) -> list[str]:
    return re.findall(r"\w+", axes)


def called(name: str) -> str:
    return "layer." + name.replace("*", "0").replace("#", "0")


def beside(axes: str, layout: Layout, rng: torch.Generator) -> Tensor:
    sizes = SIZES | OTHERS | ({"knots": 6} if layout.name in UNEXTENDED else {})
    parts = re.findall(r"\([^)]*\)|\w+", axes)
    shape = [torch.Size([sizes[t] for t in tokens(part)]).numel() for part in parts]
    return torch.rand(shape, generator=rng)


def made_up(layout: Layout) -> dict[str, Tensor]:
    """All that the layout asks for, edges with few different vectors; einops lays them out."""
    rng = torch.Generator().manual_seed(0)
    anchor = tokens(layout.pieces[0].axes)
    over = [axis for axis in EDGE if axis in anchor]
    pick = torch.randint(VECTORS, [SIZES[axis] for axis in over], generator=rng)
    state: dict[str, Tensor] = {}
    for piece in layout.pieces:
        inside = [axis for axis in tokens(piece.axes) if axis not in (*EDGE, "1")]
        # A tensor for each group lacks the axis; there is one group.
        edge = [axis for axis in over if axis in tokens(piece.axes)]
        at = pick.reshape([SIZES[axis] for axis in edge])
        values = torch.randn(VECTORS, *(SIZES[axis] for axis in inside), generator=rng)[at]
        pattern = f"{' '.join(edge + inside)} -> {piece.memory or piece.axes}"
        laid = einops.rearrange(values, re.sub(r"\bin\b", "inner", pattern))
        if piece.memory:
            laid = laid.reshape(beside(piece.axes, layout, rng).shape)
        state[called(piece.name)] = laid.contiguous()
    for scale in layout.scales:
        if scale.required:
            state[called(scale.name)] = torch.ones_like(beside(scale.axes, layout, rng))
    for veil in layout.veils:
        if veil.required:
            state[called(veil.name)] = torch.full_like(
                beside(veil.axes, layout, rng), 1.0 if veil.live else 0.0
            )
    for item in layout.beside:
        if "**" not in item.name and (item.required or item.axes):
            state[called(item.name)] = beside(item.axes, layout, rng)
    return state


def test_layouts_that_are_not_made_up_have_golden_files() -> None:
    # MetaFastKAN's formula is in tests/test_generation.py
    assert set(APART) - {"metakan-fast"} <= GOLDEN_LAYOUTS


@pytest.mark.parametrize(
    "layout", [x for x in LAYOUTS if x.name not in APART], ids=lambda layout: layout.name
)
def test_every_layout_is_recognised_packed_and_restored(layout: Layout) -> None:
    state = made_up(layout)
    chosen = {"": layout.name}
    (found,) = recognise(state, chosen).layers
    assert found.layout == layout.name
    buffer = io.BytesIO()
    torch.save(state, buffer)
    config = kancompress.ClusterConfig(clusters=VECTORS, force_pack=True)
    packed = kancompress.cluster(buffer.getvalue(), config, layouts=chosen).model
    assert packed.layers[0].codebook is not None
    raw = kancompress.encode(packed)
    assert checker(raw) is None
    restored = kancompress.expand(raw)
    assert isinstance(restored, Restored)
    assert list(restored.tensors) == list(state)
    for name, tensor in state.items():
        assert torch.equal(restored.tensors[name], tensor), name
