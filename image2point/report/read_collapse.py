"""What a run may have stored of collapse beside its summary: by layer and epoch, and where the classes lie."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image2point.datasets.arrays import read_arrays
from image2point.errors import InputError
from image2point.runs import read_text

SPLITS = ("train", "test")
KEYS = ("epoch", "split", "layer")


@dataclass(frozen=True)
class LayerRow:
    """A row of layers.csv: what was measured of one layer on one split after one epoch; NaN where undefined."""

    epoch: int
    split: str
    layer: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Seen:
    """A split with the chosen weights, C classes, n samples.

    `cosines` [C, C] of the centred class means; `points` [n, 2], `labels` [n] and `means` [C, 2] in the plane of the
    training means. NaN for a class without samples.
    """

    cosines: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    means: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Where the classes lie: by split, and the training means (rows) against the classifier (columns) [C, C].

    `shares` [2]: of the variance between the training means, along each axis of the plane.
    """

    splits: Mapping[str, Seen]
    classifier: np.ndarray
    shares: np.ndarray


def read_layers(path: Path) -> tuple[LayerRow, ...]:
    """The rows of layers.csv in order of epochs; none where there is no such file. InputError where it is damaged."""
    if not path.exists():
        return ()
    try:
        lines = list(csv.DictReader(read_text(path, "remove it").splitlines()))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            values = {k: float(v) if v else math.nan for k, v in line.items() if k not in KEYS}
            rows.append(LayerRow(int(line["epoch"]), line["split"], line["layer"], values))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{path} line {number}: expected an epoch, a split, a layer and numbers, found {list(line.values())}; "
                "run again with --overwrite, or remove the file to leave layers out"
            ) from None
    return tuple(sorted(rows, key=lambda row: row.epoch))  # stable: layers stay in the order of computation


def read_geometry(path: Path, classes: int) -> Geometry | None:
    """The content of geometry.npz for this many classes; None where there is no such file. InputError where damaged."""
    if not path.exists():
        return None
    arrays = read_arrays(path)
    try:
        splits = {
            split: Seen(*(arrays[f"{split}_{part}"] for part in ("cosines", "points", "labels", "means")))
            for split in SPLITS
            if f"{split}_cosines" in arrays
        }
        found = Geometry(splits, arrays["classifier_cosines"], arrays["shares"])
    except KeyError as error:
        raise InputError(
            f"{path}: expected arrays train_cosines, train_points, train_labels, train_means, classifier_cosines and "
            f"shares; {error}; remove the file to leave its figures out"
        ) from None
    for name, seen in found.splits.items():
        count = seen.labels.size
        shapes = (seen.cosines.shape, seen.points.shape, seen.means.shape)
        real = all(each.dtype.kind == "f" for each in (seen.cosines, seen.points, seen.means, found.classifier))
        if not real or seen.labels.dtype.kind not in "iu" or seen.labels.ndim != 1 or found.shares.shape != (2,):
            raise InputError(f"{path}: expected floats, whole labels [{count}] of {name} and shares [2], found others")
        if shapes != ((classes, classes), (count, 2), (classes, 2)) or found.classifier.shape != (classes, classes):
            raise InputError(
                f"{path}: expected cosines [{classes}, {classes}], points [{count}, 2] and means [{classes}, 2] of "
                f"{name} (summary.json lists {classes} classes), found {', '.join(map(str, shapes))}"
            )
        if count and not (seen.labels.min() >= 0 and seen.labels.max() < classes):
            raise InputError(f"{path}: {name}_labels must lie in 0…{classes - 1} (summary.json has {classes} classes)")
    return found
