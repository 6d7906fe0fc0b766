"""Layouts against state dicts of the real classes, where their repositories are at hand.

    PYTHONPATH=tests python -m tests.real_repositories DIR [PROJECT ...]

DIR holds clones by the names of their repositories. Of each class a layer or a network is built
whose widths differ. Printed is whether its state dict is recognised as the layout, whether it comes
back from a packed file bit for bit (but for factors that are folded), and, where the class runs,
whether a change of one edge's vector changes one output and no other. What is not there, or does
not run, is said. This runs the code of the repositories.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import kancompress
from kancompress.libraries import recognise
from kancompress.models.vectors import gather, scatter

# What classes import beside torch and do not need for a forward.
STUBS = (
    "timm", "timm.data", "timm.layers", "timm.models", "timm.models.layers", "timm.optim",
    "timm.scheduler", "timm.utils", "torchvision", "torchvision.transforms", "tqdm", "transformers",
    "prettytable", "lightning", "torchmetrics", "wandb", "loguru", "cpp", "lkancpp",
)  # fmt: skip

# Packages whose own `__init__` imports more than the classes need.
STEPPED_OVER = ("LKAN", "KAN4TSF")


@dataclass(frozen=True)
class Real:
    """One class: where it is, with what it is built, and the layout of its layers.

    chosen : whether the user has to name the layout
    x      : shape of an input, none where the class is not run
    """

    project: str
    module: str
    name: str
    layout: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    chosen: bool = False
    x: tuple[int, ...] = ()


def _convolutions() -> Iterator[Real]:
    kinds = (
        ("kan_conv", "KAN", "kan-conv"), ("fast_kan_conv", "FastKAN", "fastkan-conv"),
        ("kagn_conv", "KAGN", "kagn-conv"), ("kacn_conv", "KACN", "kacn-conv"),
        ("kaln_conv", "KALN", "kaln-conv"), ("kajn_conv", "KAJN", "kajn-conv"),
        ("kabn_conv", "KABN", "kabn-conv"), ("relukan_conv", "ReLUKAN", "relukan-conv"),
        ("kagn_bottleneck_conv", "BottleNeckKAGN", "kagn-bottleneck"),
        ("relukan_bottleneck_conv", "BottleNeckReLUKAN", "relukan-bottleneck"),
        ("wav_kan", "WavKAN", "wav-kan-conv"),
    )  # fmt: skip
    for module, start, layout in kinds:
        for dim, suffix in ((1, "1d"), (2, ""), (3, "3d")):
            for groups in (1, 2):
                yield Real(
                    "torch-conv-kan", f"kan_convs.{module}", f"{start}Conv{dim}DLayer",
                    layout + suffix, (12, 20, 2), {"groups": groups},
                    chosen=layout in ("kaln-conv", "kajn-conv", "kabn-conv"),
                    # behind a bottleneck an edge reaches all outputs
                    x=() if "neck" in layout or "wav" in layout else (2, 12, *(4,) * dim),
                )  # fmt: skip


TORCH_CONV_KAN = (
    ("KANLayer", "torch-conv-kan-fc", (5, 7)), ("KALNLayer", "torch-conv-kan-kaln-fc", (5, 7)),
    ("FastKANLayer", "fast-kan", (5, 7)), ("ChebyKANLayer", "cheby-kan", (5, 7, 3)),
    ("GRAMLayer", "torch-conv-kan-gram", (5, 7)), ("WavKANLayer", "wav-kan", (5, 7)),
    ("JacobiKANLayer", "torch-conv-kan-jacobi", (5, 7, 3)),
    ("BernsteinKANLayer", "torch-conv-kan-bernstein", (5, 7, 3)),
    ("ReLUKANLayer", "torch-conv-kan-relu-fc", (5, 5, 3, 7)),
    ("BottleNeckGRAMLayer", "torch-conv-kan-gram-bottleneck", (50, 70)),
)  # fmt: skip

CLASSES = (
    *_convolutions(),
    Real("torch-conv-kan", "kan_convs.kagn_bottleneck_conv", "MoEBottleNeckKAGNConv2DLayer",
         "kagn-expert", (12, 20, 3), {"num_experts": 2, "k": 1}),
    *(Real("torch-conv-kan", "kans.layers", name, layout, arguments)
      for name, layout, arguments in TORCH_CONV_KAN),
    Real("SineKAN", "sine_kan", "SineKANLayer", "sine-kan", (5, 7), {"device": "cpu"}, x=(3, 5)),
    Real("FCN-KAN", "kan_layer", "KANLayer", "fcn-kan", (5, 7), x=(3, 5)),
    Real("Wav-KAN", "KAN", "KANLinear", "wav-kan", (5, 7), x=(3, 5)),
    Real("FlashKAN", "layers.FlashKAN", "FlashKAN", "flashkan-w", (5, 7, 6), x=(3, 5)),
    Real("FC_KAN", "models.fc_kan", "FC_KANLayer", "fc-kan", (5, 7, ["bs", "rbf", "dog"])),
    Real("FC_KAN", "models.bsrbf_kan", "BSRBF_KAN", "bsrbf-kan", ([5, 7],), x=(3, 5)),
    Real("FC_KAN", "models.faster_kan", "FasterKAN", "faster-kan", ([5, 7],), x=(3, 5)),
    Real("FC_KAN", "models.wav_kan", "KANLinear", "wav-kan", (5, 7), x=(3, 5)),
    *(Real("KA-Conv", "kaconv.kaconv.fastkanconv", "FastKANConvLayer", layout, (4, 6),
           {"kan_type": kind}, x=(2, 4, 6, 6))
      for kind, layout in (("RBF", "ka-conv-rbf"), ("Fourier", "ka-conv-fourier"),
                           ("Poly", "ka-conv"), ("Chebyshev", "ka-conv"), ("BSpline", "ka-conv"))),
    *(Real("LKAN", f"lkan.models.layers.{module}", name, layout, (5, 7), {"device": "cpu"})
      for module, name, layout in (("kan_linear", "KANLinear", "lkan-unscaled"),
                                   ("kan_linear_0", "KANLinear0", "lkan-0"),
                                   ("kan_linear_fft", "KANLinearFFT", "lkan-fft"))),
    Real("LKAN", "lkan.models.layers.kanconv2d", "KANConv2d", "lkan-fft-conv", (4, 6, 3),
         {"device": "cpu"}),
    Real("KAN4TSF", "easytsf.layer.kanlayer", "KANLayer", "pykan-layer-0.0", (5, 7),
         {"device": "cpu"}),
    Real("KAN4TSF", "easytsf.layer.kanlayer", "WaveKANLayer", "wav-kan", (5, 7)),
    *(Real("KANLib", f"kanlib.nn.{kind}", name, layout, arguments,
           {"grid_size": 6, **({"spline_order": 3} if kind == "bspline" else {}), **more})
      for kind in ("bspline", "grbf")
      for name, layout, arguments, more in (
          ("Linear", "kanlib", (5, 7), {}), ("Conv1d", "kanlib-conv1d", (4, 6, 3), {}),
          ("Conv2d", "kanlib-conv", (4, 6, 3), {}),
          ("Conv2d", "kanlib-conv-grouped", (4, 6, 3), {"groups": 2}))),
)  # fmt: skip


@contextmanager
def imports_of(place: Path) -> Iterator[None]:
    """Modules of one repository, which are forgotten behind it."""
    before = set(sys.modules)
    paths = [str(place), str(place / "src")]
    absent = {name: mock.MagicMock() for name in STUBS if name not in sys.modules}
    with mock.patch.dict(sys.modules, absent), mock.patch.object(sys, "path", paths + sys.path):
        yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def built(real: Real, place: Path) -> nn.Module:
    """The real class, in float64."""
    parts = real.module.split(".")
    for count in range(1, len(parts)) if real.project in STEPPED_OVER else ():
        package = ModuleType(".".join(parts[:count]))
        package.__path__ = [str(place / Path(*parts[:count]))]
        sys.modules[package.__name__] = package
    torch.manual_seed(0)
    model: nn.Module = getattr(importlib.import_module(real.module), real.name)(
        *real.arguments, **real.keywords
    )
    return model.double().eval()


def comes_back(state: dict[str, Tensor], choice: dict[str, str]) -> bool:
    config = kancompress.ClusterConfig(clusters=65_536, force_pack=True)
    raw = kancompress.encode(kancompress.cluster(state, config, layouts=choice).model)
    again = kancompress.expand(raw)
    folded = {
        name
        for layer in recognise(state, choice).layers
        for name in (*(gain.tensor for gain in layer.gains),
                     *(part.tensor for part in layer.parts if layer.gains))
    }  # fmt: skip
    assert hasattr(again, "tensors")
    return list(again.tensors) == list(state) and all(
        torch.equal(again.tensors[name], tensor)
        for name, tensor in state.items()
        if name not in folded
    )


def is_edge(model: nn.Module, state: dict[str, Tensor], choice: dict[str, str], x: Tensor) -> bool:
    """Whether a change of an edge's vector changes its output and no other, some edges tried."""
    for name, child in list(model.named_modules()):
        if "Norm" in type(child).__name__:  # norms mix what edges put out
            parent = model.get_submodule(name.rpartition(".")[0])
            parent._modules[name.rpartition(".")[2]] = nn.Identity()
    layer = recognise(state, choice).layers[0]
    vectors, rng = gather(layer, state), torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = model(x)
        for edge in torch.randint(layer.edges, (8,), generator=rng).tolist():
            changed = vectors.clone()
            changed[edge] += 0.5
            model.load_state_dict(state | scatter(layer, changed), strict=False)
            moved = (model(x) - before).abs().transpose(0, 1).flatten(1).amax(1) > 1e-9
            if moved.nonzero().flatten().tolist() != [edge // (layer.edges // layer.shape[0])]:
                return False
    return True


def tried(real: Real, directory: Path) -> str:
    """What is found of one class."""
    place = directory / real.project
    if not place.is_dir():
        return "skipped: its repository is not there"
    with imports_of(place):
        try:
            model = built(real, place)
        except Exception as error:
            return f"skipped: {type(error).__name__}: {str(error)[:80]}"
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        choice = {"": real.layout} if real.chosen else {}
        found = {layer.layout for layer in recognise(state, choice).layers}
        if found != {real.layout}:
            return f"NOT RECOGNISED: {', '.join(found) or recognise(state, choice).problems}"
        told = "comes back" if comes_back(state, choice) else "DOES NOT COME BACK"
        if real.x:
            x = torch.rand(real.x, dtype=torch.float64) - 0.5
            try:
                told += ", edges" if is_edge(model, state, choice, x) else ", NO EDGES"
            except RuntimeError as error:
                told += f", does not run ({str(error)[:80]})"
    return told


def main(directory: Path, *projects: str) -> None:
    for real in CLASSES:
        if projects and real.project not in projects:
            continue
        groups = f" groups={real.keywords['groups']}" if "groups" in real.keywords else ""
        print(f"{real.project} {real.name}{groups} ({real.layout}): {tried(real, directory)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
