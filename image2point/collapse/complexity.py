"""Geometric complexity: how strongly an embedding moves with its input.

GC = (1/n) Σ_x ‖∂f(x)/∂x‖_F², f the embedding of one sample. The Jacobian J of a sample is probed by vectors v in
the output space, one backward pass each: Jᵀv is a gradient, and what is summed over probes decides the method:

- "exact": v runs over the p unit vectors: Σ ‖Jᵀe_k‖² = ‖J‖_F². p backward passes.
- "hutchinson": v of random signs, E‖Jᵀv‖² = ‖J‖_F². `probes` backward passes.
- "sampled": v runs over `probes` output dimensions drawn without replacement, times p / probes.

All samples of a batch share a backward pass, which is exact as long as they do not interact: put the network in
eval mode (a batch norm in training mode mixes them, and is found out). This holds for clouds of a sparse batch as
well: pass the features of all voxels as `inputs` and say by `samples` which cloud each row belongs to.

GC depends on the units of the input (unlike CDNV and the NCs) and of the output: see `Complexity.normalised`.

Sources: Dherin et al. 2022 (GC); Munn et al. 2024 (GC, neural collapse and transfer); Hutchinson 1989.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, check_labels

METHODS = ("exact", "hutchinson", "sampled")


@dataclass(frozen=True)
class Complexity:
    """Geometric complexity of n samples.

    `values` [n] are estimates of ‖J‖_F² of each sample, `variances` [n] those of the estimates about the exact
    numbers (0 where exact); both float64 on the CPU. Usable as a number: `float(g)`.
    """

    values: Tensor
    variances: Tensor
    method: str

    @property
    def value(self) -> float:
        """GC of these samples."""
        return float(self.values.mean())

    @property
    def error(self) -> float:
        """Standard error of `value` as an estimate of the exact GC of these very samples: 0 for "exact".

        That of the random probes only. It says nothing of other samples (`sampling_error`), seeds or networks.
        """
        return float(self.variances.sum().sqrt() / len(self.values))

    @property
    def sampling_error(self) -> float:
        """Standard error of `value` as an estimate for the population that the samples are drawn from.

        Contains `error`. NaN for a single sample.
        """
        return float(self.values.std() / len(self.values) ** 0.5) if len(self.values) > 1 else math.nan

    def __float__(self) -> float:
        return self.value

    def of_classes(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """(GC [C], its `sampling_error` [C]) by the class of the samples, labels [n].

        NaN for a class without samples; the error is NaN for a single one.
        """
        labels = check_labels(labels, len(self.values), num_classes).cpu()
        count = torch.bincount(labels, minlength=num_classes)
        mean = self.values.new_zeros(num_classes).index_add_(0, labels, self.values) / count
        residuals = (self.values - mean[labels]).square()
        squares = self.values.new_zeros(num_classes).index_add_(0, labels, residuals)
        return mean, (squares / (count - 1) / count).sqrt()

    def normalised(self, scale: float) -> Complexity:
        """GC with respect to the input divided by `scale` (see `input_scale`): scale² times as large.

        With the root-mean-square deviation of one input number as the scale, GC is the variance that the output
        of a linear map of this complexity would have on white inputs of this size: images of 0..255 or 0..1 and
        voxel features of any unit compare.
        """
        return Complexity(self.values * scale**2, self.variances * scale**4, self.method)

    @classmethod
    def join(cls, parts: Sequence[Complexity]) -> Complexity:
        """The samples of several batches, in order."""
        methods = sorted({part.method for part in parts})
        if len(methods) != 1:
            raise StatisticsError(f"expected one or more parts of one method, found {methods or 'none'}")
        values = torch.cat([part.values for part in parts])
        return cls(values, torch.cat([part.variances for part in parts]), methods[0])


def geometric_complexity(
    fn: Callable[[Tensor], Tensor],
    inputs: Tensor,
    method: str = "hutchinson",
    probes: int = 16,
    samples: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Complexity:
    """Geometric complexity of `fn` at `inputs`.

    Args:
        fn: inputs → embeddings [n, p], each row depending on its own sample only.
        inputs: [n, ...], one sample per row; with `samples`, [N, ...], the rows of all samples (voxel features,
            say, or points).
        method: "exact", "hutchinson" or "sampled"; the module says what they are.
        probes: backward passes of an estimate; at least 2, since the error comes from their spread, and at most p
            for "sampled" (which is then exact).
        samples: int64 [N], which of the n samples each row belongs to; None for one sample per row.
        seed: of the probes, drawn on the CPU: the same on any device.
        batch_size: samples per call of `fn`, for inputs that do not fit at once; not with `samples` (call per
            batch of clouds with another seed each, and `Complexity.join`).

    The error bar of the result (`Complexity.error`) is that of the probes alone; see there. GC has the unit of
    (output/input)²: features ×3 give ×9. Hold two networks against each other by `geometric_collapse`, or normalised.

    Raises StatisticsError for shapes that do not fit, an `fn` that does not depend on its input differentiably,
    that returns NaN, or that mixes samples.

    >>> g = geometric_complexity(lambda x: x @ torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.ones(4, 2), "exact")
    >>> g.value, g.error
    (14.0, 0.0)
    """
    if method not in METHODS:
        raise StatisticsError(f"method: expected one of {', '.join(METHODS)}, found {method!r}")
    if method != "exact" and probes < 2:
        raise StatisticsError(f"probes: expected 2 or more, from whose spread the error comes, found {probes}")
    if len(inputs) == 0:
        raise StatisticsError("inputs: expected at least one sample, found none")
    if samples is not None and batch_size is not None:
        raise StatisticsError("batch_size: only where each row of the inputs is a sample; found `samples` as well")
    generator = torch.Generator().manual_seed(seed)
    parts: list[Complexity] = []
    for block in inputs.split(batch_size or len(inputs)):
        rows = block.detach().requires_grad_()
        with torch.enable_grad():
            outputs = fn(rows)
        _check_outputs(outputs, rows, samples)
        if not parts:
            _check_separate(outputs, rows, samples)
        parts.append(_measure(outputs, rows, method, probes, samples, generator))
    return Complexity.join(parts)


def _measure(
    outputs: Tensor, inputs: Tensor, method: str, probes: int, samples: Tensor | None, generator: torch.Generator
) -> Complexity:
    n, p = outputs.shape
    if method == "sampled" and probes > p:
        raise StatisticsError(f"probes: expected at most the {p} output dimensions, found {probes}")
    total = torch.zeros(n, dtype=torch.float64)
    estimates = []
    for cotangent in _cotangents(method, n, p, probes, generator):
        cotangent = cotangent.to(outputs)
        (gradient,) = torch.autograd.grad(outputs, inputs, cotangent, retain_graph=True)
        squared = _per_sample(_squared(gradient), samples, n).cpu().double()
        if method == "exact":
            total += squared
        else:
            estimates.append(squared)
    if method == "exact":
        return Complexity(total, torch.zeros_like(total), method)
    drawn = torch.stack(estimates) * (p if method == "sampled" else 1)  # each unbiased for ‖J‖_F²
    # Without replacement, the mean of K of p numbers varies less by the share that is left.
    left = 1 - probes / p if method == "sampled" else 1.0
    return Complexity(drawn.mean(0), drawn.var(0) / probes * left, method)


def _cotangents(method: str, n: int, p: int, probes: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Vectors v in the output space, [n, p] each, another for every sample unless all are visited."""
    if method == "hutchinson":
        for _ in range(probes):
            yield torch.randint(0, 2, (n, p), generator=generator).double() * 2 - 1
        return
    if method == "exact":
        chosen = torch.arange(p).expand(n, p)
    else:
        chosen = torch.rand(n, p, generator=generator).argsort(1)[:, :probes]
    for k in range(chosen.shape[1]):
        yield torch.zeros(n, p).scatter_(1, chosen[:, k : k + 1], 1.0)


def _squared(gradient: Tensor) -> Tensor:
    # Apple's devices have no float64; elsewhere sums over many small squares keep their digits.
    return gradient.to(torch.float32 if gradient.device.type == "mps" else torch.float64).square()


def _per_sample(rows: Tensor, samples: Tensor | None, n: int) -> Tensor:
    """Sums [n] over everything that belongs to a sample; rows [n or N, ...]."""
    sums = rows.flatten(1).sum(1) if rows.ndim > 1 else rows
    return sums if samples is None else sums.new_zeros(n).index_add_(0, samples.to(sums.device), sums)


def _check_outputs(outputs: Tensor, inputs: Tensor, samples: Tensor | None) -> None:
    if outputs.ndim != 2:
        raise StatisticsError(f"fn: expected embeddings [n, p], found shape {list(outputs.shape)}")
    if samples is None:
        if len(outputs) != len(inputs):
            raise StatisticsError(
                f"fn: expected one embedding for each of {len(inputs)} inputs, found {len(outputs)}; "
                "where several rows make a sample, say by `samples` which"
            )
    elif samples.shape != (len(inputs),) or samples.min() < 0 or samples.max() >= len(outputs):
        raise StatisticsError(
            f"samples: expected for each of {len(inputs)} rows which of the {len(outputs)} embeddings it belongs to, "
            f"found shape {list(samples.shape)}, values {samples.min().item()}..{samples.max().item()}"
        )
    if not outputs.requires_grad:
        raise StatisticsError("fn: its output does not depend on its input differentiably (torch.no_grad inside?)")
    if not torch.isfinite(outputs).all():
        raise StatisticsError("fn: expected finite embeddings, found NaN or infinity")


def _check_separate(outputs: Tensor, inputs: Tensor, samples: Tensor | None) -> None:
    """The embedding of the first sample must not move with the input of another."""
    (gradient,) = torch.autograd.grad(outputs[0].sum(), inputs, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise StatisticsError("fn: its output does not depend on its input")
    influence = _per_sample(_squared(gradient), samples, len(outputs))
    if influence[1:].sum() > 1e-12 * influence.sum():
        raise StatisticsError(
            "fn: the embedding of sample 0 depends on other samples as well; put the network in eval mode "
            "(a batch norm in training mode mixes samples)"
        )


def complexity_penalty(embeddings: Tensor, inputs: Tensor, probes: int = 1, seed: int | None = None) -> Tensor:
    """Hutchinson's estimate of the GC of embeddings [n, p] that were computed from `inputs`, to add to a loss.

    A scalar that can be differentiated again: embeddings = net(inputs.requires_grad_()), then
    loss + weight * complexity_penalty(embeddings, inputs). Each probe costs a backward pass, and the backward
    pass of the loss then goes through it again. Where samples interact (batch norm in training mode), it is the
    complexity of the map of the whole batch, over n. `seed` None draws from torch's global state.

    Source: the explicit regulariser of Dherin et al. 2022 and Munn et al. 2024.

    >>> x = torch.ones(3, 2, requires_grad=True)
    >>> float(complexity_penalty(2 * x, x))  # ‖2 I‖² = 8, whatever the signs
    8.0
    """
    if not inputs.requires_grad or not embeddings.requires_grad:
        raise StatisticsError(
            "complexity_penalty: expected embeddings computed from `inputs` after inputs.requires_grad_(), "
            f"found inputs.requires_grad={inputs.requires_grad}, embeddings.requires_grad={embeddings.requires_grad}"
        )
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    total = embeddings.new_zeros(())
    for _ in range(probes):
        signs = torch.randint(0, 2, embeddings.shape, generator=generator).to(embeddings) * 2 - 1
        (gradient,) = torch.autograd.grad(embeddings, inputs, signs, create_graph=True)
        total = total + gradient.square().sum()
    return total / (probes * len(embeddings))


def input_scale(inputs: Tensor, channel: int = 1) -> float:
    """Root-mean-square deviation of one input number from the mean of its channel, over everything in `inputs`.

    For images [n, C, H, W], dense grids [n, C, X, Y, Z] and the features of occupied voxels [N, C] alike.

    >>> input_scale(torch.tensor([[0.0, 5.0], [2.0, 5.0], [0.0, 9.0], [2.0, 9.0]]))  # √((1 + 4)/2)
    1.5811388300841898
    """
    values = inputs.detach().double().transpose(0, channel).flatten(1)
    return float((values - values.mean(1, keepdim=True)).square().mean().sqrt())
