"""The table of libraries in docs/libraries.md, from the layouts, the forms and the tests.

    PYTHONPATH=tests python -m tests.libraries

prints it; tests/test_libraries.py compares. Each row names a library, where it is, and its layouts.
"""

from __future__ import annotations

from dataclasses import dataclass

import test_forms
import test_layouts

from kancompress.libraries.catalogue import FORMS


@dataclass(frozen=True)
class Row:
    """A library: its layouts by name, and the `real` class of tests/test_real_classes.py."""

    library: str
    layouts: tuple[str, ...]
    real: str = ""


_CONVOLUTIONS = (
    "kan-conv", "fastkan-conv", "kagn-conv", "kagn-conv-v2", "kagn-bottleneck", "kagn-expert",
    "kacn-conv", "kaln-conv", "kajn-conv", "kabn-conv", "relukan-conv", "relukan-bottleneck",
)  # fmt: skip

ROWS = (
    Row(
        "[efficient-kan](https://github.com/Blealtan/efficient-kan) and copies",
        ("efficient-kan",),
    ),
    Row("KANELÉ", ("kanele",)),
    Row("[fast-kan](https://github.com/ZiyaoLi/fast-kan)", ("fast-kan", "fast-kan-no-base")),
    Row("[faster-kan](https://github.com/AthanasiosDelis/faster-kan)", ("faster-kan",)),
    Row("[pykan](https://github.com/KindXiaoming/pykan) 0.1 and later", ("pykan",), "pykan"),
    Row("pykan 0.0", ("pykan-0.0",)),
    Row("pykan, `KANLayer` alone", ("pykan-layer", "pykan-layer-0.0"), "pykan KANLayer"),
    Row("MatrixKAN", ("matrixkan",)),
    Row("[ChebyKAN](https://github.com/SynodicMonth/ChebyKAN)", ("cheby-kan",)),
    Row(
        "[OrthogPolyKANs](https://github.com/Boris-73-TA/OrthogPolyKANs) and the like",
        (
            "orthogpoly-legendre", "orthogpoly-cheby2", "orthogpoly-hermite", "orthogpoly-bessel",
            "orthogpoly-jacobi", "orthogpoly-gegenbauer", "orthogpoly-laguerre", "orthogpoly-fib",
            "orthogpoly-lucas", "gottlieb-kan",
        ),
    ),
    Row("[GRAMKAN](https://github.com/Khochawongwat/GRAMKAN)", ("gramkan",)),
    Row("[FourierKAN](https://github.com/GistNoesis/FourierKAN)", ("fourier-kan",)),
    Row("[torchkan](https://github.com/1ssb/torchkan)", ("torchkan",)),
    Row(
        "torchkan, `KAL_Net` and `KAC_Net`",
        ("torchkan-poly", "torchkan-legendre", "torchkan-chebyshev"),
    ),
    Row("[relu_kan](https://github.com/quiqi/relu_kan)", ("relu-kan",)),
    Row("[RBF-KAN](https://github.com/sidhu2690/RBF-KAN)", ("rbf-kan",)),
    Row("[BSRBF_KAN](https://github.com/hoangthangta/BSRBF_KAN)", ("bsrbf-kan",)),
    Row("[FC_KAN](https://github.com/hoangthangta/FC_KAN)", ("fc-kan",)),
    Row(
        "[torch-conv-kan](https://github.com/IvanDrokin/torch-conv-kan), fully connected",
        (
            "torch-conv-kan-fc", "torch-conv-kan-gram", "torch-conv-kan-gram-bottleneck",
            "torch-conv-kan-jacobi",
            "torch-conv-kan-bernstein", "torch-conv-kan-kaln-fc", "torch-conv-kan-relu-fc",
        ),
    ),
    Row("torch-conv-kan, convolutions", _CONVOLUTIONS),
    Row("torch-conv-kan, one-dimensional", tuple(f"{name}1d" for name in _CONVOLUTIONS)),
    Row("torch-conv-kan, three-dimensional", tuple(f"{name}3d" for name in _CONVOLUTIONS)),
    Row(
        "[convkan](https://github.com/StarostinV/convkan)",
        ("convkan", "convkan-ungrouped"),
        "convkan",
    ),
    Row(
        "[Convolutional-KANs](https://github.com/AntonioTepsich/Convolutional-KANs)",
        ("convolutional-kans",),
    ),
    Row(
        "[KA-Conv](https://github.com/XiangboGaoBarry/KA-Conv)",
        ("ka-conv", "ka-conv-rbf", "ka-conv-fourier"),
    ),
    Row("[MetaKAN](https://github.com/Murphyzc/MetaKAN)", ("metakan", "metakan-fast")),
    Row("[flashkan](https://pypi.org/project/flashkan/)", ("flashkan",), "flashkan"),
    Row("[inkan](https://pypi.org/project/inkan/)", ("inkan",), "inkan"),
    Row("FlashKAN before flashkan 0.2", ("flashkan-w",)),
    Row(
        "[LKAN](https://github.com/Indoxer/LKAN)",
        (
            "lkan", "lkan-0", "lkan-unscaled", "lkan-fft", "lkan-fft-unscaled", "lkan-fft-conv",
            "lkan-fft-conv-unscaled",
        ),
    ),
    Row(
        "[kanlib](https://github.com/julianhoever/KANLib)",
        ("kanlib", "kanlib-conv", "kanlib-conv1d", "kanlib-conv-grouped", "kanlib-conv1d-grouped"),
    ),
    Row("kanditioned", ("kanditioned",)),
    Row("[Wav-KAN](https://github.com/zavareh1/Wav-KAN) and copies", ("wav-kan",)),
    Row(
        "torch-conv-kan, wavelets",
        (
            "wav-kan-conv", "wav-kan-conv1d", "wav-kan-conv3d", "wav-kan-conv-plus-one",
            "wav-kan-conv-plus-one1d",
        ),
    ),
    Row("[SineKAN](https://github.com/ereinha/SineKAN)", ("sine-kan",)),
    Row("[FCN-KAN](https://github.com/Zhangyanbo/FCN-KAN)", ("fcn-kan",)),
    Row("[CVKAN](https://github.com/M-Wolff/CVKAN)", ("cvkan",)),
)  # fmt: skip

# Layouts of which a file that the library itself saved is packed at k = 8 without loss.
GOLDEN = {*test_layouts.EXPECTED.values()}
# ... and whose outputs our forward gives.
RUN = {test_layouts.expected_layout(case) for case in test_forms.SUPPORTED} | {"metakan"}


def evaluated(row: Row) -> str:
    known = [name for name in row.layouts if name in FORMS]
    if len(known) == len(row.layouts):
        return "yes"
    return ", ".join(f"`{name}`" for name in known) or "no"


def checked(row: Row) -> str:
    """Against what the row is tested, the strongest first."""
    found = []
    if row.real:
        found.append("real class")
    golden = [name for name in row.layouts if name in GOLDEN]
    if golden:
        what = "golden files" if set(golden) & RUN else "golden files (tensors)"
        names = ", ".join(f"`{name}`" for name in golden)
        found.append(what if len(golden) == len(row.layouts) else f"{what} of {names}")
    return "; ".join(found) or "state dict made up after its source"


def table() -> str:
    """All rows in Markdown."""
    lines = [
        "| library | layouts | recognised, packs, restores | evaluates natively"
        " | checked against |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        names = ", ".join(f"`{name}`" for name in row.layouts)
        lines.append(f"| {row.library} | {names} | yes | {evaluated(row)} | {checked(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
