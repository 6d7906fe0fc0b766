"""Models of users' own, clustered by outputs in their own modules, beside plain k-means.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.own_models [--clusters 16 64] [--seeds 0 1 2]

Each model is written after a public project's class, with its names and shapes, and is trained for
a few epochs; the error is that of all outputs on rows that neither training nor calibration had,
relative to their spread. Nothing is tuned afterwards.

    bottleneck  VGG of torch-conv-kan's bottleneck Gram layers (kan_convs/kagn_bottleneck_conv.py),
                digits: features of the inner maps are asked of the module
    chebyshev   Chebyshev polynomials of a tanh of a tanh (TimeKAN's layer), digits
    experts     a gate and four experts of efficient-kan's layers, digits
    tokens      an embedding and efficient-kan's layers on token ids, the next of a random walk
    products    pykan's own class with multiplication nodes, a function of four numbers; left out
                where pykan is not installed
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import kancompress
from kancompress import ClusterConfig

Loss = Callable[[Tensor, Tensor], Tensor]


class KanLinear(nn.Module):
    """efficient-kan's layer with its default grid, for any leading axes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("grid", (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1))
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, 8) * 0.05)

    def forward(self, x: Tensor) -> Tensor:
        far = (x[..., None] - self.grid[:, 2:-2]).abs() / 0.4
        inside, outside = 2 / 3 - far**2 + far**3 / 2, (2 - far).clamp(min=0) ** 3 / 6
        splines = torch.where(far < 1, inside, outside)
        base = functional.linear(functional.silu(x), self.base_weight)
        return base + torch.einsum("...is,ois->...o", splines, self.spline_weight)


class Chebyshev(nn.Module):
    """sum over d of c[i, o, d] T_d(tanh(tanh(x_i)))."""

    def __init__(self, inputs: int, outputs: int, degree: int = 4) -> None:
        super().__init__()
        scale = inputs * (degree + 1)
        self.cheby_coeffs = nn.Parameter(torch.randn(inputs, outputs, degree + 1) / scale)
        self.register_buffer("arange", torch.arange(degree + 1))

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arccos(torch.tanh(torch.tanh(x)).clamp(-1 + 1e-6, 1 - 1e-6))
        polynomials = torch.cos(angle[..., None] * self.arange)
        return torch.einsum("...id,iod->...o", polynomials, self.cheby_coeffs)


class Bottleneck(nn.Module):
    """silu(norm(conv(silu(x)) + out(conv(silu(Gram polynomials of tanh(inner(x)))))))."""

    def __init__(self, inputs: int, outputs: int, inner: int, degree: int = 3) -> None:
        super().__init__()
        self.degree = degree
        self.base_conv = nn.ModuleList([nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)])
        self.inner_proj = nn.ModuleList([nn.Conv2d(inputs, inner, 1, bias=False)])
        self.out_proj = nn.ModuleList([nn.Conv2d(inner, outputs, 1, bias=False)])
        self.layer_norm = nn.ModuleList([nn.BatchNorm2d(outputs)])
        self.poly_weights = nn.Parameter(torch.empty(1, inner, inner * (degree + 1), 3, 3))
        self.beta_weights = nn.Parameter(torch.randn(degree + 1) / (9 * inputs * (degree + 1)))
        nn.init.kaiming_uniform_(self.poly_weights[0], nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.inner_proj[0](x))
        grams = [torch.ones_like(z), z]
        for m in range(2, self.degree + 1):
            n = m - 1
            share = (m + n) * (m - n) * n**2 / (m**2 / (4 * n**2 - 1)) * self.beta_weights[n]
            grams.append(z * grams[-1] - share * grams[-2])
        curve = functional.conv2d(
            functional.silu(torch.cat(grams, 1)), self.poly_weights[0], padding=1
        )
        y = self.base_conv[0](functional.silu(x)) + self.out_proj[0](curve)
        return functional.silu(self.layer_norm[0](y))


class Vgg(nn.Module):
    """Bottleneck layers with pooling between them, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            Bottleneck(24, 32, 12),
            nn.MaxPool2d(2),
            Bottleneck(32, 48, 16),
            nn.MaxPool2d(2),
        )
        self.head = nn.Linear(48 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x.reshape(-1, 1, 8, 8)).flatten(1))


class Experts(nn.Module):
    """Each row goes to the expert that a gate behind the first layer picks, times its share."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = KanLinear(64, 16), nn.Linear(16, 4)
        self.experts = nn.ModuleList(KanLinear(16, 10) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        shares = self.gate(x).softmax(1)
        chosen = shares.argmax(1)
        result = x.new_zeros(len(x), 10)
        for number, expert in enumerate(self.experts):
            rows = chosen == number
            if rows.any():
                result[rows] = shares[rows, number, None] * expert(x[rows])
        return result


class Tokens(nn.Module):
    """Logits of the token that follows, for every position of (rows, positions) ids."""

    def __init__(self, words: int = 300) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 16)
        self.kan = nn.Sequential(KanLinear(16, 32), nn.LayerNorm(32), KanLinear(32, 16))
        self.head = nn.Linear(16, words)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.kan(self.embedding(ids)))


def products() -> nn.Module:
    """pykan with sums and multiplications."""
    from kan import KAN

    with contextlib.redirect_stdout(io.StringIO()):
        return KAN(width=[4, [6, 4], 2], grid=5, k=3, seed=0, auto_save=False)


# --- rows and training ----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """How a model is made and trained: rows and targets, the loss, epochs and learning rate."""

    build: Callable[[], nn.Module]
    rows: Callable[[], tuple[Tensor, Tensor]]
    loss: Loss
    epochs: int
    lr: float = 3e-3


def digits() -> tuple[Tensor, Tensor]:
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 8 - 1, dtype=torch.float32), torch.tensor(y)


def walks() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    steps = rng.choice([1, 2, 5], (3000, 17), p=[0.5, 0.3, 0.2])
    ids = torch.from_numpy(steps.cumsum(1) + rng.integers(0, 300, (3000, 1))) % 300
    return ids[:, :-1], ids[:, 1:]


def functions() -> tuple[Tensor, Tensor]:
    x = torch.rand(3000, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = torch.stack([x[:, 0] * x[:, 1] + x[:, 2].sin(), x[:, 2] * x[:, 3].exp()], 1)
    return x, y


def next_word(logits: Tensor, ids: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


CASES = {
    "bottleneck": Case(Vgg, digits, functional.cross_entropy, 8),
    "chebyshev": Case(
        lambda: nn.Sequential(Chebyshev(64, 32), nn.LayerNorm(32), Chebyshev(32, 10)),
        digits,
        functional.cross_entropy,
        20,
    ),
    "experts": Case(Experts, digits, functional.cross_entropy, 20),
    "tokens": Case(Tokens, walks, next_word, 6),
    "products": Case(products, functions, functional.mse_loss, 20),
}


def error(dense: nn.Module, packed: nn.Module, x: Tensor) -> float:
    """Squared error of the outputs, relative to their spread."""
    with torch.no_grad():
        y, z = dense(x).flatten(1).double(), packed(x).flatten(1).double()
    return float((y - z).square().sum() / (y - y.mean(0)).square().sum())


def measure(case: Case, clusters: list[int], seed: int) -> dict[tuple[str, int], float]:
    """Errors by method and number of clusters."""
    torch.manual_seed(seed)
    model, (x, y) = case.build(), case.rows()
    cut = len(x) * 4 // 5
    optimizer = torch.optim.Adam(model.parameters(), lr=case.lr)
    for _ in range(case.epochs):
        for rows in torch.randperm(cut).split(64):
            optimizer.zero_grad()
            case.loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.eval()
    found: dict[tuple[str, int], float] = {}
    for k in clusters:
        config = ClusterConfig(clusters=k, seed=seed, force_pack=True)
        made = {
            "plain": kancompress.compress(model, config),
            "by outputs": kancompress.compress_by_outputs(model, x[:cut], config),
        }
        for name, result in made.items():
            packed = case.build()
            result.apply_to(packed)
            found[name, k] = error(model, packed.eval(), x[cut:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    print("| model | k | plain k-means | by outputs |\n|---|---|---|---|")
    for name in options.cases:
        if name == "products" and find_spec("kan") is None:
            print("| products | | skipped: pykan is not installed | |")
            continue
        runs = [measure(CASES[name], options.clusters, seed) for seed in options.seeds]
        for k in options.clusters:
            cells = []
            for method in ("plain", "by outputs"):
                values = [run[method, k] for run in runs]
                middle = statistics.median(values)
                cells.append(f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})")
            print(f"| {name} | {k} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
