"""A damaged or unfinished run directory is refused by name; a whole one is read as it is."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_writer import PARAMETERS, edit, write_run

from image2point import report
from image2point.errors import InputError
from image2point.report.read import read_run, read_runs


def test_what_is_read_is_what_was_written(run: Path) -> None:
    record = read_run(run)
    with (run / "metrics.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for column, values in record.metrics.items():
        expected = [float(row[column]) if row[column] else math.nan for row in rows]
        np.testing.assert_array_equal(values, expected)
    assert (
        record.summary.final["test_accuracy"]
        == json.loads((run / "summary.json").read_text())["final"]["test_accuracy"]
    )
    body = sum(math.prod(shape) for _, shape, role, origin in PARAMETERS if (role, origin) == ("body", "inflated"))
    assert record.origins["body", "inflated"] == body
    assert sum(record.origins.values()) == record.summary.parameters.total
    assert record.settings["finetune.policy"] == "io+norm"
    assert record.summary.network.stem == "paper"  # as lifted, not `auto` as asked for


def test_rows_out_of_order_are_sorted_by_epoch(run: Path) -> None:
    before = read_run(run).metrics
    head, *lines = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    after = read_run(run).metrics
    for column, values in before.items():
        np.testing.assert_array_equal(after[column], values)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "summary.json", "lifting.json", "examples.npz"])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(InputError, match=name):
        report.build([run], run / "report.html")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json", "lifting.json", "examples.npz"])
def test_a_truncated_file_is_named(run: Path, name: str) -> None:
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=name):
        read_run(run)


def _status(run: Path) -> None:
    edit(run / "summary.json", status="running")


def _share(run: Path) -> None:
    edit(run / "summary.json", final__test_accuracy=74.1)


def _class(run: Path) -> None:
    edit(run / "summary.json", final__per_class={"unicorn": 1.0})


def _total(run: Path) -> None:
    edit(run / "summary.json", parameters__total=12)


def _role(run: Path) -> None:
    edit(run / "lifting.json", parameters=[{"name": "a", "shape": [2], "role": "stem", "origin": "fresh"}])


def _shape(run: Path) -> None:
    edit(run / "lifting.json", parameters=[{"name": "a", "role": "body", "origin": "fresh"}])


def _word(run: Path) -> None:
    path = run / "metrics.csv"
    path.write_text(path.read_text().replace("\n2,", "\ntwo,"))


def _epoch(run: Path) -> None:
    path = run / "metrics.csv"
    path.write_text(path.read_text().replace("\n2,", "\n1,"))


def _header(run: Path) -> None:
    path = run / "metrics.csv"
    path.write_text(path.read_text().splitlines()[0])


def _examples(run: Path, points: np.ndarray, labels: list[int]) -> None:
    np.savez(run / "examples.npz", points=points, labels=labels, predictions=labels)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_status, r"summary\.json: expected status 'finished', found 'running'"),
        (_share, r"summary\.json: field final\.test_accuracy.*74\.1"),
        (_class, r"summary\.json: final\.per_class names \['unicorn'\]"),
        (_total, r"lifting\.json lists [\d,]+ parameters but summary\.json counts 12"),
        (_role, r"lifting\.json: parameters\[0\] has role 'stem'"),
        (_shape, r"lifting\.json: parameters\[0\] needs role, origin, shape"),
        (_word, r"metrics\.csv line 4, column epoch: expected a number, found 'two'"),
        (_epoch, r"metrics\.csv: expected each epoch once"),
        (_header, r"metrics\.csv holds no epoch"),
        (lambda run: _examples(run, np.zeros((2, 5, 2)), [0, 1]), r"examples\.npz: expected points \[n, P, 3\]"),
        (lambda run: _examples(run, np.zeros((2, 5, 3)), [0, 99]), r"examples\.npz: labels must lie in 0…23"),
        (lambda run: _examples(run, np.full((1, 5, 3), np.nan), [0]), r"examples\.npz: points hold NaN"),
    ],
)
def test_damage_is_named(run: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(run)
    with pytest.raises(InputError, match=told):
        read_run(run)


def test_no_run_a_missing_run_and_one_run_twice(run: Path) -> None:
    with pytest.raises(InputError, match="at least one run"):
        read_runs([])
    with pytest.raises(InputError, match="nowhere"):
        read_runs([run, run.parent / "nowhere"])
    with pytest.raises(InputError, match="given twice"):
        read_runs([run, run.parent / ".." / run.parent.name / run.name])


def test_a_run_may_measure_little(tmp_path: Path) -> None:
    """No collapse, no examples, no train accuracy, no epoch of training: still a report."""
    run = write_run(tmp_path / "run", policy="none", epochs=0, every=0, points=np.zeros((0, 8, 3)))
    edit(run / "summary.json", collapse={}, final__train_accuracy=None)
    lines = [line.split(",")[:8] for line in (run / "metrics.csv").read_text().splitlines()]
    (run / "metrics.csv").write_text("\n".join(map(",".join, lines)))
    page = report.build([run], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "These runs did not measure collapse." in page
    assert "<h2>Clouds</h2>" not in page
