"""ShapeNetCore: 55 classes of models, as meshes (v1, v2) and in the forms with sampled points that are passed around.

Chang et al., "ShapeNet: An Information-Rich 3D Model Repository", arXiv 1512.03012.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Options, choose_variant
from image2point.datasets.folder import read_file, subfolders
from image2point.datasets.h5 import Array, flat_labels, keep_rows, read_arrays
from image2point.datasets.listed import (
    LONGEST_LIST,
    FileClouds,
    by_number,
    check_disjoint,
    entries_of,
    existing_folder,
    existing_rows,
    read_json_list,
    read_list,
)
from image2point.datasets.splits import FileRows, Splits, join_files
from image2point.datasets.text import read_text
from image2point.errors import InputError, one_line

SYNSETS = {
    "02691156": "airplane", "02747177": "trash bin", "02773838": "bag", "02801938": "basket", "02808440": "bathtub",
    "02818832": "bed", "02828884": "bench", "02843684": "birdhouse", "02871439": "bookshelf", "02876657": "bottle",
    "02880940": "bowl", "02924116": "bus", "02933112": "cabinet", "02942699": "camera", "02946921": "can",
    "02954340": "cap", "02958343": "car", "02992529": "cellphone", "03001627": "chair", "03046257": "clock",
    "03085013": "keyboard", "03207941": "dishwasher", "03211117": "display", "03261776": "earphone",
    "03325088": "faucet", "03337140": "file cabinet", "03467517": "guitar", "03513137": "helmet", "03593526": "jar",
    "03624134": "knife", "03636649": "lamp", "03642806": "laptop", "03691459": "loudspeaker", "03710193": "mailbox",
    "03759954": "microphone", "03761084": "microwave", "03790512": "motorbike", "03797390": "mug", "03928116": "piano",
    "03938244": "pillow", "03948459": "pistol", "03991062": "flowerpot", "04004475": "printer", "04074963": "remote",
    "04090263": "rifle", "04099429": "rocket", "04225987": "skateboard", "04256520": "sofa", "04330267": "stove",
    "04379243": "table", "04401088": "telephone", "04460130": "tower", "04468005": "train", "04530566": "watercraft",
    "04554684": "washer",
}  # fmt: skip
"""WordNet 3.0 offset → name of the 55 classes, in the order of the offsets, which is the order of the labels."""

OFFICIAL = "http://shapenet.cs.stanford.edu/shapenet/obj-zip/SHREC16/all.csv"

LAYOUTS = {
    "meshes": "folders SYNSET/MODEL/models/model_normalized.obj (v2) or SYNSET/MODEL/model.obj (v1), and all.csv "
    f"({OFFICIAL})",
    "h5": "train0.h5 ..., val0.h5 ..., test0.h5 ... with `data` floating (N, P, 3) and `label` integer (N, 1), and "
    "beside each a train0_id2name.json ..., a list of N class names (shapenetcorev2_hdf5_2048)",
    "npy": "shapenet_pc/SYNSET-MODEL.npy and ShapeNet-55/train.txt and test.txt with such names (ShapeNet55), or "
    "SYNSET/train/MODEL.npy, SYNSET/val/..., SYNSET/test/... (ShapeNetCore.v2.PC15k)",
}
LAYOUT = "; or ".join(LAYOUTS.values())

NAMES = {"train": "train", "validation": "val", "test": "test"}


def load_shapenet(root: Path, options: Options) -> Splits:
    """Train, validation and test clouds; ShapeNet55 has no validation part.

    The form is `options.variant`, or else told by what lies in the folder. Meshes and .npy files are read when they are
    asked for, h5 files at once.

    Raises InputError for a folder of none of the forms, listed files that are missing (v2 itself lacks about 60 of the
    models that are listed), and what the single forms refuse.
    """
    existing_folder(root, "ShapeNetCore", LAYOUT)
    forms: dict[str, Callable[[Path, Options], Splits]] = {"meshes": _meshes, "h5": _h5, "npy": _npy}
    if options.variant is not None:
        return forms[choose_variant(options.variant, tuple(forms), "shapenet")](root, options)
    if list(root.glob("train*.h5")):
        return _h5(root, options)
    if (root / "shapenet_pc").is_dir() or any((root / synset / "train").is_dir() for synset in SYNSETS):
        return _npy(root, options)
    if (root / "all.csv").is_file() or any((root / synset).is_dir() for synset in SYNSETS):
        return _meshes(root, options)
    raise InputError(f"{root} is none of the forms of ShapeNetCore: expected {LAYOUT}")


def _meshes(root: Path, options: Options) -> Splits:
    if not (root / "all.csv").is_file():
        raise InputError(f"{root} lacks all.csv, the official split: get it from {OFFICIAL}")
    found: dict[str, tuple[list[Path], list[int]]] = {split: ([], []) for split in NAMES}
    order = {synset: label for label, synset in enumerate(SYNSETS)}
    for row, (synset, model, split) in enumerate(_csv(root / "all.csv"), start=1):
        if synset not in order or split not in NAMES.values() or not model or set(model) & set("/\\."):
            options.refuse(
                f"{root / 'all.csv'} row {row}: no model of a known synset and split: "
                f"{one_line(f'{synset},{model},{split}')}"
            )
            continue
        home = root / synset / model
        normalised = home / "models" / "model_normalized.obj"
        name = next(key for key, short in NAMES.items() if short == split)
        found[name][0].append(normalised if normalised.is_file() else home / "model.obj")
        found[name][1].append(order[synset])
    return _listed(found, "all.csv", tuple(SYNSETS.values()), options)


def _csv(path: Path) -> list[tuple[str, str, str]]:
    """(synset, model, split) of every row."""
    try:
        rows = csv.DictReader(read_text(path, LONGEST_LIST).splitlines(keepends=True))
        missing = [name for name in ("synsetId", "modelId", "split") if name not in (rows.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path}: expected the columns id,synsetId,subSynsetId,modelId,split; {missing[0]} is missing"
            )
        # Some copies of the list have lost the leading zeros of the synsets to a spreadsheet.
        return [((row["synsetId"] or "").zfill(8), row["modelId"] or "", row["split"] or "") for row in rows]
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None


def _npy(root: Path, options: Options) -> Splits:
    order = {synset: label for label, synset in enumerate(SYNSETS)}
    found: dict[str, tuple[list[Path], list[int]]] = {}
    if (root / "shapenet_pc").is_dir():
        for split in ("train", "test"):
            paths, labels = found[split] = ([], [])
            for row, name in enumerate(read_list(root / "ShapeNet-55", f"{split}.txt", LAYOUTS["npy"])):
                synset = name.partition("-")[0]
                if synset not in order or "/" in name or "\\" in name or not name.endswith(".npy"):
                    options.refuse(
                        f"{root / 'ShapeNet-55' / f'{split}.txt'} row {row}: {name!r} is no SYNSET-MODEL.npy"
                    )
                    continue
                paths.append(root / "shapenet_pc" / name)
                labels.append(order[synset])
        return _listed(found, "ShapeNet-55", tuple(SYNSETS.values()), options)
    synsets = [name for name in subfolders(root) if name in order]
    for split, short in NAMES.items():
        files = [(path, synset) for synset in synsets for path in _npy_files(root / synset / short)]
        found[split] = [path for path, _ in files], [synsets.index(synset) for _, synset in files]
    return _listed(found, str(root), tuple(SYNSETS[synset] for synset in synsets), options)


def _npy_files(folder: Path) -> list[Path]:
    return [path for path in entries_of(folder) if path.suffix == ".npy"] if folder.is_dir() else []


def _listed(
    found: dict[str, tuple[list[Path], list[int]]], listed_in: str, classes: tuple[str, ...], options: Options
) -> Splits:
    """Sets of one file a cloud; every class that the list knows is a class, with clouds or without."""
    check_disjoint(found["train"][0], found["test"][0], listed_in)
    sets = {}
    for split, (paths, labels) in found.items():
        kept = existing_rows(paths, labels, listed_in, options)
        if kept or split != "validation":
            own = np.array([labels[row] for row in kept], dtype=np.int64)
            files = [paths[row] for row in kept]
            sets[split] = FileClouds(f"shapenet/{split}", classes, files, own, partial(read_file, options=options))
    return Splits(sets["train"], sets.get("validation"), sets["test"])


def _h5(root: Path, options: Options) -> Splits:
    names: dict[int, str] = {}
    parts = {split: [_file(path, names, options) for path in sorted(root.glob(f"{short}*.h5"), key=by_number)]
             for split, short in NAMES.items()}  # fmt: skip
    if not parts["test"]:
        raise InputError(f"{root} has no test*.h5: expected {LAYOUTS['h5']}")
    gaps = sorted(set(range(max(names) + 1)) - set(names))
    if gaps:
        raise InputError(f"{root}: no cloud has label {gaps[0]}, though labels go up to {max(names)}")
    classes = tuple(names[label] for label in sorted(names))
    if len(set(classes)) != len(classes):
        raise InputError(f"{root}: two labels have one name in the id2name lists: {', '.join(classes)}")
    sets = {split: join_files(f"shapenet/{split}", classes, files) for split, files in parts.items() if files}
    return Splits(sets["train"], sets.get("validation"), sets["test"])


def _file(path: Path, names: dict[int, str], options: Options) -> FileRows:
    """The clouds of one file; adds the names of its labels to `names`."""
    arrays = read_arrays(path, {"data": Array("f", "(N, P, 3)", (3,), 3), "label": Array("i", "(N, 1)", (1, 2))})
    points, labels = arrays["data"].astype(np.float32, copy=False), flat_labels(arrays["label"], path)
    listed = read_json_list(path.with_name(f"{path.stem}_id2name.json"), "class names")
    if len(listed) != len(labels):
        raise InputError(f"{path.stem}_id2name.json lists {len(listed)} names but {path.name} has {len(labels)} rows")
    good = np.asarray(np.isfinite(points).all(axis=(1, 2)))
    for row, (label, name) in enumerate(zip(labels.tolist(), listed, strict=True)):
        if not 0 <= label < len(SYNSETS) or names.setdefault(label, name) != name:
            known = f", which is {names[label]!r} elsewhere" if label in names else f", expected 0..{len(SYNSETS) - 1}"
            options.refuse(f"{path} row {row}: label {label} with the name {name!r}{known}")
            good[row] = True  # said already; left out below
            labels[row] = -1
    rows = keep_rows(good, lambda row: f"{path} row {row}: NaN or infinite coordinates", options)
    rows = rows[labels[rows] >= 0]
    return FileRows(path, rows, points[rows], labels[rows])


DATASET = Dataset(
    name="shapenet",
    title="ShapeNetCore (meshes, h5 or npy)",
    load=load_shapenet,
    layout=LAYOUT,
    splits="train, val and test of SHREC 2016 (all.csv; the other forms carry them); ShapeNet55 has train and test",
    classes="55 by synset, in the order of the WordNet offsets; in the h5 form in the order of its labels",
    axes="y up, in v2 the front looks along -z (v1 mirrors left and right)",
    normalisation="each cloud is moved and scaled into the unit sphere unless told not to, except in the h5 form, "
    "which is centred and scaled by its authors",
    terms="for non-commercial research and education; accept ShapeNet's terms of use when registering",
    citation="A. X. Chang et al. ShapeNet: An Information-Rich 3D Model Repository. arXiv 1512.03012, 2015.",
    counts={"h5": {"train": 35708, "validation": 5158, "test": 10261}},
    variants=tuple(LAYOUTS),
    get=f"register at https://shapenet.org (or on Hugging Face: ShapeNet/ShapeNetCore); the split is {OFFICIAL}; the "
    "h5 form is linked from https://github.com/antao97/PointCloudDatasets",
)
