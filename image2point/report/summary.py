"""What the report needs of `summary.json`, by part."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    """Fields that the report needs; what else a file holds is kept and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow")


Part = TypeVar("Part", bound=_Part)


class Network(_Part):
    name: str
    weights: str
    rule: str
    axis: str | dict[str, str]
    substrate: str
    stem: str
    head: str = "linear"
    control: str = "none"
    until: str | None = None


class Data(_Part):
    name: str
    classes: tuple[str, ...]
    shots: int | None = None
    voxel_size: float
    train_clouds: int
    validation_clouds: int | None = None
    test_clouds: int


class Teacher(_Part):
    """What labelled training clouds that no shot uses: how many it was shown, how many were taken, and how many of
    these labels are right."""

    network: str
    clouds: int
    taken: int
    right: float | None


class Count(_Part):
    total: int
    trainable: int


class Parameters(Count):
    by_role: dict[str, Count]


class Seconds(_Part):
    training: float
    test: float
    total: float


class Mebibytes(_Part):
    """The most that was in use at once while the run trained."""

    training: float | None = None


class Trial(_Part):
    """A learning rate that a run tried; `order` is what its validation clouds gave, None where the loss diverged."""

    lr: float
    epochs: int
    order: tuple[float, ...] | None


class Summary(_Part):
    """`summary.json`."""

    name: str
    status: str
    arm: str
    network: Network
    policy: str
    seed: int
    data: Data
    parameters: Parameters
    weights: dict[str, Any]
    chosen_epoch: int
    chosen_by: str
    task: str = "classification"
    final: dict[str, Any]
    collapse: dict[str, dict[str, float | None]]
    seconds: Seconds
    seconds_per_step: float | None = None
    mebibytes: Mebibytes = Mebibytes()
    environment: dict[str, Any]
    chosen_lr: float | None = None
    depth: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    lr_clouds: int = 0
    teacher: Teacher | None = None
    trials: tuple[Trial, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def per_class(self) -> dict[str, float | None]:
        """The test score by class, a share in 0..1; None where no test sample has the class."""
        return self.final["per_class"]
