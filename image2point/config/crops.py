"""The fields of a config that scenes have: what of them a step sees, and what happens to it."""

from __future__ import annotations

from image2point.config.frozen import Count, CountOrZero, Positive, Section


class Crop(Section):
    """The part of a training cloud that a step sees, around a random labelled point."""

    size: Positive | None = None
    """Edge of the part in the unit of the points; with `data.up` a column of full height. null for no limit."""
    voxels: Count | None = None
    """At most about so many voxels, the nearest to that point; null for no limit."""
    per_scene: Count = 1
    """Parts of each training cloud in an epoch."""


class Tiles(Section):
    """How scenes are scored that do not fit the memory: by overlapping parts, merged by mean probability."""

    voxels: Count | None = 200_000
    """Voxels that the network sees at once when it is scored: smaller scenes go together, larger ones are cut. null
    runs every batch at once."""
    overlap: CountOrZero = 16
    """How far a part reaches beyond its own voxels, in voxels; the outer half of that is seen and not asked about."""
