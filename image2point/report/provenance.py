"""What each run recorded of itself, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from image2point.report.numbers import ABSENT, duration
from image2point.report.read import Record


def details(run: Record) -> str:
    """Weights, data, time and environment of a run, and its config, folded away under its name."""
    summary = run.summary
    facts: dict[str, Any] = {
        "run": summary.name,
        "arm": summary.arm,
        "seed": str(summary.seed),
        "network": summary.network.model_dump(),
        "weights": summary.weights,
        "data": summary.data.model_dump(exclude={"classes"}),
        "chosen epoch": summary.chosen_epoch,
        "chosen by": summary.chosen_by,
        "time": {key: duration(value) for key, value in summary.seconds.model_dump().items()},
        "environment": summary.environment,
    }
    entries = "".join(
        f"<dt>{escape(key)}</dt><dd>{f'<code>{escape(value)}</code>' if key.endswith('sha256') else escape(value)}</dd>"
        for key, value in _flat(facts)
    )
    return (
        f"<details><summary>{escape(summary.name)}</summary><dl>{entries}</dl><pre>{escape(run.config)}</pre></details>"
    )


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text) pairs; an inner mapping of plain values is one pair."""
    if isinstance(value, Mapping):
        if "." in name and not any(isinstance(item, Mapping) for item in value.values()):
            return [(name, ", ".join(f"{key} {_plain(item)}" for key, item in value.items()))]
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}" if name else str(key))]
    return [(name, _plain(value))]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or ABSENT
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ABSENT if value is None else str(value)
