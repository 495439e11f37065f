"""Studies from end to end, at the smallest size: runs, rows, table, figure, and nothing done twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from study_values import PRETRAIN, TRANSFER

from image2point import collapse
from image2point.collapse.layers import gathered
from image2point.config import studies
from image2point.errors import InputError
from image2point.experiments import few_shot, pretraining
from image2point.experiments.measure import open_subject
from image2point.experiments.rank import settle
from image2point.experiments.study import read_study, run_study
from image2point.experiments.study_rows import over_seeds
from image2point.training import loop

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "collapse"


def write(folder: Path, name: str, values: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    write(tmp_path, "pretrain.yaml", PRETRAIN)
    write(tmp_path, "transfer.yaml", TRANSFER)
    return tmp_path


def check(place: Path) -> list[dict[str, Any]]:
    for name in ("study.yaml", "rows.json", "table.md", "figure.svg", "figure.pdf"):
        assert (place / name).stat().st_size > 0, name
    assert "<svg" in (place / "figure.svg").read_text()[:2000]
    rows = json.loads((place / "rows.json").read_text())
    assert rows
    return rows


def test_the_unconstrained_model_reaches_the_frame_where_it_is_balanced(tmp_path: Path) -> None:
    path = write(tmp_path, "ufm.yaml", {"kind": "unconstrained", "classes": [4], "ratios": [1, 10], "seeds": [0]})
    rows = check(run_study(path, (), tmp_path / "out"))
    assert len(rows) == 4
    for row in rows:
        assert row["certificate"] == pytest.approx(1, abs=1e-4)
        assert (row["distance"] < 1e-3) == (row["ratio"] == 1)
        if row["above_minimum"] is not None:
            assert abs(row["above_minimum"]) < 1e-6
    table = (tmp_path / "out" / "ufm" / "table.md").read_text()
    assert table.count("\n| ") >= 4 and "distance to the ETF" in table


def test_few_shot_before_and_after(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "kind": "few-shot", "transfer": "transfer.yaml", "seeds": [1],
        "episodes": {"ways": [2], "shots": [1, 2], "queries": 3, "episodes": 20, "classifiers": ["ncc", "ridge"]},
    }  # fmt: skip
    path = write(configs, "fs.yaml", values)
    place = run_study(path, (), configs / "out")
    rows = check(place)
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        assert row["low"] <= row["accuracy"] <= row["high"] and 0 <= row["predicted"] <= 1
        assert row["moment"] >= row["predicted"] - 1e-9
    assert {row["stage"] for row in rows} == {few_shot.BEFORE, few_shot.AFTER}
    told = (place / "table.md").read_text()
    for stage in (few_shot.BEFORE, few_shot.AFTER):
        row = next(row for row in rows if row["stage"] == stage)
        share = row["cdnv_directional"] / row["cdnv_directional_null"]
        assert f"CDNV of the novel classes, {stage}: " in told and f"share of its null: {share:.3g}." in told
    run = place / "runs" / "transfer_seed1"
    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["data"]["classes"]) == 3  # the novel ones are not among them
    cdnv = {}
    for stage, before in ((few_shot.BEFORE, True), (few_shot.AFTER, False)):
        subject = open_subject(run, before=before)
        if before:
            settle(subject, "io+stats")
        features, labels = few_shot.novel_features(subject)
        S = collapse.Statistics(int(labels.max()) + 1, features.shape[1]).update(features, labels)
        cdnv[stage] = collapse.metrics(S)["cdnv"]
        assert all(row["cdnv"] == pytest.approx(cdnv[stage], rel=1e-4) for row in rows if row["stage"] == stage)
    assert cdnv[few_shot.BEFORE] != pytest.approx(cdnv[few_shot.AFTER], rel=1e-2)

    def again(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a finished run is not trained again")

    monkeypatch.setattr(loop, "train_epoch", again)
    run_study(path, ("episodes.shots=[2]",), configs / "out")
    write(configs, "transfer.yaml", {**TRANSFER, "data": {**TRANSFER["data"], "class_split": {}}})
    with pytest.raises(InputError, match=r"data\.class_split\.novel should say"):
        run_study(path, ("name=none",), configs / "out")


def test_classes_are_followed_across_the_transfer(configs: Path) -> None:
    values = {
        "kind": "follow", "images": "pretrain.yaml", "arms": {"head": "transfer.yaml"},
        "settings": ["finetune.policy=head"], "layers": ["layer?.0", "features"],
    }  # fmt: skip
    rows = check(run_study(write(configs, "follow.yaml", values), (), configs / "out"))
    assert len(rows) == 4 * 2 * 5
    stages = {stage: [r for r in rows if r["stage"] == stage] for stage in dict.fromkeys(r["stage"] for r in rows)}
    assert list(stages) == ["images, 2D", "clouds, lifted", "clouds, lifted, own statistics", "head"]
    assert all("wasserstein" not in row for row in stages["images, 2D"])
    assert all(row["wasserstein"] > 0 for row in stages["head"])
    lifted, tuned = ([r["nc1_trace_ratio"] for r in stages[s]] for s in ("clouds, lifted", "head"))
    assert lifted == pytest.approx(tuned)  # training the head alone leaves every feature as it was
    own = [r["nc1_trace_ratio"] for r in stages["clouds, lifted, own statistics"]]
    assert own[:2] != pytest.approx(lifted[:2])  # the norms of the body now know clouds
    assert all(("probe" in row) == (row["split"] == "test") and 0 <= row.get("probe", 0) <= 1 for row in rows)
    assert len({row["probe"] for row in rows if row["split"] == "test"}) > 1
    assert "decay of C_l per layer" in (configs / "out" / "follow" / "table.md").read_text()


def test_shapes_seen_as_images_and_lifted(configs: Path) -> None:
    transfer = {**TRANSFER, "data": {**TRANSFER["data"], "class_split": {}}}
    write(configs, "shapes.yaml", transfer)
    shown = {key: transfer["data"][key] for key in ("name", "synthetic")}
    write(
        configs,
        "depth.yaml",
        {**PRETRAIN, "images": {"name": "clouds", "size": 24, "clouds": {**shown, "validation": 0}}},
    )
    values = {"kind": "follow", "images": "depth.yaml", "arms": {"io+norm": "shapes.yaml"}, "layers": ["layer?.0"]}
    write(configs, "follow_rendered.yaml", {**values, "images": "pretrain.yaml"})
    with pytest.raises(InputError, match=r"pretrain\.yaml has images\.name = rendered; take seeds away"):
        run_study(configs / "follow_rendered.yaml", ("seeds=[1]",), configs / "out")
    path = write(configs, "follow_shapes.yaml", values)
    rows = check(run_study(path, (), configs / "out"))
    assert len(rows) == 4 * 2 * 4
    shots = ("settings=[data.shots=3]", "image_settings=[images.clouds.shots=3]", "name=seeded")
    place = run_study(path, (*shots, "seeds=[1, 2]"), configs / "out")
    both = check(place)
    assert [row["seed"] for row in both] == [1] * len(rows) + [2] * len(rows)
    for seed in (1, 2):
        kept = json.loads((place / "runs" / f"shapes_seed{seed}" / "summary.json").read_text())
        assert kept["seed"] == seed and kept["data"]["shots"] == 3
    pictures = [row["nc1_trace_ratio"] for row in both if row["stage"] == "images, 2D" and row["split"] == "train"]
    assert pictures[:4] != pytest.approx(pictures[4:]), "each seed shows its own shots"
    mean = np.mean([row["probe"] for row in both if row["stage"] == "io+norm" and row["layer"] == "layer2.0"
                    and row["split"] == "test"])  # fmt: skip
    by_layer = (place / "table.md").read_text().split("| layer |")[1]
    (line,) = [line for line in by_layer.splitlines() if line.startswith("| layer2.0 |")]
    assert f" {100 * mean:.1f}; " in line.split("|")[-2]
    write(configs, "follow_run.yaml", {**values, "arms": {"run": str(place / "runs" / "shapes_seed1")}})
    with pytest.raises(InputError, match="seeds: the arm run is a finished run, which has its seed"):
        run_study(configs / "follow_run.yaml", ("seeds=[1]",), configs / "out")


def test_a_setting_of_pretraining_is_varied(configs: Path) -> None:
    values = {
        "kind": "pretraining", "pretrain": "pretrain.yaml", "vary": {"images.class_split.base": [2, 4]}, "seeds": [1],
        "episodes": {"ways": [3], "shots": [1], "queries": 4, "episodes": 10, "classifiers": ["ncc"]},
        "samples": 4, "probes": 2, "transfer": "transfer.yaml", "transfer_settings": ["finetune.policy=head"],
    }  # fmt: skip
    rows = check(run_study(write(configs, "vary.yaml", values), (), configs / "out"))
    assert [row["value"] for row in rows] == ["2", "4"]
    for row in rows:
        assert row["complexity"] > 0 and row["novel_cdnv_raw"] > 0
        assert 0 <= row["3-way 1-shot, ncc"] <= 1 and 0 <= row["transfer_accuracy"] <= 1
    runs = configs / "out" / "vary" / "runs"
    assert len(json.loads((runs / "base_2_seed1" / "summary.json").read_text())["images"]["classes"]) == 2


def test_a_network_that_belongs_to_two_settings_is_trained_once(configs: Path) -> None:
    usual = PRETRAIN["training"]["batch_size"]
    values = {
        "kind": "pretraining", "pretrain": "pretrain.yaml", "seeds": [1, 2], "samples": 4, "probes": 2,
        "vary": {"training.batch_size": [usual, 2 * usual], "training.weight_decay": [0.1, 1e-4]},
        "settings": ["training.weight_decay=1e-4"],
        "episodes": {"ways": [3], "shots": [1], "queries": 4, "episodes": 10, "classifiers": ["ncc"]},
    }  # fmt: skip
    rows = check(run_study(write(configs, "twice.yaml", values), (), configs / "out"))
    assert len(rows) == 8
    assert [row["run"] for row in rows if row["value"] == "0.0001"] == [f"batch_size_{usual}_seed{n}" for n in (1, 2)]
    assert len(list((configs / "out" / "twice" / "runs").glob("*/summary.json"))) == 6
    told = (configs / "out" / "twice" / "table.md").read_text()
    assert "all, 6 networks" in told and "training.batch_size, 4 networks" in told


def test_settings_of_pretraining_change_together_and_with_the_seed(configs: Path) -> None:
    values = {
        "kind": "pretraining", "pretrain": "pretrain.yaml", "seeds": [1, 2], "samples": 6, "probes": 2,
        "seeded": ["images.class_split.seed"], "transfer": "transfer.yaml",
        "transfer_seeded": ["data.class_split.seed"], "transfer_settings": ["data.class_split.novel=3"],
        "vary": {"images.class_split.base, images.train_per_class": [[2, 6], [3, 4]]},
        "episodes": {"ways": [2], "shots": [1], "queries": 3, "episodes": 10, "classifiers": ["ncc"]},
    }  # fmt: skip
    rows = check(run_study(write(configs, "both.yaml", values), (), configs / "out"))
    assert [(row["value"], row["seed"]) for row in rows] == [("2, 6", 1), ("2, 6", 2), ("3, 4", 1), ("3, 4", 2)]
    shown, clouds = [], []
    for row in rows:
        run = configs / "out" / "both" / "runs" / row["run"]
        told = json.loads((run / "summary.json").read_text())["images"]
        assert told["train"] == 12, "as many images, whatever the number of classes"
        assert len(told["classes"]) == int(row["value"][0])
        shown.append(told["classes"])
        clouds.append(json.loads((run.parent / f"{run.name}_clouds" / "summary.json").read_text())["data"]["classes"])
    assert shown[0] != shown[1] and clouds[0] != clouds[1], "another seed, other classes"
    assert clouds[0] == clouds[2]
    for names in ("training.lr,", "training.lr, training.lr"):
        with pytest.raises(InputError, match="expected different settings with commas between them"):
            read_study(write(configs, "one.yaml", {**values, "vary": {names: [[0.1, 2]]}}))
    with pytest.raises(InputError, match=r"expects lists of 2 values, one for each, found \[2\]"):
        read_study(write(configs, "one.yaml", {**values, "vary": {"training.lr, training.epochs": [[2]]}}))


def test_geometric_collapse_does_not_change_with_the_scale_of_the_features(
    configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "kind": "pretraining", "pretrain": "pretrain.yaml", "vary": {"training.lr": [0.01]}, "seeds": [1],
        "samples": 6, "probes": 2, "episodes": {"ways": [3], "shots": [1], "queries": 4, "episodes": 10},
    }  # fmt: skip
    study = read_study(write(configs, "smooth.yaml", values))
    (row,) = check(run_study(configs / "smooth.yaml", (), configs / "out"))
    subject = open_subject(configs / "out" / "smooth" / "runs" / row["run"])
    embed = subject.network.embed
    monkeypatch.setattr(subject.network, "embed", lambda x: tuple(3 * each for each in embed(x)), raising=False)
    monkeypatch.setattr(pretraining, "gathered", lambda found: {k: 3 * v for k, v in gathered(found).items()})
    scaled = pretraining.measured(subject, study)
    assert scaled["complexity"] == pytest.approx(9 * row["complexity"], rel=1e-3)
    assert scaled["geometric_collapse"] == pytest.approx(row["geometric_collapse"], rel=1e-3)


def test_partial_rank_correlation_takes_out_a_third_quantity() -> None:
    rng = np.random.default_rng(0)
    common, a, b = rng.normal(size=(3, 400))
    rows = [{"a": x, "b": y, "c": z} for x, y, z in zip(common + a, common + b, common, strict=True)]
    assert pretraining.rank_correlation(rows, "a", "b") > 0.4
    assert abs(pretraining.rank_correlation(rows, "a", "b", at="c")) < 0.15
    assert math.isnan(pretraining.rank_correlation(rows, "a", "b", at="a"))


def test_a_mean_over_seeds_is_undefined_where_one_is_stored_or_not() -> None:
    for undefined in (math.nan, None):
        found = over_seeds([{"x": undefined}, {"x": 1.0}, {"x": 2.0}], "x")
        assert found is not None and math.isnan(found.value)
    assert over_seeds([{"y": 1.0}], "x") is None


def test_rank_correlation_is_spearmans() -> None:
    rows = [{"a": a, "b": b} for a, b in ((1.0, 10.0), (2.0, 20.0), (3.0, 15.0), (4.0, 40.0))]
    assert pretraining.rank_correlation(rows, "a", "b") == pytest.approx(0.8)
    tied = [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 3.0}]
    assert pretraining.rank_correlation(tied, "a", "b") == pytest.approx(0.8660254)


def test_every_study_in_the_project_can_be_read() -> None:
    found = [p for p in sorted(CONFIGS.glob("*.yaml")) if "kind:" in p.read_text()]
    kinds = {type(read_study(path)) for path in found}
    assert kinds == set(studies.STUDIES.values())
    for path in found:
        chosen = read_study(path)
        for name in ("pretrain", "transfer", "images"):
            other = getattr(chosen, name, None)
            assert other is None or (path.parent / other).is_file(), f"{path.name} names {other}"
        assert all((path.parent / other).is_file() for other in getattr(chosen, "arms", {}).values())


def test_unknown_kinds_and_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kind should be one of few-shot, follow, pretraining, rank, unconstrained"):
        read_study(write(tmp_path, "x.yaml", {"kind": "few"}))
    with pytest.raises(InputError, match=r"unknown key rations .*did you mean ratios\?"):
        read_study(write(tmp_path, "y.yaml", {"kind": "unconstrained", "rations": [1]}))
