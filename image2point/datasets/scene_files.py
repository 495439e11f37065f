"""One labelled scene from one file, whatever its format: coordinates, labels and attributes by their names in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from image2point.datasets.arrays import npy_array, npz_arrays
from image2point.datasets.cloud import Cloud, near_origin
from image2point.datasets.columns import COORDINATES, cloud_of_columns, parse_columns
from image2point.datasets.files import NanPoints, drop_unseen
from image2point.datasets.label_table import LabelTable
from image2point.datasets.las import COLOURS, read_las
from image2point.datasets.pcd import pcd_columns
from image2point.datasets.ply import ply_columns
from image2point.datasets.rows import PTS, text_columns
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError, one_line
from image2point.files import looked_for

logger = logging.getLogger("image2point")

SUFFIXES = (".las", ".laz", ".ply", ".pcd", ".npz", ".npy", ".txt", ".xyz", ".pts")

LABELS = ("label", "labels", "classification", "class", "segment", "semantic", "scalar_classification", "scalar_label")
"""Names of labels, the first that a file has, where no name is given."""

ATTRIBUTES = ("intensity", "return_number", "number_of_returns")
"""Attributes that are taken where a file has them."""

TRIPLES = {
    **dict.fromkeys(("points", "coord", "xyz"), COORDINATES),
    **dict.fromkeys(("normals", "normal"), ("nx", "ny", "nz")),
    **dict.fromkeys(("colours", "colors", "colour", "color", "rgb"), ("red", "green", "blue")),
}
"""Arrays [P, 3], and what their columns are."""


@dataclass(frozen=True)
class SceneFields:
    """What is called how in files of scenes, and which files are in which split.

    train, validation, test: names of files under the root, or patterns such as `area_[1-4]_*`; empty: by folders.
    points: an array [P, 3] of coordinates, where they are not x, y and z or one of `TRIPLES`. unit: their unit, in
    the unit wanted: 0.01 for centimetres in a file and metres in the config.
    label: the field with the label of each point, where it has none of the names in `LABELS`.
    attributes: attribute → field, beside those of `ATTRIBUTES` that a file has.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    points: str | None = None
    unit: float = 1.0
    label: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def named(self) -> tuple[str, ...]:
        """The fields that are asked for by name, in lower case."""
        names = (self.points, self.label, *self.attributes.values())
        return tuple(name.lower() for name in names if name is not None)


def read_scene(
    path: Path,
    table: LabelTable | None,
    fields: SceneFields = SceneFields(),
    columns: str | None = None,
    nan_points: NanPoints = "drop",
    note: Callable[[str], None] = logger.warning,
    lenient: bool = False,
) -> Cloud:
    """The points of a file in its order, near their `origin`, with labels, attributes, colours and normals.

    table: says what the labels mean; None: the file may have none, and the cloud gets none.
    columns, nan_points, note: as in `files.read_cloud`; columns of .npy arrays [P, C] too.
    lenient: take the usual names where the file does not have those of `fields`.
    `return_share` is added where a file has the number of each return and of all returns of its pulse.

    Raises InputError with the path for a file that cannot be read, fields that it lacks, labels of another length than
    the points, and labels that the table does not name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.txt"
    ...     _ = path.write_text("x y z label\\n869400.25 6524300.5 200 2\\n869401.25 6524301.5 201 6\\n")
    ...     cloud = read_scene(path, LabelTable({2: "ground", 6: "building"}))
    >>> cloud.points.tolist(), cloud.labels, cloud.origin.tolist()
    ([[0.25, 0.5, 0.0], [1.25, 1.5, 1.0]], array([0, 1]), [869400.0, 6524300.0, 200.0])
    """
    where = str(path)
    found, fields = _read(path, fields, columns, note, lenient)
    cloud = cloud_of_columns(found, where)
    attributes = scene_attributes(found, fields, where, lenient)
    labels = None
    if table is not None:
        raw = np.asarray(_field(found, label_field(found, fields, where), where))
        if len(raw) != len(cloud):
            raise InputError(f"{where}: expected a label for each of {len(cloud):,} points, found {len(raw):,} labels")
        labels = table.encode(raw, where)
    points = cloud.points if fields.unit == 1 else cloud.points * fields.unit
    whole = replace(cloud, points=points, labels=labels, attributes=attributes)
    return check_cloud(near_origin(drop_unseen(whole, path, nan_points, note)), where)


def scene_attributes(
    found: Mapping[str, np.ndarray], fields: SceneFields, where: str, lenient: bool = True
) -> dict[str, np.ndarray]:
    """The attributes of a scene among its columns, with `return_share`; lenient: as in `read_scene`."""
    attributes = {name: _field(found, name, where) for name in ATTRIBUTES if name in found}
    known = {name: other for name, other in fields.attributes.items() if not lenient or other.lower() in found}
    return with_return_share(attributes | {name: _field(found, other, where) for name, other in known.items()})


def own_coordinates(fields: SceneFields) -> SceneFields:
    """The same for a file whose coordinates have a name of their own.

    Where `points` names an array, `unit` is that array's: such a file has its coordinates in the unit of the config.
    Without a name it is the unit of all files.

    >>> own_coordinates(SceneFields(points="xyz_cm", unit=0.01)) == SceneFields()
    True
    >>> own_coordinates(SceneFields(unit=0.3048)).unit
    0.3048
    """
    return fields if fields.points is None else replace(fields, points=None, unit=1.0)


def _read(
    path: Path, fields: SceneFields, columns: str | None, note: Callable[[str], None], lenient: bool
) -> tuple[dict[str, np.ndarray], SceneFields]:
    """The columns of a file, and the fields by which they were found."""
    try:
        return read_columns(path, fields, columns, note), fields
    except InputError:
        if not lenient or fields.points is None:
            raise
        usual = own_coordinates(fields)
        return read_columns(path, usual, columns, note), usual


def read_columns(
    path: Path, fields: SceneFields = SceneFields(), columns: str | None = None, note: Callable[[str], None] = print
) -> dict[str, np.ndarray]:
    """Every field of a file [P] by its name in lower case; arrays [P, 3] as in `TRIPLES` become three.

    Raises InputError with the path for a file that cannot be read, and another suffix.
    """
    suffix = path.suffix.lower()
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'this is a folder' if path.is_dir() else f'no such file{looked_for(path)}'}")
        if suffix in (".las", ".laz"):
            found = read_las(path, {*LABELS, *ATTRIBUTES, *COLOURS, *fields.named})
        elif suffix == ".ply":
            found = ply_columns(path)
        elif suffix == ".pcd":
            found = pcd_columns(path)
        elif suffix == ".npz":
            found = npz_arrays(path, lambda names: {name: name for name in names})[0]
        elif suffix == ".npy":
            found = _array_columns(npy_array(path), path, columns)
        elif suffix in SUFFIXES:
            found = text_columns(path, columns, PTS if suffix == ".pts" else {}, note, any_name=True)
        else:
            raise InputError(f"{path}: unsupported suffix {path.suffix!r}; scenes are {' '.join(SUFFIXES)}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {one_line(error.strerror or error)}") from None
    return _in_columns(found, fields, str(path))


def label_field(found: Mapping[str, np.ndarray], fields: SceneFields, where: str) -> str:
    """The name of the field with the labels; InputError where there is none.

    >>> label_field({"x": np.zeros(1), "segment": np.zeros(1)}, SceneFields(), "a.npz")
    'segment'
    """
    name = fields.label or next((name for name in LABELS if name in found), None)
    if name is None:
        raise InputError(f"{where}: no field holds labels; say which in data.scenes.label: {_listed(found)}")
    return name


def with_return_share(attributes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`attributes` with `return_share`, the number of a return / the returns of its pulse, where both are known.

    >>> with_return_share({"return_number": np.array([1, 2]), "number_of_returns": np.array([1, 4])})["return_share"]
    array([1. , 0.5])
    """
    known = dict(attributes)
    if {"return_number", "number_of_returns"} <= set(known) and "return_share" not in known:
        share = np.asarray(known["return_number"], float) / np.maximum(np.asarray(known["number_of_returns"], float), 1)
        known["return_share"] = np.clip(share, 0, 1)
    return known


def _in_columns(found: Mapping[str, np.ndarray], fields: SceneFields, where: str) -> dict[str, np.ndarray]:
    triples = dict(TRIPLES)
    if fields.points is not None:
        _field(found, fields.points, where)
        triples = {name: axes for name, axes in TRIPLES.items() if axes != COORDINATES}
        triples[fields.points.lower()] = COORDINATES
    columns: dict[str, np.ndarray] = {}
    for name, values in found.items():
        axes = triples.get(name.lower())
        if axes is not None and values.ndim == 2 and values.shape[1] == 3:
            columns |= {axis: values[:, at] for at, axis in enumerate(axes)}
        elif axes == COORDINATES:
            raise InputError(f"{where}: expected `{one_line(name)}` (P, 3), found {values.shape}")
        else:
            columns.setdefault(name.lower(), values)
    return columns


def _array_columns(array: np.ndarray, path: Path, columns: str | None) -> dict[str, np.ndarray]:
    """The columns of an array [P, C], named by `columns`, or the fields of records [P]."""
    if array.dtype.names is not None and array.ndim == 1:
        return {name: np.array(array[name]) for name in array.dtype.names}
    names = parse_columns(columns, any_name=True) if columns else COORDINATES
    if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] != len(names):
        raise InputError(
            f"{path}: expected an array (P, {len(names)}) with the columns {' '.join(names)}, found {array.dtype} "
            f"{array.shape}; say what its columns are in data.columns"
        )
    return {name: np.array(array[:, at]) for at, name in enumerate(names) if name != "_"}


def _field(found: Mapping[str, np.ndarray], name: str, where: str) -> np.ndarray:
    known = {key.lower(): values for key, values in found.items()}
    if name.lower() not in known:
        raise InputError(f"{where}: there is no field {name!r}; there are {_listed(found)}")
    return known[name.lower()]


def _listed(found: Mapping[str, np.ndarray]) -> str:
    return one_line(", ".join(found) or "none")
