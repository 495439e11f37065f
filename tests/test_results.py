"""docs/results.md says what its rows give."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from image2point.experiments.study import run_study

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import result_cells  # noqa: E402
import result_claims as claims  # noqa: E402
import result_policies  # noqa: E402
import result_rows  # noqa: E402
import result_studies  # noqa: E402
import result_tables  # noqa: E402
import results  # noqa: E402


def test_the_page_is_what_the_rows_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["--check"]) == 0, capsys.readouterr().out


def page_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: dict[str, list[float]]) -> Path:
    """A page of claims with one claim, and rows of its two arms."""
    page, rows = tmp_path / "results.md", tmp_path / "rows"
    rows.mkdir()
    page.write_text("# Results\n<!-- results: claims -->\n<!-- end -->\n")
    runs = [
        {"arm": arm, "policy": "io", "seed": seed, "test_accuracy": value}
        for arm, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    (rows / "some.json").write_text(json.dumps({"rows": runs}))
    sides = {"larger": {"arm": "a", "policy": "io"}, "smaller": {"arm": "b"}}
    claim = {"claim": "a beats b", "source": "us", "table": "t", "anchor": "t", "rows": "some", **sides}
    (rows / "claims.json").write_text(json.dumps([{**claim, "value": "test_accuracy"}]))
    monkeypatch.setattr(results, "PAGE", page)
    monkeypatch.setattr(results, "STORED", {"some", "ends", "unconstrained"})
    monkeypatch.setattr(result_rows, "ROWS", rows)
    return page


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ({"a": [0.5, 0.6, 0.55], "b": [0.4, 0.49, 0.45]}, "| supported | +10.3 points [+8.9, +11.8] over 3 seeds"),
        ({"b": [0.5, 0.6, 0.55], "a": [0.4, 0.49, 0.45]}, "| contradicted | -10.3 points"),
        ({"a": [0.5, 0.6, 0.55], "b": [0.4, 0.62, 0.45]}, "| undecided | +6.0 points"),
        ({"a": [0.5], "b": [0.4]}, "| undecided: one seed | +10.0 points, no interval"),
        ({"a": [0.5]}, "| undecided: not yet run | – |"),
    ],
)
def test_a_verdict_is_that_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: dict[str, list[float]], verdict: str
) -> None:
    page = page_and_rows(tmp_path, monkeypatch, accuracies)
    assert results.main(["--check"]) == 1
    assert results.main([]) == 0 and verdict in page.read_text()
    assert results.main(["--check"]) == 0


def test_a_claim_waits_for_the_seeds_that_were_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_and_rows(tmp_path, monkeypatch, {"a": [0.5, 0.6, 0.55], "b": [0.4, 0.49, 0.45]})
    (claim,) = json.loads((tmp_path / "rows" / "claims.json").read_text())
    for planned, words in ((4, "| undecided: 3 of 4 planned seeds | +10.3 points [+8.9, +11.8] over 3 seeds |"),
                           (3, "| supported | +10.3 points [+8.9, +11.8] over 3 seeds, p = ")):  # fmt: skip
        (tmp_path / "rows" / "claims.json").write_text(json.dumps([{**claim, "seeds": planned}]))
        assert results.main([]) == 0 and words in page.read_text()


def test_claims_that_come_later_change_no_verdict_of_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_and_rows(tmp_path, monkeypatch, {"a": [0.5, 0.6, 0.55], "b": [0.4, 0.485, 0.45]})
    (claim,) = json.loads((tmp_path / "rows" / "claims.json").read_text())

    def lines(*batches: str) -> list[str]:
        listed = [{**claim, "claim": f"claim {i}", "batch": batch} for i, batch in enumerate(batches)]
        (tmp_path / "rows" / "claims.json").write_text(json.dumps(listed))
        assert results.main([]) == 0
        return [line for line in page.read_text().splitlines() if line.startswith("| claim ")]

    (alone,) = lines("first")[1:]
    assert "Holm of 1" in alone
    first, *later = lines("first", "next", "next", "next")[1:]
    assert first == alone and all("Holm of 3" in line for line in later)
    assert "Holm of 2" in lines("first", "first")[1]


def test_what_has_no_unit_is_compared_by_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_and_rows(tmp_path, monkeypatch, {"a": [2.0, 4.0, 3.0], "b": [1.0, 1.9, 1.5]})
    (claim,) = json.loads((tmp_path / "rows" / "claims.json").read_text())
    (tmp_path / "rows" / "claims.json").write_text(json.dumps([{**claim, "ratio": True}]))
    assert results.main([]) == 0 and "| supported | 2.03 times [1.89, 2.19] over 3 seeds, p = " in page.read_text()
    kept = json.loads((tmp_path / "rows" / "some.json").read_text())["rows"]
    kept[0]["test_accuracy"] = 0.0  # no ratio to it
    (tmp_path / "rows" / "some.json").write_text(json.dumps({"rows": kept}))
    assert results.main([]) == 0 and "| undecided: undefined in seed 0 | – |" in page.read_text()


def test_an_arm_that_learnt_nothing_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_and_rows(tmp_path, monkeypatch, {"a": [0.5, 0.6, 0.55], "b": [0.02, 0.03, 0.02]})
    kept = json.loads((tmp_path / "rows" / "some.json").read_text())["rows"]
    kept[-1]["learnt"] = False
    (tmp_path / "rows" / "some.json").write_text(json.dumps({"rows": kept}))
    assert results.main([]) == 0
    words = "| undecided: the arm b learnt nothing, which proves nothing | +52.7 points ["
    assert words in page.read_text() and "(Holm" not in page.read_text()


def test_a_value_that_is_undefined_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_and_rows(tmp_path, monkeypatch, {"a": [0.5, None, 0.55], "b": [0.4, 0.49, 0.45]})  # type: ignore[list-item]
    assert results.main([]) == 0 and "| undecided: undefined in seed 1 | – |" in page.read_text()


def test_several_rows_of_a_seed_are_no_arm() -> None:
    rows = [{"arm": "a", "seed": 1, "x": 0.5, "until": until} for until in (None, "layer2")]
    with pytest.raises(ValueError, match="2 rows of 1 seeds have"):
        result_rows.by_seed(rows, {"arm": "a"}, "x")
    assert result_rows.by_seed(rows, {"arm": "a", "until": None}, "x") == {1: 0.5}


def test_rules_of_claims_take_what_studies_may_give() -> None:
    episode = {"classifier": "ncc", "accuracy": 0.8, "ways": 5, "shots": 5}
    assert claims.RULES["foretold"]([episode, {**episode, "predicted": None}])[0] == claims.NOT_YET
    assert claims.RULES["foretold"]([{**episode, "predicted": 0.22}])[0] == "supported"
    assert claims.RULES["foretold"]([{**episode, "predicted": 0.26}])[0] == "contradicted"
    assert claims.RULES["vacuous"]([episode])[0] == claims.NOT_YET
    assert claims.RULES["vacuous"]([{**episode, "galanti": 7.0, "directional": 0.0}])[0] == "contradicted"
    assert claims.RULES["vacuous"]([{**episode, "galanti": 7.0, "directional": 1.0, "moment": 0.1}])[0] == "supported"
    layers = [{"stage": "all", "split": "train", "nc1_trace_ratio": value} for value in (8.0, 4.0, 2.0, 1.0)]
    assert claims.RULES["decay"](layers)[0] == "supported"
    assert (
        claims.RULES["decay"]([{**layers[0], "nc1_trace_ratio": v} for v in (8.0, 1.0, 9.0, 2.0)])[0] == "contradicted"
    )
    undefined = [*layers[:2], *({**layers[0], "nc1_trace_ratio": None} for _ in range(2))]
    assert claims.RULES["decay"](undefined)[0] == "undecided: undefined"


def test_rows_that_no_table_takes_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page_and_rows(tmp_path, monkeypatch, {"a": [0.5, 0.6, 0.55], "b": [0.4, 0.49, 0.45]})
    study, stored = tmp_path / "study", tmp_path / "rows" / "some.json"
    study.mkdir()
    before = stored.read_text()
    for content, why in (
        ('[{"arm": "a", "policy": "io"}]', "its 1 rows make no table some (KeyError: "),
        ("[{", "expected the JSON of a study"),
    ):
        (study / "rows.json").write_text(content)
        assert results.main(["--take", "some", str(study)]) == 2 and stored.read_text() == before
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1
    stored.unlink()
    (study / "rows.json").write_text('[{"arm": "a", "policy": "io"}]')
    assert results.main(["--take", "some", str(study)]) == 2 and not stored.exists()
    (study / "rows.json").rename(study / "other.json")
    assert results.main(["--take", "some", str(study)]) == 2
    assert results.main(["--take", "some", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "other.json: expected the JSON of a study, of" in said and "expected a folder of runs" in said
    (study / "rows.json").write_text(json.dumps(json.loads(before)["rows"]))
    assert results.main(["--take", "some", str(study)]) == 0 and len(json.loads(stored.read_text())["rows"]) == 6


def test_more_runs_stand_beside_those_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page_and_rows(tmp_path, monkeypatch, {"a": [0.5, 0.6], "b": [0.4, 0.49]})
    stored, more = tmp_path / "rows" / "some.json", tmp_path / "more"
    more.mkdir()
    new = [{"arm": arm, "policy": "io", "seed": 2, "test_accuracy": 0.5} for arm in "ab"]
    (more / "rows.json").write_text(json.dumps(new))
    assert results.main(["--add", "some", str(more)]) == 0
    kept = json.loads(stored.read_text())["rows"]
    assert len(kept) == 6 and kept[4:] == new
    assert results.main(["--add", "some", str(more)]) == 2 and json.loads(stored.read_text())["rows"] == kept
    said = capsys.readouterr().err
    assert "2 of 2 rows are of runs that are there already, the first of arm a, seed 2, policy io: leave" in said
    (more / "rows.json").write_text(json.dumps([{**new[0], "seed": 3}] * 2))
    assert results.main(["--add", "some", str(more)]) == 2 and "2 of 2 rows" in capsys.readouterr().err
    (more / "rows.json").write_text(json.dumps([{"candidate": "c", "shot_seed": 1}]))
    assert results.main(["--add", "some", str(more)]) == 2 and "expected rows of runs" in capsys.readouterr().err
    for wrong in ("other", "", "../some", "claims"):
        assert results.main(["--add", wrong, str(more)]) == 2
        assert "expected the name of an experiment, one of" in capsys.readouterr().err
    (more / "study.yaml").write_text("kind: unconstrained\n")
    assert results.main(["--add", "some", str(more)]) == 2 and "expected rows of runs" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["a digit of a table", "a number in the text"])
def test_what_no_row_gives_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    page = page_and_rows(tmp_path, monkeypatch, {"a": [0.5, 0.6, 0.55], "b": [0.4, 0.49, 0.45]})
    results.main([])
    text = page.read_text()
    page.write_text(
        text.replace("+10.3", "+10.4") if change.startswith("a digit") else f"{text}\nIt gains 12.5 points.\n"
    )
    assert results.main(["--check"]) == 1


def test_tuned_parameters_stand_beside_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies by the number that trains, with the share of the gap between `io+norm` and `all` that each closes."""
    found = {"io+norm": (100, 0.4), "all": (5000, 0.6), "io+norm+lora:4": (300, 0.5), "io": (50, 0.3)}
    rows = [
        {"arm": "ImageNet", "policy": policy, "seed": seed, "trainable": tuned, "parameters": 5000, "nc1": None,
         "test_accuracy": accuracy + shift * (2 if "lora" in policy else 1), "chosen_lr": 0.1, "seconds": 60}
        for policy, (tuned, accuracy) in found.items()
        for seed, shift in ((1, -0.01), (2, 0.01), (3, 0.0))
    ]  # fmt: skip
    monkeypatch.setattr(result_policies, "stored", lambda name: rows if name == "tune_less" else [])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result_policies.tune_less().splitlines()[2:]]
    assert [line[1] for line in lines] == ["io", "io+norm", "io+norm+lora:4", "all"]
    assert [line[2] for line in lines] == ["50", "100", "300", "5,000"] and [line[3] for line in lines][2:] == [
        "6",
        "100",
    ]
    assert (
        [line[6] for line in lines] == ["-50", "0", "50", "100"]
        and lines[2][4].startswith("50.0 [")
        and lines[2][5] == "1: 48.0, 2: 52.0, 3: 50.0"
    )
    added = [line[7] for line in lines]
    assert added[0] == added[1] == added[3] == "–" and added[2].startswith("+10.0 [")
    rows[3 * list(found).index("io+norm+lora:4")]["learnt"] = False
    dead = result_policies.tune_less().splitlines()
    assert "] † | 1: 48.0 †, 2: 52.0, 3: 50.0 |" in dead[4] and "[+" not in dead[4] and dead[-1].startswith("† ")
    rows[:] = [row for row in rows if row["policy"] == "io"]
    assert "| undefined | 30.0 [" in result_policies.tune_less()


def run_row(arm: str, policy: str, seed: int, accuracy: float, **more: object) -> dict[str, object]:
    return {"arm": arm, "policy": policy, "seed": seed, "test_accuracy": accuracy, "trainable": 100, "parameters": 5000,
            "nc1": None, "chosen_lr": 0.1, "seconds": 60} | more  # fmt: skip


def test_a_chosen_block_stands_between_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [run_row("ImageNet", policy, 1, accuracy) for policy, accuracy in (("io+norm", 0.4), ("all", 0.6))]
    other = run_row("random", "all", 1, 0.9)
    own = [
        run_row("ImageNet", "layer:auto", seed, 0.55, block=block, trainable=tuned)
        for seed, block, tuned in ((2, "blocks.6.0", 300), (1, "blocks.0.0", 150))
    ]
    kept = {"fair_ten_shots": [*ends, other]}
    monkeypatch.setattr(result_policies, "stored", lambda name: kept.get(name, []))
    assert result_policies.one_block() == result_cells.NOTHING
    kept["collapse_guided"] = own
    lines = result_policies.one_block()
    assert "random" not in lines
    (line,) = [line.split(" | ") for line in lines.splitlines() if "layer:auto" in line]
    assert line[1] == "layer:auto (blocks.0.0, blocks.6.0)" and line[2] == "150 to 300" and line[6] == "75"


def test_networks_that_end_early_stand_beside_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"whole": [run_row("ImageNet", policy, 1, 0.5) for policy in ("all", "io+norm")]}
    kept["whole"] += [run_row("scratch", "all", 1, 0.4)]
    monkeypatch.setattr(result_tables, "stored", lambda name: kept.get(name, []))
    assert result_tables.ending_early("part", "whole", ["ImageNet"]) == result_cells.NOTHING
    kept["part"] = [run_row("ImageNet", "io+norm", 1, 0.6, until=f"blocks.{n}", trainable=9) for n in (3, 2)]
    lines = [line.split(" | ") for line in result_tables.ending_early("part", "whole", ["ImageNet"]).splitlines()[2:]]
    assert [line[1:4] for line in lines] == [
        ["io+norm", "`blocks.2`", "9"],
        ["io+norm", "`blocks.3`", "9"],
        ["io+norm", "the whole", "100"],
        ["all", "the whole", "100"],
    ]
    assert len(result_tables.ending_early("part", "whole", ["ImageNet", "scratch"]).splitlines()) == 7


def test_where_training_clouds_let_a_network_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page_and_rows(tmp_path, monkeypatch, {"a": [0.5]})
    monkeypatch.setitem(results.TABLES, "ends", result_studies.ends)
    assert result_studies.ends() == result_cells.NOTHING
    folder = tmp_path / "ends"
    folder.mkdir()
    for draw, scores in ((1, (0.2, 0.5, 0.4)), (2, (0.3, 0.35, 0.45))):
        named = [("net", []), *((f"net, until b{i}", [f"network.until=b{i}"]) for i in (1, 2))]
        found = [
            {"name": name, "settings": ["network.arch=net", *more], "scores": {"probe": score}, "nulls": {}}
            for (name, more), score in zip(named, scores, strict=True)
        ]
        ranking = {"overrides": ["data.root=/home/someone", f"data.shot_seed={draw}"], "candidates": found}
        (folder / f"{draw}.json").write_text(json.dumps(ranking))
    assert results.main(["--take", "ends", str(folder)]) == 0
    assert "someone" not in (tmp_path / "rows" / "ends.json").read_text()
    assert result_studies.ends().splitlines()[2:] == [
        "| the whole | 20.0 | 30.0 | 25.0 |",
        "| `b1` | **50.0** | 35.0 | 42.5 |",
        "| `b2` | 40.0 | **45.0** | 42.5 |",
    ]


def test_shapes_per_class_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"fair_ten_shots": [run_row("ImageNet", "all", seed, 0.6, shots=10) for seed in (1, 2)]}
    kept["fair_ten_shots"] += [run_row("ImageNet", "io", 1, 0.9, shots=10)]
    monkeypatch.setattr(result_tables, "stored", lambda name: kept.get(name, []))
    assert result_tables.shots() == result_cells.NOTHING
    kept["shots"] = [
        run_row("ImageNet", "all", 1, 0.2, shots=1, chosen_lr=0.3),
        run_row("random", "io+norm", 1, 0.1, shots=20, learnt=False),
    ]
    lines = [line.split(" | ") for line in result_tables.shots().splitlines()]
    assert lines[0][2:5] == ["1 per class (%)", "10 per class (%)", "20 per class (%)"]
    assert lines[2][2:] == ["20.0 (1)", "60.0 [60.0, 60.0] (2)", "–", "0.3, 0.1; 0.1, – |"]
    assert lines[3][2:] == ["–", "–", "10.0 † (1)", "–, –, 0.1 |"] and len(lines) == 6


def test_rules_of_inflation_are_held_against_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        "fair_ten_shots": [
            *(run_row("ImageNet", "io+norm", seed, 0.5 + 0.01 * seed) for seed in (1, 2, 3)),
            *(run_row("ImageNet", "all", seed, 0.9) for seed in (1, 2, 3)),
        ],
    }
    monkeypatch.setattr(result_tables, "stored", lambda name: kept.get(name, []))
    assert result_tables.inflation() == result_cells.NOTHING
    kept["inflation"] = [run_row("repeat", "io+norm", seed, 0.4 + 0.001 * seed) for seed in (1, 2, 3)]
    _, _, mean, repeat = (line.split(" | ") for line in result_tables.inflation().splitlines())
    assert mean[0] == "| mean" and mean[1].startswith("52.0 [") and mean[3] == "–"
    assert repeat[0] == "| repeat" and repeat[3].startswith("-11.8 [")


@pytest.mark.parametrize(("gained", "verdict"), [(0.02, "contradicted | -8.0"), (0.15, "supported | +5.0")])
def test_an_arm_can_be_held_against_the_middle_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gained: float, verdict: str
) -> None:
    low, shift = [0.4, 0.45, 0.41], (0.0, 0.001, -0.001)
    accuracies = {
        "a": [value + gained + other for value, other in zip(low, shift, strict=True)],
        "b": low,
        "c": [*(value + 0.2 for value in low), 0.9],  # a seed that the others lack counts nowhere
    }
    page = page_and_rows(tmp_path, monkeypatch, accuracies)
    claims = json.loads((tmp_path / "rows" / "claims.json").read_text())
    claims[0]["smaller"] = [{"arm": "b"}, {"arm": "c"}]
    (tmp_path / "rows" / "claims.json").write_text(json.dumps(claims))
    assert results.main([]) == 0 and f"| {verdict} points [" in page.read_text()
    kept = json.loads((tmp_path / "rows" / "some.json").read_text())["rows"]
    kept[-1]["learnt"] = False
    (tmp_path / "rows" / "some.json").write_text(json.dumps({"rows": kept}))
    assert results.main([]) == 0 and "| undecided: the arm c learnt nothing" in page.read_text()


def test_how_soon_an_arm_is_right_stands_beside_its_score(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = {
        1: [[0, 0.0, 0.02], [1, 10.0, 0.7], [2, 1020.0, 0.86], [3, 1030.0, 0.84]],
        2: [[0, 0.0, 0.02], [1, 9, 0.6]],
    }
    rows = [
        {"arm": "a", "policy": "all", "seed": seed, "trainable": 1000, "test_accuracy": 0.8 + seed / 100,
         "chosen_lr": 0.1, "validated": curve, "seconds_per_step": 0.5}
        for seed, curve in curves.items()
    ]  # fmt: skip
    monkeypatch.setattr(result_tables, "stored", lambda name: rows if name == "full_modelnet40" else [])
    line = [cell.strip() for cell in result_tables.full_modelnet40().splitlines()[2].split("|")[1:-1]]
    assert line[2:4] == ["1,000", "100"] and line[5:8] == ["1: 81.0, 2: 82.0", "0.1, 0.1", "86.00 (2), 60.00 (1)"]
    assert line[8:12] == [
        "1 (10 s); not reached",
        "2 (1,020 s); not reached",
        "2 (1,020 s); not reached",
        "not reached; not reached",
    ]


def test_what_depth_learnt_has_a_line_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The range over seeds, and the mean deviation over channels where these have numbers of their own."""
    shared = [
        {
            "arm": "ImageNet",
            "policy": policy,
            "trainable": 9,
            "depth": {"stem": [0.3, 0.4, low], "body": [1.0, 0.0, 0.0]},
        }
        for policy, low in (("io+norm+depth", 0.1), ("io+norm+depth", 0.2), ("io+depth", 9.0))
    ]
    own = {"arm": "ImageNet", "policy": "io+norm+depth:channels", "trainable": 99, "depth": shared[0]["depth"]}
    rows = [*shared, *({**own, "depth_spread": {"stem": [1.0, 1.0, sd], "body": [0.0] * 3}} for sd in (2.0, 4.0))]
    monkeypatch.setattr(result_policies, "stored", lambda name: rows if name == "tune_less" else [])
    head, _, stem, body = result_policies.learnt_depth().splitlines()
    assert head == "| layer | ImageNet, io+norm+depth | ImageNet, io+norm+depth:channels |" and "`body`" in body
    assert "| 0.30 [0.30, 0.30], 0.40 [0.40, 0.40], 0.15 [0.10, 0.20] | 0.30 ± 1.00, 0.40 ± 1.00, 0.10 ± 3.00 |" in stem


def test_each_kind_of_regularised_transfer_is_held_against_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"l2_sp": (0.6, 0.71, 0.65), "none": (0.5, 0.6, 0.55), "etf": (0.5, 0.59, 0.57)}
    rows = [
        {"arm": arm, "seed": seed, "test_accuracy": accuracy, "chosen_lr": 0.1, "nc1": 2.0, "nc1_null": 4.0,
         "nc1_null_sd": 0.1, "nc1_trace_ratio_corrected": None if arm == "etf" and seed == 2 else 1.5,
         "mebibytes": 700.0 + seed, "seconds_per_step": None if arm == "etf" else 0.25 + seed}
        for arm, accuracies in found.items()
        for seed, accuracy in enumerate(accuracies)
    ]  # fmt: skip
    monkeypatch.setattr(result_tables, "stored", lambda name: rows if name == "regularised" else [])
    of_none = partial(result_tables.against, "regularised", "none")
    none, pulled, frame = ([cell.strip() for cell in line.split("|")[1:-1]] for line in of_none().splitlines()[2:])
    assert (
        none[1].startswith("55.0 [")
        and none[2] == "0: 50.0, 1: 60.0, 2: 55.0"
        and none[3] == "–"
        and none[7:] == ["701", "1.25"]
    )
    assert pulled[3].startswith("+10.3 [+8.9, +11.8], p = ") and pulled[5].startswith("4 ± 0.1: 0.50; 4")
    assert frame[3].startswith("+0.3 [") and frame[6] == "1.5, 1.5, undefined" and frame[8] == "–"
    rows[-1]["seconds_per_step"] = 0.5
    assert of_none().splitlines()[-1].endswith("| 0.50 (1 of 3) |")  # of the runs that kept it
    rows[0]["labelled"], rows[1]["labelled"] = [6456, 0.774], [9043, None]
    head, _, plain, pulled, *_ = (line.split(" | ") for line in of_none().splitlines())
    assert head[4] == "labels taken, right (%)" and plain[4] == "–; –; –"
    assert pulled[4] == "6,456, 77.4; 9,043, undefined; –"
    rows.clear()
    assert of_none() == result_cells.NOTHING


def test_a_study_is_stored_with_what_was_asked_and_without_the_folders_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_and_rows(tmp_path, monkeypatch, {"a": [0.5]})
    monkeypatch.setitem(results.TABLES, "unconstrained", lambda: result_studies.study("unconstrained"))
    assert result_studies.study("unconstrained") == result_cells.NOTHING
    (tmp_path / "ufm.yaml").write_text(
        "{kind: unconstrained, classes: [4], ratios: [1], seeds: [0, 1], losses: [ce], per_class: 2}"
    )
    place = run_study(tmp_path / "ufm.yaml", (), tmp_path / "studies")
    kept = (place / "study.yaml").read_text()
    (place / "study.yaml").write_text(kept + "image_settings: [images.root=/home/someone]\n")
    assert results.main(["--take", "unconstrained", str(place)]) == 0
    stored = (tmp_path / "rows" / "unconstrained.json").read_text()
    assert "someone" not in stored and json.loads(stored)["study"]["per_class"] == 2
    assert result_studies.study("unconstrained") == (place / "table.md").read_text()
    assert "The largest over 2 starting points" in result_studies.study("unconstrained")
