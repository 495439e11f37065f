"""Candidates are scored as fine-tuning finds them; the study puts scores beside accuracies and trains nothing twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from study_values import PRETRAIN, TRANSFER
from torch.nn.modules.batchnorm import _BatchNorm
from typer.testing import CliRunner, Result

from image2point.cli import app
from image2point.collapse import transfer_scores
from image2point.collapse.layers import gathered
from image2point.collapse.scores import SCORES
from image2point.errors import InputError
from image2point.experiments import rank
from image2point.experiments.measure import open_subject
from image2point.experiments.rank_study import _verdict
from image2point.experiments.study import run_study
from image2point.finetune import freeze
from image2point.training import loop
from image2point.training.batches import batches, shuffled


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "transfer.yaml"
    path.write_text(yaml.safe_dump({**TRANSFER, "data": {**TRANSFER["data"], "class_split": {}}}))
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAIN))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["rank", *map(str, arguments)])


def norms_of(subject: Any) -> dict[str, _BatchNorm]:
    return {name: m for name, m in subject.network.named_modules() if isinstance(m, _BatchNorm)}


# ---- norms -------------------------------------------------------------------------------------------


def test_norms_hold_what_training_sees_and_nothing_else_changes(config: Path) -> None:
    """Against one pass in training mode, under the same policy, whose batch statistics are averaged by hand."""
    subject, reference = open_subject(config), open_subject(config)
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    rank.settle(subject)
    assert not any(module.training for module in subject.network.modules())

    freeze(reference.network, "io+norm")
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for name, norm in norms_of(reference).items():

        def see(_: Any, inputs: Any, name: str = name) -> None:
            rows = inputs[0].features if hasattr(inputs[0], "features") else inputs[0]
            seen.setdefault(name, []).append((rows.mean(0), rows.var(0)))

        norm.register_forward_pre_hook(see)
    reference.network.train()
    samples, training = reference.samples("train"), reference.config.training
    plan = shuffled(len(samples), training.batch_size, reference.config.seed, epoch=0)
    with torch.no_grad():
        for batch in batches(samples, plan, reference.recipe):
            reference.network(batch.voxels)
    settled = norms_of(subject)
    assert seen.keys() == settled.keys() and len(plan) > 2
    for name, each in seen.items():
        means, variances = (torch.stack(side).mean(0) for side in zip(*each, strict=True))
        assert torch.allclose(settled[name].running_mean, means, atol=1e-5), name
        assert torch.allclose(settled[name].running_var, variances, rtol=1e-3, atol=1e-6), name
        assert settled[name].momentum == norms_of(reference)[name].momentum
    for name, parameter in subject.network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_norms_that_the_policy_holds_keep_their_statistics(config: Path) -> None:
    subject = open_subject(config, ["finetune.policy=io"])
    kept = {n: m.running_mean.clone() for n, m in norms_of(subject).items()}
    rank.settle(subject)
    moved = {n for n, m in norms_of(subject).items() if not torch.equal(m.running_mean, kept[n])}
    assert moved == {n for n in kept if subject.network.roles[n] in ("input", "output")} and moved < kept.keys()


# ---- ranking -----------------------------------------------------------------------------------------


def test_scores_are_those_of_the_training_clouds(config: Path) -> None:
    stored = rank.score(config, "one", [], norms="stored", folds=4)
    subject = open_subject(config)
    samples = subject.samples("train")
    features = gathered(subject.source(samples, ["features"]))["features"]
    expected = transfer_scores(features, torch.as_tensor(samples.labels), 4)
    assert stored.scores == pytest.approx(expected) and tuple(stored.scores) == SCORES
    assert (stored.samples, stored.dim) == (24, features.shape[1]) and stored.seconds > 0
    settled = rank.score(config, "one", [], folds=4).scores
    assert settled["cdnv"] != pytest.approx(expected["cdnv"], rel=1e-3)
    other_test = rank.score(config, "one", ["data.synthetic.test_per_class=1"], folds=4).scores
    assert other_test == settled


def test_the_command_ranks_candidates_and_their_controls(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "rank.json"
    result = call(
        config, "data.voxel_size=0.4", "--model", "test_resnet=random", "--model", "test_resnet=random,rule=mean",
        "--controls", "random", "--by", "cdnv", "--json", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())["candidates"]
    names = ["test_resnet=random", "test_resnet=random, random"]
    names += ["test_resnet=random,rule=mean", "test_resnet=random,rule=mean, random"]
    assert [each["name"] for each in found] == names
    assert found[3]["settings"][-3:] == ["network.weights=random", "network.rule=mean", "network.control=random"]
    assert found[0]["settings"][0] == "data.voxel_size=0.4"
    assert len({each["scores"]["cdnv"] for each in found}) == 4
    lines = [line.strip() for line in result.output.splitlines() if "test_resnet" in line]
    order = sorted(found, key=lambda each: -each["scores"]["cdnv"])
    assert [line.split("  ")[0] for line in lines] == [each["name"] for each in order]
    assert "(1)" in lines[0] and "LogME" in result.output


def test_an_undefined_score_has_no_place_and_comes_last() -> None:
    values = {"undefined": math.nan, "worst": -math.inf, "best": 2.0, "middle": 1.0}
    found = [rank.Ranked(name, (), dict.fromkeys(SCORES, value), {}, 9, 2, 0.0) for name, value in values.items()]
    rows = [row for row in rank.table(found, by="cdnv").rows if row[0] in values]
    assert [row[0] for row in rows] == ["best", "middle", "worst", "undefined"]
    assert [row[2] for row in rows] == ["2 (1)", "1 (2)", "-inf (3)", "undefined"]


def test_json_has_no_number_that_is_none(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = rank.Ranked("one", (), dict.fromkeys(SCORES, math.nan), {"cdnv": (-math.inf, math.nan)}, 9, 2, 0.0)
    monkeypatch.setattr(rank, "rank_candidates", lambda *_: [one])
    assert call(config, "--model", "test_resnet", "--json", tmp_path / "r.json").exit_code == 0
    (found,) = json.loads((tmp_path / "r.json").read_text())["candidates"]
    assert set(found["scores"].values()) == {None} and found["nulls"] == {"cdnv": [None, None]}


def test_a_verdict_says_over_how_many_candidates_it_is() -> None:
    rows = [
        {"candidate": name, "kind": "checkpoint", "accuracy": accuracy, **dict.fromkeys(SCORES, value)}
        for name, accuracy, value in (("a", 0.1, 1.0), ("b", 0.2, 2.0), ("c", 0.3, 3.0), ("d", 0.4, math.nan))
    ]
    assert " over 3 of 4 candidates; it would choose c, 10.0 points" in _verdict(rows, ["a", "b", "c", "d"], "cdnv")
    assert " over " not in _verdict(rows[:3], ["a", "b", "c"], "cdnv")


def test_where_a_network_should_end_is_ranked(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "ends.json"
    result = call(config, "--model", "test_resnet=random", "--ends", "--by", "probe", "--json", out)
    assert result.exit_code == 0, result.output
    found = {each["name"]: each for each in json.loads(out.read_text())["candidates"]}
    whole = "test_resnet=random"
    blocks = ["layer1.0", "layer2.0", "layer3.0"]  # behind the fourth nothing is left to cut off
    assert list(found) == [whole, *(f"{whole}, until {block}" for block in blocks)]
    cut = open_subject(config, ["network.arch=test_resnet", "network.weights=random", "network.until=layer2.0"])
    assert found[f"{whole}, until layer2.0"]["dim"] == cut.network.linear_classifier()[0].shape[1]
    again = rank.score(config, "again", ["network.until=layer2.0"]).scores
    assert found[f"{whole}, until layer2.0"]["scores"] == pytest.approx(again)


@pytest.mark.parametrize("policy", ["layer:layer3.0", "scl:auto", "layer:auto"])
def test_ends_are_ranked_under_policies_that_train_a_block(config: Path, policy: str) -> None:
    """Of a network that ends before the block, the norms of stem and head follow the batch."""
    network = ["network.arch=test_resnet", "network.weights=random", "network.until=layer2.0"]
    found, as_io = (rank.score(config, "a", [*network, f"finetune.policy={each}"]).scores for each in (policy, "io"))
    assert found == as_io
    with pytest.raises(InputError, match=r"^wrong: policy layer:layer9: no parameter lies in 'layer9'"):
        rank.rank_candidates(config, {"wrong": [*network[:2], "finetune.policy=layer:layer9"]})


def test_scores_are_held_against_accuracies_within_a_kind_too() -> None:
    """A control that is worse in both makes any score look good; within checkpoints this one is the wrong way round."""
    points = {"a": ("checkpoint", 3.0, 0.5), "b": ("checkpoint", 2.0, 0.6), "c": ("checkpoint", 1.0, 0.7)}
    points |= {"a, random": ("random", -3.0, 0.1), "b, random": ("random", -2.0, 0.2)}
    rows = [
        {"candidate": name, "kind": kind, "seed": 1, "cdnv": score, "accuracy": accuracy}
        for name, (kind, score, accuracy) in points.items()
    ]
    told = _verdict(rows, list(points), "cdnv")
    assert "; Spearman within checkpoint -1" in told and "within random" not in told
    assert "Spearman 0.6 " in told
    assert "within" not in _verdict(rows[:3], ["a", "b", "c"], "cdnv")


def test_what_cannot_be_ranked_is_named(config: Path) -> None:
    for arguments, reason in (
        ((), "there is nothing to rank"),
        (("--model", "test_resnet,mean"), "should be ARCH=WEIGHTS,KEY=VALUE"),
        (("--model", "test_resnet", "--model", "test_resnet"), "--model test_resnet is given twice"),
        (("--model", "test_resnet", "--controls", "none"), "expected some of random, shuffled, scratch, found 'none'"),
        (("--model", "test_resnet", "--by", "accuracy"), "--by: expected one of nc1_trace_ratio"),
        (("--model", "test_resnet", "--norms", "batch"), "norms: expected one of train, stored, found 'batch'"),
        (("--model", "test_resnet,rules=mean"), "rules"),
        (("--model", "test_resnet=run:runs/a", "--ends"), "run:runs/a is lifted already, and --ends cuts 2D networks"),
        (
            ("--model", "test_resnet", "data.shots=1"),
            "cannot be scored on 6 training clouds: scores: expected at least",
        ),
    ):
        result = call(config, *arguments)
        assert result.exit_code == 2 and reason in result.output, result.output
    for more in ((), ("--ends",)):
        result = call(config.parent / "pretrain.yaml", "--model", "test_resnet", *more)
        assert result.exit_code == 2 and "images" in result.output


# ---- the study ---------------------------------------------------------------------------------------


def test_a_study_puts_scores_beside_accuracies(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "kind": "rank", "transfer": "transfer.yaml", "settings": ["data.shots=3"], "seeds": [1, 2],
        "candidates": {"resnet": ["network.arch=test_resnet"]}, "controls": ["random"],
        "pretrain": "pretrain.yaml", "pretrain_settings": ["training.schedule=constant"], "pretrain_epochs": [0, 1],
    }  # fmt: skip
    path, out = config.parent / "rank.yaml", config.parent / "out"
    path.write_text(yaml.safe_dump(values))
    place = run_study(path, (), out)
    rows = json.loads((place / "rows.json").read_text())
    names = ["resnet", "resnet, random", "test_resnet, epoch 0 of rendered", "test_resnet, epoch 1 of rendered"]
    assert [(r["seed"], r["candidate"]) for r in rows] == [(seed, name) for seed in (1, 2) for name in names]
    assert [r["kind"] for r in rows[:4]] == ["checkpoint", "random", "partly trained", "partly trained"]
    run = place / "runs" / "resnet_random_seed2"
    summary = json.loads((run / "summary.json").read_text())
    own = rows[5]
    assert own["accuracy"] == summary["final"]["test_accuracy"] and summary["data"]["train_clouds"] == 18
    # The scores are of the very network and clouds that the run began with.
    again = rank.score(run / "config.yaml", "again", []).scores
    assert {name: own[name] for name in SCORES} == pytest.approx(again)
    text = (place / "table.md").read_text()
    assert text.count("Spearman") == len(SCORES) and "it would choose" in text
    assert "<svg" in (place / "figure.svg").read_text()[:2000]

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a finished run is not trained again")

    monkeypatch.setattr(loop, "train_epoch", never)
    run_study(path, (), out)
    with pytest.raises(InputError, match="3 candidates or more to put in order, found 2"):
        run_study(path, ("pretrain=null",), out)
