"""Runs that learn: what they store is what their network says, of the right clouds, epoch and class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import load_splits, rows, run_transfer, separable, tiny
from torch import Tensor

import image2point as i2p
from image2point.config import Config
from image2point.runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("learning")


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    return separable(folder / "data", "training.epochs=6", "collapse.every=4", "report.examples=7")


@pytest.fixture(scope="module")
def run(folder: Path, config: Config) -> Run:
    return run_transfer(config, folder)


def logits_of(run: Run, clouds) -> Tensor:  # type: ignore[no-untyped-def]
    """Class scores [n, C] of a set of clouds by the stored network, all in one batch."""
    voxels = i2p.voxelize([clouds[i].points for i in range(len(clouds))], 0.3)
    with torch.no_grad():
        return i2p.load(run.path)(voxels).double()


def scores_of(run: Run, clouds) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """(accuracy, loss) of a set of clouds by the stored network."""
    logits, labels = logits_of(run, clouds), torch.as_tensor(clouds.labels)
    chosen = logits.log_softmax(1)[torch.arange(len(labels)), labels]
    return float((logits.argmax(1) == labels).double().mean()), -float(chosen.mean())


def test_it_learns(run: Run) -> None:
    table, final = rows(run.path), run.read_summary()["final"]
    best = min(table[1:], key=lambda row: float(row["train_loss"]))  # the last epoch of twelve clouds may be any
    assert float(best["train_accuracy"]) > 0.7 > 0.5 >= float(table[1]["train_accuracy"])
    assert float(best["train_loss"]) < 0.3 * float(table[1]["train_loss"])
    assert final["test_accuracy"] > 0.7 and final["validation_accuracy"] > 0.7


def test_what_is_stored_is_what_the_stored_network_says(run: Run, config: Config) -> None:
    splits, summary, table = load_splits(config.data), run.read_summary(), rows(run.path)
    assert splits.validation is not None
    chosen, final = table[summary["chosen_epoch"]], summary["final"]
    accuracy, loss = scores_of(run, splits.test)
    assert final["test_accuracy"] == float(chosen["test_accuracy"]) == accuracy
    assert final["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert float(chosen["test_loss"]) == pytest.approx(loss, rel=1e-5)
    accuracy, loss = scores_of(run, splits.validation)
    assert final["validation_accuracy"] == float(chosen["validation_accuracy"]) == accuracy
    assert float(chosen["validation_loss"]) == pytest.approx(loss, rel=1e-5)
    assert final["train_accuracy"] == scores_of(run, splits.train)[0]
    # And the three are not the same numbers by chance.
    losses = [scores_of(run, part)[1] for part in (splits.train, splits.validation, splits.test)]
    assert min(abs(a - b) for i, a in enumerate(losses) for b in losses[:i]) > 1e-3


def test_among_equal_accuracies_the_lowest_loss_is_chosen(run: Run) -> None:
    table = rows(run.path)[1:]
    best = max(float(row["validation_accuracy"]) for row in table)
    tied = [row for row in table if float(row["validation_accuracy"]) == best]
    losses = {int(row["epoch"]): float(row["validation_loss"]) for row in tied}
    assert len(losses) > 1  # a tie
    assert run.read_summary()["chosen_epoch"] == min(losses, key=lambda epoch: losses[epoch])


def test_collapse_is_measured_when_it_is_asked_for(run: Run) -> None:
    table, summary = rows(run.path), run.read_summary()
    measured = {row["epoch"] for row in table if row["collapse_test/cdnv"]}
    assert measured == {"0", "4", "6", str(summary["chosen_epoch"])}
    assert {row["epoch"] for row in table if row["test_accuracy"]} == measured


def test_the_first_row_is_of_the_network_before_training(folder: Path, run: Run) -> None:
    config = separable(folder / "data", "name=before", "training.epochs=0")
    before = run_transfer(config, folder)
    first, only = rows(run.path)[0], rows(before.path)[0]
    for name in ("validation_loss", "test_loss", "test_accuracy", "collapse_train/cdnv", "collapse_test/cdnv"):
        assert float(first[name]) == pytest.approx(float(only[name]), rel=1e-5), name
    # Here the accuracies of train and test differ, which they need not where all is learnt.
    splits, final = load_splits(config.data), before.read_summary()["final"]
    trained, tested = (scores_of(before, part)[0] for part in (splits.train, splits.test))
    assert (final["train_accuracy"], final["test_accuracy"]) == (trained, tested) and trained != tested


def test_examples_are_stored_with_their_own_predictions(run: Run, config: Config) -> None:
    test, chosen = load_splits(config.data).test, logits_of(run, load_splits(config.data).test).argmax(1).tolist()
    stored = np.load(run.path / "examples.npz")
    found = []
    for points, label, prediction in zip(stored["points"], stored["labels"], stored["predictions"], strict=True):
        (number,) = [i for i in range(len(test)) if np.isin(points, test[i].points).all()]
        assert (label, prediction) == (test.labels[number], chosen[number])
        found.append(number)
    assert len(found) == 7 and [chosen[number] for number in found] != chosen[:7]


def test_weights_of_an_earlier_epoch_do_not_go_on_changing(folder: Path) -> None:
    """A rate so high that the network gets worse again: the chosen epoch is not the last."""
    settings = ("training.lr=0.3", "training.schedule=constant", "training.epochs=5", "collapse.every=0")
    config = separable(folder / "data", "name=worse", *settings)
    run = run_transfer(config, folder)
    splits, chosen = load_splits(config.data), run.read_summary()["chosen_epoch"]
    assert 0 < chosen < 5 and splits.validation is not None
    loss = float(rows(run.path)[chosen]["validation_loss"])
    assert scores_of(run, splits.validation)[1] == pytest.approx(loss, rel=1e-5)


def test_a_network_that_did_not_train_is_not_chosen(folder: Path) -> None:
    config = separable(folder / "data", "name=worst", "training.lr=20", "training.epochs=1", "collapse.every=0",
                       "training.recalibrate=0")  # fmt: skip
    run = run_transfer(config, folder)
    first, second = rows(run.path)
    score = lambda row: (float(row["validation_accuracy"]), -float(row["validation_loss"]))  # noqa: E731
    assert score(first) > score(second)
    assert run.read_summary()["chosen_epoch"] == 1


def test_accuracies_of_classes_have_the_right_names(folder: Path) -> None:
    """Classes that are not in alphabetical order, by a network that says one thing of all clouds."""
    names = ("torus", "box", "cone")
    config = tiny("name=classes", f"data.synthetic.classes=[{','.join(names)}]", "training.epochs=0",
                  "data.synthetic.test_per_class=4")  # fmt: skip
    run = run_transfer(config, folder)
    test = load_splits(config.data).test
    chosen = logits_of(run, test).argmax(1).numpy()
    expected = {name: float((chosen[test.labels == c] == c).mean()) for c, name in enumerate(names)}
    final = json.loads((run.path / "summary.json").read_text())["final"]
    assert list(final["per_class"]) == list(names) and final["per_class"] == expected
    assert len(set(expected.values())) > 1
    assert final["test_mean_class_accuracy"] == pytest.approx(np.mean(list(expected.values())))


def test_seeds_of_a_run(folder: Path) -> None:
    """Fresh parameters follow from `seed`, the shots from `data.shot_seed`."""
    data = folder / "data"
    runs = [run_transfer(separable(data, f"name=seed{s}", f"seed={s}", "training.epochs=0"), folder) for s in (1, 2)]
    first, second = (load_file(run.weights) for run in runs)
    assert {name for name in first if not torch.equal(first[name], second[name])} >= {"conv1.0.weight", "fc.weight"}
    drawn = [separable(data, "data.shots=2", "data.validation=0", f"data.shot_seed={seed}").data for seed in range(4)]
    assert len({load_splits(each).train[0].points.tobytes() for each in drawn}) > 1


def test_the_rule_of_the_config_is_that_of_the_network(folder: Path) -> None:
    repeat, mean = (
        load_file(run_transfer(tiny(f"name={rule}", f"network.rule={rule}", "training.epochs=0"), folder).weights)
        for rule in ("repeat", "mean")
    )
    inflated = [name for name, w in repeat.items() if w.ndim == 5 and w.shape[-1] == 3 and not name.startswith("conv1")]
    assert inflated and all(torch.allclose(repeat[name], 3 * mean[name]) for name in inflated)


def test_features_are_scaled_as_the_config_says(folder: Path) -> None:
    config = separable(folder / "data", "name=scaled", "data.scaling={xyz: 3.0}", "training.epochs=0")
    run, test = run_transfer(config, folder), load_splits(config.data).test
    points = [test[i].points for i in range(len(test))]
    with torch.no_grad():
        logits = i2p.load(run.path)(i2p.voxelize(points, 0.3, [3 * each for each in points]))
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.as_tensor(test.labels))
    assert run.read_summary()["final"]["test_loss"] == pytest.approx(float(loss), rel=1e-5)
