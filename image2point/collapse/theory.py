"""The unconstrained feature model: what a network would do to its last layer if it could place features freely.

Features H [N, d], classifier W [C, d] and bias b [C] are all free, and minimise

    (1/N) Σ_i ℓ(W h_i + b, y_i) + (λ_W/2)‖W‖² + (λ_H/2)‖H‖²,

ℓ the cross-entropy ("ce") or half the squared distance to the one-hot target ("mse"); the bias is free of decay, or
absent. Though not convex, the problem has no bad local minima for d > C: a stationary point is a global minimum as
soon as ‖∇_Z L‖_op ≤ √(λ_W λ_H), L the mean loss as a function of the logits Z. So every solution carries its own
certificate, for any class balance. For balanced classes the minima are simplex ETFs.

Sources: Zhu et al. 2021 (CE: minima, no bad local minima, certificate); Tirer and Bruna 2022, Zhou et al. 2022 (MSE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from image2point.collapse.inputs import StatisticsError
from image2point.collapse.metrics import metrics
from image2point.collapse.statistics import Statistics

LOSSES = ("ce", "mse")


@dataclass(frozen=True)
class UnconstrainedFeatures:
    """The problem: `counts` samples of each class, features of width `dim`, decay λ_W and λ_H."""

    counts: tuple[int, ...]
    dim: int
    loss: str = "ce"
    weight_decay: float = 5e-3
    feature_decay: float = 5e-3
    bias: bool = True

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise StatisticsError(f"loss: expected one of {', '.join(LOSSES)}, found {self.loss!r}")
        if len(self.counts) < 2 or min(self.counts) < 1 or self.dim < 1:
            raise StatisticsError(
                f"expected at least 2 classes of at least 1 sample and dim ≥ 1, found {self.counts} and {self.dim}"
            )
        if not (self.weight_decay > 0 and self.feature_decay > 0):
            raise StatisticsError(
                "without decay there is no minimum: expected weight_decay > 0 and feature_decay > 0, found "
                f"{self.weight_decay} and {self.feature_decay}"
            )

    @property
    def labels(self) -> Tensor:
        """Classes int64 [N] of the samples, in order."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))

    @property
    def balanced(self) -> bool:
        """Whether all classes have as many samples."""
        return len(set(self.counts)) == 1

    @property
    def strength(self) -> float:
        """τ = √(λ_W λ_H): over all WH with product Z, the two decays come to at least τ‖Z‖_* (nuclear norm)."""
        return math.sqrt(self.weight_decay * self.feature_decay)

    def mean_loss(self, logits: Tensor) -> Tensor:
        """L of logits Z [N, C]."""
        if self.loss == "ce":
            return cross_entropy(logits, self.labels)
        return (logits - one_hot(self.labels, len(self.counts))).square().sum() / (2 * len(logits))

    def objective(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """L of the logits and both decays, for features [N, d], weight [C, d] and bias [C]."""
        decay = self.weight_decay * weight.square().sum() + self.feature_decay * features.square().sum()
        return self.mean_loss(features @ weight.mT + bias) + decay / 2

    @property
    def minimum(self) -> float | None:
        """The least value of the objective, where a closed form is known (and d is wide enough for it); else None.

        MSE, any class balance: the singular values σ of the targets (less their mean, where the bias is free) shrink
        by Nτ, so that the sum over them is of s²/(2N) + τ(σ − s), s = min(σ, Nτ); a free bias costs nothing more.
        CE, balanced, n per class: with W an ETF and features along it, log(1 + (C−1)e^{−t}) + (C−1) t λ_W/s,
        s = √(λ_W/(λ_H n)), least at t = log(s/λ_W − (C−1)), or 0 (all is zero) if that is negative.
        """
        classes, total = len(self.counts), sum(self.counts)
        rank = classes if self.loss == "mse" and not self.bias else classes - 1
        if self.dim < rank:
            return None
        if self.loss == "mse":
            targets = one_hot(self.labels, classes).double()
            sigma = torch.linalg.svdvals(targets - targets.mean(0) if self.bias else targets)
            lost = sigma.clamp(max=total * self.strength)
            return float((lost.square() / (2 * total) + self.strength * (sigma - lost)).sum())
        if not self.balanced:
            return None
        slope = math.sqrt(self.weight_decay * self.feature_decay * self.counts[0])  # λ_W / s
        margin = math.log(max(1.0, 1 / slope - (classes - 1)))
        return math.log1p((classes - 1) * math.exp(-margin)) + (classes - 1) * margin * slope


@dataclass(frozen=True)
class Solution:
    """A minimum found: features [N, d], weight [C, d], bias [C] (zero where there is none), all float64.

    `value` is the objective; `slope` the largest entry of its gradient; `certificate` ‖∇_Z L‖_op / τ, which at a
    stationary point proves a global minimum if it is at most 1.
    """

    problem: UnconstrainedFeatures
    features: Tensor
    weight: Tensor
    bias: Tensor
    value: float
    slope: float
    certificate: float
    steps: int

    def metrics(self) -> dict[str, float]:
        """All metrics of collapse of the features and the classifier; NC2 and NC3 of it are distances to the ETF."""
        S = Statistics(len(self.problem.counts), self.problem.dim).update(self.features, self.problem.labels)
        return metrics(S, (self.weight, self.bias))

    @property
    def etf_distance(self) -> float:
        """The largest of nc2_etf (means), nc2_w_etf (classifier), √nc3 and √nc1_trace_ratio: 0 at full collapse.

        What is undefined (NC1 with one sample in all classes but one, NC2 of two means) is left out.
        """
        m = self.metrics()
        distances = (m["nc2_etf"], m["nc2_w_etf"], math.sqrt(m["nc3"]), math.sqrt(m["nc1_trace_ratio"]))
        return max(value for value in distances if not math.isnan(value))


def solve(problem: UnconstrainedFeatures, seed: int = 0, tolerance: float = 1e-8, max_steps: int = 5000) -> Solution:
    """Minimise from a random start by L-BFGS in float64, until no entry of the gradient exceeds `tolerance`.

    StatisticsError if that is not reached in `max_steps` steps.

    >>> found = solve(UnconstrainedFeatures((3,) * 3, dim=4))
    >>> found.certificate <= 1 + 1e-4, found.etf_distance < 1e-3
    (True, True)
    """
    generator = torch.Generator().manual_seed(seed)
    classes, total = len(problem.counts), sum(problem.counts)

    def start(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(problem.dim)

    features, weight = start(total, problem.dim).requires_grad_(), start(classes, problem.dim).requires_grad_()
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=problem.bias)
    free = [features, weight, bias] if problem.bias else [features, weight]
    optimiser = torch.optim.LBFGS(
        free, max_iter=max_steps, max_eval=2 * max_steps, history_size=50, tolerance_grad=tolerance,
        tolerance_change=0.0, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def evaluate() -> Tensor:
        optimiser.zero_grad()
        value = problem.objective(features, weight, bias)
        value.backward()
        return value

    optimiser.step(evaluate)
    value = float(evaluate().detach())
    slope = max(float(each.grad.abs().max()) for each in free if each.grad is not None)
    steps = int(optimiser.state[free[0]]["n_iter"])
    if not slope <= tolerance:
        raise StatisticsError(
            f"no minimum found in {steps} steps: a gradient of {slope:.2g}, asked for {tolerance:.2g}"
        )
    logits = (features @ weight.mT + bias).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(problem.mean_loss(logits), logits)
    certificate = float(torch.linalg.matrix_norm(gradient, 2)) / problem.strength
    return Solution(problem, features.detach(), weight.detach(), bias.detach(), value, slope, certificate, steps)
