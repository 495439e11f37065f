"""One question about collapse: the runs that it needs, what is measured on them, a table and a figure.

A study is a file of its own (configs/collapse/). Each kind is a module with three functions:

- `run(study, base, folder)` makes the runs that are not finished and gives rows, one for each thing that was measured;
- `table(study, rows)` and `figure(study, rows)` say them to people.

Everything goes to FOLDER/NAME: `study.yaml`, `rows.json`, `table.md`, `figure.svg`, `figure.pdf`, and `runs/`.
"""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point import files
from image2point.config.studies import STUDIES, _Study
from image2point.errors import InputError
from image2point.report import plots

Row = dict[str, Any]

MODULES = {
    "few-shot": "image2point.experiments.few_shot",
    "follow": "image2point.experiments.follow",
    "pretraining": "image2point.experiments.pretraining",
    "rank": "image2point.experiments.rank_study",
    "unconstrained": "image2point.experiments.unconstrained",
}


def load(path: Path, overrides: tuple[str, ...] = ()) -> _Study:
    """Read a study; InputError for an unknown kind, and as for any config."""
    values, origins = configuration.read(path)
    kind = values.get("kind")
    if kind not in STUDIES:
        raise InputError(f"{path}: kind should be one of {', '.join(STUDIES)}, found {kind!r}")
    return configuration.resolve_as(STUDIES[kind], values, origins, overrides)


def run(path: Path, overrides: tuple[str, ...] = (), folder: Path = Path("studies")) -> Path:
    """Do the study in the file at `path`; what is finished of it is kept. Returns its folder.

    Raises Interrupted where it was asked to stop; calling it again goes on from there.
    """
    study = load(path, overrides)
    module = import_module(MODULES[getattr(study, "kind")])  # noqa: B009
    place = folder / study.name
    rows = module.run(study, path.parent, place)
    files.write_text(place / "study.yaml", study.to_yaml())
    files.write_text(place / "rows.json", json.dumps([_plain(row) for row in rows], indent=1))
    table = module.table(study, rows)
    files.write_text(place / "table.md", table.markdown())
    for suffix in ("svg", "pdf"):
        plots.save_figure(module.figure(study, rows), place / f"figure.{suffix}")
    table.show()
    print(f"everything is in {place}")
    return place


def _plain(value: Any) -> Any:
    """The same for JSON, in which there is no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
