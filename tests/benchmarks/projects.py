"""Public projects' own classes, packed, packed again and clustered by outputs.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.projects DIR

DIR holds checkouts of the repositories, each named `owner+name`; what is not there is skipped, and
told. Each class is built as its project builds it, with random weights, two layers of it where it
is a single layer. One row of the table for each:

    exact       packed at 16 centroids, loaded into the class, packed and loaded again: the outputs
                are the same to 1e-5 of their spread
    plain       error of the outputs at 16 centroids on rows that calibration did not have, relative
                to their spread, of plain k-means
    by outputs  the same, clustered by what the layers put out in the project's own class
    asked       how many of the layers told their features themselves

The projects' code is imported, so read it before you run it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import kancompress
from kancompress import ClusterConfig

LAYOUTS = dict[str, str]


@dataclass(frozen=True)
class Project:
    """A class of a project.

    repository : owner/name; below : the folder that its imports begin from
    module     : that has the class; build : makes a model from the module
    shape      : of a row; layouts : where names and shapes do not tell
    """

    repository: str
    below: str
    module: str
    name: str
    build: Callable[[Any], nn.Module]
    shape: tuple[int, ...]
    layouts: LAYOUTS | None = None


def twice(make: Callable[[int, int], nn.Module]) -> nn.Module:
    """Two layers with a tanh between them."""
    return nn.Sequential(make(12, 20), nn.Tanh(), make(20, 6))


def maps(make: Callable[[int, int], nn.Module]) -> nn.Module:
    """Two convolutions."""
    return nn.Sequential(make(6, 12), make(12, 8))


TCK, KANERF = "IvanDrokin/torch-conv-kan", "lif314/X-KANeRF"
IMAGE, ROW = (6, 8, 8), (12,)


def conv(name: str, module: str, *more: Any, **how: Any) -> Project:
    """A convolution of torch-conv-kan, 3 x 3 with padding."""
    layouts = how.pop("layouts", None)

    def build(m: Any) -> nn.Module:
        return maps(lambda i, o: getattr(m, name)(i, o, *more, padding=1, **how))

    told = ", ".join(f"{key}={value}" for key, value in how.items() if key != "kernel_size")
    shown = f"{name}({told})" if told else name
    return Project(TCK, "", f"kan_convs.{module}", shown, build, IMAGE, layouts)


def nerf(module: str, name: str, *more: Any) -> Project:
    """A layer of X-KANeRF."""

    def build(m: Any) -> nn.Module:
        return twice(lambda i, o: getattr(m, name)(i, o, *more))

    return Project(KANERF, "xKANeRF/xKAN", module, name, build, ROW)


def layer(repository: str, below: str, module: str, name: str, *more: Any, **how: Any) -> Project:
    """A fully connected layer."""
    layouts = how.pop("layouts", None)

    def build(m: Any) -> nn.Module:
        return twice(lambda i, o: getattr(m, name)(i, o, *more, **how))

    return Project(repository, below, module, name, build, ROW, layouts)


def network(repository: str, below: str, module: str, name: str, **how: Any) -> Project:
    """A network of given widths."""
    return Project(
        repository, below, module, name, lambda m: getattr(m, name)([12, 20, 6], **how), ROW
    )


PROJECTS = (
    network("Blealtan/efficient-kan", "src", "efficient_kan", "KAN"),
    network("ZiyaoLi/fast-kan", "", "fastkan", "FastKAN"),
    network("AthanasiosDelis/faster-kan", "", "fasterkan.fasterkan", "FasterKAN"),
    layer("SynodicMonth/ChebyKAN", "", "ChebyKANLayer", "ChebyKANLayer", 4),
    layer("SpaceLearner/JacobiKAN", "", "JacobiKANLayer", "JacobiKANLayer", 4),
    layer("huangst21/TimeKAN", "", "layers.ChebyKANLayer", "ChebyKANLinear", 4),
    layer("2448845600/KAN4TSF", "", "easytsf.layer.kanlayer", "JacobiKANLayer", 4),
    layer("2448845600/KAN4TSF", "", "easytsf.layer.kanlayer", "ChebyKANLayer", 4),
    layer(
        "2448845600/KAN4TSF",
        "",
        "easytsf.layer.kanlayer",
        "TaylorKANLayer",
        3,
        layouts={"": "coef=coeffs:out in coef"},
    ),
    layer("2448845600/KAN4TSF", "", "easytsf.layer.kanlayer", "NaiveFourierKANLayer", 5),
    layer("CUHK-AIM-Group/U-KAN", "Seg_UKAN", "kan", "KANLinear"),
    layer("Indoxer/LKAN", "", "lkan.models.layers.kan_linear", "KANLinear"),
    network("hoangthangta/All-KAN", "", "models.bsrbf_kan", "BSRBF_KAN"),
    network("hoangthangta/All-KAN", "", "models.fourier_kan", "FourierKAN"),
    network("hoangthangta/All-KAN", "", "models.gottlieb_kan", "GottliebKAN"),
    network("hoangthangta/All-KAN", "", "models.cheby_kan", "ChebyKAN"),
    nerf("chebyshev_kan", "ChebyKANLayer", 4),
    nerf("jacobi_kan", "JacobiKANLayer", 4),
    nerf("legendre_kan", "LegendreKANLayer", 4),
    nerf("hermite_kan", "HermiteKANLayer", 4),
    nerf("lucas_kan", "LucasKANLayer", 4),
    nerf("fourier_kan", "FourierKANLayer", 5),
    nerf("bspine_kan", "KANLinear"),
    nerf("wav_kan", "WavKANLinear"),
    layer("zavareh1/Wav-KAN", "", "KAN", "KANLinear"),
    conv("KANConv2DLayer", "kan_conv", kernel_size=3),
    conv("FastKANConv2DLayer", "fast_kan_conv", kernel_size=3),
    conv("KAGNConv2DLayer", "kagn_conv", kernel_size=3),
    conv("KAGNConv2DLayer", "kagn_conv", kernel_size=3, groups=2, stride=2),
    conv("KACNConv2DLayer", "kacn_conv", kernel_size=3),
    conv("KALNConv2DLayer", "kaln_conv", kernel_size=3, layouts={"": "kaln-conv"}),
    conv("KAJNConv2DLayer", "kajn_conv", kernel_size=3, layouts={"": "kajn-conv"}),
    conv("KABNConv2DLayer", "kabn_conv", kernel_size=3, layouts={"": "kabn-conv"}),
    conv("BottleNeckKAGNConv2DLayer", "kagn_bottleneck_conv", kernel_size=3),
)


@contextlib.contextmanager
def imported(root: Path, project: Project) -> Iterator[Any]:
    """The project's module; its modules are forgotten afterwards, as others have their names."""
    before = set(sys.modules)
    sys.path.insert(0, str(root / project.below))
    try:
        yield importlib.import_module(project.module)
    finally:
        sys.path.pop(0)
        own = {path.stem for path in (root / project.below).iterdir()}
        for name in set(sys.modules) - before:
            if name.split(".")[0] in own:
                del sys.modules[name]


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x).flatten(1).double()


def apart(y: Tensor, z: Tensor) -> float:
    """Squared error relative to the spread."""
    return float((y - z).square().sum() / (y - y.mean(0)).square().sum())


def measure(project: Project, module: Any) -> list[str]:
    """The cells of a row behind the names."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        return project.build(module).float()

    def with_state(found: kancompress.Compression) -> nn.Module:
        other = made()
        found.apply_to(other)
        return other

    model = made()
    noise = torch.randn(700, *project.shape, generator=torch.Generator().manual_seed(1))
    x = functional.avg_pool1d(noise.flatten(2) if noise.dim() > 3 else noise[:, None], 3, 1, 1)
    x = x.reshape(noise.shape)
    config = ClusterConfig(clusters=16, force_pack=True)
    plain = kancompress.compress(model, config, layouts=project.layouts)
    once = with_state(plain)
    again = with_state(kancompress.compress(once, config, layouts=project.layouts))
    y, test = outputs(model, x[600:]), x[600:]
    exact = apart(outputs(once, test), outputs(again, test)) < 1e-10
    cells = ["yes" if exact else "no", f"{apart(y, outputs(once, test)):.3g}"]
    try:
        options = kancompress.RunOptions(layouts=project.layouts or {})
        found = kancompress.compress_by_outputs(model, x[:600], config, options=options)
    except kancompress.KancompressError as error:
        return [*cells, "refused: " + str(error).split(";", 1)[-1].strip().split(". ")[0], ""]
    asked = next((note for note in found.notes if "features asked" in note), "")
    count = asked.count(",") + 1 if asked else 0
    left = next((note for note in found.notes if "plain k-means" in note), "")
    error = f"{apart(y, outputs(with_state(found), test)):.3g}"
    return [*cells, f"{error}{' (' + left + ')' if left else ''}", f"{count}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| project | class | exact | plain | by outputs | asked |\n|---|---|---|---|---|---|")
    skipped = []
    for project in PROJECTS:
        if options.only not in f"{project.repository} {project.name}":
            continue
        root = options.directory / project.repository.replace("/", "+")
        if not root.is_dir():
            skipped.append(project.repository)
            continue
        try:
            with imported(root, project) as module, contextlib.redirect_stdout(io.StringIO()):
                cells = measure(project, module)
        except kancompress.KancompressError as error:
            cells = [f"no: {error}", "", "", ""]
        except Exception as error:
            cells = [f"its code raises {type(error).__name__}: {error}", "", "", ""]
        cells = [" ".join(cell.split()).replace("|", "/")[:200] for cell in cells]
        print(f"| {project.repository} | {project.name} | {' | '.join(cells)} |", flush=True)
    if skipped:
        print(f"\nSkipped, as they are not in the directory: {', '.join(dict.fromkeys(skipped))}")


if __name__ == "__main__":
    main()
