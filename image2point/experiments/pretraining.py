"""What pre-training does to the classes that come later: one setting varied at a time.

Each value of each setting pre-trains a network per seed. Then are measured, on its frozen features: geometric
complexity (on source test images, the input scaled to unit deviation), collapse of the source classes, collapse of
novel classes and few-shot accuracy on them; and, if the study says so, what fine-tuning on clouds makes of the network.

With the number of source classes varied this is the experiment of Galanti, György and Hutter 2022; with learning rate,
batch size, weight decay and the complexity penalty varied, that of Munn et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image2point import collapse
from image2point.collapse import Interval
from image2point.collapse.layers import gathered
from image2point.config import Pretrain, load_config, load_config_as
from image2point.config.studies import PretrainingStudy
from image2point.experiments.agreement import spearman
from image2point.experiments.complexity import feature_complexity, of_each_class
from image2point.experiments.measure import Subject, open_subject
from image2point.experiments.study_rows import Row, over_seeds, select
from image2point.jobs.pretrain import run_pretraining
from image2point.jobs.transfer import run_transfer
from image2point.report.numbers import UNDEFINED
from image2point.report.plain import Table, ranged
from image2point.report.plots import Panel, curves
from image2point.runs import Run
from image2point.units import ALONE, Crew

FEATURES = "features"
TITLES = {
    "complexity": "Geometric complexity",
    "geometric_collapse": "Geometric collapse, source classes (test)",
    "source_cdnv_median": "CDNV, source classes (train)",
    "source_test_cdnv_median": "CDNV, source classes (test)",
    "novel_cdnv_median": "CDNV, novel classes",
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
                each = study.changes(setting, value)
                label = "_".join(f"{name.rpartition('.')[2]}_{value}" for name, value in each.items())
                label = f"{label}_seed{seed}".replace("/", "-").replace(" ", "")
                changes = [
                    *study.settings,
                    *(f"{name}={_text(value)}" for name, value in each.items()),
                    *(f"{name}={seed}" for name in ("seed", *study.seeded)),
                    f"name={label}",
                ]
                config = load_config_as(Pretrain, base / study.pretrain, changes)
                same = config.model_dump_json(exclude={"name"})
                if same not in known:
                    known[same] = {"run": label, **_row(study, base, folder, config, crew)}
                rows.append({"setting": setting, "value": _told(each), "seed": seed, **known[same]})
    return rows


def _row(study: PretrainingStudy, base: Path, folder: Path, config: Pretrain, crew: Crew) -> Row:
    """What is measured on the network of a config, and after its transfer."""
    place = run_pretraining(config, folder / "runs", resume=True)
    print(f"{config.name}: measuring collapse, complexity and few-shot episodes", flush=True)
    row = measured(open_subject(place.path), study, crew)
    row["source_accuracy"] = place.read_summary()["final"]["test_accuracy"]
    if study.transfer:
        row["transfer_accuracy"] = _transferred(study, base / study.transfer, place, folder, config.name, config.seed)
    return row


def _text(value: Any) -> str:
    """As it would be written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _told(changes: Mapping[str, Any]) -> str:
    """The values of settings that change together."""
    return ", ".join(map(_text, changes.values()))


def measured(subject: Subject, study: PretrainingStudy, crew: Crew = ALONE) -> Row:
    """Everything that is measured on one pre-trained network; the crew makes its features."""
    row: Row = {}
    for key, split in (("source", "train"), ("source_test", "test"), ("novel", "novel")):
        samples, classes = subject.samples(split), len(subject.samples(split).classes)
        features = gathered(subject.source_of(split, [FEATURES], crew=crew))[FEATURES]
        labels = torch.as_tensor(samples.labels)
        S = collapse.Statistics(classes, features.shape[1]).update(features, labels)
        found = collapse.metrics(S, ask=["cdnv", "cdnv_corrected", "cdnv_median", "nc1", "min_class_distance"])
        row |= {f"{key}_cdnv": found["cdnv_corrected"], f"{key}_cdnv_raw": found["cdnv"], f"{key}_nc1": found["nc1"]}
        row[f"{key}_cdnv_median"] = found["cdnv_median"]
        row[f"{key}_class_distance"] = found["min_class_distance"]
        if split == "test":
            chosen = of_each_class(samples, study.samples)
            complexity = feature_complexity(subject, samples, chosen, study.probes)
            of_classes, _ = complexity.of_classes(labels[chosen], classes)
            row["complexity"] = complexity.value
            row["geometric_collapse"] = collapse.geometric_collapse(S, of_classes).ratio
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
    seeds = [f"{name}={seed}" for name in ("seed", *study.transfer_seeded)]
    config = load_config(path, [*study.transfer_settings, *source, *seeds, f"name={label}_clouds"])
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
        for value in (_told(study.changes(setting, value)) for value in values):
            own = select(rows, setting=setting, value=value)
            lines.append((setting, value, *(ranged(over_seeds(own, key), _is_share(key)) for key in columns)))
    few = columns[-len(study.episodes.classifiers)]
    smooth = "geometric_collapse"
    pairs = [(smooth, "source_test_cdnv_median"), (smooth, "novel_cdnv_median"), (smooth, few), ("complexity", few)]
    pairs += [("novel_cdnv_median", few)]
    groups: dict[str, Sequence[Row]] = {
        "all": rows,
        **{setting: select(rows, setting=setting) for setting in study.vary},
    }
    told = []
    for name, group in groups.items():
        networks = list({row["run"]: row for row in group}.values())
        found = "; ".join(
            f"{a} with {b} {_signed(rank_correlation(networks, a, b))} "
            f"({_signed(rank_correlation(networks, a, b, at='source_accuracy'))}{_where_defined(networks, a, b)})"
            for a, b in pairs
        )
        told.append(
            f"Rank correlation (Spearman; in brackets partial, at equal source accuracy), {name}, "
            f"{len(networks)} networks: {found}."
        )
    headings = tuple(TITLES.get(key, key) + (" (%)" if _is_share(key) else "") for key in columns)
    notes = (
        f"Mean over {len(study.seeds)} seeds with its 95 % interval. CDNV: the median over pairs of classes, corrected "
        "for the number of samples.",
        *(told[:1] if len(study.vary) == 1 else told),
    )
    return Table(("setting", "value", *headings), tuple(lines), notes)


def _where_defined(rows: Sequence[Row], *keys: str) -> str:
    """How many rows a correlation is over, if not all."""
    there = sum(all(row[key] is not None and math.isfinite(row[key]) for key in keys) for row in rows)
    return f", {there} of them" if there < len(rows) else ""


def _signed(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:+.2f}"


def rank_correlation(rows: Sequence[Row], first: str, second: str, at: str | None = None) -> float:
    """Spearman's, over the rows where both are defined; NaN where one of them does not vary.

    at: a third quantity whose part in both is taken out (partial correlation of ranks).
    """
    names = [first, second] if at is None else [first, second, at]
    values = np.array([[row[name] for name in names] for row in rows], dtype=float)
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) < len(names) + 1:
        return math.nan
    once = np.ones((1, len(values)))
    a, b, *rest = values.T
    whole = float(spearman(a, b, once)[0])
    if at is None:
        return whole
    with_a, with_b = (float(spearman(each, rest[0], once)[0]) for each in (a, b))
    scale = math.sqrt((1 - with_a**2) * (1 - with_b**2))
    return (whole - with_a * with_b) / scale if scale > 1e-6 else math.nan


def pretraining_figure(study: PretrainingStudy, rows: Sequence[Row]) -> Any:
    """A panel for each quantity over all values; each setting is a curve of its own."""
    places = [
        (setting, _told(study.changes(setting, value))) for setting, values in study.vary.items() for value in values
    ]
    panels = []
    for key in _columns(study):
        drawn: dict[str, list[Interval | None]] = {
            setting: [over_seeds(select(rows, setting=s, value=v), key) if s == setting else None for s, v in places]
            for setting in study.vary
        }
        title = TITLES.get(key, key)
        panels.append(Panel(title, drawn, logarithmic="CDNV" in title or key == "complexity", percent=_is_share(key)))
    return curves(panels, [value for _, value in places], "", columns=min(4, len(panels)))
