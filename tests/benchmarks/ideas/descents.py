"""Other starts, weights and orders of the same descent, one codebook a layer."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from kancompress.clustering import quadratic
from kancompress.clustering.ladder import Problem
from kancompress.clustering.layer import flat_edges
from kancompress.clustering.quadratic import Form
from tests.benchmarks.ideas.bench import Bench, K, Part, part_of, solved

# The share of rows that count when errors are weighed by the softmax: its temperature follows.
EFFECTIVE = 0.5


def polished(form: Form, codebook: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Refit and sweeps until little changes, of a small form."""
    codebook = quadratic.refit([form], codebook, [labels], steps=50)
    error = form.error(codebook, labels)
    for _ in range(30):
        labels = quadratic.sweep(form, codebook, labels)
        codebook = quadratic.refit([form], codebook, [labels], steps=50)
        error, before = form.error(codebook, labels), error
        if error > before * (1 - 1e-4):
            break
    return codebook, labels


def longer(bench: Bench, _: Part) -> tuple[Part, Part]:
    """More rounds and sweeps of the first layer."""
    first = solved(bench.problem, replace(bench.config, rounds=8, sweeps=8))
    return usual(bench, first)


def usual(bench: Bench, first: Part) -> tuple[Part, Part]:
    """As `cluster --calibrate` does."""
    return first, solved(bench.follow(bench.after(first)), bench.config)


def one_start(bench: Bench, first: Part) -> tuple[Part, Part]:
    """The last layer as large layers are done."""
    config = replace(bench.config, starts=1)
    return first, solved(bench.follow(bench.after(first)), config)


def more_starts(bench: Bench, first: Part) -> tuple[Part, Part]:
    """The best of 64 starts of the last layer, polished."""
    problem = bench.follow(bench.after(first))
    found = problem.solve(K, replace(bench.config, starts=64))
    codebook, labels = polished(problem.forms[0], found.codebook, found.labels[:, problem.order])
    return first, part_of(problem, codebook, problem.all_labels(codebook, [labels]))


def uncertain_rows(bench: Bench, _: Part) -> tuple[Part, Part]:
    """Rows drawn anew, with returns, as often as the dense network is uncertain of them."""
    weights = uncertainty(bench.outputs, temperature(bench.outputs))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.multinomial(weights, len(bench.rows), replacement=True, generator=generator)
    first = solved(bench.open(bench.config, bench.rows[chosen]), bench.config)
    packed = bench.after(first, bench.rows[chosen])
    return first, solved(bench.follow(packed, bench.hidden[chosen]), bench.config)


def uncertainty(outputs: Tensor, heat: float) -> Tensor:
    """One minus the summed squares of the probabilities, (rows,)."""
    return 1 - (outputs.double() / heat).softmax(1).square().sum(1)


def temperature(outputs: Tensor) -> float:
    """At which the effective number of rows is EFFECTIVE of all, at least 1."""
    low, high = 1.0, 1000.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        weights = uncertainty(outputs, middle)
        share = float(weights.sum() ** 2 / weights.square().sum() / len(weights))
        low, high = (middle, high) if share < EFFECTIVE else (low, middle)
    return low


def felt_outputs(bench: Bench, _: Part) -> tuple[Part, Part]:
    """Outputs of the first layer count by what the network's outputs feel of them.

    A whole number of copies of each output stands for its weight, four on average.
    """
    problem = copy.copy(bench.problem)
    felt = jacobians(bench, bench.hidden, None).square().sum(1).mean(0)
    copies = (4 * felt / felt.mean()).round().clamp_min(1).long()
    rows = torch.arange(problem.out).repeat_interleave(copies)
    problem.out, problem.weights = len(rows), problem.weights[rows]
    problem.forms = [Form(form.weights[rows], form.hessian) for form in problem.forms]
    found = problem.solve(K, bench.config)
    labels = found.labels[copies.cumsum(0) - 1]
    return usual(bench, part_of(problem, found.codebook, labels))


def jacobians(bench: Bench, hidden: Tensor, last: Part | None) -> Tensor:
    """Derivatives of the network's outputs by the hidden units, (rows, outputs, hidden)."""
    x = hidden.clone().requires_grad_()
    y = bench.last(x) if last is None else bench.last.run(x, *last)
    return _derivatives(y, x)


def _derivatives(y: Tensor, x: Tensor) -> Tensor:
    """By autograd, one output after another; rows are independent."""
    sums = y.sum(0)
    columns = [torch.autograd.grad(each, x, retain_graph=True)[0] for each in sums]
    return torch.stack(columns, 1).detach()


def softmax_form(bench: Bench, first: Part) -> tuple[Part, Part]:
    """The last layer's errors as a softmax of the dense outputs feels them, to second order."""
    packed = bench.after(first)
    problem = bench.follow(packed)
    found = problem.solve(K, bench.config)
    form = SoftmaxForm(bench, packed, problem)
    codebook, flat = polished(form.form, found.codebook, found.labels.reshape(1, -1))
    return first, form.part(codebook, flat.view_as(found.labels))


class SoftmaxForm:
    """All coefficients of the last layer as one output's, with a bias that takes up what it can.

    The form is E[e^T F e] of the errors e of the sums, with F = J^T (diag p - p p^T) J, p the
    dense network's probabilities at `temperature` and J what follows the sums, and 2 % of its
    mean diagonal for all outputs alike.
    """

    def __init__(self, bench: Bench, packed: Tensor, problem: Problem) -> None:
        layer = bench.last
        self.weights = flat_edges(layer)
        out, _, d = self.weights.shape
        with torch.no_grad():
            phi = layer.features(packed).transpose(1, 2).flatten(1)
            sums = layer.sums(bench.hidden, layer.edges(), layer.bias)
        self.mean = problem.moments.mean.flatten()
        own = torch.cat([phi - self.mean.float(), torch.ones(len(phi), 1)], 1)
        felt = _felt(bench, sums)
        matrix = torch.empty(out, own.shape[1], out, own.shape[1])
        for a in range(out):
            for b in range(a, out):
                block = (own * felt[:, a, b, None]).T @ own / len(own)
                matrix[a, :, b] = matrix[b, :, a] = block
        gap = sums - phi @ self.weights.flatten(1).T
        pull = (torch.einsum("nab,nb->na", felt, gap).T @ own / len(own)).double()
        wide = matrix.double()
        bias, mixed = wide[:, -1, :, -1], wide[:, :-1, :, -1].reshape(-1, out)
        self.taken = torch.linalg.solve(bias, mixed.T)
        self.offset = torch.linalg.solve(bias, pull[:, -1])
        square = wide[:, :-1, :, :-1].reshape(len(mixed), len(mixed)) - mixed @ self.taken
        hessian = quadratic.damped(square.float(), 0.01)
        rest = pull[:, :-1].reshape(-1) - mixed @ self.offset
        step = torch.linalg.solve(hessian, rest.float())
        self.form = Form((self.weights.flatten() + step).view(1, -1, d), hessian)

    def part(self, codebook: Tensor, labels: Tensor) -> Part:
        """The layer with the bias that goes with these centroids."""
        own = codebook.half().float()[labels]
        gap = (own - self.weights).double()
        bias = self.offset - self.taken @ gap.flatten() - gap.flatten(1) @ self.mean
        return own, bias.float()


def _felt(bench: Bench, sums: Tensor) -> Tensor:
    p = (bench.outputs / temperature(bench.outputs)).softmax(1)
    felt = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    felt = felt / felt.diagonal(dim1=1, dim2=2).mean() + 0.02 * torch.eye(p.shape[1])
    x = sums.clone().requires_grad_()
    y = bench.last.finish(x)
    if y is x:
        return felt
    slopes = _derivatives(y, x)
    return slopes.transpose(1, 2) @ felt @ slopes


def second_pass(bench: Bench, first: Part) -> tuple[Part, Part]:
    """The first layer once more, towards what the packed last one makes the dense outputs of.

    A Gauss-Newton step of its weights, with E[J^T J] and the moments of the features apart, and
    sweeps towards them; then the last layer again.
    """
    problem, found = bench.problem, bench.found
    packed = bench.after(first)
    last = solved(bench.follow(packed), bench.config)
    slopes = jacobians(bench, packed, last)
    with torch.no_grad():
        gap = bench.outputs - bench.last.run(packed, *last)
        pull = torch.einsum("noh,no->nh", slopes, gap)
        square = torch.einsum("noh,nok->hk", slopes, slopes) / len(gap)
        mean = problem.moments.mean[problem.order].flatten().float()
        cross = torch.zeros(problem.out, len(mean))
        for x, part in zip(torch.split(bench.rows, 512), torch.split(pull, 512), strict=True):
            phi = bench.first.features(x).transpose(1, 2)[:, problem.order].flatten(1)
            cross += part.T @ (phi - mean) / len(gap)
    form, labels = problem.forms[0], found.labels[:, problem.order]
    slope = cross - square @ form.gradient(found.codebook, labels)
    hessian = quadratic.damped(form.hessian.clone(), 0.1)
    square = quadratic.damped(square.clone(), 0.1)
    step = torch.linalg.solve(square, slope)
    step = torch.cholesky_solve(step.T, quadratic.lower_factor(hessian)).T
    aimed = Form(form.weights + step.view_as(form.weights), form.hessian)
    codebook = found.codebook
    for _ in range(3):
        labels = quadratic.sweep(aimed, codebook, labels)
        codebook = quadratic.refit([aimed], codebook, [labels])
    return usual(bench, part_of(problem, codebook, problem.all_labels(codebook, [labels])))


def one_codebook(bench: Bench, first: Part) -> tuple[Part, Part]:
    """One codebook of K centroids for both layers, their errors relative to their spreads."""
    problems = [bench.problem, bench.follow(bench.after(first))]
    forms = [Form(p.forms[0].weights, p.forms[0].hessian / p.moments.spread) for p in problems]
    codebook = bench.found.codebook
    factors = [quadratic.lower_factor(form.hessian) for form in forms]
    for _ in range(8):
        pairs = zip(forms, factors, strict=True)
        labels = [quadratic.feedback(form, factor, codebook) for form, factor in pairs]
        codebook = quadratic.refit(forms, codebook, labels)
    for _ in range(8):
        pairs = zip(forms, labels, strict=True)
        labels = [quadratic.sweep(form, codebook, chosen) for form, chosen in pairs]
        codebook = quadratic.refit(forms, codebook, labels)
    parts = []
    for problem, chosen in zip(problems, labels, strict=True):
        parts.append(part_of(problem, codebook, problem.all_labels(codebook, [chosen])))
    return parts[0], parts[1]
