"""The error of a layer's outputs as a quadratic form, and how to make it small.

For weights W and their centroids C, both (out, in * d), and second moments H of the features, the
mean squared error of the outputs is tr (W - C) H (W - C)^T. Three ways to lower it alternate:

- `feedback` assigns inputs one after another, the last first. With H = L L^T, L lower triangular,
  the form is |(W - C) L|^2, whose columns of input q depend on the errors of q and of inputs
  behind it alone: each assignment repairs what those before it left (the nearest-plane rule, as
  GPTQ and GPTVQ do with scalars and vectors; Frantar et al. 2022, van Baalen et al. 2024).
- `refit` finds the best codebook for fixed assignments, a linear least-squares problem: of few
  centroids by its normal equations, of more by conjugate gradients.
- `sweep` improves assignments one input at a time by exact coordinate descent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional

from kancompress.clustering.metric import metric_sums, regular
from kancompress.system import devices

# Inputs whose updates are gathered before they are applied to all others.
BLOCK = 32
# Steps of a refit that is followed by others: eight leave less than a thousandth of the error that
# there is to gain, and each reads the whole matrix.
CG_STEPS = 8
CG_TOLERANCE = 1e-5
# Rows that are few beside a matrix's, and numbers that fill two vector registers.
_FEW_ROWS, _REGISTERS = 128, 16
# Pairs of centroids for each output, at most, whose normal equations take less than those steps.
_PAIRS = 2
# Numbers of centroids that are scaled, or of moments that are summed, at a time, 4 MB in float32.
_CELLS = 1 << 20


# From errors (out, m, d) by form to the slopes (out, m * d) that they give each.
Moved = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """tr (W - C) H (W - C)^T for one group of inputs.

    weights : (out, m, d) what the codebook should stand for; hessian : (m * d, m * d), damped
    factors : (out, m, d) between a centroid and the edge that it stands for, zero at edges that no
              centroid stands for; None where edges are their centroids
    """

    weights: Tensor
    hessian: Tensor
    factors: Tensor | None = None

    @property
    def blocks(self) -> Tensor:
        """The metric of each input: diagonal blocks of the matrix, (m, d, d)."""
        _, m, d = self.weights.shape
        return self.hessian.view(m, d, m, d).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()

    def by_inputs(self) -> Form:
        """The form without moments between inputs."""
        _, m, d = self.weights.shape
        alone = torch.zeros_like(self.hessian)
        places = torch.arange(m, device=alone.device)
        alone.view(m, d, m, d)[places, :, places] = self.blocks
        return replace(self, hessian=alone)

    def gradient(self, codebook: Tensor, labels: Tensor) -> Tensor:
        """(W - C) H, (out, m * d)."""
        return times(self.gap(codebook, labels).flatten(1), self.hessian)

    def gap(self, codebook: Tensor, labels: Tensor) -> Tensor:
        """W - C, (out, m, d)."""
        return self.weights - self.edges(codebook, labels)

    def edges(self, codebook: Tensor, labels: Tensor) -> Tensor:
        """C, (out, m, d): the centroid of every edge times its factors."""
        centroids = functional.embedding(labels, codebook)
        return centroids if self.factors is None else centroids * self.factors

    def edges_at(self, q: int, codebook: Tensor, labels: Tensor) -> Tensor:
        """The same of one input, labels (out,) -> (out, d)."""
        centroids = codebook[labels]
        return centroids if self.factors is None else centroids * self.factors[:, q]

    def nearest(
        self, q: int, points: Tensor, codebook: Tensor, turn: Tensor, price: Tensor | None = None
    ) -> Tensor:
        """Of an input's edges, turned, the one nearest to each point (out, d); labels (out,).

        price : (m, k) to be added to the squared distances, by input
        """
        own = None if price is None else price[q]
        if self.factors is None:
            return nearest(points, codebook @ turn, own)
        return nearest_scaled(points, codebook, self.factors[:, q], turn, own)

    def pulled(self, values: Tensor) -> Tensor:
        """Slopes by edges as slopes by their centroids, (out, m, d) of (out, m * d)."""
        values = values.view_as(self.weights)
        return values if self.factors is None else values * self.factors

    def block_sums(self, labels: Tensor, clusters: int) -> Tensor:
        """Sum of each cluster's metrics, as its centroid sees them, (k, d, d) float64."""
        if self.factors is None:
            return metric_sums(self.blocks, labels, clusters)
        d = self.weights.shape[2]
        sums = devices.wide(torch.zeros(clusters, d, d, device=labels.device))
        for block, factors, chosen in zip(
            self.blocks, self.factors.unbind(1), labels.unbind(1), strict=True
        ):
            own = devices.wide(factors[:, :, None] * block * factors[:, None, :])
            sums.index_add_(0, chosen.to(sums.device), own)
        return sums

    def is_summed(self, clusters: int, times: int = 1) -> bool:
        """Whether `sums` of so many centroids take less than so many refits by conjugate
        gradients."""
        pairs = clusters * (clusters + 1) // 2
        return self.factors is None and pairs <= times * _PAIRS * len(self.weights)

    def sums(self, labels: Tensor, clusters: int) -> Tensor:
        """Moments between centroids: what the form is of the codebook alone, (k, d, k, d) float64.

        One reading of the matrix: each block of d x d is counted for a pair of centroids as often
        as outputs have the two at its inputs.
        """
        out, m, d = self.weights.shape
        first, second = torch.triu_indices(clusters, clusters)
        ones = functional.one_hot(labels, clusters).float().permute(2, 1, 0).contiguous()
        total = devices.wide(torch.zeros(len(first), d * d, device=labels.device))
        there = first.to(labels.device), second.to(labels.device)
        step = max(1, _CELLS // (m * max(len(first), d * d)))
        for start in range(0, m, step):
            stop = min(start + step, m)
            size = stop - start
            rows = self.hessian[start * d : stop * d].view(size, d, m, d).transpose(1, 2)
            counts = ones[:, start:stop].reshape(-1, out) @ ones.view(-1, out).T
            pairs = counts.view(clusters, size, clusters, m).transpose(1, 2)[there]
            total += devices.wide(pairs.flatten(1) @ rows.reshape(-1, d * d))
        found = total.new_zeros(clusters, clusters, d, d)
        first, second = first.to(found.device), second.to(found.device)
        found[first, second] = total.view(-1, d, d)
        found[second, first] = total.view(-1, d, d).transpose(1, 2)
        return found.transpose(1, 2)

    def error(self, codebook: Tensor, labels: Tensor) -> float:
        """Value of the form."""
        gap = self.gap(codebook, labels).flatten(1)
        return float(devices.wide_sum(times(gap, self.hessian) * gap))


def times(rows: Tensor, matrix: Tensor) -> Tensor:
    """The product of a few rows (out, n) and a large matrix (n, n).

    Few rows are the columns of the transposed product, a whole number of vector registers of them:
    MKL then reads the matrix up to twice as fast.
    """
    count, n = rows.shape
    if matrix.device.type != "cpu" or count > _FEW_ROWS:
        return rows @ matrix
    columns = rows.new_zeros(n, -(-count // _REGISTERS) * _REGISTERS)
    columns[:, :count] = rows.T
    return (matrix.T @ columns)[:, :count].T.contiguous()


def damped(hessian: Tensor, share: float) -> Tensor:
    """The matrix with `share` of its mean diagonal added to the diagonal, in place."""
    diagonal = hessian.diagonal()
    diagonal += ridge(hessian, share)
    return hessian


def ridge(hessian: Tensor, share: float) -> float:
    """What `damped` adds to the diagonal."""
    return share * float(devices.wide(hessian.diagonal()).mean()) + 1e-12


def lower_factor(hessian: Tensor) -> Tensor:
    """L, lower triangular, with L L^T = hessian."""
    if hessian.device.type != "cpu":
        factor: Tensor = torch.linalg.cholesky(hessian)
        return factor
    copy = hessian.numpy().T.copy(order="F")  # symmetric; LAPACK wants columns
    lower = scipy.linalg.cholesky(copy, lower=True, overwrite_a=True, check_finite=False)
    return torch.from_numpy(lower.T).T


def feedback(
    form: Form,
    factor: Tensor,
    codebook: Tensor,
    price: Tensor | None = None,
    carried: Tensor | None = None,
) -> Tensor:
    """Assign input after input, the last first, each repairing what those before it left.

    factor : (m * d, m * d) lower triangular; price : (m, k) of each centroid; returns (out, m)
    carried : what others leave to be repaired, (out, m * d) as errors times the factor; it is
              overwritten
    """
    out, m, d = form.weights.shape
    if carried is None:
        carried = torch.zeros(out, m * d, device=codebook.device)
    labels = torch.empty(out, m, dtype=torch.int64, device=codebook.device)
    for stop in range(m, 0, -BLOCK):
        start = max(0, stop - BLOCK)
        begin, end = start * d, stop * d
        square = factor[begin:end, begin:end]
        local = carried[:, begin:end]
        gaps = torch.empty(out, end - begin, device=codebook.device)
        for q in range(stop - 1, start - 1, -1):
            a, b = q * d - begin, (q + 1) * d - begin
            turn = square[a:b, a:b]
            weights = form.weights[:, q]
            points = torch.addmm(local[:, a:b], weights, turn)
            chosen = form.nearest(q, points, codebook, turn, price)
            labels[:, q] = chosen
            gap = weights - form.edges_at(q, codebook, chosen)
            gaps[:, a:b] = gap
            local[:, :a].addmm_(gap, square[a:b, :a])
        carried[:, :begin].addmm_(gaps, factor[begin:end, :begin])
    return labels


def nearest(points: Tensor, centroids: Tensor, price: Tensor | None = None) -> Tensor:
    """Nearest centroid of each point, ties to the lowest. (n, d), (k, d) -> (n,).

    price : (k,) to be added to the squared distances
    """
    own = centroids.square().sum(1)
    own = own if price is None else own + price
    return (own - 2 * points @ centroids.T).argmin(1)


def nearest_scaled(
    points: Tensor, codebook: Tensor, factors: Tensor, turn: Tensor, price: Tensor | None = None
) -> Tensor:
    """The centroid nearest to each point, times the point's own factors and turned.

    points, factors : (n, d); codebook : (k, d); turn : (d, d); price : (k,); returns (n,)
    """
    labels = torch.empty(len(points), dtype=torch.int64, device=points.device)
    step = max(1, _CELLS // codebook.numel())
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        centroids = (codebook * factors[part, None]) @ turn
        scores = centroids.square().sum(2) - 2 * (centroids @ points[part, :, None])[:, :, 0]
        labels[part] = (scores if price is None else scores + price).argmin(1)
    return labels


def sweep(
    form: Form,
    codebook: Tensor,
    labels: Tensor,
    price: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """One pass of exact coordinate descent over the inputs; never raises the error, the prices
    (m, k) of the centroids included.

    gradient : (out, m * d), the form's own when None; it is overwritten
    """
    _, m, d = form.weights.shape
    roots = torch.linalg.cholesky(form.blocks)  # H_qq = L L^T
    inverse = torch.linalg.solve_triangular(
        roots, torch.eye(d, device=roots.device).expand_as(roots), upper=False
    )
    gradient = form.gradient(codebook, labels) if gradient is None else gradient
    labels = labels.clone()
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        begin, end = start * d, stop * d
        square = form.hessian[begin:end, begin:end]
        local = gradient[:, begin:end].clone()
        changes = torch.zeros_like(local)
        for q in range(start, stop):
            a, b = q * d - begin, (q + 1) * d - begin
            turn = roots[q]
            before = form.edges_at(q, codebook, labels[:, q])
            # The point whose distance from each centroid is the error, but for a constant.
            points = (before @ turn).addmm_(local[:, a:b], inverse[q].T)
            chosen = form.nearest(q, points, codebook, turn, price)
            change = before - form.edges_at(q, codebook, chosen)
            labels[:, q] = chosen
            changes[:, a:b] = change
            local[:, b:].addmm_(change, square[a:b, b:])
        gradient[:, end:].addmm_(changes, form.hessian[begin:end, end:])
    return labels


def refit(
    forms: list[Form],
    codebook: Tensor,
    labels: list[Tensor],
    *,
    steps: int = CG_STEPS,
    free: Tensor | None = None,
    between: tuple[list[Tensor], Moved] | None = None,
) -> Tensor:
    """The codebook (k, d) of least error for fixed labels; clusters without members stay where they
    are.

    steps : of conjugate gradients, preconditioned with the diagonal blocks, of many centroids
    free  : which numbers move, one for each coefficient (d,) or centroid (k, 1); all when None
    between : slopes of the forms, and how they move with errors, where there is more between the
              forms than each has itself
    """
    if between is None and all(form.is_summed(len(codebook)) for form in forms):
        return normal(forms, codebook, labels).solved(codebook, free)
    k, d = codebook.shape
    result = devices.wide(codebook)
    blocks = torch.zeros(k, d, d, dtype=torch.float64, device=result.device)
    for form, chosen in zip(forms, labels, strict=True):
        blocks += form.block_sums(chosen, k)
    if free is not None:  # the others' blocks are the unit matrix, and their slopes zero
        moves = free.to(blocks).expand(k, d)
        blocks *= moves[:, :, None] * moves[:, None, :]
        blocks += torch.diag_embed(1 - moves)
    preconditioner = torch.linalg.inv(regular(blocks))
    rows = [chosen.reshape(-1).to(result.device) for chosen in labels]

    def scattered(values: list[Tensor]) -> Tensor:
        total = torch.zeros_like(result)
        for chosen, value in zip(rows, values, strict=True):
            total.index_add_(0, chosen, devices.wide(value.reshape(-1, d)))
        return total if free is None else total * free.to(total)

    slopes, moved = between or (
        [form.gradient(codebook, chosen) for form, chosen in zip(forms, labels, strict=True)],
        partial(_moved, forms),
    )

    def pulled(values: list[Tensor]) -> Tensor:
        return scattered([form.pulled(own) for form, own in zip(forms, values, strict=True)])

    def product(direction: Tensor) -> Tensor:
        narrow = direction.float().to(codebook.device)
        return pulled(
            moved([form.edges(narrow, chosen) for form, chosen in zip(forms, labels, strict=True)])
        )

    residual = pulled(slopes)
    start = float(residual.norm())
    direction = step = (preconditioner @ residual[:, :, None])[:, :, 0]
    power = float((residual * step).sum())
    for _ in range(steps):
        if float(residual.norm()) <= CG_TOLERANCE * start or power <= 0:
            break
        image = product(direction)
        curvature = float((direction * image).sum())
        if curvature <= 0:
            break
        length = power / curvature
        result = result + length * direction
        residual = residual - length * image
        step = (preconditioner @ residual[:, :, None])[:, :, 0]
        power, before = float((residual * step).sum()), power
        direction = step + power / before * direction
    return result.float().to(codebook.device)


def _moved(forms: list[Form], errors: list[Tensor]) -> list[Tensor]:
    """Errors times the forms' own matrices."""
    return [times(own.flatten(1), f.hessian) for f, own in zip(forms, errors, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """Forms as one of the codebook alone, for fixed labels.

    moments : (k * d, k * d) float64; codebook : (k, d) float64, where slopes (k, d) were taken
    """

    moments: Tensor
    codebook: Tensor
    slopes: Tensor

    def solved(self, codebook: Tensor, free: Tensor | None) -> Tensor:
        """The codebook of least error; what is not free, as of `refit`, stays as in this one."""
        wide = devices.wide(codebook)
        matrix = self.moments.clone()
        right = self.slopes.reshape(-1) - matrix @ (wide - self.codebook).reshape(-1)
        if free is not None:
            moves = free.to(wide).expand(wide.shape).reshape(-1)
            matrix, right = matrix * moves[:, None] * moves, right * moves
        # What does not move, or moves nothing, stays.
        diagonal = matrix.diagonal()
        diagonal += (1e-9 * float(diagonal.mean()) + 1e-30) + (diagonal <= 0)
        moved: Tensor = wide + torch.linalg.solve(matrix, right).view_as(wide)
        return moved.float().to(codebook.device)


def normal(forms: list[Form], codebook: Tensor, labels: list[Tensor]) -> Normal:
    """The normal equations of a codebook (k, d) for fixed labels (out, m) by form."""
    k, d = codebook.shape
    wide = devices.wide(codebook)
    moments, slopes = wide.new_zeros(k, d, k, d), torch.zeros_like(wide)
    for form, chosen in zip(forms, labels, strict=True):
        moments += form.sums(chosen, k)
        slope = form.gradient(codebook, chosen).view(-1, d)
        slopes.index_add_(0, chosen.reshape(-1).to(slopes.device), devices.wide(slope))
    return Normal(moments.reshape(k * d, k * d), wide, slopes)
