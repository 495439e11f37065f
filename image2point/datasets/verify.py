"""Checks a whole dataset: reads, counts, hashes and compares every cloud, and lists everything that is wrong."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets import prepared
from image2point.datasets.catalogue import Dataset, Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.prepare import file_hash, read_all
from image2point.datasets.splits import CloudSet
from image2point.errors import InputError
from image2point.files import files_below


@dataclass
class SplitReport:
    """One split. content: sha256 over labels and clouds, as the network would get them, whatever form they lie in."""

    clouds: int
    per_class: dict[str, int]
    points: tuple[int, int]
    """The smallest and the largest cloud."""
    content: str


@dataclass
class Report:
    """What `verify_dataset` found. problems: what cannot be used; notes: what can, and should be known."""

    dataset: str
    splits: dict[str, SplitReport] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Path → sha256 of every file in the folder."""
    bytes: int = 0
    of_points: bool = False
    """Whether classes are those of points; `per_class` then counts points, not clouds."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_dataset(
    dataset: Dataset,
    root: Path,
    options: Options,
    workers: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Read everything in `root`. `options.skipped` is not used: bad rows are collected in the report.

    Raises InputError where the folder as a whole cannot be read.
    """
    report = Report(dataset.name)
    options = Options(**{each.name: getattr(options, each.name) for each in fields(options) if each.name != "skipped"},
                      skipped=report.problems)  # fmt: skip
    if root.is_dir():
        for path in sorted(files_below(root)):
            report.files[str(path.relative_to(root))] = file_hash(path)
            report.bytes += path.stat().st_size
    if dataset.name == prepared.DATASET.name:
        _compare_hashes(root, report)
    splits = dataset.read(root, options)
    seen: dict[bytes, str] = {}
    for name, clouds in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if clouds is not None:
            report.splits[name] = _split(clouds, report, seen, workers, progress)
    _compare_counts(dataset, options, report)
    return report


def _split(
    clouds: CloudSet, report: Report, seen: dict[bytes, str], workers: int, progress: Callable[[int], None]
) -> SplitReport:
    of_points = bool(getattr(clouds, "of_points", False))
    report.of_points |= of_points
    counts, total = np.zeros(len(clouds.classes), dtype=np.int64), 0
    content = hashlib.sha256()
    smallest, largest = sys.maxsize, 0
    for cloud, label, where, problem in read_all(clouds, workers):
        progress(1)
        if cloud is None:
            report.problems.append(problem)
            continue
        counts += _classes_in(cloud, label, of_points, len(counts))
        total += 1
        smallest, largest = min(smallest, len(cloud)), max(largest, len(cloud))
        content.update(cloud_bytes(cloud, label))
        key = hashlib.blake2b(np.ascontiguousarray(cloud.points + 0).tobytes(), digest_size=16).digest()
        here = f"{clouds.name}: {where}"
        if key in seen:
            report.notes.append(f"the same points twice: {seen[key]} and {here}")
        else:
            seen[key] = here
    for empty in np.flatnonzero(counts == 0):
        what = "points" if of_points else "clouds"
        report.notes.append(f"{clouds.name}: the class {clouds.classes[empty]!r} has no {what}")
    if total and not counts.any():
        report.problems.append(f"{clouds.name}: all points of its {total} clouds are ignored")
    named = {name: int(count) for name, count in zip(clouds.classes, counts, strict=True)}
    return SplitReport(total, named, (smallest if total else 0, largest), content.hexdigest())


def _classes_in(cloud: Cloud, label: int, of_points: bool, classes: int) -> np.ndarray:
    """How often each class occurs in a cloud: among its points, or as the label of the whole."""
    found = np.array([label]) if not of_points else np.empty(0, int) if cloud.labels is None else cloud.labels
    return np.bincount(found[found >= 0], minlength=classes)


def cloud_bytes(cloud: Cloud, label: int) -> bytes:
    """What the content hash of a split is made of, cloud by cloud: label, number of points, then each field."""
    parts = [np.array([label, len(cloud)], dtype="<i8").tobytes()]
    for name, values in cloud.columns().items():
        kind = "<i8" if name == "labels" else "<f4"
        # Plus zero, which makes 0 of -0: they are one number, and the prepared form keeps one of them.
        parts.append(name.encode() + np.ascontiguousarray(values + 0, dtype=kind).tobytes())
    if cloud.origin.any():
        parts.append(b"origin" + np.ascontiguousarray(cloud.origin, dtype="<f8").tobytes())
    return b"".join(parts)


def _compare_hashes(root: Path, report: Report) -> None:
    index = prepared.read_index(root)
    for entry in _listed_files(index):
        found = report.files.get(entry["path"])
        if found is not None and found != entry["sha256"]:
            report.problems.append(f"{root / entry['path']}: sha256 {found}, expected {entry['sha256']}")


def _listed_files(index: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return [
            file
            for split in index["splits"].values()
            for file in [*split["files"], *(file for shard in split["shards"] for file in shard["files"])]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{prepared.INDEX} is damaged: {type(error).__name__} {error}") from None


def _compare_counts(dataset: Dataset, options: Options, report: Report) -> None:
    """Note splits whose size differs from the official one."""
    classes = {len(split.per_class) for split in report.splits.values()}
    keys = (options.variant or "", *map(str, classes), next(iter(dataset.variants), ""), "")
    official = next((dataset.counts[key] for key in keys if key in dataset.counts), None)
    for split, count in (official or {}).items():
        found = report.splits.get(split)
        if found is None or found.clouds != count:
            report.notes.append(
                f"the official {split} split has {count} clouds, found {found.clouds if found else 'none'}"
            )
