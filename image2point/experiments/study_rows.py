"""What studies measure, as plain rows, and how rows are picked and put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from image2point import collapse
from image2point.collapse import Interval

Row = dict[str, Any]


def over_seeds(rows: Sequence[Row], key: str) -> Interval | None:
    """The mean over seeds with its 95 % interval; of a single seed, the interval over its classes. Undefined where that
    of a seed is, which stored rows have as null."""
    values = [math.nan if row[key] is None else row[key] for row in rows if key in row]
    if not values:
        return None
    if len(values) == 1 and key == "accuracy":
        return Interval(values[0], float("nan"), rows[0]["low"], rows[0]["high"])
    return collapse.mean_interval(values)


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]
