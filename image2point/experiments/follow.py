"""Follow the classes across the transfer, depth by depth: images in 2D, clouds once lifted, clouds once fine-tuned.

Layers have the same names in the 2D network and the lifted one, so that the stages stand side by side. Where the images
are depth images of the clouds (`images.name: clouds`), both sides have the same samples of the same classes. Lifted
clouds are measured twice: with the statistics that images left in the norms, and with those of the training clouds.
Beside the measures of collapse stand the accuracy of a linear probe, fitted to train and scored on test, and, for each
stage on clouds, how far its features are from those of the images (Wasserstein-1, channel by channel), which is how
Image2Point explains what its policies do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from image2point import collapse
from image2point.collapse import Interval, linear_probe
from image2point.collapse.labels_at_random import PERMUTATIONS, with_nulls
from image2point.collapse.layers import gathered, kept, measure_layers
from image2point.config import load_config
from image2point.config.studies import FollowStudy
from image2point.errors import InputError
from image2point.experiments.measure import Subject, open_subject
from image2point.experiments.rank import settle
from image2point.experiments.study_rows import Row
from image2point.jobs.transfer import run_transfer
from image2point.report.numbers import ABSENT, UNDEFINED, beside_null
from image2point.report.plain import Table
from image2point.report.plots import Panel, curves
from image2point.runs import open_run
from image2point.training.layer_features import choose_layers
from image2point.units import ALONE, Crew

IMAGES, LIFTED, SETTLED = "images, 2D", "clouds, lifted", "clouds, lifted, own statistics"
ASK = ("nc1_trace_ratio", "nc1", "cdnv", "cdnv_corrected", "cdnv_median", "discrimination", "ncc_accuracy")
TUNNEL = 0.95
"""Share of the best probe's accuracy with which the tunnel begins; the idea is that of Masarczyk et al. 2023."""
TITLES = {
    "nc1_trace_ratio": "Compression, tr Σ_W / tr Σ_B",
    "nc1": "NC1",
    "cdnv": "CDNV",
    "ncc_accuracy": "Nearest class mean, accuracy",
    "probe": "Linear probe, accuracy",
    "wasserstein": "Distance to image features, W₁",
    "wasserstein_relative": "Distance to image features, W₁ / s.d.",
}


def follow_rows(study: FollowStudy, base: Path, folder: Path, crew: Crew = ALONE) -> list[Row]:
    """Rows by stage, split and layer."""
    if not study.arms:
        raise InputError("arms: expected at least one config of a fine-tuning")
    images = open_subject(base / study.images, study.image_settings)
    names = choose_layers(images.network, study.layers)
    reference: dict[str, dict[str, Tensor]] = {}
    rows = _stage(IMAGES, images, names, study.splits, reference, crew)
    for number, (label, file) in enumerate(study.arms.items()):
        if (base / file).is_dir():
            place = open_run(base / file)
        else:
            place = run_transfer(load_config(base / file, study.settings), folder / "runs", resume=True)
        if number == 0:
            lifted = open_subject(place.path, study.settings, before=True)
            rows += _stage(LIFTED, lifted, names, study.splits, reference, crew)
            settle(lifted, "io+stats")  # in this process, so that no other could measure it
            rows += _stage(SETTLED, lifted, names, study.splits, reference, ALONE)
        tuned = open_subject(place.path, study.settings)
        rows += _stage(label, tuned, names, study.splits, reference, crew)
    return rows


def _stage(
    stage: str,
    subject: Subject,
    names: Sequence[str],
    on: Sequence[str],
    reference: dict[str, dict[str, Tensor]],
    crew: Crew,
) -> list[Row]:
    """Measure one network; the first one's features are kept as the `reference` of the others, by split."""
    first, rows, centres = not reference or stage == IMAGES, [], None
    learnt: tuple[dict[str, Tensor], np.ndarray] | None = None
    for split in sorted(on, key=lambda split: split != "train"):
        samples = subject.samples(split)
        source = kept(subject.source_of(split, names, crew=crew))
        measured = measure_layers(
            source, samples.labels, len(samples.classes), ASK, centres=centres, permutations=PERMUTATIONS
        )
        if split == "train":
            centres = {name: each.means for name, each in measured.items()}
        features = gathered(source)
        if split == "train":
            learnt = features, samples.labels
        if first:
            reference[split] = features
        for depth, name in enumerate(names):
            found = measured[name]
            row: Row = {"stage": stage, "split": split, "layer": name, "depth": depth, "dim": found.means.shape[1]}
            for key in ASK:
                row[key] = found.values[key]
                interval = found.intervals.get(key)
                row[f"{key}/low"], row[f"{key}/high"] = (
                    (math.nan, math.nan) if interval is None else (interval.low, interval.high)
                )
            row |= with_nulls(found.values, found.nulls)
            if split == "test" and learnt is not None:
                row["probe"] = linear_probe(learnt[0][name], learnt[1], features[name], samples.labels)
            if not first:
                moved = collapse.wasserstein(reference[split][name], features[name])
                row["wasserstein"], row["wasserstein_relative"] = moved.mean, moved.relative
            rows.append(row)
    return rows


def tunnel(rows: Sequence[Row]) -> str | None:
    """The first layer whose probe reaches `TUNNEL` of the best accuracy; None without probes. `rows`: one for each
    layer of a stage, in order.

    >>> tunnel([{"layer": "a", "probe": 0.3}, {"layer": "b", "probe": 0.79}, {"layer": "c", "probe": 0.8}])
    'b'
    """
    best = max((row["probe"] for row in rows if "probe" in row), default=None)
    return None if best is None else next(row["layer"] for row in rows if row["probe"] >= TUNNEL * best)


def _interval(row: Row, key: str) -> Interval | None:
    value = row.get(key)
    if value is None or not math.isfinite(value):
        return None
    return Interval(value, math.nan, row.get(f"{key}/low", math.nan), row.get(f"{key}/high", math.nan))


def _with_null(row: Row, key: str) -> str:
    """A measure with its null; rows of an earlier version have none."""
    if row.get(f"{key}_null") is None:
        return _text(row[key])
    return f"{_text(row[key])} ({beside_null(row[key], row[f'{key}_null'], row[f'{key}_null_sd'])})"


def _text(value: float | None) -> str:
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.3g}"


def follow_table(study: FollowStudy, rows: Sequence[Row]) -> Table:
    """For each stage and split: the last layer's measures, the geometric decay, and the distance to the images."""
    lines = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        for split in study.splits:
            own = [row for row in rows if row["stage"] == stage and row["split"] == split]
            decay = collapse.fit_decay([row["nc1_trace_ratio"] for row in own])
            last = own[-1]
            moved = [row["wasserstein_relative"] for row in own if "wasserstein_relative" in row]
            raw = [row["wasserstein"] for row in own if "wasserstein" in row]
            lines.append(
                (
                    stage,
                    split,
                    *(_with_null(last, key) for key in ("nc1_trace_ratio", "nc1", "cdnv")),
                    _text(last["cdnv_median"]),
                    f"{100 * last['ncc_accuracy']:.1f}",
                    f"{100 * last['probe']:.1f}" if "probe" in last else ABSENT,
                    tunnel(own) or ABSENT,
                    f"{decay.rate:.3f} [{decay.low:.3f}, {decay.high:.3f}]",
                    f"{decay.explained:.2f}",
                    f"{sum(raw) / len(raw):.3g}" if raw else ABSENT,
                    f"{sum(moved) / len(moved):.3g}" if moved else ABSENT,
                )
            )
    layers = [row["layer"] for row in rows if row["stage"] == IMAGES and row["split"] == study.splits[0]]
    return Table(
        ("stage", "split", f"C_l of {layers[-1]}", "NC1", "CDNV", "median CDNV, corrected", "NCC (%)",
         "linear probe (%)", f"probe at {100 * TUNNEL:.0f} % of its best from", "decay of C_l per layer", "R²",
         "W₁ to images", "W₁ / s.d."),
        tuple(lines),
        (f"Layers: {', '.join(layers)}. C_l = tr Σ_W / tr Σ_B; the decay is fitted over them, W₁ is their mean. "
         "In brackets the null: the same with permuted labels, ± s.d., and the measure as a share of it.",),
    )  # fmt: skip


def follow_figure(study: FollowStudy, rows: Sequence[Row]) -> Any:
    """A panel for each measure over the layers, a curve for each stage; of test, or of train where that is all."""
    split = "test" if "test" in study.splits else "train"
    own = [row for row in rows if row["split"] == split]
    stages = list(dict.fromkeys(row["stage"] for row in own))
    layers = list(dict.fromkeys(row["layer"] for row in own))
    panels = []
    for key, title in TITLES.items():
        share = key in ("ncc_accuracy", "probe")
        drawn = {stage: [_interval(row, key) for row in own if row["stage"] == stage] for stage in stages}
        if any(value is not None for values in drawn.values() for value in values):
            panels.append(Panel(title, drawn, logarithmic=not share, percent=share))
    return curves(panels, layers, f"layer ({split})")
