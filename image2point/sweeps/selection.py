"""Which runs a table is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from image2point.config.reading import parse_yaml
from image2point.errors import InputError
from image2point.report.read import Record
from image2point.storage import fetched

_MISSING = object()


def run_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Run directories: those given, and the finished ones in folders that are none themselves.

    Raises:
        InputError: where a folder is missing or has no finished run.
    """
    found: list[Path] = []
    for path in map(fetched, paths):
        if (path / "config.yaml").is_file():
            found.append(path)
            continue
        inside = sorted(p.parent for p in path.glob("*/summary.json") if not p.parent.name.startswith("."))
        if not inside:
            raise InputError(f"{path} is neither a run nor a folder with finished runs")
        found += inside
    return found


def select(runs: Iterable[Record], conditions: Sequence[str]) -> list[Record]:
    """The runs for which every `setting=value` holds, the value as YAML.

    Raises:
        InputError: where a condition is none, or no run is left.
    """
    kept = list(runs)
    for text in conditions:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--where {text!r} should be setting=value, for example network.rule=repeat")
        try:
            wanted = parse_yaml(value)
        except yaml.YAMLError as error:
            raise InputError(f"--where {text!r}: the value is no YAML ({error}); give setting=value") from None
        kept = [run for run in kept if run.settings.get(name, _MISSING) == wanted]
    if not kept:
        raise InputError(f"no run has {' and '.join(conditions) or 'been given'}")
    return kept
