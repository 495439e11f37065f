"""SemanticKITTI: laser scans of a driving car with a label for every point, in the benchmark's own layout.

Behley et al., "SemanticKITTI: A Dataset for Semantic Scene Understanding of LiDAR Sequences", ICCV 2019.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.label_table import IGNORE, LabelTable
from image2point.datasets.listed import entries_of, existing_folder
from image2point.datasets.scenes import SceneFiles
from image2point.datasets.splits import Splits
from image2point.errors import InputError
from image2point.files import looked_for

RAW = {
    IGNORE: (0, 1, 52, 99), "car": (10, 252), "bicycle": (11,), "motorcycle": (15,), "truck": (18, 258),
    "other-vehicle": (20, 13, 16, 256, 257, 259), "person": (30, 254), "bicyclist": (31, 253),
    "motorcyclist": (32, 255), "road": (40, 60), "parking": (44,), "sidewalk": (48,), "other-ground": (49,),
    "building": (50,), "fence": (51,), "vegetation": (70,), "trunk": (71,), "terrain": (72,), "pole": (80,),
    "traffic-sign": (81,),
}  # fmt: skip
"""The single-scan map of the benchmark's semantic-kitti.yaml: what moves counts with what stands. The first id of a
class is the one that its inverse map writes."""

TABLE = LabelTable(
    {number: name for name, ids in RAW.items() for number in ids},
    order=tuple(name for name in RAW if name != IGNORE),
    raw={name: ids[0] for name, ids in RAW.items() if name != IGNORE},
)
SEQUENCES = {"train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"), "test": ("08",)}
SCANS = "velodyne"
LAYOUT = (
    "a folder with sequences/NN/velodyne/SCAN.bin (float32 x, y, z, remission) and sequences/NN/labels/SCAN.label "
    "(uint32, the class in the low 16 bits)"
)


def load_semantickitti(root: Path, options: Options) -> Splits:
    """Scans of the sequences 00 to 07, 09 and 10 to train on, of 08 to test on: the labels of 11 to 21 are not public.

    Of the training sequences those that are there count.

    Raises InputError for another layout, and scans without a file of labels.
    """
    existing_folder(root, "SemanticKITTI", LAYOUT)
    place = root / "sequences" if (root / "sequences").is_dir() else root
    sets = {}
    for split, names in SEQUENCES.items():
        scans = [path for name in names if (place / name).is_dir() for path in _scans(place / name)]
        if not scans:
            raise InputError(f"{place}: no scans of the sequences {', '.join(names)} for {split}: expected {LAYOUT}")
        sets[split] = SceneFiles(f"semantickitti/{split}", TABLE, scans, partial(read_scan, labelled=True))
    return Splits(sets["train"], None, sets["test"])


def _scans(sequence: Path) -> list[Path]:
    if not (sequence / SCANS).is_dir():
        raise InputError(f"{sequence} has no folder {SCANS}: expected {LAYOUT}")
    scans = [path for path in entries_of(sequence / SCANS) if path.suffix == ".bin"]
    missing = [path for path in scans if not label_file(path).is_file()]
    if missing:
        raise InputError(f"{label_file(missing[0])} is missing, and {len(missing) - 1} others: expected {LAYOUT}")
    return scans


def label_file(scan: Path) -> Path:
    """The file with the labels of a scan.

    >>> label_file(Path("sequences/08/velodyne/000010.bin")).as_posix()
    'sequences/08/labels/000010.label'
    """
    return scan.parent.parent / "labels" / f"{scan.stem}.label"


def read_scan(path: Path, labelled: bool = True) -> Cloud:
    """One scan: points around the sensor, remission as `intensity`, and labels where asked for.

    Raises InputError for a file that is not whole points, labels of another number, and ids that the benchmark lacks.
    """
    values = _words(path, "<f4", 4).reshape(-1, 4)
    labels = None
    if labelled:
        raw = _words(label_file(path), "<u4", 1)
        if len(raw) != len(values):
            raise InputError(
                f"{label_file(path)}: expected a label for each of {len(values):,} points, found {len(raw):,}"
            )
        labels = TABLE.encode(raw & 0xFFFF, str(label_file(path)))
    return Cloud(values[:, :3], labels=labels, attributes={"intensity": values[:, 3]})


def prediction_file(scan: Path) -> Path:
    """Where the benchmark wants the labels of a scan, relative to the folder that is sent in.

    >>> prediction_file(Path("data/sequences/11/velodyne/000010.bin")).as_posix()
    'sequences/11/predictions/000010.label'
    >>> prediction_file(Path("000010.bin")).as_posix()
    '000010.label'
    """
    label = f"{scan.stem}.label"
    return (
        Path("sequences", scan.parent.parent.name, "predictions", label) if scan.parent.name == SCANS else Path(label)
    )


def _words(path: Path, kind: str, width: int) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path}: no such file{looked_for(path)}")
    size = path.stat().st_size
    if size % (4 * width) or not size:
        raise InputError(f"{path}: {size:,} bytes are no whole number of points of {4 * width} bytes (truncated?)")
    return np.fromfile(path, kind)


DATASET = Dataset(
    name="semantickitti",
    title="SemanticKITTI, laser scans with a label for every point",
    load=load_semantickitti,
    layout=LAYOUT,
    splits="train: sequences 00 to 07, 09, 10; test: 08, the benchmark's validation",
    classes="19 classes of points by the benchmark's own map; what moves counts with what stands",
    axes="z up, x to the front, zero at the sensor",
    normalisation="none",
    terms="CC BY-NC-SA 4.0, and the terms of KITTI",
    citation="J. Behley, M. Garbade, A. Milioto, J. Quenzel, S. Behnke, C. Stachniss, J. Gall. SemanticKITTI: A "
    "Dataset for Semantic Scene Understanding of LiDAR Sequences. ICCV 2019.",
    counts={"": {"train": 19130, "test": 4071}},
    get="the scans are KITTI's odometry set, the labels the benchmark's own archive",
    centred=True,
)
