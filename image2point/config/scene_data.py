"""The fields of a config about scenes: which files, what is called how in them, and how synthetic ones are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from image2point.config.frozen import Count, Positive, Section, Seed


class Scenes(Section):
    """Which files of a folder are the scenes of each split, and what is called how in them."""

    train: tuple[str, ...] = ()
    """Names of files under `data.root`, or patterns (`area_[1-4]_*`, `north/**/*.laz`); empty for the folder train."""
    validation: tuple[str, ...] = ()
    """The same for validation."""
    test: tuple[str, ...] = ()
    """The same for test."""
    points: str | None = None
    """The array (P, 3) of coordinates; null for x, y and z, or `points`, `coord`, `xyz`."""
    unit: Positive = 1.0
    """Unit of the coordinates in the files, in the unit of the config: 0.01 for centimetres, to work in metres."""
    label: str | None = None
    """The field or array with a label for each point; null for `label`, `classification`, `segment` and the like."""
    attributes: dict[str, str] = Field(default={})
    """Attributes and the fields that hold them, such as `{intensity: scalar_Intensity}`; `intensity`, `return_number`
    and `number_of_returns` are found by themselves, and give `return_share`."""


class SyntheticScenes(Section):
    """How the synthetic scenes are made."""

    train: Count = 40
    """Scenes to train on."""
    test: Count = 20
    """Scenes to test on."""
    rays: Count = 20_000
    """Rays that the scanner sends; most of them give a point."""
    seed: Seed = 0
    """Seed of the scenes: other seeds give other scenes."""
    kinds: Annotated[tuple[Literal["room", "street"], ...], Field(min_length=1)] = ("room", "street")
    """Rooms, streets, or both in turn."""
