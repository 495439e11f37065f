"""A teacher's labels: which clouds get them, what the student learns, and that a run resumes with the same ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import interrupt_at, load_splits, run_transfer, separable, tiny

import image2point as i2p
from image2point.config import Config, Training
from image2point.datasets.splits import Subset, few_shot
from image2point.errors import InputError
from image2point.jobs import teaching
from image2point.jobs.ingredients import make_recipe
from image2point.jobs.lr_choice import clouds_to_choose_by
from image2point.report.arms import group
from image2point.report.read import read_run
from image2point.report.statement import statement
from image2point.runs import Run
from image2point.tasks.classification import Classification
from image2point.training import distributed
from image2point.training.batches import batches
from image2point.training.interrupt import Interrupted
from image2point.training.penalties import scores_and_penalty

SHOTS = ("data.shots=2", "data.validation=0", "seed=1", "data.shot_seed=1", "collapse.every=0", "training.lr=0.05")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("teacher")
    return run_transfer(separable(data, *SHOTS, "training.epochs=6", "name=teacher"), folder)


def student(data: Path, teacher: Run, *overrides: str) -> Config:
    return separable(data, *SHOTS, "seed=2", f"teacher.network={teacher.path}", "teacher.threshold=0.4", *overrides)


def taught(config: Config, run: Run) -> tuple[teaching.Taught, teaching.Lesson, np.ndarray]:
    splits, fabric = load_splits(config.data), distributed.start(config.training)
    rows = teaching.untaught(config, splits)
    opened = None if run.teacher.is_file() else teaching.open_teacher(config, splits)
    said = None if opened is None else teaching.ask(config, splits, opened, rows, fabric)
    own, lesson = teaching.teach(config, splits, said, rows, run, fabric)
    assert isinstance(own.train, teaching.Taught)
    return own.train, lesson, rows


def test_the_teacher_labels_what_no_shot_uses(data: Path, teacher: Run, tmp_path: Path) -> None:
    config = student(data, teacher)
    train, lesson, rows = taught(config, Run(tmp_path))
    whole, shots = train.whole, few_shot(train.whole.labels, 2, 1)
    assert sorted([*rows, *shots]) == list(range(len(whole)))
    np.testing.assert_array_equal(train.indices[:6], shots)
    np.testing.assert_array_equal(train.labels[:6], whole.labels[shots])
    net = i2p.load(teacher.path)
    said = net.predict([whole[int(row)].points for row in rows])
    sure = [answer.probabilities.max() >= 0.4 for answer in said]
    assert 0 < sum(sure) == lesson.taken == len(train) - 6 and lesson.clouds == len(rows) == 12
    np.testing.assert_array_equal(train.indices[6:], rows[sure])
    kept = [answer.label for answer, each in zip(said, sure, strict=True) if each]
    assert train.labels[6:].tolist() == kept
    assert lesson.right == np.mean(np.array(kept) == whole.labels[rows[sure]])
    assert train.soft is None and train.origin(0) == Subset(whole, shots).origin(0)


def test_the_labels_of_the_dataset_play_no_part(
    data: Path, teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = taught(student(data, teacher), Run(tmp_path / "a"))
    few = few_shot(first.whole.labels, 2, 1)
    usual = load_splits

    def wrong(*given: Any) -> Any:
        splits = usual(*given)
        whole = splits.train.whole
        labels = (whole.labels + 1) % 3
        labels[few] = whole.labels[few]
        whole.labels = labels
        return splits

    monkeypatch.setattr("test_teaching.load_splits", wrong)
    monkeypatch.setattr(teaching, "few_shot", lambda *_: few)
    second, lesson, _ = taught(student(data, teacher), Run(tmp_path / "b"))
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert lesson.right is not None and lesson.right < 0.5


def test_clouds_that_choose_the_rate_are_left_out(data: Path, teacher: Run) -> None:
    config = student(data, teacher, "choose.lr=[0.01,0.1]", "choose.clouds=1", "choose.epochs=1")
    splits = load_splits(config.data)

    judges: Any = clouds_to_choose_by(config, splits)
    used = judges.whole.indices[judges.indices]
    rows = teaching.untaught(config, splits)
    assert len(rows) == 9 and not set(used) & set(rows)
    assert len(teaching.untaught(student(data, teacher), splits)) == 12


def test_soft_labels_are_the_teachers_probabilities(data: Path, teacher: Run, tmp_path: Path) -> None:
    config = student(data, teacher, "teacher.soft=true", "teacher.threshold=0")
    train, _, rows = taught(config, Run(tmp_path))
    assert train.soft is not None and len(train) == 18
    np.testing.assert_array_equal(train.soft[:6], np.eye(3, dtype=np.float32)[train.labels[:6]])
    said = i2p.load(teacher.path).predict([train.whole[int(row)].points for row in rows])
    np.testing.assert_allclose(train.soft[6:], [each.probabilities for each in said], atol=1e-5)
    task = Classification()

    (batch,) = batches(train, [np.array([0, 7, 12])], make_recipe(config).still, targets=task.targets)
    np.testing.assert_array_equal(batch.targets, train.soft[[0, 7, 12]])
    logits = torch.randn(3, 3, dtype=torch.float64)
    expected = -(batch.targets.double() * logits.log_softmax(1)).sum()
    assert float(task.loss(logits, batch.targets)) == pytest.approx(float(expected))
    assert int(task.hits(batch.targets, batch.targets)) == task.count(batch.targets) == 3


def test_a_teacher_of_the_same_dataset_meets_clouds_in_the_size_of_its_training(tmp_path: Path) -> None:
    """Synthetic shapes do not quite fill the unit sphere into which `predict` scales a stranger's clouds."""
    run = run_transfer(tiny("training.epochs=1", "data.validation=0"), tmp_path)
    config = tiny("data.shots=2", f"teacher.network={run.path}", "teacher.threshold=0", "data.validation=0")
    splits = load_splits(config.data)
    teacher, rows = teaching.open_teacher(config, splits), teaching.untaught(config, splits)
    assert teacher is not None
    train: Any = splits.train
    said = teaching.ask(config, splits, teacher, rows, distributed.start(config.training))
    as_trained = i2p.load(run.path)
    as_trained.use(normalise=False)
    told = as_trained.predict([train.whole[int(row)].points for row in rows])
    np.testing.assert_allclose(said, [each.probabilities for each in told], atol=1e-5)


def test_penalties_take_the_most_probable_class() -> None:
    net = i2p.lift("test_resnet", weights="random", num_classes=3).eval()
    voxels = i2p.voxelize([torch.rand(50, 3) for _ in range(4)], 0.2)
    soft = torch.tensor([[0.6, 0.4, 0], [0.7, 0.1, 0.2], [0, 0, 1.0], [0.1, 0.2, 0.7]])
    asked = Training(collapse_penalty=0.5)
    _, from_soft = scores_and_penalty(net, voxels, soft, asked)
    _, from_hard = scores_and_penalty(net, voxels, soft.argmax(1), asked)
    assert from_soft.item() == from_hard.item() > 0


@pytest.mark.parametrize("soft", [False, True])
def test_a_student_learns_says_so_and_resumes_to_the_same_bytes(
    data: Path, teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soft: bool
) -> None:
    settings = (f"teacher.soft={str(soft).lower()}", "choose.lr=[0.02,0.05]", "choose.clouds=1", "choose.epochs=1")
    moved = tmp_path / "moved"
    shutil.copytree(teacher.path, moved)
    config = student(data, teacher, *settings, f"teacher.network={moved}")
    whole = run_transfer(config, tmp_path / "whole")
    summary = whole.read_summary()
    found = summary["teacher"]
    assert found["clouds"] == 9 and 0 < found["taken"] <= 9 and summary["data"]["train_clouds"] == 6
    assert f"of 9 training clouds that no shot uses, it labels {found['taken']}" in whole.log.read_text()
    with monkeypatch.context() as patch:
        interrupt_at(patch, "step 9")
        with pytest.raises(Interrupted):
            run_transfer(config, tmp_path / "parts")
    shutil.rmtree(moved)  # what the teacher said is in the run
    parts = run_transfer(config, tmp_path / "parts", resume=True)
    assert parts.weights.read_bytes() == whole.weights.read_bytes()
    alone = run_transfer(separable(data, *SHOTS, "seed=2", "name=alone"), tmp_path)
    assert alone.read_summary()["teacher"] is None and alone.weights.read_bytes() != whole.weights.read_bytes()
    words = statement(group([read_run(whole.path)]))
    assert f"it learnt from {found['taken']} more training clouds too, of 9 that a teacher" in words


def test_a_teacher_that_does_not_fit_is_refused(data: Path, teacher: Run, tmp_path: Path) -> None:
    splits = load_splits(student(data, teacher).data)
    net = i2p.lift("test_resnet", weights="random", num_classes=3)
    net.save(tmp_path / "unknown")
    config = student(data, teacher, f"teacher.network={tmp_path / 'unknown'}")
    with pytest.raises(InputError, match="does not say how clouds become its input"):
        teaching.open_teacher(config, splits)
    net.use(voxel_size=0.3, classes=("a", "b", "c"))
    net.save(tmp_path / "others")
    with pytest.raises(InputError, match="knows the classes a, b, c, and the run has east, north, top"):
        teaching.open_teacher(student(data, teacher, f"teacher.network={tmp_path / 'others'}"), splits)
    with pytest.raises(InputError, match="no such folder"):
        teaching.open_teacher(student(data, teacher, "teacher.network=nowhere"), splits)
    with pytest.raises(InputError, match="above every probability; the highest is"):
        taught(student(data, teacher, "teacher.threshold=1"), Run(tmp_path))
    with pytest.raises(InputError, match=r"set data\.shots"):
        separable(data, "teacher.network=x")
    with pytest.raises(InputError, match="leave none of the 18"):
        teaching.untaught(
            student(data, teacher, "data.shots=6"), load_splits(student(data, teacher, "data.shots=6").data)
        )


def test_a_teacher_is_given_what_it_was_trained_on(data: Path, tmp_path: Path) -> None:
    """Each cloud in the unit sphere, though the student's clouds are not."""
    net = i2p.lift("test_resnet", weights="random", num_classes=3)
    net.use(voxel_size=0.3, classes=("east", "north", "top"), normalise=True)
    net.save(tmp_path / "net")
    config = student(data, Run(tmp_path / "net"), "teacher.soft=true", "teacher.threshold=0")
    train, _, rows = taught(config, Run(tmp_path))
    said = net.eval().predict([train.whole[int(row)].points for row in rows])
    assert train.soft is not None
    np.testing.assert_allclose(train.soft[6:], [each.probabilities for each in said], atol=1e-6)


def test_segmenters_teach_no_clouds(data: Path, teacher: Run, tmp_path: Path) -> None:
    net = i2p.segmenter("test_resnet", weights="random", num_classes=3)
    net.use(voxel_size=0.3, classes=("east", "north", "top"))
    net.save(tmp_path / "points")
    config = student(data, Run(tmp_path / "points"))
    with pytest.raises(InputError, match="has a class for each point"):
        teaching.open_teacher(config, load_splits(config.data))


def test_a_run_begun_again_asks_the_teacher_again(
    data: Path, teacher: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = student(data, teacher, "name=again", "training.epochs=1")
    first = run_transfer(config, tmp_path).weights.read_bytes()
    assert run_transfer(config, tmp_path, overwrite=True).weights.read_bytes() == first
    unsure = student(data, teacher, "name=again", "training.epochs=1", "teacher.threshold=1")
    with pytest.raises(InputError, match="above every probability"):
        run_transfer(unsure, tmp_path, overwrite=True)
    run = Run(tmp_path / "again")
    assert run.weights.read_bytes() == first  # nothing was replaced
    run.summary.unlink()  # as a run is that was killed before its first checkpoint
    shutil.rmtree(run.checkpoint, ignore_errors=True)
    assert run_transfer(config, tmp_path, resume=True).weights.read_bytes() == first


def test_a_damaged_record_is_named(data: Path, teacher: Run, tmp_path: Path) -> None:
    run, config = Run(tmp_path), student(data, teacher)
    taught(config, run)

    np.savez(run.teacher, rows=np.arange(3), probabilities=np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match="it is damaged: start again with --overwrite"):
        taught(config, run)
