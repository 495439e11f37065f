"""Measure the collapse of any layers of a 2D or a lifted network, before or after it was trained.

What is measured on novel classes are samples that the network has never seen, of classes that it has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image2point import config as configuration
from image2point import runs
from image2point.collapse.labels_at_random import PERMUTATIONS
from image2point.collapse.layers import LayerMeasures, Source, kept, measure_layers
from image2point.config import Config, Pretrain
from image2point.datasets import Splits
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.files import user_path
from image2point.jobs.image_ingredients import (
    load_images,
    load_novel_images,
    make_image_network,
    make_image_recipe,
)
from image2point.jobs.ingredients import calibration_batch, load_novel, load_splits, make_network, make_recipe
from image2point.jobs.reuse import load, load_image_network
from image2point.networks.image_network import ImageNetwork
from image2point.training import distributed
from image2point.training.batches import Preparation
from image2point.training.layer_features import choose_layers, head_of, layer_source, plain

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.lifting import LiftedNetwork

SPLITS = ("train", "validation", "test", "novel")


@dataclass(frozen=True)
class Subject:
    """A network to be measured, and its data.

    Attributes:
        where: what the user named.
        trained: whether it was trained on its data, so that its classifier means something.
    """

    where: str
    config: Config | Pretrain
    network: LiftedNetwork | ImageNetwork
    recipe: Preparation
    fabric: Fabric
    splits: Splits
    trained: bool

    def samples(self, split: str) -> Labelled:
        """One of `SPLITS`; InputError where there is none."""
        config = self.config
        if split not in SPLITS:
            raise InputError(f"expected a split out of {', '.join(SPLITS)}, found {split!r}")
        if split == "novel":
            return load_novel_images(config.images) if isinstance(config, Pretrain) else load_novel(config.data)
        found: Labelled | None = getattr(self.splits, split)
        if found is None:
            raise InputError(f"{self.where} holds out nothing for validation")
        return found

    def source(self, samples: Labelled, layers: Sequence[str], per_site: bool = False) -> Source:
        """Features of the named layers for these samples."""
        training = self.config.training
        return layer_source(
            self.network, samples, self.recipe, layers, training.batch_size, per_site, training.workers, self.fabric
        )


def open_subject(target: str | Path, overrides: Sequence[str] = (), before: bool = False) -> Subject:
    """The network that `target` names: a run, a config file, or a timm architecture on images.

    A run of a transfer or a pre-training is measured with its chosen weights, or `before` training; a config as it
    would begin; an architecture with `network.weights=...` on `images...=...`, as in a pre-training config.
    `overrides`: what differs here, such as data.root=... or training.threads=1.
    """
    path = user_path(target)
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
    if isinstance(config, Config) and config.task != "classification":
        raise InputError(
            f"{target} is of the task {config.task}: layers are measured by one row for each cloud, and its classes "
            "are of points; `transfer` measures the features of points before the classifier (collapse.every)"
        )
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
        else:
            network = make_network(config, len(splits.train.classes), calibration_batch(config, splits.train))
        recipe = make_recipe(config)
    network = fabric.to_device(network).eval().requires_grad_(False)  # type: ignore[assignment]
    return Subject(str(target), config, network, recipe, fabric, splits, after)


@dataclass(frozen=True)
class Measured:
    """Measures by layer, of one split."""

    split: str
    samples: int
    classes: tuple[str, ...]
    layers: dict[str, LayerMeasures]


def measure(
    subject: Subject,
    layers: Sequence[str] = ("blocks",),
    on: Sequence[str] = ("train", "test"),
    ask: Sequence[str] | None = None,
    per_site: bool = False,
    parts: int = 10,
    permutations: int = PERMUTATIONS,
) -> list[Measured]:
    """Measure layers (names or patterns) on splits.

    Nearest-centre decisions on test and validation take the class means of train where that is measured as well; on
    train and novel classes, those of the samples themselves. Features of one row per sample are held in memory, so
    that the network runs once; with `per_site`, measures that need the means first run it again. Then there is no null
    either: the voxels of a cloud are not exchangeable with others.
    """
    names = choose_layers(subject.network, layers)
    heads = head_of(subject.network) if subject.trained else {}
    found: dict[str, Measured] = {}
    for split in sorted(on, key=lambda split: split != "train"):
        samples = subject.samples(split)
        source = subject.source(samples, names, per_site)
        own = split not in ("test", "validation") or "train" not in found
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
        found[split] = Measured(split, len(samples), tuple(samples.classes), ordered)
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
            }
            for each in found
        },
    }
