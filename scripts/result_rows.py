"""The rows of docs/results/*.json, by which docs/results.md stands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from image2point.config.studies import STUDIES

ROWS = Path(__file__).resolve().parent.parent / "docs" / "results"
Row = Mapping[str, Any]


def content_of(name: str) -> dict[str, Any]:
    """What is stored of an experiment: its rows, and the study that made them if it is one."""
    path = ROWS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}


def stored(name: str) -> list[dict[str, Any]]:
    """The rows of an experiment; none where it has not been run."""
    return content_of(name)["rows"]


def asked_of(name: str) -> Any:
    """The study that made the rows."""
    asked = content_of(name)["study"]
    return STUDIES[asked["kind"]].model_validate(asked)


def by_seed(rows: Sequence[Row], wanted: Row, key: str) -> dict[int, float]:
    """A number of the rows that have the wanted values, by seed; NaN where it is undefined. ValueError where a seed has
    several such rows: more has to be wanted."""
    own = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    if len({row["seed"] for row in own}) < len(own):
        raise ValueError(f"{len(own)} rows of {len({row['seed'] for row in own})} seeds have {wanted}")
    return {row["seed"]: math.nan if row[key] is None else row[key] for row in own}


def learnt(row: Row) -> bool:
    """Whether a run came away from guessing; rows taken before that was stored are taken to have."""
    return bool(row.get("learnt", True))


def policies_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each arm and policy, arms in their order and policies by the number of parameters that train."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (arms.index(row["arm"]), row["trainable"])):
        found.setdefault((row["arm"], row["policy"]), []).append(row)
    return found
