"""Tables of many runs, checked against numbers worked out by hand."""

from __future__ import annotations

import io
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from rich.console import Console
from run_records import record

from image2point import InputError
from image2point.report.read import Record
from image2point.sweeps import table as tables
from image2point.sweeps.command import _settings, table
from image2point.sweeps.comparison import compared, detectable, holm
from image2point.sweeps.pivot import pivot, value_of
from image2point.sweeps.selection import run_folders, select

ACCURACY = {
    ("repeat", "io"): (0.50, 0.52, 0.54),
    ("repeat", "all"): (0.60, 0.61, 0.66),
    ("mean", "all"): (0.59, 0.60, 0.66),
}


@pytest.fixture
def runs() -> list[Record]:
    return [
        record(test_accuracy=value, settings={"network.rule": rule, "finetune.policy": policy, "seed": seed})
        for (rule, policy), values in ACCURACY.items()
        for seed, value in enumerate(values)
    ]


def test_cells_have_mean_and_spread_over_seeds(runs: list[Record]) -> None:
    found = pivot(runs, ["network.rule"], ["finetune.policy"], "final.test_accuracy")
    cell = found.cells[("repeat",), ("io",)]
    assert cell.mean == pytest.approx(0.52)
    assert cell.spread("sd") == pytest.approx(0.02)
    assert cell.spread("interval") == pytest.approx(4.302653 * 0.02 / math.sqrt(3), rel=1e-6)
    assert ((("mean",), ("io",))) not in found.cells
    assert found.rows == (("repeat",), ("mean",)) and found.columns == (("io",), ("all",))


def test_the_best_is_marked_and_so_is_what_the_test_does_not_tell_from_it(runs: list[Record]) -> None:
    found = pivot(runs, ["network.rule"], ["finetune.policy"], "final.test_accuracy")
    assert found.best == (("repeat",), ("all",))
    # Differences to the best: 0.10, 0.09, 0.12 (t = 11.7, p = 0.007), and 0.01, 0.01, 0 (t = 2, p = 0.18).
    assert found.level == {(("mean",), ("all",))}
    (line,) = [line for line in tables.comparison_lines(found) if "policy=io" in line]
    assert line.startswith("best against network.rule=repeat, finetune.policy=io: +10.3 points [+6.54, +14.1] over 3")
    assert "p = 0.014 (Holm)" in line  # twice 0.0072
    least = pivot(runs, ["network.rule"], ["finetune.policy"], "final.test_accuracy", best="min")
    assert least.best == (("repeat",), ("io",))
    assert pivot(runs, ["network.rule"], ["finetune.policy"], "final.test_accuracy", best="none").best is None


def test_one_seed_is_not_called_the_same_as_the_best(runs: list[Record]) -> None:
    single = [run for run in runs if run.settings["seed"] == 0]
    found = pivot(single, ["network.rule"], ["finetune.policy"], "final.test_accuracy")
    assert found.best and not found.level
    assert found.cells[("repeat",), ("io",)].spread("sd") is None
    assert tables.note(found, "sd") == "test accuracy (%), one run per cell; bold: best"


def test_a_setting_that_is_a_list_reads_as_one() -> None:
    found = pivot([record(0.5, {"data.features": ["xyz", "height"]})], ["data.features"], [], "final.test_accuracy")
    assert found.rows == (("xyz, height",),)


def test_formats(runs: list[Record]) -> None:
    found = pivot(runs, ["network.rule"], ["finetune.policy"], "final.test_accuracy")
    assert tables.format_pivot(found, "markdown") == (
        "| network.rule | io | all |\n|---|---:|---:|\n"
        "| repeat | 52.0 ± 2.0 | **62.3 ± 3.2** |\n| mean | – | 61.7 ± 3.8 † |\n"
    )
    assert str(tables.format_pivot(found, "latex")).splitlines() == [
        "% It needs no package.",
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{lrr}",
        r"\hline",
        r" & \multicolumn{2}{c}{test accuracy (\%) by finetune.policy} \\",
        r"\cline{2-3}",
        r"network.rule & io & all \\",
        r"\hline",
        r"repeat & $52.0 \pm 2.0$ & $\mathbf{62.3} \pm 3.2$ \\",
        r"mean & -- & $61.7 \pm 3.8{}^\dagger$ \\",
        r"\hline",
        r"\end{tabular}",
        r"\caption{Test accuracy (\%), mean $\pm$ s.d. over 3 runs per cell; bold: best, $\dagger$: not told from it "
        r"by a paired t-test at 5 \%, corrected by Holm.}",
        r"\end{table}",
    ]
    lines = str(tables.format_pivot(found, "csv")).splitlines()
    assert lines[0] == "network.rule,finetune.policy,seeds,final.test_accuracy"
    assert len(lines) == 10 and "repeat,all,2,0.66" in lines
    assert "3 runs per cell" in tables.note(found, "sd")


def test_runs_of_one_cell_may_differ_in_seeds_only(runs: list[Record]) -> None:
    with pytest.raises(InputError, match=r"differ in finetune.policy; add that to --rows"):
        pivot(runs, ["network.rule"], [], "final.test_accuracy")
    with pytest.raises(InputError, match="have the same seeds"):
        pivot([*runs, runs[0]], ["network.rule"], ["finetune.policy"], "final.test_accuracy")


def test_unknown_names_are_refused_with_a_hint(runs: list[Record]) -> None:
    with pytest.raises(InputError, match=r"no setting 'rule'; did you mean network.rule"):
        pivot(runs, ["rule"], ["finetune.policy"], "final.test_accuracy")
    with pytest.raises(InputError, match=r"no setting 'network.rules'; did you mean network.rule"):
        pivot(runs, ["network.rules"], ["finetune.policy"], "final.test_accuracy")
    with pytest.raises(InputError, match=r"no number 'test_accuracy'; it has final.test_accuracy"):
        pivot(runs, ["network.rule"], ["finetune.policy"], "test_accuracy")


def test_what_a_run_did_not_measure_is_no_number(runs: list[Record]) -> None:
    without = replace(runs[0], summary=runs[0].summary.model_copy(update={"collapse": {"test": {"nc1": None}}}))
    assert value_of(without, "collapse.test.nc1") is None
    table = pivot([without, *runs[1:3]], ["network.rule"], [], "collapse.test.nc1")
    assert math.isnan(table.cells[("repeat",), ()].mean)  # of three seeds, one is undefined
    assert "| repeat | undefined |" in str(tables.format_pivot(table, "markdown"))
    assert [line.split(",")[-1] for line in str(tables.format_pivot(table, "csv")).splitlines()[1:]] == [
        "nan",
        "2.5",
        "2.5",
    ]


def test_names_are_text_in_every_format() -> None:
    names = ("=cmd()", "a|b<i>", "50_%", "[red]x\x1b[2J", "-0.5")
    found = pivot([record(0.5, {"arm": name, "seed": 0}) for name in names], ["arm"], [], "final.test_accuracy")
    lines = str(tables.format_pivot(found, "csv")).splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["'=cmd()", *names[1:]]
    assert r"| a\|b&lt;i> |" in str(tables.format_pivot(found, "markdown"))
    assert r"50\_\% &" in str(tables.format_pivot(found, "latex"))
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system=None).print(tables.format_pivot(found, "terminal"))
    assert r"[red]x\x1b[2J" in stream.getvalue() and "\x1b" not in stream.getvalue()


@pytest.mark.skipif(which("latex") is None, reason="no latex on PATH; Debian's texlive-latex-base brings it")
def test_tables_compile_with_plain_latex(runs: list[Record], tmp_path: Path) -> None:
    """Every printable character of ASCII in names, letters and signs beyond it, and numbers of all sizes."""
    odd = ("".join(map(chr, range(33, 127))), "[a] * é Ł", "→ ± 猫", "a & b \\\\ c", "--x`")
    named = [record(0.1**k, {"arm": name, "seed": 0}) for k, name in enumerate(odd)]
    pivots = [
        pivot(runs, ["network.rule"], ["finetune.policy"], "final.test_accuracy"),
        pivot(runs, ["network.rule", "finetune.policy"], [], "final.test_accuracy"),
        pivot(named, ["arm"], [], "final.test_accuracy", best="none"),
        replace(pivot(named, ["seed"], ["arm"], "final.test_accuracy"), value="some_50_%_value"),
    ]
    parts = [str(tables.format_pivot(each, "latex", spread)) for each in pivots for spread in ("sd", "interval")]
    page = "\n".join([r"\documentclass{article}", r"\begin{document}", *parts, r"\end{document}"])
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["latex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert said.returncode == 0, said.stdout[-2000:]
    assert "Missing character" not in said.stdout and "\n!" not in said.stdout


def test_runs_are_chosen_by_their_settings(runs: list[Record]) -> None:
    assert len(select(runs, ["network.rule=repeat", "seed=1"])) == 2
    with pytest.raises(InputError, match="no run has seed=9"):
        select(runs, ["seed=9"])
    with pytest.raises(InputError, match="should be setting=value"):
        select(runs, ["seed"])
    with pytest.raises(InputError, match=r"--where 'seed=\[1': the value is no YAML"):
        select(runs, ["seed=[1"])
    with pytest.raises(InputError, match="--slurm 'a=2021-13-45': the value is no YAML"):
        _settings(["a=2021-13-45"])


@pytest.mark.parametrize("order", [1, -1])
def test_runs_of_several_tasks_need_a_value(
    runs: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    other = replace(runs[0], summary=runs[0].summary.model_copy(update={"task": "segmentation"}))
    monkeypatch.setattr("image2point.report.read.read_runs", lambda _: [runs[1], other][::order])
    monkeypatch.setattr("image2point.sweeps.selection.run_folders", lambda _: [])
    with pytest.raises(InputError, match="of the tasks classification and segmentation: give --value or runs of one"):
        table([tmp_path], rows="seed")


def test_folders_stand_for_the_finished_runs_in_them(tmp_path: Path) -> None:
    for name, files in {"a": ["config.yaml", "summary.json"], "b": ["config.yaml"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    assert run_folders([tmp_path]) == [tmp_path / "a"]
    assert run_folders([tmp_path / "b"]) == [tmp_path / "b"]
    with pytest.raises(InputError, match="neither a run nor a folder"):
        run_folders([tmp_path / "a" / "b"])


def test_a_plot_that_cannot_be_written_is_said_before_the_table(tmp_path: Path) -> None:
    run, held = Path(__file__).parents[1] / "runs" / "before_tasks", tmp_path / "file"
    held.touch()
    with pytest.raises(InputError, match=r"file/x\.svg cannot be written: .*; choose another place"):
        table([run], rows="seed", plot=held / "x.svg")


def test_the_paired_test_is_the_one_of_the_books() -> None:
    rng = np.random.default_rng(0)
    best, other = rng.normal(0.6, 0.1, 8), rng.normal(0.5, 0.1, 8)
    difference = best - other
    error = difference.std(ddof=1) / math.sqrt(8)
    (found,) = compared([(dict(enumerate(best)), dict(enumerate(other)))])
    assert found is not None and found.seeds == 8
    assert found.told_apart is bool(abs(difference.mean() / error) > 2.364624)  # t of 7 degrees of freedom at 0.975
    assert found.effect.value == pytest.approx(difference.mean())
    assert found.effect.high - found.effect.value == pytest.approx(2.364624 * error, rel=1e-6)


def test_seeds_are_compared_one_by_one() -> None:
    """A small gain at every seed counts, however much the seeds differ; a large mean gain at one of them does not."""
    spread_out = dict(enumerate((0.9, 0.6, 0.3, 0.1)))
    behind = {seed: value - 0.02 - 0.001 * seed for seed, value in spread_out.items()}
    mixed = dict(enumerate((0.1, 0.6, 0.4, 0.2)))
    one, other = compared([(spread_out, behind), (spread_out, mixed)])
    assert one is not None and one.verdict == "larger"
    assert other is not None and other.verdict == "undecided"
    assert compared([(spread_out, {0: 0.5}), (spread_out, {0: 0.5, 1: math.nan})]) == [None, None]


def test_two_seeds_make_no_test() -> None:
    """Here they agree by chance, as accuracies of a few clouds do; the others are corrected as if it were not there."""
    even = {0: 0.5, 1: 0.6}, {0: 0.4, 1: 0.5}
    first, second = {0: 1.0, 1: 1.2, 2: 1.1}, {0: 0.5, 1: 0.9, 2: 0.7}
    two, three = compared([even, (first, second)])
    assert two is not None and two.effect.value == pytest.approx(0.1) and two.verdict == "undecided"
    assert not two.tested and math.isnan(two.effect.low) and [three] == compared([(first, second)])


def test_differences_that_agree_at_all_seeds_make_no_test() -> None:
    """As accuracies of few clouds do by chance; a rounding error apart, they would give p = 1e-32."""
    for first, second in (
        ({0: 0.25, 1: 0.5, 2: 0.75}, {0: 0.0, 1: 0.25, 2: 0.5}),
        ({0: 0.1 + 0.2, 1: 0.3 + 0.4, 2: 0.7 + 0.1}, {0: 0.3 - 0.1, 1: 0.7 - 0.1, 2: 0.8 - 0.1}),
    ):
        (found,) = compared([(first, second)])
        assert found is not None and found.verdict == "undecided" and not found.tested and math.isnan(found.effect.low)
    same = [
        record(value, {"arm": arm, "seed": s})
        for arm, more in (("a", 0), ("b", 0.25))
        for s, value in enumerate((more, 0.25 + more, 0.5 + more))
    ]
    (line,) = tables.comparison_lines(pivot(same, ["arm"], [], "final.test_accuracy"))
    assert line == "best against arm=a: +25 points over 3 seeds, the same at all, so that nothing can be tested"


def test_what_shares_no_seeds_with_the_best_is_not_taken_for_worse() -> None:
    values = {("a", 1): 0.5, ("a", 2): 0.6, ("a", 3): 0.52, ("b", 4): 0.4, ("b", 5): 0.5, ("b", 6): 0.45, ("c", 1): 0.4}
    values |= {("d", s): a for s, a in ((1, 0.1), (2, 0.21), (3, 0.11))} | {("e", 1): math.nan}
    found = pivot(
        [record(v, {"arm": arm, "seed": s}) for (arm, s), v in values.items()], ["arm"], [], "final.test_accuracy"
    )
    assert {key[0][0] for key in found.level} == {"b", "c"}
    lines = tables.comparison_lines(found)
    assert [line for line in lines if "not compared" in line] == [
        f"best against arm={arm}: not compared, since they share fewer than two seeds" for arm in ("b", "c")
    ]
    assert "arm=d: +4" in lines[0] and len(lines) == 3


def test_p_values_are_corrected_for_their_number() -> None:
    ps = [0.01, 0.02, 0.04]
    assert holm(ps) == pytest.approx([0.03, 0.04, 0.04]) and holm(ps[::-1]) == pytest.approx([0.04, 0.04, 0.03])
    first, second = {0: 1.0, 1: 1.2, 2: 1.1}, {0: 0.5, 1: 0.9, 2: 0.7}
    alone, together = compared([(first, second)])[0], compared([(first, second)] * 3)[0]
    assert alone is not None and together is not None and together.p == pytest.approx(3 * alone.p)


def test_what_a_few_seeds_can_find_is_found_four_times_in_five() -> None:
    shift, rng = detectable(2.0, 5), np.random.default_rng(0)
    drawn = rng.normal(shift, 2.0, (4000, 5))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / math.sqrt(5))
    assert (np.abs(t) > 2.776445).mean() == pytest.approx(0.8, abs=0.02)
