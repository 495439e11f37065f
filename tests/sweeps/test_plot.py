"""Figures of many runs: the numbers of the table, where they belong on the axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from run_records import record

from image2point import InputError
from image2point.report import plots
from image2point.report.read import Record
from image2point.sweeps.pivot import pivot
from image2point.sweeps.plot import table_figure

ACCURACY = {
    ("50", "random"): (0.60, 0.62), ("50", "ImageNet"): (0.70, 0.74), ("1", "random"): (0.10, 0.14),
    ("1", "ImageNet"): (0.20, 0.20), ("10", "ImageNet"): (0.50,),
}  # fmt: skip


def runs(cast: Callable[[str], object] = int) -> list[Record]:
    return [
        record(value, {"data.shots": cast(shots), "arm": arm, "seed": seed})
        for (shots, arm), values in ACCURACY.items()
        for seed, value in enumerate(values)
    ]


def drawn(found: list[Record], value: str = "final.test_accuracy", spread: str = "sd"):  # type: ignore[no-untyped-def]
    """The axis, and label → [(x, y)]."""
    result = table_figure(pivot(found, ["data.shots"], ["arm"], value), spread)
    (axis,) = result.axes
    lines = [line for line in axis.lines if not str(line.get_label()).startswith("_")]
    return axis, {str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()] for line in lines}


def test_numbers_are_where_they_belong_and_far_apart_on_a_logarithmic_axis() -> None:
    axis, curves = drawn(runs())
    assert set(curves) == {"random", "ImageNet"}
    assert curves["random"] == [pytest.approx(p) for p in ((1, 12), (50, 61))]  # nothing was run at 10
    assert curves["ImageNet"] == [pytest.approx(p) for p in ((1, 20), (10, 50), (50, 72))]
    assert axis.get_xscale() == "log" and axis.get_xlabel() == "data.shots"
    near, _ = drawn([run for run in runs() if run.settings["data.shots"] > 1])
    assert near.get_xscale() == "linear"


def test_error_bars_are_the_spread_that_was_asked_for() -> None:
    sd = math.sqrt(2) * 0.02
    for spread, half in (("sd", sd), ("interval", 12.706205 * sd / math.sqrt(2))):
        axis, _ = drawn(runs(), spread=spread)
        reach = [path[1, 1] - path[0, 1] for bars in axis.collections for path in bars.get_segments()]
        assert sorted(reach)[-1] == pytest.approx(200 * half, rel=1e-5)
        assert sorted(reach)[:2] == pytest.approx([0, 0])  # two equal runs, and a single one


def test_words_are_places_in_the_order_of_the_table() -> None:
    axis, curves = drawn(runs(lambda shots: f"{shots} shots"))
    assert [label.get_text() for label in axis.get_xticklabels()] == ["50 shots", "1 shots", "10 shots"]
    assert curves["ImageNet"] == [pytest.approx(p) for p in ((0, 72), (1, 20), (2, 50))]


def test_files_are_written_by_suffix_and_are_the_same_twice(tmp_path: Path) -> None:
    table = pivot(runs(), ["data.shots"], ["arm"], "final.test_accuracy")
    for suffix, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        contents = []
        for name in ("a", "b"):
            plots.save_figure(table_figure(table), tmp_path / f"{name}.{suffix}")
            contents.append((tmp_path / f"{name}.{suffix}").read_bytes())
        assert contents[0] == contents[1] and contents[0].startswith(start)
    with pytest.raises(InputError, match=r"end in one of \.svg, \.pdf, \.png, found x\.jpg"):
        plots.check_suffix(Path("x.jpg"))


def test_nothing_to_plot_is_said() -> None:
    nothing = {"collapse": {"test": {"nc1": None}}}
    found = [replace(run, summary=run.summary.model_copy(update=nothing)) for run in runs()]
    with pytest.raises(InputError, match="none of the runs has a number for"):
        table_figure(pivot(found, ["data.shots"], ["arm"], "collapse.test.nc1"))
