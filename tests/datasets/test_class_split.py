"""Base and novel classes: disjoint, nested by seed, renumbered in order."""

from __future__ import annotations

import numpy as np
import pytest

from image2point.datasets.class_split import Joined, OfClasses, split_classes
from image2point.datasets.splits import StoredClouds
from image2point.errors import InputError

NAMES = tuple("abcdefgh")


def test_numbers_are_drawn_novel_first_and_nested() -> None:
    base, novel = split_classes(NAMES, novel=3, seed=1)
    assert len(novel) == 3 and set(base) | set(novel) == set(NAMES) and not set(base) & set(novel)
    few, same = split_classes(NAMES, novel=3, base=2, seed=1)
    more, _ = split_classes(NAMES, novel=3, base=4, seed=1)
    assert same == novel and set(few) < set(more) < set(base)
    assert list(more) == sorted(more)  # in the order of the names
    assert split_classes(NAMES, novel=3, seed=2)[1] != novel
    assert split_classes(NAMES) == (NAMES, ())


def test_names_are_taken_as_they_are() -> None:
    assert split_classes(NAMES, novel=("h", "b")) == (tuple("acdefg"), ("b", "h"))
    base, novel = split_classes(NAMES, novel=4, base=("a", "b", "c"))
    assert base == ("a", "b", "c") and len(novel) == 4 and not set(novel) & set(base)


def test_impossible_splits_are_named() -> None:
    with pytest.raises(InputError, match=r"class_split\.novel names z; there are a, b"):
        split_classes(NAMES, novel=("z",))
    with pytest.raises(InputError, match="b cannot be both base and novel"):
        split_classes(NAMES, novel=("b",), base=("a", "b"))
    for novel, base in ((7, None), (3, 6), (9, None)):
        with pytest.raises(InputError, match="more than the 8 there are"):
            split_classes(NAMES, novel=novel, base=base)


def test_views_renumber_and_join() -> None:
    points = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 2, 3), np.float32)
    whole = StoredClouds("all", ("x", "y", "z"), points, np.array([0, 1, 2, 0, 1, 2]))
    part = OfClasses(whole, ("z", "x"))
    assert (len(part), part.classes, part.labels.tolist()) == (4, ("z", "x"), [1, 0, 1, 0])
    assert [float(part[i].points[0, 0]) for i in range(4)] == [0, 2, 3, 5]
    both = Joined(part, part)
    assert len(both) == 8 and both.labels.tolist() == [1, 0, 1, 0] * 2
    assert [float(both[i].points[0, 0]) for i in range(8)] == [0, 2, 3, 5] * 2
