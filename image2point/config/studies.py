"""The fields of a study: one question about collapse, answered by runs, measurements, a table and a figure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from image2point.config.frozen import Count, CountOrZero, Positive, Section, Seed, as_text, is_folder_name
from image2point.config.lifting import Ablation

Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Episodes(Section):
    """Few-shot episodes."""

    ways: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (5, 10)
    """Classes of an episode."""
    shots: Annotated[tuple[Count, ...], Field(min_length=1)] = (10, 20)
    """Labelled samples of each class."""
    queries: Count = 20
    """Other samples of each class, to be told apart."""
    episodes: Annotated[int, Field(ge=2)] = 600
    """Episodes of each kind."""
    classifiers: Annotated[tuple[Literal["ncc", "ridge", "logistic"], ...], Field(min_length=1)] = (
        "ncc", "ridge", "logistic",
    )  # fmt: skip
    """Nearest class mean, ridge regression, logistic regression."""
    unit: bool = False
    """Scale features to unit length first."""
    seed: Seed = 0
    """Seed of the draws: the same episodes for everything that is compared."""


class _Study(Section):
    kind: str
    """What is asked."""
    name: Annotated[str, BeforeValidator(as_text)] = "study"
    """Name of the study and of its folder; the file's own name unless given."""

    @model_validator(mode="after")
    def _plain_name(self) -> Any:
        if not is_folder_name(self.name):
            raise ValueError(f"name = {self.name!r} must be a plain folder name")
        return self

    def to_yaml(self) -> str:
        """The resolved study, every field included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class FewShotStudy(_Study):
    """Few-shot accuracy on novel classes before and after fine-tuning on base classes, and what collapse predicts."""

    kind: Literal["few-shot"] = "few-shot"
    transfer: str
    """Config of the fine-tuning, relative to this file; its `data.class_split` says which classes are novel."""
    settings: tuple[str, ...] = ()
    """Settings (key=value) over that config."""
    seeds: Seeds = (1, 2, 3)
    """Seeds of the runs, for weights, order and shots alike."""
    episodes: Episodes = Episodes()


class FollowStudy(_Study):
    """Classes followed across the transfer, layer by layer: images in 2D, clouds after lifting, after fine-tuning."""

    kind: Literal["follow"] = "follow"
    images: str
    """Pre-training config that names the 2D network, its weights and the images, relative to this file."""
    image_settings: tuple[str, ...] = ()
    """Settings over that config."""
    arms: dict[str, str]
    """Label → config of a fine-tuning or directory of a finished run, relative to this file. The first one's network is
    also measured as it was lifted, with the norms' statistics of images and with those of its training clouds."""
    settings: tuple[str, ...] = ()
    """Settings over the configs of all arms."""
    layers: Names = ("blocks",)
    """Layers to follow: names that both networks have, or patterns."""
    splits: Annotated[tuple[Literal["train", "test"], ...], Field(min_length=1)] = ("train", "test")
    """What is measured; the class means of train decide on test."""
    seeds: tuple[Seed, ...] = ()
    """Seeds of the arms, for weights, order and shots alike, and of the shots that images show; with none, those of the
    configs. Finished runs have theirs."""


class PretrainingStudy(_Study):
    """What pre-training does to collapse and few-shot accuracy: one setting varied at a time, novel classes apart."""

    kind: Literal["pretraining"] = "pretraining"
    pretrain: str
    """Pre-training config, relative to this file; its `images.class_split` says which classes are novel."""
    settings: tuple[str, ...] = ()
    """Settings over that config."""
    vary: Annotated[dict[str, tuple[Any, ...]], Field(min_length=1)]
    """Setting → its values, each alone put over that config: {training.lr: [0.01, 0.1]}. Settings that change together
    stand in one name, and each of their values is a list: {"training.lr, training.epochs": [[0.01, 20], [0.1, 5]]}."""
    seeds: Seeds = (1, 2, 3)
    """Seeds of the runs."""
    seeded: tuple[str, ...] = ()
    """Settings of that config that take the seed of the run too: with images.class_split.seed, each seed has other
    classes."""
    episodes: Episodes = Episodes(ways=(5,), shots=(1, 5), classifiers=("ncc", "ridge"))
    samples: Count = 128
    """Test images on which geometric complexity is estimated."""
    probes: Annotated[int, Field(ge=2)] = 16
    """Backward passes of that estimate."""
    transfer: str | None = None
    """Config of a fine-tuning, relative to this file, that begins with each pre-trained network; null for none."""
    transfer_settings: tuple[str, ...] = ()
    """Settings over that config."""
    transfer_seeded: tuple[str, ...] = ()
    """Settings of that config that take the seed of the run too."""

    @model_validator(mode="after")
    def _values_for_all(self) -> PretrainingStudy:
        for names, values in self.vary.items():
            settings = [name.strip() for name in names.split(",")]
            if not all(settings) or len(set(settings)) < len(settings):
                raise ValueError(f"vary: expected different settings with commas between them, found {names!r}")
            count = len(settings)
            for value in values:
                if count > 1 and not (isinstance(value, list | tuple) and len(value) == count):
                    raise ValueError(f"vary: {names} expects lists of {count} values, one for each, found {value!r}")
        return self

    def changes(self, names: str, value: Any) -> dict[str, Any]:
        """What one of the values of `vary` sets, by setting."""
        settings = [name.strip() for name in names.split(",")]
        return dict(zip(settings, value if len(settings) > 1 else [value], strict=True))


class UnconstrainedStudy(_Study):
    """The unconstrained feature model: how close its minima are to the simplex frame, balanced and not."""

    kind: Literal["unconstrained"] = "unconstrained"
    classes: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (4, 10, 40)
    """Numbers of classes."""
    losses: Annotated[tuple[Literal["ce", "mse"], ...], Field(min_length=1)] = ("ce", "mse")
    """Cross-entropy, mean squared error."""
    per_class: Count = 5
    """Samples of each class."""
    ratios: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 5, 20)
    """How many times as many samples the first half of the classes has; 1 is balanced."""
    extra_width: CountOrZero = 4
    """Features beyond the number of classes."""
    decay: Positive = 5e-3
    """Weight decay of features and classifier."""
    seeds: Seeds = (0, 1, 2)
    """Seeds of the starting points."""


class RankStudy(_Study):
    """Do scores without fine-tuning foretell which checkpoint fine-tunes best?"""

    kind: Literal["rank"] = "rank"
    transfer: str
    """Config of the fine-tuning, relative to this file; candidates are scored as it begins."""
    settings: tuple[str, ...] = ()
    """Settings (key=value) over that config, for all candidates."""
    candidates: dict[str, tuple[str, ...]] = Field(default={})
    """Name → the settings that make the candidate, which go over all others: network.arch=..., network.weights=..."""
    controls: tuple[Ablation, ...] = ()
    """Every candidate enters once more with each of these `network.control`."""
    pretrain: str | None = None
    """Pre-training config, relative to this file, of a network that enters partly trained; null for none."""
    pretrain_settings: tuple[str, ...] = ()
    """Settings over that config. With training.schedule=constant, fewer epochs are the beginning of more."""
    pretrain_epochs: tuple[CountOrZero, ...] = ()
    """Epochs after which that network enters, each a candidate."""
    norms: Literal["train", "stored"] = "train"
    """Statistics of the batch norms that follow the batch in training: taken from the training clouds, or as stored."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Of the cross-validation within the training clouds."""
    seeds: Seeds = (1, 2, 3)
    """Seeds of fresh layers, order and shots alike."""


STUDIES: dict[str, type[_Study]] = {
    kind.model_fields["kind"].default: kind
    for kind in (FewShotStudy, FollowStudy, PretrainingStudy, RankStudy, UnconstrainedStudy)
}
