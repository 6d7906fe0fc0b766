"""Where a layer's coefficients come from: a dense tensor, a meta-learner, or a codebook.

Each source is a module whose `forward()` gives the coefficients of one layer, shape
(*shape, coefficients). They are made for the moment of use, so a packed network never holds
the dense coefficients of two layers at once. Those that are trained densely lie in memory as
products take them fastest: of fully connected layers as (coefficient, in, out), of which the
matrix (out, coefficient * in) is a view, of convolutions as (out, coefficient, in, rows, columns).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.layers.stored import straight_through


def _planes(coefficients: Tensor) -> Tensor:
    """A view of coefficients with its axes as they lie in memory."""
    if coefficients.ndim == 3:
        return coefficients.permute(2, 1, 0)
    return coefficients.movedim(-1, 1)


def _unplaned(planes: Tensor) -> Tensor:
    """The inverse of `_planes`."""
    return planes.permute(2, 1, 0) if planes.ndim == 3 else planes.movedim(1, -1)


class DenseEdges(nn.Module):
    """One free vector of coefficients for every edge.

    planes : (coefficient, in, out), or (out, coefficient, in, rows, columns) of a convolution, as
             they lie in memory; an optimizer copies gradients of any other order in every step
    """

    def __init__(self, coefficients: Tensor) -> None:
        super().__init__()
        self.planes = nn.Parameter(
            _planes(coefficients).clone(memory_format=torch.contiguous_format)
        )

    def forward(self) -> Tensor:
        """Coefficients (*shape, coefficient)."""
        return _unplaned(self.planes)


class MetaLearner(nn.Module):
    """M(z) = W2 relu(W1 z + b1) + b2 (eq. 6 of the MetaCluster paper); one serves all layers."""

    def __init__(self, embedding: int, hidden: int, coefficients: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(embedding, hidden)
        self.output = nn.Linear(hidden, coefficients)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings (*shape, embedding) to coefficients (*shape, coefficient)."""
        weight, bias = self.output.weight, self.output.bias[:, None]
        out, *rest, size = embedding.shape
        if len(rest) == 1:
            flat = embedding.transpose(0, 1).reshape(-1, size)
            hidden = _relu(self.hidden(flat))  # (in * out, hidden)
            planes = torch.addmm(bias, weight, hidden.T)
            return _unplaned(planes.view(-1, *rest, out))
        hidden = _relu(self.hidden(embedding.reshape(out, -1, size)))
        planes = torch.matmul(weight, hidden.transpose(1, 2)) + bias  # (out, coef, in * taps)
        return _unplaned(planes.view(out, -1, *rest))


def _relu(x: Tensor) -> Tensor:
    """relu(x). torch.compile keeps its mask as bytes for the backward pass, at a multiple of the
    time of everything else here; (x + |x|) / 2 needs none. It is the same but where x + |x|
    overflows, and in its gradient where x is 0."""
    return 0.5 * (x + x.abs()) if torch.compiler.is_compiling() else functional.relu(x)


class MetaEdges(nn.Module):
    """Coefficients that the shared meta-learner makes from one embedding for every edge."""

    def __init__(self, embedding: Tensor, learner: MetaLearner) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embedding)
        self.learner = learner

    def forward(self) -> Tensor:
        """Coefficients (*shape, coefficient)."""
        result: Tensor = self.learner(self.embedding)
        return result


class Codebook(nn.Module):
    """Centroids (k, coefficient) that one or more layers point into.

    stored : the type in which they will be stored (`layers.stored`), where they learn rounded to it
    """

    def __init__(self, centroids: Tensor) -> None:
        super().__init__()
        self.centroids = nn.Parameter(centroids)
        self.stored: torch.dtype | None = None

    def forward(self) -> Tensor:
        """The centroids as edges have them."""
        if self.stored is None:
            return self.centroids
        return straight_through(self.centroids, self.stored)


class CodebookEdges(nn.Module):
    """Coefficients gathered from a codebook by the index of every edge.

    index : (edges * parts,) position of each part of each edge's vector in the codebook followed by
            `kept`, where that is cut into parts, too; held in one or two bytes where they suffice
    kept  : (r, coefficient) vectors of edges that were not packed, or None
    parts : vectors that the coefficients of an edge are cut into
    """

    def __init__(
        self,
        codebook: Codebook,
        index: Tensor,
        shape: tuple[int, ...],
        kept: Tensor | None = None,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.codebook = codebook
        self.parts = parts
        self.index: Tensor
        self.kept: Tensor | None
        self._vectors = len(codebook.centroids) + (0 if kept is None else len(kept) * parts)
        shape = shape if parts == 1 else (*shape, parts)
        self.register_buffer("index", index.reshape(shape).to(_index_dtype(self._vectors)))
        self.register_buffer("kept", kept)

    def forward(self) -> Tensor:
        """Coefficients (*shape, coefficient)."""
        vectors = functional.embedding(self.index.int(), self._table())
        return vectors if self.parts == 1 else vectors.flatten(-2)

    def prefers_products(self, rows: int) -> bool:
        """Whether `row_sums` takes less memory than the coefficients, for as many rows of input.

        Beside a product of every input and vector, eight bytes of an index and four of its product
        exist at a time.
        """
        outputs, size = len(self.index), self.codebook.centroids.shape[1]
        return rows == 1 and self._vectors + 3 * outputs <= size * outputs

    def row_sums(self, features: Tensor) -> Tensor:
        """Sums over the edges of a fully connected layer for one row of features.

        Every input's features are multiplied with every vector of the codebook, and each edge
        takes its product: k products of an input instead of one for each output.

        features : (1, coefficient, in); returns (1, out)
        """
        table = self._table()
        width = table.shape[1]
        products = features[0].T.reshape(-1, width).to(table.dtype) @ table.T  # (in * parts, k)
        index = self.index.flatten(1).T.long()
        return products.gather(1, index).sum(0, keepdim=True, dtype=table.dtype)

    def _table(self) -> Tensor:
        table: Tensor = self.codebook()
        if self.kept is None:
            return table
        return torch.cat([table, self.kept.reshape(-1, table.shape[1]).to(table.dtype)])


def _index_dtype(vectors: int) -> torch.dtype:
    if vectors <= 1 << 8:
        return torch.uint8
    return torch.int16 if vectors <= 1 << 15 else torch.int32


EMBEDDING_STD = 0.03
OUTPUT_GAIN = 0.3


def new_embedding(shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
    """Initial embeddings (*shape, size), normal around zero."""
    return torch.randn(*shape, size, generator=generator) * EMBEDDING_STD


def new_learner(
    embedding: int, hidden: int, coefficients: int, generator: torch.Generator
) -> MetaLearner:
    """A meta-learner whose first coefficients lie near zero.

    Xavier normal weights and zero biases, as in MetaKAN, but the output layer OUTPUT_GAIN times
    smaller: a step of Adam moves every embedding by its whole learning rate, so the slope of the
    meta-learner sets how far one step throws the sums over all inputs. With the full slope the
    B-spline network is thrown off its grid now and then and does not come back
    (tests/benchmarks/measurements/paper.md, initialisation).
    """
    learner = MetaLearner(embedding, hidden, coefficients)
    for linear, gain in ((learner.hidden, 1.0), (learner.output, OUTPUT_GAIN)):
        nn.init.xavier_normal_(linear.weight, gain=gain, generator=generator)
        nn.init.zeros_(linear.bias)
    return learner
