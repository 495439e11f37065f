"""Which settings go with which task."""

from __future__ import annotations

from typing import Any

OF_SEGMENTATION = (
    "data.crop", "data.tiles", "data.augmentation.mix", "training.loss_at", "training.class_weights", "training.lovasz",
    "collapse.voxels_per_class",
)  # fmt: skip
"""Settings that the task classification has no use for."""


def task_problem(config: Any, usual: Any) -> str:
    """What in a config does not go with its task, or with something else there; empty where all does.

    usual: sections with their defaults, by name.
    """
    return _of_classification(config, usual) if config.task == "classification" else _of_segmentation(config)


def _of_classification(config: Any, usual: Any) -> str:
    if config.network.decoder or config.network.decoder_width:
        return (
            "network.decoder and network.decoder_width are for task: segmentation, which scores voxels; a "
            "classification has no decoder, so leave them out"
        )
    for name in OF_SEGMENTATION:
        if _setting(config, name) not in (None, _setting(usual, name)):
            return f"{name} is a setting of the task segmentation; set task=segmentation or leave it out"
    return ""


def _of_segmentation(config: Any) -> str:
    data, training = config.data, config.training
    if data.points is not None:
        return "data.points would leave points without a score in the task segmentation; take data.crop.voxels"
    if data.shots is not None:
        return "data.shots counts clouds of a class, and the scenes of the task segmentation have points of many"
    if data.class_split.novel or data.class_split.base:
        return "data.class_split splits clouds by their class, and the scenes of the task segmentation have many"
    if config.finetune.policy.startswith("scl:"):
        return "finetune.policy = scl: adds a skip to the features of a cloud, which the task segmentation has none of"
    if config.collapse.layers:
        return "collapse.layers measures a row for each cloud, and the classes of the task segmentation are of points"
    if training.collapse_penalty:
        return (
            "training.collapse_penalty needs a class for each cloud, and the task segmentation has one for each point"
        )
    if training.lovasz and training.devices * training.nodes > 1:
        return "training.lovasz is no sum over points, so several processes would not compute what one does; use one"
    return ""


def _setting(sections: Any, name: str) -> Any:
    """The value of a setting by its dotted name; None below what is null."""
    value: Any = sections
    for part in name.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part, None)
    return value
