"""What a run tells of its classes: confusion.csv, its page, and what `evaluate` prints, from the same answers."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_old_runs import call
from tiny_runs import load_splits, run_transfer, separable

import image2point as i2p
from image2point.config import load_config
from image2point.datasets.class_split import OfClasses
from image2point.datasets.splits import Origins, StoredClouds, Subset, short_names
from image2point.errors import InputError
from image2point.jobs import transfer
from image2point.report.read import read_run
from image2point.runs import Run
from image2point.tasks.confusion import Confusion
from image2point.tasks.confusion_file import confusion_csv, read_confusion
from image2point.tasks.predictions import HEAD, CloudAnswer, predictions_csv, read_predictions

CLASSES = ("east", "north", "top")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("told")
    return run_transfer(separable(folder / "clouds", "training.epochs=2", "report.html=true"), folder)


@pytest.fixture(scope="module")
def said(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """True classes [n] and probabilities [n, C] of the test clouds, each asked by itself."""
    test, net = load_splits(load_config(run.config).data).test, i2p.load(run.path)
    with torch.no_grad():
        logits = torch.cat([net(i2p.voxelize([test[i].points], 0.3)) for i in range(len(test))])  # type: ignore[operator]
    return test.labels, logits.double().softmax(1).numpy()


def counted(labels: np.ndarray, predictions: np.ndarray) -> list[list[int]]:
    return [[int(((labels == a) & (predictions == b)).sum()) for b in range(3)] for a in range(3)]


def test_the_matrix_of_a_run_is_that_of_its_test_clouds(run: Run, said: tuple[np.ndarray, np.ndarray]) -> None:
    labels, shares = said
    expected = counted(labels, shares.argmax(1))
    assert sum(map(sum, expected)) == 12 and expected != np.diag([4, 4, 4]).tolist()  # it has wrong ones to tell of
    head, *rows = csv.reader(run.confusion.read_text().splitlines())
    assert head == ["true / predicted", *CLASSES] and [row[0] for row in rows] == list(CLASSES)
    assert [[int(cell) for cell in row[1:]] for row in rows] == expected


def test_every_test_cloud_has_its_line(run: Run, said: tuple[np.ndarray, np.ndarray]) -> None:
    labels, shares = said
    lines = list(csv.DictReader(run.predictions.read_text().splitlines()))
    names = [f"test/{name}/{number}.npy" for name in CLASSES for number in range(4)]
    assert [line["cloud"] for line in lines] == names and [line["number"] for line in lines] == [*map(str, range(12))]
    assert [line["true"] for line in lines] == [CLASSES[label] for label in labels]
    assert [line["predicted"] for line in lines] == [CLASSES[best] for best in shares.argmax(1)]
    for column, expected in (("probability", shares.max(1)), ("probability_of_true", shares[np.arange(12), labels])):
        np.testing.assert_allclose([float(line[column]) for line in lines], expected, rtol=1e-4)
    stored = read_predictions(run.predictions, CLASSES)
    matrix = read_confusion(run.confusion, CLASSES)
    assert matrix is not None
    assert (
        counted(*(np.array([getattr(a, k) for a in stored]) for k in ("true", "predicted"))) == matrix.counts.tolist()
    )


def test_a_part_of_the_classes_keeps_the_names_of_its_clouds() -> None:
    made = Origins.of_files([(Path("/data/a.h5"), np.arange(3))])
    whole = StoredClouds("made", CLASSES, np.zeros((3, 8, 3)), np.array([2, 0, 1]), origins=made)
    assert short_names(OfClasses(whole, ("north", "top")), "/data") == ("a.h5 row 0", "a.h5 row 2")
    assert short_names(OfClasses(StoredClouds("made", CLASSES, whole.points, whole.labels), ("east",)), "/data") == (
        "made cloud 1",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected the columns number, cloud"),
        ("HEAD\n1,a,a,b,0.5,0.2\n", "of cloud 0"),
        ("HEAD\n0,a,a,b,0.5,0.2\n1,a,a,c,0.5,0.2\n", "of cloud 1"),
        ("HEAD\n0,a,a,b,1.5,0.2\n", "of cloud 0"),
        ("HEAD\n0,a,a,b,0.5\n", "of cloud 0"),
        ("HEAD\n0,a,a,b,nan,0.1\n", "of cloud 0"),
    ],
)
def test_damaged_predictions_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text.replace("HEAD", ",".join(HEAD)))
    with pytest.raises(InputError, match=f"predictions.csv: expected .*{words}|{words}"):
        read_predictions(path, ("a", "b"))


def test_evaluate_counts_them_again(run: Run, said: tuple[np.ndarray, np.ndarray]) -> None:
    labels, shares = said
    expected = counted(labels, shares.argmax(1))
    found = json.loads(call("evaluate", run.path, "--json"))
    assert found["confusion"] == expected
    east = expected[0]
    assert found["classes"]["east"] == {"count": 4, "right": east[0], "score": east[0] / 4}
    line = next(line for line in call("evaluate", run.path).splitlines() if line.split()[:1] == ["east"])
    taken = [f"{name} {n}" for n, name in sorted(zip(east[1:], CLASSES[1:], strict=True), key=lambda x: -x[0]) if n]
    words = ["east", "4", str(east[0]), f"{25 * east[0]:.1f}", ", ".join(taken)]
    assert line.rstrip().split(maxsplit=4) == words


def test_evaluate_names_the_most_confused_pairs(run: Run, said: tuple[np.ndarray, np.ndarray]) -> None:
    labels, shares = said
    expected = np.array(counted(labels, shares.argmax(1)))
    expected[np.arange(3), np.arange(3)] = 0
    true, predicted = np.unravel_index(expected.argmax(), (3, 3))
    clouds = np.flatnonzero((labels == true) & (shares.argmax(1) == predicted))
    surest = clouds[np.argsort(-shares[clouds, predicted])].tolist()
    first = json.loads(call("evaluate", run.path, "--json"))["confused"][0]
    assert (first["true"], first["predicted"], first["count"]) == (CLASSES[true], CLASSES[predicted], expected.max())
    names = [f"test/{CLASSES[true]}/{number % 4}.npy" for number in surest]
    assert first["clouds"] == names
    words = [CLASSES[true], CLASSES[predicted], str(expected.max()), ", ".join(names[:3])]
    assert words in [
        line.rstrip().split(maxsplit=3) for line in map(str.strip, call("evaluate", run.path).splitlines())
    ]


def test_the_page_has_the_matrix_and_the_counts(run: Run) -> None:
    page = run.report.read_text("utf-8")
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    counts = read_confusion(run.confusion, CLASSES)
    assert counts is not None
    (panel,) = figures["confusion-0"]["data"]
    assert panel["z"] == (25 * counts.counts).tolist()
    assert panel["text"][0][0] == f"{counts.counts[0, 0]} of 4, {25 * counts.counts[0, 0]:.1f} %"
    right = counts.counts[2, 2]
    assert f'scope="row">top</th><td>4</td><td>33.3</td><td>{right}</td><td>{25 * right:.1f}</td>' in page


def test_a_choice_by_few_clouds_is_called_noisy(run: Run, tmp_path: Path) -> None:
    words = "the epoch is chosen by 6 validation clouds, whose accuracy has a standard error of up to 20 points"
    assert f"warning: {words}" in run.log.read_text()
    assert [words in line for line in run.read_summary()["warnings"]].count(True) == 1
    assert run.report.read_text("utf-8").count(words) == 1
    summary = run.read_summary()
    older = Path(shutil.copytree(run.path, tmp_path / "older"))
    del summary["warnings"]
    (older / "summary.json").write_text(json.dumps(summary))
    call("report", older)
    assert (older / "report.html").read_text("utf-8").count(words) == 1
    (older / "summary.json").write_text(json.dumps(summary | {"chosen_by": "last epoch"}))
    call("report", older)
    assert words not in (older / "report.html").read_text("utf-8")


def test_a_class_that_no_validation_cloud_has_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load_splits(separable(tmp_path / "clouds").data)
    assert splits.validation is not None and splits.validation.classes == CLASSES
    of_two = Subset(splits.validation, np.flatnonzero(np.asarray(splits.validation.labels) != 2))
    monkeypatch.setattr(transfer, "load_splits", lambda *given, **named: replace(splits, validation=of_two))
    run = run_transfer(separable(tmp_path / "clouds", "training.epochs=2"), tmp_path)
    words = "warning: nothing in the validation set is top, so that a network which never"
    assert run.log.read_text().count(words) == 1


def test_one_epoch_is_no_choice(tmp_path: Path) -> None:
    run = run_transfer(separable(tmp_path / "clouds", "training.epochs=1", "report.html=true"), tmp_path)
    assert run.read_summary()["chosen_by"] == "validation" and run.read_summary()["warnings"] == []
    assert "the epoch is chosen by 6" not in run.report.read_text("utf-8")


def test_older_runs_without_a_matrix_have_their_page(run: Run, tmp_path: Path) -> None:
    older = Path(shutil.copytree(run.path, tmp_path / "older"))
    (older / "confusion.csv").unlink()
    (older / "predictions.csv").unlink()
    assert read_run(older).confusion is None and read_run(older).answers == ()
    call("report", older)
    assert "Test accuracy by class" in (page := (older / "report.html").read_text("utf-8"))
    assert "taken for" not in page.rpartition("</style>")[2]
    assert "the same as stored" in call("evaluate", older)


def test_names_are_text_and_come_back(tmp_path: Path) -> None:
    names, counts = ('=cmd("x")', "a,b\nc"), np.array([[1, 2], [3, 4]])
    path = tmp_path / "confusion.csv"
    path.write_text(confusion_csv(Confusion(counts), names))
    assert path.read_text().count("'=cmd") == 2
    found = read_confusion(path, names)
    assert found is not None and found.counts.tolist() == counts.tolist()
    answers = (CloudAnswer("b\n,.off", 0, 1, 0.75, 0.125), CloudAnswer("x.off", 1, 1, 1.0, 1.0))
    path.write_text(predictions_csv(answers, names))
    assert read_predictions(path, names) == answers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "true / predicted,a,b\na,1,2\nb,1\n",
        "true / predicted,a,b\na,1,2\n\n",
        "true / predicted,b,a\nb,1,2\na,1,3\n",
        "true / predicted,a,b\na,1,2\nb,1,x\n",
        "true / predicted,a,b\na,1,2\nb,1,-3\n",
        f"true / predicted,a,b\na,1,2\nb,1,{10**30}\n",
    ],
)
def test_a_damaged_matrix_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "confusion.csv").write_text(text)
    with pytest.raises(InputError, match=r"confusion.csv: expected"):
        read_confusion(tmp_path / "confusion.csv", ("a", "b"))
