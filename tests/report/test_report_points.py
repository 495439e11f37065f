"""The page of a segmentation: classes with their points, confusion, and scenes that show truth, prediction or error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from run_writer import edit, write_run

from image2point import report
from image2point.errors import InputError
from image2point.report.arms import group
from image2point.report.read import read_run, read_runs
from image2point.report.scene_figures import confusion_panels, scene_figure, shown_scenes

CLASSES = ("floor", "wall", "tree", "bridge")
CONFUSION = [[90, 10, 0, 0], [20, 60, 20, 0], [5, 0, 45, 0], [0, 0, 0, 0]]


def write_segmentation(folder: Path, arm: str = "imagenet", seed: int = 0, wrong: float = 0.25) -> Path:
    """A run with two scenes of 40 and 60 points, the first point of each ignored; no point is a bridge."""
    write_run(folder, arm, seed, epochs=3, classes=CLASSES)
    counts = np.array(CONFUSION)
    hits = np.diagonal(counts)
    union = counts.sum(0) + counts.sum(1) - hits
    iou = [float(h / u) if u else None for h, u in zip(hits, union, strict=True)]
    miou = float(np.mean([each for each in iou if each is not None]))
    final = {"test_miou": miou, "test_miou_all": miou, "test_accuracy": 0.78, "test_mean_class_accuracy": 0.8,
             "test_loss": 0.6, "train_miou": None, "per_class": dict(zip(CLASSES, iou, strict=True)),
             "points": {"confusion": CONFUSION, "ignored": 1234}}  # fmt: skip
    edit(folder / "summary.json", task="segmentation", final=final)
    rng = np.random.default_rng(0)  # the same scenes in every arm
    points, labels = rng.uniform(0, 5, (100, 3)).astype(np.float32), rng.integers(0, 3, 100)
    labels[[0, 40]] = -1
    off = np.random.default_rng(sum(arm.encode())).random(100) < wrong
    predictions = np.where(off | (labels < 0), (labels + 1) % 3, labels)
    np.savez(
        folder / "examples.npz", points=points, labels=labels.astype(np.int16),
        predictions=predictions.astype(np.int16), scene=np.array([0, 7]), ends=np.array([40, 100]),
    )  # fmt: skip
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_segmentation(tmp_path / arm, arm) for arm in ("imagenet", "random")]


def test_scenes_are_read_as_they_were_kept(runs: list[Path]) -> None:
    record = read_run(runs[0])
    assert [(scene.number, len(scene.points)) for scene in record.scenes] == [(0, 40), (7, 60)]
    stored = np.load(runs[0] / "examples.npz")
    np.testing.assert_array_equal(record.scenes[1].labels, stored["labels"][40:])
    known = stored["labels"][:40] >= 0
    right = (stored["labels"] == stored["predictions"])[:40][known]
    assert record.scenes[0].accuracy == pytest.approx(right.mean())
    assert record.confusion is not None and record.confusion.support.tolist() == [100, 100, 50, 0]


def test_a_scene_shows_truth_prediction_and_error(runs: list[Path]) -> None:
    scene = read_run(runs[0]).scenes[0]
    figure = scene_figure(scene, len(CLASSES))
    assert figure["data"][0]["marker"]["color"] == scene.labels.tolist() == figure["views"]["truth"]["color"]
    assert figure["views"]["prediction"]["color"] == scene.predictions.tolist()
    errors = np.array(figure["views"]["error"]["color"])
    assert (errors == -1).tolist() == (scene.labels < 0).tolist()
    assert ((errors == 1) == ((scene.labels >= 0) & (scene.labels != scene.predictions))).all()
    for view in figure["views"].values():  # a whole number is in the middle of its own colour
        places, colours = zip(*view["colorscale"], strict=True)
        wide = view["cmax"] - view["cmin"]
        for value in set(view["color"]):
            at = (value - view["cmin"]) / wide
            inside = [
                c for low, high, c in zip(places[::2], places[1::2], colours[::2], strict=True) if low < at < high
            ]
            assert len(inside) == 1
    assert len(figure["data"][0]["x"]) == 40


def test_confusion_is_in_per_cent_of_the_true_class(runs: list[Path]) -> None:
    first, second = confusion_panels(group(read_runs(runs)))
    assert (first.title, second.title) == ("imagenet", "random")
    assert first.figure["data"][0]["z"] == [[90, 10, 0, 0], [20, 60, 20, 0], [10, 0, 90, 0], [None] * 4]


def test_the_page_has_all_of_it(runs: list[Path], tmp_path: Path) -> None:
    page = report.build(runs, tmp_path / "report.html").read_text("utf-8")
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    rows = re.findall(r'<tr><th class="text" scope="row">([\w ]+)</th>(.*?)</tr>', text)
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows}
    assert cells["floor"] == ["100", "40.0", "90", "72.0", "90", "72.0"]
    assert cells["bridge"] == ["0", "0.0", "0", "undefined", "0", "undefined"]
    assert cells["all"][:3] == ["250", "", "195"]
    assert "1,234 more points are ignored" in text and "In neither truth nor prediction: bridge." in text
    assert re.findall(r'data-view="(\w+)"', text) == ["truth", "prediction", "error"]
    assert re.findall(r'data-scene="(\d)"', text) == ["0", "0", "1", "1"]
    assert "test scenes" in text and "test clouds" not in text
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert {"scene-0-0", "scene-0-1", "scene-1-0", "scene-1-1", "confusion-0", "confusion-1"} < set(figures)


def test_many_arms_draw_fewer_scenes_and_other_draws_are_left_out(tmp_path: Path) -> None:
    folders = [write_segmentation(tmp_path / f"arm{number}", f"arm{number}") for number in range(7)]
    stored = dict(np.load(folders[2] / "examples.npz"))
    np.savez(folders[2] / "examples.npz", **{**stored, "points": stored["points"] + 1})
    shown = shown_scenes(group(read_runs(folders)))
    assert len(shown) == 1 and [scene is None for scene in shown[0]] == [number == 2 for number in range(7)]


def test_few_scenes_make_the_choice_noisy_however_many_points(runs: list[Path], tmp_path: Path) -> None:
    for held_out, told in ((4, True), (10, False)):
        edit(runs[0] / "summary.json", chosen_by="validation", data__validation_clouds=held_out)
        page = report.build(runs[:1], tmp_path / "report.html").read_text("utf-8")
        assert (f"chosen by {held_out} validation scenes; the points of one are alike" in page) is told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ends": np.array([40, 90])}, "ends up to n"),
        ({"labels": np.full(100, 4, np.int16)}, "must lie in 0…3"),
        ({"predictions": np.full(100, -1, np.int16)}, "must lie in 0…3"),
        ({"points": np.full((100, 3), np.nan, np.float32)}, "NaN"),
        ({"scene": np.array([0])}, "expected points"),
    ],
)
def test_damaged_scenes_are_named(runs: list[Path], changes: dict[str, np.ndarray], words: str) -> None:
    stored = dict(np.load(runs[0] / "examples.npz"))
    np.savez(runs[0] / "examples.npz", **{**stored, **changes})
    with pytest.raises(InputError, match=rf"examples.npz: .*{words}"):
        read_run(runs[0])


def test_damaged_counts_are_named(runs: list[Path]) -> None:
    edit(runs[0] / "summary.json", final__points={"confusion": [[1, 2]], "ignored": 0})
    with pytest.raises(InputError, match=r"final.points.confusion: expected 4 × 4 counts"):
        read_run(runs[0])
    edit(runs[0] / "summary.json", final__points={"ignored": 0})
    with pytest.raises(InputError, match=r"final.points: expected a confusion matrix"):
        read_run(runs[0])
