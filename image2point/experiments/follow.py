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
from image2point.collapse.labels_at_random import PERMUTATIONS, over_null, with_nulls
from image2point.collapse.layers import gathered, kept, measure_layers
from image2point.config import Pretrain, load_config
from image2point.config.studies import FollowStudy
from image2point.errors import InputError
from image2point.experiments.measure import Subject, open_subject
from image2point.experiments.rank import settle
from image2point.experiments.study_rows import Row, select
from image2point.jobs.transfer import run_transfer
from image2point.report.numbers import ABSENT, UNDEFINED, beside_null
from image2point.report.plain import Table, ranged
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
    """Rows by seed, stage, split and layer."""
    if not study.arms:
        raise InputError("arms: expected at least one config of a fine-tuning")
    if runs := [label for label, file in study.arms.items() if study.seeds and (base / file).is_dir()]:
        raise InputError(f"seeds: the arm {runs[0]} is a finished run, which has its seed; take seeds away, or name "
                         "its config")  # fmt: skip
    rows: list[Row] = []
    for seed in study.seeds or (None,):
        own = {} if seed is None else {"seed": seed}
        rows += [{**own, **row} for row in _followed(study, seed, base, folder, crew)]
    return rows


def _followed(study: FollowStudy, seed: int | None, base: Path, folder: Path, crew: Crew) -> list[Row]:
    """The rows of one seed, or of the seeds that the configs have."""
    images = _shown(study, seed, base)
    names = choose_layers(images.network, study.layers)
    reference: dict[str, dict[str, Tensor]] = {}
    rows = _stage(IMAGES, images, names, study.splits, reference, crew)
    settings = [*study.settings, *([] if seed is None else [f"seed={seed}", f"data.shot_seed={seed}"])]
    for number, (label, file) in enumerate(study.arms.items()):
        if (base / file).is_dir():
            place = open_run(base / file)
        else:
            config = load_config(base / file, settings)
            if seed is not None:
                config = load_config(base / file, [*settings, f"name={config.name}_seed{seed}"])
            place = run_transfer(config, folder / "runs", resume=True)
        if number == 0:
            lifted = open_subject(place.path, study.settings, before=True)
            rows += _stage(LIFTED, lifted, names, study.splits, reference, crew)
            settle(lifted, "io+stats")  # in this process, so that no other could measure it
            rows += _stage(SETTLED, lifted, names, study.splits, reference, ALONE)
        tuned = open_subject(place.path, study.settings)
        rows += _stage(label, tuned, names, study.splits, reference, crew)
    return rows


def _shown(study: FollowStudy, seed: int | None, base: Path) -> Subject:
    """The 2D network and its images; those of clouds show the shots of the seed."""
    images = open_subject(base / study.images, study.image_settings)
    assert isinstance(images.config, Pretrain)
    if seed is None:
        return images
    if images.config.images.clouds is None:
        raise InputError(
            f"seeds: each seed shows the clouds that it draws, and {study.images} has images.name = "
            f"{images.config.images.name}; take seeds away, or show clouds"
        )
    return open_subject(base / study.images, [*study.image_settings, f"images.clouds.shot_seed={seed}"])


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
        print(f"{stage}: {len(names)} layers of {len(samples)} samples of {split}", flush=True)
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


def _seeds(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each seed, in order."""
    return [select(rows, **({} if seed is None else {"seed": seed})) for seed in _seeds_in(rows)]


def _seeds_in(rows: Sequence[Row]) -> list[int | None]:
    return list(dict.fromkeys(row.get("seed") for row in rows))


def _interval(rows: Sequence[Row], key: str) -> Interval | None:
    """Over seeds the mean with its interval, of one seed the measure with its own; None where one is undefined."""
    values = [_number(row.get(key)) for row in rows]
    if not values or not all(map(math.isfinite, values)):
        return None
    if len(values) > 1:
        return _over_seeds(values)
    low, high = (_number(rows[0].get(f"{key}/{end}")) for end in ("low", "high"))
    return Interval(values[0], math.nan, low, high)


def _over_seeds(values: Sequence[float]) -> Interval:
    """The mean with its interval; none where all seeds agree, as they do where no seed plays a part."""
    if max(values) == min(values):
        return Interval(values[0], math.nan, math.nan, math.nan)
    return collapse.mean_interval(values)


def _mean(rows: Sequence[Row], key: str) -> float:
    """Over seeds; NaN where one is undefined."""
    return math.fsum(_number(row.get(key)) for row in rows) / len(rows)


def _with_null(rows: Sequence[Row], key: str) -> str:
    """The mean of a measure, that of its null, and the mean share; rows of an earlier version have no null."""
    value = _text(_mean(rows, key))
    if f"{key}_null" not in rows[0]:
        return value
    if len(rows) == 1:
        number, mean, sd = (_number(rows[0][name]) for name in (key, f"{key}_null", f"{key}_null_sd"))
        return f"{value} ({beside_null(number, mean, sd)})"
    return f"{value} ({_text(_mean(rows, f'{key}_null'))}: {_share(rows, key)})"


def _share(rows: Sequence[Row], key: str) -> str:
    """The mean over seeds of a measure as a share of its null."""
    shares = [over_null(_number(row[key]), _number(row.get(f"{key}_null"))) for row in rows]
    mean = math.fsum(shares) / len(shares)
    return f"{mean:.2f}" if math.isfinite(mean) else UNDEFINED


def _text(value: float | None) -> str:
    return UNDEFINED if value is None or not math.isfinite(value) else f"{value:.3g}"


def follow_table(study: FollowStudy, rows: Sequence[Row]) -> Table:
    """For each stage and split: the last layer's measures, the geometric decay, and the distance to the images."""
    lines = []
    for stage in _stages(rows):
        for split in study.splits:
            seeds = _seeds(select(rows, stage=stage, split=split))
            last = [own[-1] for own in seeds]
            decays = [collapse.fit_decay([_number(row["nc1_trace_ratio"]) for row in own]) for own in seeds]
            explained = math.fsum(decay.explained for decay in decays) / len(decays)
            rate = (
                _over_seeds([decay.rate for decay in decays])
                if len(decays) > 1
                else Interval(decays[0].rate, math.nan, decays[0].low, decays[0].high)
            )
            limits = "" if math.isnan(rate.low) else f" [{rate.low:.3f}, {rate.high:.3f}]"
            begins = list(dict.fromkeys(found for own in seeds if (found := tunnel(own))))
            lines.append(
                (
                    stage,
                    split,
                    *(_with_null(last, key) for key in ("nc1_trace_ratio", "nc1", "cdnv")),
                    _text(_mean(last, "cdnv_median")),
                    *(ranged(_interval(last, key), percent=True) for key in ("ncc_accuracy", "probe")),
                    ", ".join(begins) or ABSENT,
                    f"{rate.value:.3f}{limits}",
                    f"{explained:.2f}",
                    *(_over_layers(seeds, key) for key in ("wasserstein", "wasserstein_relative")),
                )
            )
    layers = _layers(rows)
    over = (
        f" Means over {len(study.seeds)} seeds; in square brackets intervals over them." if len(study.seeds) > 1 else ""
    )
    return Table(
        ("stage", "split", f"C_l of {layers[-1]}", "NC1", "CDNV", "median CDNV, corrected", "NCC (%)",
         "linear probe (%)", f"probe at {100 * TUNNEL:.0f} % of its best from", "decay of C_l per layer", "R²",
         "W₁ to images", "W₁ / s.d."),
        tuple(lines),
        (f"Layers: {', '.join(layers)}. C_l = tr Σ_W / tr Σ_B; the decay is fitted over them, W₁ is their mean. "
         f"In round brackets the null: the same with permuted labels, and the measure as a share of it.{over}",),
    )  # fmt: skip


def layers_table(study: FollowStudy, rows: Sequence[Row]) -> Table:
    """Layer by layer, for each stage the linear probe and NC1 as a share of its null; of test, or of train alone."""
    split = "test" if "test" in study.splits else "train"
    own = select(rows, split=split)
    lines = [
        (
            layer,
            *(
                f"{_in_percent(_mean(cell, 'probe'))}; {_share(cell, 'nc1')}"
                for stage in _stages(rows)
                for cell in [select(own, stage=stage, layer=layer)]
            ),
        )
        for layer in _layers(rows)
    ]
    note = f"Of {split}: accuracy of a linear probe (%); NC1 as a share of its null. Means over seeds."
    return Table(("layer", *_stages(rows)), tuple(lines), (note,))


def _in_percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else ABSENT


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _over_layers(seeds: Sequence[Sequence[Row]], key: str) -> str:
    """The mean of a distance over layers and seeds."""
    values = [row[key] for own in seeds for row in own if key in row]
    return _text(math.fsum(map(_number, values)) / len(values)) if values else ABSENT


def _stages(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["stage"] for row in rows))


def _layers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["layer"] for row in rows))


def follow_figure(study: FollowStudy, rows: Sequence[Row]) -> Any:
    """A panel for each measure over the layers, a curve for each stage; of test, or of train where that is all."""
    split = "test" if "test" in study.splits else "train"
    own = [row for row in rows if row["split"] == split]
    stages, layers = _stages(own), _layers(own)
    panels = []
    for key, title in TITLES.items():
        share = key in ("ncc_accuracy", "probe")
        drawn = {stage: [_interval(select(own, stage=stage, layer=layer), key) for layer in layers] for stage in stages}
        if any(value is not None for values in drawn.values() for value in values):
            panels.append(Panel(title, drawn, logarithmic=not share, percent=share))
    return curves(panels, layers, f"layer ({split})")
