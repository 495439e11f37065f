"""The fields of a config: frozen sections, each field with its type, its default and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from image2point.config.choosing import Choose
from image2point.config.crops import Crop, Tiles
from image2point.config.frozen import Section
from image2point.config.lifting import Network
from image2point.config.scene_data import Scenes, SyntheticScenes
from image2point.config.task_settings import task_problem
from image2point.errors import InputError
from image2point.roles import read_policy

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Split = Literal["train", "test"]
Feature = Literal[
    "xyz", "occupancy", "normals", "colour", "height", "ground_height", "intensity", "return_share", "number_of_returns"
]


def is_folder_name(name: str) -> bool:
    """Whether a run can have a folder of that name.

    >>> [is_folder_name(name) for name in ("ten_shots", "..", "a/b", "a" * 300)]
    [True, False, False, False]
    """
    return name not in {"", ".", ".."} and Path(name).name == name and name.isprintable() and len(name) <= 200


def _as_text(value: Any) -> Any:
    """YAML reads 32 as a number where a word is meant."""
    return str(value) if type(value) is int else value


def _policy(value: Any) -> Any:
    try:
        read_policy(value)
    except InputError as error:
        raise ValueError(f"finetune.policy = {value!r}: {error}") from None
    return value


class Finetune(Section):
    """What may move during training."""

    policy: Annotated[str, BeforeValidator(_policy)] = "io+norm"
    """What trains: stem and head (`io`), with the running statistics of the norms (`io+stats`), with the norms
    themselves (`io+norm`), everything (`all`), the last layer only (`head`), or nothing (`none`). `layer:NAME`: stem,
    head and one block (`layer:layer4.2`); `scl:NAME`: the same, with a skip connection from that block to the
    features before the head; `layer:auto`, `scl:auto`: the block whose training collapses these features most.
    Joined to `io`, `io+stats`, `io+norm`, `layer:NAME` or `scl:NAME` by a `+`: `bias`, the biases of the norms;
    `depth`, the numbers by which each 2D kernel fills the depth; `ssf`, a scale and a shift per channel."""
    candidates: tuple[str, ...] = ()
    """Blocks among which `auto` chooses; empty for all."""
    probe_epochs: Count = 1
    """Epochs of training on each candidate before its collapse is compared."""


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


class Data(Section):
    """Which clouds, and how they become voxels."""

    name: Literal[
        "modelnet", "modelnet_off", "modelnet_text", "shapenet", "shapenet_part", "scanobjectnn", "folder", "prepared",
        "synthetic", "s3dis", "scannet", "semantickitti", "shapenet_parts", "scenes", "synthetic_scenes",
    ] = "modelnet"  # fmt: skip
    """The dataset; `image2point data info NAME` says what its folder must look like."""
    root: str = "data/modelnet40_ply_hdf5_2048"
    """Folder of the dataset; what is synthetic needs none."""
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
    """Fraction of each class's training clouds held out to choose the epoch; with 0 the last epoch counts. null means
    the dataset's own validation split where it has one, else 0.1 of a full training set, and 0 with `shots`."""
    points: Count | None = None
    """Points drawn from each cloud; null takes all."""
    voxel_size: Positive = 0.05
    """Edge of a voxel, in the units of the points."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = ("xyz",)
    """What each voxel carries into the network, in this order: the mean over its points of `xyz`, the constant 1
    (`occupancy`), `normals`, `colour` (in 0..1), `height` above the lowest point of the cloud,
    `ground_height` above the lowest point around, and of laser scans `intensity`, `return_share` (number of the
    return / returns of its pulse) and `number_of_returns`."""
    ground_cell: Positive = 5.0
    """Edge of the horizontal cells over whose lowest point `ground_height` is measured, in the units of the points."""
    intensity: Literal["given", "scene"] = "given"
    """Intensities as the files have them, or divided by the 95th percentile of their scene and cut off at 1: scales
    differ from sensor to sensor."""
    scaling: dict[Feature, float] = Field(default={"xyz": 1.0})
    """Factor on each of the features; 1 where not named."""
    normals: Literal["given", "estimated"] = "given"
    """Normals as the clouds bring them, or estimated from the points alone, whatever the clouds bring."""
    up: Literal["x", "y", "z"] | None = None
    """The axis that points up in this dataset, along which heights are measured; z in the synthetic shapes, y in the
    usual modelnet40_ply_hdf5_2048."""
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
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"data.features = {list(self.features)} names a feature twice")
        for name in ("height", "ground_height"):
            if name in self.features and self.up is None:
                raise ValueError(
                    f"data.features has {name}, which needs the axis that points up; set data.up to x, y or z"
                )
        if self.shots is not None and self.validation:
            held_out = int(self.shots * self.validation + 0.5)
            if not 0 < held_out < self.shots:
                raise ValueError(
                    f"data.validation = {self.validation} holds out {held_out} of data.shots = {self.shots} clouds per "
                    "class; set data.validation=0 (the last epoch counts) or take more shots"
                )
        return self


class Training(Section):
    """The optimisation."""

    epochs: CountOrZero = 100
    """Passes over the training set; 0 only measures."""
    batch_size: Count = 32
    """Clouds per step, over all processes together."""
    batch_voxels: Count | None = None
    """Voxels per step, in place of a number of clouds: batches are cut so that they are nearly equal and have at least
    so many on average, by the voxels of the clouds without augmentation. Scoring goes by `batch_size`."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimizer."""
    lr: Positive = 0.1
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; beta 1 of AdamW."""
    nesterov: bool = False
    """Nesterov's form of the momentum (SGD)."""
    weight_decay: NotNegative = 1e-4
    """Weight decay of every trainable parameter."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    step_per: Literal["epoch", "iteration"] = "iteration"
    """How often the learning rate moves; the whole schedule is counted in this unit."""
    warmup_epochs: NotNegative = 0.0
    """Epochs over which the learning rate climbs linearly to its peak."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target spread evenly over the classes."""
    loss_at: Literal["voxels", "points"] = "voxels"
    """Segmentation: the loss is over voxels, each with the class that most of its points have (the first of the classes
    where several are equal), or over points, each with the scores of its voxel."""
    class_weights: Literal["none", "inverse_sqrt", "effective_number"] = "none"
    """Segmentation: weights of the classes in the loss, from the points of the training split: 1 / square root of their
    number, or (1 - b) / (1 - b^n) with 1 / (1 - b) the median number (Cui et al. 2019). Their mean over points is 1."""
    lovasz: NotNegative = 0.0
    """Segmentation: weight of the Lovász-softmax loss (Berman et al. 2018), added to the cross-entropy."""
    gradient_clip: Positive | None = None
    """Largest norm of the whole gradient; null leaves it."""
    precision: Annotated[Literal["32", "16-mixed", "bf16-mixed", "64"], BeforeValidator(_as_text)] = "32"
    """Arithmetic of the network."""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; `auto` takes a GPU where there is one."""
    devices: Count = 1
    """Processes on this machine, one per GPU."""
    nodes: Count = 1
    """Machines."""
    workers: CountOrZero = 0
    """Processes that prepare batches, per training process; the result is the same for any number."""
    threads: CountOrZero = 0
    """CPU threads per process; 0 leaves torch's choice. Results are bit-identical at a fixed number only."""
    recalibrate: CountOrZero = 512
    """Training clouds from which the running statistics of the norms that follow the batch are taken again, without
    labels or augmentation, before anything is scored or measured; 0 leaves what training left. It costs a forward
    pass over so many clouds each time."""
    checkpoint_every_minutes: NotNegative = 10.0
    """Time between checkpoints; 0 writes one after every step."""

    @model_validator(mode="after")
    def _possible(self) -> Training:
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"training.warmup_epochs = {self.warmup_epochs:g} must be less than training.epochs = {self.epochs}; "
                "for so few epochs give training.warmup_epochs=0 too"
            )
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError("training.nesterov = true needs training.optimizer = sgd with a momentum above 0")
        return self


class Collapse(Section):
    """When the collapse of class features is measured, on which splits."""

    every: CountOrZero = 5
    """Measure before training and after every this many epochs; 0 only at the end."""
    at: tuple[CountOrZero, ...] = ()
    """Further epochs at which to measure."""
    layers: tuple[str, ...] = ()
    """Layers whose collapse is measured as well, to `layers.csv`: names, patterns such as `layer1.*`, or `blocks`."""
    splits: tuple[Split, ...] = ("train", "test")
    """What is measured during training. Test features are only measured, never used to choose."""
    final: tuple[Split, ...] = ("train", "test")
    """What is measured at the end, with the chosen weights."""
    voxels_per_class: Count = 64
    """Segmentation: the voxels of each class and scene of which it is measured, drawn at random."""

    @model_validator(mode="after")
    def _possible(self) -> Collapse:
        for name in ("splits", "final"):
            if getattr(self, name) == ("test",):
                raise ValueError(f"collapse.{name} = [test] lacks train, whose class centres the measures of test need")
        return self


class Report(Section):
    """What the run keeps for its report."""

    examples: CountOrZero = 12
    """Test clouds stored with their predictions."""
    html: bool = True
    """Write report.html at the end."""


class Config(Section):
    """One run of `image2point transfer`."""

    command: ClassVar[str] = "transfer"

    name: Annotated[str, BeforeValidator(_as_text)] = "run"
    """Name of the run and of its directory; the config file's own name unless given."""
    arm: Annotated[str, BeforeValidator(_as_text)] = ""
    """Label in tables and plots; the name unless given."""
    task: Literal["classification", "segmentation"] = "classification"
    """What is asked of the network: one class per cloud, or one per point."""
    seed: Seed = 777
    """Seed of fresh weights, the order of the data and augmentation."""
    network: Network = Network()
    finetune: Finetune = Finetune()
    data: Data = Data()
    training: Training = Training()
    choose: Choose = Choose()
    collapse: Collapse = Collapse()
    report: Report = Report()

    @property
    def label(self) -> str:
        return self.arm or self.name

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if not is_folder_name(self.name):
            raise ValueError(f"name = {self.name!r} must be a plain folder name")
        if self.finetune.policy == "none" and self.training.epochs:
            raise ValueError(
                f"finetune.policy = none trains nothing but training.epochs = {self.training.epochs}; "
                "set training.epochs=0 or another policy"
            )
        usual = {"data": Data(), "training": Training(), "collapse": Collapse()}
        if problem := task_problem(self, usual):
            raise ValueError(problem)
        if self.choose.lr and self.choose.epochs[-1] > self.training.epochs:
            raise ValueError(
                f"choose.epochs = {list(self.choose.epochs)}: a trial should not be longer than the run, which has "
                f"training.epochs = {self.training.epochs}"
            )
        if self.choose.clouds and self.data.shots is None:
            raise ValueError(
                f"choose.clouds = {self.choose.clouds} takes clouds that data.shots leaves over, and there are no "
                "shots; leave it out and set data.validation"
            )
        return self

    def to_yaml(self) -> str:
        """The resolved config, every field included; `load_config` reads it back unchanged."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
