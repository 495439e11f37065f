"""Runs of the task segmentation: they learn, are scored at the points, stop and go on, and refuse what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rooms import CLASSES, Rooms, furnish, segmenting
from tiny_runs import interrupt_at, rows, run_transfer, tiny

import image2point as i2p
from image2point.config import Config
from image2point.datasets import Cloud, Splits
from image2point.datasets.recipe import prepare, to_voxels_and_rows
from image2point.datasets.synthetic import SyntheticShapes
from image2point.errors import InputError
from image2point.experiments.evaluate import evaluate_run
from image2point.experiments.point_votes import PointVotes
from image2point.experiments.robustness import Asked
from image2point.jobs.ingredients import make_recipe
from image2point.runs import Run
from image2point.tasks.confusion import Confusion
from image2point.tasks.point_labels import PointTargets
from image2point.tasks.segmentation import Segmentation
from image2point.training.batches import batches, in_order
from image2point.training.interrupt import Interrupted


@pytest.fixture(scope="module")
def splits() -> Iterator[Splits]:
    with pytest.MonkeyPatch.context() as patch:
        yield furnish(patch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def learning(*overrides: str) -> Config:
    return segmenting("name=learning", "training.epochs=8", "training.lr=0.1", "collapse.every=4", "report.html=true",
                      *overrides)  # fmt: skip


@pytest.fixture(scope="module")
def run(folder: Path, splits: Splits) -> Run:
    return run_transfer(learning(), folder)


def said(run: Run, scene: Cloud) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a scene's points [P, C], and the row of each point's voxel, straight from the network."""
    features = np.c_[scene.points, scene.points[:, 2] - scene.points[:, 2].min()]
    voxels, index = i2p.voxelize([scene.points], 0.15, [features], return_index=True)
    with torch.no_grad():
        logits = i2p.load(run.path)(voxels).features  # type: ignore[union-attr]
    return logits.double().softmax(1).numpy()[index[0].numpy()], index[0].numpy()


def test_it_learns(run: Run) -> None:
    final = run.read_summary()["final"]
    assert final["test_miou"] > 0.6 and final["voxels"]["miou"] > 0.6  # chance, all floor: 0.16
    losses = [float(row["train_loss"]) for row in rows(run.path)[1:]]
    assert losses[-1] < losses[0] / 2
    assert run.report.is_file()


def test_scores_are_those_of_the_points(run: Run, splits: Splits) -> None:
    """The network asked scene by scene; every point counted by hand."""
    counts, losses, right, voxel_counts = np.zeros((3, 3), int), [], 0, np.zeros((3, 3), int)
    for number in range(len(splits.test)):
        scene = splits.test[number]
        shares, index = said(run, scene)
        for share, label in zip(shares, scene.labels, strict=True):
            if label >= 0:
                counts[label, share.argmax()] += 1
                losses.append(-np.log(share[label]))
                right += share.argmax() == label
        for voxel in np.unique(index):
            votes = np.bincount([v for v in scene.labels[index == voxel] if v >= 0], minlength=3)
            if votes.any():
                voxel_counts[votes.argmax(), shares[index == voxel][0].argmax()] += 1
    final = run.read_summary()["final"]
    assert final["points"]["confusion"] == counts.tolist() and final["voxels"]["confusion"] == voxel_counts.tolist()
    iou = [counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c]) for c in range(3)]
    assert final["per_class"] == pytest.approx(dict(zip(CLASSES, iou, strict=True)))
    assert final["test_miou"] == pytest.approx(np.mean(iou))
    assert final["test_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert final["test_accuracy"] == pytest.approx(right / len(losses))
    assert final["points"]["scored"] == len(losses) and final["points"]["ignored"] == 4 * 310 - len(losses)


def test_the_epoch_is_chosen_by_miou_on_validation(run: Run) -> None:
    table, summary = rows(run.path), run.read_summary()
    scores = [(float(row["validation_miou"]), -float(row["validation_loss"])) for row in table[1:]]
    assert summary["chosen_epoch"] == 1 + scores.index(max(scores))
    assert summary["final"]["validation_miou"] == max(scores)[0]
    measured = {row["epoch"] for row in table if row["collapse_train/nc1"]}
    assert measured == {"0", "4", "8", str(summary["chosen_epoch"])}


def test_evaluate_finds_the_stored_scores(run: Run) -> None:
    found = evaluate_run(run.path)
    assert found.agrees and found.now["points"] == run.read_summary()["final"]["points"]


def test_votes_are_means_over_views_of_the_points(run: Run, splits: Splits) -> None:
    """Two views: the scene as it is, and as the first epoch of another seed would show it."""
    found = evaluate_run(run.path, asked=Asked(votes=2, seed=5))
    recipe = replace(make_recipe(learning()), seed=5)
    network, expected = i2p.load(run.path), Confusion(np.zeros((3, 3), dtype=np.int64))
    for number in range(len(splits.test)):
        scene, shares = splits.test[number], 0.0
        for epoch in (None, 1):
            voxels, (rows,) = to_voxels_and_rows([prepare(scene, "x", recipe, epoch, number)], recipe)
            with torch.no_grad():
                shares = shares + network(voxels).features.double().softmax(1)[rows]  # type: ignore[union-attr,assignment]
        expected += Confusion.of(scene.labels, shares.argmax(1).numpy(), 3)  # type: ignore[attr-defined]
    assert isinstance(found.robustness, PointVotes) and (found.robustness.points.counts == expected.counts).all()
    assert found.agrees and "with 2 views of every scene" in found.lines[-1]
    with pytest.raises(InputError, match="scenes can be voted on"):
        evaluate_run(run.path, asked=Asked(rotations=1))


def test_examples_are_points_with_their_own_predictions(run: Run, splits: Splits) -> None:
    stored = np.load(run.examples)
    start = 0
    for number, end in zip(stored["scene"].tolist(), stored["ends"].tolist(), strict=True):
        scene = splits.test[number]
        assert (stored["points"][start:end] == scene.points).all() and (
            stored["labels"][start:end] == scene.labels
        ).all()
        assert (stored["predictions"][start:end] == said(run, scene)[0].argmax(1)).all()
        start = end
    assert start == 3 * 310


@pytest.mark.parametrize("place", ["step 1", "step 5", "scoring"])
def test_stopped_and_resumed(
    tmp_path: Path, folder: Path, run: Run, splits: Splits, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, place)
        run_transfer(learning(), tmp_path)
    again = run_transfer(learning(), tmp_path, resume=True)
    for name in ("weights", "metrics", "examples"):
        if name == "metrics":
            assert rows(again.path) == rows(run.path)
        else:
            assert getattr(again, name).read_bytes() == getattr(run, name).read_bytes(), name
    assert again.read_summary()["final"] == run.read_summary()["final"]


def test_crops_mixing_weights_and_every_loss(tmp_path: Path, splits: Splits) -> None:
    """Everything at once, stopped nowhere: finite, and the same whatever the number of workers."""
    settings = ("training.epochs=2", "data.crop={size: 2.0, voxels: 60, per_scene: 3}", "training.lovasz=0.5",
                "data.augmentation={mix: 0.5, elastic: [[0.5, 0.1]], flip: 0.5}", "training.class_weights=inverse_sqrt",
                "training.loss_at=points", "training.label_smoothing=0.1", "collapse.every=0")  # fmt: skip
    one = run_transfer(segmenting("name=one", *settings), tmp_path)
    two = run_transfer(segmenting("name=two", "training.workers=2", *settings), tmp_path)
    assert rows(one.path) == rows(two.path)
    assert [row["step"] for row in rows(one.path)] == ["0", "6", "12"]  # 6 scenes, 3 crops of each, 3 to a batch


def test_the_learning_rate_is_chosen_by_miou_on_validation(tmp_path: Path, splits: Splits) -> None:
    settings = ("choose={lr: [0.0001, 0.1], epochs: [2]}", "training.epochs=2", "collapse.every=0")
    chosen = run_transfer(segmenting(*settings), tmp_path).read_summary()
    scores = {trial["lr"]: trial["scores"]["validation_miou"] for trial in chosen["trials"]}
    assert chosen["chosen_lr"] == 0.1 and scores[0.1] > scores[0.0001]


def test_small_tiles_change_little(run: Run, splits: Splits) -> None:
    tiled = evaluate_run(run.path, ("data.tiles.voxels=250", "data.tiles.overlap=8"))
    whole = run.read_summary()["final"]
    assert tiled.now["points"]["scored"] == whole["points"]["scored"]
    assert tiled.now["test_miou"] == pytest.approx(whole["test_miou"], abs=0.1)
    assert tiled.now["test_loss"] != whole["test_loss"]
    with pytest.raises(InputError, match=r"data.tiles.voxels = 20 is too few for one tile"):
        evaluate_run(run.path, ("data.tiles.voxels=20",))


def test_two_processes_have_one_confusion_matrix(run: Run, splits: Splits) -> None:
    network, config = i2p.load(run.path), learning()
    task, recipe = Segmentation().for_scoring(config, splits.test), make_recipe(config)

    def answers(plan: list[np.ndarray]) -> list[Any]:
        with torch.no_grad():
            return [task.answer(network, b) for b in batches(splits.test, plan, recipe, targets=task.targets)]

    shares = [answers(in_order(4, 3, rank, 2)) for rank in range(2)]
    one = task.join(network, answers(in_order(4, 3)), splits.test, lambda value: [value], 0)
    sent: list[Any] = []
    for share in shares:
        task.join(network, share, splits.test, lambda value: [sent.append(value)] and [value], 0)  # type: ignore[func-returns-value]
    two = [task.join(network, share, splits.test, lambda _: sent, rank) for rank, share in enumerate(shares)]
    for other in two:
        assert (other.points.counts == one.points.counts).all() and (other.voxels.counts == one.voxels.counts).all()
        assert other.loss == pytest.approx(one.loss) and other.labels.tolist() == one.labels.tolist()
        assert all((a == b).all() for a, b in zip(other.shown, one.shown, strict=True))
    torch.testing.assert_close(torch.cat([other.features for other in two]), one.features)
    assert two[0].own_labels.tolist() + two[1].own_labels.tolist() == one.labels.tolist()


def test_parts_are_predicted_among_those_of_the_category(run: Run, splits: Splits) -> None:
    """Category 0 has floor and wall, category 1 the ball alone: where that is known, every ball is right."""
    network, config = i2p.load(run.path), learning()
    task = replace(Segmentation().for_scoring(config, splits.test), parts=((0, 1), (2,)))
    scene = splits.test[0]
    assert scene.labels is not None

    class Balls(Rooms):
        def __getitem__(self, index: int) -> Cloud:
            return splits.test[0].take(np.flatnonzero(scene.labels == (2 if index else 0)))  # type: ignore[arg-type]

    shapes = Balls("parts", 2, 0)
    shapes.labels = np.array([0, 1])
    recipe = make_recipe(config)
    with torch.no_grad():
        answers = [task.answer(network, b) for b in batches(shapes, in_order(2, 2), recipe, targets=task.targets)]
    seen = task.scores(task.join(network, answers, shapes, lambda value: [value], 0))
    assert seen.points.counts[:2, 2].sum() == 0 and seen.points.recall[2] == 1
    of_floor = seen.points.recall[0]
    assert of_floor is not None and seen.instance_miou == pytest.approx((of_floor / 2 + (of_floor == 1) / 2 + 1) / 2)


class Bad(Rooms):
    """Rooms whose labels are changed on the way out."""

    def __init__(self, change: Any) -> None:
        super().__init__("bad", 4, 0)
        self.change = change

    def __getitem__(self, index: int) -> Cloud:
        scene = super().__getitem__(index)
        return replace(scene, labels=self.change(scene.labels, index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels, i: None, r"rooms/bad cloud 0: task segmentation needs a label for every point"),
        (lambda labels, i: labels[:-1], r"309"),
        (lambda labels, i: np.where(labels == 2, 7, labels), r"rooms/bad cloud 0: expected labels in 0..2, .* found 7"),
        (lambda labels, i: np.where(labels == 2, -1, labels), r"no training point is labelled ball"),
        (lambda labels, i: np.full_like(labels, -1), r"no training point is labelled floor, wall, ball"),
    ],
)
def test_bad_labels_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str) -> None:
    furnish(monkeypatch, train=Bad(change))
    with pytest.raises(InputError, match=message):
        run_transfer(segmenting(), tmp_path)
    assert not (tmp_path / "tiny").exists()


def test_a_test_set_of_ignored_points_cannot_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(monkeypatch, test=Bad(lambda labels, i: np.full_like(labels, -1)))
    with pytest.raises(InputError, match=r"rooms/bad: all 1240 points are ignored"):
        run_transfer(segmenting("training.epochs=1"), tmp_path)


def test_scenes_of_one_point_are_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Points(Rooms):
        def __getitem__(self, index: int) -> Cloud:
            return super().__getitem__(index).take(np.array([index]))

    furnish(monkeypatch, test=Points("points", 4, 3))
    run = run_transfer(segmenting("training.epochs=1"), tmp_path)
    assert sum(run.read_summary()["final"]["points"]["count"].values()) <= 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.points=100", "data.points would leave points without a score"),
        ("data.shots=3", "data.shots counts clouds of a class"),
        ("finetune.policy=scl:layer1", "adds a skip to the features of a cloud"),
        ("collapse.layers=[blocks]", "collapse.layers measures a row for each cloud"),
    ],
)
def test_settings_that_do_not_go_with_the_task(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmenting(setting)


def test_classes_of_points_and_of_clouds_are_not_mistaken(tmp_path: Path, splits: Splits) -> None:
    with pytest.raises(InputError, match=r"rooms/train has a class for every point, .* task=segmentation"):
        run_transfer(tiny(), tmp_path)


def test_clouds_of_one_class_cannot_be_segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = SyntheticShapes("train", 2, 64)
    furnish(monkeypatch, train=shapes, test=shapes)
    with pytest.raises(InputError, match=r"has a class for every cloud, not for its points"):
        run_transfer(segmenting(), tmp_path)


def test_settings_of_the_task_are_refused_elsewhere() -> None:
    for setting in ("data.crop={size: 1.0}", "training.lovasz=1", "data.augmentation.mix=0.1"):
        with pytest.raises(InputError, match=r"is a setting of the task segmentation; set task=segmentation"):
            segmenting("task=classification", setting)


def test_tiles_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path, splits: Splits) -> None:
    with pytest.raises(InputError, match=r"data.tiles.voxels = 20 is too few for one tile"):
        run_transfer(segmenting("data.tiles.voxels=20"), tmp_path)
    assert not (tmp_path / "tiny").exists()


def test_confusions_add() -> None:
    one = Confusion.of(np.array([0]), np.array([1]), 2)
    assert (one + one).counts[0, 1] == 2


def test_the_loss_at_points_is_that_of_each_points_own_voxel() -> None:
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, -5.0]], dtype=torch.float64)
    targets = PointTargets(
        torch.tensor([0, 1, -1, 1]), torch.tensor([0, 1, 1, 2]), torch.zeros(3, dtype=torch.long), (4,), (0,)
    )
    task = Segmentation(at_points=True)
    by_hand = sum(-outputs[row].log_softmax(0)[label] for row, label in ((0, 0), (1, 1), (2, 1)))
    assert torch.isclose(task.loss(outputs, targets), by_hand) and task.count(targets) == 3
    assert int(task.hits(outputs, targets)) == 2
