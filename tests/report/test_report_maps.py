"""Layers by epoch and the geometry of classes: drawn is what the run stored, on the page and in vector files."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from run_writer import CLASSES, write_collapse, write_dead, write_run
from typer.testing import CliRunner

from image2point import report
from image2point.cli import app
from image2point.errors import InputError
from image2point.report import maps
from image2point.report.arms import group
from image2point.report.charts import tuned
from image2point.report.figures import tuned_panel
from image2point.report.map_figures import heat_panel, plane_key, plane_panel
from image2point.report.page import render
from image2point.report.read import read_run, read_runs


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A finished run that followed its layers and stored where its classes lie; 'chair' has no training cloud."""
    return write_collapse(write_run(tmp_path / "run", epochs=4), absent="chair")


def test_heat_maps_are_layers_csv(measured: Path) -> None:
    heats = maps.depth(group([read_run(measured)]))
    assert [heat.title for heat in heats] == [
        "tr Σ_W / tr Σ_B, train", "tr Σ_W / tr Σ_B, test", "NCC accuracy (%), train", "NCC accuracy (%), test",
    ]  # fmt: skip
    train, test = heats[:2]
    assert train.rows == ("stem", "block", "features") and train.columns == test.columns == ("0", "2", "4")
    assert train.values[2].tolist() == [6.0, 3.0, 2.0]  # features; the file has its epochs in another order
    assert np.isnan(test.values[:, 1]).all() and test.values[0, 2] == 8.0  # test was not measured after epoch 2
    assert (train.low, train.high) == (test.low, test.high) == (2.0, 24.0)
    (trace,) = heat_panel(train).figure["data"]
    assert 10 ** trace["z"][2][1] == pytest.approx(3.0, rel=1e-3) and trace["text"][2][1] == "3"


def test_cosines_are_ordered_by_similarity_and_end_with_the_frame(measured: Path) -> None:
    stored = np.load(measured / "geometry.npz")
    train, _, classifier, frame = maps.cosines(group([read_run(measured)]))
    assert "chair" not in train.rows and len(train.rows) == len(CLASSES) - 1
    order = [CLASSES.index(name) for name in train.rows]
    np.testing.assert_array_equal(train.values, stored["train_cosines"][np.ix_(order, order)])
    np.testing.assert_array_equal(classifier.values, stored["classifier_cosines"][np.ix_(order, order)])
    assert classifier.rows == train.rows == frame.columns
    assert frame.values[0, 0] == 1 and frame.values[0, 1] == pytest.approx(-1 / (len(order) - 1))
    # The writer's classes come in two families, alternately; side by side, none is torn apart.
    families = [index % 2 for index in order]
    assert families == sorted(families) or families == sorted(families, reverse=True)


def test_planes_hold_both_splits(measured: Path) -> None:
    train, test = maps.planes(group([read_run(measured)]))
    assert (train.corner, train.side) == (test.corner, test.side)
    stored = np.load(measured / "geometry.npz")
    drawn = {train.names[label] for label in train.labels}
    assert drawn == set(train.names) and "chair" not in drawn
    first = CLASSES.index(train.names[train.labels[0]])
    assert first == stored["train_labels"][stored["train_labels"] != CLASSES.index("chair")][0]
    points = plane_panel(train).figure["data"][0]
    np.testing.assert_allclose(points["x"], train.points[:, 0], atol=1e-4)
    assert train.marks[0] == "1" and f"1 {train.names[0]}" in plane_key(train)
    assert len(set(maps.class_colours(40))) == 40


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_outliers_do_not_squeeze_a_plane(measured: Path, share: float) -> None:
    """A tenth of the samples of a split, or two of a hundred, a hundred times as far out as the others."""
    before = maps.planes(group([read_run(measured)]))[0]
    stored = dict(np.load(measured / "geometry.npz"))
    far = np.random.default_rng(0).permutation(len(stored["test_labels"]))[: int(share * len(stored["test_labels"]))]
    stored["test_points"][far] *= 100
    np.savez(measured / "geometry.npz", **stored)
    train, test = maps.planes(group([read_run(measured)]))
    assert 0.9 < train.side / before.side < 1.1 and len(far)
    assert (train.outside, test.outside, test.samples) == (0, len(far), len(stored["test_labels"]))
    assert plane_panel(test).meaning == f"{len(far)} of {test.samples} samples lie outside"
    inside = (train.means >= train.corner) & (train.means <= np.add(train.corner, train.side))
    assert inside[np.isfinite(train.means)].all()


def test_marks_do_not_cover_each_other() -> None:
    places = maps.apart(np.concatenate([np.zeros((6, 2)), [[5.0, 5.0], [np.nan, np.nan]]]), gap=1.0)
    distance = np.linalg.norm(places[:7, None] - places[None, :7], axis=2) + 9 * np.eye(7)
    assert distance.min() > 0.95 and np.isnan(places[7]).all()
    np.testing.assert_allclose(places[6], [5, 5], atol=1e-5)


def test_the_page_shows_them_where_they_are(measured: Path, tmp_path: Path) -> None:
    import plotly.graph_objects as go

    text = render(group([read_run(measured)]))
    assert text.count('id="depth-') == 4 and text.count('id="cosines-') == 4 and text.count('id="plane-') == 2
    assert "Where classes lie" in text and 'class="key"' in text
    arms = group([read_run(measured)])
    panels = [heat_panel(heat) for heat in (*maps.depth(arms), *maps.cosines(arms))]
    for panel in [*panels, *map(plane_panel, maps.planes(arms))]:
        go.Figure(panel.figure)  # raises on any unknown or ill-typed property
    plain = render(group(read_runs([write_run(tmp_path / "plain", epochs=4)])))
    assert "Where classes lie" not in plain and "depth-0" not in plain


def test_vector_files_hold_text_and_are_the_same_each_time(measured: Path, tmp_path: Path) -> None:
    called = CliRunner().invoke(app, ["report", str(measured), "--figures", str(tmp_path / "figures")])
    assert called.exit_code == 0, called.output
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("learning", "collapse", "layers", "cosines", "plane")
    assert written == {f"{name}.{suffix}" for name in names for suffix in ("svg", "pdf")}
    svg = (tmp_path / "figures" / "cosines.svg").read_text()
    assert "dumbbell" in svg and svg.count("<path") > 23 * 23  # names as text, cells as shapes
    assert (tmp_path / "figures" / "plane.pdf").read_bytes().startswith(b"%PDF")
    again = report.write_figures([measured], tmp_path / "again")
    assert all(path.read_bytes() == (tmp_path / "figures" / path.name).read_bytes() for path in again)


def test_scores_stand_over_the_parameters_that_train(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    policies = {"io": (1, 2), "io+norm": (1,), "all": (1, 2)}
    paths = [
        write_run(tmp_path / f"{policy}{seed}", policy, seed=seed, epochs=2, policy=policy)
        for policy, seeds in policies.items()
        for seed in seeds
    ]
    arms = group(read_runs(paths))
    marks = tuned(arms)
    assert [mark.label for mark in marks] == list(policies)
    for mark, arm in zip(marks, arms, strict=True):
        assert mark.parameters == arm.first.summary.parameters.trainable
        assert mark.score.mean == np.mean([run.summary.final["test_accuracy"] for run in arm.runs])
    panel = tuned_panel(marks, arms).figure
    go.Figure(panel)
    assert panel["layout"]["xaxis"]["type"] == "log"
    assert [trace["x"][0] for trace in panel["data"]] == [mark.parameters for mark in marks]
    assert [trace["y"][0] for trace in panel["data"]] == [100 * mark.score.mean for mark in marks]
    assert [trace["error_y"]["visible"] for trace in panel["data"]] == [True, False, True]
    assert 'id="tuned-0"' in render(arms) and 'id="tuned-0"' not in render(group(read_runs(paths[:2])))
    written = {path.name for path in report.write_figures(paths, tmp_path / "figures")}
    assert "tuned.svg" in written and "filled.svg" not in written


def test_a_dead_arm_leaves_the_others_their_page(measured: Path, tmp_path: Path) -> None:
    dead = write_dead(tmp_path / "dead", arm="dead", epochs=4)
    alone, both = (render(group(read_runs(paths))) for paths in ([dead], [dead, measured]))
    assert "Where classes lie" not in alone and ">undefined<" in alone
    assert both.count('id="cosines-') == 4 and both.count('id="plane-') == 2 and both.count('id="collapse-') == 9
    assert "| undefined | undefined |" in report.markdown([dead, measured])
    for folder, paths in (("alone", [dead]), ("both", [dead, measured])):
        names = {path.name for path in report.write_figures(paths, tmp_path / folder)}
        assert "learning.svg" in names and ("plane.svg" in names) == (folder == "both")


def test_any_name_can_stand_in_a_vector_file(tmp_path: Path) -> None:
    classes = ("$x$ $", r"\frac{", "a\x1b[2J", "<b>&")
    runs = [
        write_collapse(write_run(tmp_path / arm, f"{arm} $\\oops$", epochs=2, classes=classes), classes=classes)
        for arm in ("a", "b")
    ]
    for path in report.write_figures(runs, tmp_path / "figures"):
        if path.suffix == ".svg":
            text = " ".join(ElementTree.parse(path).getroot().itertext())  # raises where a character is not allowed
            assert path.stem in ("learning", "collapse", "layers") or all(name in text for name in classes[:2])


def test_damaged_files_are_named(measured: Path) -> None:
    layers, geometry = measured / "layers.csv", measured / "geometry.npz"
    good = layers.read_text()
    layers.write_text(good.replace("24.0", "much"))
    with pytest.raises(InputError, match=r"layers\.csv line 2: expected an epoch, a split, a layer and numbers"):
        read_run(measured)
    layers.write_text(good)
    arrays = dict(np.load(geometry))
    np.savez(geometry, **{**arrays, "train_means": arrays["train_means"][:3]})
    with pytest.raises(InputError, match=re.escape("expected cosines [24, 24], points")):
        read_run(measured)
    np.savez(geometry, **{**arrays, "test_labels": arrays["test_labels"] + 20})
    with pytest.raises(InputError, match=r"test_labels must lie in 0…23"):
        read_run(measured)
    geometry.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"geometry\.npz: damaged, or not a .npz archive"):
        read_run(measured)
