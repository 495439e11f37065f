"""What no number can be given for: one sample has no variance, two means no angles, two layers no scatter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from image2point.collapse import (
    Bound,
    CentreDecisions,
    Complexity,
    DirectionalSpread,
    Interval,
    Statistics,
    StatisticsError,
    UnconstrainedFeatures,
    bootstrap,
    cdnv_matrix,
    collapse_penalty,
    deal,
    directional_bound,
    draw_rows,
    few_shot,
    fit_decay,
    galanti_bound,
    geometric_collapse,
    largest_variance,
    linear_probe,
    margin_error,
    mean_interval,
    metric_intervals,
    metrics,
    pairwise_bound,
    solve,
    transfer_scores,
    wasserstein,
)
from image2point.collapse.intervals import share_interval, student_quantile
from image2point.collapse.layers import measure_layers
from image2point.report.arms import Spread
from image2point.report.numbers import number, percent
from image2point.report.plain import ranged
from image2point.report.terminal import print_measured
from image2point.training.layer_features import plain

VARIABILITY = (
    "nc1", "nc1_raw", "between_rank", "nc1_trace_ratio",
    "cdnv", "cdnv_asymmetric", "cdnv_corrected", "cdnv_directional",
)  # fmt: skip


def test_numbers_whose_powers_are_no_numbers_are_refused() -> None:
    features, labels = draw(5, 5, 5)
    usual = metrics(Statistics(3, 5, "class").update(features, labels))
    for scale in (1e65, 1e-65):
        found = metrics(Statistics(3, 5, "class").update(scale * features, labels))
        assert found.pop("min_class_distance") == pytest.approx(scale * usual["min_class_distance"])
        assert found == pytest.approx({name: usual[name] for name in found}, rel=1e-9)
    for function in (Statistics(3, 5).update, transfer_scores):
        with pytest.raises(
            StatisticsError, match=r"numbers up to 1e\+70 \(scale them\), found .*e\+1.. in row 0, column 0"
        ):
            function(1e160 * features, labels)
    with pytest.raises(StatisticsError, match=r"class means of 1e-70 or more \(scale them\) or all 0, found .*e-"):
        metrics(Statistics(3, 5).update(1e-170 * features, labels))


def draw(*counts: int, dim: int = 5) -> tuple[Tensor, Tensor]:
    """Features and labels of classes of these sizes."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(len(counts), dim, generator=generator, dtype=torch.float64)
    return means[labels] + torch.randn(len(labels), dim, generator=generator, dtype=torch.float64), labels


def statistics(*counts: int, moments: int = 2, first: int | None = None) -> Statistics:
    """Of all samples, or of the first so many."""
    features, labels = draw(*counts)
    return Statistics(len(counts), 5, "class", moments=moments).update(features[:first], labels[:first])


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (6, 1, 1, 1)])
def test_variability_is_undefined_where_fewer_than_two_classes_vary(counts: tuple[int, ...]) -> None:
    found = metrics(statistics(*counts))
    assert all(math.isnan(found[name]) for name in VARIABILITY)
    assert found["contributing"] == sum(n > 1 for n in counts)
    assert found["min_class_distance"] > 0 and found["nc2_equinorm"] > 0 and found["rank_nuclear"] > 0


def test_variability_speaks_of_the_classes_that_vary() -> None:
    """As if the classes of one sample were absent: the numbers are those of the others alone."""
    features, labels = draw(4, 1, 5, 3, 1)
    several = (labels == 0) | (labels == 2) | (labels == 3)
    found = metrics(Statistics(5, 5, "class").update(features, labels))
    alone = metrics(Statistics(5, 5, "class").update(features[several], labels[several]))
    for name in VARIABILITY:
        assert found[name] == pytest.approx(alone[name], rel=1e-12), name
    assert (found["present"], found["contributing"], alone["present"]) == (5, 3, 3)
    S = statistics(4, 1, 5, 3, 1)
    for form in ("symmetric", "asymmetric", "corrected", "directional"):
        pairs = cdnv_matrix(S, form)
        assert torch.isfinite(pairs).sum() == 6 and not torch.isfinite(pairs[1]).any(), form
    assert S.variances.isnan().tolist() == [False, True, False, False, True]
    spread = DirectionalSpread(S.means).update(features, labels)
    assert spread.cdnv_directional == pytest.approx(alone["cdnv_directional"], rel=1e-12)
    assert math.isnan(DirectionalSpread(S.means).update(features[:5], labels[:5]).cdnv_directional)


def test_angles_of_two_means_are_undefined_those_of_two_classifier_rows_are_not() -> None:
    weight = torch.tensor([[1.0, 0, 0, 0, 0], [0, 2, 0, 0, 0]])
    found = metrics(statistics(4, 4), (weight, None))
    assert all(math.isnan(found[f"nc2_{name}"]) for name in ("equinorm", "equiangle", "etf"))
    assert found["nc2_w_equinorm"] == pytest.approx(1 / 3) and found["nc2_w_equiangle"] == pytest.approx(1.0)


def test_a_sample_that_is_its_own_centre_says_nothing() -> None:
    features, labels = draw(1, 1, 1)
    S = Statistics(3, 5).update(features, labels)
    assert math.isnan(CentreDecisions(S.means, count=S.count).update(features, labels).ncc_accuracy)
    assert CentreDecisions(S.means).update(features, labels).ncc_accuracy == 1.0  # as for samples of another set
    features, labels = torch.tensor([[0.0], [9.0], [10.0], [30.0]]), torch.tensor([0, 0, 1, 2])
    S = Statistics(3, 1).update(features, labels)
    own = CentreDecisions(S.means, count=S.count).update(features, labels)
    assert own.ncc_accuracy == 0.5 and own.counts["singletons"] == 2


def test_nc4_is_about_classes_that_have_a_centre() -> None:
    centres = torch.tensor([[0.0, 0.0], [math.nan, math.nan], [4.0, 0.0]])
    D = CentreDecisions(centres)
    D.update([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]], [0, 2, 0], [[1.0, 9.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 1.0]])
    assert D.nc4 == pytest.approx(1 / 3)  # only the last differs once class 1 is out of question
    assert D.counts["chose_absent"] == 2
    assert CentreDecisions.from_state(D.state()).merge(D).counts["chose_absent"] == 4


def test_layers_of_single_samples() -> None:
    features, labels = draw(1, 1, 1, 1)
    found = measure_layers(lambda: [{"a": (features, torch.arange(4))}], labels, 4)["a"]
    for name in ("nc1", "cdnv", "cdnv_corrected", "ncc_accuracy"):
        assert math.isnan(found.values[name]), name
    assert not found.intervals and found.values["min_class_distance"] > 0
    centres = {"a": features + 0.1}
    guided = measure_layers(lambda: [{"a": (features, torch.arange(4))}], labels, 4, centres=centres)["a"]
    assert guided.values["ncc_accuracy"] == 1.0


def test_no_interval_where_a_part_takes_the_variance_along() -> None:
    features, labels = draw(2, 2)
    parts = [Statistics(2, 5).update(features[g::2], labels[g::2]) for g in range(2)]
    with pytest.raises(StatisticsError, match="class 0 has a single sample"):
        metric_intervals(parts)
    assert not measure_layers(lambda: [{"a": (features, torch.arange(4))}], labels, 2)["a"].intervals


def test_bounds_and_predictions() -> None:
    assert str(Bound(math.nan)) == "undefined" and Bound(math.nan).vacuous
    assert math.isnan(galanti_bound(math.nan, 5, 1).value) and math.isnan(
        directional_bound(math.nan, math.nan, 1).value
    )
    with_single, without = statistics(5, 5, 5, 1, moments=4), statistics(5, 5, 5, 1, moments=4, first=15)
    assert margin_error(with_single, 3) == pytest.approx(margin_error(without, 3), rel=1e-9)
    pairs = cdnv_matrix(with_single, "asymmetric")
    assert pairwise_bound(pairs, 3).value == pytest.approx(pairwise_bound(pairs[:3, :3], 3).value, rel=1e-12)
    with pytest.raises(StatisticsError, match="2 classes of at least 2 samples, found 0"):
        margin_error(statistics(1, 1, 1, moments=4), 3, 2)


def test_complexity_of_single_samples() -> None:
    assert math.isnan(Complexity(torch.ones(1, dtype=torch.float64), torch.zeros(1), "exact").sampling_error)
    S = statistics(5, 5, 1)
    both = geometric_collapse(S, torch.tensor([1.0, 2.0, math.nan]))
    alone = geometric_collapse(statistics(5, 5, 1, first=10), torch.tensor([1.0, 2.0, math.nan]))
    assert both.ratio == pytest.approx(alone.ratio, rel=1e-12) and both.cdnv == pytest.approx(alone.cdnv, rel=1e-12)
    with pytest.raises(StatisticsError, match="2 classes of at least 2 samples, found 1 of 3"):
        geometric_collapse(statistics(5, 1, 1), torch.ones(3))
    assert largest_variance(*draw(3, 1), 2).isnan().tolist() == [False, True]


def test_undefined_is_printed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    features, labels = draw(1, 1, 1, 4)
    found = measure_layers(lambda: [{"a": (features, torch.arange(7))}], labels, 4)
    print_measured([("train", 7, 4, found)])
    printed = capsys.readouterr().out
    assert "7 samples of 4 classes, 1 of them with two or more" in printed
    assert "undefined" in printed and "nan" not in printed
    assert plain(found["a"])["values"]["nc1"] is None
    assert number(Spread(math.nan, None, 1)) == percent(Spread(math.nan, None, 1)) == "undefined"
    assert ranged(mean_interval([math.nan])) == "undefined" and ranged(None) == "–"


def test_lines_means_and_probes() -> None:
    assert math.isnan(fit_decay([1.0, 0.5]).explained) and fit_decay([1.0, 0.5, 0.25]).explained == pytest.approx(1.0)
    assert math.isnan(mean_interval([0.5]).error) and str(mean_interval([0.5])) == "0.5"
    assert str(Interval(math.nan, math.nan, math.nan, math.nan)) == "undefined"
    assert math.isnan(wasserstein([[1.0, 2.0]], [[3.0, 2.0]]).relative)
    with pytest.raises(StatisticsError, match="at least 2 classes, found 1"):
        linear_probe([[1.0], [2.0]], [0, 0], [[1.0]], [0])
    assert math.isnan(linear_probe([[1.0], [2.0]], [0, 1], torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(StatisticsError, match="the smallest of 1"):
        transfer_scores(*draw(3, 1))


def test_distance_to_the_frame_leaves_out_what_is_undefined() -> None:
    found = solve(UnconstrainedFeatures((1,) * 4, 6))
    assert math.isnan(found.metrics()["nc1_trace_ratio"]) and found.etf_distance < 1e-3


@pytest.mark.parametrize("value", [123.456, 0.1, -7e5])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_features_that_are_all_the_same_have_no_measure(value: float, classes: int) -> None:
    features, labels = torch.full((58, 4), value, dtype=torch.float64), torch.arange(58) % classes
    S = Statistics(classes, 4, "class").update(features[:31], labels[:31]).update(features[31:], labels[31:])
    names = [*VARIABILITY, "nc2_equinorm", "nc2_etf", "vci", "nc1_shrunk", "cdnv_median", "nc1_trace_ratio_corrected"]
    found = metrics(S, ask=[name for name in names if name != "between_rank"])
    assert all(math.isnan(each) for each in found.values()), found
    assert math.isnan(DirectionalSpread(S.means).update(features, labels).cdnv_directional)
    assert all(cdnv_matrix(S, form).isnan().all() for form in ("symmetric", "asymmetric", "corrected", "directional"))


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, 95.0, math.nan])
def test_a_confidence_lies_between_0_and_1(confidence: float) -> None:
    features, labels = draw(*[12] * 3)
    parts = [Statistics(3, 5).update(features[g::4], labels[g::4]) for g in range(4)]
    found = few_shot(features, labels, 2, 1, 2, 4)
    for call in (
        lambda: mean_interval([0.5, 0.7], confidence),
        lambda: mean_interval([0.5], confidence),
        lambda: share_interval(0.5, 9, confidence),
        lambda: metric_intervals(parts, confidence=confidence),
        lambda: bootstrap(parts, lambda S: {"count": float(S.count.sum())}, 2, confidence),
        lambda: found.interval(confidence),
        lambda: found.interval(confidence, over="episodes"),
    ):
        with pytest.raises(StatisticsError, match="confidence: expected a number between 0 and 1"):
            call()
    with pytest.raises(StatisticsError, match=r"expected a probability in \[0.5, 1\)"):
        student_quantile(0.5 + abs(confidence) / 2 + 0.5, 3)


def test_shares_and_parts_that_cannot_be() -> None:
    for value, samples in ((1.5, 9), (-0.1, 9), (0.5, 0)):
        with pytest.raises(StatisticsError, match=r"expected a share, 0\.\.1, of 1 sample or more"):
            share_interval(value, samples)
    assert math.isnan(share_interval(math.nan, 9).low)
    with pytest.raises(StatisticsError, match="parts: expected 1 or more, found 0"):
        deal([0, 1], 0)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.uint8, np.int32])
def test_labels_of_any_integer_type_are_taken(kind: type[np.generic]) -> None:
    features, labels = draw(6, 6, 6)
    expected = few_shot(features, labels, 2, 1, 2, 4).accuracy
    for given in (labels.numpy().astype(kind), torch.from_numpy(labels.numpy().astype(kind))):
        assert few_shot(features, given, 2, 1, 2, 4).accuracy == expected
        assert deal(given, 3).equal(deal(labels, 3))
        S = Statistics(3, 5).update(features, given)
        assert S.by_superclass(np.array([0, 0, 1]).astype(kind)).count.tolist() == [12, 6]


def test_labels_classes_and_seeds_that_cannot_be() -> None:
    features, labels = draw(6, 6, 6)
    for wrong in (labels.to(torch.complex64), labels.double() / 0, labels > 1):
        with pytest.raises(StatisticsError, match="labels: expected an integer dtype"):
            linear_probe(features, wrong, features, labels)
    for classes in ([], [0.5, 1.0], [True, False, True], [0, 3], [[0, 1]]):
        with pytest.raises(StatisticsError, match=r"classes: expected whole numbers that are labels, 0\.\.2, found"):
            few_shot(features, labels, 2, 1, 2, 4, classes=classes)
    for call in (lambda: few_shot(features, labels, 2, 1, 2, 4, seed=-1), lambda: draw_rows(labels, 0, 1, seed=-1)):
        with pytest.raises(StatisticsError, match="seed: expected 0 or more, found -1"):
            call()


def test_a_penalty_takes_labels_of_any_integer_type() -> None:
    features, labels = draw(4, 4)
    assert collapse_penalty(features, labels.int(), 2) == collapse_penalty(features, labels, 2) > 0
    for wrong in (labels + 1, labels - 1):
        with pytest.raises(StatisticsError, match=r"labels: expected 0\.\.1 for 2 classes"):
            collapse_penalty(features, wrong, 2)
