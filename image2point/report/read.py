"""A run directory as typed, checked data. Nothing else of the report touches the disk to read."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from image2point import runs
from image2point.config.reading import parse_yaml
from image2point.datasets.arrays import read_arrays
from image2point.errors import InputError
from image2point.report.read_collapse import Geometry, LayerRow, read_geometry, read_layers
from image2point.report.read_scenes import Scene, point_counts, scenes_of
from image2point.report.summary import Network, Parameters, Part, Summary
from image2point.roles import DECODER, ORIGINS, ROLES
from image2point.storage import fetched
from image2point.tasks.confusion import Confusion
from image2point.tasks.confusion_file import read_confusion
from image2point.tasks.display import DISPLAYS
from image2point.tasks.predictions import CloudAnswer, read_predictions

MOST_PARAMETERS = 2**50
"""Of one tensor of a network."""


@dataclass(frozen=True)
class Examples:
    """Test clouds with what the run said about them: points float32 [n, P, 3], labels and predictions int64 [n]."""

    points: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray


@dataclass(frozen=True)
class Record:
    """What one finished run left behind.

    `config`: the resolved config, as text. `settings`: the same, flat, by dotted name.
    `metrics`: column of metrics.csv → float64 [epochs], NaN where the run measured nothing.
    `origins`: (role, origin) → number of parameters that lifting made so; counts numbers, not tensors.
    `layers`: the rows of layers.csv, none where no layers were followed. `geometry`: None where none was stored.
    `scenes`: of a segmentation, in place of `examples`. `confusion`: of its points, or of clouds; None of an older run.
    `answers`: what was said of each test cloud; none of a segmentation, and of an older run.
    """

    path: Path
    config: str
    settings: Mapping[str, Any]
    summary: Summary
    metrics: Mapping[str, np.ndarray]
    origins: Mapping[tuple[str, str], int]
    examples: Examples
    layers: tuple[LayerRow, ...] = ()
    geometry: Geometry | None = None
    scenes: tuple[Scene, ...] = ()
    confusion: Confusion | None = None
    answers: tuple[CloudAnswer, ...] = ()


def read_runs(paths: Iterable[str | Path]) -> list[Record]:
    """Read run directories, in the order given.

    Raises InputError naming the file where a run is missing, unfinished or damaged, and where one is given twice.
    """
    folders = [fetched(path) for path in paths]
    if not folders:
        raise InputError("a report needs at least one run directory; none was given")
    seen: dict[Path, Path] = {}
    for folder in folders:
        if (first := seen.setdefault(folder.resolve(), folder)) is not folder:
            raise InputError(f"{folder} is given twice (also as {first}); name each run once")
    return [read_run(folder) for folder in folders]


def read_run(folder: str | Path, summary: Mapping[str, Any] | None = None) -> Record:
    """Read one finished run directory; InputError names what is missing or damaged in it.

    summary: what its summary.json is about to say, of a run that is finished but for it.
    """
    run = runs.open_run(folder)
    config = _text(run.config)
    checked = _summary(run.summary, run.read_summary() if summary is None else json.loads(json.dumps(summary)))
    lifting = run.read_lifting()
    if isinstance(options := lifting.get("options"), dict):  # these have `auto` resolved
        resolved = {name: options[name] for name in ("rule", "axis", "substrate", "stem") if name in options}
        network = _checked(run.lifting, Network, {**checked.network.model_dump(), **resolved})
        checked = checked.model_copy(update={"network": network})
    classes = checked.data.classes
    examples, scenes = _examples(run.examples, len(classes))
    return Record(
        path=run.path,
        config=config,
        settings=_settings(run.config, config),
        summary=checked,
        metrics=_metrics(run.metrics),
        origins=_origins(run.lifting, lifting, checked.parameters),
        examples=examples,
        layers=read_layers(run.layers),
        geometry=read_geometry(run.geometry, len(classes)),
        scenes=scenes,
        answers=read_predictions(run.predictions, classes),
        confusion=point_counts(run.summary, checked.final, classes) or read_confusion(run.confusion, classes),
    )


def _text(path: Path) -> str:
    return runs.read_text(path, "a finished run has one; finish the run with --resume, or leave it out")


def _settings(path: Path, text: str) -> dict[str, Any]:
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold `key: value` lines, found a {type(content).__name__}")
    return dict(_flat(content))


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checked(path: Path, kind: type[Part], content: Mapping[str, Any]) -> Part:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"]) or "the whole file"
        raise InputError(f"{path}: field {field}: {first['msg']}, found {first['input']!r:.80}") from None


def _summary(path: Path, content: Mapping[str, Any]) -> Summary:
    summary = _checked(path, Summary, content)
    if summary.status != "finished":
        raise InputError(
            f"{path}: expected status 'finished', found {summary.status!r}; "
            "finish the run with --resume, or leave it out"
        )
    _check_scores(path, summary)
    if unknown := set(summary.per_class) - set(summary.data.classes):
        raise InputError(f"{path}: final.per_class names {sorted(unknown)}, which data.classes does not list")
    return summary


def _check_scores(path: Path, summary: Summary) -> None:
    """The scores under `final` are what the task says; InputError names the first that is not."""
    if summary.task not in DISPLAYS:
        raise InputError(f"{path}: field task: expected one of {', '.join(DISPLAYS)}, found {summary.task!r}")
    shares = {score.key: (summary.final.get(score.key), score.optional) for score in DISPLAYS[summary.task].scores}
    by_class = summary.final.get("per_class")
    if not isinstance(by_class, dict):
        raise InputError(f"{path}: field final.per_class: expected a share for each class, found {by_class!r:.80}")
    shares |= {f"per_class.{name}": (value, True) for name, value in by_class.items()}
    for key, (value, optional) in shares.items():
        known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        if not (known or (optional and value is None)):
            raise InputError(f"{path}: field final.{key}: expected a share in 0..1, found {value!r:.80}")


def _metrics(path: Path) -> dict[str, np.ndarray]:
    """Columns of metrics.csv, rows sorted by epoch; an empty cell is NaN."""
    reader = csv.DictReader(_text(path).splitlines())
    try:
        columns, lines = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if "epoch" not in columns:
        raise InputError(f"{path}: expected a column 'epoch' in the first line, found {list(columns)}")
    rows: list[list[float]] = []
    for line, row in enumerate(lines, start=2):
        if None in row or None in row.values():
            raise InputError(f"{path} line {line}: expected {len(columns)} cells; the line is cut short or too long")
        rows.append([_number(cell, f"{path} line {line}, column {column}") for column, cell in row.items()])
    if not rows:
        raise InputError(f"{path} holds no epoch; finish the run with --resume, or leave it out")
    table = np.array(rows, dtype=np.float64)
    epochs = table[:, columns.index("epoch")]
    if np.isnan(epochs).any() or len(np.unique(epochs)) != len(epochs):
        raise InputError(f"{path}: expected each epoch once, found {epochs.tolist()!s:.80}")
    table = table[np.argsort(epochs)]
    return {column: table[:, index] for index, column in enumerate(columns)}


def _number(cell: str, where: str) -> float:
    if not cell.strip():
        return math.nan
    try:
        return float(cell)
    except ValueError:
        raise InputError(f"{where}: expected a number, found {cell!r:.40}") from None


def _origins(path: Path, content: Mapping[str, Any], parameters: Parameters) -> dict[tuple[str, str], int]:
    """Count parameters by (role, origin), and hold the count against the summary's."""
    records = content.get("parameters")
    if not isinstance(records, list):
        raise InputError(f"{path}: expected a list 'parameters' with one record per parameter, found none")
    counts: dict[tuple[str, str], int] = {}
    for index, record in enumerate(records):
        try:
            role, origin, shape = record["role"], record["origin"], record["shape"]
            size = math.prod(int(length) for length in shape)
            if not 0 <= size <= MOST_PARAMETERS:
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{path}: parameters[{index}] needs role, origin, shape; found {record!r:.80}") from None
        known = (*ROLES, DECODER)
        if not (isinstance(role, str) and isinstance(origin, str) and role in known and origin in ORIGINS):
            raise InputError(
                f"{path}: parameters[{index}] has role {role!r} and origin {origin!r}; "
                f"known are {', '.join(known)} and {', '.join(ORIGINS)}"
            )
        counts[role, origin] = counts.get((role, origin), 0) + size
    if (found := sum(counts.values())) != parameters.total:
        raise InputError(
            f"{path} lists {found:,} parameters but summary.json counts {parameters.total:,}; "
            "the two files are not of the same run"
        )
    return counts


def _examples(path: Path, classes: int) -> tuple[Examples, tuple[Scene, ...]]:
    """Clouds with a class, or scenes whose points have labels of their own."""
    if not path.is_file():
        raise InputError(f"{path} is missing: a finished run has one; finish the run with --resume, or leave it out")
    stored = read_arrays(path, ("points", "labels", "predictions", "scene", "ends"))
    if len(stored) - ("ends" in stored) < 3:
        raise InputError(f"{path}: expected arrays points, labels and predictions, found {', '.join(stored) or 'none'}")
    points, labels, predictions = stored["points"], stored["labels"], stored["predictions"]
    kinds = points.dtype.kind + labels.dtype.kind + predictions.dtype.kind
    if not re.fullmatch("[fiu][iu][iu]", kinds):
        raise InputError(
            f"{path}: expected real points and whole labels and predictions, "
            f"found {points.dtype}, {labels.dtype} and {predictions.dtype}"
        )
    if "ends" in stored:
        none = Examples(np.empty((0, 0, 3), np.float32), np.empty(0, np.int64), np.empty(0, np.int64))
        return none, scenes_of(stored, path, classes)
    count = len(points) if points.ndim else 0
    if points.ndim != 3 or points.shape[2:] != (3,) or labels.shape != (count,) or predictions.shape != (count,):
        raise InputError(
            f"{path}: expected points [n, P, 3], labels [n] and predictions [n], "
            f"found {points.shape}, {labels.shape} and {predictions.shape}"
        )
    if not np.isfinite(points).all():
        raise InputError(f"{path}: points hold NaN or infinite values")
    for name, values in (("labels", labels), ("predictions", predictions)):
        if count and not (values.min() >= 0 and values.max() < classes):
            raise InputError(f"{path}: {name} must lie in 0…{classes - 1} (summary.json lists {classes} classes)")
    return Examples(points.astype(np.float32), labels.astype(np.int64), predictions.astype(np.int64)), ()
