"""From a config with a section `sweep` to the runs that it stands for.

    base: ../modelnet40/efficientnet_lite0_io_norm_10shot.yaml
    sweep:
      - network.rule: [repeat, center]          # two values,
      - seed: [1, 2, 3]                         # times three,
        data.shot_seed: [1, 2, 3]               # fields of one entry move together: 2 · 3 = 6 runs

Entries are multiplied. A single entry is thus a plain list of runs, and several entries with one field each a grid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point.config import Config
from image2point.errors import InputError

LONGEST_NAME = 200  # of a folder: what file systems allow, less room for suffixes


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: its config, named by the values that `settings` holds."""

    config: Config
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.config.name


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, in the order in which they are started."""

    name: str
    runs: tuple[Planned, ...]


def read_sweep(path: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """The runs that a config file with a section `sweep` describes; overrides hold for each of them.

    Raises:
        InputError: on a section that is no list of fields with values, fields of one entry with unequal numbers of
            values, a field in two entries, a value that the config refuses, and runs that are the same.
    """
    values, origins = configuration.read(path)
    entries = _entries(values.pop("sweep", None), path)
    overrides = tuple(overrides)
    fixed = {text.partition("=")[0].strip() for text in overrides}
    swept = [field for entry in entries for field in entry]
    for field in swept:
        if field in fixed:
            raise InputError(f"{field} is given on the command line, but {path} sweeps over it; leave one of them out")
    runs = []
    for choice in product(*(_steps(entry) for entry in entries)):
        settings = {field: value for step in choice for field, value in step.items()}
        named = {**settings, "name": _label(settings, path)}
        config = configuration.resolve(values, origins, overrides, named, f"the sweep of {path}")
        runs.append(Planned(config, settings))
    _check_distinct(runs, path)
    name = str(values["name"])
    if name in {"", ".", ".."} or Path(name).name != name:
        raise InputError(f"name = {name!r} (in {path}) must be a plain folder name")
    return Sweep(name, tuple(runs))


def _entries(section: Any, path: str | Path) -> list[dict[str, list[Any]]]:
    form = "a list of entries such as `- network.rule: [repeat, mean]`"
    if section is None:
        raise InputError(f"{path} has no section `sweep`, {form}; a single run is `image2point transfer {path}`")
    if not isinstance(section, list) or not section or not all(isinstance(e, dict) and e for e in section):
        raise InputError(f"sweep (in {path}) should be {form}, found {section!r}")
    seen: set[str] = set()
    for entry in section:
        for field, choices in entry.items():
            if not isinstance(field, str):
                raise InputError(f"sweep: {field!r} (in {path}) should be the name of a setting, such as network.rule")
            if not isinstance(choices, list) or not choices:
                raise InputError(f"sweep: {field} (in {path}) should have a list of values, found {choices!r}")
            if field in seen:
                raise InputError(f"sweep: {field} (in {path}) is in two entries; write its values in one list")
            if field == "name":
                raise InputError(f"sweep: name (in {path}) is made from the values of each run; sweep over arm instead")
            seen.add(field)
        lengths = {field: len(choices) for field, choices in entry.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"sweep: fields of one entry move together, but in {path} they have "
                f"{', '.join(f'{n} values ({field})' for field, n in lengths.items())}; a field in an entry of its own "
                "is combined with all others"
            )
    return section


def _steps(entry: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(entry, values, strict=True)) for values in zip(*entry.values(), strict=True)]


def _label(settings: Mapping[str, Any], path: str | Path) -> str:
    """Name of a run: `rule=repeat,seed=1`, with dotted names only where two fields end alike."""
    short = {field: field.rpartition(".")[2] for field in settings}
    parts = []
    for field, value in settings.items():
        name = short[field] if list(short.values()).count(short[field]) == 1 else field
        parts.append(f"{name}={_text(value)}")
    label = ",".join(parts)
    if len(label.encode()) > LONGEST_NAME:
        raise InputError(
            f"the sweep of {path} gives a run a name of {len(label)} letters, {label[:60]}...; folders may have "
            f"{LONGEST_NAME}: sweep over fewer or shorter values"
        )

    return label


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(_text(item) for item in value)
    return re.sub(r"[^\w.+-]+", "-", str(value)).strip("-") or "empty"


def _check_distinct(runs: Sequence[Planned], path: str | Path) -> None:
    """No two runs may share a name or everything else."""
    names: dict[str, Planned] = {}
    contents: dict[str, Planned] = {}
    for run in runs:
        content = repr(run.config.model_copy(update={"name": "", "arm": ""}).model_dump(mode="json"))
        for table, key, what in ((names, run.name, "the same name"), (contents, content, "nothing to tell them apart")):
            other = table.setdefault(key, run)
            if other is not run:
                raise InputError(
                    f"the sweep of {path} has two runs with {what}: {_values(other)} and {_values(run)}; leave one out"
                )


def _values(run: Planned) -> str:
    return ", ".join(f"{field}={value}" for field, value in run.settings.items())
