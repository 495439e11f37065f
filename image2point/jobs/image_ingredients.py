"""From a pre-training config to what a run is made of: images, recipe, 2D network."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from image2point.config import Images, Pretrain
from image2point.datasets import Splits, cifar10, image_folder
from image2point.datasets.class_split import Labelled
from image2point.datasets.depth_images import DepthImages
from image2point.datasets.images import ImageAugmentation
from image2point.datasets.rendered import RenderedImages
from image2point.datasets.splits import Subset, few_shot, make_splits
from image2point.datasets.synthetic import Difficulty
from image2point.errors import InputError
from image2point.jobs.ingredients import base_part, clouds_root, load_splits, novel_part
from image2point.training.images import ImageRecipe

if TYPE_CHECKING:
    from image2point.networks.image_network import ImageNetwork

RENDERED_TRAIN, RENDERED_TEST = 100, 50


def load_images(images: Images) -> Splits:
    """Train, validation and test images of the base classes."""
    whole = _load(images)
    train, test = (base_part(each, images.class_split) for each in (whole.train, whole.test))
    if whole.validation is not None:
        return Splits(train, base_part(whole.validation, images.class_split), test)
    if not images.validation:
        return Splits(train, None, test)
    splits = make_splits(train, test, None, images.validation, images.seed)
    if splits.validation is None:
        raise InputError(
            f"images.validation = {images.validation} of {len(train)} training images leaves none; raise it or set 0"
        )
    return splits


def load_novel_images(images: Images) -> Labelled:
    """All images of the novel classes, whatever the split."""
    whole = _load(images)
    parts = (whole.train, whole.validation, whole.test)
    return novel_part([part for part in parts if part is not None], images.class_split)


def _load(images: Images) -> Splits:
    if images.name == "rendered":
        counts = {"train": images.train_per_class or RENDERED_TRAIN, "test": images.test_per_class or RENDERED_TEST}
        difficulty = Difficulty(**images.difficulty.model_dump())
        drawn = [_rendered(split, count, images.size, images.seed, difficulty) for split, count in counts.items()]
        return Splits(drawn[0], None, drawn[1])
    train: Labelled
    test: Labelled
    validation = None
    if images.clouds is not None:
        clouds, up = load_splits(images.clouds), images.clouds.up or "z"
        train, test = (DepthImages(part, images.size, up, images.view) for part in (clouds.train, clouds.test))
        if clouds.validation is not None:
            validation = DepthImages(clouds.validation, images.size, up, images.view)
    elif images.name == "cifar10":
        train, test = _cifar10(images.root)
    else:
        train, test = image_folder.load_image_folder(images.root)
    return Splits(
        _at_most(train, images.train_per_class, images.seed),
        validation,
        _at_most(test, images.test_per_class, images.seed),
    )


@lru_cache(maxsize=2)
def _rendered(split: str, count: int, size: int, seed: int, difficulty: Difficulty) -> RenderedImages:
    """Kept, with the images drawn so far: a study trains many networks on the same ones."""
    return RenderedImages(split, count, size, seed, difficulty=difficulty)


_cifar10 = lru_cache(maxsize=1)(cifar10.load_cifar10)


def _at_most(images: Labelled, per_class: int | None, seed: int) -> Labelled:
    if per_class is None:
        return images
    return Subset(images, few_shot(images.labels, per_class, seed, images.classes), images.name)


def images_root(images: Images) -> str | None:
    """The folder that the images are from, or that of the clouds they show; None where they are made."""
    if images.clouds is not None:
        return clouds_root(images.clouds)
    return None if images.name == "rendered" else images.root


def make_image_recipe(config: Pretrain, network: ImageNetwork) -> ImageRecipe:
    """How images become the input of `network`."""
    changes = config.images.augmentation
    return ImageRecipe(
        config.images.size,
        network.mean,
        network.std,
        ImageAugmentation(**changes.model_dump()) if changes else None,
        config.seed,
    )


def make_image_network(config: Pretrain, classes: int, weights: str | None = None) -> ImageNetwork:
    """The 2D network; `weights` in place of the config's."""
    from image2point.networks.image_network import image_network

    chosen = config.network
    made = image_network(
        chosen.arch,
        weights or chosen.weights,
        classes,
        chosen.stride_in,
        chosen.allow_missing,
        chosen.allow_unexpected,
        config.seed,
    )
    return made.double() if config.training.precision == "64" else made
