"""The page: self-contained, true to the runs, safe against what is in them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_writer import CLASSES, edit, write_run

from image2point import report
from image2point.errors import InputError
from image2point.report.arms import group
from image2point.report.page import render
from image2point.report.read import read_runs


class _Parsed(HTMLParser):
    """Elements with attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.embedded = ""
        self._inside: list[str] = []
        self._json = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)
            self._json = dict(attrs).get("id") == "figures"

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)
        elif self._json:
            self.embedded += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.embedded)


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> _Parsed:
    return _Parsed(render(group(read_runs(runs))))


def test_nothing_is_loaded_from_elsewhere(page: _Parsed) -> None:
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert [value for value in addresses if value and not value.startswith(("data:", "#"))] == []
    assert [tag for tag, _ in page.elements if tag in ("iframe", "object", "embed", "base")] == []
    assert sum(tag == "script" for tag, _ in page.elements) == 3  # plotly once, the data, the page's own


def test_the_contents_lead_to_every_section(page: _Parsed) -> None:
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    places = ["#" + str(attributes.get("id")) for tag, attributes in page.elements if tag == "h2"]
    assert links == places == ["#" + name for name in (
        "results", "learning", "collapse", "classes", "clouds", "parameters", "provenance")]  # fmt: skip


def test_what_may_be_too_wide_can_scroll_and_say_so(runs: list[Path]) -> None:
    text = render(group(read_runs(runs)))
    assert text.count("<table") == text.count('<div class="wide"><table') == 6
    assert text.count('<p class="sideways" hidden>') == 8  # and two matrices
    widths = re.findall(r'id="confusion-\d" style="height: \d+px; min-width: (\d+)px"', text)
    assert [int(width) >= 100 + 9 * len(CLASSES) for width in widths] == [True, True]  # so that no two names touch


def test_every_figure_has_its_place_and_is_valid_plotly(page: _Parsed) -> None:
    import plotly.graph_objects as go

    places = [attributes["id"] for tag, attributes in page.elements if attributes.get("class") == "plot"]
    assert sorted(places) == sorted(page.figures)
    assert len(places) == len(set(places))
    assert {"learning-0", "learning-1", "collapse-0", "collapse-8", "per-class", "cloud-0", "cloud-5"} <= set(places)
    for figure in page.figures.values():
        go.Figure(figure)  # raises on any unknown or ill-typed property


def test_curves_are_the_metrics(runs: list[Path], page: _Parsed) -> None:
    records = read_runs(runs)
    lines = [
        trace
        for trace in page.figures["collapse-0"]["data"]
        if trace["meta"]["arm"] == 1 and trace.get("fill") is None and trace["line"]["dash"] == "dash"
    ]
    (line,) = lines
    measured = np.array([record.metrics["collapse_test/nc1"] for record in records[3:]])
    known = np.isfinite(measured[0])
    np.testing.assert_allclose(line["y"], measured[:, known].mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(line["x"], records[3].metrics["epoch"][known])
    bands = [trace for trace in page.figures["collapse-0"]["data"] if trace.get("fill") == "toself"]
    assert len(bands) == 4  # two arms, train and test


def test_clouds_are_those_of_the_run_and_say_what_each_run_said(runs: list[Path], page: _Parsed) -> None:
    stored = np.load(runs[0] / "examples.npz")
    (trace,) = page.figures["cloud-0"]["data"]
    np.testing.assert_allclose(np.stack([trace[axis] for axis in "xyz"], axis=1), stored["points"][0], atol=1e-4)
    for run in runs:
        for prediction in np.load(run / "examples.npz")["predictions"][:6]:
            assert CLASSES[prediction] in page.text


def test_the_most_confused_pairs_are_told_with_clouds_to_look_at(runs: list[Path], page: _Parsed) -> None:
    """Over the three runs of an arm, counted by hand from their predictions."""
    said = [list(csv.DictReader(io.StringIO((run / "predictions.csv").read_text()))) for run in runs[3:]]
    wrong = Counter((line["true"], line["predicted"]) for lines in said for line in lines)
    wrong -= Counter({pair: n for pair, n in wrong.items() if pair[0] == pair[1]})
    (true, predicted), count = max(wrong.items(), key=lambda item: (item[1], -CLASSES.index(item[0][0])))
    votes: dict[str, list[float]] = {}
    for line in (line for lines in said for line in lines):
        if (line["true"], line["predicted"]) == (true, predicted):
            votes.setdefault(line["cloud"], []).append(float(line["probability"]))
    look = sorted(votes, key=lambda cloud: (-len(votes[cloud]), -sum(votes[cloud])))[:3]
    assert len(votes[look[0]]) > 1  # two runs confuse it so
    assert f"{true} {predicted} {count} {', '.join(look)}" in page.text
    assert page.text.count("test0.h5 row") == 2 * 8 * 3


def test_the_text_states_the_run(page: _Parsed) -> None:
    for words in (
        "tf_efficientnet_lite0, lifted to 3D and fine-tuned on synthetic",
        "24 classes of synthetic apart, from 240 training clouds, 10 per class",
        "in 2 arms: imagenet; scratch",
        "In the arm “scratch”, a control, every kernel was drawn afresh",
        "Each arm was run with 3 seeds (0, 1, 2)",
        "NC1 and CDNV may disagree",
        "with the weights of the last epoch",
        "57934424",
        "2.13.0+cpu",
        "training: epochs: 12",
    ):
        assert words in page.text


def test_every_number_comes_from_the_files(run: Path) -> None:
    """Changing a value in the run changes it in the page."""
    edit(run / "summary.json", final__test_accuracy=0.4321, collapse__train__nc1=7.654, seconds__total=3723.0)
    text = _Parsed(render(group(read_runs([run])))).text
    assert "43.2" in text
    assert "7.65" in text
    assert "1 h 02 min" in text


def test_what_a_run_warned_of_stands_on_top(run: Path, runs: list[Path]) -> None:
    assert "Warning" not in _Parsed(render(group(read_runs([run])))).text
    edit(run / "summary.json", warnings=["the loss, 1.10, is <that> of guessing"])
    assert "Warning: the loss, 1.10, is <that> of guessing." in _Parsed(render(group(read_runs([run])))).text
    other = write_run(run.parent / "other", epochs=2)
    edit(other / "summary.json", warnings=["the loss, 1.10, is <that> of guessing"])
    assert "Warning of imagenet-0, other: the loss" in _Parsed(render(group(read_runs([run, other, runs[-1]])))).text


def test_a_class_without_test_clouds_is_named(run: Path) -> None:
    shares = dict.fromkeys(CLASSES, 0.5) | {"chair": None}
    edit(run / "summary.json", final__per_class=shares)
    parsed = _Parsed(render(group(read_runs([run]))))
    assert "No test cloud of: chair." in parsed.text
    assert "chair" not in parsed.figures["per-class"]["layout"]["yaxis"]["ticktext"]


def test_what_a_run_holds_is_text_not_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    run = write_run(tmp_path / "run", evil, epochs=2, classes=(evil + "&amp;", *CLASSES[1:]))
    edit(run / "summary.json", weights__source=evil, environment={evil: evil}, chosen_by=evil)
    config = run / "config.yaml"
    config.write_text(config.read_text() + f"# {evil}\n")
    parsed = _Parsed(render(group(read_runs([run]))))
    assert sum(tag == "script" for tag, _ in parsed.elements) == 3
    assert not any("onerror" in attributes for _, attributes in parsed.elements)
    assert evil in parsed.text
    # Plotly reads labels as HTML of its own kind, so they are escaped once more inside the data.
    drawn = json.dumps(parsed.figures)
    assert "&lt;img" in drawn
    assert "<img" not in drawn


def test_numbers_that_are_not_finite_do_not_break_the_data(run: Path) -> None:
    path = run / "metrics.csv"
    text = re.sub(r"(?m)^(6,[^,]*,[^,]*,[^,]*),[^,]*", r"\1,inf", path.read_text())
    path.write_text(text)
    figures = _Parsed(render(group(read_runs([run])))).figures
    (line,) = [trace for trace in figures["learning-1"]["data"] if trace["line"]["dash"] == "solid"]
    assert line["x"] == [1, 2, 3, 4, 5]


def test_the_same_runs_give_the_same_page(run: Path, tmp_path: Path) -> None:
    first = report.build([run], tmp_path / "new" / "a.html")
    second = report.build([run], tmp_path / "new" / "b.html")
    assert first.read_bytes() == second.read_bytes()


def test_a_page_that_cannot_be_written_is_an_input_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match=r"cannot write the report .*page\.html"):
        report.build([run], tmp_path / "file" / "page.html")
    with pytest.raises(InputError, match="cannot write the report"):
        report.build([run], tmp_path)
