"""docs/results.md holds no number that a person typed: its tables are written from the rows in docs/results/*.json.

    python scripts/results.py                               # write the tables and figures again
    python scripts/results.py --check                       # exit code 1 where the page is not what the rows give
    python scripts/results.py --take fair_ten_shots runs/fair_ten_shots     # rows of finished runs, or of a study
    python scripts/results.py --take unconstrained studies/unconstrained
    python scripts/results.py --add shots runs/shots        # more runs of an experiment that is there

A table stands between `<!-- results: NAME -->` and `<!-- end -->`, NAME one of `TABLES`. Outside of tables,
commands and code, the page may say no decimal and no per cent: a number belongs into a table, where rows give it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import result_figures
import result_lidar
import result_policies
import result_rows
import result_studies
import result_tables
from result_claims import claims
from result_taken import UNFIT, rows_in, study_of

from image2point import __version__
from image2point.errors import InputError
from image2point.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)
TYPED = re.compile(r"\d+\.\d+|\d+\s?%")
RUN = ("arm", "seed", "arch", "rule", "control", "decoder", "policy", "shots", "shot_seed", "epochs", "until")
"""What tells the row of a run from those of others in its experiment."""

TABLES: dict[str, Callable[[], str]] = {
    "claims": claims,
    "fair_ten_shots": partial(result_tables.ten_shots, "fair_ten_shots", "point_network"),
    "confirm_ten_shots": partial(result_tables.ten_shots, "confirm_ten_shots"),
    "shots": result_tables.shots,
    "full_modelnet40": result_tables.full_modelnet40,
    "tune_less": result_policies.tune_less,
    "learnt_depth": result_policies.learnt_depth,
    "regularised": partial(result_tables.against, "regularised", "none"),
    "ends": result_studies.ends,
    "cut": partial(result_tables.ending_early, "cut", "fair_ten_shots", ["ImageNet"]),
    "confirm_cut": partial(
        result_tables.ending_early, "confirm_cut", "confirm_ten_shots", ["ImageNet", "shuffled", "random", "scratch"]
    ),
    "inflation": result_tables.inflation,
    "one_block": result_policies.one_block,
    "semi_supervised": partial(result_tables.against, "semi_supervised", "alone"),
    "label_noise": result_studies.label_noise,
    **{f"lidar_{split}": partial(result_lidar.lidar, split) for split in ("same_town", "other_sites", "km")},
    "lidar_same_town_networks": result_lidar.lidar_networks,
    "lidar_tune_less": partial(result_policies.tune_less, ("lidar_tune_less",), "test_miou"),
    "lidar_collapse": result_lidar.lidar_collapse,
    **{
        name: partial(result_studies.study, name)
        for name in ("unconstrained", "follow_lite0", "few_shot_lite0", "few_shot_lite0_all")
    },
    **{name: partial(result_studies.study, name) for name in ("source_classes", "complexity")},
    "follow_layers": result_studies.follow_layers,
}


STORED = {
    *(set(TABLES) - {"claims", "one_block", "learnt_depth", "follow_layers"}),
    *("collapse_guided", "lidar_baseline", "point_network"),
}
"""Names of experiments, whose rows lie in docs/results."""


def take(name: str, folder: Path, page: str, add: bool = False) -> None:
    """Store the rows of a study, or of the finished runs in a folder, in place of the stored ones or (add) beside
    them; not where the page's tables do not take them."""
    if name not in STORED:
        raise InputError(f"expected the name of an experiment, one of {', '.join(sorted(STORED))}; found {name!r}")
    rows, study = rows_in(folder), study_of(folder)
    if add:
        rows = together(name, rows, study)
    content = {"taken": date.today().isoformat(), "image2point": __version__, **study, "rows": rows}
    target = result_rows.ROWS / f"{name}.json"
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


def together(name: str, rows: Sequence[Mapping[str, Any]], study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stored rows of runs and new ones, which are of other runs. InputError where one is of the same, or of a
    study, whose rows belong together."""
    there = result_rows.content_of(name)
    if study or "study" in there or not all("arm" in row for row in [*there["rows"], *rows]):
        raise InputError(f"{name}: expected rows of runs, found others, which are stored together: use --take")
    counts = Counter(map(run_of, [*there["rows"], *rows]))
    if twice := [row for row in rows if counts[run_of(row)] > 1]:
        named = ", ".join(f"{key} {value}" for key, value in zip(RUN, run_of(twice[0]), strict=True) if value)
        raise InputError(
            f"{name}: {len(twice)} of {len(rows)} rows are of runs that are there already, the first of {named}: "
            "leave them out of the folder, or use --take, which stores the folder's rows alone"
        )
    return [*there["rows"], *rows]


def run_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the row of a run from those of others."""
    return tuple(row.get(key) for key in RUN)


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
    ask = parser.add_mutually_exclusive_group()
    ask.add_argument("--check", action="store_true", help="change nothing; exit code 1 where the page is not right")
    ask.add_argument("--take", nargs=2, metavar=("NAME", "FOLDER"), help="store the rows of runs, or of a study")
    ask.add_argument("--add", nargs=2, metavar=("NAME", "FOLDER"), help="store rows of more runs beside those there")
    given = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    if named := given.take or given.add:
        try:
            take(named[0], Path(named[1]), page, add=not given.take)
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
