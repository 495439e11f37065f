"""Settings of a config that change nothing in its run, because what they go with is not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from image2point.config.sections import Config

OWN_DATA = ("synthetic", "synthetic_scenes")
"""Sections of `data` that the dataset of that name reads, and nothing else. (`scenes` is for labelling files, too.)"""
STRENGTHS = {"jitter_probability": "jitter", "elastic_probability": "elastic"}
"""Chances of a random change, by what says how large it is; that of a shift moves other random numbers."""
OTHER = ", though other random numbers are drawn"


def idle_settings(config: Config) -> list[str]:
    """A line for each setting that was changed and does nothing, with the reason. They are no errors: a sweep may vary
    what they go with, and a config may inherit them.

    >>> idle_settings(Config(choose={"clouds": 10}, data={"shots": 5}))
    ['choose.clouds = 10 changes nothing: choose.lr names no rates to choose from']
    """
    changed, idle = _changed(config), _idle(config)
    found = [f"{name} = {_told(changed[name])} changes nothing: {idle[name]}" for name in changed if name in idle]
    epochs = config.training.epochs
    if late := [str(epoch) for epoch in config.collapse.at if epoch > epochs]:
        found.append(f"collapse.at: nothing is measured after epoch {', '.join(late)}, as training.epochs = {epochs}")
    return found


def idle_in_all(configs: Sequence[Config]) -> list[str]:
    """A line for each setting that was changed in some of several configs and does nothing in any of them.

    >>> idle_in_all([Config(choose={"epochs": epochs}) for epochs in (2, 3)])
    ['choose.epochs changes nothing: choose.lr names no rates to choose from']
    """
    changed = dict.fromkeys(name for config in configs for name in _changed(config))
    idle = [_idle(config) for config in configs]
    return [f"{name} changes nothing: {idle[0][name]}" for name in changed if all(name in each for each in idle)]


def _changed(config: Config) -> dict[str, Any]:
    """The settings that are not as they are by default."""
    usual = Config()
    return {name: value for name, value in _settings(config) if value != _setting(usual, name)}


def _idle(config: Config) -> dict[str, str]:
    """Every setting that does nothing here, changed or not, and why."""
    reasons = _reasons(config)
    return {
        name: reason
        for name, _ in _settings(config)
        for names, reason in reasons
        if any(name == each or name.startswith(f"{each}.") for each in names)
    }


def _reasons(config: Config) -> list[tuple[tuple[str, ...], str]]:
    """Settings that do nothing here, and why."""
    policy, data = config.finetune.policy, config.data
    drawn = any(isinstance(each, int) and each for each in (data.class_split.novel, data.class_split.base))
    rules: list[tuple[Any, tuple[str, ...], str]] = [
        (not config.choose.lr, ("choose.epochs", "choose.clouds"), "choose.lr names no rates to choose from"),
        (not config.teacher.network, ("teacher.threshold", "teacher.soft"), "teacher.network names no teacher"),
        (
            not policy.endswith(":auto"),
            ("finetune.candidates", "finetune.probe_epochs"),
            f"finetune.policy = {policy} chooses no block",
        ),
        (policy == "head", ("training.layer_decay",), "finetune.policy = head trains the last layer alone"),
        (
            config.training.schedule == "constant" and not config.training.warmup_epochs,
            ("training.step_per",),
            "the learning rate never moves (training.schedule, training.warmup_epochs)",
        ),
        ("ground_height" not in data.features, ("data.ground_cell",), "data.features has no ground_height"),
        ("intensity" not in data.features, ("data.intensity",), "data.features has no intensity"),
        ("normals" not in data.features, ("data.normals",), "data.features has no normals"),
        (
            data.name in ("synthetic", "synthetic_scenes"),
            ("data.variant", "data.sample", "data.sample_seed"),
            f"data.name = {data.name} reads no files",
        ),
        (not data.name.startswith("modelnet"), ("data.classes",), f"data.name = {data.name} has classes of its own"),
        (not drawn, ("data.class_split.seed",), "data.class_split draws no classes"),
        (
            data.shots is None and not data.validation_fraction,
            ("data.shot_seed",),
            "neither shots nor validation clouds are drawn",
        ),
    ]
    rules += [
        (data.name != section, (f"data.{section}",), f"data.name = {data.name} does not read it")
        for section in OWN_DATA
    ]
    rules += [
        (feature not in data.features, (f"data.scaling.{feature}",), f"data.features has no {feature}")
        for feature in data.scaling
    ]
    if (changes := data.augmentation) is not None:
        rules += [
            (not getattr(changes, strength), (f"data.augmentation.{name}",), f"data.augmentation.{strength} is none")
            for name, strength in STRENGTHS.items()
        ]
        colours = tuple(f"data.augmentation.{name}" for name in type(changes).model_fields if "colour" in name)
        rules.append(("colour" not in data.features, colours, f"data.features has no colour{OTHER}"))
    return [(names, reason) for idle, names, reason in rules if idle]


def _settings(section: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting by its dotted name, those of mappings too."""
    found: list[tuple[str, Any]] = []
    given = {name: getattr(section, name) for name in type(section).model_fields}
    for name, value in given.items():
        if isinstance(value, BaseModel):
            found += _settings(value, f"{prefix}{name}.")
        elif name == "scaling":
            found += [(f"{prefix}{name}.{key}", each) for key, each in value.items()]
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _setting(section: Any, name: str) -> Any:
    """The setting of a dotted name; None where there is none."""
    for part in name.split("."):
        section = section.get(part) if isinstance(section, dict) else getattr(section, part, None)
    return section


def _told(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
