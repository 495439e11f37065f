"""The numbers in rows, in the terminal and in Markdown."""

from __future__ import annotations

import io
import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from rich.console import Console
from run_writer import edit, write_run

from image2point import report
from image2point.collapse.intervals import Interval
from image2point.collapse.layers import LayerMeasures
from image2point.report.arms import Spread, group
from image2point.report.numbers import duration, number, percent, share
from image2point.report.page_tables import collapse_table
from image2point.report.plain import Table
from image2point.report.read import read_runs
from image2point.report.terminal import print_measured


def _stored(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def test_rows_hold_the_numbers_of_the_runs(runs: list[Path]) -> None:
    imagenet, scratch = report.rows(runs)
    stored = [_stored(run) for run in runs[:3]]
    accuracy = [each["final"]["test_accuracy"] for each in stored]
    assert imagenet.scores["test_accuracy"] is not None
    assert imagenet.scores["test_accuracy"].mean == pytest.approx(statistics.mean(accuracy), rel=1e-12)
    assert imagenet.scores["test_accuracy"].sd == pytest.approx(statistics.stdev(accuracy), rel=1e-9)
    nc1 = imagenet.nc1["test"]
    assert nc1 is not None
    assert nc1.mean == pytest.approx(statistics.mean(each["collapse"]["test"]["nc1"] for each in stored), rel=1e-12)
    assert (imagenet.arm, imagenet.policy, imagenet.runs) == ("imagenet", "io+norm", 3)
    assert imagenet.trainable == stored[0]["parameters"]["trainable"] < imagenet.total
    assert scratch.trainable == scratch.total == imagenet.total


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Spread(0.74123, 0.0026, 3), "74.1 ± 0.3"),
        (Spread(0.74123, None, 1), "74.1"),
        (Spread(0.74123, 0.0004, 3), "74.1 ± 0.04"),
        (Spread(1.0, 0.0, 3), "100.0 ± 0"),
        (None, "–"),
    ],
)
def test_percent(value: Spread | None, shown: str) -> None:
    assert percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Spread(0.22264, 0.0123, 3), "0.223 ± 0.012"),
        (Spread(12.345, 0.5, 2), "12.3 ± 0.5"),
        (Spread(1.3e10, 2e8, 2), "1.30e+10 ± 2.0e+08"),
        (Spread(0.0, None, 1), "0.0000"),
        (Spread(0.1071, 0.0003, 3), "0.107 ± 0.0003"),
    ],
)
def test_number(value: Spread, shown: str) -> None:
    assert number(value) == shown


def test_duration_and_share() -> None:
    assert [duration(seconds) for seconds in (3.21, 42, 372, 3 * 3600 + 299)] == [
        "3.2 s", "42 s", "6 min 12 s", "3 h 04 min",
    ]  # fmt: skip
    assert [share(1, 3), share(3, 3), share(0, 3), share(1, 100_000)] == ["33.3", "100.0", "0.0", "0.001"]


def test_markdown(tmp_path: Path) -> None:
    label = "IO | norm\nonly"
    pair = [write_run(tmp_path / f"run-{seed}", label, seed, epochs=2) for seed in (0, 1)]
    text = report.markdown(pair)
    heading, rule, line = text.splitlines()
    cells = [cell.strip() for cell in line.replace(r"\|", "!").strip("|").split("|")]
    assert cells[:3] == ["IO ! norm only", "io+norm", "2"]
    assert heading.count("|") == rule.count("|") == len(cells) + 1
    accuracy = [100 * _stored(run)["final"]["test_accuracy"] for run in pair]
    column = [name.strip() for name in heading.strip("|").split("|")].index("Accuracy (%), test")
    assert cells[column] == f"{statistics.mean(accuracy):.1f} ± {statistics.stdev(accuracy):.1f}"


def test_undefined_is_not_absent(tmp_path: Path) -> None:
    """What was measured and is undefined reads so, in the table of arms and in that of all quantities."""
    run = write_run(tmp_path / "run", "imagenet")
    measured = _stored(run)["collapse"]
    edit(run / "summary.json", collapse=measured | {"train": measured["train"] | {"nc1": None}})
    assert " undefined |" in report.markdown([run])
    (arm,) = group(read_runs([run]))
    assert "undefined" in collapse_table([arm])
    nulls = {"cdnv_null": 4.5, "cdnv_null_sd": 0.1, "cdnv_over_null": 0.25}
    edit(run / "summary.json", collapse={"test": measured["test"] | {"cdnv": 1.125} | nulls})
    (arm,) = group(read_runs([run]))
    assert "<small>null 4.5 ± 0.1: 0.25</small>" in collapse_table([arm])
    edit(run / "summary.json", collapse={"test": measured["test"]})
    assert "undefined" not in report.markdown([run])


def test_every_column_has_its_own_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "one", seed=3, epochs=2)
    shares = {"nc1_over_null": 0.345, "cdnv_over_null": 0.678}
    edit(run / "summary.json", collapse={split: v | shares for split, v in _stored(run)["collapse"].items()})
    stored = _stored(run)
    final, collapse, parameters = stored["final"], stored["collapse"], stored["parameters"]
    expected = {
        "Trainable, parameters": f"{parameters['trainable']:,}",
        "Trainable, share (%)": share(parameters["trainable"], parameters["total"]),
        "Accuracy (%), test": f"{100 * final['test_accuracy']:.1f}",
        "Accuracy (%), mean class": f"{100 * final['test_mean_class_accuracy']:.1f}",
        "Accuracy (%), train": f"{100 * final['train_accuracy']:.1f}",
        "Time": duration(stored["seconds"]["total"]),
    }
    for split in ("train", "test"):
        values = collapse[split]
        expected[f"NC1, {split}"] = number(Spread(values["nc1"], None, 1))
        expected[f"CDNV, {split}"] = number(Spread(values["cdnv"], None, 1))
        expected[f"NCC acc. (%), {split}"] = f"{100 * values['ncc_accuracy']:.1f}"
    expected |= {"NC1, test / null": "0.345", "CDNV, test / null": "0.678"}
    assert len(set(expected.values())) == len(expected)  # or columns could be exchanged unseen
    heading, _, line = (
        [cell.strip() for cell in text.strip("|").split("|")] for text in report.markdown([run]).splitlines()
    )
    found = dict(zip(heading, line, strict=True))
    assert {name: found.get(name) for name in expected} == expected

    stream = io.StringIO()
    report.print_table([run], Console(file=stream, width=120, no_color=True))
    (cells,) = (row.split() for row in stream.getvalue().splitlines() if row.split()[:1] == ["one"])
    names = ("Trainable, share (%)", "Accuracy (%), test", "Accuracy (%), train", "NC1, test / null",
             "CDNV, test / null", "NCC acc. (%), test")  # fmt: skip
    assert cells[1:7] == [expected[name] for name in names]


def test_the_terminal_table_fits_80_columns(runs: list[Path]) -> None:
    stream = io.StringIO()
    report.print_table(runs, Console(file=stream, width=80, no_color=True))
    text = stream.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for row in report.rows(runs):
        assert row.arm in text
        assert row.scores["test_accuracy"] is not None
        assert f"{100 * row.scores['test_accuracy'].mean:.1f}" in text


def test_markup_and_escapes_in_a_name_are_text(tmp_path: Path) -> None:
    name = "[bold]x\x1b[2J"
    run = write_run(tmp_path / "run", name, epochs=1)
    for show in (lambda console: report.print_table([run], console), Table((name,), ((name,),), (name,), name).show):
        stream = io.StringIO()
        show(Console(file=stream, width=120, force_terminal=True, color_system=None))
        assert r"[bold]x\x1b[2J" in stream.getvalue() and "\x1b[2J" not in stream.getvalue()
    assert r"[bold]x\x1b[2J" in report.markdown([run])


def test_undefined_is_neither_zero_nor_unmeasured() -> None:
    interval = Interval(0.5, math.nan, 0.5, 0.5)
    measures = LayerMeasures({"nc1": math.nan, "cdnv": 0.5}, {"cdnv": interval}, torch.zeros(2, 3), torch.ones(2))
    stream = io.StringIO()
    print_measured([("test", 2, 2, {"stem": measures})], Console(file=stream, width=80))
    (line,) = (text.split() for text in stream.getvalue().splitlines() if "stem" in text)
    assert line == ["stem", "3", "undefined", "0.5"]
