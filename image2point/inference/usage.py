"""What one has to know of a network to use it: how raw points become its input, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from image2point.config.crops import Tiles
from image2point.config.explain import explain
from image2point.config.frozen import Positive
from image2point.config.inputs import Input
from image2point.datasets.recipe import Recipe
from image2point.errors import InputError


class Usage(Input):
    """From raw points to a network's input, and from its scores to names.

    >>> use = Usage(voxel_size=0.1, classes=("chair", "table"), features=("xyz", "height"), up="z")
    >>> use.recipe().voxel_size, use.normalise
    (0.1, False)
    """

    voxel_size: Positive
    """Edge of a voxel, in the units of the points."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the scores; empty where nobody gave them any."""
    normalise: bool = False
    """Move and scale each cloud into the unit sphere."""
    near_origin: bool = False
    """Take coordinates relative to the whole part of the smallest ones, as those of files of scenes are."""
    tiles: Tiles = Tiles()
    """How scenes that are labelled point by point go through the network."""

    def recipe(self, substrate: str = "sparse") -> Recipe:
        """How a cloud becomes voxels."""
        return still_recipe(self, substrate)

    def changed(self, changes: Mapping[str, Any]) -> Usage:
        """The same with other fields; InputError as `usage_of` raises it."""
        return usage_of({**self.model_dump(exclude_unset=True), **changes}) if changes else self


def usage_of(values: Mapping[str, Any], where: str = "") -> Usage:
    """A usage from plain values; `where` begins the error.

    Raises InputError on unknown fields and on values that they cannot have, which are named.

    >>> usage_of({"voxel_size": 0.1, "classes": ["chair", "table"]}).classes
    ('chair', 'table')
    """
    given = {
        name: [value] if name == "features" and isinstance(value, str) else value for name, value in values.items()
    }
    if "voxel_size" not in given:
        raise InputError(
            f"{where}a network that is used on points needs voxel_size, the edge of its voxels in the units of the "
            f"points; found only {', '.join(given) or 'nothing'}"
        )
    try:
        return Usage.model_validate(given)
    except ValidationError as error:
        raise InputError(where + "; ".join(explain(each, {}, Usage) for each in error.errors())) from None


def still_recipe(given: Input, substrate: str) -> Recipe:
    """How a cloud becomes voxels, without random changes."""
    return Recipe(
        voxel_size=given.voxel_size,
        features=given.features,
        scaling={str(name): factor for name, factor in given.scaling.items()},
        normals=given.normals,
        up=given.up,
        ground_cell=given.ground_cell,
        intensity=given.intensity,
        points=given.points,
        substrate=substrate,
    )
