"""How a cloud becomes the input of a network: the fields that a config has of it, and a network that is used."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from image2point.config.frozen import Count, Positive, Section

Feature = Literal[
    "xyz", "occupancy", "normals", "colour", "height", "ground_height", "intensity", "return_share", "number_of_returns"
]


class Input(Section):
    """How a cloud becomes voxels."""

    _at: ClassVar[str] = ""

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

    @model_validator(mode="after")
    def _whole(self) -> Input:
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"{self._at}features = {list(self.features)} names a feature twice")
        for name in ("height", "ground_height"):
            if name in self.features and self.up is None:
                raise ValueError(
                    f"{self._at}features has {name}, which needs the axis that points up; set {self._at}up to x, y or z"
                )
        return self
