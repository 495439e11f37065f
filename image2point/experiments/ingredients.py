"""From a config to what a run is made of: data, recipe, network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from image2point import config as configuration
from image2point.datasets import Splits, registry, synthetic
from image2point.datasets.catalogue import Options
from image2point.datasets.features import feature_width
from image2point.datasets.splits import split
from image2point.datasets.transforms import Augmentation
from image2point.errors import InputError
from image2point.training.batches import Recipe, prepare, to_voxels

if TYPE_CHECKING:
    from image2point.lifting import LiftedNetwork


def load_splits(data: configuration.Data) -> Splits:
    """Train, validation and test clouds.

    Validation is the dataset's own where it has one and the config does not say otherwise, else it is cut from train;
    test is never touched.
    """
    whole = _load(data)
    if whole.validation is not None and data.shots is None and data.validation is None:
        return whole
    if data.shots is None and not data.validation_fraction:
        return Splits(whole.train, None, whole.test)
    splits = split(whole.train, whole.test, data.shots, data.validation_fraction, data.shot_seed)
    if splits.validation is None and data.validation:
        raise InputError(
            f"data.validation = {data.validation} of {len(splits.train)} training clouds in "
            f"{len(whole.train.classes)} classes leaves none to validate on; raise it, or set 0 to take the last epoch"
        )
    return splits


def _load(data: configuration.Data) -> Splits:
    if data.name != "synthetic":
        classes = data.classes if data.name.startswith("modelnet") else None
        return registry.load(
            data.name,
            data.root,
            Options(data.variant, classes, data.sample, data.sample_seed, data.normalise),
        )
    shapes = data.synthetic
    difficulty = synthetic.Difficulty(**shapes.difficulty.model_dump())
    names = shapes.classes or tuple(synthetic.SOLIDS)
    train, test = (
        synthetic.SyntheticShapes(split, clouds, shapes.points, shapes.seed, difficulty, names)
        for split, clouds in (("train", shapes.train_per_class), ("test", shapes.test_per_class))
    )
    return Splits(train, None, test)


def make_recipe(config: configuration.Config) -> Recipe:
    """How clouds become voxels in this run."""
    data = config.data
    return Recipe(
        voxel_size=data.voxel_size,
        features=data.features,
        scaling={str(name): factor for name, factor in data.scaling.items()},
        normals=data.normals,
        up=data.up,
        points=data.points,
        substrate=config.network.substrate,
        augmentation=Augmentation(**data.augmentation.model_dump()) if data.augmentation else None,
        seed=config.seed,
    )


def check_features(splits: Splits, recipe: Recipe) -> None:
    """Raise InputError where the clouds lack what the input features need, going by the first of each split."""
    for clouds in (splits.train, splits.validation, splits.test):
        if clouds is not None and len(clouds):
            name = f"{clouds.name} cloud 0"
            to_voxels([prepare(clouds[0], name, recipe)], recipe, [name])


def make_network(config: configuration.Config, classes: int, weights: str | None = None) -> LiftedNetwork:
    """The lifted network; `weights` in place of the config's ("random" where a state dict is loaded afterwards)."""
    from image2point.lifting import lift

    network = config.network
    lifted = lift(
        network.arch,
        weights=weights or network.weights,
        rule=network.rule,
        axis=network.axis,
        substrate=network.substrate,
        stem=network.stem,
        stride_in=network.stride_in,
        downsample=network.downsample,
        in_channels=feature_width(config.data.features),
        num_classes=classes,
        control=network.control,
        depth_padding=network.depth_padding,
        allow_missing=network.allow_missing,
        allow_unexpected=network.allow_unexpected,
        engine=network.engine,
        seed=config.seed,
    )
    return lifted.double() if config.training.precision == "64" else lifted
