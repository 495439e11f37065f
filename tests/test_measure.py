"""`image2point measure`: what it finds is what the run itself found, at every layer, before and after."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import tiny
from typer.testing import CliRunner, Result

from image2point import collapse
from image2point.cli import app
from image2point.collapse.layers import gathered
from image2point.errors import InputError
from image2point.experiments import measure
from image2point.experiments.complexity import evenly, feature_complexity
from image2point.jobs.transfer import run_transfer

LAYERS = ["collapse.layers=[layer1.0,features]", "collapse.at=[1]", "collapse.every=0", "training.epochs=2"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["measure", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_transfer(tiny(*LAYERS), tmp_path_factory.mktemp("measure")).path


def test_the_last_layer_has_what_the_run_stored(run: Path, tmp_path: Path) -> None:
    result = call(run, "--layers", "layer?.0,features", "--json", tmp_path / "m.json")
    assert result.exit_code == 0, result.output
    assert "features" in result.output and "train: 12 samples of 3 classes" in result.output
    found = json.loads((tmp_path / "m.json").read_text())
    assert list(found["on"]["train"]["layers"]) == ["layer1.0", "layer2.0", "layer3.0", "layer4.0", "features"]
    stored = json.loads((run / "summary.json").read_text())["collapse"]
    for split in ("train", "test"):
        values = found["on"][split]["layers"]["features"]["values"]
        for name in ("nc1_trace_ratio", "cdnv", "nc2_equiangle", "nc3", "nc4", "ncc_accuracy"):
            assert values[name] == pytest.approx(stored[split][name], rel=1e-5), (split, name)
    interval = found["on"]["test"]["layers"]["layer2.0"]["intervals"]["ncc_accuracy"]
    assert interval["low"] < interval["high"]
    assert "cdnv" not in found["on"]["train"]["layers"]["layer2.0"]["intervals"]  # a bias has no error bar


def test_layers_are_followed_along_training(run: Path) -> None:
    with open(run / "layers.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["epoch"], r["split"], r["layer"]) for r in rows if r["epoch"] == "1"] == [
        ("1", split, layer) for split in ("train", "test") for layer in ("layer1.0", "features")
    ]
    chosen = json.loads((run / "summary.json").read_text())
    last = next(
        r
        for r in rows
        if r["layer"] == "features" and r["split"] == "train" and int(r["epoch"]) == chosen["chosen_epoch"]
    )
    assert float(last["cdnv"]) == pytest.approx(chosen["collapse"]["train"]["cdnv"], rel=1e-5)
    (tested,) = (
        row
        for row in rows
        if (row["layer"], row["split"], row["epoch"]) == ("features", "test", str(chosen["chosen_epoch"]))
    )
    # Test clouds go to the nearest of the means of the training clouds.
    assert float(tested["ncc_accuracy"]) == pytest.approx(chosen["collapse"]["test"]["ncc_accuracy"])


def test_a_run_keeps_where_its_classes_lie(run: Path) -> None:
    """geometry.npz against the features, measured again."""
    subject = measure.open_subject(run)
    stored = dict(np.load(run / "geometry.npz"))
    features, labels = {}, {}
    for split in ("train", "test"):
        samples = subject.samples(split)
        features[split], labels[split] = gathered(subject.source(samples, ["features"]))["features"], samples.labels
        assert stored[f"{split}_labels"].tolist() == labels[split].tolist()
    means = torch.stack([features["train"][torch.from_numpy(labels["train"] == c)].mean(0) for c in range(3)])
    centred = torch.nn.functional.normalize(means - means.mean(0)).numpy()
    np.testing.assert_allclose(stored["train_cosines"], centred @ centred.T, atol=1e-4)
    weight = subject.network.linear_classifier()[0]
    rows = torch.nn.functional.normalize(weight - weight.mean(0)).numpy()
    np.testing.assert_allclose(stored["classifier_cosines"], centred @ rows.T, atol=1e-4)
    # Three means span the plane: distances between them are kept, and a test cloud is as far from them along it.
    np.testing.assert_allclose(torch.pdist(torch.from_numpy(stored["train_means"])), torch.pdist(means), rtol=1e-4)
    plane = collapse.Plane.of_means(means)
    np.testing.assert_allclose(stored["test_points"], plane.project(features["test"]), rtol=1e-3, atol=1e-4)


def test_before_training_it_is_the_lifted_network(run: Path, tmp_path: Path) -> None:
    def cdnv(subject: measure.Subject) -> float:
        (found,) = measure.measure(subject, ["features"], ["train"], ["cdnv"])
        return found.layers["features"].values["cdnv"]

    before = cdnv(measure.open_subject(run, before=True))
    assert before == pytest.approx(cdnv(measure.open_subject(run / "config.yaml")), rel=1e-6)
    assert before != pytest.approx(cdnv(measure.open_subject(run)), rel=1e-3)


def test_every_voxel_can_be_taken(run: Path) -> None:
    subject = measure.open_subject(run)
    (sites,) = measure.measure(subject, ["layer1.0"], ["train"], ["cdnv", "ncc_accuracy"], per_site=True)
    (means,) = measure.measure(subject, ["layer1.0"], ["train"], ["cdnv"])
    assert int(sites.layers["layer1.0"].count.sum()) > 2 * int(means.layers["layer1.0"].count.sum())
    assert 0 < sites.layers["layer1.0"].values["ncc_accuracy"] <= 1


def test_a_2d_network_is_measured_on_images(tmp_path: Path) -> None:
    result = call(
        "test_resnet", "network.weights=random", "images.size=24", "images.train_per_class=3",
        "images.class_split.novel=21", "images.test_per_class=2", "training.accelerator=cpu", "--on", "train,novel",
        "--layers", "layer2.0,features",
        "--metrics", "cdnv,nc1_trace_ratio",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "train: 9 samples of 3 classes" in result.output and "novel: 105 samples of 21 classes" in result.output


def test_geometric_complexity_of_clouds_is_the_exact_one(run: Path) -> None:
    """Against the whole Jacobian of one cloud by automatic differentiation."""
    subject = measure.open_subject(run, ["training.precision=64"])
    subject.network.double()
    test = subject.samples("test")
    found = feature_complexity(subject, test, evenly(test, 2), probes=400)
    voxels = [subject.recipe.join([subject.recipe.prepare(test[i], "x")]).double() for i in (0, len(test) - 1)]
    scale = collapse.input_scale(torch.cat([v.features for v in voxels]))
    for value, variance, v in zip(found.values, found.variances, voxels, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda f, v=v: subject.network.embed(v.replace(f))[0], v.features)
        exact = float(jacobian.square().sum()) * scale**2
        assert float(value) == pytest.approx(exact, abs=4 * float(variance) ** 0.5)


def test_complexity_is_measured_without_the_layers(run: Path, tmp_path: Path) -> None:
    result = call(run, "--layers", "none", "--on", "test", "--complexity", 2, "--json", tmp_path / "c.json")
    assert result.exit_code == 0 and "geometric complexity of the features, test" in result.output, result.output
    found = json.loads((tmp_path / "c.json").read_text())["on"]["test"]
    assert list(found) == ["geometric_complexity"]
    test = measure.open_subject(run).samples("test")
    expected = feature_complexity(measure.open_subject(run), test, evenly(test, 2))
    assert found["geometric_complexity"]["value"] == pytest.approx(expected.value, rel=1e-5)
    assert 0 < found["geometric_complexity"]["probe_error"] == pytest.approx(expected.error, rel=1e-4)


def test_an_undefined_complexity_is_called_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([2.0], dtype=torch.float64)
    one = collapse.Complexity(values, torch.full_like(values, torch.nan), "hutchinson")
    monkeypatch.setattr("image2point.experiments.complexity.feature_complexity", lambda *_: one)
    result = call(run, "--layers", "none", "--on", "test", "--complexity", 1, "--json", tmp_path / "c.json")
    assert "test: 2 ± undefined, of which ± undefined is from" in result.output, result.output
    found = json.loads((tmp_path / "c.json").read_text())["on"]["test"]["geometric_complexity"]
    assert found == {"value": 2.0, "error": None, "probe_error": None}


def test_class_means_of_the_very_samples_are_said(run: Path) -> None:
    asked = ("--layers", "features", "--metrics", "nc1,ncc_accuracy", "--permutations", 0)
    said = "test: ncc_accuracy by the class means of these very samples; --on train,test takes those of train"
    assert said in " ".join(call(run, *asked, "--on", "test").output.split())
    assert "very samples" not in call(run, *asked).output
    assert "very samples" not in call(run, *asked[:3], "nc1", *asked[4:], "--on", "test").output


def test_what_cannot_be_measured_is_named(run: Path) -> None:
    for arguments, reason in (
        ((run, "--on", "novel"), "there are no novel classes"),
        ((run, "--on", "tests"), "expected a split out of train, validation, test, novel, found 'tests'"),
        ((run, "--layers", "layer9"), "no layer matches 'layer9'"),
        ((run, "--layers", "none"), "--layers none leaves nothing to measure"),
        ((run, "--metrics", "nc9"), "unknown measure nc9"),
        (("no_such_network",), "has no architecture 'no_such_network'"),
        (("runs/none",), "runs/none does not exist"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and reason in result.output, result.output
    with pytest.raises(InputError, match="is not a run directory"):
        measure.open_subject(run.parent)


def test_batches_that_others_measure_are_the_same(run: Path) -> None:
    subject = measure.open_subject(run)
    here = gathered(subject.source(subject.samples("train"), ["layer2.0", "features"]))
    there = gathered(subject.source_of("train", ["layer2.0", "features"]))
    assert all(torch.equal(there[name], rows) for name, rows in here.items()) and len(there) == 2


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_finds_the_same(run: Path, tmp_path: Path, processes: int, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="ray is not installed (the extra `ray`)")
    found = []
    for extra in ([], ["--processes", processes, "--executor", executor]):
        result = call(run, "--layers", "blocks", "--json", tmp_path / "m.json", *extra)
        assert result.exit_code == 0, result.output
        found.append(json.loads((tmp_path / "m.json").read_text()))
    flat = [list(numbers(each["on"])) for each in found]
    assert flat[0] == pytest.approx(flat[1], rel=1e-9) and len(flat[0]) > 100


def numbers(values: object) -> Iterator[float]:
    """All numbers in what JSON holds."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from numbers(value)
    elif isinstance(values, (int, float)):
        yield float(values)


def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    """The run, which would come first, does not exist."""
    result = call(tmp_path / "none", "--json", tmp_path)
    told = " ".join(result.output.split())
    assert result.exit_code == 2 and f"{tmp_path}: expected a file to write, found a folder" in told
