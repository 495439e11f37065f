"""Episodes are fair draws; classifiers agree with independent ones; the formula with drawn data; bounds hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from image2point.collapse import (
    Bound,
    FewShot,
    Statistics,
    StatisticsError,
    cdnv_matrix,
    directional_bound,
    draw_episodes,
    few_shot,
    finite_shot_bound,
    galanti_bound,
    gaussian_error,
    linear_probe,
    metrics,
    moment_bound,
    pairwise_bound,
)
from image2point.collapse.bounds import margins


def draw(classes: int = 8, each: int = 30, dim: int = 12, spread: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    return 5 + 1.5 * rng.normal(size=(classes, dim))[labels] + spread * rng.normal(size=(len(labels), dim)), labels


# ---- episodes ----------------------------------------------------------------------------------------


def test_episodes_take_distinct_samples_of_the_classes_they_name() -> None:
    labels = torch.tensor(draw()[1])
    drawn = draw_episodes(labels, ways=3, shots=4, queries=5, episodes=40, seed=1)
    assert drawn.support.shape == (40, 3, 4) and drawn.queries.shape == (40, 3, 5)
    for classes, support, queries in zip(drawn.classes, drawn.support, drawn.queries, strict=True):
        assert len(classes.unique()) == 3
        assert len(torch.cat([support, queries], 1).unique()) == 27
        assert (labels[torch.cat([support, queries], 1)] == classes[:, None]).all()
    assert torch.equal(draw_episodes(labels, 3, 4, 5, 40, seed=1).support, drawn.support)
    assert not torch.equal(draw_episodes(labels, 3, 4, 5, 40, seed=2).support, drawn.support)
    assert torch.equal(draw_episodes(labels, 3, 4, 5, 60, seed=1).queries[:40], drawn.queries)


def test_every_class_and_sample_is_drawn_equally_often() -> None:
    labels = np.repeat(np.arange(5), [9, 9, 12, 9, 9])
    drawn = draw_episodes(labels, ways=2, shots=3, queries=3, episodes=3000)
    assert np.bincount(drawn.classes.flatten()) == pytest.approx([1200] * 5, rel=0.1)
    share = np.bincount(drawn.support.flatten(), minlength=48) / (1200 * 3)
    assert share == pytest.approx(1 / np.array([9, 9, 12, 9, 9])[labels], rel=0.2)


def test_classes_with_too_few_samples_are_reported() -> None:
    labels = np.repeat(np.arange(4), [9, 2, 9, 9])
    drawn = draw_episodes(labels, ways=3, shots=2, queries=3, episodes=30)
    assert drawn.left_out == (1,) and not (drawn.classes == 1).any()
    novel = draw_episodes(labels, ways=2, shots=2, queries=3, episodes=30, classes=[0, 3])
    assert set(novel.classes.flatten().tolist()) == {0, 3} and novel.left_out == ()
    with pytest.raises(StatisticsError, match=r"4 ways.*found 3 of 4; too few samples in classes \[1\]"):
        draw_episodes(labels, ways=4, shots=2, queries=3)
    with pytest.raises(StatisticsError, match="ways ≥ 2"):
        draw_episodes(labels, ways=1, shots=2)
    with pytest.raises(StatisticsError, match=r"0\.\.3, found \[0, 7\]"):
        draw_episodes(labels, ways=2, shots=2, queries=3, classes=[0, 7])


# ---- classifiers -------------------------------------------------------------------------------------


def predict(classifier: str, x: np.ndarray, y: np.ndarray, z: np.ndarray, ways: int) -> np.ndarray:
    """One episode by other means: distances, an augmented normal equation, a generic optimiser."""
    if classifier == "ncc":
        means = np.stack([x[y == c].mean(0) for c in range(ways)])
        return ((z[:, None] - means) ** 2).sum(2).argmin(1)
    if classifier == "ridge":
        ones = np.c_[x, np.ones(len(x))]
        free = np.diag([1.0] * x.shape[1] + [0.0]) * math.sqrt(len(x))
        return (np.c_[z, np.ones(len(z))] @ np.linalg.solve(ones.T @ ones + free, ones.T @ np.eye(ways)[y])).argmax(1)
    weight = torch.zeros(x.shape[1], ways, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(ways, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = torch.tensor(x - x.mean(0)) @ weight + bias
        value = cross_entropy(logits, torch.tensor(y)) + (weight.square().sum() + bias.square().sum()) / 2 / len(x)
        value.backward()
        return value

    optimiser.step(loss)
    return (torch.tensor(z - x.mean(0)) @ weight + bias).argmax(1).numpy()


@pytest.mark.parametrize("classifier", ["ncc", "ridge", "logistic"])
@pytest.mark.parametrize(("shots", "dim", "unit"), [(1, 12, False), (5, 12, True), (8, 3, False)])
def test_classifiers_agree_with_one_episode_at_a_time(
    classifier: str, shots: int, dim: int, unit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image2point.collapse.fewshot.BLOCK", 4000)  # a few episodes at a time
    features, labels = draw(dim=dim)
    drawn = draw_episodes(labels, 3, shots, 6, episodes=12, seed=3)
    found = few_shot(features, labels, 3, shots, 6, 12, classifier, unit=unit, seed=3)
    if unit:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    for episode in range(12):
        x, z = features[drawn.support[episode].flatten()], features[drawn.queries[episode].flatten()]
        y, truth = np.repeat(np.arange(3), shots), np.repeat(np.arange(3), 6)
        expected = (predict(classifier, x, y, z, 3) == truth).mean()
        assert float(found.accuracies[episode]) == pytest.approx(expected, abs=1e-12)
    assert 0.34 < found.accuracy < 1.0


def test_interval_of_the_mean_over_episodes() -> None:
    features, labels = draw()
    found = few_shot(features.astype(np.float32), labels, 5, 2, 10, episodes=50)
    interval = found.interval(over="episodes")
    accuracies = found.accuracies.numpy()
    assert interval.value == pytest.approx(found.accuracy) and found.accuracy == pytest.approx(accuracies.mean())
    assert interval.high - interval.value == pytest.approx(2.00958 * accuracies.std(ddof=1) / math.sqrt(50), rel=1e-5)
    assert str(interval).endswith("over episodes")


def test_interval_over_classes_leaves_each_class_out() -> None:
    features, labels = draw()
    found = few_shot(features, labels, 3, 2, 10, episodes=80)
    without = np.array(
        [found.accuracies[(found.classes != c).all(1)].mean() for c in range(8)]  # the episodes that class c is not in
    )
    interval = found.interval()
    assert interval.over == "classes" and interval.value == pytest.approx(found.accuracy)
    assert interval.error == pytest.approx(math.sqrt(7 / 8 * ((without - without.mean()) ** 2).sum()), rel=1e-9)
    assert interval.high - interval.value == pytest.approx(2.36462 * interval.error, rel=1e-5)
    assert math.isnan(few_shot(features, labels, 8, 2, 10, episodes=10).interval().low)  # no episode lacks a class
    with pytest.raises(StatisticsError, match="classes or episodes, found 'seeds'"):
        found.interval(over="seeds")


@pytest.mark.slow
def test_interval_over_classes_holds_the_accuracy_of_other_classes_and_that_over_episodes_does_not() -> None:
    def accuracy(classes: int, episodes: int, seed: int) -> FewShot:
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(classes), 10)
        features = 0.7 * rng.normal(size=(classes, 16))[labels] + rng.normal(size=(len(labels), 16))
        return few_shot(features, labels, 5, 1, 5, episodes, seed=seed)

    truth = accuracy(2000, 20_000, 10**6).accuracy
    found = [accuracy(10, 200, seed) for seed in range(100)]
    covered = {
        over: np.mean([i.low <= truth <= i.high for i in (f.interval(over=over) for f in found)])
        for over in ("classes", "episodes")
    }
    assert covered["classes"] >= 0.90 and covered["episodes"] < 0.60


@pytest.mark.parametrize("classifier", ["ncc", "ridge", "logistic"])
@pytest.mark.parametrize("dim", [12, 300])
def test_linear_probe(classifier: str, dim: int) -> None:
    features, labels = draw(dim=dim, spread=3.0)
    labels = np.array([1, 2, 4, 5, 6, 7, 8, 9])[labels]  # classes 0 and 3 do not occur
    found = linear_probe(features[:150], labels[:150], features[150:], labels[150:], classifier)
    packed = np.searchsorted([1, 2, 4, 5, 6, 7, 8, 9], labels)
    predicted = predict(classifier, features[:150], packed[:150], features[150:], 8)
    assert found == pytest.approx((predicted == packed[150:]).mean(), abs=1e-12)
    with_a_strange_class = np.where(np.arange(90) < 9, 11, labels[150:])
    assert linear_probe(features[:150], labels[:150], features[150:], with_a_strange_class) <= 0.9


def test_unfitting_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = draw()
    with pytest.raises(StatisticsError, match="one of ncc, ridge, logistic, found 'svm'"):
        few_shot(features, labels, classifier="svm")
    with pytest.raises(StatisticsError, match=r"penalty: .*found 1\.0"):
        few_shot(features, labels, classifier="ncc", penalty=1.0)
    monkeypatch.setattr("image2point.collapse.fewshot.MAX_STEPS", 20)
    with pytest.raises(StatisticsError, match="no convergence at penalty 1e-12"):
        few_shot(features, labels, 5, 5, 10, 3, "logistic", penalty=1e-12)
    with pytest.raises(StatisticsError, match="no convergence at penalty 1e-12"):
        linear_probe(features, labels, features, labels, penalty=1e-12)


# ---- what collapse predicts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "V", "n", "simulated", "formula"), [(64, 4, 5, 0.1216, 0.1225), (64, 1, 1, 0.0328, 0.0368)]
)
def test_gaussian_formula(p: int, V: float, n: int, simulated: float, formula: float) -> None:
    assert gaussian_error(V, p, n) == pytest.approx(formula, abs=5e-5)
    # Drawn: means at distance 1, variance V/p per axis, so that CDNV = V; 4000 trials of both classes.
    generator = torch.Generator().manual_seed(0)
    trials, sigma = 4000, math.sqrt(V / p)
    means = torch.zeros(2, p)
    means[1, 0] = 1.0
    support = means + sigma / math.sqrt(n) * torch.randn(trials, 2, p, generator=generator)
    queries = means + sigma * torch.randn(trials, 2, p, generator=generator)
    wrong = torch.cdist(queries, support).argmin(2) != torch.arange(2)
    assert float(wrong.double().mean()) == pytest.approx(simulated, abs=4 * math.sqrt(0.12 * 0.88 / (2 * trials)))


def test_gaussian_formula_with_exact_means() -> None:
    normal = 0.5 * (1 + math.erf(-0.5 * math.sqrt(64 / 9) / math.sqrt(2)))
    assert gaussian_error(9, 64) == pytest.approx(normal, rel=1e-12)
    assert gaussian_error(9 / 64, 1) == pytest.approx(normal, rel=1e-12)
    assert gaussian_error(0, 64, 5) == 0.0
    with pytest.raises(StatisticsError, match="cdnv ≥ 0"):
        gaussian_error(math.nan, 64)


def test_directional_bound_is_the_published_vector() -> None:
    published = {
        1: 29.11435549, 5: 8.196054138, 10: 5.666351924, 20: 4.166720807, 50: 2.945370196, 100: 2.334543530,
        200: 1.886396681, 500: 1.459170361,
    }  # fmt: skip
    for shots, value in published.items():
        bound = directional_bound(0.0728605240583419, 1.672136664390564, shots)
        assert bound.value == pytest.approx(value, rel=1e-9), shots
        assert bound.vacuous and "vacuous" in str(bound)
    assert directional_bound(0.0728605240583419, 1.672136664390564, 5, ways=4).value == pytest.approx(
        3 * published[5], rel=1e-9
    )


@pytest.mark.parametrize("shots", [1, 10, 1000])
def test_finite_shot_bound_by_hand(shots: int) -> None:
    """Theorem 4.1 written out pair by pair, from the samples."""
    features, labels = draw(4, 12, 3)
    S = Statistics(4, 3, "class", moments=4).update(features, labels)
    mean = [features[labels == c].mean(0) for c in range(4)]
    norms = [((features[labels == c] - mean[c]) ** 2).sum(1) for c in range(4)]
    total = 0.0
    for i, j in itertools.permutations(range(4), 2):
        delta = mean[i] - mean[j]
        d2, vi, vj = delta @ delta, norms[i].mean(), norms[j].mean()
        along = np.mean(((features[labels == i] - mean[i]) @ delta) ** 2) / d2**2
        v = (vi + vj) / d2
        theta = (np.mean(norms[i] ** 2) + np.mean(norms[j] ** 2)) / d2**2
        terms = 4 / shots * (v**2 + v / 4), v / shots, (theta + 2 * (shots - 1) * v**2) / shots**3
        bracket = 1 + (vj - vi) / (shots * d2)
        assert bracket > 0
        total += (4 * along + sum(math.sqrt(term) for term in terms) ** 2) / bracket**2
    assert finite_shot_bound(S, shots).value == pytest.approx(total / 4, rel=1e-10)
    assert finite_shot_bound(S, shots, ways=2).value == pytest.approx(total / 12, rel=1e-10)
    assert moment_bound(S, shots).value <= finite_shot_bound(S, shots).value
    if shots == 1000:
        directional = metrics(S, ask="cdnv_directional")["cdnv_directional"]
        assert finite_shot_bound(S, 10**9).value == pytest.approx(3 * 4 * directional, rel=1e-3)


@pytest.mark.parametrize("shots", [1, 3, 10, 1000])
@pytest.mark.parametrize(("directional", "cdnv"), [(0.01, 0.5), (1e-6, 2.0), (0.3, 0.3), (1e-3, 0.0)])
def test_directional_bound_is_the_least_over_a(shots: int, directional: float, cdnv: float) -> None:
    a = np.geomspace(max(5.0, 4 + 4 * math.sqrt(2) / shots + 1e-9), 1e7, 200_001)
    growth = 2 / math.sqrt(shots) * (math.sqrt(cdnv) + cdnv) + cdnv / shots
    values = (0.5 - 2 / a - 2**1.5 / (a * shots)) ** -2 * directional + a / 4 * growth
    found = directional_bound(directional, cdnv, shots).value
    assert found <= values.min() * (1 + 1e-12)
    assert found == pytest.approx(values.min(), rel=1e-5)


def test_bounds_lie_above_the_measured_error() -> None:
    """Well separated classes, heavy-tailed noise: no bound may be below the error that it bounds."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(6), 400)
    means = 6 * np.eye(6, 10)
    features = means[labels] + 0.25 * rng.standard_t(3, size=(2400, 10))
    S = Statistics(6, 10, "class", moments=4).update(features, labels)
    m = metrics(S)
    error = 1 - few_shot(features, labels, 3, 2, 10, 300).accuracy
    pairwise = pairwise_bound(cdnv_matrix(S, "asymmetric"), 2, ways=3)
    assert error < pairwise.value < 1.0 and not pairwise.vacuous
    assert error < moment_bound(S, 2, ways=3).value < pairwise.value
    # All pairs alike: (k−1)(12 V + (3/n) 2V).
    assert pairwise.value == pytest.approx(2 * (12 + 3) * m["cdnv"], rel=0.02)
    assert error < galanti_bound(m["cdnv"], 3, 2).value
    assert error < directional_bound(m["cdnv_directional"], m["cdnv"], 2, ways=3).value
    assert error < moment_bound(S, 2, 3).value <= finite_shot_bound(S, 2, 3).value


def test_pairwise_bound_by_hand() -> None:
    matrix = np.full((4, 4), np.nan)  # class 2 has no samples
    matrix[0, 1], matrix[1, 0], matrix[0, 3], matrix[3, 0], matrix[1, 3], matrix[3, 1] = 0.01, 0.02, 0.03, 5.0, 0.0, 0.0
    errors = [12 * 0.01 + 3 / 6 * 0.03, 12 * 0.02 + 3 / 6 * 0.03, 1.0, 1.0, 0.0, 0.0]
    assert pairwise_bound(matrix, 6).value == pytest.approx(sum(errors) / 3, rel=1e-12)
    assert pairwise_bound(matrix, 6, ways=2).value == pytest.approx(sum(errors) / 6, rel=1e-12)
    with pytest.raises(StatisticsError, match=r"2\.\.3 of 3 classes with two samples or more, found 4"):
        pairwise_bound(matrix, 6, ways=4)


@pytest.mark.parametrize("shots", [1, 2])
def test_moment_bound_has_the_moments_of_every_possible_draw(shots: int) -> None:
    """Two skewed classes of few points: all draws of shots and sample written out, against the closed form."""
    rng = np.random.default_rng(2)
    groups = [rng.exponential(size=(4, 3)), 2.5 + rng.exponential(size=(3, 3)) ** 2]
    S = Statistics(3, 3, "class", moments=4).update(np.concatenate(groups), [0] * 4 + [2] * 3)
    bounds = []
    for i, j in ((0, 1), (1, 0)):
        own, other = (np.stack(list(itertools.product(groups[k], repeat=shots))).mean(1) for k in (i, j))
        h = groups[i][:, None, None]
        margins = ((h - other[None, None]) ** 2).sum(3) - ((h - own[None, :, None]) ** 2).sum(3)
        assert (margins <= 0).mean() <= margins.var() / (margins.var() + margins.mean() ** 2)
        bounds.append(margins.var() / (margins.var() + margins.mean() ** 2) if margins.mean() > 0 else 1.0)
    assert max(bounds) < 1.0
    assert moment_bound(S, shots).value == pytest.approx(sum(bounds) / 2, rel=1e-10)


def test_moment_bound_with_many_shots_and_ways() -> None:
    features, labels = draw()
    S = Statistics(8, 12, "class", moments=4).update(features, labels)
    ratio = cdnv_matrix(S, "directional") * 4
    limit = float((ratio / (1 + ratio)).nanmean())
    assert moment_bound(S, 1e9, ways=2).value == pytest.approx(limit, rel=1e-6)
    assert moment_bound(S, 1e9, ways=4).value == pytest.approx(3 * limit, rel=1e-6)
    assert moment_bound(S, 5).value == pytest.approx(7 * moment_bound(S, 5, ways=2).value, rel=1e-12)
    assert moment_bound(S, 1, ways=2).value > moment_bound(S, 5, ways=2).value > limit
    with pytest.raises(StatisticsError, match=r'needs Statistics\(\.\.\., covariance="class", moments=4\)'):
        moment_bound(Statistics(8, 12, "class").update(features, labels), 5)
    with pytest.raises(StatisticsError, match=r"2\.\.8 of 8 classes with two samples or more, found 9"):
        moment_bound(S, 5, ways=9)


def test_moment_bound_where_the_wrong_mean_is_nearer_on_average() -> None:
    """One wide class and one that is a point: with one shot, the wide class's own mean is the farther one."""
    S = Statistics(2, 1, "class", moments=4).update(np.array([[-9.0], [9.0], [1.0], [1.0]]), [0, 0, 1, 1])
    assert moment_bound(S, 1).value > 0.5  # 1 for the wide class, whose E T = 1 − 81 < 0


def test_galanti_form_and_vacuity() -> None:
    assert galanti_bound(0.01, 5, 4).value == pytest.approx(galanti_bound(0.01, 2, 4).value * 4)
    assert galanti_bound(0.01, 2, 4, spread_dimension=64).value == pytest.approx(
        galanti_bound(0.01, 2, 4).value * (1 / 4 + 1 / 64) / (1 / 4 + 1)
    )
    assert Bound(1.0).vacuous and Bound(math.nan).vacuous and Bound(math.inf).vacuous and not Bound(0.99).vacuous
    with pytest.raises(StatisticsError, match="ways ≥ 2"):
        galanti_bound(0.1, 1, 5)


def test_bounds_have_a_limit_of_infinitely_many_shots() -> None:
    labels = torch.arange(60) % 3
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 20 * labels[:, None]
    S = Statistics(3, 4, "class", moments=4).update(x, labels)
    for bound in (moment_bound, finite_shot_bound):
        assert bound(S, math.inf).value == pytest.approx(bound(S, 1e12).value, rel=1e-4)
    assert all(part.isfinite().all() for part in margins(S, math.inf))


def test_galantis_constants_are_positive() -> None:
    for wrong in ({"spread_dimension": 0.0}, {"spread_dimension": math.nan}, {"constant": -1.0}):
        with pytest.raises(StatisticsError, match="expected a spread_dimension and a constant above 0"):
            galanti_bound(0.1, 2, 5, **wrong)
