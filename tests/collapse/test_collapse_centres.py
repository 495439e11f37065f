"""Nearest-centre decisions: exact shares, ties, classes without a mean, merging, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.collapse import CentreDecisions, Statistics, StatisticsError

MEANS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 90),
    parts=st.sampled_from([1, 2, 4]),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_agrees_with_plain_distances_whatever_batching_and_parts(
    seed: int, batch: int, parts: int, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 7, 80)
    means = 2 * rng.normal(size=(7, 5)) + offset
    features = (means[labels] + 2 * rng.normal(size=(80, 5))).astype(np.float16)
    logits = rng.normal(size=(80, 7)).astype(np.float32)
    pieces = [CentreDecisions(means) for _ in range(parts)]
    for turn, start in enumerate(range(0, 80, batch)):
        part = slice(start, start + batch)
        pieces[turn % parts].update(features[part], labels[part], logits[part])
    while len(pieces) > 1:
        pieces = [a.merge(b) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]

    distances = ((features.astype(np.float64)[:, None] - means) ** 2).sum(2)
    nearest = distances.argmin(1)
    assert pieces[0].ncc_accuracy == (nearest == labels).mean()
    assert pieces[0].nc4 == (logits.argmax(1) != nearest).mean()
    assert pieces[0].counts["samples"] == 80


def test_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(50, 2)) * 4, rng.integers(0, 3, 50)
    whole = CentreDecisions(MEANS).nearest(features)
    monkeypatch.setattr("image2point.collapse.inputs.BLOCK", 21)
    assert torch.equal(CentreDecisions(MEANS).nearest(features), whole)
    assert CentreDecisions(MEANS).update(features, labels).counts["samples"] == 50


def test_ties_go_to_the_lowest_class() -> None:
    rng = np.random.default_rng(1)
    axis = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    # All 16 centres are equally far from `middle` up to rounding, and centres 3 and 5 are the same one.
    middle = 100 * rng.normal(size=32)
    centres = middle + np.concatenate([axis[:8], -axis[:8]])
    centres[5] = centres[3]
    decisions = CentreDecisions(centres)
    assert decisions.nearest(middle[None]).tolist() == [0]
    assert decisions.nearest(centres[[5, 4, 15]]).tolist() == [3, 4, 15]
    # Equal logits: the lowest class, too.
    agreed = CentreDecisions(MEANS).update(MEANS[:1], [0], [[1.0, 1.0, 0.5]])
    assert agreed.nc4 == 0.0


def test_a_difference_above_rounding_is_no_tie() -> None:
    decisions = CentreDecisions(MEANS)
    assert decisions.nearest([[2.0 + 1e-9, 0.0], [2.0, 0.0], [2.0 - 1e-9, 0.0]]).tolist() == [1, 0, 0]


def test_a_class_without_a_mean_is_never_chosen_and_its_samples_are_reported() -> None:
    S = Statistics(4, 2).update(np.array([[1.0, 1.0], [9.0, 9.0]]), [1, 3])
    decisions = CentreDecisions(S.means)
    # (0, 0) is where an absent class's mean would lie if zeros stood for it.
    decisions.update(np.array([[0.0, 0.0], [8.0, 8.0], [0.1, 0.0]]), [1, 3, 2])
    assert decisions.nearest([[0.0, 0.0]]).tolist() == [1]
    assert decisions.ncc_accuracy == 2 / 3
    assert decisions.counts["without_centre"] == 1


def test_nc4_is_about_the_networks_choice_among_classes_that_have_a_mean() -> None:
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [np.nan, np.nan]])
    logits = [[1.0, 0.0, 9.0], [0.0, 1.0, 9.0], [0.0, 1.0, -9.0]]  # the first two prefer the class that is absent
    decisions = CentreDecisions(centres).update([[0.1, 0.0], [3.9, 0.0], [0.1, 0.0]], [0, 1, 0], logits)
    assert decisions.nc4 == 1 / 3
    assert decisions.counts["chose_absent"] == 2


def test_logits_are_optional_and_state_round_trips() -> None:
    decisions = CentreDecisions(MEANS).update(MEANS, [0, 1, 1])
    assert decisions.ncc_accuracy == 2 / 3
    with pytest.raises(StatisticsError, match="nc4 needs update"):
        _ = decisions.nc4
    decisions.update(MEANS[:2], [0, 1], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    again = CentreDecisions.from_state(decisions.state())
    assert again.nc4 == decisions.nc4 == 0.5
    assert again.merge(decisions).counts == {
        "samples": 10, "correct": 8, "without_centre": 0, "singletons": 0, "compared": 4, "disagreed": 2,
        "chose_absent": 0,
    }  # fmt: skip


def test_errors() -> None:
    with pytest.raises(StatisticsError, match="no sample was given"):
        _ = CentreDecisions(MEANS).ncc_accuracy
    with pytest.raises(StatisticsError, match=r"logits: expected shape \[n, 3\], found \[1, 2\]"):
        CentreDecisions(MEANS).update([[0.0, 0.0]], [0], [[1.0, 0.0]])
    with pytest.raises(StatisticsError, match="logits: expected 1 rows, found 2"):
        CentreDecisions(MEANS).update([[0.0, 0.0]], [0], np.zeros((2, 3)))
    with pytest.raises(StatisticsError, match="found nan in row 0"):
        CentreDecisions(MEANS).update([[0.0, np.nan]], [0])
    with pytest.raises(StatisticsError, match=r"0\.\.2 for 3 classes, found 3 in row 0"):
        CentreDecisions(MEANS).update([[0.0, 0.0]], [3])
    with pytest.raises(StatisticsError, match="different centres"):
        CentreDecisions(MEANS).merge(CentreDecisions(MEANS + 1e-3))
    with pytest.raises(StatisticsError, match="at least one class mean"):
        CentreDecisions(np.full((2, 2), np.nan))
    with pytest.raises(StatisticsError, match="wholly NaN"):
        CentreDecisions([[0.0, np.nan], [1.0, 1.0]])
    with pytest.raises(StatisticsError, match="state: expected centres"):
        CentreDecisions.from_state({"centres": torch.zeros(2, 2)})


def test_single_samples_are_still_left_out_after_merging_and_storing() -> None:
    centres, count = torch.eye(3), torch.tensor([1, 5, 5])
    one = CentreDecisions(centres, count=count).update(torch.eye(3), [0, 1, 2])
    state = one.state()
    for again in (one.merge(CentreDecisions(centres)), CentreDecisions.from_state(state)):
        assert again.update(torch.eye(3), [0, 1, 2]).counts["singletons"] == 2
    old = CentreDecisions.from_state({name: state[name] for name in ("centres", "counts")})
    assert old.update(torch.eye(3), [0, 1, 2]).counts["singletons"] == 1
    with pytest.raises(StatisticsError, match=r"expected single \[3\], found \[2\]"):
        CentreDecisions.from_state({**state, "single": count[:2] == 1})
