"""The fields of a config about clouds: which, how they become voxels, what is changed and what is made."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from image2point.config.crops import Crop, Tiles
from image2point.config.frozen import Count, CountOrZero, NotNegative, Positive, Probability, Section, Seed
from image2point.config.inputs import Input
from image2point.config.scene_data import Scenes, SyntheticScenes


class Augmentation(Section):
    """Random changes of a training cloud. The defaults are the paper's."""

    scale: tuple[Positive, Positive] = (0.9, 1.1)
    """Range of the factor by which the whole cloud is scaled."""
    scale_probability: Probability = 0.9
    """Chance that a cloud is scaled."""
    shift: NotNegative = 0.2
    """Largest shift along each axis."""
    shift_probability: Probability = 0.9
    """Chance that a cloud is shifted."""
    jitter: NotNegative = 0.0125
    """Size of the noise added to each coordinate."""
    jitter_probability: Probability = 0.7
    """Chance that a cloud is jittered."""
    rotate: Literal["none", "x", "y", "z", "so3"] = "none"
    """Random rotation: none, about one axis, or any."""
    flip: Probability = 0.0
    """Chance of a mirror image along each axis but `data.up`."""
    elastic: tuple[tuple[Positive, NotNegative], ...] = ()
    """Pairs of distance and strength, in the unit of the points: space is bent by smooth noise with that distance
    between its knots and that standard deviation before it is smoothed, one pair after the other."""
    elastic_probability: Probability = 0.95
    """Chance that a cloud is bent, where `elastic` says how."""
    colour_contrast: Probability = 0.0
    """Chance that colours are stretched to the whole of 0..1, by a random share."""
    colour_shift: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest shift of each colour channel."""
    colour_jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Standard deviation of the noise added to each colour value."""
    colour_drop: Probability = 0.0
    """Chance that all colours of a cloud become 0."""
    mix: Probability = 0.0
    """Chance that the points of another training cloud are added (task segmentation)."""


class Difficulty(Section):
    """What may happen to a synthetic shape on its way to a cloud; every amount is drawn per cloud, up to this."""

    proportions: Annotated[float, Field(ge=1, le=10)] = 1.6
    """Each axis is stretched by a factor between 1/proportions and proportions."""
    tilt: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Degrees that "up" leans, on top of a random heading."""
    occlusion: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    """Share of the surface that is missing."""
    density: Annotated[float, Field(ge=0, le=10)] = 1.5
    """Exponent, per unit length, by which sampling gets denser towards some direction."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Standard deviation of noise, in units of the cloud's radius."""
    scale: Annotated[float, Field(ge=0.01, le=1)] = 0.8
    """Smallest radius of a cloud; the largest is 1."""


class Synthetic(Section):
    """How the synthetic shapes are made."""

    train_per_class: Count = 40
    """Training clouds of each class."""
    test_per_class: Count = 20
    """Test clouds of each class."""
    points: Count = 1024
    """Points of each cloud."""
    seed: Seed = 0
    """Seed of the shapes: other seeds give other shapes."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the classes; null for all."""
    difficulty: Difficulty = Difficulty()


class ClassSplit(Section):
    """Classes to train on, and classes that nothing is trained on, for few-shot measurements."""

    novel: Annotated[tuple[str, ...], Field(min_length=1)] | CountOrZero = 0
    """Classes that the run neither trains on nor is tested on: names, or how many to draw."""
    base: Annotated[tuple[str, ...], Field(min_length=2)] | Annotated[int, Field(ge=2)] | None = None
    """Classes to train on: names, or how many to draw of those that are not novel; null takes all of them."""
    seed: Seed = 0
    """Seed of the draw: more base classes of one seed contain the fewer, and the novel ones stay."""


class Clouds(Section):
    """Which clouds."""

    name: Literal[
        "modelnet", "modelnet_off", "modelnet_text", "shapenet", "shapenet_part", "scanobjectnn", "folder", "prepared",
        "synthetic", "s3dis", "scannet", "semantickitti", "shapenet_parts", "scenes", "synthetic_scenes",
    ] = "modelnet"  # fmt: skip
    """The dataset; `image2point data info NAME` says what its folder must look like."""
    root: str = "data/modelnet40_ply_hdf5_2048"
    """Folder of the dataset, or its URL (s3://, gs://, hf://); what is synthetic needs none."""
    variant: str | None = None
    """Which of the dataset's variants, by name; null for its usual one."""
    classes: Literal[40, 10] = 40
    """ModelNet40, or its subset ModelNet10; the other datasets have the classes of their folders."""
    sample: Count | None = None
    """Points sampled from each mesh (null: 2048), or drawn from each longer text file or scan (null: all). Unlike
    `points`, these stay the same in every epoch."""
    sample_seed: Seed = 0
    """Seed of that sampling, together with the name of each file."""
    normalise: bool | None = None
    """Move and scale each cloud into the unit sphere; null as `image2point data info NAME` says."""
    columns: str | None = None
    """What the columns of .xyz and .pts files are, in their order, such as `x y z red green blue` or `x y z nx ny nz`;
    `_` leaves one out. null goes by a first line of names, else takes x, y and z."""
    nan_points: Literal["drop", "refuse"] = "drop"
    """Depth cameras write NaN where they saw nothing: leave such points out, or refuse their file."""
    labels: dict[int, str] | None = None
    """What the labels in files of scenes are called, `{2: ground, 6: building, 1: ignore}`: several may have one name,
    and `ignore` is neither trained on nor scored. Classes are in the order of their smallest label."""
    scenes: Scenes = Scenes()
    """Files of scenes, and the names of their fields."""
    class_split: ClassSplit = ClassSplit()
    """A part of the classes, and novel classes that are kept out of the run."""
    shots: Count | None = None
    """Training clouds per class; null takes all."""
    shot_seed: Seed = 0
    """Seed of the choice of the shots, and of the clouds held out for validation."""
    validation: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Fraction of each class's training clouds held out to choose the epoch; with 0 the last epoch counts. Scenes are
    held out such that every class that training can spare is among them. null means the dataset's own validation split
    where it has one, else 0.1 of a full training set, and 0 with `shots`."""


class Data(Input, Clouds):
    """Which clouds, and how they become voxels."""

    _at: ClassVar[str] = "data."

    augmentation: Augmentation | None = Augmentation()
    """Random changes of training clouds; null for none."""
    crop: Crop | None = None
    """The part of each training cloud that a step sees; null for all of it."""
    tiles: Tiles = Tiles()
    synthetic: Synthetic = Synthetic()
    """Settings of the synthetic shapes."""
    synthetic_scenes: SyntheticScenes = SyntheticScenes()
    """Settings of the synthetic scenes."""

    @property
    def validation_fraction(self) -> float:
        if self.validation is not None:
            return self.validation
        return 0.1 if self.shots is None else 0.0

    @model_validator(mode="after")
    def _possible(self) -> Data:
        if self.scenes.validation and self.validation is not None:
            raise ValueError(
                f"data.scenes.validation names scenes, and data.validation = {self.validation} holds out a share of "
                "those of train: give one of them"
            )
        if self.shots is not None and self.validation:
            held_out = int(self.shots * self.validation + 0.5)
            if not 0 < held_out < self.shots:
                raise ValueError(
                    f"data.validation = {self.validation} holds out {held_out} of data.shots = {self.shots} clouds per "
                    "class; set data.validation=0 (the last epoch counts) or take more shots"
                )
        return self
