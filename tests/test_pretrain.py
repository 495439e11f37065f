"""Pre-training a 2D network on images: it learns, resumes, leaves weights that lift, and can be held smooth."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import image2point as i2p
from image2point import config as configuration
from image2point.config import Pretrain
from image2point.errors import InputError
from image2point.jobs.image_ingredients import (
    load_images,
    load_novel_images,
    make_image_network,
    make_image_recipe,
)
from image2point.jobs.pretrain import run_pretraining
from image2point.jobs.reuse import load_image_network
from image2point.training import loop
from image2point.training.interrupt import Interrupted
from image2point.training.job import Job, State

VALUES: dict[str, Any] = {
    "name": "tiny",
    "network": {"arch": "test_resnet"},
    "images": {"size": 24, "train_per_class": 6, "test_per_class": 3, "class_split": {"novel": 20, "seed": 1}},
    "training": {"epochs": 8, "batch_size": 8, "optimizer": "adamw", "lr": 0.003, "accelerator": "cpu", "threads": 1},
    "collapse": {"every": 4, "splits": ["train"]},
}


def tiny(*overrides: str) -> Pretrain:
    return configuration.from_values_as(Pretrain, VALUES, overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_pretraining(tiny(), tmp_path_factory.mktemp("pretrain")).path


def test_a_run_learns_and_leaves_what_it_should(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images"]["train"] == 24 and len(summary["images"]["classes"]) == 4
    assert summary["collapse"]["train"].keys() >= {"nc1", "cdnv", "nc3", "ncc_accuracy"}
    with open(run / "metrics.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1]["train_loss"]) < 0.85 * float(rows[1]["train_loss"])
    assert float(rows[4]["collapse_train/cdnv"]) > 0
    assert configuration.load_run_config(run / "config.yaml") == tiny()
    net = load_image_network(run)
    splits = load_images(tiny().images)
    recipe = make_image_recipe(tiny(), net)
    images = recipe.join([recipe.prepare(splits.test[i], "x") for i in range(len(splits.test))])
    with torch.no_grad():
        hits = (net(images).argmax(1).numpy() == splits.test.labels).mean()
    assert hits == pytest.approx(summary["final"]["test_accuracy"])


def test_the_weights_lift(run: Path) -> None:
    net = i2p.lift("test_resnet", weights=f"file:{run / 'weights.safetensors'}", num_classes=5)
    kernel = dict(net.named_parameters())["layer2.0.conv1.weight"]
    image = dict(load_image_network(run).network.named_parameters())["layer2.0.conv1.weight"]
    assert torch.equal(kernel[..., 1], image)


def test_an_interrupted_run_resumes_to_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = loop.pause, []

    def pause(job: Job, state: State, stop: bool) -> None:
        calls.append(state.epoch)
        original(job, state, stop or len(calls) == 7)

    monkeypatch.setattr(loop, "pause", pause)
    with pytest.raises(Interrupted, match=r"image2point pretrain .*config\.yaml"):
        run_pretraining(tiny(), tmp_path)
    monkeypatch.setattr(loop, "pause", original)
    again = run_pretraining(tiny(), tmp_path, resume=True).path
    ours, theirs = (load_image_network(path).state_dict() for path in (again, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_complexity_penalty_makes_features_smoother(tmp_path: Path) -> None:
    from image2point.collapse import geometric_complexity

    def complexity(weight: float) -> float:
        config = tiny(f"training.complexity_penalty={weight}", f"name=p{weight}", "collapse.every=0")
        net = load_image_network(run_pretraining(config, tmp_path).path)
        recipe, images = make_image_recipe(config, net), load_images(config.images).test
        batch = recipe.join([recipe.prepare(images[i], "x") for i in range(len(images))])
        return float(geometric_complexity(lambda x: net.embed(x)[0], batch, probes=8))

    free = complexity(0)
    assert complexity(0.3) < 0.7 * free
    with pytest.raises(InputError, match="needs one process"):
        tiny("training.complexity_penalty=1", "training.devices=2")


def test_novel_images_are_the_others() -> None:
    novel, base = load_novel_images(tiny().images), load_images(tiny().images)
    assert len(novel.classes) == 20 and not set(novel.classes) & set(base.train.classes)
    assert len(novel) == 20 * 9
    with pytest.raises(InputError, match="there are no novel classes"):
        load_novel_images(tiny("images.class_split.novel=0").images)


def test_bad_configs_are_explained() -> None:
    with pytest.raises(InputError, match=r"unknown key images\.sizes .*did you mean size\?"):
        tiny("images.sizes=3")
    with pytest.raises(InputError, match=r"timm .* has no architecture 'resnet9000'"):
        make_image_network(tiny("network.arch=resnet9000"), 4)


def test_the_same_seed_draws_the_same_network() -> None:
    first, second = (make_image_network(tiny(), 4).state_dict() for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
