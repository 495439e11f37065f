"""One question about collapse: the runs that it needs, what is measured on them, a table and a figure.

A study is a file of its own (configs/collapse/). Everything goes to FOLDER/NAME: `study.yaml`, `rows.json`, `table.md`,
`figure.svg`, `figure.pdf`, and `runs/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point import files
from image2point.config.studies import STUDIES, _Study
from image2point.errors import InputError
from image2point.experiments.few_shot import few_shot_figure, few_shot_rows, few_shot_table
from image2point.experiments.follow import follow_figure, follow_rows, follow_table, layers_table
from image2point.experiments.pretraining import pretraining_figure, pretraining_rows, pretraining_table
from image2point.experiments.rank_study import rank_study_figure, rank_study_rows, rank_study_table
from image2point.experiments.study_rows import Row
from image2point.experiments.unconstrained import unconstrained_figure, unconstrained_rows, unconstrained_table
from image2point.report import plots
from image2point.report.plain import Table
from image2point.units import ALONE, Crew


@dataclass(frozen=True)
class Kind:
    """A kind of study.

    rows: makes the runs that are not finished and gives a row for each thing that was measured, from the study, the
    folder of its file, the folder for its runs and the crew that measures; table, figure: say the rows to people;
    details: a longer table, which is written below the first and not printed.
    """

    rows: Callable[[Any, Path, Path, Crew], list[Row]]
    table: Callable[[Any, Sequence[Row]], Table]
    figure: Callable[[Any, Sequence[Row]], Any]
    details: Callable[[Any, Sequence[Row]], Table] | None = None


KINDS = {
    "few-shot": Kind(few_shot_rows, few_shot_table, few_shot_figure),
    "follow": Kind(follow_rows, follow_table, follow_figure, layers_table),
    "pretraining": Kind(pretraining_rows, pretraining_table, pretraining_figure),
    "rank": Kind(rank_study_rows, rank_study_table, rank_study_figure),
    "unconstrained": Kind(unconstrained_rows, unconstrained_table, unconstrained_figure),
}


def read_study(path: Path, overrides: tuple[str, ...] = ()) -> _Study:
    """Read a study; InputError for an unknown kind, and as for any config."""
    values, origins = configuration.read(path)
    kind = values.get("kind")
    if kind not in STUDIES:
        raise InputError(f"{path}: kind should be one of {', '.join(STUDIES)}, found {kind!r}")
    return configuration.resolve_as(STUDIES[kind], values, origins, overrides)


def run_study(path: Path, overrides: tuple[str, ...] = (), folder: Path = Path("studies"), crew: Crew = ALONE) -> Path:
    """Do the study in the file at `path`; what is finished of it is kept. Returns its folder.

    crew: measures, with the same numbers as this process alone; runs are trained by the processes that they ask for.

    Raises Interrupted where it was asked to stop; calling it again goes on from there.
    """
    study = read_study(path, overrides)
    kind = KINDS[study.kind]
    out = files.user_path(folder) / study.name
    rows = kind.rows(study, configuration.find(path).parent, out, crew)
    files.write_text(out / "study.yaml", study.to_yaml())
    files.write_text(out / "rows.json", json.dumps(files.finite(rows), indent=1))
    table = kind.table(study, rows)
    more = "" if kind.details is None else "\n" + kind.details(study, rows).markdown()
    files.write_text(out / "table.md", table.markdown() + more)
    for suffix in ("svg", "pdf"):
        plots.save_figure(kind.figure(study, rows), out / f"figure.{suffix}")
    table.show()
    print(f"everything is in {out}")
    return out
