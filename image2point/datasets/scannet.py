"""ScanNet v2: reconstructed rooms with a label for every vertex, in the layout of the release.

Dai et al., "ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes", CVPR 2017.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Options
from image2point.datasets.cloud import Cloud, near_origin
from image2point.datasets.columns import cloud_of_columns
from image2point.datasets.label_table import IGNORE, LabelTable
from image2point.datasets.listed import check_disjoint, existing_folder, read_list
from image2point.datasets.ply import ply_columns
from image2point.datasets.scenes import SceneFiles
from image2point.datasets.splits import Splits
from image2point.errors import InputError

NYU40 = {
    1: "wall", 2: "floor", 3: "cabinet", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 8: "door", 9: "window",
    10: "bookshelf", 11: "picture", 12: "counter", 14: "desk", 16: "curtain", 24: "refrigerator",
    28: "shower curtain", 33: "toilet", 34: "sink", 36: "bathtub", 39: "otherfurniture",
}  # fmt: skip
"""The 20 classes of the benchmark by their ids in NYU40."""

TABLE = LabelTable({number: NYU40.get(number, IGNORE) for number in range(41)})
LISTS = {"train": "scannetv2_train.txt", "test": "scannetv2_val.txt"}
MESH, LABELS = "_vh_clean_2.ply", "_vh_clean_2.labels.ply"
LAYOUT = (
    f"a folder with scans/SCENE/SCENE{MESH} and SCENE{LABELS} for each scene of {LISTS['train']} and {LISTS['test']}, "
    "the benchmark's lists, which lie beside scans"
)


def load_scannet(root: Path, options: Options) -> Splits:
    """The scenes of the training list, and to test on those of the benchmark's validation: other labels are not public.

    Raises InputError for another layout, and for scenes that are listed and not there, unless these are collected.
    """
    existing_folder(root, "ScanNet", LAYOUT)
    found: dict[str, list[Path]] = {}
    for split, name in LISTS.items():
        found[split] = []
        for row, scene in enumerate(read_list(root, name, LAYOUT)):
            path = root / "scans" / scene / f"{scene}{MESH}"
            if Path(scene).name != scene or scene in (".", ".."):
                options.refuse(f"{root / name} row {row}: expected the name of a scene, found {scene[:60]!r}")
            elif not path.is_file() or not _labels(path).is_file():
                missing = path if not path.is_file() else _labels(path)
                options.refuse(f"{missing}, listed in {name} row {row}, does not exist")
            elif path in found[split]:
                options.refuse(f"{scene} is listed twice in {name}, again in row {row}")
            else:
                found[split].append(path)
    check_disjoint(found["train"], found["test"], str(root))
    sets = {split: SceneFiles(f"scannet/{split}", TABLE, paths, read_mesh) for split, paths in found.items()}
    return Splits(sets["train"], None, sets["test"])


def _labels(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(MESH) + LABELS)


def read_mesh(path: Path, labelled: bool = True) -> Cloud:
    """The vertices of one reconstruction, with their colours, and where asked for the labels of the file beside it.

    Raises InputError for a file without labels, and one of another number of vertices.
    """
    cloud = cloud_of_columns(ply_columns(path), str(path))
    if not labelled:
        return near_origin(cloud)
    beside = _labels(path)
    columns = ply_columns(beside)
    if "label" not in columns:
        raise InputError(f"{beside}: expected a property `label` of each vertex, found {', '.join(columns) or 'none'}")
    if len(columns["label"]) != len(cloud):
        raise InputError(
            f"{beside}: expected a label for each of {len(cloud):,} vertices, found {len(columns['label']):,}"
        )
    labels = TABLE.encode(columns["label"], str(beside))
    return near_origin(Cloud(cloud.points, cloud.normals, cloud.colours, np.asarray(labels)))


DATASET = Dataset(
    name="scannet",
    title="ScanNet v2, reconstructed rooms with a label for every vertex",
    load=load_scannet,
    layout=LAYOUT,
    splits="train and, as test, the benchmark's validation scenes",
    classes="the 20 classes of the benchmark, by NYU40 id; the other ids are ignored",
    axes="z up",
    normalisation="none; each scene is moved so that its smallest coordinates lie in 0..1",
    terms="ScanNet's terms of use, for research, to be signed",
    citation="A. Dai, A. X. Chang, M. Savva, M. Halber, T. Funkhouser, M. Nießner. ScanNet: Richly-annotated 3D "
    "Reconstructions of Indoor Scenes. CVPR 2017.",
    counts={"": {"train": 1201, "test": 312}},
    get="its authors send a script to whoever signs their terms",
)
