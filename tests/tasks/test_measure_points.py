"""The collapse of points by layer: rows are what a layer says where a voxel lies, and intervals are over scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rooms import CLASSES, Rooms, furnish, segmenting
from tiny_runs import run_transfer
from typer.testing import CliRunner

from image2point.cli import app
from image2point.collapse.labels_at_random import measure_features
from image2point.datasets import Splits
from image2point.errors import InputError
from image2point.experiments.measure import measure, open_subject, to_dict
from image2point.experiments.measure_points import PointRows, measure_points, rows_of_points
from image2point.runs import Run
from image2point.tasks.point_labels import count_labels, sampled
from image2point.tasks.segmentation import Segmentation
from image2point.training.batches import batches, in_order

LAYERS = ("layer2.0", "features")


@pytest.fixture(scope="module")
def splits() -> Iterator[Splits]:
    with pytest.MonkeyPatch.context() as patch:
        yield furnish(patch, test=Rooms("test", 9, 1))


@pytest.fixture(scope="module")
def run(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_transfer(segmenting("training.epochs=4", "collapse.voxels_per_class=7"), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def rows(run: Run, splits: Splits) -> PointRows:
    subject = open_subject(run.path)
    task = Segmentation().for_scoring(subject.config, splits.test)
    return rows_of_points(subject.network, task, splits.test, subject.recipe, LAYERS, in_order(len(splits.test), 2))


def test_a_row_is_the_layer_where_the_voxel_lies(run: Run, splits: Splits, rows: PointRows) -> None:
    """Looked up cloud by cloud and voxel by voxel."""
    subject = open_subject(run.path)
    task = Segmentation().for_scoring(subject.config, splits.test)
    observe = subject.network.observe_maps(LAYERS)
    start = 0
    for batch in batches(splits.test, in_order(len(splits.test), 1), subject.recipe, targets=task.targets):
        labels = batch.targets.of_voxels(3)
        drawn = sampled(labels, batch.targets.scenes, batch.indices, 3, 7)
        with torch.no_grad():
            found = observe(batch.voxels)
        for name in LAYERS:
            sites = {tuple(each): row for row, each in enumerate(found[name].coordinates.tolist())}
            parents = batch.voxels.coordinates[drawn].clone()
            parents[:, 1:] //= found[name].stride
            wanted = torch.stack([found[name].features[sites[tuple(each)]] for each in parents.tolist()])
            torch.testing.assert_close(rows.features[name][start : start + len(drawn)], wanted)
        assert rows.labels[start : start + len(drawn)].tolist() == labels[drawn].tolist()
        assert set(rows.scenes[start : start + len(drawn)].tolist()) == set(batch.indices.tolist())
        start += len(drawn)
    assert start == len(rows.labels) and found["layer2.0"].stride > 1


def test_measures_are_those_of_the_rows(rows: PointRows, splits: Splits) -> None:
    counts = count_labels(splits.train)
    found = measure_points(rows, CLASSES, counts, permutations=3, draws=20)
    for name, layer in found.items():
        values = layer.measures.values
        for measure_name, value in measure_features(rows.features[name], rows.labels, ["nc1", "cdnv"]).items():
            assert values[measure_name] == pytest.approx(value)
        share = layer.measures.count.double() / len(rows.labels)
        each = torch.tensor([values[f"nc1 {of}"] for of in CLASSES])
        assert float((each * share).sum()) == pytest.approx(values["nc1"])
        assert layer.closest is not None and set(layer.closest[:2]) <= set(CLASSES)
        assert layer.measures.intervals["nc1"].over == "scenes" and layer.measures.intervals["nc1"].error > 0
        assert "minority_cosine" not in layer.measures.intervals  # too narrow, as simulation shows
        assert "cdnv" not in layer.measures.intervals  # of nine scenes
        assert layer.measures.nulls["cdnv"][0] > values["cdnv"]


def test_few_scenes_have_no_intervals_and_say_so(rows: PointRows) -> None:
    few = rows.scenes < 3
    less = PointRows({name: each[few] for name, each in rows.features.items()}, rows.labels[few], rows.scenes[few])
    layer = measure_points(less, CLASSES, np.array([9, 5, 3]), permutations=0)["features"]
    assert not layer.measures.intervals and "no intervals over 3 scenes" in layer.problem


def test_on_the_command_line(run: Run, splits: Splits, tmp_path: Path) -> None:
    out = tmp_path / "layers.json"
    shown = CliRunner().invoke(
        app, ["measure", str(run.path), "--layers", "features", "--permutations", "2", "--json", str(out)]
    )
    assert shown.exit_code == 0, shown.output
    assert "test, features: the closest class means are" in shown.output and "over scenes" in shown.output
    assert "nc2_orthogonal" in out.read_text() and '"closest"' in out.read_text()


def test_test_rows_are_decided_by_the_means_of_train(run: Run, splits: Splits) -> None:
    subject = open_subject(run.path)
    alone = measure(subject, ["features"], ["test"], permutations=0)[0].layers["features"].values
    train, test = measure(subject, ["features"], ["train", "test"], permutations=0)
    assert test.layers["features"].values["nc1"] == alone["nc1"]
    assert test.layers["features"].values["ncc_accuracy"] != alone["ncc_accuracy"]
    assert to_dict(subject, [train])["on"]["train"]["closest"]["features"]


def test_what_has_no_meaning_for_points_is_refused(run: Run, splits: Splits) -> None:
    with pytest.raises(InputError, match="leave out --metrics, --per-site and the split novel"):
        measure(open_subject(run.path), per_site=True)
