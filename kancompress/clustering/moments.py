"""Means and second moments of a layer's features over calibration rows.

A KAN layer is linear in its coefficients, so the squared error of its output is a quadratic form
in the error of the coefficients, with the second moments of the features as its matrix. Inputs are
taken in the order of rising variance; above a memory budget they are cut into groups of those that
go together. Moments between groups are not kept: `spread` has the rows tell what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kancompress.clustering import grouping
from kancompress.system import devices, distributed

# Rows whose products are added at a time, rows whose features are taken at a time, and the side of
# a tile of the moments: the BLAS is faster at square ones of this size than at whole strips.
ROWS = 2048
STEP = 256
TILE = 768

# Rows by which inputs are told to go together.
SKETCH = 256

# Gives, anew at each call, features (rows, coefficient, in) and target outputs (rows, out).
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
# The same without targets.
Features = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group:
    """Inputs whose features are taken together.

    inputs  : (m,) numbers of the inputs, by rising variance
    hessian : (m * d, m * d) float32, E[f f^T] of their features, centred if the layer's bias may
              take up the mean; not damped
    cross   : (out, m * d) float32, the same of targets and features
    """

    inputs: Tensor
    hessian: Tensor
    cross: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Moments:
    """Second moments of a layer's features by groups of inputs, and the means.

    still   : numbers of the inputs that no group has, as their features are the same in all rows,
              or zero where nothing is centred; none where all inputs are so
    mean    : (in, d) float64 mean features, zeros where nothing is centred
    target  : (out,) float64 mean of the target outputs, zeros where nothing is centred
    spread  : mean squared distance of the targets from their mean, summed over outputs
    rows    : rows that were counted
    """

    groups: tuple[Group, ...]
    still: Tensor
    mean: Tensor
    target: Tensor
    spread: float
    rows: int

    @property
    def centred(self) -> bool:
        """Whether a bias takes up the mean error."""
        return bool(self.mean.any())


def measure(
    batches: Batches, *, centred: bool, memory: int, device: torch.device | None = None
) -> Moments:
    """Accumulate the moments of a layer, blocks of rows in float32 around the exact mean.

    memory : bytes that the second moments and their factor may take together
    device : where the features are, the CPU when None; so are the second moments, and the means
             where `devices.wide` has them
    """
    mean, square, target, target_square, rows, still = _means(batches)
    variance = (square - mean**2).clamp_min(0).sum(1)
    if not centred:
        still &= square.sum(1) == 0
    if still.all():
        still = torch.zeros_like(still)
    spread = float((target_square - target**2).clamp_min(0).sum())
    d = mean.shape[1]
    order = torch.argsort(variance, stable=True)
    moving, unmoved = order[~still[order]].to(device), order[still[order]].to(device)
    zeros = torch.zeros_like
    shift, offset = (mean, target) if centred else (zeros(mean), zeros(target))
    groups = []
    sizes = [len(part) for part in torch.split(moving, _group_size(len(moving), d, memory))]
    for members in _groups(batches, moving, sizes, shift, variance):
        hessian, cross = _second(batches, members, shift, offset, rows)
        groups.append(Group(inputs=members, hessian=hessian, cross=cross))
    return Moments(
        groups=tuple(groups),
        still=unmoved,
        mean=shift,
        target=offset,
        spread=spread,
        rows=rows,
    )


def walks(inputs: int, d: int, memory: int) -> int:
    """How often `measure` goes through all rows: for the means, and for each group of inputs."""
    return 1 + -(-inputs // _group_size(inputs, d, memory))


def spread(features: Features, found: Moments, errors: Tensor, members: Tensor) -> Tensor:
    """Errors of the coefficients of some inputs times the moments of their features and all.

    found   : moments of these rows, or of more; they are not damped
    errors  : (out, m, d); members : (m,) numbers of inputs; returns (out, in, d)
    """
    matrix = errors.transpose(1, 2).flatten(1).T
    device = errors.device
    means = found.mean.float().to(device)
    offset = torch.einsum("oid,id->o", errors, means[members])
    total = torch.zeros(len(errors), means.numel(), device=device)
    mean = devices.wide(torch.zeros_like(offset))
    rows = 0
    for batch in features():
        rows += len(batch)
        gap = batch[:, :, members].flatten(1) @ matrix - offset
        total.addmm_(gap.T, batch.flatten(1))
        mean += devices.wide_sum(gap, 0)
    # Small, but features may be far from zero.
    mean = (mean / rows).float().to(device)
    result = (total / rows).view(len(errors), means.shape[1], -1).transpose(1, 2)
    return result - mean[:, None, None] * means


def gaps(batches: Batches, found: Moments, weights: Tensor, members: Tensor) -> Tensor:
    """E[g f^T] of what weights leave of the targets, g, and the features f of some inputs.

    found   : moments of the same batches, centred or not
    weights : (out, in, d); members : (m,) numbers of inputs; returns (out, m * d)
    """
    matrix = weights.transpose(1, 2).flatten(1).T
    device = weights.device
    means = found.mean.float().to(device)
    shift = means[members].reshape(-1)
    offset = found.target.float().to(device) - torch.einsum("oid,id->o", weights, means)
    total = torch.zeros(len(weights), len(shift), device=device)
    for features, targets in batches():
        gap = targets - features.flatten(1) @ matrix - offset
        total.addmm_(gap.T, features.transpose(1, 2)[:, members].flatten(1) - shift)
    return total / found.rows


def _means(batches: Batches) -> tuple[Tensor, Tensor, Tensor, Tensor, int, Tensor]:
    """Means of features, targets and their squares, the rows, and which inputs never change."""
    rows = 0
    sums: list[Tensor] = []
    first: Tensor | None = None
    for features, targets in batches():
        rows += len(features)
        if first is None:
            first = features[:1].clone()
            same = torch.ones_like(first[0], dtype=torch.bool)
        # Equal to the last bit. Where a vectorised function rounds its last rows otherwise, an
        # input is kept that need not be.
        same &= (features == first).all(0)
        parts = [
            devices.wide_sum(features, 0).T,
            devices.wide_sum(features.square(), 0).T,
            devices.wide_sum(targets, 0),
            devices.wide_sum(targets.square(), 0),
        ]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
    mean, square, target, target_square = (total / rows for total in sums)
    return mean, square, target, target_square, rows, same.all(0).to(mean.device)


def _group_size(inputs: int, d: int, memory: int) -> int:
    """Inputs of a group: as many as the budget allows, in groups of about equal size."""
    most = max(1, int((memory / 3 / 4) ** 0.5) // d)
    count = -(-inputs // most)
    return -(-inputs // count)


def _groups(
    batches: Batches, moving: Tensor, sizes: list[int], shift: Tensor, variance: Tensor
) -> list[Tensor]:
    """Inputs, by rising variance, in groups of these sizes that go together, the most varying
    last; in each they are by rising variance."""
    if len(sizes) == 1:
        return [moving]
    taken: list[Tensor] = []
    for features, _ in batches():
        taken.append(features[: SKETCH - sum(map(len, taken))][:, :, moving])
        if sum(map(len, taken)) >= SKETCH:
            break
    own = shift.float().to(moving.device)[moving]
    sample = torch.cat(taken).permute(2, 0, 1) - own[:, None]
    groups = [moving[part] for part in grouping.bisected(sample, sizes)]
    return sorted(groups, key=lambda group: float(variance[group.to(variance.device)].mean()))


def _blocks(batches: Batches, members: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (rows, m * d) of some inputs and targets (rows, out), ROWS rows at a time.

    The products want many rows, but features of few at a time stay in memory that is at hand. The
    block is the same memory every time.
    """
    block, filled, targets = torch.empty(0), 0, list[Tensor]()
    for features, wanted in batches():
        chosen = features.transpose(1, 2)[:, members].flatten(1)
        if filled + len(chosen) > len(block):
            if filled:
                yield block[:filled], torch.cat(targets)
            filled, targets = 0, []
            if len(chosen) > len(block):
                block = chosen.new_empty(max(ROWS, len(chosen)), chosen.shape[1])
        block[filled : filled + len(chosen)] = chosen
        filled += len(chosen)
        targets.append(wanted)
    yield block[:filled], torch.cat(targets)


def _second(
    batches: Batches, members: Tensor, mean: Tensor, target: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    size = len(members) * mean.shape[1]
    device = members.device
    shift = mean[members.to(mean.device)].float().reshape(-1).to(device)
    offset = target.float().to(device)
    hessian = torch.zeros(size, size, device=device)
    starts = range(0, size, TILE)
    # Several processes divide the tiles, never the rows of a sum: its bits are those of one.
    owners = distributed.owners([size - start for start in starts])
    cross = torch.zeros(len(target), size, device=device)
    for block, targets in _blocks(batches, members):
        block.sub_(shift)
        cross.addmm_((targets - offset).T, block)
        for start, owner in zip(starts, owners, strict=True):
            if owner != distributed.number():
                continue
            stop = min(start + TILE, size)
            # The upper triangle only; the lower is its mirror image.
            for left in range(start, size, TILE):
                tile = hessian[start:stop, left : left + TILE]
                tile.addmm_(block[:, start:stop].T, block[:, left : left + TILE])
    for start, owner in zip(starts, owners, strict=True):
        distributed.from_owner(hessian[start : start + TILE, start:], owner)
    hessian /= rows
    for start in range(0, size, TILE):
        stop = min(start + TILE, size)
        hessian[stop:, start:stop] = hessian[start:stop, stop:].T
        tile = hessian[start:stop, start:stop]
        tile.copy_((tile + tile.T) / 2)
    return hessian, cross / rows
