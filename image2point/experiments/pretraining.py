"""What pre-training does to the classes that come later: one setting varied at a time.

Each value of each setting pre-trains a network per seed. Then are measured, on its frozen features: geometric
complexity (on source test images, the input scaled to unit deviation), collapse of the source classes, collapse of
novel classes and few-shot accuracy on them; and, if the study says so, what fine-tuning on clouds makes of the network.

With the number of source classes varied this is the experiment of Galanti, György and Hutter 2022; with learning rate,
batch size, weight decay and the complexity penalty varied, that of Munn et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image2point import collapse
from image2point.collapse import Interval
from image2point.collapse.layers import measure_layers
from image2point.config import Pretrain, load_config, load_config_as
from image2point.config.studies import PretrainingStudy
from image2point.experiments.agreement import spearman
from image2point.experiments.complexity import feature_complexity
from image2point.experiments.few_shot import novel_features
from image2point.experiments.measure import Subject, open_subject
from image2point.experiments.study_rows import Row, over_seeds, select
from image2point.jobs.pretrain import run_pretraining
from image2point.jobs.transfer import run_transfer
from image2point.report.plain import Table, ranged
from image2point.report.plots import Panel, curves
from image2point.runs import Run
from image2point.units import ALONE, Crew

FEATURES = "features"
TITLES = {
    "complexity": "Geometric complexity",
    "source_cdnv": "CDNV, source classes (train)",
    "source_test_cdnv": "CDNV, source classes (test)",
    "novel_cdnv": "CDNV, novel classes",
    "source_accuracy": "Source test accuracy",
    "transfer_accuracy": "Accuracy on clouds",
}
SHARES = ("source_accuracy", "transfer_accuracy")


def pretraining_rows(study: PretrainingStudy, base: Path, folder: Path, crew: Crew = ALONE) -> list[Row]:
    """Rows by setting, value and seed; `run` names the network, which is trained once wherever it belongs."""
    rows, known = [], dict[str, Row]()
    for setting, values in study.vary.items():
        for value in values:
            for seed in study.seeds:
                label = f"{setting.rpartition('.')[2]}_{value}_seed{seed}".replace("/", "-").replace(" ", "")
                changes = [*study.settings, f"{setting}={_text(value)}", f"seed={seed}", f"name={label}"]
                config = load_config_as(Pretrain, base / study.pretrain, changes)
                same = config.model_dump_json(exclude={"name"})
                if same not in known:
                    known[same] = {"run": label, **_row(study, base, folder, config, crew)}
                rows.append({"setting": setting, "value": _text(value), "seed": seed, **known[same]})
    return rows


def _row(study: PretrainingStudy, base: Path, folder: Path, config: Pretrain, crew: Crew) -> Row:
    """What is measured on the network of a config, and after its transfer."""
    place = run_pretraining(config, folder / "runs", resume=True)
    row = measured(open_subject(place.path), study, crew)
    row["source_accuracy"] = place.read_summary()["final"]["test_accuracy"]
    if study.transfer:
        row["transfer_accuracy"] = _transferred(study, base / study.transfer, place, folder, config.name, config.seed)
    return row


def _text(value: Any) -> str:
    """As it would be written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def measured(subject: Subject, study: PretrainingStudy, crew: Crew = ALONE) -> Row:
    """Everything that is measured on one pre-trained network; the crew makes its features."""
    row: Row = {}
    row["complexity"] = feature_complexity(subject, subject.samples("test"), study.samples, study.probes).value
    for key, split in (("source", "train"), ("source_test", "test")):
        samples = subject.samples(split)
        found = measure_layers(
            subject.source_of(split, [FEATURES], crew=crew), samples.labels, len(samples.classes),
            ["cdnv", "cdnv_corrected", "nc1"],
        )[FEATURES].values  # fmt: skip
        row |= {f"{key}_cdnv": found["cdnv_corrected"], f"{key}_cdnv_raw": found["cdnv"], f"{key}_nc1": found["nc1"]}
    features, labels = novel_features(subject, crew)
    S = collapse.Statistics(int(labels.max()) + 1, features.shape[1], "none").update(features, labels)
    found = collapse.metrics(S, ask=["cdnv", "cdnv_corrected", "min_class_distance"])
    row |= {"novel_cdnv": found["cdnv_corrected"], "novel_cdnv_raw": found["cdnv"]}
    row["novel_class_distance"] = found["min_class_distance"]
    settings = study.episodes
    for ways in settings.ways:
        for shots in settings.shots:
            for classifier in settings.classifiers:
                row[accuracy_key(ways, shots, classifier)] = collapse.few_shot(
                    features, labels, ways, shots, settings.queries, settings.episodes, classifier,
                    unit=settings.unit, seed=settings.seed,
                ).accuracy  # fmt: skip
    return row


def accuracy_key(ways: int, shots: int, classifier: str) -> str:
    return f"{ways}-way {shots}-shot, {classifier}"


def _transferred(study: PretrainingStudy, path: Path, place: Run, folder: Path, label: str, seed: int) -> float:
    """Test accuracy after the network was lifted and fine-tuned on clouds."""
    arch = load_config_as(Pretrain, place.config).network.arch
    source = [f"network.arch={arch}", f"network.weights=file:{place.weights}"]
    config = load_config(path, [*study.transfer_settings, *source, f"seed={seed}", f"name={label}_clouds"])
    return float(run_transfer(config, folder / "runs", resume=True).read_summary()["final"]["test_accuracy"])


def _columns(study: PretrainingStudy) -> list[str]:
    e = study.episodes
    few = [accuracy_key(w, s, c) for w in e.ways for s in e.shots for c in e.classifiers]
    return [*(key for key in TITLES if key != "transfer_accuracy" or study.transfer), *few]


def _is_share(key: str) -> bool:
    return key in SHARES or "-shot" in key


def pretraining_table(study: PretrainingStudy, rows: Sequence[Row]) -> Table:
    """A line for each value; below, how quantities go together over all networks."""
    columns = _columns(study)
    lines = []
    for setting, values in study.vary.items():
        for value in map(_text, values):
            own = select(rows, setting=setting, value=value)
            lines.append((setting, value, *(ranged(over_seeds(own, key), _is_share(key)) for key in columns)))
    few = columns[-len(study.episodes.classifiers)]
    pairs = [("complexity", "source_cdnv"), ("complexity", "novel_cdnv"), ("novel_cdnv", few), ("complexity", few)]
    groups: dict[str, Sequence[Row]] = {
        "all": rows,
        **{setting: select(rows, setting=setting) for setting in study.vary},
    }
    told = []
    for name, group in groups.items():
        networks = list({row["run"]: row for row in group}.values())
        found = "; ".join(f"{a} with {b} {rank_correlation(networks, a, b):+.2f}" for a, b in pairs)
        told.append(f"Rank correlation (Spearman), {name}, {len(networks)} networks: {found}.")
    headings = tuple(TITLES.get(key, key) + (" (%)" if _is_share(key) else "") for key in columns)
    notes = (
        f"Mean over {len(study.seeds)} seeds with its 95 % interval. CDNV corrected for the number of samples.",
        *(told[:1] if len(study.vary) == 1 else told),
    )
    return Table(("setting", "value", *headings), tuple(lines), notes)


def rank_correlation(rows: Sequence[Row], first: str, second: str) -> float:
    """Spearman's, over the rows where both are defined; NaN where one of them does not vary."""
    a, b = (np.array([row[key] for row in rows], dtype=float) for key in (first, second))
    there = np.isfinite(a) & np.isfinite(b)
    if there.sum() < 3:
        return math.nan
    return float(spearman(a[there], b[there], np.ones((1, int(there.sum()))))[0])


def pretraining_figure(study: PretrainingStudy, rows: Sequence[Row]) -> Any:
    """A panel for each quantity over all values; each setting is a curve of its own."""
    places = [(setting, _text(value)) for setting, values in study.vary.items() for value in values]
    panels = []
    for key in _columns(study):
        drawn: dict[str, list[Interval | None]] = {
            setting: [over_seeds(select(rows, setting=s, value=v), key) if s == setting else None for s, v in places]
            for setting in study.vary
        }
        title = TITLES.get(key, key)
        panels.append(Panel(title, drawn, logarithmic="CDNV" in title or key == "complexity", percent=_is_share(key)))
    return curves(panels, [value for _, value in places], "", columns=min(4, len(panels)))
