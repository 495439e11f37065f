"""Measure the collapse of any layers of a 2D or a lifted network, before or after it was trained.

What is measured on novel classes are samples that the network has never seen, of classes that it has never seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point import config as configuration
from image2point import runs
from image2point.collapse.intervals import SHARES
from image2point.collapse.labels_at_random import PERMUTATIONS
from image2point.collapse.layers import LayerMeasures, Rows, Source, kept, measure_layers
from image2point.config import Config, Pretrain
from image2point.datasets import Splits
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.experiments.measure_points import PointRows, joined, measure_points, rows_of_points
from image2point.jobs.artefact import load
from image2point.jobs.fingerprint import other_samples
from image2point.jobs.image_ingredients import (
    load_images,
    load_novel_images,
    make_image_network,
    make_image_recipe,
)
from image2point.jobs.ingredients import calibration_batch, load_novel, load_splits, make_network, make_recipe
from image2point.jobs.reuse import load_image_network
from image2point.networks.image_network import ImageNetwork
from image2point.storage import fetched
from image2point.tasks.point_labels import count_labels
from image2point.tasks.registry import TASKS
from image2point.tasks.segmentation import Segmentation
from image2point.training import distributed
from image2point.training.batches import Preparation, in_order
from image2point.training.layer_features import choose_layers, head_of, layer_source, plain
from image2point.units import ALONE, Crew

logger = logging.getLogger("image2point")

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.lifting import LiftedNetwork

SPLITS = ("train", "validation", "test", "novel")
HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class Subject:
    """A network to be measured, and its data.

    Attributes:
        where: what the user named.
        trained: whether it was trained on its data, so that its classifier means something.
        overrides, before: as `open_subject` was given them.
    """

    where: str
    config: Config | Pretrain
    network: LiftedNetwork | ImageNetwork
    recipe: Preparation
    fabric: Fabric
    splits: Splits
    trained: bool
    overrides: tuple[str, ...] = ()
    before: bool = False

    def samples(self, split: str) -> Labelled:
        """One of `SPLITS`; InputError where there is none."""
        if split not in SPLITS:
            raise InputError(f"expected a split out of {', '.join(SPLITS)}, found {split!r}")
        if split == "novel":
            return self._novel
        found: Labelled | None = getattr(self.splits, split)
        if found is None:
            raise InputError(f"{self.where} holds out nothing for validation")
        return found

    @cached_property
    def _novel(self) -> Labelled:
        config = self.config
        return load_novel_images(config.images) if isinstance(config, Pretrain) else load_novel(config.data)

    def source_of(self, split: str, layers: Sequence[str], per_site: bool = False, crew: Crew = ALONE) -> Source:
        """Features of the named layers on a split, made by this process or by the crew.

        Each of its processes opens the subject for itself, as `open_subject` made it, and is given batch after batch.
        """
        if not crew.workers:
            return self.source(self.samples(split), layers, per_site)
        make = partial(_batch_features, self.where, self.overrides, self.before, split, tuple(layers), per_site)
        return lambda: crew.results(make, self.batches(split))

    def batches(self, split: str) -> list[np.ndarray]:
        """Which samples of a split go through the network together."""
        return in_order(len(self.samples(split)), self.config.training.batch_size)

    def source(self, samples: Labelled, layers: Sequence[str], per_site: bool = False) -> Source:
        """Features of the named layers for these samples."""
        training = self.config.training
        return layer_source(
            self.network, samples, self.recipe, layers, training.batch_size, per_site, training.workers, self.fabric
        )


def open_subject(target: str | Path, overrides: Sequence[str] = (), before: bool = False) -> Subject:
    """The network that `target` names: a run, a config file, a shipped config, or a timm architecture on images.

    A run of a transfer or a pre-training is measured with its chosen weights, or `before` training; a config as it
    would begin; an architecture with `network.weights=...` on `images...=...`, as in a pre-training config.
    `overrides`: what differs here, such as data.root=... or training.threads=1.
    """
    path = configuration.find(fetched(target))
    finished = path.is_dir()
    config: Config | Pretrain
    single = [*overrides, "training.devices=1", "training.nodes=1"]
    if finished:
        config = configuration.load_run_config(runs.open_run(path).config, single)
    elif path.is_file() or path.suffix in (".yaml", ".yml"):
        config = configuration.load_run_config(path, single)
    elif len(path.parts) > 1:
        raise InputError(f"{target} does not exist; expected a run directory, a config file, or a timm architecture")
    else:
        config = configuration.from_values_as(Pretrain, {"network": {"arch": str(target)}}, single, "the command line")
    fabric = distributed.start(config.training)
    after = finished and not before
    network: LiftedNetwork | ImageNetwork
    if isinstance(config, Pretrain):
        splits = load_images(config.images)
        network = load_image_network(path) if after else make_image_network(config, len(splits.train.classes))
        recipe: Preparation = make_image_recipe(config, network)
    else:
        splits = load_splits(config.data)
        if after:
            network = load(path)
            asked = any(each.startswith("data.") and not each.startswith("data.root=") for each in overrides)
            if not asked and (doubt := other_samples(runs.open_run(path), splits)):
                logger.warning("%s", doubt)
        else:
            network = make_network(config, len(splits.train.classes), calibration_batch(config, splits.train))
        recipe = make_recipe(config)
    network = fabric.to_device(network).eval().requires_grad_(False)  # type: ignore[assignment]
    return Subject(str(target), config, network, recipe, fabric, splits, after, tuple(overrides), before)


def _batch_features(
    where: str, overrides: Sequence[str], before: bool, split: str, layers: tuple[str, ...], per_site: bool
) -> Callable[[np.ndarray], dict[str, Rows]]:
    """In a process of its own: what gives the features of a batch of samples, by layer."""
    subject = open_subject(where, overrides, before)
    samples = subject.samples(split)

    def features(indices: np.ndarray) -> dict[str, Rows]:
        (found,) = layer_source(
            subject.network, samples, subject.recipe, layers, len(indices), per_site, fabric=subject.fabric,
            plan=[indices],
        )()  # fmt: skip
        return dict(found)

    return features


def _batch_rows(
    where: str, overrides: Sequence[str], before: bool, split: str, layers: tuple[str, ...]
) -> Callable[[np.ndarray], PointRows]:
    """The same of a segmentation: what gives the rows that are drawn of a batch of scenes."""
    subject = open_subject(where, overrides, before)
    return partial(_rows, subject, subject.samples(split), layers, 0)


def _rows(subject: Subject, samples: Labelled, layers: Sequence[str], workers: int, *plan: np.ndarray) -> PointRows:
    """The rows of a segmentation's layers that are drawn of the scenes of these batches."""
    config, network = subject.config, subject.network
    assert isinstance(config, Config) and not isinstance(network, ImageNetwork)
    task = Segmentation().for_scoring(config, samples)
    return rows_of_points(network, task, samples, subject.recipe, layers, plan, workers, subject.fabric)


@dataclass(frozen=True)
class Measured:
    """Measures by layer, of one split."""

    split: str
    samples: int
    classes: tuple[str, ...]
    layers: dict[str, LayerMeasures]
    closest: dict[str, tuple[str, str, float] | None] = field(default_factory=dict)
    """Of points: the two classes whose centred means have the largest cosine, by layer."""
    problem: str = ""
    """Why there are no intervals."""
    own_means: tuple[str, ...] = ()
    """Of test and validation: the measures against the nearest class mean, where the means are those of its own."""


def measure(
    subject: Subject,
    layers: Sequence[str] = ("blocks",),
    on: Sequence[str] = ("train", "test"),
    ask: Sequence[str] | None = None,
    per_site: bool = False,
    parts: int = 10,
    permutations: int = PERMUTATIONS,
    crew: Crew = ALONE,
) -> list[Measured]:
    """Measure layers (names or patterns) on splits.

    crew: makes the features, batch by batch, and gives the same numbers as this process alone; a process that dies
    costs its batch.

    Nearest-centre decisions on test and validation take the class means of train where that is measured as well; on
    train and novel classes, those of the samples themselves. Features of one row per sample are held in memory, so
    that the network runs once; with `per_site`, measures that need the means first run it again. Then there is no null
    either: the voxels of a cloud are not exchangeable with others.

    Of a segmentation the classes are those of points (`measure_points`): `ask`, `per_site` and `parts` have no meaning
    there.
    """
    names = choose_layers(subject.network, layers)
    if isinstance(subject.config, Config) and TASKS[subject.config.task].of_points:
        if ask or per_site or "novel" in on:
            raise InputError(
                f"{subject.where} is a segmentation, whose measures and rows (drawn voxels) are given, and no class is "
                "novel: leave out --metrics, --per-site and the split novel"
            )
        return _measure_points(subject, names, on, permutations, crew)
    heads = head_of(subject.network) if subject.trained else {}
    found: dict[str, Measured] = {}
    for split in sorted(on, key=lambda split: split != "train"):
        samples = subject.samples(split)
        source = subject.source_of(split, names, per_site, crew)
        own = split not in HELD_OUT or "train" not in found
        centres = None if own else {name: each.means for name, each in found["train"].layers.items()}
        measured = measure_layers(
            source if per_site else kept(source),
            samples.labels,
            len(samples.classes),
            ask,
            heads if split != "novel" and "features" in names else {},
            centres,
            parts,
            permutations=0 if per_site else permutations,
        )
        # Hooks and buffers finish in any order: the table follows the network.
        ordered = {name: measured[name] for name in names}
        given = {key for each in ordered.values() for key in each.values}
        alone = tuple(key for key in SHARES if key in given) if own and split in HELD_OUT else ()
        found[split] = Measured(split, len(samples), tuple(samples.classes), ordered, own_means=alone)
    return [found[split] for split in on]


def _measure_points(
    subject: Subject, names: Sequence[str], on: Sequence[str], permutations: int, crew: Crew
) -> list[Measured]:
    counts, found = count_labels(subject.splits.train), dict[str, Measured]()
    for split in sorted(on, key=lambda split: split != "train"):
        samples = subject.samples(split)
        plan = subject.batches(split)
        if crew.workers:
            make = partial(_batch_rows, subject.where, subject.overrides, subject.before, split, tuple(names))
            rows = joined(list(crew.results(make, plan)))
        else:
            rows = _rows(subject, samples, names, subject.config.training.workers, *plan)
        means = {name: each.means for name, each in found["train"].layers.items()} if "train" in found else None
        layers = measure_points(rows, samples.classes, counts, means, permutations)
        problem = next((each.problem for each in layers.values() if each.problem), "")
        measures = {name: each.measures for name, each in layers.items()}
        closest = {name: each.closest for name, each in layers.items()}
        alone = ("ncc_accuracy",) if means is None and split in HELD_OUT else ()
        found[split] = Measured(split, len(rows.labels), tuple(samples.classes), measures, closest, problem, alone)
    return [found[split] for split in on]


def to_dict(subject: Subject, found: Sequence[Measured]) -> dict[str, Any]:
    """Everything that was measured, for JSON."""
    return {
        "target": subject.where,
        "trained": subject.trained,
        "network": subject.config.network.model_dump(mode="json"),
        "on": {
            each.split: {
                "samples": each.samples,
                "classes": list(each.classes),
                "layers": {name: plain(measures) for name, measures in each.layers.items()},
                **({"closest": each.closest} if each.closest else {}),
            }
            for each in found
        },
    }
