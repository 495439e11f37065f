"""docs/results.md holds no number that a person typed: its tables are written from the rows in docs/results/*.json.

    python scripts/results.py                               # write the tables and figures again
    python scripts/results.py --check                       # exit code 1 where the page is not what the rows give
    python scripts/results.py --take fair_ten_shots runs/fair_ten_shots     # rows of finished runs, or of a study
    python scripts/results.py --take unconstrained studies/unconstrained

A table stands between `<!-- results: NAME -->` and `<!-- end -->`, NAME one of `TABLES`. Outside of tables,
commands and code, the page may say no decimal and no per cent: a number belongs into a table, where rows give it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import result_figures
import result_tables as tables
import yaml
from result_claims import claims
from safetensors.torch import load_file

from image2point import __version__
from image2point.errors import InputError
from image2point.files import write_text
from image2point.report.read import Record, read_runs
from image2point.runs import Run
from image2point.sweeps.selection import run_folders

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)
TYPED = re.compile(r"\d+\.\d+|\d+\s?%")
UNFIT = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What tables raise on rows that are not theirs."""

TABLES: dict[str, Callable[[], str]] = {
    "claims": claims,
    "fair_ten_shots": partial(tables.ten_shots, "fair_ten_shots", "point_network"),
    "confirm_ten_shots": partial(tables.ten_shots, "confirm_ten_shots"),
    "shots": tables.shots,
    "full_modelnet40": tables.full_modelnet40,
    "tune_less": tables.tune_less,
    "learnt_depth": tables.learnt_depth,
    "regularised": partial(tables.against, "regularised", "none"),
    "ends": tables.ends,
    "cut": partial(tables.ending_early, "cut", "fair_ten_shots", ["ImageNet"]),
    "confirm_cut": partial(
        tables.ending_early, "confirm_cut", "confirm_ten_shots", ["ImageNet", "shuffled", "random", "scratch"]
    ),
    "inflation": tables.inflation,
    "one_block": tables.one_block,
    "semi_supervised": partial(tables.against, "semi_supervised", "alone"),
    "label_noise": tables.label_noise,
    **{f"lidar_{split}": partial(tables.lidar, split) for split in ("same_town", "other_sites", "km")},
    "lidar_same_town_networks": tables.lidar_networks,
    "lidar_tune_less": partial(tables.tune_less, ("lidar_tune_less",), "test_miou"),
    "lidar_collapse": tables.lidar_collapse,
    **{
        name: partial(tables.study, name)
        for name in ("unconstrained", "follow_lite0", "few_shot_lite0", "few_shot_lite0_all")
    },
    **{name: partial(tables.study, name) for name in ("source_classes", "complexity")},
    "follow_layers": tables.follow_layers,
}


def take(name: str, folder: Path, page: str) -> None:
    """Store the rows of a study, or of the finished runs in a folder; not where the page's tables do not take them."""
    rows = rows_in(folder)
    content = {"taken": date.today().isoformat(), "image2point": __version__, **study_of(folder), "rows": rows}
    target = tables.ROWS / f"{name}.json"
    before = target.read_text(encoding="utf-8") if target.is_file() else None
    write_text(target, as_json(content))
    try:
        written(page)
    except BaseException as error:
        if before is None:
            target.unlink()
        else:
            write_text(target, before)
        if not isinstance(error, UNFIT):
            raise
        raise InputError(
            f"{folder}: its {len(rows)} rows make no table {name} ({type(error).__name__}: {error}); {target.name} is "
            "as it was: give the name of the experiment that these rows are of"
        ) from None
    print(f"{len(rows)} rows in {target}")


def as_json(content: Mapping[str, Any]) -> str:
    """JSON with a line for each row, numbers to seven digits; without limits that are undefined."""
    head = json.dumps({**content, "rows": []}, indent=1)
    kept = ({k: v for k, v in row.items() if v is not None or "/" not in k} for row in content["rows"])
    rows = ",\n".join(f"  {json.dumps(short(row))}" for row in kept)
    return head.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


def short(value: Any) -> Any:
    """Nested values with their numbers to seven digits."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: short(each) for key, each in value.items()}
    return [short(each) for each in value] if isinstance(value, list) else value


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """Rows of a study, of what was measured, or of the finished runs in a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of runs, of a study or of measures, found none")
    study = folder / "rows.json"
    measured = [study] if study.is_file() else sorted(folder.glob("*.json"))
    rows = [] if measured else runs_in(folder)
    for path in measured:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows += content if path == study else ranked_in(content) if "candidates" in content else layers_in(content)
        except UNFIT as error:
            raise InputError(
                f"{path}: expected the JSON of a study, of `image2point measure` or of `rank`, found {error!r}; make "
                "it again, or take it away"
            ) from None
    return rows


def study_of(folder: Path) -> dict[str, Any]:
    """The study of a folder, if it is one, without settings, which name the machine's folders."""
    path = folder / "study.yaml"
    if not path.is_file():
        return {}
    asked = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"study": {key: value for key, value in asked.items() if not key.endswith("settings")}}


def runs_in(folder: Path) -> list[dict[str, Any]]:
    return [row_of(run) for run in read_runs(run_folders([folder]))]


def spread_of_depth(run: Record) -> dict[str, list[float]]:
    """By layer, the standard deviation over channels of the numbers by which they fill each slice of the depth."""
    weights = load_file(Run(run.path).weights)
    return {layer: weights[f"{layer}.depth"].double().std(0).tolist() for layer in run.summary.depth}


def validated(run: Record) -> list[list[float]]:
    """Epoch, seconds of training until then, and accuracy on the validation clouds, of each epoch that has one."""
    columns = zip(*(run.metrics[name] for name in ("epoch", "seconds", "validation_accuracy")), strict=True)
    return [[int(epoch), float(seconds), float(score)] for epoch, seconds, score in columns if score == score]


def layers_in(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each split and layer of what `image2point measure RUN --json` wrote."""
    run = Path(measured["target"]).name
    return [
        {
            "run": run,
            "split": split,
            "layer": layer,
            "values": found["values"],
            "errors": {name: interval["error"] for name, interval in found["intervals"].items()},
            "shares": {name: null["share"] for name, null in found["nulls"].items()},
            "closest": each.get("closest", {}).get(layer),
        }
        for split, each in measured["on"].items()
        for layer, found in each["layers"].items()
    ]


def ranked_in(ranking: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each candidate of what `image2point rank --json` wrote, with the block with which it ends."""
    given = dict(text.partition("=")[::2] for text in ranking["overrides"])
    return [
        {
            "candidate": each["name"],
            "shot_seed": int(given.get("data.shot_seed", 0)),
            "until": dict(text.partition("=")[::2] for text in each["settings"]).get("network.until"),
            **each["scores"],
        }
        for each in ranking["candidates"]
    ]


def row_of(run: Record) -> dict[str, Any]:
    """What the tables need of a run, and nothing about the machine's folders."""
    summary, settings = run.summary, run.settings
    test = summary.collapse.get("test", {})
    measured = {key: value for key, value in test.items() if key.partition("_null")[0] in ("nc1", "cdnv")}
    corrected = {key: test.get(key) for key in ("nc1_trace_ratio_corrected", "cdnv_median")}
    keys = (
        *("network.arch", "network.rule", "network.control", "network.decoder"),
        *("finetune.policy", "data.shots", "data.shot_seed", "training.epochs"),
    )
    return {
        "arm": summary.arm,
        "seed": summary.seed,
        **{key.partition(".")[2]: settings[key] for key in keys},
        **({"until": until} if (until := settings.get("network.until")) else {}),
        **({"depth": summary.depth} if summary.depth else {}),
        **({"depth_spread": spread_of_depth(run)} if "depth:channels" in summary.policy else {}),
        **({"block": summary.policy.partition(":")[2]} if settings["finetune.policy"].endswith(":auto") else {}),
        **({"labelled": [taught.taken, taught.right]} if (taught := summary.teacher) else {}),
        "trainable": summary.parameters.trainable,
        "parameters": summary.parameters.total,
        "chosen_lr": summary.chosen_lr,
        "trials": [[trial.lr, trial.epochs, trial.order[0] if trial.order else None] for trial in summary.trials],
        **({"validated": found} if summary.task == "classification" and (found := validated(run)) else {}),
        **{key: value for key, value in summary.final.items() if key.startswith("test_")},
        **({"per_class": summary.per_class} if summary.task == "segmentation" else {}),
        **measured,
        **corrected,
        **({"commit": found} if (found := summary.environment.get("commit")) else {}),
        "learnt": not any("nothing was learnt" in warning for warning in summary.warnings),
        "seconds": round(summary.seconds.total),
        "seconds_per_step": summary.seconds_per_step,
        "mebibytes": summary.mebibytes.training,
    }


def written(page: str) -> str:
    """The page with its tables as the rows give them."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[4]}", page)


def typed_numbers(page: str) -> list[str]:
    """Numbers that stand outside of tables, commands and code, with their lines."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n")

    rest = CODE.sub(blank, BLOCK.sub(blank, page))
    return [
        f"line {number}: {found[0]}"
        for number, line in enumerate(rest.splitlines(), start=1)
        for found in TYPED.finditer(line)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where the page is not right")
    parser.add_argument("--take", nargs=2, metavar=("NAME", "FOLDER"), help="store the rows of runs, or of a study")
    given = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    if given.take:
        try:
            take(given.take[0], Path(given.take[1]), page)
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
    right = written(page)
    typed = typed_numbers(page)
    for each in typed:
        print(f"{PAGE.name} has a number that no row gives, {each}")
    if given.check:
        lines = difflib.unified_diff(page.splitlines(), right.splitlines(), "the page", "its rows", lineterm="", n=0)
        print("\n".join(lines))
        return int(right != page or bool(typed))
    write_text(PAGE, right)
    result_figures.draw()
    return int(bool(typed))


if __name__ == "__main__":
    sys.exit(main())
