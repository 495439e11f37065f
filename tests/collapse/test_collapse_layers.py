"""Measuring several layers from a source of batches: the same numbers as from whole matrices, in any batching."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from image2point.collapse import CentreDecisions, DirectionalSpread, Statistics, StatisticsError, metrics
from image2point.collapse.intervals import deal, metric_intervals
from image2point.collapse.layers import GROUPS, KNOWN, Source, gathered, kept, measure_layers

CLASSES, SAMPLES = 4, 60


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(SAMPLES) % CLASSES


def features(labels: Tensor, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(CLASSES, dim, generator=generator)
    return centres[labels] + torch.randn(len(labels), dim, generator=generator)


def source(whole: Mapping[str, Tensor], size: int, order: Tensor | None = None) -> Source:
    """Batches of `size` samples, in any order; tensors [n, d], or [n, r, d] for r rows per sample."""
    order = torch.arange(SAMPLES) if order is None else order

    def batches() -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        for some in order.split(size):
            yield {
                name: (h[some].flatten(0, -2), some.repeat_interleave(h[some].flatten(0, -2).shape[0] // len(some)))
                for name, h in whole.items()
            }

    return batches


def test_each_layer_is_measured_as_a_whole_matrix_is(labels: Tensor) -> None:
    whole = {"early": features(labels, 5, 0), "late": features(labels, 3, 1)}
    weight, bias = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(2)), torch.ones(CLASSES)
    found = measure_layers(source(whole, 7), labels, CLASSES, KNOWN, {"late": (weight, bias)})
    for name, h in whole.items():
        S = Statistics(CLASSES, h.shape[1]).update(h, labels)
        classifier = (weight, bias) if name == "late" else None
        expected = metrics(S, classifier) | metrics(
            S, ask=[g for group in GROUPS if group.when_asked for g in group.names]
        )
        logits = h @ weight.T + bias if classifier else None
        D = CentreDecisions(S.means).update(h, labels, logits)
        expected |= {"ncc_accuracy": D.ncc_accuracy} | ({"nc4": D.nc4} if classifier else {})
        expected["cdnv_directional"] = DirectionalSpread(S.means).update(h, labels).cdnv_directional
        centred = found[name].intervals["vci_corrected"].value  # what stands there is corrected for its bias
        assert found[name].values == pytest.approx(expected | {"vci_corrected": centred}, rel=1e-9)
        assert torch.equal(found[name].count, torch.bincount(labels))
        dealt = deal(labels, 10)
        parts = [Statistics(CLASSES, h.shape[1]).update(h[dealt == g], labels[dealt == g]) for g in range(10)]
        expected_intervals = metric_intervals(parts)
        assert set(found[name].intervals) == set(expected_intervals)  # of shares with their own centres, none
        for key, interval in expected_intervals.items():
            assert found[name].intervals[key].error == pytest.approx(interval.error, rel=1e-6, abs=1e-12)


def test_batches_and_order_do_not_matter(labels: Tensor) -> None:
    whole = {"a": features(labels, 6, 3)}
    expected = measure_layers(source(whole, SAMPLES), labels, CLASSES)["a"]
    shuffled = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(4))
    found = measure_layers(kept(source(whole, 9, shuffled)), labels, CLASSES)["a"]
    assert found.values == pytest.approx(expected.values, rel=1e-9)
    assert {k: i.error for k, i in found.intervals.items()} == pytest.approx(
        {k: i.error for k, i in expected.intervals.items()}, rel=1e-6, abs=1e-12
    )


def test_centres_of_the_training_set_decide(labels: Tensor) -> None:
    whole = {"a": features(labels, 6, 3)}
    train = measure_layers(source(whole, 10), labels, CLASSES)
    moved = {"a": whole["a"] + 100}
    alone = measure_layers(source(moved, 10), labels, CLASSES)["a"]
    guided = measure_layers(source(moved, 10), labels, CLASSES, centres={"a": train["a"].means})["a"]
    assert alone.values["ncc_accuracy"] > 0.9
    D = CentreDecisions(train["a"].means).update(moved["a"], labels)
    assert guided.values["ncc_accuracy"] == D.ncc_accuracy
    assert guided.values["cdnv"] == pytest.approx(train["a"].values["cdnv"], rel=1e-6)


def test_rows_of_one_sample_stay_in_one_part(labels: Tensor) -> None:
    """Twenty equal rows per sample say no more than one does: as many times as many rows, the same interval."""
    one = features(labels, 6, 3)
    many = one[:, None, :].expand(-1, 20, -1)
    ask = ("nc1_trace_ratio", "cdnv", "ncc_accuracy")
    centres = {"a": 3 * torch.eye(CLASSES, 6)}
    single = measure_layers(source({"a": one}, 8), labels, CLASSES, ask, centres=centres)["a"]
    repeated = measure_layers(source({"a": many}, 8), labels, CLASSES, ask, centres=centres)["a"]
    for name in ask:
        assert repeated.values[name] == pytest.approx(single.values[name], rel=1e-9)
    assert repeated.intervals["ncc_accuracy"] == single.intervals["ncc_accuracy"]
    assert set(single.intervals) == {"ncc_accuracy"}
    assert int(repeated.count.sum()) == 20 * SAMPLES
    with pytest.raises(StatisticsError, match="one row for each sample"):
        gathered(source({"a": many}, 8))


def test_a_class_with_one_sample_leaves_values_without_intervals(labels: Tensor) -> None:
    labels = labels.clone()
    labels[labels == 3] = 2
    labels[0] = 3
    found = measure_layers(source({"a": features(labels, 6, 3)}, 8), labels, CLASSES)["a"]
    assert not found.intervals and found.values["cdnv_corrected_undefined"] >= 3


def test_features_are_gathered_in_the_order_of_the_samples(labels: Tensor) -> None:
    whole = {"a": features(labels, 6, 3)}
    shuffled = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(4))
    assert torch.equal(gathered(source(whole, 9, shuffled))["a"], whole["a"])


def test_bad_requests_are_named(labels: Tensor) -> None:
    whole = {"a": features(labels, 6, 3)}
    with pytest.raises(StatisticsError, match="unknown measure nc5"):
        measure_layers(source(whole, 8), labels, CLASSES, ["nc5"])
    with pytest.raises(StatisticsError, match="nc3: no layer has a classifier"):
        measure_layers(source(whole, 8), labels, CLASSES, ["nc3"])


def test_two_samples_of_a_class_leave_no_interval() -> None:
    features, labels = torch.tensor([[0.0], [2.0], [7.0], [9.0]]), torch.tensor([0, 0, 1, 1])
    found = measure_layers(lambda: [{"last": (features, torch.arange(4))}], labels, 2)["last"]
    assert found.intervals == {} and found.values["cdnv_corrected"] == pytest.approx(2 / (49 - 2))
