"""N-way K-shot episodes on stored features, and linear probes: how well collapsed classes are told apart.

An episode draws N classes, K labelled samples of each (the support) and Q others of each (the queries); a classifier
is fitted to the support and scored on the queries. All episodes of a block are solved at once, by batched linear
algebra on Gram matrices: the width of the features does not matter to the cost of fitting.

Classifiers on the features as they are, or scaled to unit length by `unit=True`:

- "ncc": the nearest class mean.
- "ridge": least squares onto one-hot targets with penalty λ‖W‖² and a free bias; λ = √(KN) unless given, after
  Galanti, György and Hutter 2022.
- "logistic": multinomial logistic regression, (1/n) Σ cross-entropy + (λ/2)(‖W‖² + ‖b‖²) on features less the mean of
  the support, solved to a gradient norm of 1e-5 of the root mean square of ‖h‖; λ = 1/n (n = KN) unless given, which
  is the usual C = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image2point.collapse.inputs import (
    BLOCK,
    StatisticsError,
    as_float64,
    as_tensor,
    check_labelled,
    check_labels,
    check_seed,
)
from image2point.collapse.intervals import Interval, check_confidence, mean_interval, student_quantile

CLASSIFIERS = ("ncc", "ridge", "logistic")
TOLERANCE = 1e-5
MAX_STEPS = 20_000


@dataclass(frozen=True)
class Episodes:
    """Which samples take part: `classes` int64 [E, N], `support` [E, N, K], `queries` [E, N, Q], as row indices.

    `left_out` are classes with some samples, but fewer than K + Q.
    """

    classes: Tensor
    support: Tensor
    queries: Tensor
    left_out: tuple[int, ...]


@dataclass(frozen=True)
class FewShot:
    """Accuracy (share of queries) of each episode [E], float64, the classes that it drew [E, N], and those left out."""

    accuracies: Tensor
    left_out: tuple[int, ...]
    classes: Tensor

    def interval(self, confidence: float = 0.95, over: str = "classes") -> Interval:
        """Mean accuracy with its interval.

        - "classes": for other classes of the kind that these were drawn from, with samples of their own: the jackknife
          of the episodes without each class in turn. Since samples belong to classes, it holds for both. Undefined
          (NaN) where every episode has every class, or all episodes are alike.
        - "episodes": for other episodes of the very same samples. It shrinks with their number and says nothing of
          other samples or classes; in simulation it seldom holds the accuracy of the population.

        >>> x = torch.arange(120.0)[:, None] % 12 + torch.rand(120, 1, generator=torch.Generator().manual_seed(0))
        >>> found = few_shot(x, torch.arange(120) % 12, ways=2, shots=1, queries=5, episodes=400)
        >>> print(found.interval(over="episodes"))
        0.984 ± 0.0027 over episodes
        """
        if over == "episodes":
            return mean_interval(self.accuracies.tolist(), confidence, over)
        if over != "classes":
            raise StatisticsError(f"over: expected classes or episodes, found {over!r}")
        upper, there = check_confidence(confidence), self.classes.unique()
        count = len(there)
        absent = ~(self.classes[:, :, None] == there).any(1)  # [E, C]: the class is not in the episode
        without = absent.double().mT @ self.accuracies / absent.sum(0)  # 0/0 = NaN
        variance = (count - 1) / count * (without - without.mean()).square().sum()
        error = math.sqrt(variance) or math.nan
        reach = student_quantile(upper, count - 1) * error
        return Interval(self.accuracy, error, self.accuracy - reach, self.accuracy + reach, over)

    @property
    def accuracy(self) -> float:
        """The mean over episodes."""
        return float(self.accuracies.mean())


def draw_episodes(
    labels: Any, ways: int, shots: int, queries: int = 20, episodes: int = 600, seed: int = 0, classes: Any = None
) -> Episodes:
    """Draw episodes from samples with labels [n]; support and queries of an episode do not share a sample.

    `classes` restricts the draw (to novel classes, say); the draw depends on the seed and arguments alone.
    StatisticsError where fewer classes than `ways` have enough samples.

    >>> drawn = draw_episodes([0] * 6 + [1] * 6 + [2] * 3, ways=2, shots=1, queries=5, episodes=4)
    >>> drawn.support.shape, drawn.queries.shape, drawn.left_out
    (torch.Size([4, 2, 1]), torch.Size([4, 2, 5]), (2,))
    """
    if min(ways - 1, shots, queries, episodes) < 1:
        raise StatisticsError(
            f"expected ways ≥ 2, shots, queries and episodes ≥ 1, found {ways}, {shots}, {queries}, {episodes}"
        )
    labels = as_tensor(labels, "labels").cpu()
    labels = check_labels(labels, labels.shape[0] if labels.ndim else 0)
    count = torch.bincount(labels)
    asked = torch.arange(len(count)) if classes is None else as_tensor(classes, "classes").cpu()
    whole = asked.ndim == 1 and len(asked) > 0 and not asked.is_floating_point() and asked.dtype != torch.bool
    if not whole or asked.min() < 0 or asked.max() >= len(count):
        raise StatisticsError(
            f"classes: expected whole numbers that are labels, 0..{len(count) - 1}, found {asked.tolist()}"
        )
    asked = asked.long().unique()
    asked = asked[count[asked] > 0]
    enough = count[asked] >= shots + queries
    eligible, left_out = asked[enough], tuple(asked[~enough].tolist())
    if len(eligible) < ways:
        raise StatisticsError(
            f"{ways} ways: expected as many classes with {shots} + {queries} samples, found {len(eligible)} of "
            f"{len(asked)}; too few samples in classes {list(left_out)}"
        )
    rows = labels.argsort(stable=True)
    start = count.cumsum(0) - count
    widest = int(count[eligible].max())
    rng = np.random.default_rng(check_seed(seed))
    chosen, members = [], []
    for _ in range(episodes):  # one by one, so that the first episodes are the same however many follow
        chosen.append(eligible[torch.from_numpy(rng.permutation(len(eligible))[:ways])])
        keys = torch.from_numpy(rng.random((ways, widest)))
        keys[torch.arange(widest) >= count[chosen[-1], None]] = 2.0
        members.append(keys.argsort(1)[:, : shots + queries])
    picked = torch.stack(chosen)
    samples = rows[start[picked][:, :, None] + torch.stack(members)]
    return Episodes(picked, samples[:, :, :shots], samples[:, :, shots:], left_out)


@torch.no_grad()
def few_shot(
    features: Any,
    labels: Any,
    ways: int = 5,
    shots: int = 5,
    queries: int = 20,
    episodes: int = 600,
    classifier: str = "ncc",
    penalty: float | None = None,
    unit: bool = False,
    seed: int = 0,
    classes: Any = None,
) -> FewShot:
    """Accuracy of `classifier` over episodes drawn from features [n, d] with labels [n]; `penalty` is λ.

    With one seed, all classifiers and all features of the same samples see the same episodes: compare them episode
    by episode. StatisticsError as from `draw_episodes`, for an unknown classifier and a penalty that it does not take.

    >>> features = torch.eye(3).repeat_interleave(10, 0) + 0.01 * torch.arange(30.0)[:, None]
    >>> few_shot(features, torch.arange(3).repeat_interleave(10), ways=3, shots=1, queries=5, episodes=4).accuracy
    1.0
    """
    features, labels = check_labelled(features, labels)
    _check_classifier(classifier, penalty)
    drawn = draw_episodes(labels, ways, shots, queries, episodes, seed, classes)
    samples = torch.cat([drawn.support.flatten(1), drawn.queries.flatten(1)], 1)
    targets = torch.arange(ways, device=features.device)
    support, expected = targets.repeat_interleave(shots), targets.repeat_interleave(queries)
    accuracies = []
    size = max(1, BLOCK // (samples.shape[1] * features.shape[1]))
    for block in samples.split(size):
        x = as_float64(features[block.to(features.device)], features.device)  # [E, N(K + Q), d]
        x = _unit(x) if unit else x
        given, asked = x[:, : ways * shots], x[:, ways * shots :]
        logits = _LOGITS[classifier](given, support, asked, ways, penalty)
        accuracies.append((logits.argmax(2) == expected).double().mean(1).cpu())
    return FewShot(torch.cat(accuracies), drawn.left_out, drawn.classes)


@torch.no_grad()
def linear_probe(
    features: Any,
    labels: Any,
    test_features: Any,
    test_labels: Any,
    classifier: str = "logistic",
    penalty: float | None = None,
    unit: bool = False,
) -> float:
    """Accuracy on the test samples of one linear classifier fitted to all training samples.

    Test samples of classes that the training samples lack count as errors. NaN without a test sample.
    StatisticsError for training samples of a single class, and as from `few_shot`.

    >>> linear_probe([[0.0], [1.0], [9.0], [10.0]], [0, 0, 1, 1], [[2.0], [8.0], [4.0]], [0, 1, 1], "ncc")
    0.6666666666666666
    """
    features, labels = check_labelled(features, labels)
    test_features, test_labels = check_labelled(test_features, test_labels, "test ")
    if test_features.shape[1] != features.shape[1]:
        raise StatisticsError(f"test features: expected width {features.shape[1]}, found {test_features.shape[1]}")
    _check_classifier(classifier, penalty)
    device = features.device
    present, packed = labels.unique(return_inverse=True)
    if len(present) < 2:
        raise StatisticsError(f"labels: expected training samples of at least 2 classes, found {len(present)}")
    x, z = as_float64(features, device), as_float64(test_features, device)
    if unit:
        x, z = _unit(x), _unit(z)
    logits = _LOGITS[classifier](x[None], packed, z[None], len(present), penalty)[0]
    return float((present[logits.argmax(1)] == test_labels.to(device)).double().mean())


def _ncc(x: Tensor, labels: Tensor, queries: Tensor, ways: int, penalty: float | None) -> Tensor:
    """Minus half the squared distance to each class mean, less what all classes share."""
    means = x.new_zeros(len(x), ways, x.shape[2]).index_add_(1, labels, x) / torch.bincount(labels)[:, None]
    origin = means.mean(1, keepdim=True)
    means = means - origin
    return (queries - origin) @ means.mT - means.square().sum(2)[:, None] / 2


def _ridge(x: Tensor, labels: Tensor, queries: Tensor, ways: int, penalty: float | None) -> Tensor:
    """Least squares on centred features and targets, which leaves the bias free, in the smaller of n and d."""
    n, d = x.shape[1:]
    weight = math.sqrt(n) if penalty is None else penalty
    origin = x.mean(1, keepdim=True)
    x, queries = x - origin, queries - origin
    targets = torch.nn.functional.one_hot(labels, ways).to(x)
    mean = targets.mean(0)
    if n <= d:
        gram = x @ x.mT + weight * torch.eye(n).to(x)
        return queries @ (x.mT @ torch.linalg.solve(gram, (targets - mean).expand(len(x), n, ways))) + mean
    gram = x.mT @ x + weight * torch.eye(d).to(x)
    return queries @ torch.linalg.solve(gram, x.mT @ (targets - mean)) + mean


def _logistic(x: Tensor, labels: Tensor, queries: Tensor, ways: int, penalty: float | None) -> Tensor:
    n = x.shape[1]
    decay = 1 / n if penalty is None else penalty
    origin = x.mean(1, keepdim=True)
    x, queries = _coordinates(_with_one(x - origin), _with_one(queries - origin))
    targets = torch.nn.functional.one_hot(labels, ways).to(x)
    enough = TOLERANCE * x.square().sum((1, 2)).div(n).sqrt()
    # Hundreds of small problems cannot share line searches; one large problem needs far fewer steps with them.
    solve = _accelerated if len(x) > 1 else _quasi_newton
    return queries @ solve(x, targets, decay, enough)


def _gradient(weight: Tensor, x: Tensor, targets: Tensor, decay: float) -> Tensor:
    return x.mT @ ((x @ weight).softmax(2) - targets) / x.shape[1] + decay * weight


def _accelerated(x: Tensor, targets: Tensor, decay: float, enough: Tensor) -> Tensor:
    """Accelerated gradient descent of E strongly convex problems, with the steps that their curvature allows.

    Each loss is curved by at most ½ λ_max(XᵀX)/n + λ and at least λ, so that Nesterov's constant momentum
    converges whatever the data, each episode for itself.
    """
    gram = x.mT @ x if x.shape[1] > x.shape[2] else x @ x.mT
    steepest = torch.linalg.eigvalsh(gram)[:, -1, None, None] / (2 * x.shape[1]) + decay
    ratio = (decay / steepest).sqrt()
    momentum = (1 - ratio) / (1 + ratio)
    weight = ahead = x.new_zeros(len(x), x.shape[2], targets.shape[1])
    for step in range(MAX_STEPS):
        gradient = _gradient(ahead, x, targets, decay)
        if step % 10 == 0 and bool((gradient.flatten(1).norm(dim=1) <= enough).all()):
            return ahead
        moved = ahead - gradient / steepest
        ahead = moved + momentum * (moved - weight)
        weight = moved
    raise _no_convergence(decay)


def _quasi_newton(x: Tensor, targets: Tensor, decay: float, enough: Tensor) -> Tensor:
    """L-BFGS of a single problem."""
    weight = x.new_zeros(1, x.shape[2], targets.shape[1]).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight], max_iter=MAX_STEPS // 10, history_size=20, tolerance_grad=0.0, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    chosen = targets.bool()

    def loss() -> Tensor:
        with torch.no_grad():
            logits = x @ weight
            weight.grad = _gradient(weight, x, targets, decay)
            entropy = (logits.logsumexp(2) - logits[:, chosen]).mean()
            if bool((weight.grad.flatten(1).norm(dim=1) <= enough).all()):
                weight.grad.zero_()  # there: a zero gradient is what ends the iteration
            return entropy + decay / 2 * weight.square().sum()

    optimiser.step(loss)
    if bool((_gradient(weight, x, targets, decay).detach().flatten(1).norm(dim=1) > enough).any()):
        raise _no_convergence(decay)
    return weight.detach()


def _no_convergence(decay: float) -> StatisticsError:
    return StatisticsError(f"logistic: no convergence at penalty {decay:g}; a larger penalty, or unit=True, helps")


def _coordinates(x: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """x [E, n, d] and queries in coordinates of the space that x spans: the same inner products, min(n, d) wide."""
    if x.shape[1] >= x.shape[2]:
        return x, queries
    values, vectors = torch.linalg.eigh(x @ x.mT)
    rounding = x.shape[1] * torch.finfo(torch.float64).eps * values[:, -1:]
    inverse = torch.where(values > rounding, values.clamp(min=1e-300).rsqrt(), 0.0)
    basis = (x.mT @ vectors) * inverse[:, None]  # [E, d, n], orthonormal columns
    return x @ basis, queries @ basis


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :, :1])], 2)


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def _check_classifier(classifier: str, penalty: float | None) -> None:
    if classifier not in _LOGITS:
        raise StatisticsError(f"classifier: expected one of {', '.join(CLASSIFIERS)}, found {classifier!r}")
    if penalty is not None and (classifier == "ncc" or not penalty > 0):
        raise StatisticsError(f"penalty: expected a positive number, for ridge and logistic; found {penalty}")


_LOGITS = {"ncc": _ncc, "ridge": _ridge, "logistic": _logistic}
