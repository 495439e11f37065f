"""S3DIS: rooms of six areas of three buildings, scanned and labelled, in three layouts that are in use.

Armeni et al., "3D Semantic Parsing of Large-Scale Indoor Spaces", CVPR 2016.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.arrays import npy_array
from image2point.datasets.catalogue import Dataset, Options, choose_variant
from image2point.datasets.cloud import Cloud, near_origin
from image2point.datasets.columns import unit_colours
from image2point.datasets.label_table import IGNORE, LabelTable
from image2point.datasets.listed import by_number, entries_of, existing_folder, is_litter
from image2point.datasets.scenes import SceneFiles
from image2point.datasets.splits import Splits
from image2point.datasets.text import decode_text, parse_table
from image2point.errors import InputError, one_line

logger = logging.getLogger("image2point")

CLASSES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa", "bookcase", "board",
    "clutter",
)  # fmt: skip
"""In the usual order; `stairs`, which hardly any room has, counts as clutter."""

TABLE = LabelTable({**dict(enumerate(CLASSES)), -1: IGNORE}, order=CLASSES)
AREAS = tuple(f"area_{number}" for number in range(1, 7))

LAYOUTS = {
    "raw": "Area_N/ROOM/Annotations/CLASS_K.txt, rows x y z red green blue (Stanford3dDataset_v1.2, aligned or not)",
    "pointcept": "Area_N/ROOM/coord.npy, color.npy, segment.npy and perhaps normal.npy",
    "indoor3d": "Area_N_ROOM.npy, (P, 7): x y z red green blue label (stanford_indoor3d)",
}
LAYOUT = "; or ".join(LAYOUTS.values())


def load_s3dis(root: Path, options: Options) -> Splits:
    """The rooms of one area to test on (`options.variant`, usually area_5), those of the others to train on.

    Six runs, one for each area, are the 6-fold protocol. The layout is told by what lies in the folder.

    Raises InputError for a folder of no known layout, and one without rooms to train or to test on.
    """
    existing_folder(root, "S3DIS", LAYOUT)
    held_out = choose_variant(options.variant, ("area_5", *(area for area in AREAS if area != "area_5")), "s3dis")
    rooms, read = _rooms(root)
    parts = {
        "train": [path for path in rooms if _area(path, root) != held_out],
        "test": [path for path in rooms if _area(path, root) == held_out],
    }
    for split, paths in parts.items():
        if not paths:
            areas = sorted({_area(path, root) for path in rooms})
            raise InputError(f"{root}: no room for {split} with {held_out} held out; found {', '.join(areas)}")
    sets = {split: SceneFiles(f"s3dis/{split}", TABLE, paths, read) for split, paths in parts.items()}
    return Splits(sets["train"], None, sets["test"])


def _area(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0][:6].lower()


def _rooms(root: Path) -> tuple[list[Path], Callable[[Path], Cloud]]:
    """The rooms of all areas, and the function that reads one."""
    single = sorted((path for path in root.glob("Area_[1-6]_*.npy") if not is_litter(path.name)), key=by_number)
    if single:
        return single, read_indoor3d
    areas = [path for path in entries_of(root) if re.fullmatch(r"Area_[1-6]", path.name) and path.is_dir()]
    rooms = [path for area in areas for path in entries_of(area) if path.is_dir()]
    if not rooms:
        raise InputError(f"{root} is none of the layouts of S3DIS: expected {LAYOUT}")
    pointcept = (rooms[0] / "coord.npy").is_file()
    return rooms, read_pointcept if pointcept else partial(read_raw, note=logger.warning)


def read_indoor3d(path: Path) -> Cloud:
    """A room as one array."""
    table = npy_array(path)
    if table.ndim != 2 or table.shape[1] != 7 or table.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected (P, 7), x y z red green blue label, found {table.dtype} {table.shape}")
    labels = TABLE.encode(np.array(table[:, 6]), str(path))
    return _room(np.array(table[:, :3]), np.array(table[:, 3:6]), labels)


def read_pointcept(room: Path) -> Cloud:
    """A room as a folder of arrays."""
    arrays = {}
    for name in ("coord", "color", "segment", "normal"):
        path = room / f"{name}.npy"
        if path.is_file():
            arrays[name] = np.array(npy_array(path))
        elif name != "normal":
            raise InputError(f"{path} is missing: expected {LAYOUTS['pointcept']}")
    labels = TABLE.encode(arrays["segment"], str(room / "segment.npy"))
    if len(labels) != len(arrays["coord"]):
        raise InputError(f"{room}: coord.npy has {len(arrays['coord'])} points, segment.npy {len(labels)} labels")
    return _room(arrays["coord"], arrays["color"], labels, arrays.get("normal"))


def read_raw(room: Path, note: Callable[[str], None] = logger.warning) -> Cloud:
    """A room of the original release, one file for each thing in it, in the order of their names.

    Known damage is mended: control characters within rows, which two rooms of the release have. `note` gets a line
    about it. A class that is not among the 13 counts as clutter.

    Raises InputError for a room without annotations, and rows of other than six numbers.
    """
    folder = room / "Annotations"
    if not folder.is_dir():
        raise InputError(f"{room} has no folder Annotations: expected {LAYOUTS['raw']}")
    # Some archives hold the icons of folders, whose names are `Icon` and a control character.
    names = sorted(path for path in folder.iterdir() if not is_litter(path.name) and path.suffix == ".txt")
    if not names:
        raise InputError(f"{folder} has no files CLASS_K.txt: expected {LAYOUTS['raw']}")
    tables, labels = [], []
    for path in names:
        table = parse_table(mended(path.read_bytes(), path, note), path, columns=(6,))
        name = path.name.split("_")[0].lower()
        tables.append(table)
        labels.append(np.full(len(table), CLASSES.index(name if name in CLASSES else "clutter")))
    whole = np.concatenate(tables)
    return _room(whole[:, :3], whole[:, 3:], np.concatenate(labels))


def mended(content: bytes, path: Path, note: Callable[[str], None]) -> list[str]:
    r"""The rows of a file without control characters: where one stands, it is left out or becomes a blank, whichever
    gives six numbers.

    >>> mended(b"1 2 3 4 5 6\n1 2 3 185\x10187 6\n", Path("ceiling_1.txt"), print)
    ceiling_1.txt: the control characters of row 2 were replaced
    ['1 2 3 4 5 6', '1 2 3 185 187 6']
    >>> mended(b"1 2 3 103.0\x100000 5 6\n", Path("ceiling_1.txt"), print)
    ceiling_1.txt: the control characters of row 1 were replaced
    ['1 2 3 103.00000 5 6']
    """
    if not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", content):
        return decode_text(content, str(path), errors="replace").splitlines()
    rows = content.replace(b"\r\n", b"\n").split(b"\n")
    for number, row in enumerate(rows):
        if re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", row):
            ways = [re.sub(rb"[\x00-\x08\x0b-\x1f\x7f]+", by, row) for by in (b"", b" ")]
            good = [way for way in ways if len(way.split()) == 6]
            if not good:
                found = one_line(row.decode("latin-1"), 60)
                raise InputError(f"{path} row {number + 1}: expected six numbers, found '{found}'")
            rows[number] = good[0]
            note(f"{path}: the control characters of row {number + 1} were replaced")
    return decode_text(b"\n".join(rows), str(path), errors="replace").splitlines()


def _room(points: np.ndarray, colours: np.ndarray, labels: np.ndarray, normals: np.ndarray | None = None) -> Cloud:
    """Colours of 0..255, as all layouts have them, become 0..1."""
    scaled = colours / 255 if colours.dtype.kind == "f" else unit_colours(colours)
    return near_origin(Cloud(points, normals, scaled, labels))


DATASET = Dataset(
    name="s3dis",
    title="S3DIS, rooms with a label for every point",
    load=load_s3dis,
    layout=LAYOUT,
    splits="train: five areas, test: the one that `data.variant` names, usually area_5; 6-fold is six runs",
    classes="13 classes of points, stairs and other names count as clutter",
    axes="z up",
    normalisation="none; each room is moved so that its smallest coordinates lie in 0..1",
    terms="for research, after agreeing to the terms of its authors",
    citation="I. Armeni, O. Sener, A. R. Zamir, H. Jiang, I. Brilakis, M. Fischer, S. Savarese. 3D Semantic Parsing of "
    "Large-Scale Indoor Spaces. CVPR 2016.",
    counts={"area_5": {"train": 204, "test": 68}},
    variants=("area_5", "area_1", "area_2", "area_3", "area_4", "area_6"),
    get="register with its authors, who ask everyone to agree to their terms",
)
