"""ShapeNetPart with a class for each point, the part that it belongs to, in place of one for each shape."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from image2point.datasets.catalogue import Options
from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import Cloud
from image2point.datasets.shapenet_part import CLASSES as CATEGORIES
from image2point.datasets.shapenet_part import DATASET as SHAPES
from image2point.datasets.shapenet_part import PART_STARTS, load_shapenet_part
from image2point.datasets.splits import Splits, origin
from image2point.errors import InputError

PARTS_OF = tuple(tuple(range(start, end)) for start, end in pairwise(PART_STARTS))
"""The parts of each category, of 50."""

CLASSES = tuple(f"{name} {part - parts[0]}" for name, parts in zip(CATEGORIES, PARTS_OF, strict=True) for part in parts)
"""Parts have no names of their own in the data: `airplane 0` to `table 2`."""


class PartClouds:
    """Shapes whose points have the parts 0..49 as classes; `labels` are the categories of the shapes.

    parts_of: the parts of each category. Scores are by its rule: only parts of the true category can be meant.
    """

    of_points = True
    classes = CLASSES
    parts_of = PARTS_OF

    def __init__(self, shapes: Labelled) -> None:
        self.shapes, self.labels = shapes, shapes.labels
        self.name = shapes.name.replace("shapenet_part/", "shapenet_parts/")

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Cloud:
        cloud: Cloud = self.shapes[index]
        own = self.parts_of[int(self.labels[index])]
        if cloud.labels is None or cloud.labels.min() < own[0] or cloud.labels.max() > own[-1]:
            found = "none" if cloud.labels is None else f"{cloud.labels.min()}..{cloud.labels.max()}"
            name = CATEGORIES[int(self.labels[index])]
            raise InputError(f"{self.origin(index)}: expected the parts {own[0]}..{own[-1]} of {name}, found {found}")
        return cloud

    def origin(self, index: int) -> str:
        return origin(self.shapes, index)


def load_shapenet_parts(root: Path, options: Options) -> Splits:
    """As `load_shapenet_part`, with parts as classes.

    Raises InputError as it does, and when a shape is read that has parts of another category.
    """
    shapes = load_shapenet_part(root, options)
    validation = None if shapes.validation is None else PartClouds(shapes.validation)
    return Splits(PartClouds(shapes.train), validation, PartClouds(shapes.test))


DATASET = replace(
    SHAPES,
    name="shapenet_parts",
    title="ShapeNetPart with a class for each point, for segmentation",
    load=load_shapenet_parts,
    classes="50 parts, `airplane 0` to `table 2`; scores know the category of each shape",
)
