"""The arms of the demos: configs that are valid, of one task, and that differ in what is asked alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_cli import call

from image2point.experiments.demo import DEMOS, configs
from image2point.experiments.story import story
from image2point.tasks.display import DISPLAYS

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.parametrize("task", DEMOS)
def test_arms_differ_in_what_their_networks_know(task: str) -> None:
    first, *others = configs(task)
    assert first.task == task and first.network.control == "none"
    assert [each.network.control for each in others] == ["random", "none", "scratch"][: len(others)]
    assert [each.finetune.policy for each in others] == ["io+norm", "all", "all"][: len(others)]
    for each in others:
        assert (each.data, each.training, each.seed) == (first.data, first.training, first.seed)
        assert each.label != first.label


def test_the_configs_to_go_on_with_are_shipped() -> None:
    for each in DEMOS.values():
        assert (CONFIGS / f"{each.real}.yaml").is_file()


def test_a_task_that_is_none() -> None:
    result = call("demo", "--task", "detection")
    assert result.exit_code == 2 and "classification, segmentation, found 'detection'" in result.stderr


def arm(name: str, score: float, trains: int, share: float | None = None, task: str = "classification") -> Any:
    """What the story asks of a run."""
    key = DISPLAYS[task].scores[0].key
    return SimpleNamespace(
        summary=SimpleNamespace(
            task=task,
            arm=name,
            network=SimpleNamespace(name="a_network"),
            parameters=SimpleNamespace(trainable=trains, total=1000),
            data=SimpleNamespace(train_clouds=480, test_clouds=240, classes=("a", "b")),
            final={key: score},
            collapse={"test": {} if share is None else {"cdnv_over_null": share}},
        )
    )


def test_the_story_says_what_the_runs_gave() -> None:
    runs = {"imagenet": arm("ImageNet", 0.6, 30, 0.4), "random": arm("random", 0.3, 30, 0.7)}
    trained = {"all": arm("all", 0.8, 1000, 0.6), "scratch": arm("scratch", 0.62, 1000, 0.5)}
    text = "\n".join(story({**runs, **trained}, DEMOS["classification"].real))
    assert "480 clouds of 2 classes" in text and "30 parameters (3.0 %)" in text
    assert "ImageNet beat frozen random ones: 60.0 % against 30.0 %. That is what Xu" in text
    assert (
        "With all 1,000 parameters trained, ImageNet's weights beat fresh ones: 80.0 % against 62.0 %. So images"
        in text
    )
    assert "here 480. The 3.0 % of IO+norm cannot be told from fresh weights" in text
    assert "ImageNet 0.4, random 0.7, all 0.6, scratch 0.5. The best arm does not have the tightest classes" in text


def test_the_story_is_not_always_the_same() -> None:
    worse = {"imagenet": arm("ImageNet", 0.3, 30, 0.2), "random": arm("random", 0.6, 30, 0.1)}
    text = "\n".join(story(worse, DEMOS["classification"].real))
    assert "fall behind frozen random ones" in text and "this run does not show it" in text
    assert "The best arm has the tightest classes" in text and "fresh" not in text
    alike = {**worse, "all": arm("all", 0.61, 1000), "scratch": arm("scratch", 0.62, 1000)}
    text = "\n".join(story(alike, DEMOS["classification"].real))
    assert "cannot be told from fresh ones" in text and "this run does not show. The 3.0 %" in text
    tied = {"imagenet": arm("ImageNet", 0.6, 30, 0.0231), "random": arm("random", 0.3, 30, 0.0229)}
    text = "\n".join(story(tied, "classification"))
    assert "ImageNet 0.023, random 0.023. The best arm's classes are as tight as another's" in text
    alike = {"imagenet": arm("ImageNet", 0.31, 30), "random": arm("random", 0.30, 30)}
    text = "\n".join(story(alike, DEMOS["classification"].real))
    assert "cannot be told from" in text and "does not show it" in text and "CDNV" not in text
    scenes = {name: arm(name, score, 30, task="segmentation") for name, score in (("imagenet", 0.31), ("random", 0.3))}
    assert "score higher than frozen random ones: 31.0 %" in "\n".join(story(scenes, DEMOS["segmentation"].real))
