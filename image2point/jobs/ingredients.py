"""From a config to what a run is made of: data, recipe, network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from image2point import config as configuration
from image2point.config.data import Augmentation as AugmentationSettings
from image2point.config.data import ClassSplit
from image2point.datasets import Splits, prepared, registry, synthetic, synthetic_scenes
from image2point.datasets.class_split import Joined, Labelled, OfClasses, split_classes
from image2point.datasets.crops import Crop
from image2point.datasets.features import feature_width
from image2point.datasets.recipe import Recipe, prepare, to_voxels
from image2point.datasets.scene_changes import SceneChanges
from image2point.datasets.splits import make_splits
from image2point.datasets.transforms import Augmentation
from image2point.errors import InputError
from image2point.inference.usage import still_recipe
from image2point.jobs.artefact import again, begins_elsewhere, continued, recorded
from image2point.storage import opened
from image2point.tasks.registry import TASKS
from image2point.tasks.task import Task
from image2point.training.batches import shuffled

if TYPE_CHECKING:
    from image2point.lifting import LiftedNetwork
    from image2point.runs import Run
    from image2point.voxels import DenseVoxels, VoxelTensor


def load_splits(data: configuration.Data) -> Splits:
    """Train, validation and test clouds.

    Validation is the dataset's own where it has one and the config does not say otherwise, else it is cut from train;
    test is never touched.
    """
    whole = _base(_load(data), data.class_split)
    if whole.validation is not None and data.shots is None and data.validation is None:
        return whole
    if data.shots is None and not data.validation_fraction:
        return Splits(whole.train, None, whole.test)
    splits = make_splits(whole.train, whole.test, data.shots, data.validation_fraction, data.shot_seed)
    if splits.validation is None and data.validation:
        raise InputError(
            f"data.validation = {data.validation} of {len(splits.train)} training clouds in "
            f"{len(whole.train.classes)} classes leaves none to validate on; raise it, or set 0 to take the last epoch"
        )
    return splits


def load_novel(data: configuration.Data) -> Labelled:
    """All clouds of the novel classes, of train and test: the run has seen none of them."""
    whole = _load(data)
    parts = (whole.train, whole.validation, whole.test)
    return novel_part([part for part in parts if part is not None], data.class_split)


def _base(whole: Splits, split: ClassSplit) -> Splits:
    validation = None if whole.validation is None else base_part(whole.validation, split)
    return Splits(base_part(whole.train, split), validation, base_part(whole.test, split))


def base_part(whole: Labelled, split: ClassSplit) -> Labelled:
    """The samples of the classes to train on; all of them where no split is asked for."""
    base, _ = split_classes(whole.classes, split.novel, split.base, split.seed)
    return whole if base == whole.classes else OfClasses(whole, base)


def novel_part(parts: Sequence[Labelled], split: ClassSplit) -> Labelled:
    """The samples of the novel classes in all `parts`; InputError where there are none."""
    _, novel = split_classes(parts[0].classes, split.novel, split.base, split.seed)
    if not novel:
        raise InputError("there are no novel classes: set class_split.novel to their names or number")
    return Joined(*(OfClasses(part, novel, f"{part.name}/novel") for part in parts))


def clouds_root(data: configuration.Data) -> str | None:
    """The folder that the clouds are from; None where they are made."""
    return None if data.name in ("synthetic", "synthetic_scenes") else data.root


def set_normalisation(data: configuration.Data) -> bool | None:
    """Whether clouds were asked to be moved and scaled into the unit sphere, in the config or when they were prepared;
    None where neither says."""
    if data.name == "prepared" and data.normalise is None:
        settings = prepared.read_index(opened(data.root, prepared.INDEX).home).get("settings")
        asked = settings.get("normalise") if isinstance(settings, dict) else None
        return asked if isinstance(asked, bool) else None
    return data.normalise


def _load(data: configuration.Data) -> Splits:
    if data.name == "synthetic_scenes":
        made = data.synthetic_scenes
        scenes = [
            synthetic_scenes.SyntheticScenes(split, count, made.rays, made.seed, made.kinds)
            for split, count in (("train", made.train), ("test", made.test))
        ]
        return Splits(scenes[0], None, scenes[1])
    if data.name != "synthetic":
        whole = registry.load_dataset(data.name, data.root, registry.options_of(data))
        if len(whole.train.classes) < 2:
            raise InputError(
                f"{data.root} has the one class {', '.join(whole.train.classes)}; a run needs clouds of two or more"
            )
        return whole
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
    return replace(
        still_recipe(data, config.network.substrate),
        augmentation=Augmentation(**_fields(data.augmentation, Augmentation)) if data.augmentation else None,
        seed=config.seed,
        crop=None if data.crop is None else Crop(data.crop.size, data.crop.voxels),
        scene_changes=_scene_changes(data.augmentation),
        repeats=1 if data.crop is None else data.crop.per_scene,
    )


def _scene_changes(settings: AugmentationSettings | None) -> SceneChanges | None:
    """The changes that only some clouds get; None where there are none, so that no number is drawn for them."""
    if settings is None:
        return None
    wanted = SceneChanges(**_fields(settings, SceneChanges))
    if not wanted.elastic:
        wanted = replace(wanted, elastic_probability=0.0)
    return None if wanted == SceneChanges() else wanted


def _fields(settings: AugmentationSettings, kind: type[Augmentation] | type[SceneChanges]) -> dict[str, Any]:
    """The settings that a specification has, by name."""
    return {each.name: getattr(settings, each.name) for each in fields(kind) if hasattr(settings, each.name)}


def check_features(splits: Splits, recipe: Recipe, task: Task | None = None) -> None:
    """Raise InputError where the clouds lack what the input features need, or the task cannot take them, going by the
    first of each split."""
    for clouds in (splits.train, splits.validation, splits.test):
        if clouds is not None and len(clouds):
            name = f"{clouds.name} cloud 0"
            voxels = to_voxels([prepare(clouds[0], name, recipe)], recipe, [name])
            if task is not None:
                task.check(voxels)


def calibration_batch(config: configuration.Config, train: Labelled) -> VoxelTensor | DenseVoxels | None:
    """Voxels of some training clouds, as many as a batch has, where the config's network is to be scaled by them."""
    if config.network.variance != "occupancy":
        return None
    chosen = shuffled(len(train), config.training.batch_size, config.seed, epoch=0)[:1]
    recipe, names = make_recipe(config).still, [f"{train.name} cloud {i}" for i in chosen[0]]
    clouds = [prepare(train[int(i)], name, recipe, 0) for i, name in zip(chosen[0], names, strict=True)]
    return to_voxels(clouds, recipe, names)


def make_network(
    config: configuration.Config, classes: int, calibration: VoxelTensor | DenseVoxels | None = None
) -> LiftedNetwork:
    """The lifted network with the config's weights; `calibration` as `calibration_batch` gives it.

    Where it is points that have classes, it is a segmenter with the config's decoder. Raises InputError where the last
    layer alone would train behind a stem or a decoder that is fresh, and so would stay random; and as
    `artefact.continued` does where `network.weights` names a lifted network.
    """
    if begins_elsewhere(config.network.weights):
        return _precise(continued(config, classes), config)
    settings = {
        "finetune.policy = head": ("stay random", "finetune.policy=io") if config.finetune.policy == "head" else None,
        "training.head_first": ("be random then", "training.head_first=0") if config.training.head_first else None,
    }
    for setting, words in settings.items():
        if words is None:
            continue
        what, instead = words
        if TASKS[config.task].of_points and config.network.decoder != "hypercolumn":
            raise InputError(
                f"{setting} trains the last layer alone, but network.decoder = {config.network.decoder or 'light'} is "
                f"fresh and would {what}; set network.decoder=hypercolumn, the dense linear probe, or {instead}"
            )
        if config.network.stem in ("paper", "full", "patch"):
            raise InputError(
                f"{setting} trains the last layer alone, but network.stem = {config.network.stem} makes a fresh stem, "
                f"which would {what}; set network.stem=inflate, to lift the 2D stem, or {instead}"
            )
    return _precise(_lift(config, classes, calibration), config)


def blank_network(config: configuration.Config, run: Run) -> LiftedNetwork:
    """The network of a run that is to go on, with random weights, into which a state dict is to be loaded."""
    network = again(recorded(run))
    network._lifting = recorded(run)
    return _precise(network, config)


def _precise(network: LiftedNetwork, config: configuration.Config) -> LiftedNetwork:
    return network.double() if config.training.precision == "64" else network


def lifted_stem(config: configuration.Config) -> bool:
    """Whether `network.stem: auto` means the 2D stem, lifted: where a fresh one would never train."""
    made = config.network.stem == "auto" and not begins_elsewhere(config.network.weights)
    return made and (config.finetune.policy in ("head", "none") or config.training.head_first > 0)


def _lift(config: configuration.Config, classes: int, calibration: VoxelTensor | DenseVoxels | None) -> LiftedNetwork:
    from image2point.decoders import segmenter
    from image2point.lifting import lift

    options: dict[str, Any] = {**config.network.lift_options, **({"stem": "inflate"} if lifted_stem(config) else {})}
    make: Callable[..., LiftedNetwork] = lift
    if TASKS[config.task].of_points:
        make = segmenter
        options |= {"decoder": config.network.decoder or "light", "width": config.network.decoder_width or 1.0}
    return make(
        config.network.arch,
        weights=config.network.weights,
        calibration=calibration,
        in_channels=feature_width(config.data.features),
        num_classes=classes,
        seed=config.seed,
        **options,
    )
