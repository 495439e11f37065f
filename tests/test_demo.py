"""The arms of the demos: configs that are valid, of one task, and that differ in what is asked alone."""

from __future__ import annotations

import pytest
from test_cli import call

from image2point.experiments.demo import TASKS, configs


@pytest.mark.parametrize("task", TASKS)
def test_arms_differ_in_what_their_networks_know(task: str) -> None:
    first, *others = configs(task)
    assert first.task == task and first.network.control == "none"
    assert [each.network.control for each in others] == ["random", "scratch"][: len(others)]
    for each in others:
        assert (each.data, each.training, each.seed) == (first.data, first.training, first.seed)
        assert each.label != first.label


def test_a_task_that_is_none() -> None:
    result = call("demo", "--task", "detection")
    assert result.exit_code == 2 and "classification, segmentation, found 'detection'" in result.stderr
