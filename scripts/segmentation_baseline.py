"""What features by hand and boosted trees make of labelled scenes: the numbers that a network has to beat.

    python scripts/segmentation_baseline.py CONFIG [section.field=value ...]

Trains on the training scenes of the config's data, and prints overall accuracy, the IoU of each class and their mean
over all points of the test scenes. A point is described by its height over the lowest point of its cell
(`data.ground_cell`), the shape of its K nearest neighbours (from the eigenvalues of their covariance: linearity,
planarity, scattering, change of curvature, and the slope of the plane), their reach, and, where files have them, the
share and number of returns of its pulse. The classifier is scikit-learn's histogram gradient boosting with its default
settings and seed 0; the config's crops, augmentation and voxels do not matter. Needs scikit-learn:
pip install 'image2point[baseline]'.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from image2point.config.reading import load_config
from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import IGNORED, Cloud
from image2point.datasets.features import ground_height
from image2point.errors import InputError
from image2point.files import write_text
from image2point.jobs.ingredients import load_splits

RETURNS = ("return_share", "number_of_returns")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="a config whose data are labelled scenes")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")
    parser.add_argument("--neighbours", type=int, default=20, metavar="K", help="points of a neighbourhood")
    parser.add_argument("--rows", type=Path, metavar="FOLDER", help="add the scores to FOLDER/rows.json as well")
    given = parser.parse_args()
    try:
        row = run(given.config, ["data.validation=0", *given.overrides], given.neighbours)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
    if given.rows:
        path = given.rows / "rows.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        kept = [each for each in before if each["data"] != row["data"]]
        write_text(path, json.dumps([*kept, row], indent=1))


def run(config: str, overrides: list[str], neighbours: int) -> dict[str, Any]:
    """Train, score and print; the scores, under the name of the config."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.metrics import confusion_matrix
    except ImportError:
        raise InputError(
            "scikit-learn is not installed; install it with: pip install 'image2point[baseline]'"
        ) from None
    data = load_config(config, overrides).data
    splits = load_splits(data)
    up, start = data.up or "z", time.perf_counter()
    x, y = table(splits.train, neighbours, up, data.ground_cell)
    model = HistGradientBoostingClassifier(random_state=0).fit(x, y)
    features, truth = table(splits.test, neighbours, up, data.ground_cell)
    names = splits.train.classes
    matrix = confusion_matrix(truth, model.predict(features), labels=np.arange(len(names)))
    seconds = time.perf_counter() - start
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    iou = np.where(matrix.sum(1) > 0, np.diag(matrix) / np.maximum(union, 1), np.nan)
    print(f"{x.shape[1]} features, {len(x):,} points to train on, {len(truth):,} to test on, {seconds:.0f} s")
    print(f"OA {100 * np.trace(matrix) / matrix.sum():.1f}, mIoU {100 * np.nanmean(iou):.1f}")
    for name, value, count in zip(names, iou, matrix.sum(1), strict=True):
        print(f"  {name:20} {'undefined' if np.isnan(value) else f'{100 * value:9.1f}'}  {count:9,} points")
    return {
        "data": Path(config).stem.removeprefix("_"),
        "test_miou": float(np.nanmean(iou)),
        "test_accuracy": float(np.trace(matrix) / matrix.sum()),
        "per_class": {n: None if np.isnan(value) else float(value) for n, value in zip(names, iou, strict=True)},
        "seconds": round(seconds),
    }


def table(scenes: Labelled, neighbours: int, up: str, cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [N, C] and labels [N] of all points of all scenes that are not ignored."""
    found = [(describe(scenes[i], neighbours, up, cell), scenes[i].labels) for i in range(len(scenes))]
    features, labels = (np.concatenate(each) for each in zip(*found, strict=True))
    counted = labels != IGNORED
    if not counted.any():
        raise InputError(f"{scenes.name}: all points are ignored")
    return features[counted], labels[counted]


def describe(cloud: Cloud, neighbours: int, up: str, cell: float) -> np.ndarray:
    """The features of every point, float32 [P, 9 or 11]."""
    axis, points = "xyz".index(up), cloud.points.astype(np.float64)
    distance, rows = cKDTree(points).query(points, k=min(neighbours, len(points)))
    distance, rows = distance.reshape(len(points), -1), rows.reshape(len(points), -1)
    around = points[rows]
    centred = around - around.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum("pki,pkj->pij", centred, centred) / rows.shape[1])
    small, middle, large = np.maximum(values, 0).T
    scale = np.maximum(large, 1e-12)
    heights = around[:, :, axis]
    columns = [
        ground_height(cloud.points, up, cell),
        (large - middle) / scale,
        (middle - small) / scale,
        small / scale,
        small / np.maximum(small + middle + large, 1e-12),
        np.abs(vectors[:, axis, 0]),
        points[:, axis] - heights.min(axis=1),
        np.ptp(heights, axis=1),
        distance[:, -1],
        *(cloud.attributes[name] for name in RETURNS if name in cloud.attributes),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


if __name__ == "__main__":
    main()
