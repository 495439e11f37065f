"""Every dataset by the name that configs and `image2point data` use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from image2point.config.data import Data
from image2point.datasets import (
    folder,
    modelnet,
    modelnet_off,
    modelnet_text,
    prepared,
    s3dis,
    scannet,
    scanobjectnn,
    scenes,
    semantickitti,
    shapenet,
    shapenet_part,
    shapenet_parts,
)
from image2point.datasets.catalogue import Dataset, Options
from image2point.datasets.label_table import LabelTable
from image2point.datasets.scene_files import SceneFields
from image2point.datasets.splits import Splits
from image2point.errors import InputError

DATASETS: dict[str, Dataset] = {
    module.DATASET.name: module.DATASET
    for module in (
        modelnet,
        modelnet_off,
        modelnet_text,
        shapenet,
        shapenet_part,
        scanobjectnn,
        folder,
        s3dis,
        scannet,
        semantickitti,
        shapenet_parts,
        scenes,
        prepared,
    )
}


def find_dataset(name: str) -> Dataset:
    """The entry of a dataset; InputError for a name that is none.

    >>> find_dataset("scanobjectnn").classes
    "15, in the order of the files' labels"
    """
    if name not in DATASETS:
        raise InputError(f"there is no dataset {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name]


def is_centred(name: str) -> bool:
    """Whether the coordinates of a dataset are those around a sensor (`Dataset.centred`); False for one that is made.

    >>> is_centred("semantickitti"), is_centred("synthetic_scenes")
    (True, False)
    """
    return name in DATASETS and DATASETS[name].centred


def options_of(data: Data) -> Options:
    """How a config says that its dataset is read.

    >>> options_of(Data(name="scenes", labels={2: "ground"})).labels
    {2: 'ground'}
    """
    return Options(
        variant=data.variant,
        classes=data.classes if data.name.startswith("modelnet") else None,
        points=data.sample,
        seed=data.sample_seed,
        normalise=data.normalise,
        columns=data.columns,
        nan_points=data.nan_points,
        labels=data.labels,
        scenes=SceneFields(**data.scenes.model_dump()),
    )


TABLES: dict[str, LabelTable] = {"s3dis": s3dis.TABLE, "semantickitti": semantickitti.TABLE, "scannet": scannet.TABLE}
"""What the raw labels of points are called, where the dataset itself says it."""


def raw_ids(data: Data, classes: Sequence[str]) -> dict[str, int]:
    """The raw id of each class of points, by name: of `data.labels`, of the dataset's own table, else its number.

    >>> raw_ids(Data(name="scenes", labels={2: "ground", 6: "building", 1: "ignore"}), ("building", "ground"))
    {'building': 6, 'ground': 2}
    """
    table = LabelTable(data.labels) if data.labels else TABLES.get(data.name)
    known = {} if table is None else dict(zip(table.classes, table.raw_ids.tolist(), strict=True))
    return {
        name: known.get(name, number) if known.keys() >= set(classes) else number for number, name in enumerate(classes)
    }


def load_dataset(name: str, root: str | Path, options: Options | None = None) -> Splits:
    """The splits of a dataset that lies in `root`; validation is None unless the dataset has its own.

    Raises InputError as `Dataset.read` does.
    """
    return find_dataset(name).read(root, options or Options())
